//! What delivery tells of a message in its trace. Names are constant; whole addresses are told only where that is set.
//!
//! ```text
//! smtp.transaction -> process -> dns.mx, dkim.sign, smtp.connect, smtp.tls, smtp.deliver
//!                        ^                                ^                  '..link.. a connection opened for another message
//!                        '..link.. process, of an attempt after a deferral: a trace of its own
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use mail::{Disposition, Job, JobKind, Recipient, RecipientResult};
use runtime::telemetry::{SpanMark, TRACE, TraceAddresses, continue_from, failed, link};
use smtp::address::Host;
use smtp::client::Stage;
use smtp::reply::Reply;
use tracing::Span;
use tracing::field::{Empty, display};

use crate::attempt::Round;
use crate::connection::{Connection, OpenError};
use crate::route::{Route, RouteError};

/// A job, from its lease to its settlement. Its first attempt goes on with the trace of the transaction that brought it; those
/// after a deferral, maybe days later, have a trace of their own that is linked to it.
pub(crate) fn process(job: &Job, addresses: TraceAddresses) -> Span {
    let span = match &job.kind {
        JobKind::Delivery { recipients } => delivery(job, recipients, addresses),
        JobKind::Report { results } => report(job, results),
    };
    match &job.message.trace_context {
        Some(traceparent) if job.attempts == 0 => continue_from(&span, traceparent),
        Some(traceparent) if !span.is_disabled() => {
            if let Some(first) = SpanMark::of_traceparent(traceparent) {
                link(&span, &first);
            }
        }
        _ => {}
    }
    span
}

fn delivery(job: &Job, recipients: &[Recipient], addresses: TraceAddresses) -> Span {
    let message = &job.message;
    let span = tracing::info_span!(
        target: TRACE,
        parent: None,
        "process",
        otel.kind = "consumer",
        messaging.system = "stagepost",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = "spool",
        messaging.message.id = %message.queue_id,
        messaging.message.body.size = message.octets,
        mail.queue_id = %message.queue_id,
        mail.job = %job.id,
        mail.account = %message.account,
        mail.attempt = job.attempt(),
        mail.sender.domain = message.reverse_path.mailbox().map(|address| display(address.host())),
        mail.recipient.domain = job.destination().map(display),
        mail.recipients = recipients.len(),
        mail.recipient.addresses = Empty,
        mail.disposition = Empty,
        mail.waits_for = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    );
    if addresses == TraceAddresses::Whole && !span.is_disabled() {
        let all: Vec<String> = recipients.iter().map(|recipient| recipient.address.to_string()).collect();
        span.record("mail.recipient.addresses", all.join(" "));
    }
    span
}

