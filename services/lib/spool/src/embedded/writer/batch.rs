//! What one sync makes durable.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use mail::JobId;

use super::reclaim::Copied;
use super::{Accept, Outcome, Request, Settle};
use crate::embedded::Core;
use crate::embedded::frame::{Frame, Kind, Magic};
use crate::embedded::host_text;
use crate::embedded::index::{Cached, Index, NewJobEntry, Place, Standing};
use crate::embedded::log::AppendError;
use crate::embedded::packed::pack;
use crate::{AcceptError, SettleError};

#[derive(Default)]
pub(super) struct Batch {
    /// Before everything else: what is settled in this very batch comes after its message.
    copies: Vec<Copied>,
    accepts: Vec<Accept>,
    settles: Vec<Settle>,
    /// Comes last: segments up to this one have nothing left.
    reclaimed: Option<Frame>,
    pub(super) was_refused: bool,
}

impl Batch {
    /// Takes what can be written, and answers what need not be. What must wait for this batch goes back to `later`.
    pub(super) fn plan(
        core: &Core,
        stuck: Vec<Settle>,
        requests: Vec<Request>,
        later: &mut VecDeque<Request>,
    ) -> Self {
        let mut batch = Self::default();
        let mut index = core.index();
        let mut ids = HashSet::new();
        for settle in stuck {
            batch.plan_settle(&mut index, settle);
        }
        let mut planned = 0;
        for request in requests {
            match request {
                Request::Settle(settle) => batch.plan_settle(&mut index, *settle),
                Request::Accept(accept) => {
                    let id = accept.message.queue_id;
                    if index.knows(id) {
                        // Whoever asked may have gone, here and below.
                        let _ = accept.answer.send(Ok(()));
                    } else if !ids.insert(id) {
                        later.push_back(Request::Accept(accept));
                    } else if let Err(full) = core.room.check(accept.origin, planned + accept.frame.octets())
                    {
                        batch.was_refused = true;
                        let _ = accept.answer.send(Err(full));
                    } else {
                        planned += accept.frame.octets();
                        batch.accepts.push(*accept);
                    }
                }
                Request::Administer(_) | Request::Close(_) => later.push_back(request),
            }
        }
        batch
    }

    fn plan_settle(&mut self, index: &mut Index, settle: Settle) {
        match index.claimed(settle.claim) {
            Some(job) => {
                index.stand(job, Standing::Settling);
                self.settles.push(settle);
            }
            None => {
                let _ = settle.answer.send(Err(SettleError::LeaseLost(settle.id)));
            }
        }
    }

    pub(super) fn of_settles(settles: Vec<Settle>) -> Self {
        Self { settles, ..Self::default() }
    }

    pub(super) fn into_settles(self) -> Vec<Settle> {
        self.settles
    }

    /// Those that only end a job, and the others.
    pub(super) fn split_ends(self) -> (Vec<Settle>, Vec<Settle>) {
        self.settles.into_iter().partition(|settle| settle.frame.is_none())
    }

    pub(super) fn add_copy(&mut self, copy: Copied) {
        self.copies.push(copy);
    }

    pub(super) fn set_reclaimed(&mut self, frame: Frame) {
        self.reclaimed = Some(frame);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copies.is_empty()
            && self.accepts.is_empty()
            && self.settles.is_empty()
            && self.reclaimed.is_none()
    }

    /// Leaves only settlements, which must be written whatever it takes.
    pub(super) fn refuse_accepts(&mut self, core: &Core, error: &AppendError) {
        self.copies.clear();
        self.reclaimed = None;
        let answer = match error {
            AppendError::Full { .. } => AcceptError::Full(error.to_string()),
            AppendError::Failed { .. } => AcceptError::Unavailable(error.to_string()),
        };
        for accept in self.accepts.drain(..) {
            let _ = accept.answer.send(Err(answer.clone()));
        }
        if matches!(error, AppendError::Full { .. }) {
            core.room.none_left();
        }
    }

