//! A small key-value store in which every change is compared with what it was decided on.
//!
//! A store counts its changes: a *position* is how far somebody has seen them. A change names the position that it was decided
//! on, and is made only when nothing was changed since. So rules over several keys, such as that a name is given once, hold
//! among replicas without a lock.

mod embedded;
mod shared;

pub use embedded::Embedded;
pub use shared::{Event, Shared};

/// The store can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be opened, read or written.
    #[error("can't {attempt} {place}: {cause}")]
    Failed {
        /// What was tried.
        attempt: &'static str,
        /// The store's file, or its name in NATS.
        place: String,
        /// Why.
        cause: String,
    },
    /// Something was changed since the position.
    #[error("somebody else made a change meanwhile; look at it again and repeat")]
    Conflict,
    /// Nothing can be changed until NATS is back; what is known goes on being answered.
    #[error("NATS is away ({0}): nothing was changed; repeat it later")]
    Away(String),
    /// NATS was asked and didn't answer.
    #[error("NATS didn't answer ({0}): the change may have been made or not; look again when it is back")]
    Unanswered(String),
}

/// One key's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which key.
    pub key: String,
    /// What it holds then; none to remove it.
    pub value: Option<Vec<u8>>,
}

/// How many changes somebody has seen.
pub type Position = u64;

/// Where accounts are kept.
#[tonic::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Makes all changes or none; durable when it returns. The position is the one after them.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when something was changed since `seen`, else when it can't be written.
    async fn change(&self, seen: Position, changes: &[Change]) -> Result<Position, StoreError>;
}
