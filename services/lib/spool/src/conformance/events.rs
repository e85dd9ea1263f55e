//! What happened is told, whoever asks and whatever was killed.

use std::collections::HashSet;

use mail::{Event, EventKind, QueueId, Timestamp};

use super::sample::message_events;
use super::{PATIENCE, Setup, Stage, must};
use crate::{EventLog, EventQuery, EventReader, Follow, Spool};

/// All messages' events until now.
fn all(since: Timestamp) -> EventQuery {
    EventQuery { since, messages: Vec::new(), follow: Follow::UntilNow }
}

/// All that a reader gives, once each.
async fn read<S: Spool>(spool: &S, query: EventQuery) -> Vec<Event> {
    let mut reader = must(spool.events().read(query).await, "read events");
    let mut seen = HashSet::new();
    let mut events = Vec::new();
    while let Some(some) = next(&mut reader).await {
        events.extend(some.into_iter().filter(|event| seen.insert(event.id())));
    }
    events
}

async fn next<R: EventReader>(reader: &mut R) -> Option<Vec<Event>> {
    must(must(tokio::time::timeout(PATIENCE, reader.next()).await, "events in time"), "the next events")
}

/// The next `count` different events.
async fn next_few<R: EventReader>(reader: &mut R, count: usize) -> Vec<Event> {
    let mut seen = HashSet::new();
    let mut events = Vec::new();
    while events.len() < count {
        let Some(some) = next(reader).await else { panic!("it ended after {} events", events.len()) };
        events.extend(some.into_iter().filter(|event| seen.insert(event.id())));
    }
    events
}

async fn append<S: Spool>(spool: &S, events: &[Event]) {
    must(spool.events().append(events.to_vec()).await, "append events");
}

fn of_message(events: &[Event], queue_id: QueueId) -> Vec<Event> {
    events.iter().filter(|event| event.message.queue_id == queue_id).cloned().collect()
}

/// What was appended is there after a kill, each message's in order and with all its fields.
pub async fn appended_events_survive_a_kill<S: Stage>(stage: &mut S) {
    let mut spool = stage.open(Setup::default()).await;
    let messages: Vec<Vec<Event>> = (0..20).map(|number| message_events(number, stage.now())).collect();
    // Those of different messages are mixed.
    for step in 0..3 {
        let appends = messages.iter().map(|events| append(&spool, &events[step..=step]));
        for appended in appends {
            appended.await;
        }
        if step == 1 {
            stage.kill(spool).await;
            spool = stage.open(Setup::default()).await;
        }
    }
    stage.kill(spool).await;
    spool = stage.open(Setup::default()).await;
    let found = read(&spool, all(Timestamp(0))).await;
    assert_eq!(found.len(), 60);
    for events in &messages {
        assert_eq!(&of_message(&found, events[0].message.queue_id), events);
    }
}

/// What was noted is durable once an append after it was answered, even one of nothing.
pub async fn noted_events_are_durable_with_the_next_append<S: Stage>(stage: &mut S) {
    let mut spool = stage.open(Setup::default()).await;
    let events = message_events(1, stage.now());
    let other = message_events(2, stage.now());
    spool.events().note(events[..1].to_vec());
    append(&spool, &events[1..2]).await;
    spool.events().note(other[..1].to_vec());
    append(&spool, &[]).await;
    stage.kill(spool).await;
    spool = stage.open(Setup::default()).await;
    let found = read(&spool, all(Timestamp(0))).await;
    assert_eq!(of_message(&found, events[0].message.queue_id), events[..2]);
    assert_eq!(of_message(&found, other[0].message.queue_id), other[..1]);
}

/// Many writers at the same time: each one's events are there, in its order.
pub async fn many_writers_lose_nothing<S: Stage>(stage: &mut S) {
    let spool = std::sync::Arc::new(stage.open(Setup::default()).await);
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..50 {
        let (spool, events) = (std::sync::Arc::clone(&spool), message_events(number, stage.now()));
        writers.spawn(async move {
            spool.events().note(events[..1].to_vec());
            append(&*spool, &events[1..2]).await;
            append(&*spool, &events[2..]).await;
        });
    }
    writers.join_all().await;
    let found = read(&*spool, all(Timestamp(0))).await;
    assert_eq!(found.len(), 150);
    for number in 0..50 {
        let events = message_events(number, stage.now());
        assert_eq!(of_message(&found, events[0].message.queue_id), events);
    }
}

