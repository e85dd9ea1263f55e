//! What a version can't read holds up nothing and isn't lost: it is put aside, and can be put back.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

#[path = "jetstream/stage.rs"]
#[allow(dead_code, reason = "other files of tests use the rest")]
mod stage;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use mail::{JobId, QueueId};
use prost::Message as _;
use proto::spool::v1 as wire;
use spool::jetstream::{JetStream, Settings};
use spool::{DeadLetter, DeadSelection, Lease as _, Retry, Revival, Selection, Spool as _};

use stage::{LEASE, PATIENCE, Stage, deliver, deliver_by, first, large, lease, now, read, simple};

/// A record as it stands in a stream of mail.
struct Record {
    stream: String,
    sequence: u64,
    subject: String,
    payload: Vec<u8>,
}

/// The record of a job that nobody has leased yet.
async fn record(context: &Context, job: JobId) -> Record {
    for partition in 0..2 {
        let name = format!("stage-MAIL-{partition}");
        let stream = context.get_stream(&name).await.unwrap();
        let filter = format!("stage.mail.{partition}.*.{job}");
        if let Ok(message) = stream.get_last_raw_message_by_subject(&filter).await {
            return Record {
                stream: name,
                sequence: message.sequence,
                subject: message.subject.to_string(),
                payload: message.payload.to_vec(),
            };
        }
    }
    panic!("no stream of mail has {job}")
}

async fn publish(context: &Context, subject: &str, payload: Vec<u8>) -> u64 {
    context.publish(subject.to_owned(), payload.into()).await.unwrap().await.unwrap().sequence
}

/// The same record as a newer program might write it, which demands what this one doesn't know.
fn demanding(payload: &[u8]) -> Vec<u8> {
    let mut job = wire::Job::decode(payload).unwrap();
    job.message.as_mut().unwrap().tls = 77;
    job.encode_to_vec()
}

/// The same record with a field that this program doesn't know, and needn't.
fn extended(payload: &[u8]) -> Vec<u8> {
    // Field 900, a text.
    [payload, &[0xa2, 0x38, 3, b'n', b'e', b'w']].concat()
}

/// Puts a record aside by hand, as an older program would have done.
async fn put_aside(context: &Context, record: &Record, payload: Vec<u8>) -> u64 {
    let (partition, job) = grave(&record.subject);
    let mut headers = HeaderMap::new();
    headers.insert("Stagepost-Subject", record.subject.as_str());
    headers.insert("Stagepost-Cause", "put aside by an older program");
    headers.insert("Stagepost-Place", format!("{} {}", record.stream, record.sequence));
    let subject = format!("stage.dead.{partition}.{job}");
    let stored = context.publish_with_headers(subject, headers, payload.into()).await.unwrap();
    stored.await.unwrap().sequence
}

/// The partition and the job that a subject names.
fn grave(subject: &str) -> (&str, String) {
    let tokens: Vec<&str> = subject.split('.').collect();
    (tokens[2], tokens[4..].join("."))
}

async fn delete(context: &Context, stream: &str, sequence: u64) {
    assert!(context.get_stream(stream).await.unwrap().delete_message(sequence).await.unwrap());
}