fn report(job: &Job, results: &[RecipientResult]) -> Span {
    let message = &job.message;
    tracing::info_span!(
        target: TRACE,
        parent: None,
        "report",
        otel.kind = "consumer",
        messaging.system = "stagepost",
        messaging.operation.name = "report",
        messaging.operation.type = "process",
        messaging.destination.name = "spool",
        messaging.message.id = %message.queue_id,
        mail.queue_id = %message.queue_id,
        mail.job = %job.id,
        mail.account = %message.account,
        mail.recipients = results.len(),
        mail.waits_for = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// What came of an attempt: of several results, the first that isn't a success.
pub(crate) fn attempted(span: &Span, results: &[RecipientResult]) {
    if span.is_disabled() {
        return;
    }
    if let Some(result) = telling(results) {
        span.record("mail.disposition", result.disposition.as_str());
        if let Some(kind) = failure(result) {
            failed(span, kind);
        }
    }
}

/// Finding the hosts of a domain, or remembering them.
pub(crate) fn route(host: &Host) -> Span {
    tracing::info_span!(
        target: TRACE,
        "dns.mx",
        dns.question.name = %host,
        dns.hosts = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// Where the hosts are, or why nobody knows.
pub(crate) fn routed(span: &Span, routed: &Result<Arc<Route>, Arc<RouteError>>) {
    match routed {
        Ok(route) => {
            span.record("dns.hosts", route.hosts.len());
        }
        Err(error) => failed(span, if error.status.class == 5 { "permanent" } else { "temporary" }),
    }
}

/// Signing.
pub(crate) fn sign(job: &Job) -> Span {
    tracing::info_span!(
        target: TRACE,
        "dkim.sign",
        dkim.domain = %job.message.author_domain,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// Connecting, up to the answer to EHLO.
pub(crate) fn connect(host: &str, address: SocketAddr) -> Span {
    tracing::info_span!(
        target: TRACE,
        "smtp.connect",
        otel.kind = "client",
        server.address = host,
        server.port = address.port(),
        network.peer.address = %address.ip(),
        network.peer.port = address.port(),
        smtp.reply_code = Empty,
        smtp.enhanced_status = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// STARTTLS, up to the answer to the EHLO after it.
pub(crate) fn tls(connection: &Connection) -> Span {
    tracing::info_span!(
        target: TRACE,
        "smtp.tls",
        otel.kind = "client",
        server.address = &*connection.host,
        network.peer.address = %connection.address.ip(),
        tls.established = Empty,
        tls.protocol.version = Empty,
        tls.cipher = Empty,
        smtp.reply_code = Empty,
        smtp.enhanced_status = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// What came of STARTTLS, when the connection goes on.
pub(crate) fn encrypted(span: &Span, connection: &Connection, refusal: Option<&Reply>) {
    span.record("tls.established", connection.tls.is_some());
    if let Some((version, cipher)) = connection.tls.as_deref().and_then(|tls| tls.split_once(' ')) {
        span.record("tls.protocol.version", version);
        span.record("tls.cipher", cipher);
    }
    if let Some(reply) = refusal {
        said(span, reply);
        failed(span, "refused");
    }
}

/// No connection came of it.
pub(crate) fn not_opened(span: &Span, error: &OpenError) {
    let kind = match error {
        OpenError::Unreachable(_) => "unreachable",
        OpenError::NoAnswer(_) => "timeout",
        OpenError::Broken(_) => "broken",
        OpenError::Refused(_) => "refused",
        OpenError::Handshake(_) => "handshake",
    };
    if let OpenError::Refused(reply) = error {
        said(span, reply);
    }
    failed(span, kind);
}

/// One transaction with the recipient's server, within `process`.
pub(crate) fn deliver(process: &Span, connection: &Connection) -> Span {
    let span = tracing::info_span!(
        target: TRACE,
        parent: process,
        "smtp.deliver",
        otel.kind = "client",
        server.address = &*connection.host,
        server.port = connection.address.port(),
        network.peer.address = %connection.address.ip(),
        network.protocol.name = "smtp",
        smtp.connection.reused = connection.served > 1,
        smtp.reply_code = Empty,
        smtp.enhanced_status = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    );
    // A connection is of the trace of the message that it was opened for, not of all that followed.
    if let Some(opened) = connection.opened.as_ref().filter(|_| connection.served > 1) {
        link(&span, opened);
    }
    span
}

/// A reply within a transaction.
pub(crate) fn replied(stage: Stage, reply: &Reply) {
    tracing::info!(
        target: TRACE,
        {
            smtp.reply_code = reply.code(),
            smtp.enhanced_status = reply.enhanced().map(display),
        },
        "{stage}"
    );
}

/// What came of a transaction.
pub(crate) fn delivered(span: &Span, round: &Round) {
    if span.is_disabled() {
        return;
    }
    if let Some(result) = telling(&round.results) {
        if let Some(remote) = &result.remote {
            said(span, &remote.reply);
        }
        if let Some(kind) = failure(result) {
            failed(span, kind);
        }
    }
    if round.unsettled.is_some() {
        failed(span, "broken");
    }
}

fn said(span: &Span, reply: &Reply) {
    span.record("smtp.reply_code", reply.code());
    if let Some(enhanced) = reply.enhanced() {
        span.record("smtp.enhanced_status", display(enhanced));
    }
}

fn telling(results: &[RecipientResult]) -> Option<&RecipientResult> {
    results.iter().find(|result| failure(result).is_some()).or_else(|| results.first())
}

fn failure(result: &RecipientResult) -> Option<&'static str> {
    match result.disposition {
        Disposition::Delivered { .. } | Disposition::Dropped => None,
        disposition => Some(disposition.as_str()),
    }
}
