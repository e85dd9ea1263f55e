//! The store on one host: a log of records in segment files, and an index of it in memory.
//!
//! ```text
//! accept ----.                  .-> 0000000007.log  records, one sync for all that wait      (writer, log, frame)
//! settle -----> writer thread --+-> index: who waits where                                   (index)
//! hold ... --'                  '-> answers
//! lease <--- index, then the cache of what was accepted last, or the segment                 (reader)
//! open ----> side files and the last segment --> index                                       (replay)
//! events --> a log of their own, with a thread of its own                                    (events)
//! ```
//!
//! A log of its own, because mail is written once, read once, and removed: one sync makes many sessions' messages durable,
//! nothing is ever rewritten in place, and a start reads only envelopes. The oldest segment is freed by copying what is
//! still queued of it to the end (`writer::reclaim`).
//!
//! What holds whatever happens: an answer of `Ok` comes after the sync; what is read back is what was written, or is
//! reported as damage; a segment is removed only when a durable record says that nothing in it counts.

mod disk;
mod events;
#[cfg(test)]
mod faults;
mod frame;
mod index;
mod lease;
mod listing;
mod log;
mod packed;
mod reader;
mod replay;
mod room;
mod segment;
mod settings;
#[cfg(test)]
mod tests;
mod writer;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use mail::{JobId, QueueId, Timestamp};
use smtp::address::Host;
use tokio::sync::{Notify, oneshot};

use crate::record;
use crate::{
    AcceptError, ContentError, Entry, NewMessage, Origin, Query, Selection, SettleError, Spool, Summary,
};
use disk::{Disk, FileDisk, FileDiskError};
use frame::{Checksums, Frame, Kind};
use index::{Index, Standing};
use reader::Reader;
use room::Room;
use writer::{Accept, Action, Administer, Request, Writer};

pub use events::{EmbeddedEventReader, EmbeddedEvents};
pub use lease::EmbeddedLease;
pub use settings::{Config, EventSettings, Settings};

/// Lines of damage that are kept for [`Summary`].
const DAMAGE_LINES_MAX: usize = 1_000;
/// Octets of a message that are checksummed before other tasks get their turn.
const CHECKSUM_OCTETS: usize = 4 << 20;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process; stop that one or give this one a state directory of its own", .0.display())]
    InUse(PathBuf),
    /// The directory can't be used.
    #[error("can't {action} {}: {source}", .directory.display())]
    Directory {
        /// What was attempted.
        action: &'static str,
        /// Where.
        directory: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file can't be read.
    #[error("can't read {}: {source}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// There are segments, but none whose header checks out.
    #[error(
        "no segment in {} can be read, the first is {}; restore the files, or move them away to begin with an empty queue",
        .directory.display(), .first.display()
    )]
    Unreadable {
        /// Where.
        directory: PathBuf,
        /// The first segment.
        first: PathBuf,
    },
    /// The writer's thread can't be started.
    #[error("can't start the queue's thread: {0}")]
    Thread(std::io::Error),
}

/// A store in a directory. Clones are the same store.
///
/// Dropping the last clone and lease ends it without a note that it was closed; use [`Spool::close`].
#[derive(Clone)]
pub struct Embedded {
    store: Arc<Store>,
}

/// The folders of a store. Each is made where it isn't there, and locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// What is queued.
    pub queue: PathBuf,
    /// What happened.
    pub events: PathBuf,
}

impl Folders {
    /// `spool` and `events` within a state folder.
    pub fn within(state: &Path) -> Self {
        Self { queue: state.join("spool"), events: state.join("events") }
    }
}

/// Says what time it is.
type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What the store's threads share.
struct Core {
    disk: Arc<dyn Disk>,
    reader: Reader,
    index: Mutex<Index>,
    /// Told when there may be somebody to lease.
    ready: Notify,
    room: Room,
    clock: Clock,
    settings: Settings,
    magic: frame::Magic,
    damage: Mutex<Vec<String>>,
}

/// What its users share; the writer ends with the last of them.
struct Store {
    core: Arc<Core>,
    events: EmbeddedEvents,
    requests: Mutex<Option<Sender<Request>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens the store in its folders. `clock` says what time it is.
    ///
    /// Reads what is queued, which blocks: a million messages take seconds.
    ///
    /// # Errors
    /// When another process has it, or it can't be read at all. Damage within it is no error: see [`Summary::damage`].
    pub fn open(
        folders: &Folders,
        settings: Settings,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let Folders { queue, events } = folders;
        Self::on(open_folder(queue)?, open_folder(events)?, settings, Arc::new(clock))
    }

    fn on(
        disk: Arc<dyn Disk>,
        events: Arc<dyn Disk>,
        settings: Settings,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let events = EmbeddedEvents::open(events, settings.events, Arc::clone(&clock))?;
        let replayed = replay::replay(&disk, &settings, clock())?;
        let core = Arc::new(Core {
            reader: Reader::new(Arc::clone(&disk), replayed.log.magic),
            magic: replayed.log.magic,
            index: Mutex::new(replayed.index),
            ready: Notify::new(),
            room: Room::new(),
            clock,
            settings,
            damage: Mutex::new(Vec::new()),
            disk,
        });
        for damage in replayed.damage {
            core.note_damage(damage);
        }
        let (requests, received) = channel();
        let writer = Writer::new(Arc::clone(&core), replayed.log, received);
        let thread = std::thread::Builder::new().name("spool".into()).spawn(move || writer.run());
        let writer = Mutex::new(Some(thread.map_err(OpenError::Thread)?));
        let requests = Mutex::new(Some(requests));
        Ok(Self { store: Arc::new(Store { core, events, requests, writer }) })
    }

