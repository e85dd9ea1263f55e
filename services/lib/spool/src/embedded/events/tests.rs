//! Kills, damage, a disk that fails, and what is forgotten.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mail::Timestamp;

use super::*;
use crate::conformance::sample::message_events;
use crate::embedded::faults::{Crash, MemoryDisk};
use crate::{EventReader, Follow};

const NOW: Timestamp = Timestamp(1_795_579_643_042);
const SETTINGS: EventSettings =
    EventSettings { file_octets: 4_096, octets_max: 64 << 20, age_max_secs: 3_600 };

fn open_at(disk: &MemoryDisk, settings: EventSettings, clock: &Arc<AtomicU64>) -> EmbeddedEvents {
    let clock = Arc::clone(clock);
    let now = Arc::new(move || Timestamp(clock.load(Ordering::SeqCst)));
    EmbeddedEvents::open(Arc::new(disk.clone()), settings, now).unwrap()
}

fn open(disk: &MemoryDisk) -> EmbeddedEvents {
    open_at(disk, SETTINGS, &Arc::new(AtomicU64::new(NOW.0)))
}

/// The ids of all events, in the order in which they are read; the same one is there once.
async fn read(log: &EmbeddedEvents) -> Vec<String> {
    let query = EventQuery { since: Timestamp(0), messages: Vec::new(), follow: Follow::UntilNow };
    collect(log.read(query).await.unwrap()).await
}

async fn collect(mut reader: EmbeddedEventReader) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut ids = Vec::new();
    while let Some(events) = reader.next().await.unwrap() {
        ids.extend(events.iter().map(Event::id).filter(|id| seen.insert(id.clone())));
    }
    ids
}

fn ids(events: &[Event]) -> Vec<String> {
    events.iter().map(Event::id).collect()
}

fn logs(disk: &MemoryDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.ends_with(".log")).collect()
}

#[tokio::test]
async fn a_file_is_made_by_its_first_event() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    assert_eq!(read(&log).await, Vec::<String>::new());
    log.append(Vec::new()).await.unwrap();
    assert!(logs(&disk).is_empty());
    log.append(message_events(1, NOW)).await.unwrap();
    assert_eq!(logs(&disk).len(), 1);
}

/// Whatever the instant, and even if the power goes with it: what was answered is there, in its order.
#[tokio::test]
async fn what_was_answered_is_there_wherever_it_stops() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    let mut answered = vec![(disk.operations(), Vec::new())];
    let mut all = Vec::new();
    for number in 0..12 {
        let events = message_events(number, NOW);
        log.note(events[..1].to_vec());
        log.append(events[1..].to_vec()).await.unwrap();
        all.extend(ids(&events));
        answered.push((disk.operations(), all.clone()));
    }
    assert!(logs(&disk).len() > 1, "files end and are begun");
    for count in 0..=disk.operations() {
        let must = &answered.iter().rev().find(|(operations, _)| *operations <= count).unwrap().1;
        for crash in [Crash::Kill, Crash::Power(count as u64), Crash::Power(count as u64 * 7_919 + 1)] {
            let next = open(&disk.after(count, crash));
            let found = read(&next).await;
            assert!(found.starts_with(must), "{crash:?} after {count}: {found:?} lacks of {must:?}");
            assert!(found.iter().all(|id| all.contains(id)), "{found:?}");
            // It goes on from there.
            let more = message_events(99, NOW);
            next.append(more.clone()).await.unwrap();
            assert_eq!(read(&next).await, [found, ids(&more)].concat());
        }
    }
}

#[tokio::test]
async fn damage_costs_what_is_damaged() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    let messages: Vec<Vec<Event>> = (0..12).map(|number| message_events(number, NOW)).collect();
    for events in &messages {
        log.append(events.clone()).await.unwrap();
    }
    drop(log);
    let names = logs(&disk);
    assert!(names.len() > 1);
    // Of the first file the second frame, of the last one all but its end.
    let second = {
        let mut second = 0;
        disk.change(&names[0], |octets| {
            let magic = octets[..8].to_vec();
            second = octets[1..].windows(8).position(|some| some == magic).unwrap() + 1;
            octets[second + 40] ^= 1;
        });
        second
    };
    assert!(second > 16);
    let expected: Vec<String> = messages
        .iter()
        .enumerate()
        .filter(|(number, _)| *number != 1)
        .flat_map(|(_, events)| ids(events))
        .collect();
    assert_eq!(read(&open(&disk)).await, expected);
    disk.change(names.last().unwrap(), |octets| octets.truncate(octets.len() - 1));
    assert_eq!(read(&open(&disk)).await, expected[..expected.len() - 3]);
}

