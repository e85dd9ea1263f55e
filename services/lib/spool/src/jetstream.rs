//! The store of many hosts: NATS JetStream.
//!
//! ```text
//! accept  --> MAIL  --lease--> ack                       (and BODY, for content that doesn't travel along)
//! retry   --> RETRY sched --its time--> RETRY due --lease--> ack
//! hold    --> RETRY held  --release---> RETRY due
//! reports --> RETRY due
//! what happened --> EVENTS      what can't be read --> DEAD
//! ```
//!
//! A settlement writes what comes next, and then removes what was leased. If it ends in between, whoever leases the job again
//! finds its successor by its subject, and removes it. A record names its predecessor, so that it is gone for certain before a
//! successor that is due soon is worked on.
//!
//! Not used, for what it costs: NAK with a delay, a consumer per destination, the object store, `persist_mode: async`.

mod accept;
mod admin;
mod api;
mod body;
mod control;
mod dead;
mod durability;
mod events;
mod fetch;
mod job;
mod lease;
mod leases;
mod link;
mod names;
mod ready;
mod settings;
mod setup;
mod space;
mod tidy;
mod unknown;
mod wait;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mail::{JobId, QueueId, Timestamp};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

pub use events::{JetStreamEventReader, JetStreamEvents};
pub use lease::JetStreamLease;
pub use settings::{Config, Connection, Durability, Settings};

use self::accept::Bursts;
use self::api::{Api, Outgoing};
use self::body::Bodies;
use self::control::{Peers, Standing};
use self::job::{Place, Record};
use self::leases::Leases;
use self::link::Link;
use self::names::{Kind, Names, Spot};
use self::ready::Ready;
use self::setup::{Differing, Layout};
use self::space::Space;
use self::tidy::Later;
use crate::{
    AcceptError, ContentError, DeadLetter, DeadLetterError, DeadSelection, Entry, EventLog as _, NewMessage,
    Query, Revival, Selection, SettleError, Spool, Summary,
};

/// The end doesn't wait longer for the last events.
const LAST_EVENTS_WITHIN: Duration = Duration::from_secs(10);

/// Tells the time, in milliseconds of Unix time.
pub type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// The store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody answers, or not as NATS does.
    #[error("can't connect to NATS at {url}: {cause}; see --nats-url")]
    Connect {
        /// Where.
        url: String,
        /// Why.
        cause: String,
    },
    /// A file can't be used.
    #[error("can't read {path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Earlier servers lose scheduled messages.
    #[error("nats-server {found} is too old: it may lose mail that waits; use 2.15.2 or newer")]
    Version {
        /// The server's version.
        found: String,
    },
    /// What was accepted could be lost.
    #[error("{0}")]
    Durability(String),
    /// A stream can't be made.
    #[error("can't set up stream {stream}: {cause}")]
    Stream {
        /// Which one.
        stream: String,
        /// Why.
        cause: String,
    },
    /// A consumer can't be made.
    #[error("can't set up consumer {name} of stream {stream}: {cause}")]
    Consumer {
        /// Of which stream.
        stream: String,
        /// Which one.
        name: String,
        /// Why.
        cause: String,
    },
    /// The streams can't be looked at.
    #[error("can't list the streams of NATS: {0}; is JetStream enabled?")]
    Setup(String),
    /// The instance's name can't be part of a subject.
    #[error("{0:?} can't name an instance: expected 1 to 32 letters, digits, `-` and `_`")]
    Instance(String),
}

impl OpenError {
    /// Whether somebody has to change something; the rest may come right by itself.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::File { .. } | Self::Version { .. } | Self::Instance(_) => true,
            Self::Durability(_)
            | Self::Connect { .. }
            | Self::Stream { .. }
            | Self::Consumer { .. }
            | Self::Setup(_) => false,
        }
    }
}

/// A queue in JetStream. Dropping it ends its tasks; leases that are left lapse.
pub struct JetStream {
    core: Arc<Core>,
    events: JetStreamEvents,
    tasks: Mutex<JoinSet<()>>,
}