    async fn administer(&self, action: Action, which: Selection) -> Result<Vec<JobId>, SettleError> {
        let (answer, answered) = oneshot::channel();
        let closed = || SettleError::Closed;
        self.store.send(Request::Administer(Administer { action, which, answer })).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

fn open_folder(directory: &Path) -> Result<Arc<dyn Disk>, OpenError> {
    let disk = FileDisk::open(directory).map_err(|error| match error {
        FileDiskError::Locked => OpenError::InUse(directory.to_owned()),
        FileDiskError::Io(action, source) => {
            OpenError::Directory { action, directory: directory.to_owned(), source }
        }
    })?;
    Ok(Arc::new(disk))
}

impl Spool for Embedded {
    type Lease = EmbeddedLease;
    type Events = EmbeddedEvents;

    fn events(&self) -> &EmbeddedEvents {
        &self.store.events
    }

    async fn accept(&self, new: NewMessage) -> Result<(), AcceptError> {
        let closed = || AcceptError::Unavailable("the queue is closed".into());
        self.store.core.room.check(new.origin, new.content.octets())?;
        let frame = accepted_frame(self.store.core.magic, &new).await;
        let (answer, answered) = oneshot::channel();
        let jobs = new.jobs.into_iter().map(|job| job.recipients).collect();
        let accept = Accept { origin: new.origin, frame, message: Arc::new(new.message), jobs, answer };
        self.store.send(Request::Accept(Box::new(accept))).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    fn room_for(&self, octets: u64) -> Result<(), AcceptError> {
        self.store.core.room.check(Origin::Submission, octets)
    }

    async fn lease(&self, max: usize) -> Vec<EmbeddedLease> {
        lease::lease(&self.store, max.max(1)).await
    }

    async fn look(&self, query: Query) -> Result<Vec<Entry>, ContentError> {
        listing::look(&self.store.core, query).await
    }

    async fn header(&self, queue_id: QueueId) -> Result<Option<Bytes>, ContentError> {
        listing::header(&self.store.core, queue_id).await
    }

    async fn summary(&self, hosts_max: usize) -> Summary {
        self.store.core.summary(hosts_max)
    }

    async fn release(&self, which: Selection) -> Result<usize, SettleError> {
        self.administer(Action::Release, which).await.map(|jobs| jobs.len())
    }

    async fn hold(&self, which: Selection, reason: String) -> Result<usize, SettleError> {
        self.administer(Action::Hold(reason), which).await.map(|jobs| jobs.len())
    }

    async fn remove(&self, which: Selection) -> Result<Vec<JobId>, SettleError> {
        self.administer(Action::Remove, which).await
    }

    async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.store.send(Request::Close(done)).is_ok() {
            // It has ended anyhow when there is no answer.
            let _ = closed.await;
        }
        let store = Arc::clone(&self.store);
        // The thread has done its work; only its end is waited for.
        let _ = tokio::task::spawn_blocking(move || store.end()).await;
    }
}

async fn accepted_frame(magic: frame::Magic, new: &NewMessage) -> Frame {
    let mut checksums = Checksums::default();
    let mut since_pause = 0;
    for piece in &new.content.pieces {
        for some in piece.chunks(CHECKSUM_OCTETS) {
            checksums.add(some);
            since_pause += some.len();
            if since_pause >= CHECKSUM_OCTETS {
                since_pause = 0;
                tokio::task::yield_now().await;
            }
        }
    }
    let meta = record::accepted_to_wire(new);
    let subject = new.message.queue_id.to_bits();
    Frame::with_content(magic, Kind::Accepted, subject, &meta, &checksums.finish(), &new.content.pieces)
}

impl Store {
    fn send(&self, request: Request) -> Result<(), Closed> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.as_ref().ok_or(Closed)?.send(request).map_err(|_| Closed)
    }

    /// Waits for the writer's end.
    fn end(&self) {
        self.events.end();
        drop(self.requests.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A writer that panicked has said so.
        let _ = writer.map(JoinHandle::join);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end();
    }
}

struct Closed;

impl Core {
    fn index(&self) -> MutexGuard<'_, Index> {
        // The index is only changed by code that doesn't panic halfway.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn lease_until(&self) -> Timestamp {
        self.now().plus_secs(self.settings.lease_secs)
    }

    fn note_damage(&self, what: String) {
        let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if damage.len() < DAMAGE_LINES_MAX && !damage.contains(&what) {
            tracing::error!(damage = %what, "the queue is damaged");
            damage.push(what);
        }
    }

    fn summary(&self, hosts_max: usize) -> Summary {
        let damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut index = self.index();
        index.advance(self.now(), usize::MAX);
        Summary {
            ready: index.count(Standing::Ready),
            leased: index.count(Standing::Leased) + index.count(Standing::Settling),
            waiting: index.count(Standing::Waiting),
            held: index.count(Standing::Held),
            disk_octets: index.octets().0,
            // Damage stays where it is.
            dead_letters: 0,
            hosts: index.busiest_hosts(hosts_max),
            damage,
        }
    }
}

/// A host in the form in which the index knows it: its wire form.
fn host_text(host: &Host) -> Cow<'_, str> {
    match host {
        Host::Domain(domain) => Cow::Borrowed(domain.as_str()),
        Host::Literal(_) => Cow::Owned(host.to_string()),
    }
}
