//! Jobs in a worker's hands.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::Request;
use bytes::Bytes;
use mail::{Job, JobId, JobKind, Recipient, RecipientResult, Timestamp};

use super::api::{ApiError, Outgoing, PATIENCE};
use super::body::{CHUNK, INLINE_RETRY_MAX, Kept};
use super::job::{Body, Place, Record};
use super::names::{Kind, Spot};
use super::{Core, Later};
use crate::{Content, ContentError, Lease, Retry, SettleError};

/// How long an acknowledgement may take before the record is deleted by its number.
const ACK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a lease waits for more jobs than the first, so that accounts have their turns.
const GATHER: Duration = Duration::from_millis(3);
/// The same while jobs are being looked at twice.
const GATHER_LOOKED_AT: Duration = Duration::from_millis(50);
/// More jobs than this are not waited for.
const GATHER_MAX: usize = 16;
/// A worker that waits says so again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long the first lease waits until all lanes were looked at.
const PRIME: Duration = Duration::from_secs(1);

/// A job as it came from a stream.
pub(super) struct Fetched {
    pub(super) record: Record,
    pub(super) spot: Spot,
    pub(super) place: Place,
    /// Where the server takes acknowledgements.
    pub(super) ack: String,
    pub(super) fetched_at: Instant,
    /// In milliseconds since the store was opened.
    pub(super) fetched_ms: u64,
    pub(super) epoch: u64,
}

/// What an administrator wants of a leased job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// To be held when its lease ends by a retry.
    Hold(String),
    /// Gone already.
    Removed,
}

/// What is known of a lease beside the worker that has it.
pub(super) struct Held {
    job: Mutex<Arc<Job>>,
    place: Mutex<Place>,
    mark: Mutex<Option<Mark>>,
    /// When it was proved last, in milliseconds since the store was opened.
    touched: AtomicU64,
    /// The sequence of the waiting record that stands for the lease, once it was narrowed; 0 before.
    parked: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The leases of this process.
#[derive(Default)]
pub(super) struct Leases {
    held: Mutex<HashMap<JobId, Arc<Held>>>,
}

impl Leases {
    pub(super) fn place(&self, job: JobId) -> Option<Place> {
        lock(&self.held).get(&job).map(|held| lock(&held.place).clone())
    }

    /// The jobs that `wanted` names.
    pub(super) fn ids(&self, wanted: impl Fn(&Job) -> bool) -> Vec<JobId> {
        let held = lock(&self.held);
        held.iter().filter(|(_, held)| wanted(&lock(&held.job))).map(|(id, _)| *id).collect()
    }

    /// Marks the jobs that `wanted` names, and says which.
    pub(super) fn mark(&self, mark: &Mark, wanted: impl Fn(&Job) -> bool) -> Vec<JobId> {
        let held = lock(&self.held);
        let found = held.iter().filter(|(_, held)| wanted(&lock(&held.job)));
        found
            .map(|(id, held)| {
                *lock(&held.mark) = Some(mark.clone());
                *id
            })
            .collect()
    }

    /// Jobs that were to be held no longer are.
    pub(super) fn unhold(&self, wanted: impl Fn(&Job) -> bool) {
        for held in lock(&self.held).values().filter(|held| wanted(&lock(&held.job))) {
            let mut mark = lock(&held.mark);
            if matches!(*mark, Some(Mark::Hold(_))) {
                *mark = None;
            }
        }
    }

