//! Who is told what ingress accepted and refused.

use std::net::IpAddr;
use std::time::Duration;

use mail::{AccountId, QueueId};
use runtime::telemetry::trace_id;
use smtp::address::ReversePath;
use smtp::reply::Reply;

/// A message that was accepted and is on disk.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// Our name for it.
    pub queue_id: QueueId,
    /// The sender's name for it, with its angle brackets.
    pub message_id: &'a str,
    /// Whose it is.
    pub account: &'a AccountId,
    /// Where it came from; none when it wasn't submitted by SMTP.
    pub client: Option<IpAddr>,
    /// Its reverse-path.
    pub reverse_path: &'a ReversePath,
    /// How many recipients it has.
    pub recipients: usize,
    /// Into how many jobs they were grouped.
    pub jobs: usize,
    /// Octets of the whole message.
    pub octets: u64,
    /// From DATA to the final dot.
    pub receive: Duration,
    /// From there until the store had it on disk.
    pub store: Duration,
}

/// What was refused by policy; syntax errors are between the client and the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Which question was answered with no.
    pub stage: Stage,
    /// Whose mail it would have been, once that was known.
    pub account: Option<&'a AccountId>,
    /// Where it came from; none when it wasn't submitted by SMTP.
    pub client: Option<IpAddr>,
    /// What the client was told.
    pub reply: &'a Reply,
}

/// Where in its conversation a client was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// AUTH.
    Login,
    /// MAIL.
    Sender,
    /// RCPT.
    Recipient,
    /// DATA or the first BDAT.
    Body,
    /// The final dot.
    Message,
}

impl Stage {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Sender => "sender",
            Self::Recipient => "recipient",
            Self::Body => "body",
            Self::Message => "message",
        }
    }
}

/// Is told what happens; called on the path of every message, so it must not block.
pub trait Observer: Send + Sync + 'static {
    /// A message is on disk and its 250 is about to be sent.
    fn accepted(&self, accepted: &Accepted<'_>);

    /// Something was refused.
    fn refused(&self, refused: &Refused<'_>);
}

/// Writes refusals to the log at level info, and acceptances at debug: there a message's line is its disposition.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogObserver;

impl Observer for LogObserver {
    fn accepted(&self, accepted: &Accepted<'_>) {
        tracing::debug!(
            queue_id = %accepted.queue_id,
            message_id = accepted.message_id,
            account = %accepted.account,
            client = accepted.client.map(tracing::field::display),
            recipients = accepted.recipients,
            jobs = accepted.jobs,
            octets = accepted.octets,
            trace_id = trace_id().map(tracing::field::display),
            receive_micros = u64::try_from(accepted.receive.as_micros()).unwrap_or(u64::MAX),
            store_micros = u64::try_from(accepted.store.as_micros()).unwrap_or(u64::MAX),
            "message accepted"
        );
    }

    fn refused(&self, refused: &Refused<'_>) {
        tracing::info!(
            stage = refused.stage.as_str(),
            account = refused.account.map(tracing::field::display),
            client = refused.client.map(tracing::field::display),
            code = refused.reply.code(),
            enhanced_code = refused.reply.enhanced().map(tracing::field::display),
            reason = refused.reply.text(),
            trace_id = trace_id().map(tracing::field::display),
            "refused"
        );
    }
}
