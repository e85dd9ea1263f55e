//! Jobs in workers' hands.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail::{Job, JobKind, Recipient, RecipientResult};
use proto::spool::v1 as wire;
use smtp::address::ReversePath;
use tokio::sync::oneshot;

use super::frame::{BLOCK_OCTETS, Frame, Kind};
use super::index::{Claim, Standing, Ticket};
use super::packed::packed;
use super::reader::{LeasedContent, Loaded, ReadError};
use super::writer::{NewReport, Outcome, Request, Settle};
use super::{Core, Store, host_text};
use crate::{ContentError, Lease, Retry, SettleError, record};

/// Jobs whose wait or lease has ended that one call moves at most.
const MOVE_MAX: usize = 1_024;
/// How often waits and leases are looked at again: clocks are set, and the system sleeps.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A job of the embedded store in a worker's hands.
pub struct EmbeddedLease {
    store: Arc<Store>,
    /// None once it is settled.
    claim: Option<Claim>,
    job: Job,
    reports: u16,
    content: LeasedContent,
}

/// Waits for jobs.
pub(super) async fn lease(store: &Arc<Store>, max: usize) -> Vec<EmbeddedLease> {
    let core = &store.core;
    loop {
        let notified = core.ready.notified();
        tokio::pin!(notified);
        // From here on no notice is missed.
        notified.as_mut().enable();
        let (claimed, wait) = claim(store, max);
        if claimed.is_empty() {
            match wait {
                // Not being told is as good as being told.
                Some(wait) => drop(tokio::time::timeout(wait, notified).await),
                None => notified.await,
            }
            continue;
        }
        let leases = load(store, claimed).await;
        if !leases.is_empty() {
            return leases;
        }
    }
}

/// A job that was taken out of the order, and goes back when nobody gets it after all.
struct Claimed {
    store: Arc<Store>,
    ticket: Ticket,
    handed: bool,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if !self.handed {
            let core = &self.store.core;
            let mut index = core.index();
            if let Some(job) = index.claimed(self.ticket.claim) {
                index.make_ready(job);
                drop(index);
                core.ready.notify_one();
            }
        }
    }
}

fn claim(store: &Arc<Store>, max: usize) -> (Vec<Claimed>, Option<Duration>) {
    let core = &store.core;
    let now = core.now();
    let until = core.lease_until();
    let mut claimed = Vec::new();
    let mut index = core.index();
    index.advance(now, MOVE_MAX);
    while claimed.len() < max
        && let Some(ticket) = index.lease(until)
    {
        claimed.push(Claimed { store: Arc::clone(store), ticket, handed: false });
    }
    let next = index.next_instant().map(|next| Duration::from_millis(next.millis_since(now)).min(LOOK_AGAIN));
    if index.has_ready() {
        // Each who is woken wakes the next, as long as there is something to do.
        core.ready.notify_one();
    }
    (claimed, next)
}

async fn load(store: &Arc<Store>, claimed: Vec<Claimed>) -> Vec<EmbeddedLease> {
    let in_memory = |claimed: &Claimed| claimed.ticket.cached.is_some() && claimed.ticket.state.is_none();
    let loaded = if claimed.iter().all(in_memory) {
        load_all(claimed)
    } else {
        let reading = tokio::task::spawn_blocking(move || load_all(claimed));
        // A reader that panicked has given its jobs back.
        reading.await.unwrap_or_default()
    };
    loaded.into_iter().map(|(claimed, loaded)| EmbeddedLease::new(store, claimed, loaded)).collect()
}

fn load_all(claimed: Vec<Claimed>) -> Vec<(Claimed, Loaded)> {
    let mut loaded = Vec::with_capacity(claimed.len());
    let mut rest: VecDeque<Claimed> = claimed.into();
    while let Some(mut next) = rest.pop_front() {
        match load_one(&mut next) {
            Ok(Some(job)) => loaded.push((next, job)),
            Ok(None) => {}
            Err(cause) => next.store.core.set_aside(&next.ticket, cause),
        }
    }
    loaded
}

/// Nothing when the job is gone or somebody else's by now.
fn load_one(claimed: &mut Claimed) -> Result<Option<Loaded>, ReadError> {
    let core = &claimed.store.core;
    loop {
        match core.reader.load(&claimed.ticket) {
            Ok(loaded) => return Ok(Some(loaded)),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                // The message was copied to the log's end meanwhile, or removed.
                let Some(ticket) = core.current_ticket(claimed.ticket.claim) else {
                    return Ok(None);
                };
                if ticket.place == claimed.ticket.place && ticket.state == claimed.ticket.state {
                    return Err(ReadError::Io(error));
                }
                claimed.ticket = ticket;
            }
            Err(error) => return Err(error),
        }
    }
}

