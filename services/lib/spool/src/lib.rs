//! The queue: what was accepted and is not yet settled.
//!
//! ```text
//! accept --durable--> ready --lease--> leased --done--------> gone (with a report job for results that the sender must see)
//!                       ^                |----retry(at)----> waiting --due--> ready
//!                       |                |----hold---------> held --release--> ready
//!                       +--lease lapsed--+----narrow--------> leased, fewer recipients
//! ```
//!
//! One trait, [`Spool`]; the [`embedded`] store implements it on one host, [`jetstream`] for many. A store never talks SMTP,
//! never decides when to retry and never composes a report: it keeps what it is told, says it only once it is on disk, and
//! hands it out again.
//! Beside the queue it keeps a log of what happened ([`EventLog`]).

pub mod conformance;
pub mod embedded;
pub mod events;
pub mod jetstream;
mod record;
mod store;

pub use events::{EventError, EventLog, EventQuery, EventReader, Follow};
pub use store::{
    AcceptError, Content, ContentError, DeadLetter, DeadLetterError, DeadSelection, Entry, EntryState, Lease,
    NewJob, NewMessage, Origin, Query, Retry, Revival, Selection, SettleError, Spool, StateName, Summary,
};
