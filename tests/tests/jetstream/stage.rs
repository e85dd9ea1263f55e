//! A nats-server, processes of instances on it, and what is seen of its streams from outside.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context};
use mail::{JobId, QueueId, Timestamp};
use spool::conformance::sample;
use spool::jetstream::{Connection, Durability, JetStream, JetStreamLease, Settings};
use spool::{Lease as _, NewMessage, Spool as _};
use tempfile::TempDir;
use tests::nats::Nats;

/// Short, so that a test can wait until one lapses.
pub(crate) const LEASE: Duration = Duration::from_secs(4);
/// What a test waits for must come within it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One server.
pub(crate) struct Stage {
    _folder: TempDir,
    pub(crate) nats: Nats,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with("sync_interval: always")
    }

    /// With these lines in its `jetstream` block.
    pub(crate) fn with(jetstream: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nats = Nats::start(folder.path(), 1, jetstream);
        Self { _folder: folder, nats }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            instance: "stage".into(),
            connection: Connection { url: self.nats.url(), ..Connection::default() },
            durability: Durability::Ask(Vec::new()),
            replicas: 1,
            partitions: 2,
            lanes: 2,
            octets_max: 0,
            events_age: Duration::from_secs(3_600),
            events_octets: 0,
            lease: LEASE,
        }
    }

    /// A process of the instance.
    pub(crate) async fn open(&self) -> JetStream {
        JetStream::open(self.settings()).await.unwrap()
    }

    /// One that is set up for so many partitions and lanes.
    pub(crate) async fn open_with(&self, partitions: u16, lanes: u16) -> JetStream {
        JetStream::open(Settings { partitions, lanes, ..self.settings() }).await.unwrap()
    }

    /// What an administrator's own tools would use.
    pub(crate) async fn context(&self) -> Context {
        jetstream::new(async_nats::connect(self.nats.url()).await.unwrap())
    }

    /// Messages in each stream whose name holds `part`.
    pub(crate) async fn messages(&self, part: &str) -> BTreeMap<String, u64> {
        let context = self.context().await;
        let mut counts = BTreeMap::new();
        let mut names = Vec::new();
        for instance in ["stage", "other"] {
            for kind in ["MAIL", "RETRY", "BODY"] {
                names.extend((0..16).map(|number| format!("{instance}-{kind}-{number}")));
            }
            names.push(format!("{instance}-DEAD"));
        }
        for name in names.into_iter().filter(|name| name.contains(part)) {
            if let Ok(stream) = context.get_stream(&name).await {
                counts.insert(name, stream.cached_info().state.messages);
            }
        }
        counts
    }

    /// Waits until streams whose names hold `part` are empty.
    pub(crate) async fn until_empty(&self, part: &str, within: Duration) {
        let end = Instant::now() + within;
        loop {
            let messages = self.messages(part).await;
            assert!(!messages.is_empty(), "there are streams of {part}");
            if messages.values().all(|count| *count == 0) {
                return;
            }
            assert!(Instant::now() < end, "waited {within:?} in vain until nothing is left: {messages:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

pub(crate) fn now() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(now.as_millis()).unwrap())
}

/// A small message of an account.
pub(crate) fn simple(number: u64, account: &str) -> NewMessage {
    sample::simple(number, account, now())
}

/// A message of so many octets, no two pieces of which are alike, with a job for each host.
pub(crate) fn large(number: u64, octets: usize, jobs: &[&[&str]]) -> NewMessage {
    let content: Vec<u8> = (0..octets).map(octet).collect();
    sample::message(number, "account", jobs, &content, now())
}

fn octet(place: usize) -> u8 {
    u8::try_from((place ^ (place >> 8) ^ (place >> 16)) & 0xff).unwrap()
}

/// Up to `max` jobs that are ready, within a time.
pub(crate) async fn lease(spool: &JetStream, max: usize, within: Duration) -> Vec<JetStreamLease> {
    tokio::time::timeout(within, spool.lease(max)).await.unwrap_or_default()
}

/// All octets that a lease gives.
pub(crate) async fn read(lease: &JetStreamLease) -> Vec<u8> {
    let mut octets = Vec::new();
    loop {
        let piece = lease.content(octets.len() as u64).await.unwrap();
        if piece.is_empty() {
            return octets;
        }
        octets.extend_from_slice(&piece);
    }
}

/// Settles so many jobs as delivered; says which, and how often each.
pub(crate) async fn deliver(spool: &JetStream, count: usize) -> BTreeMap<JobId, usize> {
    deliver_by(&[spool], count).await
}

/// The same, by workers who share the mail.
pub(crate) async fn deliver_by(spools: &[&JetStream], count: usize) -> BTreeMap<JobId, usize> {
    let mut delivered = BTreeMap::new();
    let end = Instant::now() + PATIENCE;
    while delivered.values().sum::<usize>() < count {
        assert!(Instant::now() < end, "waited in vain for {count} jobs; there are {}", delivered.len());
        for spool in spools {
            for lease in lease(spool, 64, Duration::from_millis(500)).await {
                *delivered.entry(lease.job().id).or_default() += 1;
                lease.done(Vec::new()).await.unwrap();
            }
        }
    }
    delivered
}

/// The first job of a message.
pub(crate) fn first(message: QueueId) -> JobId {
    JobId::delivery(message, 0)
}
