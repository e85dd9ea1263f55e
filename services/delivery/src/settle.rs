//! Recording what became of a job: over, to be retried, to be reported.

use std::sync::Arc;
use std::time::Duration;

use limits::Limits;
use mail::{Disposition, Hop, JobKind, Recipient, RecipientResult, RemoteReply, Timestamp};
use smtp::address::ReversePath;
use smtp::reply::EnhancedCode;
use spool::{Lease as _, Retry, SettleError, Spool};

use crate::approach::Failure;
use crate::context::{Context, in_time, now};
use crate::events;
use crate::isolation::{FAILURES_MAX, Panicked};
use crate::metrics::Cause;
use crate::observer::AttemptReport;
use crate::spans;
use crate::work::{Earlier, Work};

/// Who tells the sender of a success that was asked for (RFC 3461 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The message went to another server: that one does, if it offers DSN; else we do, as `relayed`.
    NextHop,
    /// It ends here, in the simulator or the sandbox.
    Here,
}

/// What an attempt brought for those whom it was about.
pub(crate) struct Outcome {
    pub(crate) results: Vec<RecipientResult>,
    pub(crate) origin: Origin,
    pub(crate) signature: Option<Arc<str>>,
    /// The way that the attempt took.
    pub(crate) hop: Hop,
}

impl Outcome {
    /// All recipients have the same result, and no server was talked to in their name.
    pub(crate) fn failed(recipients: &[Recipient], failure: &Failure, signature: Option<Arc<str>>) -> Self {
        let at = now();
        let results = recipients.iter().map(|recipient| failed(recipient, failure, at)).collect();
        let host = failure.remote.as_ref().and_then(|remote| remote.host.as_deref()).map(Arc::from);
        Self { results, origin: Origin::NextHop, signature, hop: Hop { host, ..Hop::default() } }
    }

    /// It was meant for this site.
    pub(crate) fn towards(mut self, site: &Arc<str>) -> Self {
        self.hop.site = Some(Arc::clone(site));
        self
    }
}

/// The result of one recipient.
pub(crate) fn failed(recipient: &Recipient, failure: &Failure, at: Timestamp) -> RecipientResult {
    let disposition = if failure.is_permanent() { Disposition::Bounced } else { Disposition::Deferred };
    result(recipient, disposition, failure.status, failure.remote.clone(), failure.reason.clone(), at)
}

pub(crate) fn result(
    recipient: &Recipient,
    disposition: Disposition,
    status: EnhancedCode,
    remote: Option<RemoteReply>,
    reason: String,
    at: Timestamp,
) -> RecipientResult {
    let Recipient { address, notify, orcpt, last: _ } = recipient.clone();
    let recipient = Recipient { address, notify, orcpt, last: None };
    RecipientResult { recipient, disposition, status, remote, reason, at }
}

/// Ends an attempt.
pub(crate) async fn finish<S: Spool, L: Limits>(
    context: &Context<S, L>,
    mut work: Work<S::Lease>,
    mut outcome: Outcome,
) {
    expire(context, &work, &mut outcome.results);
    observe(context, &work, &outcome);
    let mut earlier = std::mem::take(&mut work.deferred);
    expire(context, &work, earlier.iter_mut().map(|earlier| &mut earlier.result));
    let attempts = work.job().attempt();
    let wait =
        context.sites.schedule(outcome.hop.site.as_deref()).wait_millis(attempts, runtime::random_u32());
    let at = now().plus_millis(wait).min(work.job().message.expires_at);
    tell(context, &work, &earlier, &outcome, at).await;

    let earlier = earlier.into_iter().map(|earlier| earlier.result);
    let results = std::mem::take(&mut work.settled).into_iter().chain(earlier).chain(outcome.results);
    let (deferred, ended): (Vec<_>, Vec<_>) =
        results.partition(|result| result.disposition == Disposition::Deferred);
    let reports = reports(&work, ended, outcome.origin);
    let job = work.job().id;
    let settled = match deferred.first() {
        None => work.lease.done(reports).await,
        Some(first) => {
            let reason = first.reason.clone();
            let remaining = deferred.into_iter().map(with_last).collect();
            let retry = Retry { at, remaining, attempts, reason, signature: outcome.signature };
            work.lease.retry(retry, reports).await
        }
    };
    log_unrecorded(job, settled);
}

