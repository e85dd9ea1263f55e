//! The contract that every store keeps.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use mail::{AccountId, Job, JobId, Message, QueueId, Recipient, RecipientResult, Timestamp};
use smtp::address::Host;

use crate::events::EventLog;

/// A message's octets in order, cut anywhere; not dot-stuffed, lines end in CRLF.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// The pieces.
    pub pieces: Vec<Bytes>,
}

impl Content {
    /// Octets in all.
    pub fn octets(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

/// Where a message comes from; it decides how much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody submits it, and can come again when there is room.
    Submission,
    /// What this report job, which the caller has leased, tells: the job can't end without it, so that it may use what is
    /// kept in reserve.
    Report(JobId),
}

/// What ingress, or delivery for a report, hands over: it is kept whole or not at all.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Where it comes from.
    pub origin: Origin,
    /// What all its jobs share.
    pub message: Message,
    /// Its jobs, one per recipient host, 1 to 1,000 of them.
    pub jobs: Vec<NewJob>,
    /// Its octets.
    pub content: Content,
}

/// One job of a new message; its number is its place.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// At most 100, all at one host.
    pub recipients: Vec<Recipient>,
}

/// Why a message was not accepted. Nothing of it is kept, unless `Unavailable` says that this isn't known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// There is no room; becomes 452 4.3.1.
    #[error("the store has no room for new mail: {0}")]
    Full(String),
    /// The store gave no answer or an error; becomes 451 4.3.0.
    #[error("the store can't keep mail just now: {0}")]
    Unavailable(String),
}

/// Why a change of a leased job was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// The lease lapsed and the job may be with somebody else, or an administrator removed it.
    #[error("the lease of job {0} is gone")]
    LeaseLost(JobId),
    /// The store gave no answer; the job comes back when the lease lapses.
    #[error("the store can't record what became of job {job}: {cause}")]
    Unavailable {
        /// Which job.
        job: JobId,
        /// Why.
        cause: String,
    },
    /// The store is closed; the job is ready again when it is opened.
    #[error("the queue is closed")]
    Closed,
}

/// Why a message's content could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// The octets on disk don't match their checksum, or are gone; reading again won't help.
    #[error("the content of message {queue_id} is damaged: {cause}")]
    Damaged {
        /// Which message.
        queue_id: QueueId,
        /// Where and how.
        cause: String,
    },
    /// The store gave no answer; later it may.
    #[error("the content of message {queue_id} can't be read just now: {cause}")]
    Unavailable {
        /// Which message.
        queue_id: QueueId,
        /// Why.
        cause: String,
    },
}

/// How a job waits.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Not before this instant.
    pub at: Timestamp,
    /// Those who are still to be served, with the last result each; for a report job empty (its results stay as they are).
    pub remaining: Vec<Recipient>,
    /// Failed attempts so far: more by one than before when the attempt failed, the same when it waited for a limit.
    pub attempts: u32,
    /// Why it waits, one line for people.
    pub reason: String,
    /// Signature fields to be used again.
    pub signature: Option<Arc<str>>,
}

/// A store of mail that waits.
pub trait Spool: Send + Sync + 'static {
    /// A job in a worker's hands.
    type Lease: Lease;
    /// What happened to mail.
    type Events: EventLog;

    /// The log of what happened.
    fn events(&self) -> &Self::Events;

    /// Keeps a message. `Ok` means that it is on disk: after it a kill of any process loses nothing. Accepting a queue id
    /// that is known or was accepted before (a report's derived one) is `Ok` and changes nothing while its jobs exist.
    fn accept(&self, message: NewMessage) -> impl Future<Output = Result<(), AcceptError>> + Send;

    /// Whether a submission of this many octets would be taken now; ingress asks before it reads one.
    fn room_for(&self, octets: u64) -> Result<(), AcceptError>;

    /// Waits until there is a job and gives 1 to `max` of them: fair between lanes, then between the accounts of a lane,
    /// and of an account due ones before fresh ones. Cancelling the wait loses no job.
    fn lease(&self, max: usize) -> impl Future<Output = Vec<Self::Lease>> + Send;

    /// Entries in order of job id, from `query.after` on.
    fn look(&self, query: Query) -> impl Future<Output = Result<Vec<Entry>, ContentError>> + Send;

    /// The header section of a queued message, without the empty line; none when nothing of the message is queued.
    fn header(&self, queue_id: QueueId) -> impl Future<Output = Result<Option<Bytes>, ContentError>> + Send;

    /// How many jobs are in which state, in all and by recipient host (the `hosts_max` with most jobs).
    fn summary(&self, hosts_max: usize) -> impl Future<Output = Summary> + Send;

    /// Makes waiting or held jobs of the message, or the one job, ready now; says how many.
    fn release(&self, which: Selection) -> impl Future<Output = Result<usize, SettleError>> + Send;

    /// Holds what is ready or waiting until it is released; what is leased is held when its lease is settled by a retry
    /// or lapses. Says how many.
    fn hold(
        &self,
        which: Selection,
        reason: String,
    ) -> impl Future<Output = Result<usize, SettleError>> + Send;

    /// Removes jobs without a report; leased ones too (their settlement is then `LeaseLost`). Says which.
    fn remove(&self, which: Selection) -> impl Future<Output = Result<Vec<JobId>, SettleError>> + Send;

    /// Records that can't be read and were put aside, those after the number `after`, in order, up to `limit` (0 means 1,000).
    /// A store that leaves damage where it is has none.
    fn dead_letters(
        &self,
        _after: u64,
        _limit: usize,
    ) -> impl Future<Output = Result<Vec<DeadLetter>, DeadLetterError>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Puts dead letters back where they stood, to be read once more, as a newer program may. One that still can't be read
    /// becomes a dead letter anew.
    fn revive(&self, _which: DeadSelection) -> impl Future<Output = Result<Revival, DeadLetterError>> + Send {
        std::future::ready(Ok(Revival::default()))
    }

    /// Makes all that was recorded durable and ends the store's threads; nothing is accepted afterwards, and readers of events
    /// come to their end.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// A leased job. Dropped unsettled it is ready again at once.
