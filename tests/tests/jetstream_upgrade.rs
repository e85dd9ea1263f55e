//! A version and the next one side by side on one queue, and back again: what the next one writes stays with the mail, what it
//! set up is updated and never made anew, and a lease that it cut short is lost in time.
//!
//! There is one version only. The next one is what a test does to the records and the set-up through NATS's own API, and this
//! one with other settings.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

#[path = "jetstream/stage.rs"]
#[allow(dead_code, reason = "other files of tests use the rest")]
mod stage;

#[path = "jetstream/setup.rs"]
#[allow(dead_code, reason = "other files of tests use the rest")]
mod setup;

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::Context;
use mail::{JobId, JobKind};
use prost::Message as _;
use proto::spool::v1 as wire;
use spool::conformance::sample;
use spool::jetstream::{JetStream, JetStreamLease, Settings};
use spool::{AcceptError, Lease as _, Query, Retry, Selection, SettleError, Spool as _};

use setup::SetUp;
use stage::{LEASE, PATIENCE, Stage, deliver, deliver_by, first, large, lease, now, read, simple};

const RECIPIENTS: [&str; 2] = ["a@one.example", "b@one.example"];
const MARKS: [&str; 5] = ["later-job", "later-message", "later-state", "later-a@one", "later-b@one"];

