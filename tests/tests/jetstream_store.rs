//! The store of many hosts keeps what every store must, on a real nats-server that is killed whenever its users are.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mail::Timestamp;
use spool::conformance::{Setup, Stage};
use spool::jetstream::{Connection, Durability, JetStream, Settings};
use spool::{EntryState, Query, Selection, Spool as _, StateName};
use tempfile::TempDir;
use tests::nats::Nats;

/// Short, so that a test can wait until one lapses.
const LEASE_SECS: u64 = 4;

/// One server, whose users share a clock that only the suite moves. What is due by that clock is released by an administrator
/// of the stage's own, since the server's clock can't be moved.
struct Server {
    _folder: TempDir,
    nats: Nats,
    clock: Arc<AtomicU64>,
    setup: Setup,
}

impl Server {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nats = Nats::single(folder.path());
        Self {
            _folder: folder,
            nats,
            clock: Arc::new(AtomicU64::new(1_700_000_000_000)),
            setup: Setup::default(),
        }
    }

    async fn connect(&self) -> JetStream {
        let settings = Settings {
            instance: "suite".into(),
            connection: Connection { url: self.nats.url(), ..Connection::default() },
            durability: Durability::Ask(Vec::new()),
            replicas: 1,
            partitions: 4,
            lanes: self.setup.lanes,
            octets_max: self.setup.octets_max,
            events_age: Duration::from_secs(3_600),
            events_octets: 0,
            lease: Duration::from_secs(LEASE_SECS),
        };
        let clock = Arc::clone(&self.clock);
        let clock = Box::new(move || Timestamp(clock.load(Ordering::SeqCst)));
        JetStream::open_with_clock(settings, clock).await.unwrap()
    }
}

impl Stage for Server {
    type Spool = JetStream;

    async fn open(&mut self, setup: Setup) -> JetStream {
        self.setup = setup;
        self.connect().await
    }

    async fn kill(&mut self, spool: JetStream) {
        drop(spool);
        self.nats.kill_all();
        self.nats.restart();
        self.nats.wait_ready();
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.clock.load(Ordering::SeqCst))
    }

    async fn advance(&mut self, millis: u64) {
        let begun = tokio::time::Instant::now();
        self.clock.fetch_add(millis, Ordering::SeqCst);
        let administrator = self.connect().await;
        let lease = LEASE_SECS * 1_000;
        // Leases are the server's own business, so that their time has to pass.
        if millis + 1 >= lease && millis <= lease {
            let margin = 1_000;
            let real = if millis < lease { millis - margin } else { millis + margin };
            // What connecting took is part of it.
            tokio::time::sleep_until(begun + Duration::from_millis(real)).await;
        }
        let waiting = Query { state: Some(StateName::Waiting), limit: 10_000, ..Query::default() };
        let mut due: Vec<_> = administrator
            .look(waiting)
            .await
            .unwrap()
            .into_iter()
            .filter_map(|entry| match entry.state {
                EntryState::Waiting { until } if until <= self.now() => Some((until, entry.job.id)),
                _ => None,
            })
            .collect();
        due.sort_unstable();
        for (_, job) in due {
            administrator.release(Selection::Job(job)).await.unwrap();
        }
    }

    fn lease_secs(&self) -> u64 {
        LEASE_SECS
    }
}

spool::conformance_tests!(Server::new());
