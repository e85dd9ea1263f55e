//! How much may still be accepted.
//!
//! Accepting stops while everything that is queued can still bounce, wait or be copied forward; only then does the disk
//! or the limit end. When even that isn't enough, the ballast is given up: a file that is there to be removed.

use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::Disk;
use super::index::Index;
use super::{Settings, frame};
use crate::{AcceptError, Origin};

const BALLAST: &str = "ballast";

pub(super) struct Room {
    /// For submissions.
    available: AtomicU64,
    /// For reports, which may take of the reserve.
    with_reserve: AtomicU64,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { available: AtomicU64::new(u64::MAX), with_reserve: AtomicU64::new(u64::MAX) }
    }

    /// Whether a message of so many octets would be taken now.
    pub(super) fn check(&self, origin: Origin, octets: u64) -> Result<(), AcceptError> {
        if octets >= frame::RECORD_OCTETS_MAX {
            return Err(AcceptError::Full(format!("{octets} octets are more than a segment can hold")));
        }
        let available = match origin {
            Origin::Submission => self.available.load(Ordering::Relaxed),
            Origin::Report(_) => self.with_reserve.load(Ordering::Relaxed),
        };
        if octets > available {
            return Err(AcceptError::Full(format!("{octets} octets don't fit, {available} are left")));
        }
        Ok(())
    }

    /// Looks at the disk and the index again; says what is left for submissions.
    pub(super) fn refresh(&self, disk: &dyn Disk, index: &Index, settings: &Settings, ahead: u64) -> u64 {
        let (used, _) = index.octets();
        // A file system that doesn't say how much is left is trusted until a write fails.
        let on_disk = disk.free_octets().unwrap_or(u64::MAX).saturating_add(ahead);
        let on_disk = on_disk.saturating_sub(index.owed());
        let (by_limit, limit_reserve) = match settings.octets_max {
            0 => (u64::MAX, 0),
            // A limit smaller than the usual reserve must leave something.
            limit => (
                limit.saturating_sub(used).saturating_sub(index.owed()),
                settings.reserve_octets.min(limit / 8),
            ),
        };
        let available =
            on_disk.saturating_sub(settings.reserve_octets).min(by_limit.saturating_sub(limit_reserve));
        self.available.store(available, Ordering::Relaxed);
        self.with_reserve.store(on_disk.min(by_limit), Ordering::Relaxed);
        available
    }

    pub(super) fn none_left(&self) {
        self.available.store(0, Ordering::Relaxed);
        self.with_reserve.store(0, Ordering::Relaxed);
    }
}

/// Room that can be made at once when there is none.
pub(super) struct Ballast {
    there: bool,
}

impl Ballast {
    pub(super) fn new(disk: &dyn Disk) -> Self {
        Self { there: disk.open(BALLAST).is_ok() }
    }

    /// Takes the room while there is plenty.
    pub(super) fn take(&mut self, disk: &dyn Disk, settings: &Settings, available: u64) {
        if self.there || available < settings.segment_octets.saturating_mul(4) {
            return;
        }
        let made = disk.create(BALLAST).and_then(|file| file.allocate(settings.segment_octets));
        if made.is_err() {
            let _ = disk.remove(BALLAST);
        }
        self.there = made.is_ok();
    }

    /// Gives the room back; says whether there was any.
    pub(super) fn give_up(&mut self, disk: &dyn Disk) -> bool {
        std::mem::take(&mut self.there) && disk.remove(BALLAST).is_ok()
    }
}
