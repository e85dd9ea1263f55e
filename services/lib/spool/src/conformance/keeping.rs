//! What is kept, and that it is kept once.

use bytes::Bytes;
use mail::{JobId, QueueId, Timestamp};

use super::sample::{bounced, deferred, message, recipients, results, simple};
use super::{Setup, Stage, lease_one, leases_of, must, read};
use crate::{Content, Lease, NewMessage, Origin, Query, Retry, Spool};

/// Envelope and content come back as they were.
pub async fn accepted_mail_survives_a_kill<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let new = message(
        1,
        "a",
        &[&["x@one.example", "\"q@\"@one.example"], &["y@[192.0.2.1]"]],
        b"text",
        stage.now(),
    );
    must(spool.accept(new.clone()).await, "accept");
    stage.kill(spool).await;
    let spool = stage.open(Setup::default()).await;
    let mut leases = leases_of(&spool, 2).await;
    leases.sort_by_key(|lease| lease.job().id);
    assert_eq!(leases.len(), 2);
    for (lease, number) in leases.iter().zip(0..) {
        assert_eq!(lease.job().id, JobId::delivery(new.message.queue_id, number));
        assert_eq!(*lease.job().message, new.message);
        assert_eq!(recipients(lease.job()), new.jobs[usize::from(number)].recipients);
        assert!(lease.job().redelivered, "somebody may have held it before the kill");
        assert_eq!(read(lease).await, b"text");
    }
}

/// Accept, defer, fail, report and end, with a kill after each step: every job ends once.
pub async fn a_kill_between_any_two_steps_loses_and_repeats_nothing<S: Stage>(stage: &mut S) {
    let mut spool = stage.open(Setup::default()).await;
    let new = message(1, "a", &[&["x@one.example", "y@one.example"]], b"text", stage.now());
    must(spool.accept(new.clone()).await, "accept");
    spool = reopen(stage, spool).await;

    let first = lease_one(&spool).await;
    spool = reopen(stage, spool).await;
    drop(first);

    let second = lease_one(&spool).await;
    let later = stage.now().plus_secs(600);
    let remaining: Vec<_> =
        recipients(second.job()).iter().map(|recipient| deferred(recipient, stage.now())).collect();
    let retry = Retry {
        at: later,
        remaining: remaining.clone(),
        attempts: 1,
        reason: "421 later".into(),
        signature: Some("DKIM-Signature: v=1\r\n".into()),
    };
    must(second.retry(retry, Vec::new()).await, "retry");
    spool = reopen(stage, spool).await;
    let summary = spool.summary(0).await;
    assert_eq!((summary.ready, summary.leased, summary.waiting), (0, 0, 1));

    stage.advance(600_000).await;
    let third = lease_one(&spool).await;
    assert_eq!(recipients(third.job()), remaining);
    assert_eq!(third.job().attempts, 1);
    assert_eq!(third.job().deferred.as_deref(), Some("421 later"));
    assert_eq!(third.job().signature.as_deref(), Some("DKIM-Signature: v=1\r\n"));
    spool = reopen(stage, spool).await;
    drop(third);

    let fourth = lease_one(&spool).await;
    let failures: Vec<_> = remaining.iter().map(|recipient| bounced(recipient, stage.now())).collect();
    must(fourth.done(failures.clone()).await, "fail");
    spool = reopen(stage, spool).await;

    let report = lease_one(&spool).await;
    assert_eq!(report.job().id, JobId { report: Some(1), ..JobId::delivery(new.message.queue_id, 0) });
    assert_eq!(results(report.job()), failures);
    assert_eq!(read(&report).await, b"text");
    must(report.done(Vec::new()).await, "end the report");
    spool = reopen(stage, spool).await;
    let summary = spool.summary(0).await;
    assert_eq!((summary.ready, summary.leased, summary.waiting, summary.held), (0, 0, 0, 0));
}

async fn reopen<S: Stage>(stage: &mut S, spool: S::Spool) -> S::Spool {
    stage.kill(spool).await;
    stage.open(Setup::default()).await
}

/// Reports of one job are numbered, and are there when the settlement is.
pub async fn a_report_comes_with_the_settlement_that_makes_it<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let new = message(1, "a", &[&["x@one.example", "y@one.example", "z@one.example"]], b"text", stage.now());
    let all = new.jobs[0].recipients.clone();
    let failure = |place: usize| vec![bounced(&all[place], Timestamp(5))];
    must(spool.accept(new.clone()).await, "accept");
    let mut delivery = lease_one(&spool).await;
    must(delivery.narrow(all[1..].to_vec(), failure(0)).await, "narrow");
    let retry = Retry {
        at: stage.now().plus_secs(60),
        remaining: all[2..].to_vec(),
        attempts: 1,
        reason: "later".into(),
        signature: None,
    };
    must(delivery.retry(retry, failure(1)).await, "retry");
    stage.kill(spool).await;
    let spool = stage.open(Setup::default()).await;
    stage.advance(60_000).await;
    let leases = leases_of(&spool, 3).await;
    let mut numbers = Vec::new();
    for lease in leases {
        if lease.job().id.report.is_none() {
            assert_eq!(recipients(lease.job()), &all[2..]);
            must(lease.done(failure(2)).await, "fail");
        } else {
            let number = lease.job().id.report.unwrap_or_default();
            assert_eq!(results(lease.job()), failure(usize::from(number) - 1));
            numbers.push(number);
            must(lease.done(Vec::new()).await, "end a report");
        }
    }
    let last = lease_one(&spool).await;
    assert_eq!(results(last.job()), failure(2));
    numbers.extend(last.job().id.report);
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3]);
}