impl Core {
    fn current_ticket(&self, claim: Claim) -> Option<Ticket> {
        let index = self.index();
        index.claimed(claim).map(|job| index.ticket(job))
    }

    /// Holds a job that can't be read until a restart or an administrator; it is not given up.
    fn set_aside(&self, ticket: &Ticket, cause: ReadError) {
        let what = format!("job {} can't be read: {cause}", ticket.id);
        let mut index = self.index();
        if let Some(job) = index.claimed(ticket.claim) {
            index.set_hold(job, Some(&what));
            index.make_ready(job);
        }
        drop(index);
        self.note_damage(what);
    }
}

impl EmbeddedLease {
    fn new(store: &Arc<Store>, mut claimed: Claimed, loaded: Loaded) -> Self {
        claimed.handed = true;
        Self {
            store: Arc::clone(store),
            claim: Some(claimed.ticket.claim),
            job: loaded.job,
            reports: claimed.ticket.reports,
            content: loaded.content,
        }
    }

    fn is_report(&self) -> bool {
        matches!(self.job.kind, JobKind::Report { .. })
    }

    /// The state of this job with these recipients left.
    fn state(&self, recipients: &[Recipient]) -> wire::State {
        let results = match &self.job.kind {
            JobKind::Report { results } => record::results_to_wire(results),
            JobKind::Delivery { .. } => Vec::new(),
        };
        wire::State {
            number: self.job.id.number.into(),
            report: self.job.id.report.map(u32::from),
            recipients: record::recipients_to_wire(recipients),
            results,
            attempts: self.job.attempts,
            reason: self.job.deferred.clone(),
            signature: self.job.signature.as_deref().map(str::to_owned),
            reports: self.reports.into(),
            host: self.job.destination().map(host_text).unwrap_or_default().into_owned(),
            ..wire::State::default()
        }
    }

    /// The report that these results make, if any; a report's own have none.
    fn report(&self, results: &[RecipientResult]) -> Option<(wire::State, NewReport)> {
        if results.is_empty() || self.is_report() {
            return None;
        }
        let number = self.reports.saturating_add(1);
        let host = match &self.job.message.original_reverse_path {
            ReversePath::Null => String::new(),
            ReversePath::Mailbox(address) => host_text(address.host()).into_owned(),
        };
        let state = wire::State {
            number: self.job.id.number.into(),
            report: Some(number.into()),
            results: record::results_to_wire(results),
            host: host.clone(),
            ..wire::State::default()
        };
        Some((state, NewReport { number, host }))
    }

    fn change(&self, change: &wire::Change) -> Frame {
        Frame::new(self.store.core.magic, Kind::Change, self.job.id.queue_id.to_bits(), change)
    }

    async fn settle(
        &mut self,
        frame: Option<Frame>,
        outcome: Outcome,
        report: Option<NewReport>,
    ) -> Result<(), SettleError> {
        let id = self.job.id;
        let narrowed = matches!(outcome, Outcome::Narrowed);
        let claim = if narrowed { self.claim } else { self.claim.take() };
        let claim = claim.ok_or(SettleError::LeaseLost(id))?;
        let (answer, answered) = oneshot::channel();
        let settle = Settle { claim, id, frame, outcome, report, answer };
        self.store.send(Request::Settle(Box::new(settle))).map_err(|_| SettleError::Closed)?;
        answered.await.map_err(|_| SettleError::Closed)?
    }

    async fn read(
        &self,
        claim: Claim,
        offset: u64,
        checksums: &Arc<[u32]>,
        octets: u64,
    ) -> Result<Bytes, ContentError> {
        let queue_id = self.job.id.queue_id;
        let number = offset / BLOCK_OCTETS;
        let block_octets = BLOCK_OCTETS.min(octets - number * BLOCK_OCTETS);
        let checksum =
            checksums.get(usize::try_from(number).unwrap_or(usize::MAX)).copied().unwrap_or_default();
        let store = Arc::clone(&self.store);
        let part = (checksum, usize::try_from(block_octets).unwrap_or_default());
        let reading = tokio::task::spawn_blocking(move || {
            loop {
                let Some(ticket) = store.core.current_ticket(claim) else {
                    let cause = "the lease is gone".into();
                    return Err(ContentError::Unavailable { queue_id, cause });
                };
                match store.core.reader.block(ticket.place, ticket.head_octets, number, part) {
                    Ok(block) => return Ok(block),
                    // The message was copied to the log's end meanwhile.
                    Err(_) if has_moved(&store.core, claim, &ticket) => {}
                    Err(ReadError::Damaged(cause)) => {
                        store.core.note_damage(cause.clone());
                        return Err(ContentError::Damaged { queue_id, cause });
                    }
                    Err(ReadError::Io(error)) => {
                        return Err(ContentError::Unavailable { queue_id, cause: error.to_string() });
                    }
                }
            }
        });
        let block = reading
            .await
            .map_err(|error| ContentError::Unavailable { queue_id, cause: error.to_string() })??;
        Ok(block.slice(usize::try_from(offset % BLOCK_OCTETS).unwrap_or_default()..))
    }
}

