//! Partitions, lanes and instances in JetStream: whatever the settings of those who share a queue, no mail is stranded, and no
//! content stays behind.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

#[path = "jetstream/stage.rs"]
#[allow(dead_code, reason = "other files of tests use the rest")]
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::{JobId, JobKind, QueueId};
use rustix::process::Signal;
use spool::conformance::sample;
use spool::jetstream::{Durability, JetStream, JetStreamLease, OpenError, Settings};
use spool::{
    AcceptError, EventLog as _, EventQuery, EventReader as _, Follow, Lease as _, Query, Retry, Selection,
    SettleError, Spool as _,
};

use stage::{LEASE, PATIENCE, Stage, deliver, first, large, lease, now, read, simple};

/// Content that is kept beside its jobs must be gone this long after the last of them.
const TIDY: Duration = Duration::from_secs(20);

/// A process whose leases don't lapse while a test works through many of them on a busy machine.
async fn open_patient(stage: &Stage) -> JetStream {
    JetStream::open(Settings { lease: Duration::from_secs(30), ..stage.settings() }).await.unwrap()
}

async fn accept(spool: &JetStream, numbers: std::ops::Range<u64>) -> BTreeSet<JobId> {
    let mut accepted = BTreeSet::new();
    for number in numbers {
        let message = simple(number, &format!("account{}", number % 40));
        accepted.insert(first(message.message.queue_id));
        spool.accept(message).await.unwrap();
    }
    accepted
}

/// Lets a job wait for so long.
async fn defer(lease: JetStreamLease, millis: u64) {
    let remaining = match &lease.job().kind {
        JobKind::Delivery { recipients } => recipients.clone(),
        JobKind::Report { .. } => Vec::new(),
    };
    let at = now().plus_millis(millis);
    let retry = Retry { at, remaining, attempts: 1, reason: "later".into(), signature: None };
    lease.retry(retry, Vec::new()).await.unwrap();
}

/// Defers or holds some of what is ready.
async fn set_back(spool: &JetStream, count: usize) {
    let mut done = 0;
    while done < count {
        let leases = lease(spool, count - done, PATIENCE).await;
        assert!(!leases.is_empty(), "there is mail to set back");
        for lease in leases {
            done += 1;
            match done % 3 {
                0 => lease.hold("for a while".into()).await.unwrap(),
                1 => defer(lease, 500).await,
                _ => defer(lease, 3_600_000).await,
            }
        }
    }
}

