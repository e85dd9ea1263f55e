//! What administrators see and do.

use mail::JobId;
use smtp::address::Host;

use super::sample::{account_id, message, recipients, simple};
use super::{Setup, Stage, lease, lease_one, leases_of, must};
use crate::{AcceptError, EntryState, Lease, Query, Retry, Selection, SettleError, Spool, StateName};

/// Over a kill, whether they were ready, waiting, or held by their worker.
pub async fn held_jobs_stay_held_until_released<S: Stage>(stage: &mut S) {
    let mut spool = stage.open(Setup::default()).await;
    for number in 0..3 {
        must(spool.accept(simple(number, "a", stage.now())).await, "accept");
    }
    let waits = lease_one(&spool).await;
    let at = stage.now().plus_secs(3_600);
    let remaining = recipients(waits.job()).to_vec();
    let retry = Retry { at, remaining, attempts: 1, reason: "later".into(), signature: None };
    must(waits.retry(retry, Vec::new()).await, "retry");
    must(lease_one(&spool).await.hold("by its worker".into()).await, "hold");
    let account = Selection::Account(account_id("a"));
    assert_eq!(spool.hold(account.clone(), "the account is suspended".into()).await, Ok(2));
    stage.kill(spool).await;
    spool = stage.open(Setup::default()).await;
    stage.advance(7_200_000).await;
    let summary = spool.summary(0).await;
    assert_eq!((summary.ready, summary.waiting, summary.held), (0, 0, 3));
    let entries = must(spool.look(Query::default()).await, "look");
    let reasons: Vec<_> = entries.iter().filter_map(|entry| entry.job.deferred.clone()).collect();
    assert_eq!(reasons.iter().filter(|reason| *reason == "the account is suspended").count(), 2);
    assert_eq!(reasons.iter().filter(|reason| *reason == "by its worker").count(), 1);
    assert_eq!(spool.release(account).await, Ok(3));
    stage.kill(spool).await;
    spool = stage.open(Setup::default()).await;
    assert_eq!(leases_of(&spool, 3).await.len(), 3);
}

/// A hold waits for the worker.
pub async fn a_leased_job_is_held_when_it_comes_back<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    for number in 0..3 {
        must(spool.accept(simple(number, "a", stage.now())).await, "accept");
    }
    let mut leases = leases_of(&spool, 3).await;
    must(spool.hold(Selection::Account(account_id("a")), "wait".into()).await, "hold");
    assert_eq!(spool.summary(0).await.leased, 3);
    if let (Some(ends), Some(waits), Some(drops)) = (leases.pop(), leases.pop(), leases.pop()) {
        must(ends.done(Vec::new()).await, "end");
        let remaining = recipients(waits.job()).to_vec();
        let at = stage.now();
        let retry = Retry { at, remaining, attempts: 1, reason: "later".into(), signature: None };
        must(waits.retry(retry, Vec::new()).await, "retry");
        drop(drops);
    }
    let summary = spool.summary(0).await;
    assert_eq!((summary.ready, summary.leased, summary.waiting, summary.held), (0, 0, 0, 2));
    stage.kill(spool).await;
    let spool = stage.open(Setup::default()).await;
    assert_eq!(spool.summary(0).await.held, 2);
}

/// Also under its worker, and for good.
pub async fn a_removed_job_is_gone<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let new = message(1, "a", &[&["x@one.example"], &["y@two.example"]], b"text", stage.now());
    must(spool.accept(new.clone()).await, "accept");
    let delivery = lease_one(&spool).await;
    let id = delivery.job().id;
    assert_eq!(spool.remove(Selection::Job(id)).await, Ok(vec![id]));
    assert_eq!(delivery.touch().await, Err(SettleError::LeaseLost(id)));
    assert_eq!(delivery.done(Vec::new()).await, Err(SettleError::LeaseLost(id)));
    assert_eq!(spool.remove(Selection::Job(id)).await, Ok(Vec::new()));
    stage.kill(spool).await;
    let spool = stage.open(Setup::default()).await;
    let left = lease(&spool, 9).await;
    assert_eq!(left.len(), 1);
    assert_ne!(left[0].job().id, id);
}