/// What tasks, leases and callers share.
struct Core {
    api: Api,
    names: Names,
    settings: Settings,
    /// Octets of a stream of mail or content at most, -1 for any number.
    bound: i64,
    clock: Clock,
    link: Arc<Link>,
    space: Space,
    bursts: Bursts,
    leases: Leases,
    ready: Mutex<Ready>,
    /// How many fetched jobs are being looked at twice.
    looking: std::sync::atomic::AtomicUsize,
    /// Rung when jobs are ready.
    arrived: Notify,
    /// Rung when somebody asks for jobs.
    wanted: Notify,
    /// When somebody did last, in milliseconds since the store was opened.
    wanted_at: std::sync::atomic::AtomicU64,
    /// Whether all lanes have been looked at once.
    primed: watch::Sender<bool>,
    standing: Standing,
    peers: Peers,
    layout: Mutex<Layout>,
    /// Rung when another process serves what isn't known here.
    news: Notify,
    later: mpsc::UnboundedSender<Later>,
    closed: AtomicBool,
}

impl Core {
    /// What time the store takes it to be.
    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// When the server is to hand out what is due at `at`.
    fn server_time(&self, at: Timestamp) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let wait = i64::try_from(at.millis_since(self.now())).unwrap_or(i64::MAX);
        let at = jiff::Timestamp::from_millisecond(now.saturating_add(wait)).unwrap_or(jiff::Timestamp::MAX);
        at.to_string()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn bodies(&self, partition: u16) -> Bodies<'_> {
        Bodies { api: &self.api, names: &self.names, partition }
    }

    /// What is to be done without anybody waiting for it. After the end nobody does it; then leases lapse.
    fn later(&self, work: Later) {
        let _ = self.later.send(work);
    }

    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record to be stored at a spot; what waits is scheduled.
    fn outgoing(&self, spot: Spot, record: &Record) -> Outgoing {
        let outgoing = Outgoing::new(self.names.subject(spot), record.encode());
        if spot.kind != Kind::Sched {
            return outgoing;
        }
        let target = self.names.subject(Spot { kind: Kind::Due, ..spot });
        let at = self.server_time(record.due_at.unwrap_or(Timestamp(0)));
        outgoing.with("Nats-Schedule", &format!("@at {at}")).with("Nats-Schedule-Target", &target)
    }

    /// The partitions and lanes that are served.
    fn layout(&self) -> Layout {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The partitions that exist.
    fn partitions(&self) -> BTreeSet<u16> {
        self.layout().partitions
    }

    /// Where the record of a job that is leased here is.
    fn place_of_leased(&self, job: JobId) -> Option<Place> {
        self.leases.place(job)
    }
}

impl JetStream {
    /// Connects, makes or updates streams and consumers, and begins to serve.
    ///
    /// # Errors
    /// When NATS can't be reached, is too old, may lose what it acknowledged, or refuses a stream.
    pub async fn open(settings: Settings) -> Result<Self, OpenError> {
        Self::open_with_clock(settings, Box::new(system_time)).await
    }

    /// The same with its own time.
    ///
    /// # Errors
    /// As [`JetStream::open`].
    pub async fn open_with_clock(settings: Settings, clock: Clock) -> Result<Self, OpenError> {
        check_instance(&settings.instance)?;
        let (client, link) = link::connect(&settings).await?;
        let octets_max = durability::check(&client, &settings).await?;
        let names = Names::new(&settings.instance);
        let bound = setup::bound(&settings, octets_max);
        let layout = setup::prepare(&client, &names, &settings, bound, Differing::Update).await?;
        let (later, to_do) = mpsc::unbounded_channel();
        let core = Arc::new(Core {
            api: Api::new(client),
            space: Space::new(settings.octets_max),
            names,
            clock,
            link,
            bursts: Bursts::new(),
            leases: Leases::default(),
            ready: Mutex::default(),
            looking: std::sync::atomic::AtomicUsize::new(0),
            arrived: Notify::new(),
            wanted: Notify::new(),
            wanted_at: std::sync::atomic::AtomicU64::new(fetch::NEVER_WANTED),
            primed: watch::Sender::new(false),
            standing: Standing::default(),
            peers: Peers::new(settings.lease),
            layout: Mutex::new(layout.clone()),
            news: Notify::new(),
            later,
            closed: AtomicBool::new(false),
            bound,
            settings,
        });
        if let Some(octets) = octets_max {
            core.space.limit(octets);
        }
        // The first submission must know what is there.
        core.space
            .measure(&core.api, &core.names)
            .await
            .map_err(|error| OpenError::Setup(error.to_string()))?;
        let mut tasks = JoinSet::new();
        let failed = |error: async_nats::SubscribeError| OpenError::Setup(error.to_string());
        tasks.spawn(fetch::run(Arc::clone(&core), layout, fetch::inbox(&core).await.map_err(failed)?));
        tasks.spawn(control::serve(Arc::clone(&core), control::subscribe(&core).await.map_err(failed)?));
        tasks.spawn(control::greet(Arc::clone(&core)));
        tasks.spawn(tidy::run(Arc::clone(&core), to_do));
        tasks.spawn(tidy::measure(Arc::clone(&core)));
        let (events, writer) = JetStreamEvents::new(Arc::clone(&core));
        tasks.spawn(writer);
        Ok(Self { core, events, tasks: Mutex::new(tasks) })
    }
}