/// Waits until there are so many dead letters.
async fn dead(spool: &JetStream, count: usize) -> Vec<DeadLetter> {
    let end = Instant::now() + PATIENCE;
    loop {
        let letters = spool.dead_letters(0, 0).await.unwrap();
        assert!(letters.len() <= count, "more than {count}: {letters:?}");
        if letters.len() == count {
            return letters;
        }
        assert!(Instant::now() < end, "waited in vain for {count} dead letters: {letters:?}");
        // Whoever is to find them must be fetching.
        drop(lease(spool, 1, Duration::from_millis(100)).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cant_be_read_holds_up_nothing() {
    let mut stage = Stage::new();
    let (one, two) = (stage.open().await, stage.open().await);
    let context = stage.context().await;
    let mut good = BTreeSet::new();
    let mut models = Vec::new();
    for number in 0..1_000_u64 {
        let message = simple(number, &format!("account{}", number % 7));
        let queue_id = message.message.queue_id;
        good.insert(first(queue_id));
        one.accept(message).await.unwrap();
        if number % 100 == 50 {
            models.push(record(&context, first(queue_id)).await);
        }
    }
    let job = |number: u8| first(QueueId::new(now(), [number; 10]));
    let [a, b, c, d, e, ..] = &models[..] else { panic!("there are ten") };
    let bad = [
        // It demands what isn't known.
        (b.subject.clone(), demanding(&b.payload)),
        // No protobuf, under a new job and under one that exists.
        (format!("stage.mail.0.1.{}", job(1)), b"\xff\xff\xff no record".to_vec()),
        (c.subject.clone(), Vec::from(b"\x0a\xff\xff\xff\xff\x7f")),
        // Without a message, and empty.
        (format!("stage.mail.1.0b.{}", job(2)), wire::Job { message: None, ..wire_job(a) }.encode_to_vec()),
        (format!("stage.mail.1.1.{}", job(3)), Vec::new()),
        // Of another job.
        (d.subject.clone(), e.payload.clone()),
        // Foreign subjects: in a lane, in none, and in one that nobody serves.
        ("stage.mail.0.1.hello".to_owned(), a.payload.clone()),
        ("stage.mail.1.hello".to_owned(), a.payload.clone()),
        (format!("stage.mail.1.99.{}", job(4)), a.payload.clone()),
    ];
    for (subject, payload) in &bad {
        publish(&context, subject, payload.clone()).await;
    }
    // A newer record of a job is read all the same.
    delete(&context, &a.stream, a.sequence).await;
    publish(&context, &a.subject, extended(&a.payload)).await;

    let delivered = deliver_by(&[&one, &two], good.len()).await;
    assert!(delivered.keys().copied().collect::<BTreeSet<_>>() == good, "all come");
    assert!(delivered.values().all(|times| *times == 1), "each once");
    let letters = dead(&one, bad.len()).await;
    let stood: BTreeSet<_> = letters.iter().map(|letter| letter.subject.clone()).collect();
    assert_eq!(stood, bad.iter().map(|(subject, _)| subject.clone()).collect());
    assert!(letters.iter().all(|letter| !letter.cause.is_empty()), "{letters:?}");
    let expected = |subject: &str| bad.iter().find(|(other, _)| other == subject).unwrap().1.len();
    assert!(letters.iter().all(|letter| letter.octets == expected(&letter.subject) as u64));

    // Nothing is left that could come again, not even after all lapse or the server is started anew.
    stage.until_empty("MAIL", PATIENCE).await;
    drop((one, two));
    stage.nats.kill_all();
    stage.nats.restart();
    stage.nats.wait_ready();
    let again = stage.open().await;
    assert!(lease(&again, 1, LEASE).await.is_empty());
    assert_eq!(again.dead_letters(0, 0).await.unwrap(), letters);
    let summary = again.summary(0).await;
    assert_eq!((summary.dead_letters, summary.ready), (bad.len() as u64, 0));
    // Pages follow each other.
    let page = again.dead_letters(letters[3].number, 2).await.unwrap();
    assert_eq!(page, letters[4..6]);
}

fn wire_job(record: &Record) -> wire::Job {
    wire::Job::decode(&record.payload[..]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_read_meanwhile_is_worked_on_and_the_rest_comes_back() {
    let stage = Stage::new();
    let (one, two) = (stage.open().await, stage.open().await);
    let context = stage.context().await;
    let mut readable = Vec::new();
    for number in 0..20 {
        let message = simple(number, "a");
        let queue_id = message.message.queue_id;
        one.accept(message).await.unwrap();
        let record = record(&context, first(queue_id)).await;
        delete(&context, &record.stream, record.sequence).await;
        put_aside(&context, &record, record.payload.clone()).await;
        readable.push(first(queue_id));
    }
    let message = simple(20, "a");
    let unreadable = first(message.message.queue_id);
    one.accept(message).await.unwrap();
    let model = record(&context, unreadable).await;
    delete(&context, &model.stream, model.sequence).await;
    let before = put_aside(&context, &model, demanding(&model.payload)).await;

    // One by its number, and one that isn't there.
    let number = one.dead_letters(0, 0).await.unwrap()[0].number;
    let once = Revival { revived: 1, left: 0 };
    assert_eq!(one.revive(DeadSelection::Number(number)).await.unwrap(), once);
    assert_eq!(one.revive(DeadSelection::Number(number)).await.unwrap(), Revival::default());
    // All, by two at the same time.
    let (by_one, by_two) = tokio::join!(one.revive(DeadSelection::All), two.revive(DeadSelection::All));
    assert!(by_one.unwrap().revived + by_two.unwrap().revived >= 20);
    let delivered = deliver(&two, 20).await;
    assert_eq!(delivered.into_keys().collect::<Vec<_>>(), readable);
    assert!(lease(&one, 1, Duration::from_secs(2)).await.is_empty(), "each once");
    let letters = dead(&one, 1).await;
    assert!(letters[0].number > before, "the old one is gone");
    assert_eq!(letters[0].subject, model.subject);
    assert!(letters[0].cause.contains("tls"), "{}", letters[0].cause);
    stage.until_empty("MAIL", PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_goes_on_is_not_doubled_by_its_dead_letter() {
    let stage = Stage::new();
    let spool = stage.open().await;
    let context = stage.context().await;
    let message = simple(1, "a");
    let job = first(message.message.queue_id);
    spool.accept(message).await.unwrap();
    let queued = record(&context, job).await;
    // Put back already, and the answer was lost: it is there once.
    put_aside(&context, &queued, queued.payload.clone()).await;
    assert_eq!(spool.revive(DeadSelection::All).await.unwrap(), Revival { revived: 1, left: 0 });
    let leases = lease(&spool, 8, PATIENCE).await;
    assert_eq!(leases.len(), 1);
    // It waits now; what would double it stays where it is.
    for lease in leases {
        let remaining = match &lease.job().kind {
            mail::JobKind::Delivery { recipients } => recipients.clone(),
            mail::JobKind::Report { .. } => panic!("a delivery was accepted"),
        };
        let at = now().plus_secs(3_600);
        let retry = Retry { at, remaining, attempts: 1, reason: "later".into(), signature: None };
        lease.retry(retry, Vec::new()).await.unwrap();
    }
    put_aside(&context, &queued, queued.payload.clone()).await;
    assert_eq!(spool.revive(DeadSelection::All).await.unwrap(), Revival { revived: 0, left: 1 });
    assert_eq!(spool.dead_letters(0, 0).await.unwrap().len(), 1);
    assert!(lease(&spool, 1, Duration::from_secs(1)).await.is_empty());

    // What is left of a job that was settled goes, whether it can be read or not.
    drop(spool);
    publish(&context, &queued.subject, demanding(&queued.payload)).await;
    let another = stage.open().await;
    drop(lease(&another, 1, Duration::from_secs(1)).await);
    stage.until_empty("MAIL", PATIENCE).await;
    assert_eq!(another.dead_letters(0, 0).await.unwrap().len(), 1, "no second one");
    assert_eq!(another.summary(0).await.waiting, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_put_aside_by_somebody_who_ended_then_is_put_aside_once() {
    let stage = Stage::new();
    let spool = stage.open().await;
    let context = stage.context().await;
    let message = simple(1, "a");
    let job = first(message.message.queue_id);
    spool.accept(message).await.unwrap();
    let mut model = record(&context, job).await;
    delete(&context, &model.stream, model.sequence).await;
    model.sequence = publish(&context, &model.subject, demanding(&model.payload)).await;
    let number = put_aside(&context, &model, demanding(&model.payload)).await;
    drop(lease(&spool, 1, Duration::from_secs(1)).await);
    stage.until_empty("MAIL", PATIENCE).await;
    let letters = spool.dead_letters(0, 0).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.number).collect::<Vec<_>>(), [number]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_content_of_a_dead_letter_stays_until_it_is_put_back_and_ends() {
    let stage = Stage::new();
    let spool = stage.open().await;
    let context = stage.context().await;
    let message = large(1, 1_200_000, &[&["a@one.example"], &["b@two.example"]]);
    let (queue_id, content) = (message.message.queue_id, message.content.pieces.concat());
    spool.accept(message).await.unwrap();
    let second = JobId::delivery(queue_id, 1);
    let mut model = record(&context, second).await;
    delete(&context, &model.stream, model.sequence).await;
    model.sequence = publish(&context, &model.subject, demanding(&model.payload)).await;
    assert_eq!(deliver(&spool, 1).await.into_keys().collect::<Vec<_>>(), [first(queue_id)]);
    let letters = dead(&spool, 1).await;
    // All that is left to do after the first job was done when another was asked about.
    assert_eq!(spool.summary(0).await.dead_letters, 1);
    assert_eq!(stage.messages("BODY").await.values().sum::<u64>(), 3);
    let body = model.stream.replace("MAIL", "BODY");
    assert_eq!(ttl_of_last(&context, &body).await, "never");

    // Somebody who can read it comes.
    delete(&context, "stage-DEAD", letters[0].number).await;
    put_aside(&context, &model, model.payload.clone()).await;
    assert_eq!(spool.revive(DeadSelection::All).await.unwrap(), Revival { revived: 1, left: 0 });
    assert!(ttl_of_last(&context, &body).await.ends_with('s'));
    for lease in lease(&spool, 1, PATIENCE).await {
        assert_eq!(lease.job().id, second);
        assert!(read(&lease).await == content, "all octets are there");
        lease.done(Vec::new()).await.unwrap();
    }
    stage.until_empty("BODY", Duration::from_secs(20)).await;
    // What is removed takes nothing with it that others need.
    assert!(spool.remove(Selection::Message(queue_id)).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_that_cant_be_kept_hold_up_nothing_either() {
    let stage = Stage::new();
    // So long that no lease lapses meanwhile.
    let settings = Settings { lease: 5 * PATIENCE, ..stage.settings() };
    let spool = JetStream::open(settings).await.unwrap();
    let context = stage.context().await;
    context.delete_stream("stage-DEAD").await.unwrap();
    let message = simple(1, "a");
    let job = first(message.message.queue_id);
    spool.accept(message).await.unwrap();
    let bad = format!("stage.mail.1.1.{}", first(QueueId::new(now(), [9; 10])));
    publish(&context, &bad, b"nothing".to_vec()).await;
    // While burying fails and is tried again, and somebody waits for its end, jobs are given back.
    for _ in 0..3 {
        let leases = lease(&spool, 4, PATIENCE).await;
        assert_eq!(leases.iter().map(|lease| lease.job().id).collect::<Vec<_>>(), [job]);
        assert_eq!(spool.summary(0).await.leased, 1);
        drop(leases);
    }
    assert_eq!(deliver(&spool, 1).await.into_keys().collect::<Vec<_>>(), [job]);
    // The stream is made anew, and then it is put aside.
    let end = Instant::now() + PATIENCE;
    while context.get_stream("stage-DEAD").await.is_err() {
        assert!(Instant::now() < end, "waited in vain for a stream of dead letters");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(dead(&spool, 1).await[0].subject, bad);
}

/// How long the last chunk of a stream stays.
async fn ttl_of_last(context: &Context, body: &str) -> String {
    let stream = context.get_stream(body).await.unwrap();
    let chunk = stream.get_raw_message(stream.cached_info().state.last_sequence).await.unwrap();
    chunk.headers.get("Nats-TTL").unwrap().to_string()
}
