//! Telling what happened: events are written before what they tell of is settled.

use std::sync::Arc;
use std::time::Duration;

use limits::Limits;
use mail::{
    Disposition, Event, EventKind, EventMessage, Hop, Job, JobId, JobKind, RecipientResult, Timestamp,
};
use smtp::address::Address;
use spool::{EventError, EventLog as _, Spool};

use crate::context::Context;
use crate::work::Work;

/// What has ended doesn't wait longer for its events: a job that isn't settled is done again some time.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody who asks for an answer waits longer for it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Makes the events of a job's attempt.
pub(crate) struct Attempt {
    bare: Bare,
    attempt: u32,
}

impl Attempt {
    pub(crate) fn new(job: &Job) -> Self {
        Self { bare: Bare::new(job), attempt: job.attempt() }
    }

    /// What the attempt brought for one recipient. `retry_at` counts where it is tried again.
    pub(crate) fn event(&self, result: &RecipientResult, hop: &Hop, retry_at: Timestamp) -> Event {
        let remote = result.remote.as_ref();
        let said_by = || remote.and_then(|remote| remote.host.as_deref()).map(Arc::from);
        let hop = Hop { host: hop.host.clone().or_else(said_by), ..hop.clone() };
        Event {
            at: result.at,
            attempt: self.attempt,
            hop,
            status: Some(result.status),
            reply: remote.map(|remote| remote.reply.clone()),
            reason: result.reason.clone(),
            retry_at: (result.disposition == Disposition::Deferred).then_some(retry_at),
            ..self.bare.event(result.disposition.into(), result.recipient.address.clone())
        }
    }
}

/// Makes a job's events that no attempt brought.
struct Bare {
    message: Arc<EventMessage>,
    job: JobId,
    redelivered: bool,
}

impl Bare {
    fn new(job: &Job) -> Self {
        Self {
            message: Arc::new(EventMessage::from(&*job.message)),
            job: job.id,
            redelivered: job.redelivered,
        }
    }

    fn event(&self, kind: EventKind, recipient: Address) -> Event {
        Event {
            kind,
            at: self.message.accepted_at,
            message: Arc::clone(&self.message),
            job: self.job,
            recipient,
            attempt: 0,
            hop: Hop::default(),
            status: None,
            reply: None,
            reason: String::new(),
            retry_at: None,
            redelivered: self.redelivered,
        }
    }
}

/// An event of a kind for each recipient that is left of a job; none for a report, whose recipients have ended before.
fn of_all(job: &Job, kind: EventKind) -> Vec<Event> {
    let JobKind::Delivery { recipients } = &job.kind else { return Vec::new() };
    let bare = Bare::new(job);
    recipients.iter().map(|recipient| bare.event(kind, recipient.address.clone())).collect()
}

/// The recipients of a job are removed on purpose. Where no attempt was made nobody may have told yet that it was accepted.
pub(crate) fn dropped(job: &Job, at: Timestamp, reason: &str) -> Vec<Event> {
    let mut events = if job.attempts == 0 { of_all(job, EventKind::Accepted) } else { Vec::new() };
    let dropped = of_all(job, EventKind::Dropped);
    events.extend(dropped.into_iter().map(|event| Event { at, reason: reason.to_owned(), ..event }));
    events
}

/// Whether nobody settled the job before: then its acceptance may not have been told.
fn is_fresh(job: &Job) -> bool {
    job.attempts == 0 && job.deferred.is_none()
}

/// Whoever has the job first tells that it was accepted, without waiting: what comes of it is written after it.
pub(crate) fn note_accepted<S: Spool, L: Limits>(context: &Context<S, L>, job: &Job) {
    if is_fresh(job) {
        context.spool.events().note(of_all(job, EventKind::Accepted));
    }
}

/// Before a job is put back without an attempt: its acceptance is told for good, since it isn't fresh any more.
pub(crate) async fn keep_noted<S: Spool, L: Limits>(context: &Context<S, L>, work: &Work<S::Lease>) {
    if is_fresh(work.job()) {
        append(context, work, Vec::new()).await;
    }
}

/// Writes events of a job while its lease is kept alive. Mail matters more: where they can't be written it goes on without them.
pub(crate) async fn append<S: Spool, L: Limits>(
    context: &Context<S, L>,
    work: &Work<S::Lease>,
    events: Vec<Event>,
) {
    let count = events.len();
    let appended = append_within(PATIENCE, &*context.spool, events);
    match work.kept(appended).await {
        Ok(Err(error)) if count > 0 => context.observer.events_lost(count, &error),
        // What was only noted isn't lost yet.
        Ok(Err(error)) => tracing::debug!(%error, "what was noted isn't known to be kept"),
        Ok(Ok(())) => {}
        // The settlement says so too. Somebody else does the job and tells of it.
        Err(lost) => tracing::debug!(job = %work.job().id, %lost, "events aren't known to be kept"),
    }
}

/// Writes events, or says soon why it can't.
pub(crate) async fn append_in_time<S: Spool>(spool: &S, events: Vec<Event>) -> Result<(), EventError> {
    append_within(ANSWER_WITHIN, spool, events).await
}

async fn append_within<S: Spool>(
    patience: Duration,
    spool: &S,
    events: Vec<Event>,
) -> Result<(), EventError> {
    let late = |_| {
        let secs = patience.as_secs();
        Err(EventError::Unavailable(format!("it doesn't answer within {secs} s")))
    };
    tokio::time::timeout(patience, spool.events().append(events)).await.unwrap_or_else(late)
}
