//! Jobs in a worker's hands.

mod missing;
mod settle;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::Request;
use bytes::Bytes;
use mail::{Job, JobId, JobKind, Recipient, RecipientResult, Timestamp};

use super::api::{ApiError, PATIENCE};
use super::body::{INLINE_RETRY_MAX, Kept};
use super::job::{Body, Place, Record};
use super::leases::{Held, Mark, lock};
use super::names::{Kind, Spot};
use super::ready::Fetched;
use super::{Core, Later};
use crate::{ContentError, Lease, Retry, SettleError};

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
        if epoch != core.link.epoch() || core.link.elapsed() > fetched_ms + core.peers.shortest_lease_ms() {
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
        let ends = self.held.touched.load(Ordering::SeqCst) + self.core.peers.shortest_lease_ms();
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
        self.core.now().plus_millis(2 * self.core.peers.longest_lease_ms())
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
                    Err(ContentError::Damaged { queue_id, cause }) => {
                        Err(self.missing(queue_id, cause).await)
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