///
/// Each change is durable when it answers `Ok`.
pub trait Lease: Send + Sync + 'static {
    /// The job.
    fn job(&self) -> &Job;

    /// Octets of the message from `offset` on: a piece of at least one octet, empty at its end. Inline content comes whole.
    fn content(&self, offset: u64) -> impl Future<Output = Result<Bytes, ContentError>> + Send;

    /// Proves that the lease is still ours and prolongs it; to be called at least every 20 s while a conversation lives.
    fn touch(&self) -> impl Future<Output = Result<(), SettleError>> + Send;

    /// Records what one transaction settled before the next begins: only `remaining` (not none: that is [`Lease::done`])
    /// are left, `results` get a report.
    fn narrow(
        &mut self,
        remaining: Vec<Recipient>,
        results: Vec<RecipientResult>,
    ) -> impl Future<Output = Result<(), SettleError>> + Send;

    /// The job is over. `results` that the sender must see become a report job in the same step; for none, give none.
    fn done(self, results: Vec<RecipientResult>) -> impl Future<Output = Result<(), SettleError>> + Send;

    /// The job waits. `results` as in [`Lease::done`].
    fn retry(
        self,
        retry: Retry,
        results: Vec<RecipientResult>,
    ) -> impl Future<Output = Result<(), SettleError>> + Send;

    /// The job is held until it is released.
    fn hold(self, reason: String) -> impl Future<Output = Result<(), SettleError>> + Send;
}

/// Which jobs an administrator means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// One job.
    Job(JobId),
    /// All jobs of a message.
    Message(QueueId),
    /// All jobs of an account.
    Account(AccountId),
    /// All jobs for a host.
    Host(Host),
}

/// Which entries to list.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only this message's.
    pub queue_id: Option<QueueId>,
    /// Only this account's.
    pub account: Option<AccountId>,
    /// Only those for this host.
    pub host: Option<Host>,
    /// Only those that are in a state of this name (`ready`, `leased`, `waiting`, `held`).
    pub state: Option<StateName>,
    /// Those after this job, for paging.
    pub after: Option<JobId>,
    /// How many at most; 0 means 1,000.
    pub limit: usize,
}

/// The name of a state, without its particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateName {
    /// Can be leased now.
    Ready,
    /// With a worker.
    Leased,
    /// Not before an instant.
    Waiting,
    /// Until released.
    Held,
}

/// A job as an administrator sees it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The job as it would be leased.
    pub job: Job,
    /// Where it stands.
    pub state: EntryState,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// Can be leased now.
    Ready,
    /// With a worker.
    Leased,
    /// Not before this instant.
    Waiting {
        /// When it is due.
        until: Timestamp,
    },
    /// Until released.
    Held,
}

impl EntryState {
    /// Its name.
    pub fn name(&self) -> StateName {
        match self {
            Self::Ready => StateName::Ready,
            Self::Leased => StateName::Leased,
            Self::Waiting { .. } => StateName::Waiting,
            Self::Held => StateName::Held,
        }
    }
}

/// A record that can't be read, and was put aside so that it holds up no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Names it; one that comes back has another.
    pub number: u64,
    /// Where it stood, in the store's own terms.
    pub subject: String,
    /// Why it can't be read.
    pub cause: String,
    /// Its size.
    pub octets: u64,
    /// When it was put aside.
    pub at: Timestamp,
}

/// Which dead letters are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadSelection {
    /// The one of this number.
    Number(u64),
    /// All that there are now.
    All,
}

/// What became of dead letters that were to be put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revival {
    /// Put back.
    pub revived: u64,
    /// Left, since the queue has another record of the same job: both would be delivered.
    pub left: u64,
}

/// Why dead letters can't be listed or put back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeadLetterError {
    /// The store gave no answer or an error; what was put back until then is.
    #[error("the store can't look after dead letters just now: {0}")]
    Unavailable(String),
}

/// Counts of jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Can be leased now.
    pub ready: u64,
    /// With workers.
    pub leased: u64,
    /// Not before an instant.
    pub waiting: u64,
    /// Until released.
    pub held: u64,
    /// Octets of the store on disk.
    pub disk_octets: u64,
    /// Records that can't be read and were put aside; no job of the counts above.
    pub dead_letters: u64,
    /// Recipient hosts with most jobs: host, jobs.
    pub hosts: Vec<(String, u64)>,
    /// Places where the store was found damaged, each with its path; one line each.
    pub damage: Vec<String>,
}