    /// How many there are, and how many of them a waiting record stands for.
    pub(super) fn count(&self) -> (u64, u64) {
        let held = lock(&self.held);
        let parked = held.values().filter(|held| held.parked.load(Ordering::SeqCst) > 0).count();
        (held.len() as u64, parked as u64)
    }
}

/// Waits for jobs.
pub(super) async fn lease(core: &Arc<Core>, max: usize) -> Vec<JetStreamLease> {
    let mut primed = core.primed.subscribe();
    ask(core);
    let _ = tokio::time::timeout(PRIME, primed.wait_for(|primed| *primed)).await;
    let mut gathered = None;
    loop {
        let mut arrived = std::pin::pin!(core.arrived.notified());
        arrived.as_mut().enable();
        ask(core);
        let there = core.ready().len();
        if (1..max.min(GATHER_MAX)).contains(&there) {
            let since = *gathered.get_or_insert_with(Instant::now);
            let most = if core.looking.load(Ordering::SeqCst) > 0 { GATHER_LOOKED_AT } else { GATHER };
            if since.elapsed() < most {
                tokio::time::sleep(GATHER).await;
                continue;
            }
        }
        let taken = if core.is_closed() { Vec::new() } else { core.ready().take(max) };
        let leases: Vec<_> =
            taken.into_iter().filter_map(|fetched| JetStreamLease::begin(core, fetched)).collect();
        if !leases.is_empty() {
            return leases;
        }
        let _ = tokio::time::timeout(ASK_AGAIN, arrived).await;
    }
}

fn ask(core: &Core) {
    core.wanted_at.store(core.link.elapsed(), Ordering::Relaxed);
    core.wanted.notify_one();
}

/// A job leased from JetStream.
pub struct JetStreamLease {
    core: Arc<Core>,
    record: Record,
    spot: Spot,
    ack: String,
    epoch: u64,
    held: Arc<Held>,
    settled: bool,
}

impl JetStreamLease {
    /// None when the lease ran out before anybody wanted it.
    pub(super) fn begin(core: &Arc<Core>, fetched: Fetched) -> Option<Self> {
        let Fetched { record, spot, place, ack, fetched_at: _, fetched_ms, epoch } = fetched;
        if epoch != core.link.epoch() || core.link.elapsed() > fetched_ms + core.lease_ms() {
            return None;
        }
        let held = Arc::new(Held {
            job: Mutex::new(Arc::new(record.job.clone())),
            place: Mutex::new(place),
            mark: Mutex::default(),
            touched: AtomicU64::new(fetched_ms),
            parked: AtomicU64::new(0),
        });
        lock(&core.leases.held).insert(record.job.id, Arc::clone(&held));
        let core = Arc::clone(core);
        Some(Self { core, record, spot, ack, epoch, held, settled: false })
    }

    fn id(&self) -> JobId {
        self.record.job.id
    }

    fn place(&self) -> Place {
        lock(&self.held.place).clone()
    }

    fn mark(&self) -> Option<Mark> {
        lock(&self.held.mark).clone()
    }

    fn lost(&self) -> SettleError {
        SettleError::LeaseLost(self.id())
    }

    fn unavailable(&self, error: &ApiError) -> SettleError {
        SettleError::Unavailable { job: self.id(), cause: error.to_string() }
    }

    /// Milliseconds until the lease ends; none when it has.
    fn left_ms(&self) -> Option<u64> {
        let ends = self.held.touched.load(Ordering::SeqCst) + self.core.lease_ms();
        ends.checked_sub(self.core.link.elapsed()).filter(|left| *left > 0)
    }

    /// Whether the job is still ours, as far as can be told from here.
    fn check(&self) -> Result<(), SettleError> {
        if self.core.is_closed() {
            return Err(SettleError::Closed);
        }
        if self.mark() == Some(Mark::Removed) || self.left_ms().is_none() {
            return Err(self.lost());
        }
        Ok(())
    }

    fn proved(&self, at: u64) {
        self.held.touched.fetch_max(at, Ordering::SeqCst);
    }

    fn parked(&self) -> Option<u64> {
        Some(self.held.parked.load(Ordering::SeqCst)).filter(|sequence| *sequence > 0)
    }

    /// When a parked lease becomes due if nobody renews it: not before somebody else would get it.
    fn parked_until(&self) -> Timestamp {
        self.core.now().plus_millis(2 * self.core.lease_ms())
    }

    /// The record that follows, with the job as it is now.
    fn successor(&self, due_at: Option<Timestamp>, hold: Option<String>) -> Record {
        let written_at = self.core.now();
        Record { due_at, hold, predecessor: Some(self.place()), written_at, ..self.record.clone() }
    }

