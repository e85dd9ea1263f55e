//! What happened to a recipient, as it is told to whoever follows.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use smtp::address::{Address, ReversePath};
use smtp::reply::{EnhancedCode, Reply};

use crate::{AccountId, Disposition, JobId, Message, QueueId, Timestamp};

/// What an event says of its recipient. Each recipient is accepted once and ends once; between them it may be deferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// The message is kept; delivery begins.
    Accepted,
    /// The next hop took it.
    Delivered,
    /// An attempt failed for a while.
    Deferred,
    /// Failed for good.
    Bounced,
    /// Given up after its time.
    Expired,
    /// Removed on purpose.
    Dropped,
}

/// The text names no kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no kind of event: expected accepted, delivered, deferred, bounced, expired or dropped")]
pub struct ParseEventKindError;

impl EventKind {
    /// All kinds, in the order in which they come to pass.
    pub const ALL: [Self; 6] =
        [Self::Accepted, Self::Deferred, Self::Delivered, Self::Bounced, Self::Expired, Self::Dropped];

    /// The word used in commands, logs and ids.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Bounced => "bounced",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
        }
    }

    /// Whether it is the last that happens to the recipient.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Accepted | Self::Deferred)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = ParseEventKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(ParseEventKindError)
    }
}

impl From<Disposition> for EventKind {
    fn from(disposition: Disposition) -> Self {
        match disposition {
            Disposition::Delivered { .. } => Self::Delivered,
            Disposition::Deferred => Self::Deferred,
            Disposition::Bounced => Self::Bounced,
            Disposition::Expired => Self::Expired,
            Disposition::Dropped => Self::Dropped,
        }
    }
}

/// What all events of a message share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventMessage {
    /// Our name for it.
    pub queue_id: QueueId,
    /// Who submitted it.
    pub account: AccountId,
    /// The Message-ID field, with its angle brackets.
    pub message_id: String,
    /// The reverse-path as submitted.
    pub sender: ReversePath,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Octets of the whole message.
    pub octets: u64,
    /// Labels that the sender gave.
    pub tags: Vec<String>,
    /// Key and value pairs that the sender gave.
    pub metadata: Vec<(String, String)>,
    /// The trace that began with its submission, 32 hexadecimal digits.
    pub trace_id: Option<String>,
}

impl From<&Message> for EventMessage {
    fn from(message: &Message) -> Self {
        Self {
            queue_id: message.queue_id,
            account: message.account.clone(),
            message_id: message.message_id.clone(),
            sender: message.original_reverse_path.clone(),
            accepted_at: message.accepted_at,
            octets: message.octets,
            tags: message.tags.clone(),
            metadata: message.metadata.clone(),
            trace_id: message.trace_context.as_deref().and_then(trace_id),
        }
    }
}

/// The trace id of a W3C `traceparent`: `00-<trace id>-<span id>-<flags>`.
fn trace_id(traceparent: &str) -> Option<String> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|octet| octet.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// The way that an attempt took, as far as it got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Whose limits hold: a provider, or the destination itself.
    pub site: Option<Arc<str>>,
    /// The server's name, or its address where it has none.
    pub host: Option<Arc<str>>,
    /// Our address.
    pub source: Option<IpAddr>,
    /// TLS version and cipher suite.
    pub tls: Option<Arc<str>>,
}

/// Something that happened to one recipient.
///
/// Events are told at least once; what is told twice has the same [`Event::id`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// When.
    pub at: Timestamp,
    /// The message.
    pub message: Arc<EventMessage>,
    /// The job by which it happened.
    pub job: JobId,
    /// Whom it happened to.
    pub recipient: Address,
    /// Which attempt of the job brought it, counted from 1; 0 when none did.
    pub attempt: u32,
    /// Where the attempt went.
    pub hop: Hop,
    /// The enhanced status code, of the remote where it gave one that fits.
    pub status: Option<EnhancedCode>,
    /// What the remote said.
    pub reply: Option<Reply>,
    /// One line for people.
    pub reason: String,
    /// When it is tried again.
    pub retry_at: Option<Timestamp>,
    /// Whether somebody else may have had the job before: then the recipient may have got it twice.
    pub redelivered: bool,
}

impl Event {
    /// `<job>/<attempt>/<kind>/<recipient>`: the same for the same thing, however often it is told.
    pub fn id(&self) -> String {
        format!("{}/{}/{}/{}", self.job, self.attempt, self.kind, self.recipient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_its_word() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!("opened".parse::<EventKind>(), Err(ParseEventKindError));
        let ends: Vec<_> = EventKind::ALL.into_iter().filter(|kind| kind.is_final()).collect();
        assert_eq!(ends, [EventKind::Delivered, EventKind::Bounced, EventKind::Expired, EventKind::Dropped]);
    }

    #[test]
    fn a_trace_is_taken_from_a_whole_traceparent_only() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(trace_id(&format!("00-{id}-b7ad6b7169203331-01")).as_deref(), Some(id));
        for text in ["", "00", "00-0af7-b7ad-01", "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01"] {
            assert_eq!(trace_id(text), None, "{text}");
        }
    }
}
