//! The log of what happened: one trait beside [`Spool`](crate::Spool), kept by each store.
//!
//! ```text
//! first lease --note--> .-------. --read--> whoever follows, or asks for a message's story
//! settlement -append--> | log   |
//! removal ----append--> '-------'  what is too old, or too much, is forgotten
//! ```

mod wire;

use std::future::Future;

use mail::{Event, QueueId, Timestamp};

pub use wire::{EventRecordError, batch_from_wire, batch_to_wire};

/// Why the log can't be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The log gave no answer or an error. What was to be written may be there all the same.
    #[error("the log of events can't be used just now: {0}")]
    Unavailable(String),
    /// The store is closed.
    #[error("the log of events is closed")]
    Closed,
}

/// A log of events.
///
/// Events of one message are read in the order in which they were written, and at least once: what is written again, because
/// its writer couldn't know that it was there, has the same [`Event::id`], and readers drop it.
pub trait EventLog: Send + Sync + 'static {
    /// Reads it.
    type Reader: EventReader;

    /// Writes events; they, and all that was noted before, are durable when this is `Ok`. Given none it makes durable what
    /// was noted. May take as long as the store gives no answer: a caller who can't wait any longer drops the future, and the
    /// events may become durable all the same.
    fn append(&self, events: Vec<Event>) -> impl Future<Output = Result<(), EventError>> + Send;

    /// Writes events without waiting: they become durable and can be read soon, and before any later [`append`] is `Ok`.
    ///
    /// [`append`]: EventLog::append
    fn note(&self, events: Vec<Event>);

    /// A reader of what is asked for.
    fn read(&self, query: EventQuery) -> impl Future<Output = Result<Self::Reader, EventError>> + Send;
}

/// Which events are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventQuery {
    /// Only those that happened at this instant or later.
    pub since: Timestamp,
    /// Only those of these messages; of all when there is none. A message's events are never older than its queue id, so that
    /// a log need not be read from before the oldest of them.
    pub messages: Vec<QueueId>,
    /// Where it ends.
    pub follow: Follow,
}

/// Where reading ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// With what was durable when the reader was made.
    UntilNow,
    /// When the log is closed: what is written is read as soon as it is durable.
    Forever,
}

/// Reads a log.
pub trait EventReader: Send + 'static {
    /// The next events, at least one; none at the end. Damage is skipped. Cancelling the wait loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<Event>>, EventError>> + Send;
}
