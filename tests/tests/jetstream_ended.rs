//! A job that has ended and comes back, since a worker was stopped in the middle of writing down when it is to be tried again, ends
//! without a word; content that is truly gone is told of.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

#[path = "jetstream/stage.rs"]
#[allow(dead_code, reason = "other files of tests use the rest")]
mod stage;

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use mail::{Event, EventKind, EventMessage, Hop, Job, JobKind};
use spool::jetstream::{JetStream, JetStreamLease, Settings};
use spool::{ContentError, EventLog as _, Lease as _, Retry, SettleError, Spool as _};

use stage::{PATIENCE, Stage, large, lease, now};

/// The only waiting record that there is.
async fn waiting(stage: &Stage) -> StreamMessage {
    let context = stage.context().await;
    for partition in 0..2 {
        let stream = context.get_stream(format!("stage-RETRY-{partition}")).await.unwrap();
        if let Ok(record) = stream.get_last_raw_message_by_subject("stage.sched.>").await {
            return record;
        }
    }
    panic!("nothing waits");
}

/// As a worker does that was stopped before it stored the record, and goes on.
async fn store_again(stage: &Stage, record: StreamMessage) {
    let mut headers = HeaderMap::new();
    for (name, values) in record.headers.iter() {
        if !name.to_string().starts_with("Nats-Expected") {
            values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
        }
    }
    let context = stage.context().await;
    context.publish_with_headers(record.subject, headers, record.payload).await.unwrap().await.unwrap();
}

async fn open(stage: &Stage) -> JetStream {
    // It takes seconds until content is called damaged.
    JetStream::open(Settings { lease: Duration::from_secs(30), ..stage.settings() }).await.unwrap()
}

async fn only(spool: &JetStream) -> JetStreamLease {
    lease(spool, 1, PATIENCE).await.pop().unwrap()
}

/// Its recipients ended, but for the last `left`.
fn ends(job: &Job, left: usize) -> Vec<Event> {
    let JobKind::Delivery { recipients } = &job.kind else { panic!("a report") };
    let message = Arc::new(EventMessage::from(&*job.message));
    let event = |recipient: &mail::Recipient| Event {
        kind: EventKind::Delivered,
        at: now(),
        message: Arc::clone(&message),
        job: job.id,
        recipient: recipient.address.clone(),
        attempt: 2,
        hop: Hop::default(),
        status: None,
        reply: None,
        reason: "it said: 250 ok".into(),
        retry_at: None,
        redelivered: false,
    };
    recipients[..recipients.len() - left].iter().map(event).collect()
}

/// A message of two recipients is put off, then done with events of all but `left` of them; its waiting record comes back.
async fn brought_back(stage: &Stage, spool: &JetStream, left: usize) -> JetStreamLease {
    spool.accept(large(1, 600_000, &[&["a@one.test", "b@one.test"]])).await.unwrap();
    let first = only(spool).await;
    let JobKind::Delivery { recipients: remaining } = first.job().kind.clone() else { panic!("a report") };
    let at = now().plus_millis(1_000);
    let retry = Retry { at, remaining, attempts: 1, reason: "later".into(), signature: None };
    first.retry(retry, Vec::new()).await.unwrap();
    let record = waiting(stage).await;
    let second = only(spool).await;
    assert_eq!(second.job().attempts, 1, "it waited");
    spool.events().append(ends(second.job(), left)).await.unwrap();
    second.done(Vec::new()).await.unwrap();
    stage.until_empty("", PATIENCE).await;
    store_again(stage, record).await;
    only(spool).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_comes_back_after_its_end_is_not_called_damaged() {
    let stage = Stage::new();
    let spool = open(&stage).await;
    let again = brought_back(&stage, &spool, 0).await;
    let job = again.job().id;
    let error = again.content(0).await.unwrap_err();
    assert!(matches!(error, ContentError::Unavailable { .. }), "{error:?}");
    assert_eq!(again.done(Vec::new()).await, Err(SettleError::LeaseLost(job)));
    stage.until_empty("", PATIENCE).await;
    assert_eq!(lease(&spool, 1, Duration::from_secs(5)).await.len(), 0, "nobody gets it again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_is_gone_before_a_recipient_has_ended_is_damage() {
    let stage = Stage::new();
    let spool = open(&stage).await;
    let again = brought_back(&stage, &spool, 1).await;
    let error = again.content(0).await.unwrap_err();
    assert!(matches!(error, ContentError::Damaged { .. }), "{error:?}");
    // Who leased it tells the sender, and ends it.
    again.done(Vec::new()).await.unwrap();
    stage.until_empty("", PATIENCE).await;
}
