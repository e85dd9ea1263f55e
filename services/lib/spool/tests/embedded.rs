//! The embedded store, on a real disk, against the suite that every store must pass.
#![allow(clippy::unwrap_used, reason = "a stage that can't be set up fails the test")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mail::Timestamp;
use spool::conformance::{Setup, Stage};
use spool::embedded::{Embedded, Folders, Settings};
use tempfile::TempDir;

/// A kill leaves what the kernel was told: the directory as it is goes to the next life, under whose feet the last one's
/// threads and leases can do nothing.
struct Directories {
    root: TempDir,
    lives: u32,
    clock: Arc<AtomicU64>,
}

impl Directories {
    fn new() -> Self {
        let clock = Arc::new(AtomicU64::new(1_795_579_643_042));
        Self { root: TempDir::new().unwrap(), lives: 0, clock }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join(self.lives.to_string())
    }
}

impl Stage for Directories {
    type Spool = Embedded;

    async fn open(&mut self, setup: Setup) -> Embedded {
        let settings = Settings {
            segment_octets: 1 << 20,
            octets_max: setup.octets_max,
            reserve_octets: 2 << 20,
            dead_octets_max: 4 << 20,
            cache_octets: 1 << 20,
            lanes: setup.lanes,
            ..Settings::default()
        };
        let clock = Arc::clone(&self.clock);
        let now = move || Timestamp(clock.load(Ordering::SeqCst));
        Embedded::open(&Folders::within(&self.directory()), settings, now).unwrap()
    }

    async fn kill(&mut self, spool: Embedded) {
        let last = self.directory();
        self.lives += 1;
        let next = self.directory();
        for folder in ["spool", "events"] {
            let (last, next) = (last.join(folder), next.join(folder));
            std::fs::create_dir_all(&next).unwrap();
            for entry in std::fs::read_dir(last).unwrap() {
                let entry = entry.unwrap();
                // The writer may remove a segment meanwhile.
                let _ = std::fs::copy(entry.path(), next.join(entry.file_name()));
            }
        }
        drop(spool);
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.clock.load(Ordering::SeqCst))
    }

    async fn advance(&mut self, millis: u64) {
        self.clock.fetch_add(millis, Ordering::SeqCst);
    }

    fn lease_secs(&self) -> u64 {
        Settings::default().lease_secs
    }
}

spool::conformance_tests!(Directories::new());
