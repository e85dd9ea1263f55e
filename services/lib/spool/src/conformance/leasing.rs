//! Who gets which job, and for how long.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::sample::{message, recipients, simple};
use super::{PATIENCE, Setup, Stage, lease, lease_one, must};
use crate::{Lease, Retry, SettleError, Spool};

/// A worker that says nothing loses its job to another one; one that touches keeps it.
pub async fn a_lease_that_is_not_touched_lapses<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    must(spool.accept(simple(1, "a", stage.now())).await, "accept");
    let silent = lease_one(&spool).await;
    assert!(!silent.job().redelivered);
    let most = stage.lease_secs() * 1_000;
    for _ in 0..3 {
        stage.advance(most - 1).await;
        assert_eq!(spool.summary(0).await.leased, 1);
        must(silent.touch().await, "touch in time");
    }
    stage.advance(most).await;
    let other = lease_one(&spool).await;
    assert_eq!(other.job().id, silent.job().id);
    assert!(other.job().redelivered, "somebody has held it before");
    let lost = Err(SettleError::LeaseLost(other.job().id));
    assert_eq!(silent.touch().await, lost);
    assert_eq!(silent.done(Vec::new()).await, lost);
    must(other.done(Vec::new()).await, "settle");
    assert_eq!(spool.summary(0).await.ready, 0);
}

/// A worker that gives up gives its job back.
pub async fn a_dropped_lease_is_ready_at_once<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    must(spool.accept(simple(1, "a", stage.now())).await, "accept");
    let first = lease_one(&spool).await;
    let id = first.job().id;
    drop(first);
    assert_eq!(lease_one(&spool).await.job().id, id);
}

/// Workers that stop waiting take nothing with them.
pub async fn a_cancelled_lease_loses_no_job<S: Stage>(stage: &mut S) {
    let mut spool = stage.open(Setup::default()).await;
    let accepted = AtomicUsize::new(0);
    for round in 0..40_u64 {
        let waiting = spool.lease(3);
        let accepting = async {
            for number in 0..3 {
                must(spool.accept(simple(3 * round + number, "a", stage.now())).await, "accept");
                accepted.fetch_add(1, Ordering::SeqCst);
            }
        };
        tokio::select! {
            biased;
            leases = async { tokio::time::sleep(Duration::from_millis(round)).await; waiting.await } => drop(leases),
            () = accepting => {}
        }
    }
    // Those that are read from disk are cancelled too.
    stage.kill(spool).await;
    spool = stage.open(Setup::default()).await;
    for micros in 0..40 {
        drop(tokio::time::timeout(Duration::from_micros(20 * micros), spool.lease(2)).await);
    }
    let kept = spool.summary(0).await;
    let mut seen = HashSet::new();
    let mut leases = Vec::new();
    while (leases.len() as u64) < kept.ready {
        leases.extend(lease(&spool, 7).await);
    }
    for lease in &leases {
        assert!(seen.insert(lease.job().id), "{} was leased twice", lease.job().id);
    }
    let accepted = accepted.into_inner();
    assert!(accepted > 40 && seen.len() >= accepted, "{} of {accepted} accepted jobs are left", seen.len());
}

fn wait_until(at: mail::Timestamp, job: &mail::Job) -> Retry {
    Retry { at, remaining: recipients(job).to_vec(), attempts: 1, reason: "later".into(), signature: None }
}

/// Not before, and then at once; over a kill too.
pub async fn a_job_waits_until_it_is_due<S: Stage>(stage: &mut S) {
    let mut spool = stage.open(Setup::default()).await;
    must(spool.accept(simple(1, "a", stage.now())).await, "accept");
    let delivery = lease_one(&spool).await;
    let retry = wait_until(stage.now().plus_millis(60_000), delivery.job());
    must(delivery.retry(retry, Vec::new()).await, "retry");
    stage.advance(59_999).await;
    assert_eq!(spool.summary(0).await.waiting, 1);
    stage.kill(spool).await;
    spool = stage.open(Setup::default()).await;
    assert_eq!(spool.summary(0).await.waiting, 1);
    // A worker that waits already is told.
    let (delivery, ()) = tokio::join!(lease_one(&spool), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        stage.advance(1).await;
    });
    assert_eq!(delivery.job().attempts, 1);
    assert!(!delivery.job().redelivered, "it was settled since anybody held it");
}