/// Writes the events of an attempt's end: they come before the settlement, since nobody could make up for them after it.
async fn tell<S: Spool, L: Limits>(
    context: &Context<S, L>,
    work: &Work<S::Lease>,
    earlier: &[Earlier],
    outcome: &Outcome,
    retry_at: Timestamp,
) {
    let telling = events::Attempt::new(work.job());
    let earlier = earlier.iter().map(|earlier| telling.event(&earlier.result, &earlier.hop, retry_at));
    let last = outcome.results.iter().map(|result| telling.event(result, &outcome.hop, retry_at));
    let told = earlier.chain(last).collect();
    events::append(context, work, told).await;
}

/// Records what a transaction settled before another one begins; false when the job is no longer ours.
pub(crate) async fn narrow<S: Spool, L: Limits>(
    context: &Context<S, L>,
    work: &mut Work<S::Lease>,
    remaining: Vec<Recipient>,
    outcome: Outcome,
) -> bool {
    observe(context, work, &outcome);
    let (deferred, ended): (Vec<_>, Vec<_>) =
        outcome.results.into_iter().partition(|result| result.disposition == Disposition::Deferred);
    let hop = outcome.hop;
    work.deferred.extend(deferred.into_iter().map(|result| Earlier { result, hop: hop.clone() }));
    work.recipients.clone_from(&remaining);
    work.begin_another();
    if ended.is_empty() {
        return true;
    }
    let telling = events::Attempt::new(work.job());
    // None of them is tried again.
    let told = ended.iter().map(|result| telling.event(result, &hop, Timestamp::default())).collect();
    events::append(context, work, told).await;
    let deferred = work.deferred.iter().map(|earlier| with_last(earlier.result.clone()));
    let left = remaining.into_iter().chain(deferred).collect();
    let reports = reports(work, ended.clone(), outcome.origin);
    match work.lease.narrow(left, reports).await {
        Ok(()) => true,
        Err(SettleError::Unavailable { .. }) => {
            // It is recorded together with what is to come.
            work.settled.extend(ended);
            true
        }
        Err(error @ (SettleError::LeaseLost(_) | SettleError::Closed)) => {
            log_unrecorded(work.job().id, Err(error));
            false
        }
    }
}

/// The job waits for something that isn't its own fault: no attempt is counted. What is too old ends.
pub(crate) async fn wait<S: Spool, L: Limits>(
    context: &Context<S, L>,
    work: Work<S::Lease>,
    cause: Cause,
    wait: Duration,
    reason: String,
    signature: Option<Arc<str>>,
) {
    if now() >= work.job().message.expires_at && matches!(work.job().kind, JobKind::Delivery { .. }) {
        let failure = Failure::new((4, 4, 7), reason);
        let outcome = Outcome::failed(&work.recipients, &failure, signature);
        return finish(context, work, outcome).await;
    }
    context.observer.waits(work.job(), wait, &reason);
    context.metrics.waits(cause);
    work.span.record("mail.waits_for", cause.as_str());
    events::keep_noted(context, &work).await;
    let job = work.job();
    let (id, attempts) = (job.id, job.attempts);
    let remaining = work.recipients.clone();
    let signature = signature.or_else(|| job.signature.clone());
    let retry = Retry { at: in_time(wait), remaining, attempts, reason, signature };
    log_unrecorded(id, work.lease.retry(retry, Vec::new()).await);
}