fn has_moved(core: &Core, claim: Claim, ticket: &Ticket) -> bool {
    core.current_ticket(claim).is_none_or(|now| now.place != ticket.place)
}

impl Lease for EmbeddedLease {
    fn job(&self) -> &Job {
        &self.job
    }

    async fn content(&self, offset: u64) -> Result<Bytes, ContentError> {
        match &self.content {
            LeasedContent::Whole(octets) => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(octets.len());
                Ok(octets.slice(offset..))
            }
            LeasedContent::OnDisk { octets, .. } if offset >= *octets => Ok(Bytes::new()),
            LeasedContent::OnDisk { checksums, octets } => {
                let queue_id = self.job.id.queue_id;
                let cause = || "the job is settled".to_owned();
                let claim =
                    self.claim.ok_or_else(|| ContentError::Unavailable { queue_id, cause: cause() })?;
                self.read(claim, offset, checksums, *octets).await
            }
        }
    }

    fn touch(&self) -> impl Future<Output = Result<(), SettleError>> + Send {
        let core = &self.store.core;
        let until = core.lease_until();
        let mut index = core.index();
        let touched = match self.claim.and_then(|claim| index.claimed(claim)) {
            Some(job) => {
                index.job_mut(job).at = until;
                Ok(())
            }
            None => Err(SettleError::LeaseLost(self.job.id)),
        };
        std::future::ready(touched)
    }

    async fn narrow(
        &mut self,
        remaining: Vec<Recipient>,
        results: Vec<RecipientResult>,
    ) -> Result<(), SettleError> {
        let (report, new) = self.report(&results).unzip();
        let reports = new.as_ref().map_or(self.reports, |new| new.number);
        let state = wire::State { reports: reports.into(), ..self.state(&remaining) };
        let states = std::iter::once(state).chain(report).collect();
        let frame = self.change(&wire::Change { states, gone: Vec::new() });
        self.settle(Some(frame), Outcome::Narrowed, new).await?;
        self.reports = reports;
        if let JobKind::Delivery { recipients } = &mut self.job.kind {
            *recipients = remaining;
        }
        Ok(())
    }

    async fn done(mut self, results: Vec<RecipientResult>) -> Result<(), SettleError> {
        let Some((report, new)) = self.report(&results) else {
            return self.settle(None, Outcome::Gone, None).await;
        };
        let id = self.job.id;
        let gone = wire::Number { number: id.number.into(), report: id.report.map(u32::from) };
        let frame = self.change(&wire::Change { states: vec![report], gone: vec![gone] });
        self.settle(Some(frame), Outcome::Gone, Some(new)).await
    }

    async fn retry(mut self, retry: Retry, results: Vec<RecipientResult>) -> Result<(), SettleError> {
        let (report, new) = self.report(&results).unzip();
        let reports = new.as_ref().map_or(self.reports, |new| new.number);
        let state = wire::State {
            attempts: retry.attempts,
            reason: Some(retry.reason),
            due_at_ms: Some(retry.at.0),
            signature: retry.signature.as_deref().map(str::to_owned),
            reports: reports.into(),
            ..self.state(&retry.remaining)
        };
        let states = std::iter::once(state).chain(report).collect();
        let frame = self.change(&wire::Change { states, gone: Vec::new() });
        self.settle(Some(frame), Outcome::Waits(retry.at), new).await
    }

    async fn hold(mut self, reason: String) -> Result<(), SettleError> {
        let mark = wire::Mark { packed: packed(&[self.job.id]), hold: Some(reason.clone()) };
        let frame = Frame::new(self.store.core.magic, Kind::Mark, 0, &mark);
        self.settle(Some(frame), Outcome::Held(reason), None).await
    }
}

impl Drop for EmbeddedLease {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else {
            return;
        };
        let core = &self.store.core;
        let mut index = core.index();
        let Some(job) = index.claimed(claim) else {
            return;
        };
        if index.job(job).standing == Standing::Settling {
            // The change that is being written decides.
            index.job_mut(job).dropped = true;
            return;
        }
        index.lose(job);
        drop(index);
        core.ready.notify_one();
    }
}
