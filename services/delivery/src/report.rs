//! Telling the sender: a report job becomes a message with the null sender.

use dkim::BodyHasher;
use limits::Limits;
use mail::dsn::{self, RETURNED_OCTETS_MAX, ReportContext};
use mail::{JobKind, Message, QueueId, Recipient, TlsRequirement};
use runtime::telemetry::{current_traceparent, trace_id};
use smtp::address::ReversePath;
use spool::{AcceptError, Content, NewJob, NewMessage, Origin, Spool};

use crate::context::{Context, now};
use crate::work::Work;

/// What became of a report.
pub(crate) enum Sent {
    /// It is in the queue, or there is nobody to be told.
    Over,
    /// It can't be kept just now, and why.
    Later(String),
}

/// Composes the report of a job and puts it into the queue. Done twice it is one report: its queue id and its octets
/// derive from the job.
pub(crate) async fn send<S: Spool, L: Limits>(context: &Context<S, L>, work: &Work<S::Lease>) -> Sent {
    let job = work.job();
    let JobKind::Report { results } = &job.kind else { return Sent::Over };
    let about = &job.message;
    let queue_id = QueueId::derived_from(job.id);
    let shape = ReportContext {
        reporting_mta: &context.host_name,
        domain: &about.author_domain,
        queue_id,
        returned_octets_max: RETURNED_OCTETS_MAX,
    };
    // What is larger is never given back whole: of it only the header is read.
    let octets = if about.octets <= RETURNED_OCTETS_MAX as u64 {
        about.octets
    } else {
        u64::from(about.header_octets)
    };
    let content =
        if octets == about.octets { work.content().await.map(Into::into) } else { work.header().await };
    let content = content.unwrap_or_else(|error| {
        tracing::warn!(job = %job.id, %error, "a report goes without the message that it is about");
        bytes::Bytes::new()
    });
    let Some(report) = dsn::compose(about, results, &shape, &[content]) else { return Sent::Over };

    let mut hasher = BodyHasher::new();
    hasher.update(report.body());
    let accepted_at = now();
    let message = Message {
        queue_id,
        account: about.account.clone(),
        original_reverse_path: ReversePath::Null,
        reverse_path: ReversePath::Null,
        author_domain: about.author_domain.clone(),
        ret: None,
        envid: None,
        body_kind: report.body_kind,
        smtputf8: report.smtputf8,
        message_id: report.message_id,
        header_octets: u32::try_from(report.header_octets).unwrap_or(u32::MAX),
        octets: report.content.len() as u64,
        body_hash: *hasher.finish().as_bytes(),
        tls: TlsRequirement::Opportunistic,
        tags: Vec::new(),
        metadata: Vec::new(),
        egress_pool: about.egress_pool.clone(),
        accepted_at,
        not_before: None,
        expires_at: accepted_at.plus_secs(context.sites.schedule(None).lifetime_secs()),
        trace_context: current_traceparent().or_else(|| about.trace_context.clone()),
    };
    let jobs = vec![NewJob { recipients: vec![Recipient::new(report.recipient)] }];
    let content = Content { pieces: vec![report.content.into()] };
    match context.spool.accept(NewMessage { origin: Origin::Report(job.id), message, jobs, content }).await {
        Ok(()) => {
            tracing::info!(queue_id = %about.queue_id, job = %job.id, report_queue_id = %queue_id, trace_id = trace_id().map(tracing::field::display), "sender is told");
            Sent::Over
        }
        Err(error @ (AcceptError::Full(_) | AcceptError::Unavailable(_))) => Sent::Later(error.to_string()),
    }
}
