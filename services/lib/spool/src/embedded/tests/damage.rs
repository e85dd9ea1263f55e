//! Octets that are not those that were written.

use super::*;
use crate::ContentError;
use crate::embedded::OpenError;

/// A store with ten messages in several segments, killed.
async fn ten(octets: usize) -> (MemoryDisk, Clock) {
    let (disk, clock) = (MemoryDisk::new(), Clock::new());
    let spool = open(&disk, &clock);
    for number in 1..=10 {
        spool.accept(message(number, 1, octets)).await.unwrap();
    }
    let count = disk.operations();
    (disk.after(count, super::super::faults::Crash::Kill), clock)
}

fn logs(disk: &MemoryDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.ends_with(".log")).collect()
}

fn remove_sides(disk: &MemoryDisk) {
    for name in disk.names().iter().filter(|name| name.ends_with(".idx")) {
        super::super::disk::Disk::remove(disk, name).unwrap();
    }
}

#[tokio::test]
async fn a_damaged_record_is_skipped_and_named() {
    let (disk, clock) = ten(600).await;
    remove_sides(&disk);
    // The envelope of the first message.
    disk.change("0000000001.log", |octets| octets[150] ^= 1);
    let spool = open(&disk, &clock);
    assert_eq!(spool.summary(0).await.ready, 9);
    let damage = spool.summary(0).await.damage;
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert!(damage[0].contains("/memory/0000000001.log at octet 88"), "{damage:?}");
    check_content(&spool).await;
}

#[tokio::test]
async fn damaged_content_is_never_given_out() {
    let (disk, clock) = ten(600).await;
    let at = {
        let mut at = 0;
        let wanted = content(2, 600);
        disk.change("0000000001.log", |octets| {
            at = octets.windows(wanted.len()).position(|some| some == wanted).unwrap();
            octets[at + 300] ^= 1;
        });
        at
    };
    assert!(at > 0);
    let spool = open(&disk, &clock);
    let mut damaged = 0;
    for lease in spool.lease(10).await {
        match lease.content(0).await {
            Ok(octets) => assert_eq!(octets, content(lease.job().id.queue_id.to_bits() as u64, 600)),
            Err(ContentError::Damaged { queue_id, cause }) => {
                assert_eq!(queue_id, message(2, 1, 0).message.queue_id);
                assert!(cause.contains("0000000001.log"), "{cause}");
                damaged += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(damaged, 1);
    assert_eq!(spool.summary(0).await.damage.len(), 1);
}

#[tokio::test]
async fn an_envelope_damaged_after_the_start_is_set_aside_and_the_rest_delivered() {
    let (disk, clock) = ten(600).await;
    let spool = open(&disk, &clock);
    disk.change("0000000001.log", |octets| octets[150] ^= 1);
    let mut leases = Vec::new();
    while leases.len() < 9 {
        leases.extend(spool.lease(4).await);
    }
    let summary = spool.summary(0).await;
    assert_eq!((summary.ready, summary.held, summary.damage.len()), (0, 1, 1));
}

#[tokio::test]
async fn a_damaged_segment_header_does_not_hide_the_records() {
    let (disk, clock) = ten(600).await;
    remove_sides(&disk);
    for name in logs(&disk) {
        disk.change(&name, |octets| octets[20] ^= 1);
    }
    let spool = open(&disk, &clock);
    assert_eq!(spool.summary(0).await.ready, 10);
    let damage = spool.summary(0).await.damage;
    assert!(damage.iter().any(|line| line.contains("0000000001.log: the header is damaged")), "{damage:?}");
}

#[tokio::test]
async fn a_missing_segment_is_named_and_the_rest_delivered() {
    let (disk, clock) = ten(1_500).await;
    let lost = logs(&disk)[1].clone();
    super::super::disk::Disk::remove(&disk, &lost).unwrap();
    let spool = open(&disk, &clock);
    let summary = spool.summary(0).await;
    assert!((1..10).contains(&summary.ready), "{} are left", summary.ready);
    assert_eq!(summary.damage, [format!("/memory/{lost} is missing")]);
    check_content(&spool).await;
}

#[tokio::test]
async fn a_damaged_side_file_only_costs_time() {
    let (disk, clock) = ten(600).await;
    for name in disk.names().iter().filter(|name| name.ends_with(".idx")) {
        // That of the segment that was written last isn't finished.
        disk.change(name, |octets| octets.iter_mut().take(1).for_each(|octet| *octet ^= 1));
    }
    let spool = open(&disk, &clock);
    assert_eq!(spool.summary(0).await.ready, 10);
    assert!(spool.summary(0).await.damage.is_empty());
    check_content(&spool).await;
}

#[tokio::test]
async fn files_of_something_else_are_not_taken_for_an_empty_queue() {
    let disk = MemoryDisk::new();
    let file = super::super::disk::Disk::create(&disk, "0000000001.log").unwrap();
    file.write_at(&mut [std::io::IoSlice::new(&[b'x'; 5_000])], 0).unwrap();
    let opened = Embedded::on(
        Arc::new(disk.clone()),
        Arc::new(MemoryDisk::new()),
        SETTINGS,
        Arc::new(|| Timestamp(1)),
    );
    assert!(matches!(opened.map(|_| ()), Err(OpenError::Unreadable { .. })));
    assert_eq!(disk.names(), ["0000000001.log"], "it was removed");
}

/// A record that a sender put into a message, as far as a sender can.
#[tokio::test]
async fn a_record_inside_content_is_not_found_after_damage() {
    let (disk, clock) = (MemoryDisk::new(), Clock::new());
    let other = MemoryDisk::new();
    {
        let spool = open(&other, &clock);
        spool.accept(message(66, 1, 10)).await.unwrap();
    }
    let mut forged = Vec::new();
    other.change("0000000001.log", |octets| forged.clone_from(octets));
    {
        let spool = open(&disk, &clock);
        let mut new = message(1, 1, 0);
        new.message.octets = forged.len() as u64;
        new.content.pieces = vec![forged.into()];
        spool.accept(new).await.unwrap();
        spool.accept(message(2, 1, 100)).await.unwrap();
        spool.accept(message(3, 1, 100)).await.unwrap();
    }
    remove_sides(&disk);
    disk.change("0000000001.log", |octets| octets[90] ^= 1);
    let spool = open(&disk, &clock);
    let found: Vec<u64> = entries(&spool).await.keys().map(|id| id.queue_id.to_bits() as u64).collect();
    assert_eq!(found, [2, 3]);
}
