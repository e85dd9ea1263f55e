//! Writes and syncs that fail, and a disk that is full.

use std::time::Duration;

use super::*;
use crate::embedded::faults::Crash;
use crate::{AcceptError, Retry};

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what} doesn't come");
}

fn numbers(entries: &BTreeMap<JobId, Entry>) -> Vec<u64> {
    entries.keys().map(|id| id.queue_id.to_bits() as u64).collect()
}

#[tokio::test]
async fn what_was_refused_for_a_failed_write_or_sync_never_shows_up() {
    let (disk, clock) = (MemoryDisk::new(), Clock::new());
    let spool = open(&disk, &clock);
    spool.accept(message(1, 1, 100)).await.unwrap();
    disk.fail_syncs(1);
    assert!(matches!(spool.accept(message(2, 1, 100)).await, Err(AcceptError::Unavailable(_))));
    spool.accept(message(3, 1, 100)).await.unwrap();
    disk.fail_writes(1);
    assert!(matches!(spool.accept(message(4, 1, 100)).await, Err(AcceptError::Unavailable(_))));
    spool.accept(message(5, 1, 100)).await.unwrap();
    assert_eq!(numbers(&entries(&spool).await), [1, 3, 5]);
    for crash in [Crash::Kill, Crash::Power(3), Crash::Power(99)] {
        let spool = open(&disk.after(disk.operations(), crash), &clock);
        assert_eq!(numbers(&entries(&spool).await), [1, 3, 5]);
        assert!(spool.summary(0).await.damage.is_empty());
    }
}

#[tokio::test]
async fn a_settlement_outlives_a_failing_disk() {
    let (disk, clock) = (MemoryDisk::new(), Clock::new());
    let spool = open(&disk, &clock);
    spool.accept(message(1, 1, 100)).await.unwrap();
    let lease = spool.lease(1).await.remove(0);
    let remaining = recipients(lease.job());
    let at = clock.now().plus_secs(60);
    let retry = Retry { at, remaining, attempts: 1, reason: "later".into(), signature: None };
    disk.fail_syncs(7);
    lease.retry(retry, Vec::new()).await.unwrap();
    let spool = open(&disk.after(disk.operations(), Crash::Power(1)), &clock);
    let found = entries(&spool).await.into_values().next().unwrap();
    assert_eq!((found.state, found.job.attempts), (EntryState::Waiting { until: at }, 1));
}

/// Nothing more can be accepted, and then nothing more can be written at all; what is queued ends all the same.
#[tokio::test]
async fn a_full_disk_drains_and_takes_mail_again() {
    let settings = Settings { segment_octets: 64 << 10, reserve_octets: 128 << 10, ..SETTINGS };
    let (disk, clock) = (MemoryDisk::new(), Clock::new());
    disk.set_capacity(2 << 20);
    let spool = open_with(&disk, &clock, settings);
    let mut accepted = 0;
    while spool.accept(message(accepted, 1, 6_000)).await.is_ok() {
        accepted += 1;
    }
    assert!(accepted > 100, "{accepted} were accepted");
    assert!(matches!(spool.accept(message(accepted, 1, 6_000)).await, Err(AcceptError::Full(_))));
    // Somebody else takes all that is left, but for a few octets.
    let free = super::super::disk::Disk::free_octets(&disk).unwrap();
    let file = super::super::disk::Disk::create(&disk, "somebody else's").unwrap();
    file.allocate(free - 100).unwrap();

    let mut left = accepted;
    let mut failed = 0;
    while left > 0 {
        for lease in spool.lease(16).await {
            let results: Vec<_> = recipients(lease.job()).iter().map(failure).collect();
            failed += u64::from(!results.is_empty());
            left -= u64::from(results.is_empty());
            tokio::time::timeout(Duration::from_secs(60), lease.done(results)).await.unwrap().unwrap();
        }
    }
    assert_eq!(failed, accepted);
    eventually("room", async || spool.room_for(100).is_ok() || disk_is_taken(&disk)).await;
    super::super::disk::Disk::remove(&disk, "somebody else's").unwrap();
    eventually("room", async || spool.accept(message(9_999, 1, 6_000)).await.is_ok()).await;
    let spool = open_with(&disk.after(disk.operations(), Crash::Kill), &clock, settings);
    assert_eq!(numbers(&entries(&spool).await), [9_999]);
}

/// Whether the reserve is all that is left.
fn disk_is_taken(disk: &MemoryDisk) -> bool {
    super::super::disk::Disk::free_octets(disk).unwrap() < (128 << 10) + 100
}