/// Processing the job panicked: it is tried again, and given up after some times.
pub(crate) async fn poisoned<S: Spool, L: Limits>(
    context: &Context<S, L>,
    work: Work<S::Lease>,
    panicked: Panicked,
) {
    let id = work.job().id;
    let failures = context.failures.count(id);
    tracing::error!(job = %id, failures, error = %panicked, "can't process a job");
    let given_up = failures >= FAILURES_MAX;
    if matches!(work.job().kind, JobKind::Report { .. }) {
        if given_up {
            return log_unrecorded(id, work.lease.done(Vec::new()).await);
        }
        let pause =
            Duration::from_millis(context.sites.schedule(None).wait_millis(failures, runtime::random_u32()));
        return wait(context, work, Cause::Failure, pause, panicked.to_string(), None).await;
    }
    let class = if given_up { 5 } else { 4 };
    let failure = Failure::new((class, 3, 0), panicked.to_string());
    let outcome = Outcome::failed(&work.recipients, &failure, None);
    finish(context, work, outcome).await;
}

/// The store says on its own when it can't write; here it matters that mail may go out again.
pub(crate) fn log_unrecorded(job: mail::JobId, settled: Result<(), SettleError>) {
    if let Err(error) = settled {
        tracing::warn!(%job, %error, "what became of a job isn't recorded; it may be done again");
    }
}

fn with_last(result: RecipientResult) -> Recipient {
    let mut recipient = result.recipient.clone();
    recipient.last = Some(Box::new(result));
    recipient
}

/// What is deferred after its time is over (RFC 3463: X.4.7 is a persistent transient error).
fn expire<'a, S: Spool, L: Limits>(
    context: &Context<S, L>,
    work: &Work<S::Lease>,
    results: impl IntoIterator<Item = &'a mut RecipientResult>,
) {
    let message = &work.job().message;
    if now() < message.expires_at {
        return;
    }
    let hours = context.sites.schedule(None).lifetime_secs() / 3600;
    for result in results.into_iter().filter(|result| result.disposition == Disposition::Deferred) {
        result.disposition = Disposition::Expired;
        result.status = EnhancedCode::new(4, 4, 7);
        result.reason = match hours {
            0 => format!("given up, its time is over: {}", result.reason),
            hours => format!("given up after {hours} h: {}", result.reason),
        };
    }
}

/// The results that the sender must see. Nobody is told of mail with the null reverse-path (RFC 5321 section 4.5.5).
fn reports<L: spool::Lease>(
    work: &Work<L>,
    mut ended: Vec<RecipientResult>,
    origin: Origin,
) -> Vec<RecipientResult> {
    let message = &work.job().message;
    if message.original_reverse_path == ReversePath::Null {
        let failed = |result: &&RecipientResult| !matches!(result.disposition, Disposition::Delivered { .. });
        if let Some(first) = ended.iter().find(failed) {
            tracing::info!(queue_id = %message.queue_id, job = %work.job().id, reason = first.reason, "no report on mail without a sender");
        }
        return Vec::new();
    }
    let told = |result: &RecipientResult| match (result.disposition, origin) {
        (Disposition::Delivered { relayed: false }, Origin::Here) => {
            result.recipient.notify.is_some_and(|notify| notify.success())
        }
        _ => result.wants_report(),
    };
    ended.retain(told);
    ended
}

fn observe<S: Spool, L: Limits>(context: &Context<S, L>, work: &Work<S::Lease>, outcome: &Outcome) {
    let times = &work.times;
    context.metrics.attempted(&outcome.results);
    spans::attempted(&work.span, &outcome.results);
    context.observer.attempt(&AttemptReport {
        job: work.job(),
        host: outcome.hop.host.as_deref(),
        tls: outcome.hop.tls.as_deref(),
        results: &outcome.results,
        total: times.leased.elapsed(),
        route: times.route,
        sign: times.sign,
        connect: times.connect,
        deliver: times.deliver,
    });
}
