//! How a recipient ended, and what the remote server said.

use smtp::reply::{EnhancedCode, Reply};

use crate::{Recipient, Timestamp};

/// What became of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// The next hop took responsibility. `relayed`: it doesn't offer DSN, so what was asked of us ends here
    /// (RFC 3461 section 5.2.2).
    Delivered {
        /// The next hop will send no report of its own.
        relayed: bool,
    },
    /// Failed for a while; tried again later.
    Deferred,
    /// Failed for good; the sender is told.
    Bounced,
    /// Given up after its time; the sender is told.
    Expired,
    /// Removed on purpose (suppressed or by an administrator), with a reason.
    Dropped,
}

impl Disposition {
    /// The word used in logs, tables and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered { .. } => "delivered",
            Self::Deferred => "deferred",
            Self::Bounced => "bounced",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
        }
    }
}

/// A reply of a remote server, as text that is safe to log and to put into a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteReply {
    /// The host that said it, if a connection was made.
    pub host: Option<String>,
    /// The reply.
    pub reply: Reply,
}

/// What one attempt brought for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientResult {
    /// Whom it is about.
    pub recipient: Recipient,
    /// How it stands.
    pub disposition: Disposition,
    /// The status for reports: the remote's enhanced code where its class fits, else ours.
    pub status: EnhancedCode,
    /// What the remote said; none when we never got that far.
    pub remote: Option<RemoteReply>,
    /// One line for people: what happened and, if it waits, why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}