/// Field 900, a text.
fn field(text: &str) -> Vec<u8> {
    [&[0xa2, 0x38, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// A field that holds another message.
fn holding(number: u8, content: &[u8]) -> Vec<u8> {
    let mut octets = vec![number << 3 | 2];
    prost::encode_length_delimiter(content.len(), &mut octets).unwrap();
    [octets, content.to_vec()].concat()
}

/// The record as a later version might write it: with fields more at each level.
fn extended(payload: &[u8]) -> Vec<u8> {
    let job = wire::Job::decode(payload).unwrap();
    let [of_job, of_message, of_state, of_a, of_b] = MARKS.map(field);
    let message = [job.message.as_ref().unwrap().encode_to_vec(), of_message].concat();
    let mut state = job.state.clone().unwrap();
    let recipients = std::mem::take(&mut state.recipients);
    let mut state = state.encode_to_vec();
    for (recipient, mark) in recipients.iter().zip([of_a, of_b]) {
        state.extend(holding(3, &[recipient.encode_to_vec(), mark].concat()));
    }
    state.extend(of_state);
    let rest = wire::Job { message: None, state: None, ..job }.encode_to_vec();
    [holding(1, &message), holding(2, &state), rest, of_job].concat()
}

/// Which of the marks a record has.
fn marks(payload: &[u8]) -> Vec<&'static str> {
    let has = |mark: &str| payload.windows(mark.len()).any(|octets| octets == mark.as_bytes());
    MARKS.into_iter().filter(|mark| has(mark)).collect()
}

/// All records of jobs in the queue: the kind that their subject tells, and the octets.
async fn records(context: &Context) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in ["MAIL", "RETRY"].iter().flat_map(|kind| (0..2).map(move |k| format!("stage-{kind}-{k}"))) {
        let stream = context.get_stream(&name).await.unwrap();
        let state = stream.cached_info().state.clone();
        for sequence in state.first_sequence..=state.last_sequence {
            let Ok(record) = stream.get_raw_message(sequence).await else { continue };
            let kind = record.subject.split('.').nth(1).unwrap().to_owned();
            found.push((kind, record.payload.to_vec()));
        }
    }
    found
}

/// Accepts a message and replaces its record by one of a later version.
async fn accept_of_later_version(spool: &JetStream, context: &Context, number: u64, octets: usize) -> JobId {
    let message = large(number, octets, &[&RECIPIENTS]);
    let job = first(message.message.queue_id);
    spool.accept(message).await.unwrap();
    for partition in 0..2 {
        let stream = context.get_stream(format!("stage-MAIL-{partition}")).await.unwrap();
        let filter = format!("stage.mail.{partition}.*.{job}");
        let Ok(record) = stream.get_last_raw_message_by_subject(&filter).await else { continue };
        assert!(stream.delete_message(record.sequence).await.unwrap());
        let later = extended(&record.payload);
        context.publish(record.subject.clone(), later.into()).await.unwrap().await.unwrap();
        return job;
    }
    panic!("no stream of mail has {job}")
}

async fn lease_one(spool: &JetStream) -> JetStreamLease {
    let mut leases = lease(spool, 1, PATIENCE).await;
    leases.pop().unwrap()
}

fn remaining(lease: &JetStreamLease) -> Vec<mail::Recipient> {
    match &lease.job().kind {
        JobKind::Delivery { recipients } => recipients.clone(),
        JobKind::Report { .. } => panic!("{} is a report", lease.job().id),
    }
}

fn retry(lease: &JetStreamLease, millis: u64) -> Retry {
    let attempts = lease.job().attempts + 1;
    let (at, remaining) = (now().plus_millis(millis), remaining(lease));
    Retry { at, remaining, attempts, reason: "later".into(), signature: Some("signed".into()) }
}

/// The only record there is: its kind and marks.
async fn only(context: &Context) -> (String, Vec<&'static str>) {
    let records = records(context).await;
    let [(kind, payload)] = &records[..] else { panic!("there are {} records", records.len()) };
    (kind.clone(), marks(payload))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_later_version_wrote_stays_with_a_job_however_it_goes_on() {
    let stage = Stage::new();
    let spool = JetStream::open(Settings { lease: PATIENCE, ..stage.settings() }).await.unwrap();
    let context = stage.context().await;
    // Once with content that travels in the record, once with content beside.
    for (number, octets) in [(1, 700), (2, 300_000)] {
        let job = accept_of_later_version(&spool, &context, number, octets).await;
        let all = |kind: &str| (kind.to_owned(), MARKS.to_vec());
        assert_eq!(only(&context).await, all("mail"));

        let leased = lease_one(&spool).await;
        assert_eq!((leased.job().id, leased.job().attempts, remaining(&leased).len()), (job, 0, 2));
        assert_eq!(read(&leased).await.len() as u64, leased.job().message.octets);
        let later = retry(&leased, 3_600_000);
        leased.retry(later, Vec::new()).await.unwrap();
        assert_eq!(only(&context).await, all("sched"));
        assert_eq!(spool.hold(Selection::Job(job), "for a while".into()).await.unwrap(), 1);
        assert_eq!(only(&context).await, all("held"));
        assert_eq!(spool.release(Selection::Job(job)).await.unwrap(), 1);
        assert_eq!(only(&context).await, all("due"));
        let leased = lease_one(&spool).await;
        leased.hold("again".into()).await.unwrap();
        assert_eq!(only(&context).await, all("held"));
        assert_eq!(spool.release(Selection::Job(job)).await.unwrap(), 1);

        // One recipient is settled by a refusal, the other stays.
        let mut leased = lease_one(&spool).await;
        assert_eq!((leased.job().attempts, leased.job().signature.as_deref()), (1, Some("signed")));
        let both = remaining(&leased);
        leased.narrow(both[1..].to_vec(), vec![sample::bounced(&both[0], now())]).await.unwrap();
        let found: BTreeSet<_> =
            records(&context).await.iter().map(|(kind, octets)| (kind.clone(), marks(octets))).collect();
        let narrowed = ("sched".to_owned(), vec!["later-job", "later-message", "later-state", "later-b@one"]);
        let report = ("due".to_owned(), vec!["later-job", "later-message", "later-a@one"]);
        assert_eq!(found, [narrowed, report].into(), "a report has no share in its job's state");
        leased.done(Vec::new()).await.unwrap();
        let report = lease_one(&spool).await;
        assert_eq!(report.job().id.report, Some(1));
        report.done(Vec::new()).await.unwrap();
        stage.until_empty("stage", PATIENCE).await;
    }
}

async fn accept_small(spool: &JetStream, numbers: std::ops::Range<u64>) -> BTreeSet<JobId> {
    let mut accepted = BTreeSet::new();
    for number in numbers {
        let message = simple(number, &format!("account{}", number % 10));
        accepted.insert(first(message.message.queue_id));
        spool.accept(message).await.unwrap();
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_version_set_up_is_updated_and_never_made_anew() {
    let stage = Stage::new();
    let context = stage.context().await;
    // Leases that last, so that what comes again does so because of the set-up.
    let old = Settings { lease: 3 * PATIENCE, ..stage.settings() };
    let worker = JetStream::open(old.clone()).await.unwrap();
    let mut accepted = accept_small(&worker, 0..60).await;
    let mut held = Vec::new();
    while held.len() < 30 {
        held.extend(lease(&worker, 30 - held.len(), PATIENCE).await);
    }
    for leased in held.split_off(15) {
        let later = retry(&leased, 3_600_000);
        leased.retry(later, Vec::new()).await.unwrap();
    }
    let mut before = SetUp::of(&context, "stage-").await;
    assert!(before.streams.len() == 8 && before.consumers.len() == 20, "{before:?}");

    // The next version describes and bounds what it finds, adds to it, and lets leases last for another time.
    setup::change_as_a_newer_version(&context, "stage-").await;
    let new = Settings {
        partitions: 3,
        lanes: 4,
        lease: 4 * PATIENCE,
        octets_max: 1 << 30,
        events_age: Duration::from_secs(7_200),
        ..old.clone()
    };
    let newer = JetStream::open(new.clone()).await.unwrap();
    // The older one hears of the new partition and serves it, and undoes nothing.
    accepted.extend(accept_small(&newer, 60..72).await);
    let mut delivered = deliver(&worker, 42).await;
    let upgraded = SetUp::of(&context, "stage-").await;
    before.must_go_on_in(&upgraded);
    assert!(upgraded.streams.len() == 11 && upgraded.consumers.len() == 54, "{upgraded:?}");
    assert!(upgraded.consumers.values().all(|consumer| consumer.ack_wait == new.lease), "{upgraded:?}");
    accepted.extend(accept_small(&newer, 72..102).await);

    // And back: the older one is started again with its settings, and then stands alone.
    let older = JetStream::open(old.clone()).await.unwrap();
    before = upgraded;
    let back = SetUp::of(&context, "stage-").await;
    before.must_go_on_in(&back);
    for consumer in back.consumers.values() {
        assert_eq!(consumer.ack_wait, old.lease);
    }
    setup::has_what_the_newer_version_set(&context, "stage-").await;
    newer.close().await;

    // Nothing comes again: not what is leased, nor what waits, nor anything twice.
    for leased in &held {
        leased.touch().await.unwrap();
    }
    for entry in older.look(Query { limit: 1_000, ..Query::default() }).await.unwrap() {
        older.release(Selection::Job(entry.job.id)).await.unwrap();
    }
    delivered.extend(deliver_by(&[&worker, &older], 45).await);
    let leased: BTreeSet<JobId> = held.iter().map(|leased| leased.job().id).collect();
    assert_eq!(delivered.into_keys().collect::<BTreeSet<_>>(), &accepted - &leased);
    for leased in held {
        leased.done(Vec::new()).await.unwrap();
    }
    stage.until_empty("stage", PATIENCE).await;
    let last = SetUp::of(&context, "stage-").await;
    back.must_go_on_in(&last);
    // 102 that were accepted, and the 15 of them that waited once more.
    assert_eq!(last.deliveries(), 117, "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_another_process_cut_short_is_lost_in_time() {
    let stage = Stage::new();
    let long = JetStream::open(Settings { lease: PATIENCE, ..stage.settings() }).await.unwrap();
    let message = simple(1, "a");
    let job = first(message.message.queue_id);
    long.accept(message).await.unwrap();
    let stalled = lease_one(&long).await;

    // From here on leases last 4 s, and this one isn't touched.
    let short = stage.open().await;
    let mut others = lease(&short, 1, PATIENCE).await;
    let other = others.pop().unwrap();
    assert_eq!(other.job().id, job);
    other.done(Vec::new()).await.unwrap();
    let later = retry(&stalled, 100);
    let refused = stalled.retry(later, Vec::new()).await.unwrap_err();
    assert!(matches!(refused, SettleError::LeaseLost(_)), "{refused}");
    stage.until_empty("stage", PATIENCE).await;
    assert!(lease(&short, 1, LEASE).await.is_empty(), "what is done doesn't come again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_smaller_bound_than_what_is_queued_drops_nothing() {
    let stage = Stage::new();
    let large_bound = Settings { octets_max: 1 << 30, ..stage.settings() };
    let spool = JetStream::open(large_bound).await.unwrap();
    let mut accepted = BTreeSet::new();
    for number in 0..60 {
        let message = large(number, 100_000, &[&["a@one.example"]]);
        accepted.insert(first(message.message.queue_id));
        spool.accept(message).await.unwrap();
    }
    let small = JetStream::open(Settings { octets_max: 1 << 20, ..stage.settings() }).await.unwrap();
    assert_eq!(stage.messages("MAIL").await.values().sum::<u64>(), 60);
    let refused = small.accept(large(60, 1_000, &[&["a@one.example"]])).await.unwrap_err();
    assert!(matches!(refused, AcceptError::Full(_)), "{refused}");
    // Even what waits or bounces needs room, and has it.
    for leased in lease(&small, 8, PATIENCE).await {
        let later = retry(&leased, 1_000);
        leased.retry(later, Vec::new()).await.unwrap();
    }
    assert_eq!(deliver(&small, 60).await.into_keys().collect::<BTreeSet<_>>(), accepted);
    stage.until_empty("stage", PATIENCE).await;
    small.accept(large(61, 1_000, &[&["a@one.example"]])).await.unwrap();
}
