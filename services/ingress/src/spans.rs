//! What ingress tells of a message in its trace. Names are constant; whole addresses are told only where that is set.
//!
//! ```text
//! smtp.session -> accounts.authenticate
//!      ^
//!      '..link.. smtp.transaction -> accounts.authorize -> publish
//! ```

use std::net::IpAddr;

use runtime::telemetry::{SpanMark, TRACE, TraceAddresses, continue_from, current_traceparent, failed, link};
use smtp::address::{Address, ForwardPath, ReversePath};
use smtp::reply::Reply;
use spool::NewMessage;
use tracing::Span;
use tracing::field::{Empty, display};

use crate::directory::Member;
use crate::metrics::reason;

/// A connection, from its first octet to its end.
pub(crate) fn session(client: IpAddr) -> Span {
    tracing::info_span!(
        target: TRACE,
        parent: None,
        "smtp.session",
        otel.kind = "server",
        client.address = %client,
        network.protocol.name = "smtp",
        mail.account = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// A transaction, from MAIL to the reply to the final dot. It is a trace of its own: a session may live for days.
pub(crate) fn transaction(
    client: IpAddr,
    member: &Member,
    from: &ReversePath,
    addresses: TraceAddresses,
) -> Span {
    let span = tracing::info_span!(
        target: TRACE,
        parent: None,
        "smtp.transaction",
        otel.kind = "server",
        client.address = %client,
        mail.account = %member.account(),
        mail.sender.domain = from.mailbox().map(|address| display(address.host())),
        mail.sender.address = from.mailbox().and_then(|address| whole(address, addresses)).map(display),
        mail.queue_id = Empty,
        mail.message_id = Empty,
        smtp.reply_code = Empty,
        smtp.enhanced_status = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    );
    if let Some(session) = SpanMark::of(&Span::current()) {
        link(&span, &session);
    }
    span
}

/// Mail from an administrator: the root where there is no SMTP.
pub(crate) fn submission() -> Span {
    tracing::info_span!(
        target: TRACE,
        parent: None,
        "admin.send",
        otel.kind = "server",
        mail.account = Empty,
        mail.queue_id = Empty,
        mail.message_id = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// A login, asked of accounts.
pub(crate) fn authenticate() -> Span {
    tracing::info_span!(
        target: TRACE,
        "accounts.authenticate",
        otel.kind = "client",
        rpc.system = "grpc",
        rpc.service = "stagepost.accounts.v1.Directory",
        rpc.method = "Authenticate",
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// What the account may do; `cached` says whether accounts had to be waited for.
pub(crate) fn authorize() -> Span {
    tracing::info_span!(target: TRACE, "accounts.authorize", cached = Empty)
}

/// The call by which that is learned anew. It may outlast the transaction that made it necessary, so it isn't within it, only of
/// its trace.
pub(crate) fn refresh() -> Span {
    let span = tracing::info_span!(
        target: TRACE,
        parent: None,
        "stagepost.accounts.v1.Directory/Authorize",
        otel.kind = "client",
        rpc.system = "grpc",
        rpc.service = "stagepost.accounts.v1.Directory",
        rpc.method = "Authorize",
        error.type = Empty,
        otel.status_code = Empty,
    );
    if let Some(traceparent) = current_traceparent() {
        continue_from(&span, &traceparent);
    }
    span
}

/// The store takes the message.
pub(crate) fn publish(message: &NewMessage) -> Span {
    tracing::info_span!(
        target: TRACE,
        "publish",
        otel.kind = "producer",
        messaging.system = "stagepost",
        messaging.operation.name = "publish",
        messaging.operation.type = "send",
        messaging.destination.name = "spool",
        messaging.message.id = %message.message.queue_id,
        messaging.message.body.size = message.message.octets,
        messaging.batch.message_count = message.jobs.len(),
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// A recipient was named, and this was answered.
pub(crate) fn recipient(span: &Span, to: &ForwardPath, addresses: TraceAddresses, reply: Option<&Reply>) {
    let mailbox = to.mailbox();
    tracing::info!(
        target: TRACE,
        parent: span,
        {
            mail.recipient.domain = mailbox.map(|address| display(address.host())),
            mail.recipient.address = mailbox.and_then(|address| whole(address, addresses)).map(display),
            smtp.reply_code = reply.map_or(250, Reply::code),
            smtp.enhanced_status = reply.and_then(Reply::enhanced).map(display),
        },
        "RCPT"
    );
}

/// The transaction's last reply.
pub(crate) fn answered(span: &Span, reply: &Reply) {
    span.record("smtp.reply_code", reply.code());
    if let Some(enhanced) = reply.enhanced() {
        span.record("smtp.enhanced_status", display(enhanced));
    }
    if reply.code() >= 400 {
        failed(span, reason(reply));
    }
}

fn whole(address: &Address, addresses: TraceAddresses) -> Option<&Address> {
    (addresses == TraceAddresses::Whole).then_some(address)
}
