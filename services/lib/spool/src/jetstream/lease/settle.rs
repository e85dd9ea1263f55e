//! What a settlement writes: first the successor, then the removal of what was leased.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Request;
use bytes::Bytes;
use mail::{Job, JobId, JobKind, RecipientResult, Timestamp};

use super::super::Later;
use super::super::api::{Outgoing, PATIENCE};
use super::super::body::{CHUNK, Kept};
use super::super::job::{Body, Place, Record};
use super::super::names::{Kind, Spot};
use super::JetStreamLease;
use crate::{Content, SettleError};

/// How long an acknowledgement may take before the record is deleted by its number.
const ACK_PATIENCE: Duration = Duration::from_secs(2);

impl JetStreamLease {
    /// The record that follows, with the job as it is now.
    pub(super) fn successor(&self, due_at: Option<Timestamp>, hold: Option<String>) -> Record {
        let written_at = self.core.now();
        Record { due_at, hold, predecessor: Some(self.place()), written_at, ..self.record.clone() }
    }

    /// Content that travelled along is put beside, where later records find it.
    pub(super) async fn move_beside(&mut self, kept: Kept) -> Result<(), SettleError> {
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
    pub(super) fn report(&mut self, results: Vec<RecipientResult>) -> Option<Outgoing> {
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
        let unknown = self.record.unknown.as_ref().map(|unknown| Arc::new(unknown.for_report()));
        let record = Record { job, reports: 0, unknown, ..self.successor(None, None) };
        let spot = Spot { kind: Kind::Due, job: id, ..self.spot };
        Some(self.core.outgoing(spot, &record).after(0))
    }

    /// Stores what comes next; that it is there already is as good.
    pub(super) async fn store(&self, mut all: Vec<Outgoing>) -> Result<Option<u64>, SettleError> {
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
    pub(super) async fn remove(&self) -> Result<(), SettleError> {
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
    pub(super) fn ended(&mut self) {
        self.settled = true;
        if let Body::Chunks(_) = self.record.body {
            let (queue_id, partition) = (self.id().queue_id, self.spot.partition);
            self.core.later(Later::Ended { queue_id, partition });
        }
    }

    pub(super) async fn settle_as(
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

    pub(super) async fn hold_as(
        mut self,
        reason: String,
        report: Option<Outgoing>,
    ) -> Result<(), SettleError> {
        self.move_beside(Kept::UntilReleased).await?;
        let record = self.successor(None, Some(reason));
        self.settle_as(Kind::Held, record, report).await
    }
}