async fn release_all(spool: &JetStream) {
    for entry in spool.look(Query { limit: 10_000, ..Query::default() }).await.unwrap() {
        spool.release(Selection::Job(entry.job.id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_outlives_any_change_of_partitions_and_lanes() {
    let stage = Stage::new();
    let mut accepted = BTreeSet::new();
    for (round, (partitions, lanes)) in (0_u64..).zip([(8, 16), (1, 2), (8, 2), (1, 16), (8, 16)]) {
        let spool = stage.open_with(partitions, lanes).await;
        accepted.extend(accept(&spool, round * 100..(round + 1) * 100).await);
        set_back(&spool, 60).await;
        spool.close().await;
    }
    let last = stage.open_with(1, 2).await;
    release_all(&last).await;
    let delivered = deliver(&last, accepted.len()).await;
    assert_eq!(delivered.keys().copied().collect::<BTreeSet<_>>(), accepted);
    assert!(delivered.values().all(|times| *times == 1), "each once");
    stage.until_empty("stage", TIDY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_with_different_settings_serve_each_others_mail() {
    let stage = Stage::new();
    let few = stage.open_with(1, 2).await;
    let mut accepted = accept(&few, 0..50).await;
    // It makes what the other doesn't know of.
    let many = stage.open_with(6, 12).await;
    let begun = Instant::now();
    accepted.extend(accept(&many, 50..150).await);
    let by_few = deliver(&few, 150).await;
    assert!(begun.elapsed() < Duration::from_secs(40), "it took {:?}", begun.elapsed());
    assert_eq!(by_few.into_keys().collect::<BTreeSet<_>>(), accepted);
    let accepted = accept(&few, 150..200).await;
    assert_eq!(deliver(&many, 50).await.into_keys().collect::<BTreeSet<_>>(), accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_dont_see_each_other() {
    let stage = Stage::new();
    let ours = stage.open().await;
    let theirs = Settings { instance: "other".into(), ..stage.settings() };
    let theirs = JetStream::open(theirs).await.unwrap();
    let message = large(1, 600_000, &[&["a@one.example"]]);
    let job = first(message.message.queue_id);
    ours.accept(message.clone()).await.unwrap();
    let event = mail::Event {
        kind: mail::EventKind::Accepted,
        at: now(),
        job,
        message: Arc::new(mail::EventMessage::from(&message.message)),
        recipient: message.jobs[0].recipients[0].address.clone(),
        attempt: 0,
        hop: mail::Hop::default(),
        status: None,
        reply: None,
        reason: String::new(),
        retry_at: None,
        redelivered: false,
    };
    ours.events().append(vec![event.clone()]).await.unwrap();

    assert!(lease(&theirs, 1, Duration::from_secs(2)).await.is_empty());
    assert!(theirs.look(Query::default()).await.unwrap().is_empty());
    assert!(theirs.remove(Selection::Job(job)).await.unwrap().is_empty());
    assert_eq!(theirs.hold(Selection::Job(job), "no".into()).await.unwrap(), 0);
    let summary = theirs.summary(10).await;
    assert_eq!((summary.ready, summary.leased, summary.hosts), (0, 0, Vec::new()));
    assert_eq!(events(&theirs).await, Vec::new());

    assert_eq!(events(&ours).await, [event]);
    let summary = ours.summary(10).await;
    assert_eq!((summary.ready, summary.hosts), (1, vec![("one.example".to_owned(), 1)]));
    assert_eq!(deliver(&ours, 1).await.into_keys().collect::<Vec<_>>(), [job]);
}

async fn events(spool: &JetStream) -> Vec<mail::Event> {
    let query = EventQuery { since: mail::Timestamp(0), messages: Vec::new(), follow: Follow::UntilNow };
    let mut reader = spool.events().read(query).await.unwrap();
    let mut events = Vec::new();
    while let Some(some) = reader.next().await.unwrap() {
        events.extend(some);
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_lose_mail_is_refused_unless_that_is_taken() {
    let stage = Stage::with("");
    let refused = JetStream::open(stage.settings()).await.map(drop).unwrap_err();
    let OpenError::Durability(cause) = refused else { panic!("{refused}") };
    assert!(cause.contains("sync_interval: always") && cause.contains("--nats-unsafe-sync"), "{cause}");
    let settings = Settings { durability: Durability::Unknown, ..stage.settings() };
    let spool = JetStream::open(settings).await.unwrap();
    let accepted = accept(&spool, 0..1).await;
    assert_eq!(deliver(&spool, 1).await.into_keys().collect::<BTreeSet<_>>(), accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_of_any_size_comes_back_and_is_gone_at_the_end() {
    let stage = Stage::new();
    let spool = open_patient(&stage).await;
    let sizes = [1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, (1 << 20) - 1, 1 << 20, 5 << 20, 30 << 20];
    let mut contents = BTreeMap::new();
    for (number, size) in (0..).zip(sizes) {
        let jobs: &[&[&str]] = &[&["a@one.example"], &["b@two.example"]];
        let message = large(number, size, &jobs[..1 + size % 2]);
        let jobs = message.jobs.len();
        contents.insert(message.message.queue_id, (message.content.pieces.concat(), jobs));
        spool.accept(message).await.unwrap();
    }
    let jobs: usize = contents.values().map(|(_, jobs)| jobs).sum();
    // Once when it is fresh, and once when it has waited.
    for round in 0..2 {
        let mut seen = BTreeSet::new();
        while seen.len() < jobs {
            for lease in lease(&spool, 4, PATIENCE).await {
                let id = lease.job().id;
                assert!(read(&lease).await == contents[&id.queue_id].0, "{id} in round {round}");
                assert!(seen.insert(id), "{id} comes once");
                match round {
                    0 => defer(lease, 60_000).await,
                    _ => lease.done(Vec::new()).await.unwrap(),
                }
            }
        }
        release_all(&spool).await;
    }
    stage.until_empty("stage", TIDY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_content_stays_whichever_way_its_jobs_end() {
    let stage = Stage::new();
    let spool = open_patient(&stage).await;
    let recipients: Vec<Vec<String>> = (0..300)
        .map(|host| (host..1_000).step_by(300).map(|number| format!("u{number}@d{host}.example")).collect())
        .collect();
    assert_eq!(recipients.iter().map(Vec::len).sum::<usize>(), 1_000);
    let groups: Vec<Vec<&str>> =
        recipients.iter().map(|group| group.iter().map(String::as_str).collect()).collect();
    let groups: Vec<&[&str]> = groups.iter().map(Vec::as_slice).collect();
    let message = large(1, 700_000, &groups);
    let (queue_id, content) = (message.message.queue_id, message.content.pieces.concat());
    spool.accept(message).await.unwrap();

    let reports = first_round(&spool, &content).await;
    let waiting = removed_some(&spool, queue_id).await;
    // What waits and what is held is put forward, with the reports; all must still have their content.
    release_all(&spool).await;
    let mut left = waiting + reports;
    while left > 0 {
        let leases = lease(&spool, 64, PATIENCE).await;
        assert!(!leases.is_empty(), "{left} jobs are still to come");
        for lease in leases {
            assert!(read(&lease).await == content, "{}", lease.job().id);
            lease.done(Vec::new()).await.unwrap();
            left -= 1;
        }
    }
    stage.until_empty("stage", TIDY).await;
}

/// Ends each of the 300 jobs in one of six ways; says how many reports there are.
async fn first_round(spool: &JetStream, content: &[u8]) -> usize {
    let mut seen = BTreeSet::new();
    let mut reports = 0;
    while seen.len() < 300 {
        for mut lease in lease(spool, 64, PATIENCE).await {
            let id = lease.job().id;
            if id.report.is_some() || !seen.insert(id) {
                // A report that is early, or what was narrowed and dropped: later.
                defer(lease, 3_600_000).await;
                continue;
            }
            let JobKind::Delivery { recipients } = lease.job().kind.clone() else { panic!("{id} is none") };
            let bounced = vec![sample::bounced(&recipients[0], now())];
            match id.number % 6 {
                0 => lease.done(Vec::new()).await.unwrap(),
                1 => {
                    reports += 1;
                    lease.done(bounced).await.unwrap();
                }
                2 => lease.hold("for a while".into()).await.unwrap(),
                3 => {
                    reports += 1;
                    lease.narrow(recipients[1..].to_vec(), bounced).await.unwrap();
                    assert!(read(&lease).await == content);
                    defer(lease, 3_600_000).await;
                }
                4 => {
                    lease.narrow(recipients[1..].to_vec(), Vec::new()).await.unwrap();
                    lease.done(Vec::new()).await.unwrap();
                }
                _ => defer(lease, 3_600_000).await,
            }
        }
    }
    reports
}

/// Removes every other job that is deferred; says how many deliveries are left.
async fn removed_some(spool: &JetStream, queue_id: QueueId) -> usize {
    let query = Query { queue_id: Some(queue_id), limit: 10_000, ..Query::default() };
    let entries = spool.look(query).await.unwrap();
    let deliveries: Vec<JobId> =
        entries.iter().map(|entry| entry.job.id).filter(|id| id.report.is_none()).collect();
    // Of six ways three leave a job.
    assert_eq!(deliveries.len(), 150);
    let gone: Vec<JobId> = deliveries.iter().copied().filter(|id| id.number % 12 == 5).collect();
    for job in &gone {
        assert_eq!(spool.remove(Selection::Job(*job)).await.unwrap(), [*job]);
    }
    deliveries.len() - gone.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_interrupted_acceptance_leaves_goes_by_itself() {
    let stage = Stage::new();
    let spool = stage.open().await;
    let message = large(1, 30 << 20, &[&["a@one.example"]]);
    let queue_id = message.message.queue_id;
    let accepting = tokio::spawn(async move { spool.accept(message).await });
    // In the middle: some chunks are there, the record isn't.
    let end = Instant::now() + PATIENCE;
    while stage.messages("BODY").await.values().sum::<u64>() == 0 {
        assert!(Instant::now() < end, "waited in vain for a chunk");
        tokio::task::yield_now().await;
    }
    accepting.abort();
    assert!(accepting.await.is_err_and(|error| error.is_cancelled()), "it was in the middle");

    let again = stage.open().await;
    assert!(lease(&again, 1, LEASE).await.is_empty());
    assert!(again.look(Query::default()).await.unwrap().is_empty());
    let left = chunks(&stage).await;
    assert!((1..60).contains(&left.len()), "{} of 60", left.len());
    for (of, ttl) in left {
        assert!(
            of == queue_id && ttl.is_some_and(|secs| (168 * 3_600..400 * 86_400).contains(&secs)),
            "{ttl:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_accepts_takes_no_mail_from_who_delivers() {
    let stage = Stage::new();
    let (worker, acceptor) = (stage.open().await, stage.open().await);
    let accepted = accept(&acceptor, 0..50).await;
    let mut delivered = BTreeSet::new();
    while delivered.len() < accepted.len() {
        let leases = lease(&worker, 64, PATIENCE).await;
        assert!(!leases.is_empty(), "{} of {} came", delivered.len(), accepted.len());
        for lease in leases {
            assert!(!lease.job().redelivered, "nobody had it before");
            delivered.insert(lease.job().id);
            lease.done(Vec::new()).await.unwrap();
        }
    }
    assert_eq!(delivered, accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_before_the_servers_end_is_lost() {
    let mut stage = Stage::new();
    // So long that it doesn't lapse meanwhile.
    let settings = Settings { lease: 5 * PATIENCE, ..stage.settings() };
    let spool = JetStream::open(settings).await.unwrap();
    let accepted = accept(&spool, 0..1).await;
    let leases = lease(&spool, 1, PATIENCE).await;
    leases[0].touch().await.unwrap();
    stage.nats.kill_all();
    stage.nats.restart();
    stage.nats.wait_ready();
    let end = Instant::now() + PATIENCE;
    loop {
        match leases[0].touch().await {
            Err(SettleError::LeaseLost(_)) => break,
            Err(SettleError::Unavailable { .. }) if Instant::now() < end => {}
            other => panic!("a server that started anew may have handed it to another: {other:?}"),
        }
    }
    drop(leases);
    assert_eq!(deliver(&spool, 1).await.into_keys().collect::<BTreeSet<_>>(), accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_answers_lost_what_was_accepted_is_kept_once() {
    let stage = Stage::new();
    let spool = Arc::new(open_patient(&stage).await);
    let mut accepting = tokio::task::JoinSet::new();
    let stop_at = 300;
    let mut accepted: BTreeMap<JobId, (usize, Result<(), AcceptError>)> = BTreeMap::new();
    for number in 0..600_u64 {
        if number == stop_at {
            stage.nats.process(0).signal(Signal::STOP);
        }
        // Small content travels along, large content is kept beside, and every third message has two jobs.
        let jobs: &[&[&str]] = &[&["a@one.example"], &["b@two.example"]];
        let octets = if number % 5 == 0 { 300_000 } else { 500 };
        let message = large(number, octets, &jobs[..if number % 3 == 0 { 2 } else { 1 }]);
        let spool = Arc::clone(&spool);
        accepting.spawn(async move {
            let (id, jobs) = (first(message.message.queue_id), message.jobs.len());
            (id, jobs, spool.accept(message).await)
        });
        if number < stop_at && number % 20 == 0 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::sleep(Duration::from_secs(15)).await;
    stage.nats.process(0).signal(Signal::CONT);
    while let Some(done) = accepting.join_next().await {
        let (id, jobs, result) = done.unwrap();
        accepted.insert(id, (jobs, result));
    }
    let refused = accepted.values().filter(|(_, result)| result.is_err()).count();
    assert!(refused > 0 && refused < 600, "some answers are lost: {refused}");

    let expected: usize = accepted.values().filter(|(_, result)| result.is_ok()).map(|(jobs, _)| jobs).sum();
    let mut delivered: BTreeMap<JobId, usize> = BTreeMap::new();
    let mut kept = 0;
    let end = Instant::now() + 2 * PATIENCE;
    // Until all is there that was kept, and nothing more can come.
    loop {
        let leases = lease(&spool, 64, 2 * LEASE).await;
        if leases.is_empty() && kept == expected && is_empty(&stage, "MAIL").await {
            break;
        }
        assert!(Instant::now() < end, "waited in vain: {kept} of {expected} jobs came");
        for lease in leases {
            let id = lease.job().id;
            assert_eq!(read(&lease).await.len() as u64, lease.job().message.octets, "{id} has its content");
            kept += usize::from(accepted[&first(id.queue_id)].1.is_ok());
            *delivered.entry(id).or_default() += 1;
            lease.done(Vec::new()).await.unwrap();
        }
    }
    assert!(delivered.values().all(|times| *times == 1), "none twice");
    assert!(is_empty(&stage, "RETRY").await && is_empty(&stage, "DEAD").await);
    // A chunk that came late, after its message was refused, goes by itself.
    let refused: BTreeSet<QueueId> =
        accepted.iter().filter(|(_, (_, result))| result.is_err()).map(|(id, _)| id.queue_id).collect();
    for (queue_id, ttl) in chunks(&stage).await {
        assert!(refused.contains(&queue_id) && ttl.is_some(), "a chunk of {queue_id} is left: {ttl:?}");
    }
}

async fn is_empty(stage: &Stage, part: &str) -> bool {
    stage.messages(part).await.values().all(|count| *count == 0)
}

/// The messages of all chunks, with the seconds that each stays, if it ends.
async fn chunks(stage: &Stage) -> Vec<(QueueId, Option<u64>)> {
    let context = stage.context().await;
    let mut chunks = Vec::new();
    for name in stage.messages("BODY").await.into_keys() {
        let stream = context.get_stream(&name).await.unwrap();
        let state = stream.cached_info().state.clone();
        for sequence in state.first_sequence..=state.last_sequence {
            let Ok(chunk) = stream.get_raw_message(sequence).await else { continue };
            let queue_id = chunk.subject.split('.').nth(3).unwrap().parse().unwrap();
            let ttl =
                chunk.headers.get("Nats-TTL").and_then(|ttl| ttl.as_str().strip_suffix('s')?.parse().ok());
            chunks.push((queue_id, ttl));
        }
    }
    chunks
}