    /// One record for all the ends of jobs that nobody needs to be told of.
    pub(super) fn ends(&self, magic: Magic) -> Option<Frame> {
        let ends = self.settles.iter().filter(|settle| settle.frame.is_none()).map(|settle| settle.id);
        let ends: Vec<JobId> = ends.collect();
        (!ends.is_empty()).then(|| Frame::new(magic, Kind::Gone, 0, &pack(&ends)))
    }

    /// The records in the order in which [`Batch::apply`] wants their places.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Frame> {
        let copies = self.copies.iter().map(|copy| &copy.frame);
        let accepts = self.accepts.iter().map(|accept| &accept.frame);
        let settles = self.settles.iter().filter_map(|settle| settle.frame.as_ref());
        copies.chain(accepts).chain(settles).chain(&self.reclaimed)
    }

    pub(super) fn apply(&mut self, index: &mut Index, places: &[Place]) {
        let mut places = places.iter().copied();
        for (copy, place) in self.copies.drain(..).zip(&mut places) {
            copy.apply(index, place);
        }
        for (accept, place) in self.accepts.iter_mut().zip(&mut places) {
            accept.apply(index, place);
        }
        for settle in &self.settles {
            let place = if settle.frame.is_some() { places.next() } else { None };
            settle.apply(index, place);
        }
    }

    /// Tells those who asked; only once everything of the batch is in the index.
    pub(super) fn answer(&mut self) {
        for accept in self.accepts.drain(..) {
            let _ = accept.answer.send(Ok(()));
        }
        for settle in self.settles.drain(..) {
            let _ = settle.answer.send(Ok(()));
        }
    }
}

impl Accept {
    fn apply(&mut self, index: &mut Index, place: Place) {
        let account = self.message.account.as_str();
        let id = self.message.queue_id;
        let message = index.insert_message(id, place, self.frame.octets(), self.frame.head_octets, account);
        for (recipients, number) in self.jobs.iter().zip(0..) {
            let host = recipients.first().map(|first| host_text(first.address.host()));
            let host = host.as_deref().unwrap_or_default();
            let due = self.message.not_before.filter(|due| *due > self.message.accepted_at);
            index.insert_job(message, NewJobEntry { number, report: 0, reports: 0, host, due });
        }
        if let Some(content) = self.frame.content() {
            // What is decoded weighs about twice what it does on disk, and each allocation some more.
            let octets = self.frame.octets() + 2 * self.frame.head_octets as u64 + 512;
            let jobs = std::mem::take(&mut self.jobs);
            let message_of = Arc::clone(&self.message);
            index.cache.insert(message, Arc::new(Cached { message: message_of, jobs, content, octets }));
        }
    }
}

impl Settle {
    fn apply(&self, index: &mut Index, place: Option<Place>) {
        let Some(job) = index.claimed(self.claim) else {
            return;
        };
        let message = index.job(job).message;
        let parts = u64::from(self.report.is_some()) + u64::from(!matches!(self.outcome, Outcome::Gone));
        let octets = self.frame.as_ref().map_or(0, Frame::octets) / parts.max(1);
        if let (Some(report), Some(place)) = (&self.report, place) {
            index.job_mut(job).reports = report.number;
            let entry = NewJobEntry {
                number: self.id.number,
                report: report.number,
                reports: 0,
                host: &report.host,
                due: None,
            };
            let report = index.insert_job(message, entry);
            index.set_state(report, place, octets);
        }
        match (&self.outcome, place) {
            (Outcome::Gone, _) => index.remove_job(job),
            (Outcome::Held(reason), _) => {
                index.set_hold(job, Some(reason));
                index.make_ready(job);
            }
            (Outcome::Waits(at), Some(place)) => {
                index.set_state(job, place, octets);
                index.job_mut(job).redelivered = false;
                index.make_wait(job, *at);
            }
            (Outcome::Narrowed, Some(place)) => {
                index.set_state(job, place, octets);
                if index.job(job).dropped {
                    index.lose(job);
                } else {
                    index.stand(job, Standing::Leased);
                }
            }
            (Outcome::Waits(_) | Outcome::Narrowed, None) => {}
        }
    }
}