    /// Whether the record of the lease is gone, as the leader knows it.
    async fn is_settled(&self) -> bool {
        let kind = if self.parked().is_some() { Kind::Sched } else { self.spot.kind };
        let subject = self.core.names.subject(Spot { kind, ..self.spot });
        let Place { stream, sequence } = self.place();
        let found = self.core.api.last(&stream, &subject).await;
        found.is_ok_and(|found| found.is_none_or(|stored| stored.sequence != sequence))
    }

    /// Content that travelled along is put beside, where later records find it.
    async fn move_beside(&mut self, kept: Kept) -> Result<(), SettleError> {
        let message = Arc::clone(&self.record.job.message);
        let bodies = self.core.bodies(self.spot.partition);
        let now = self.core.now();
        let moved = match &self.record.body {
            Body::Chunks(_) if kept == Kept::UntilReleased => bodies.keep(&message, kept, now).await,
            Body::Chunks(_) => Ok(()),
            Body::Inline(octets) => {
                let content = Content { pieces: vec![octets.clone()] };
                bodies.put(&message, &content, kept, now, PATIENCE).await
            }
        };
        moved.map_err(|error| self.unavailable(&error))?;
        self.record.body = Body::Chunks(CHUNK);
        Ok(())
    }

    /// The report job of these results, ready at once; none for none.
    fn report(&mut self, results: Vec<RecipientResult>) -> Option<Outgoing> {
        if results.is_empty() {
            return None;
        }
        self.record.reports += 1;
        let id = JobId { report: Some(self.record.reports), ..self.id() };
        let job = Job {
            id,
            kind: JobKind::Report { results },
            attempts: 0,
            deferred: None,
            signature: None,
            redelivered: false,
            ..self.record.job.clone()
        };
        let record = Record { job, reports: 0, ..self.successor(None, None) };
        let spot = Spot { kind: Kind::Due, job: id, ..self.spot };
        Some(self.core.outgoing(spot, &record).after(0))
    }

    /// Stores what comes next; that it is there already is as good.
    async fn store(&self, mut all: Vec<Outgoing>) -> Result<Option<u64>, SettleError> {
        if all.is_empty() {
            return Ok(None);
        }
        // What came before may have taken longer than the lease.
        self.check()?;
        let subjects: Vec<String> = all.iter().map(|outgoing| outgoing.subject.clone()).collect();
        let stored = match (all.pop(), all.pop()) {
            (None, _) => return Ok(None),
            (Some(only), None) => self.core.api.publish(only, PATIENCE).await.map(Some),
            (Some(second), Some(first)) => {
                let id = format!("{}-{}", self.id(), self.record.reports);
                self.core.api.publish_batch(&id, vec![first, second], PATIENCE).await.map(|()| None)
            }
        };
        let stored = match stored {
            // The record that stands for the lease is another's by now.
            Err(error) if error.is_conflict() && self.parked().is_some() => return Err(self.lost()),
            Err(error) if error.is_conflict() => None,
            other => other.map_err(|error| self.unavailable(&error))?,
        };
        if self.left_ms().is_none() && self.parked().is_none() {
            self.prove(&subjects).await?;
        }
        Ok(stored)
    }

    /// The lease ended while its successors were being stored: if the job was settled by somebody else meanwhile, they go.
    async fn prove(&self, successors: &[String]) -> Result<(), SettleError> {
        let place = self.place();
        let ours = self.core.api.delete(&place.stream, place.sequence).await;
        if ours.map_err(|error| self.unavailable(&error))? {
            return Ok(());
        }
        let retry = self.core.names.retry(self.spot.partition);
        for subject in successors {
            let found =
                self.core.api.last(&retry, subject).await.map_err(|error| self.unavailable(&error))?;
            let Some((stored, spot)) = found.zip(self.core.names.parse(subject)) else { continue };
            let sequence = stored.sequence;
            let of_this = Record::decode(spot, stored.payload)
                .is_ok_and(|found| found.predecessor == Some(place.clone()));
            if of_this {
                let gone = self.core.api.delete(&retry, sequence).await;
                gone.map_err(|error| self.unavailable(&error))?;
            }
        }
        Err(self.lost())
    }