/// Hours before the stage's now.
fn hours_ago<S: Stage>(stage: &S, hours: u64) -> Timestamp {
    Timestamp(stage.now().0.saturating_sub(hours * 3_600_000))
}

/// Only what happened since an instant is read, also when it is written late.
pub async fn events_are_read_since_an_instant<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let since = hours_ago(stage, 10);
    let mut expected = Vec::new();
    for number in 0..30 {
        let events = message_events(number, hours_ago(stage, 30 - number));
        append(&spool, &events).await;
        if number >= 20 {
            expected.extend(events);
        }
    }
    assert_eq!(read(&spool, all(since)).await, expected);
    let mut late = message_events(99, since);
    late[0].at = Timestamp(since.0 - 1);
    append(&spool, &late).await;
    expected.extend(late.split_off(1));
    assert_eq!(read(&spool, all(since)).await, expected);
}

/// A message's story is read without the others'.
pub async fn events_of_chosen_messages_are_read<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let written: Vec<Vec<Event>> =
        (0..10).map(|number| message_events(number, hours_ago(stage, 10 - number))).collect();
    for events in &written {
        append(&spool, events).await;
    }
    let messages = [7, 2].map(|number: usize| written[number][0].message.queue_id).to_vec();
    let query = EventQuery { messages: messages.clone(), ..all(Timestamp(0)) };
    let found = read(&spool, query).await;
    assert_eq!(found.len(), 6);
    for (queue_id, number) in messages.into_iter().zip([7, 2]) {
        assert_eq!(of_message(&found, queue_id), written[number]);
    }
    let unknown = message_events(77, hours_ago(stage, 1))[0].message.queue_id;
    let query = EventQuery { messages: vec![unknown], ..all(Timestamp(0)) };
    assert_eq!(read(&spool, query).await, []);
}

/// Who follows reads what was and then what comes, also what was only noted; two who follow read the same; both end with the
/// store.
pub async fn followers_see_what_comes<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let [past, coming, noted] = [1, 2, 3].map(|number| message_events(number, stage.now()));
    append(&spool, &past).await;
    let query = EventQuery { follow: Follow::Forever, ..all(Timestamp(0)) };
    let mut one = must(spool.events().read(query.clone()).await, "read events");
    assert_eq!(next_few(&mut one, 3).await, past);
    // Nothing more yet; giving up waiting loses nothing.
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), one.next()).await.is_err());
    let (seen, ()) = tokio::join!(next_few(&mut one, 3), append(&spool, &coming));
    assert_eq!(seen, coming);
    spool.events().note(noted.clone());
    assert_eq!(next_few(&mut one, 3).await, noted);
    let mut two = must(spool.events().read(query).await, "read events");
    let mut both = next_few(&mut two, 9).await;
    both.sort_by_key(Event::id);
    let mut expected = [past, coming, noted].concat();
    expected.sort_by_key(Event::id);
    assert_eq!(both, expected);
    spool.close().await;
    assert_eq!((next(&mut one).await, next(&mut two).await), (None, None));
    let closed = spool.events().append(message_events(4, stage.now())).await;
    assert_eq!(closed, Err(crate::EventError::Closed));
}

/// Who doesn't follow comes to an end, however much is written meanwhile.
pub async fn reading_until_now_ends<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    assert_eq!(read(&spool, all(Timestamp(0))).await, []);
    append(&spool, &message_events(1, stage.now())).await;
    let mut reader = must(spool.events().read(all(Timestamp(0))).await, "read events");
    append(&spool, &message_events(2, stage.now())).await;
    let first = next_few(&mut reader, 3).await;
    assert_eq!(first.first().map(|event| event.kind), Some(EventKind::Accepted));
    assert!(first.iter().all(|event| event.message.queue_id == first[0].message.queue_id));
    assert_eq!(next(&mut reader).await, None);
}
