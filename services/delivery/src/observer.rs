//! Who is told what delivery did.

use std::time::Duration;

use mail::{Disposition, Job, RecipientResult};
use runtime::telemetry::trace_id;
use spool::EventError;

/// One attempt, or one transaction of it.
#[derive(Clone, Copy, Debug)]
pub struct AttemptReport<'a> {
    /// The job.
    pub job: &'a Job,
    /// The host that was talked to, if one was.
    pub host: Option<&'a str>,
    /// TLS version and cipher suite, if there was TLS.
    pub tls: Option<&'a str>,
    /// What came of it, for each recipient of the attempt.
    pub results: &'a [RecipientResult],
    /// From the lease to the result.
    pub total: Duration,
    /// Finding the route.
    pub route: Duration,
    /// Signing.
    pub sign: Duration,
    /// Opening the connection; zero when an open one was used.
    pub connect: Duration,
    /// The transaction.
    pub deliver: Duration,
}

/// Is told what happens; called on the path of every message, so it must not block.
pub trait Observer: Send + Sync + 'static {
    /// An attempt brought these results; they are about to be recorded.
    fn attempt(&self, report: &AttemptReport<'_>);

    /// A job waits without an attempt having been made: for a limit, a connection, a key.
    fn waits(&self, job: &Job, wait: Duration, reason: &str);

    /// Events could not be written, so that nobody will be told of them; mail went on.
    fn events_lost(&self, events: usize, cause: &EventError) {
        tracing::warn!(events, error = %cause, "events are lost");
    }
}

/// Writes one line an attempt and disposition to the log, at level info; waits at debug.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogObserver;

impl Observer for LogObserver {
    fn attempt(&self, report: &AttemptReport<'_>) {
        const KINDS: [&str; 5] = ["delivered", "deferred", "bounced", "expired", "dropped"];
        for kind in KINDS {
            let mut of_kind = report.results.iter().filter(|result| result.disposition.as_str() == kind);
            if let Some(first) = of_kind.next() {
                log(report, first, 1 + of_kind.count());
            }
        }
    }

    fn waits(&self, job: &Job, wait: Duration, reason: &str) {
        tracing::debug!(
            queue_id = %job.message.queue_id,
            job = %job.id,
            wait_millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            reason,
            trace_id = trace_id().map(tracing::field::display),
            "job waits"
        );
    }
}

fn log(report: &AttemptReport<'_>, first: &RecipientResult, recipients: usize) {
    let job = report.job;
    let went_well = matches!(first.disposition, Disposition::Delivered { .. });
    tracing::info!(
        queue_id = %job.message.queue_id,
        job = %job.id,
        message_id = &*job.message.message_id,
        domain = %first.recipient.address.host(),
        recipients,
        disposition = first.disposition.as_str(),
        enhanced_code = %first.status,
        host = report.host,
        tls = report.tls,
        attempt = job.attempt(),
        millis = u64::try_from(report.total.as_millis()).unwrap_or(u64::MAX),
        reason = (!went_well).then_some(&*first.reason),
        trace_id = trace_id().map(tracing::field::display),
        "attempt"
    );
}