    /// Removes what was leased, once its successor is there or it needs none.
    async fn remove(&self) -> Result<(), SettleError> {
        if self.parked().is_none() && self.epoch == self.core.link.epoch() {
            let request = Request::new().payload(Bytes::from_static(b"+ACK"));
            let answered = self.core.api.ask(self.ack.clone(), request, ACK_PATIENCE).await.is_ok();
            // A server that was started anew answers, whatever it knows of the lease.
            if answered && self.epoch == self.core.link.epoch() {
                return Ok(());
            }
        }
        let Place { stream, sequence } = self.place();
        loop {
            match self.core.api.delete(&stream, sequence).await {
                Ok(_) => return Ok(()),
                // Somebody else would do the job again: it is worth trying as long as nobody has it.
                Err(_) if self.left_ms().is_some() && !self.core.is_closed() => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(self.unavailable(&error)),
            }
        }
    }

    /// Content beside is looked after once the job needs it no more.
    fn ended(&mut self) {
        self.settled = true;
        if let Body::Chunks(_) = self.record.body {
            let (queue_id, partition) = (self.id().queue_id, self.spot.partition);
            self.core.later(Later::Ended { queue_id, partition });
        }
    }

    async fn settle_as(
        mut self,
        kind: Kind,
        record: Record,
        report: Option<Outgoing>,
    ) -> Result<(), SettleError> {
        let spot = Spot { kind, ..self.spot };
        let expected = if kind == Kind::Sched { self.parked().unwrap_or(0) } else { 0 };
        let mut all = vec![self.core.outgoing(spot, &record).after(expected)];
        all.extend(report);
        self.store(all).await?;
        // A waiting record that stood for the lease was replaced in its place.
        if !(kind == Kind::Sched && self.parked().is_some()) {
            self.remove().await?;
        }
        self.settled = true;
        Ok(())
    }

    async fn hold_as(mut self, reason: String, report: Option<Outgoing>) -> Result<(), SettleError> {
        self.move_beside(Kept::UntilReleased).await?;
        let record = self.successor(None, Some(reason));
        self.settle_as(Kind::Held, record, report).await
    }
}

impl Lease for JetStreamLease {
    fn job(&self) -> &Job {
        &self.record.job
    }

    async fn content(&self, offset: u64) -> Result<Bytes, ContentError> {
        match &self.record.body {
            Body::Inline(octets) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(octets.len());
                Ok(octets.slice(from..))
            }
            Body::Chunks(size) => {
                let bodies = self.core.bodies(self.spot.partition);
                match bodies.read(&self.record.job.message, *size, offset).await {
                    Err(ContentError::Damaged { queue_id, .. }) if self.is_settled().await => {
                        // Its content went with the job, which isn't ours any more.
                        *lock(&self.held.mark) = Some(Mark::Removed);
                        let cause = "somebody else has settled the job".to_owned();
                        Err(ContentError::Unavailable { queue_id, cause })
                    }
                    read => read,
                }
            }
        }
    }

    async fn touch(&self) -> Result<(), SettleError> {
        self.check()?;
        if self.epoch != self.core.link.epoch() {
            return Err(self.lost());
        }
        let now = self.core.link.elapsed();
        if let Some(sequence) = self.parked() {
            let record = self.successor(Some(self.parked_until()), None);
            let spot = Spot { kind: Kind::Sched, ..self.spot };
            let outgoing = self.core.outgoing(spot, &record).after(sequence);
            match self.core.api.publish(outgoing, PATIENCE).await {
                Ok(renewed) => self.park(renewed),
                Err(error) if error.is_conflict() => return Err(self.lost()),
                Err(error) => return Err(self.unavailable(&error)),
            }
        } else {
            let request = Request::new().payload(Bytes::from_static(b"+WPI"));
            let answer = self.core.api.ask(self.ack.clone(), request, PATIENCE).await;
            answer.map_err(|error| self.unavailable(&error))?;
            // A server that was started anew answers, whatever it knows of the lease.
            if self.epoch != self.core.link.epoch() {
                return Err(self.lost());
            }
        }
        self.proved(now);
        Ok(())
    }