/// By job, message, account and host.
pub async fn every_selection_means_its_jobs<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let literal = "z@[192.0.2.1]";
    let one = message(1, "a", &[&["x@one.example"], &[literal]], b"text", stage.now());
    let two = message(2, "b", &[&["x@one.example"]], b"text", stage.now());
    must(spool.accept(one.clone()).await, "accept");
    must(spool.accept(two.clone()).await, "accept");
    let job = |number| JobId::delivery(one.message.queue_id, number);
    let other = JobId::delivery(two.message.queue_id, 0);
    let host = |text| Selection::Host(must(Host::parse(text), text));
    for (which, jobs) in [
        (Selection::Job(job(1)), vec![job(1)]),
        (Selection::Job(JobId { report: Some(1), ..job(1) }), vec![]),
        (Selection::Message(one.message.queue_id), vec![job(0), job(1)]),
        (Selection::Account(account_id("b")), vec![other]),
        (Selection::Account(account_id("nobody")), vec![]),
        (host("one.example"), vec![job(0), other]),
        (host("[192.0.2.1]"), vec![job(1)]),
        (host("two.example"), vec![]),
    ] {
        assert_eq!(spool.hold(which.clone(), "look".into()).await, Ok(jobs.len()), "{which:?}");
        let held = Query { state: Some(StateName::Held), ..Query::default() };
        let held = must(spool.look(held).await, "look");
        assert_eq!(held.iter().map(|entry| entry.job.id).collect::<Vec<_>>(), jobs, "{which:?}");
        assert_eq!(spool.release(which.clone()).await, Ok(jobs.len()), "{which:?}");
    }
    assert_eq!(spool.remove(host("one.example")).await, Ok(vec![job(0), other]));
    assert_eq!(spool.summary(0).await.ready, 1);
}

/// Each entry once, by id, whatever the page's size; filters count.
pub async fn looking_pages_in_order<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let mut all = Vec::new();
    for number in 0..25 {
        let account = if number % 5 == 0 { "a" } else { "b" };
        let new = message(number, account, &[&["x@one.example"], &["y@two.example"]], b"text", stage.now());
        all.extend((0..2).map(|job| JobId::delivery(new.message.queue_id, job)));
        must(spool.accept(new).await, "accept");
    }
    all.sort_unstable();
    for limit in [1, 7, 50, 0] {
        let mut seen = Vec::new();
        loop {
            let query = Query { after: seen.last().copied(), limit, ..Query::default() };
            let page = must(spool.look(query).await, "look");
            assert!(limit == 0 || page.len() <= limit);
            if page.is_empty() {
                break;
            }
            assert!(page.iter().all(|entry| entry.state == EntryState::Ready));
            seen.extend(page.iter().map(|entry| entry.job.id));
        }
        assert_eq!(seen, all, "pages of {limit}");
    }
    let host = Some(must(Host::parse("two.example"), "a host"));
    let query = Query { account: Some(account_id("a")), host, after: Some(all[10]), ..Query::default() };
    let found = must(spool.look(query).await, "look");
    let expected: Vec<_> = [11, 21, 31, 41].iter().map(|place| all[*place]).collect();
    assert_eq!(found.iter().map(|entry| entry.job.id).collect::<Vec<_>>(), expected);
    let query = Query { queue_id: Some(all[8].queue_id), ..Query::default() };
    assert_eq!(must(spool.look(query).await, "look").len(), 2);
    let query = Query { state: Some(StateName::Waiting), ..Query::default() };
    assert!(must(spool.look(query).await, "look").is_empty());
}

/// By state, and the busiest hosts first.
pub async fn the_summary_counts<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    for number in 0..3 {
        let new = message(number, "a", &[&["x@one.example"]], b"text", stage.now());
        must(spool.accept(new).await, "accept");
    }
    let new = message(3, "a", &[&["x@two.example"], &["x@three.example"]], b"text", stage.now());
    must(spool.accept(new).await, "accept");
    let _leased = lease_one(&spool).await;
    let summary = spool.summary(2).await;
    assert_eq!((summary.ready, summary.leased, summary.waiting, summary.held), (4, 1, 0, 0));
    assert_eq!(summary.hosts, [("one.example".to_owned(), 3), ("three.example".to_owned(), 1)]);
    assert!(summary.disk_octets > 0);
    assert!(summary.damage.is_empty(), "{:?}", summary.damage);
}

/// Nothing is accepted any more; what was is there at the next start, and who held a job is suspected.
pub async fn a_closed_store_says_so<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    for number in 0..2 {
        must(spool.accept(simple(number, "a", stage.now())).await, "accept");
    }
    let held = lease_one(&spool).await;
    let id = held.job().id;
    spool.close().await;
    assert!(matches!(spool.accept(simple(3, "a", stage.now())).await, Err(AcceptError::Unavailable(_))));
    assert_eq!(held.done(Vec::new()).await, Err(SettleError::Closed));
    stage.kill(spool).await;
    let spool = stage.open(Setup::default()).await;
    let leases = leases_of(&spool, 2).await;
    for lease in leases {
        // A store that can't tell may suspect more.
        assert!(lease.job().redelivered || lease.job().id != id, "{}", lease.job().id);
    }
}
