//! What waits in NATS costs a little memory there and none elsewhere, outlives a kill, and comes back in order of its time: a
//! million messages in the long form.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

#[path = "jetstream/stage.rs"]
#[allow(dead_code, reason = "other files of tests use the rest")]
mod stage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::{JobKind, Timestamp};
use spool::jetstream::{JetStream, Settings};
use spool::{Lease as _, Retry, Spool as _};
use tests::long;
use tokio::task::JoinSet;

use stage::{PATIENCE, Stage, lease, now, simple};

const PARTITIONS: u16 = 8;
const LANES: u16 = 8;
/// Acceptances, and settlements, that go on at once.
const AT_ONCE: usize = 128;
/// So many come due a second.
const DUE_PER_SEC: u64 = 1_000;
/// How much earlier another may have been due that comes later: a partition hands its own out, beside the others.
const OUT_OF_ORDER_MAX: u64 = 15_000;

async fn open(stage: &Stage) -> Arc<JetStream> {
    let settings = Settings { lease: Duration::from_secs(90), ..stage.settings() };
    Arc::new(JetStream::open(Settings { partitions: PARTITIONS, lanes: LANES, ..settings }).await.unwrap())
}

/// Accepts messages of accounts in turn, many at a time.
async fn accept(spool: &Arc<JetStream>, count: u64) {
    let mut accepting = JoinSet::new();
    for number in 0..count {
        if accepting.len() >= AT_ONCE {
            accepting.join_next().await.unwrap().unwrap();
        }
        let spool = Arc::clone(spool);
        accepting.spawn(async move {
            spool.accept(simple(number, &format!("account{}", number % 100))).await.unwrap();
        });
    }
    accepting.join_all().await;
}

/// Lets each message wait, for an instant that is later by a step than that of the one before.
async fn defer(spool: &JetStream, count: u64, first_due: Timestamp) {
    let mut settling = JoinSet::new();
    let mut deferred = 0;
    while deferred < count {
        let leases = lease(spool, AT_ONCE, PATIENCE).await;
        assert!(!leases.is_empty(), "{deferred} of {count} wait");
        for lease in leases {
            if settling.len() >= AT_ONCE {
                settling.join_next().await.unwrap().unwrap();
            }
            let at = first_due.plus_millis(deferred * 1_000 / DUE_PER_SEC);
            deferred += 1;
            settling.spawn(async move {
                let JobKind::Delivery { recipients } = lease.job().kind.clone() else { panic!("a report") };
                let reason = at.0.to_string();
                let retry = Retry { at, remaining: recipients, attempts: 1, reason, signature: None };
                lease.retry(retry, Vec::new()).await.unwrap();
            });
        }
    }
    settling.join_all().await;
}

/// Takes all, as they come due; gives for each, in order of leaving, when it was due and when it was leased.
async fn take(spool: &JetStream, count: u64) -> Vec<(u64, u64)> {
    let mut settling = JoinSet::new();
    let mut taken = Vec::new();
    while taken.len() < usize::try_from(count).unwrap() {
        let leases = lease(spool, AT_ONCE, PATIENCE).await;
        assert!(!leases.is_empty(), "{} of {count} came back", taken.len());
        for lease in leases {
            let due = lease.job().deferred.as_ref().unwrap().parse().unwrap();
            taken.push((due, now().0));
            if settling.len() >= AT_ONCE {
                settling.join_next().await.unwrap().unwrap();
            }
            settling.spawn(async move { lease.done(Vec::new()).await.unwrap() });
        }
    }
    settling.join_all().await;
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_outlives_a_kill_of_nats_and_comes_back_in_order_of_its_time() {
    let count: u64 = long::pick(3_000, 1_000_000);
    // All must wait before the first is due; a machine that is busy with other things may be slow.
    let ahead: u64 = long::pick(45_000, 1_600_000);
    let mut stage = Stage::new();
    let empty = stage.nats.process(0).resident();
    let spool = open(&stage).await;
    let begin = Instant::now();
    let first_due = now().plus_millis(ahead);
    let (accepting, deferring) = (accept(&spool, count), defer(&spool, count, first_due));
    tokio::join!(accepting, deferring);
    let stored = begin.elapsed();
    let waiting = stage.nats.process(0).resident();

    stage.nats.kill_all();
    let begin = Instant::now();
    stage.nats.restart();
    stage.nats.wait_ready();
    let restart = begin.elapsed();
    let again = stage.nats.process(0).resident();
    assert!(
        now() < first_due,
        "they were due before all had been stored: the machine is too slow for this test"
    );

    tokio::time::sleep(Duration::from_millis(first_due.millis_since(now()))).await;
    let taken = take(&spool, count).await;
    let mut late: Vec<u64> = taken.iter().map(|(due, at)| at.saturating_sub(*due)).collect();
    late.sort_unstable();
    let at = |part: usize| late[(late.len() - 1) * part / 100];
    let mut latest = 0;
    let mut out_of_order = 0;
    for (due, _) in &taken {
        latest = latest.max(*due);
        out_of_order = out_of_order.max(latest - due);
    }
    println!(
        "{count} deferred in {stored:.1?}; nats-server {} MB resident empty, {} MB with them, {} MB after a restart of \
         {restart:.1?}; at {DUE_PER_SEC}/s late by {} ms (p50), {} ms (p99), {} ms at most; out of order by {out_of_order} ms \
         at most",
        empty / 1_000_000,
        waiting / 1_000_000,
        again / 1_000_000,
        at(50),
        at(99),
        at(100),
    );
    assert!(taken.iter().all(|(due, at)| at >= due), "one came early");
    assert!(out_of_order <= OUT_OF_ORDER_MAX, "one came {out_of_order} ms after a later one");
    let mut dues: Vec<u64> = taken.into_iter().map(|(due, _)| due).collect();
    dues.sort_unstable();
    let expected = (0..count).map(|number| first_due.0 + number * 1_000 / DUE_PER_SEC);
    assert!(dues.into_iter().eq(expected), "each came once");
    // Content is removed behind what used it, at its own pace.
    stage.until_empty("stage", PATIENCE * long::pick(1, 10)).await;
}