    async fn narrow(
        &mut self,
        remaining: Vec<Recipient>,
        results: Vec<RecipientResult>,
    ) -> Result<(), SettleError> {
        self.check()?;
        self.move_beside(Kept::ForAttempts).await?;
        let now = self.core.link.elapsed();
        let before = self.record.reports;
        let report = self.report(results);
        let mut narrowed = self.record.job.clone();
        narrowed.kind = JobKind::Delivery { recipients: remaining };
        let mut record = self.successor(Some(self.parked_until()), None);
        record.job = narrowed.clone();
        let spot = Spot { kind: Kind::Sched, ..self.spot };
        let mut all = vec![self.core.outgoing(spot, &record).after(self.parked().unwrap_or(0))];
        all.extend(report);
        let stored = match self.store(all).await {
            Ok(stored) => stored,
            Err(error) => {
                self.record.reports = before;
                return Err(error);
            }
        };
        let sequence = match stored {
            Some(sequence) => sequence,
            None => self.waiting_sequence().await?,
        };
        if self.parked().is_none() {
            self.remove().await?;
        }
        self.park(sequence);
        self.record.job = narrowed;
        *lock(&self.held.job) = Arc::new(self.record.job.clone());
        self.proved(now);
        Ok(())
    }

    async fn done(mut self, results: Vec<RecipientResult>) -> Result<(), SettleError> {
        self.check()?;
        // A report waits for no time, so that small content may travel along.
        let large = matches!(&self.record.body, Body::Inline(octets) if octets.len() > INLINE_RETRY_MAX);
        if !results.is_empty() && large {
            self.move_beside(Kept::ForAttempts).await?;
        }
        let report = self.report(results);
        self.store(report.into_iter().collect()).await?;
        self.remove().await?;
        self.ended();
        Ok(())
    }

    async fn retry(mut self, retry: Retry, results: Vec<RecipientResult>) -> Result<(), SettleError> {
        self.check()?;
        let Retry { at, remaining, attempts, reason, signature } = retry;
        let report = self.report(results);
        if let JobKind::Delivery { recipients } = &mut self.record.job.kind {
            *recipients = remaining;
        }
        self.record.job.attempts = attempts;
        self.record.job.signature = signature;
        if let Some(Mark::Hold(reason)) = self.mark() {
            return self.hold_as(reason, report).await;
        }
        self.move_beside(Kept::ForAttempts).await?;
        self.record.job.deferred = Some(reason);
        let record = self.successor(Some(at), None);
        self.settle_as(Kind::Sched, record, report).await
    }

    async fn hold(self, reason: String) -> Result<(), SettleError> {
        self.check()?;
        self.hold_as(reason, None).await
    }
}

impl JetStreamLease {
    /// From here on a waiting record stands for the lease.
    fn park(&self, sequence: u64) {
        self.held.parked.store(sequence, Ordering::SeqCst);
        *lock(&self.held.place) = Place { stream: self.core.names.retry(self.spot.partition), sequence };
    }

    /// The sequence of the job's waiting record, as the leader has it.
    async fn waiting_sequence(&self) -> Result<u64, SettleError> {
        let subject = self.core.names.subject(Spot { kind: Kind::Sched, ..self.spot });
        let found = self.core.api.last(&self.core.names.retry(self.spot.partition), &subject).await;
        let found = found.map_err(|error| self.unavailable(&error))?;
        found.map(|stored| stored.sequence).ok_or_else(|| self.lost())
    }
}

impl Drop for JetStreamLease {
    fn drop(&mut self) {
        let mut held = lock(&self.core.leases.held);
        if held.get(&self.id()).is_some_and(|held| Arc::ptr_eq(held, &self.held)) {
            held.remove(&self.id());
        }
        drop(held);
        if self.settled || self.check().is_err() {
            return;
        }
        let later = match (self.mark(), &self.record.body, self.parked()) {
            // Content that travels along goes with the record: a held one may carry it.
            (Some(Mark::Hold(reason)), _, _) => {
                let record = self.successor(None, Some(reason));
                Later::Hold { spot: self.spot, record: Box::new(record), place: self.place() }
            }
            (_, _, Some(sequence)) => {
                Later::Unpark { spot: Spot { kind: Kind::Sched, ..self.spot }, sequence }
            }
            _ => Later::GiveBack { ack: self.ack.clone() },
        };
        self.core.later(later);
    }
}
