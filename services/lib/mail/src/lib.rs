//! The nouns of mail: what a message, a job and a result are, with no I/O, runtime or clock.
//!
//! ```text
//! submission --header--> Message + jobs by recipient host --attempt--> RecipientResult --> Event
//!                                      |                                 |        |
//!                             downgrade, for a receiver      RetrySchedule, when   dsn, when it ended
//!                             that takes 7 bits only         it is deferred        and the sender is told
//! ```
//!
//! Time is always an argument ([`Timestamp`]), randomness too. SMTP's own lines and dots are `smtp`'s,
//! signatures `dkim`'s, and what is stored how is `spool`'s business; MIME is read only where a message must
//! be converted.

mod disposition;
pub mod downgrade;
pub mod dsn;
mod event;
pub mod header;
mod job;
mod queue_id;
mod retry;
mod timestamp;
mod transfer_encoding;
mod unready;

pub use disposition::{Disposition, RecipientResult, RemoteReply};
pub use event::{Event, EventKind, EventMessage, Hop, ParseEventKindError};
pub use job::{AccountId, BodyKind, Job, JobKind, Message, Recipient, ReturnContent, TlsRequirement};
pub use queue_id::{JobId, ParseQueueIdError, QueueId};
pub use retry::{RetrySchedule, RetryScheduleError};
pub use timestamp::Timestamp;
pub use unready::{Passage, Unready, WhileUnready};