#[tokio::test]
async fn after_a_failure_another_file_is_begun_and_notes_are_not_lost() {
    for fail in [MemoryDisk::fail_writes, MemoryDisk::fail_syncs] {
        let disk = MemoryDisk::new();
        let log = open(&disk);
        let [first, second, third] = [1, 2, 3].map(|number| message_events(number, NOW));
        log.append(first.clone()).await.unwrap();
        fail(&disk, 1);
        log.note(second[..1].to_vec());
        let failed = log.append(second[1..].to_vec()).await;
        assert!(matches!(failed, Err(EventError::Unavailable(_))), "{failed:?}");
        log.append(third.clone()).await.unwrap();
        assert_eq!(logs(&disk).len(), 2);
        assert_eq!(read(&log).await, [ids(&first), ids(&second[..1]), ids(&third)].concat());
        // What was refused may be there after all; the rest must.
        let found = read(&open(&disk.after(disk.operations(), Crash::Power(5)))).await;
        for id in [ids(&first), ids(&second[..1]), ids(&third)].concat() {
            assert!(found.contains(&id), "{found:?} lacks {id}");
        }
    }
}

#[tokio::test]
async fn a_failure_at_the_first_event_leaves_no_file() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    disk.fail_writes(3);
    for number in 0..3 {
        log.append(message_events(number, NOW)).await.unwrap_err();
    }
    assert!(logs(&disk).is_empty());
    log.append(message_events(4, NOW)).await.unwrap();
    assert_eq!(read(&log).await.len(), 3);
}

#[tokio::test]
async fn what_is_too_old_or_too_much_is_forgotten_file_by_file() {
    let disk = MemoryDisk::new();
    let clock = Arc::new(AtomicU64::new(NOW.0));
    let settings = EventSettings { octets_max: 40_960, ..SETTINGS };
    let log = open_at(&disk, settings, &clock);
    let last = |log: Vec<String>| log.last().cloned();
    for number in 0..200 {
        let events = message_events(number, NOW);
        log.append(events.clone()).await.unwrap();
        assert_eq!(last(read(&log).await), last(ids(&events)));
    }
    let octets: u64 = logs(&disk).iter().map(|name| disk.open(name).unwrap().octets().unwrap()).sum();
    // The file that is written has taken room ahead.
    assert!(octets < settings.octets_max + (1 << 20), "{octets} octets are kept");
    let kept = read(&log).await.len();
    assert!((30..600).contains(&kept), "{kept} are kept");
    clock.fetch_add(3_601_000, Ordering::SeqCst);
    let events = message_events(999, NOW);
    log.append(events.clone()).await.unwrap();
    log.append(events.clone()).await.unwrap();
    // The file that was open is as old as what was last written to it, which is too old now.
    assert_eq!(read(&log).await, ids(&events));
    drop(log);
    clock.fetch_add(3_601_000, Ordering::SeqCst);
    let log = open_at(&disk, settings, &clock);
    assert_eq!(read(&log).await, ids(&events), "how old it is isn't known, so that it stays");
}

#[tokio::test]
async fn files_that_ended_long_before_are_not_read() {
    let disk = MemoryDisk::new();
    let clock = Arc::new(AtomicU64::new(NOW.0));
    let log = open_at(&disk, EventSettings { age_max_secs: 1 << 40, ..SETTINGS }, &clock);
    let mut written = Vec::new();
    for number in 0..40 {
        let now = Timestamp(clock.fetch_add(600_000, Ordering::SeqCst));
        written.push(message_events(number, now));
        log.append(written[number as usize].clone()).await.unwrap();
    }
    let names = logs(&disk);
    let since = written[30][0].at;
    assert!(log.files.since(since).start > NOW.0, "all files are read");
    disk.remove(&names[0]).unwrap();
    let query = EventQuery { since, messages: Vec::new(), follow: Follow::UntilNow };
    let found = collect(log.read(query).await.unwrap()).await;
    assert_eq!(found, written[30..].iter().flat_map(|events| ids(events)).collect::<Vec<_>>());
    // A message's events are never older than itself.
    let messages = vec![written[35][0].message.queue_id];
    let query = EventQuery { since: Timestamp(0), messages, follow: Follow::UntilNow };
    assert_eq!(collect(log.read(query).await.unwrap()).await, ids(&written[35]));
}

/// A reader whose file is removed goes on with the next one.
#[tokio::test]
async fn a_reader_outlives_what_it_reads() {
    let disk = MemoryDisk::new();
    let clock = Arc::new(AtomicU64::new(NOW.0));
    let log = open_at(&disk, EventSettings { octets_max: 16_384, ..SETTINGS }, &clock);
    log.append(message_events(0, NOW)).await.unwrap();
    let query = EventQuery { since: Timestamp(0), messages: Vec::new(), follow: Follow::Forever };
    let mut reader = log.read(query).await.unwrap();
    assert_eq!(ids(&reader.next().await.unwrap().unwrap()), ids(&message_events(0, NOW)));
    for number in 1..100 {
        log.append(message_events(number, NOW)).await.unwrap();
    }
    let wanted = ids(&message_events(99, NOW));
    let mut found = Vec::new();
    while !found.ends_with(&wanted) {
        let next = tokio::time::timeout(Duration::from_secs(20), reader.next()).await.unwrap();
        found.extend(ids(&next.unwrap().unwrap()));
    }
    assert!(found.len() < 300, "nothing was removed");
}