impl JetStream {
    /// Whether NATS can be reached, as far as is known.
    ///
    /// # Errors
    /// What is the matter, in one line.
    pub fn ready(&self) -> Result<(), String> {
        if self.core.link.is_up() { Ok(()) } else { Err("NATS can't be reached".to_owned()) }
    }
}

/// A connection to the same NATS for what else is kept there, which is held to the same demands.
///
/// # Errors
/// When NATS can't be reached, is too old, or may lose what it acknowledged.
pub async fn context(settings: &Settings) -> Result<async_nats::jetstream::Context, OpenError> {
    check_instance(&settings.instance)?;
    let (client, _link) = link::connect(settings).await?;
    durability::check(&client, settings).await?;
    Ok(async_nats::jetstream::new(client))
}

impl Drop for JetStream {
    fn drop(&mut self) {
        self.core.closed.store(true, Ordering::SeqCst);
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

fn system_time() -> Timestamp {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

fn check_instance(name: &str) -> Result<(), OpenError> {
    let safe = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
    if (1..=32).contains(&name.len()) && name.bytes().all(safe) {
        return Ok(());
    }
    Err(OpenError::Instance(name.to_owned()))
}

impl Spool for JetStream {
    type Lease = JetStreamLease;
    type Events = JetStreamEvents;

    fn events(&self) -> &JetStreamEvents {
        &self.events
    }

    async fn accept(&self, message: NewMessage) -> Result<(), AcceptError> {
        accept::accept(&self.core, message).await
    }

    fn room_for(&self, octets: u64) -> Result<(), AcceptError> {
        self.core.space.room_for(octets)
    }

    async fn lease(&self, max: usize) -> Vec<JetStreamLease> {
        wait::lease(&self.core, max.max(1)).await
    }

    async fn look(&self, query: Query) -> Result<Vec<Entry>, ContentError> {
        admin::look(&self.core, query).await
    }

    async fn header(&self, queue_id: QueueId) -> Result<Option<Bytes>, ContentError> {
        admin::header(&self.core, queue_id).await
    }

    async fn summary(&self, hosts_max: usize) -> Summary {
        admin::summary(&self.core, hosts_max).await
    }

    async fn release(&self, which: Selection) -> Result<usize, SettleError> {
        admin::release(&self.core, which).await
    }

    async fn hold(&self, which: Selection, reason: String) -> Result<usize, SettleError> {
        admin::hold(&self.core, which, reason).await
    }

    async fn remove(&self, which: Selection) -> Result<Vec<JobId>, SettleError> {
        admin::remove(&self.core, which).await
    }

    async fn dead_letters(&self, after: u64, limit: usize) -> Result<Vec<DeadLetter>, DeadLetterError> {
        dead::list(&self.core, after, limit).await
    }

    async fn revive(&self, which: DeadSelection) -> Result<Revival, DeadLetterError> {
        dead::revive(&self.core, which).await
    }

    async fn close(&self) {
        // Events that were noted are kept first.
        match tokio::time::timeout(LAST_EVENTS_WITHIN, self.events.append(Vec::new())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last events may be lost"),
            Err(_) => tracing::warn!("the last events may be lost: NATS doesn't take them"),
        }
        self.core.closed.store(true, Ordering::SeqCst);
        // What nobody asked for is another worker's at once.
        let unasked = self.core.ready().take(usize::MAX);
        for fetched in unasked {
            self.core.later(Later::GiveBack { ack: fetched.ack });
        }
        tidy::wait(&self.core).await;
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}