/// A report's own message is accepted once as long as the report is queued, even when it was delivered meanwhile. A store may
/// end the report with the delivery of its message.
pub async fn a_report_is_answered_once<S: Stage>(stage: &mut S) {
    let mut spool = stage.open(Setup::default()).await;
    let new = simple(1, "a", stage.now());
    must(spool.accept(new.clone()).await, "accept");
    let failure = vec![bounced(&new.jobs[0].recipients[0], stage.now())];
    must(lease_one(&spool).await.done(failure).await, "fail");
    let mut report = lease_one(&spool).await;
    let id = report.job().id;
    let mut notice = NewMessage { origin: Origin::Report(id), ..simple(2, "a", stage.now()) };
    notice.message.queue_id = QueueId::derived_from(id);
    must(spool.accept(notice.clone()).await, "accept the notice");
    must(spool.accept(notice.clone()).await, "accept the notice again");
    let delivery = lease_one(&spool).await;
    assert_eq!(delivery.job().id, JobId::delivery(notice.message.queue_id, 0));
    must(delivery.done(Vec::new()).await, "deliver the notice");
    for _ in 0..2 {
        spool = reopen(stage, spool).await;
        let query = Query { queue_id: Some(new.message.queue_id), ..Query::default() };
        if must(spool.look(query).await, "look").is_empty() {
            return;
        }
        report = lease_one(&spool).await;
        assert_eq!(report.job().id, id);
        must(spool.accept(notice.clone()).await, "accept the notice again");
        let query = Query { queue_id: Some(notice.message.queue_id), ..Query::default() };
        assert!(must(spool.look(query).await, "look").is_empty(), "a second notice is queued");
    }
    must(report.done(Vec::new()).await, "end the report");
    let summary = spool.summary(0).await;
    assert_eq!((summary.ready, summary.leased), (0, 0));
}

/// After a narrow and a kill only those are left who were to be left.
pub async fn narrowing_leaves_the_rest<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let new = message(1, "a", &[&["x@one.example", "y@one.example"]], b"text", stage.now());
    must(spool.accept(new.clone()).await, "accept");
    let mut delivery = lease_one(&spool).await;
    let rest = new.jobs[0].recipients[1..].to_vec();
    must(delivery.narrow(rest.clone(), Vec::new()).await, "narrow");
    assert_eq!(recipients(delivery.job()), rest);
    must(delivery.touch().await, "touch after a narrow");
    stage.kill(spool).await;
    let spool = stage.open(Setup::default()).await;
    let delivery = lease_one(&spool).await;
    assert_eq!(recipients(delivery.job()), rest);
    assert_eq!(read(&delivery).await, b"text");
}

/// One job's end leaves the others their content.
pub async fn content_lives_until_the_last_job_ends<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let new = message(1, "a", &[&["x@one.example"], &["y@two.example"]], b"text", stage.now());
    must(spool.accept(new.clone()).await, "accept");
    let mut leases = leases_of(&spool, 2).await;
    let last = leases.pop();
    for lease in leases {
        let failure = vec![bounced(&recipients(lease.job())[0], stage.now())];
        must(lease.done(failure).await, "fail");
    }
    if let Some(last) = last {
        must(last.done(Vec::new()).await, "deliver");
    }
    stage.kill(spool).await;
    let spool = stage.open(Setup::default()).await;
    let report = lease_one(&spool).await;
    assert!(report.job().id.report.is_some());
    assert_eq!(read(&report).await, b"text");
}

/// 30 MB come back as they were, from any offset, before and after a kill.
pub async fn large_content_comes_in_pieces<S: Stage>(stage: &mut S) {
    let mut spool = stage.open(Setup::default()).await;
    let octets: Vec<u8> =
        (0..30_000_001_u32).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    must(spool.accept(message(1, "a", &[&["x@one.example"]], &octets, stage.now())).await, "accept");
    for _ in 0..2 {
        let delivery = lease_one(&spool).await;
        assert!(read(&delivery).await == octets, "the content has changed");
        for offset in [1, 262_143, 262_144, 29_999_999, 30_000_000] {
            let piece = must(delivery.content(offset).await, "read a piece");
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            assert!(
                !piece.is_empty() && octets[from..].starts_with(&piece),
                "the piece at {offset} is another"
            );
        }
        assert!(must(delivery.content(30_000_001).await, "read at the end").is_empty());
        spool = reopen(stage, spool).await;
    }
}

/// Nothing to send is still a message.
pub async fn a_message_without_content_is_kept<S: Stage>(stage: &mut S) {
    let mut spool = stage.open(Setup::default()).await;
    let empty = Content { pieces: vec![Bytes::new()] };
    must(spool.accept(NewMessage { content: empty, ..simple(1, "a", stage.now()) }).await, "accept");
    for _ in 0..2 {
        assert!(read(&lease_one(&spool).await).await.is_empty());
        spool = reopen(stage, spool).await;
    }
}

/// Accepting again what is queued is fine and changes nothing, at the same time too.
pub async fn the_same_message_twice_is_kept_once<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let new = simple(1, "a", stage.now());
    let (one, other) = tokio::join!(spool.accept(new.clone()), spool.accept(new.clone()));
    must(one, "accept");
    must(other, "accept");
    must(spool.accept(new).await, "accept");
    assert_eq!(spool.summary(0).await.ready, 1);
}