/// A message that is not to be tried before an instant isn't, over a kill too.
pub async fn a_message_waits_until_its_time<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let mut new = simple(1, "a", stage.now());
    new.message.not_before = Some(stage.now().plus_secs(60));
    must(spool.accept(new).await, "accept");
    assert_eq!(spool.summary(0).await.waiting, 1);
    stage.kill(spool).await;
    let spool = stage.open(Setup::default()).await;
    assert_eq!(spool.summary(0).await.waiting, 1);
    stage.advance(60_000).await;
    assert_eq!(lease(&spool, 9).await.len(), 1);
}

/// What waited has been here longer.
pub async fn due_jobs_go_before_fresh_ones<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    for number in 0..3 {
        must(spool.accept(simple(number, "a", stage.now())).await, "accept");
    }
    let mut due = Vec::new();
    for delivery in lease(&spool, 3).await {
        due.push(delivery.job().id);
        let retry = wait_until(stage.now().plus_millis(10 - due.len() as u64), delivery.job());
        must(delivery.retry(retry, Vec::new()).await, "retry");
    }
    due.reverse();
    let mut fresh = Vec::new();
    for number in 3..6 {
        let new = simple(number, "a", stage.now());
        fresh.push(mail::JobId::delivery(new.message.queue_id, 0));
        must(spool.accept(new).await, "accept");
    }
    stage.advance(10).await;
    let leases = lease(&spool, 6).await;
    let order: Vec<_> = leases.iter().map(|lease| lease.job().id).collect();
    assert_eq!(order, [due, fresh].concat());
}

/// One message of another account comes within a few turns, however many the first has.
pub async fn an_account_does_not_hold_up_another_of_its_lane<S: Stage>(stage: &mut S) {
    second_of_two_accounts_comes_soon(stage, 1).await;
}

/// The same where the accounts may be in different lanes.
pub async fn a_lane_does_not_hold_up_another<S: Stage>(stage: &mut S) {
    second_of_two_accounts_comes_soon(stage, 32).await;
}

async fn second_of_two_accounts_comes_soon<S: Stage>(stage: &mut S, lanes: u16) {
    let spool = stage.open(Setup { lanes, ..Setup::default() }).await;
    for number in 0..50 {
        must(spool.accept(simple(number, "busy", stage.now())).await, "accept");
    }
    for (account, number) in ["calm", "quiet", "still"].into_iter().zip(100..) {
        must(spool.accept(simple(number, account, stage.now())).await, "accept");
    }
    // Between two jobs of one account each other one has its turn.
    let leases = lease(&spool, 8).await;
    let accounts: HashSet<_> =
        leases.iter().map(|lease| lease.job().message.account.as_str().to_owned()).collect();
    assert_eq!(accounts.len(), 4, "of eight jobs some account has none");
}

/// Nobody sleeps while there is work.
pub async fn each_waiting_worker_gets_a_job<S: Stage>(stage: &mut S) {
    let spool = stage.open(Setup::default()).await;
    let jobs: Vec<[String; 1]> = (0..20).map(|number| [format!("x@host{number}.example")]).collect();
    let jobs: Vec<Vec<&str>> = jobs.iter().map(|job| job.iter().map(String::as_str).collect()).collect();
    let jobs: Vec<&[&str]> = jobs.iter().map(Vec::as_slice).collect();
    let new = message(1, "a", &jobs, b"text", stage.now());
    let workers = async {
        let mut seen = HashSet::new();
        let mut workers: Vec<_> = (0..20).map(|_| Box::pin(spool.lease(1))).collect();
        // All wait before anything is there.
        for worker in &mut workers {
            assert!(tokio::time::timeout(Duration::ZERO, worker).await.is_err());
        }
        must(spool.accept(new).await, "accept");
        let mut kept = Vec::new();
        for worker in workers {
            let leases = must(tokio::time::timeout(PATIENCE, worker).await, "a worker is told");
            seen.extend(leases.iter().map(|lease| lease.job().id));
            kept.extend(leases);
        }
        seen.len()
    };
    assert_eq!(workers.await, 20);
}
