//! What JetStream answered for is on disk: nothing of it is lost when the power goes with all that wasn't synced.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

#[path = "jetstream/stage.rs"]
#[allow(dead_code, reason = "other files of tests use the rest")]
mod stage;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mail::{JobId, JobKind};
use spool::jetstream::{Connection, Durability, JetStream, Settings};
use spool::{Lease as _, Query, Retry, Selection, Spool as _};
use tempfile::TempDir;
use tests::fault::LossyDisk;
use tests::long;
use tests::nats::Nats;
use tokio::task::JoinSet;

use stage::{PATIENCE, first, large, lease, now, read};

/// A server whose disk's power can be cut.
struct Powered {
    // Ended before its disk.
    nats: Nats,
    disk: LossyDisk,
    _folder: TempDir,
    durability: Durability,
}

impl Powered {
    fn new(sync: &str, durability: Durability) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = LossyDisk::mount(&folder.path().join("nats-1/store"), 512 << 20);
        let nats = Nats::start(folder.path(), 1, &format!("{sync}\n  max_file_store: 400MB"));
        Self { nats, disk, _folder: folder, durability }
    }

    async fn open(&self) -> JetStream {
        let settings = Settings {
            instance: "stage".into(),
            connection: Connection { url: self.nats.url(), ..Connection::default() },
            durability: self.durability.clone(),
            replicas: 1,
            partitions: 2,
            lanes: 2,
            octets_max: 0,
            events_age: Duration::from_secs(3_600),
            events_octets: 0,
            lease: PATIENCE / 2,
        };
        JetStream::open(settings).await.unwrap()
    }

    fn cut(&mut self) {
        self.nats.kill_all();
        self.disk.cut();
        self.nats.restart();
        self.nats.wait_ready();
    }
}

/// Accepts many at a time; content of some travels along, of others it is kept beside.
async fn accept(spool: &Arc<JetStream>, numbers: std::ops::Range<u64>) -> BTreeSet<JobId> {
    let mut accepting = JoinSet::new();
    for number in numbers {
        let octets = if number % 10 == 0 { 700_000 } else { 3_000 };
        let message = large(number, octets, &[&["a@one.example"]]);
        let spool = Arc::clone(spool);
        accepting.spawn(async move {
            let job = first(message.message.queue_id);
            spool.accept(message).await.is_ok().then_some(job)
        });
    }
    accepting.join_all().await.into_iter().flatten().collect()
}

/// What is queued, with the content whole.
async fn queued(spool: &JetStream) -> BTreeSet<JobId> {
    let query = Query { limit: 10_000, ..Query::default() };
    spool.look(query).await.unwrap().into_iter().map(|entry| entry.job.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_deferred_and_done_is_so_after_the_power_went() {
    let mut powered = Powered::new("sync_interval: always", Durability::Ask(Vec::new()));
    let (mut left, mut done) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..long::pick(3, 20) {
        let spool = Arc::new(powered.open().await);
        left.extend(accept(&spool, round * 1_000..round * 1_000 + 120).await);
        // A third is done with, a third waits.
        let mut settled = 0;
        while settled < 80 {
            for lease in lease(&spool, 8, PATIENCE).await {
                let id = lease.job().id;
                settled += 1;
                if settled % 2 == 0 {
                    lease.done(Vec::new()).await.unwrap();
                    left.remove(&id);
                    done.insert(id);
                    continue;
                }
                let JobKind::Delivery { recipients: remaining } = lease.job().kind.clone() else {
                    panic!("{id} is a report")
                };
                let at = now().plus_secs(3_600);
                let retry = Retry { at, remaining, attempts: 1, reason: "later".into(), signature: None };
                lease.retry(retry, Vec::new()).await.unwrap();
            }
        }
        powered.cut();
        drop(spool);
        let spool = powered.open().await;
        let found = queued(&spool).await;
        println!(
            "round {round}: {} are to be there, {} are, {} were done",
            left.len(),
            found.len(),
            done.len()
        );
        let lost: Vec<_> = left.difference(&found).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        let back: Vec<_> = done.intersection(&found).collect();
        assert!(back.is_empty(), "come again though they are done: {back:?}");
    }
    // And all of it whole.
    let spool = powered.open().await;
    let mut seen = BTreeSet::new();
    while seen.len() < left.len() {
        for id in queued(&spool).await {
            spool.release(Selection::Job(id)).await.unwrap();
        }
        let leases = lease(&spool, 64, PATIENCE).await;
        assert!(!leases.is_empty(), "{} of {} came", seen.len(), left.len());
        for lease in leases {
            let expected = lease.job().message.octets;
            assert!(
                read(&lease).await
                    == large(0, usize::try_from(expected).unwrap(), &[&["a@one.example"]])
                        .content
                        .pieces
                        .concat()
            );
            seen.insert(lease.job().id);
            lease.done(Vec::new()).await.unwrap();
        }
    }
    assert_eq!(seen, left);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_sync_would_lose_it() {
    // That this is seen shows that the disk forgets what the test above says is kept.
    let mut powered = Powered::new("sync_interval: 10m", Durability::Unknown);
    let spool = Arc::new(powered.open().await);
    let accepted = accept(&spool, 0..120).await;
    assert_eq!(accepted.len(), 120);
    powered.cut();
    drop(spool);
    let found = queued(&powered.open().await).await;
    println!("{} of {} are left", found.len(), accepted.len());
    assert!(found.len() < accepted.len());
}
