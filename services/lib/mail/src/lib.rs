//! The nouns of mail: what a message, a job and a result are, with no I/O, runtime or clock.
//!
//! ```text
//! submission --header::prepare--> Message + jobs by recipient domain --attempt--> RecipientResult
//!                                                                       |
//!                                         RetrySchedule <--deferred-----+--failed/expired--> dsn::compose
//! ```
//!
//! Time is always an argument ([`Timestamp`]), randomness too. This crate never sees raw network bytes (that is `smtp`),
//! never signs (`dkim`) and never stores (`spool`).

mod disposition;
pub mod header;
mod job;
mod queue_id;
mod retry;
mod timestamp;

pub use disposition::{Disposition, RecipientResult, RemoteReply};
pub use job::{AccountId, BodyKind, Job, JobKind, Message, Recipient, ReturnContent, TlsRequirement};
pub use queue_id::{JobId, ParseQueueIdError, QueueId};
pub use retry::{RetrySchedule, RetryScheduleError};
pub use timestamp::Timestamp;
