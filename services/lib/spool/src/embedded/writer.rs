//! The one thread that writes.
//!
//! ```text
//! accept, settle, hold ... --Request--> [collect -> plan -> append and sync once -> apply to the index] -> answers
//!                                              ^-- copies of what the oldest segment still holds
//! ```
//!
//! While a sync runs, requests gather for the next one: however many sessions there are, each waits for two syncs at most.
//! Records are built and checksummed by whoever asks; here they are only put in line.

mod administer;
mod batch;
mod reclaim;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use mail::{JobId, Message, Recipient, Timestamp};
use tokio::sync::oneshot;

use super::Core;
use super::frame::{Frame, Kind};
use super::index::{Claim, Standing};
use super::log::{AppendError, Log};
use super::packed::pack;
use super::room::Ballast;
use crate::{AcceptError, Origin, Selection, SettleError};
use batch::Batch;
use reclaim::Reclaim;

/// Octets of one batch at most, unless a single record has more.
const BATCH_OCTETS: u64 = 16 << 20;
const BATCH_REQUESTS: usize = 4_096;
/// How often space is looked at, and whether the oldest segment can go, when nothing else happens.
const IDLE: Duration = Duration::from_secs(1);
/// How long to wait before what could not be written is written again.
const RETRY: Duration = Duration::from_millis(200);

pub(super) enum Request {
    Accept(Box<Accept>),
    Settle(Box<Settle>),
    Administer(Administer),
    Close(oneshot::Sender<()>),
}

pub(super) struct Accept {
    pub(super) origin: Origin,
    pub(super) frame: Frame,
    pub(super) message: Arc<Message>,
    pub(super) jobs: Vec<Vec<Recipient>>,
    pub(super) answer: oneshot::Sender<Result<(), AcceptError>>,
}

pub(super) struct Settle {
    pub(super) claim: Claim,
    pub(super) id: JobId,
    /// None where nothing but the end is to be told: ends are joined to one record.
    pub(super) frame: Option<Frame>,
    pub(super) outcome: Outcome,
    pub(super) report: Option<NewReport>,
    pub(super) answer: oneshot::Sender<Result<(), SettleError>>,
}

pub(super) enum Outcome {
    Gone,
    Narrowed,
    Waits(Timestamp),
    Held(String),
}

pub(super) struct NewReport {
    pub(super) number: u16,
    pub(super) host: String,
}

pub(super) struct Administer {
    pub(super) action: Action,
    pub(super) which: Selection,
    pub(super) answer: oneshot::Sender<Result<Vec<JobId>, SettleError>>,
}

pub(super) enum Action {
    Hold(String),
    Release,
    Remove,
}

pub(super) struct Writer {
    core: Arc<Core>,
    log: Log,
    requests: Receiver<Request>,
    /// Received, but for a batch of its own or the next one.
    waiting: VecDeque<Request>,
    /// Settlements that could not be written yet; their jobs wait for them.
    stuck: Vec<Settle>,
    reclaim: Option<Reclaim>,
    ballast: Ballast,
    /// Whether somebody was refused for want of room.
    short: bool,
    /// Since when nothing could be written.
    failing_since: Option<Instant>,
}

impl Writer {
    pub(super) fn new(core: Arc<Core>, log: Log, requests: Receiver<Request>) -> Self {
        let ballast = Ballast::new(core.disk.as_ref());
        let mut writer = Self {
            core,
            log,
            requests,
            waiting: VecDeque::new(),
            stuck: Vec::new(),
            reclaim: None,
            ballast,
            short: false,
            failing_since: None,
        };
        writer.tend();
        writer
    }

    /// Runs until the store is closed or nobody is left who could ask.
    pub(super) fn run(mut self) {
        loop {
            let Some(requests) = self.collect() else {
                return;
            };
            match requests {
                Work::Batch(requests) => self.commit(requests),
                Work::Administer(request) => self.administer(request),
                Work::Close(done) => {
                    self.close();
                    // Whoever asked may have gone.
                    let _ = done.send(());
                    return;
                }
            }
            self.tend();
        }
    }

    /// What is to be done next; nothing when the store was dropped.
    fn collect(&mut self) -> Option<Work> {
        let mut batch = Vec::new();
        let mut octets = 0;
        if self.waiting.is_empty() && self.reclaim.is_none() {
            let most = if self.stuck.is_empty() { IDLE } else { RETRY };
            match self.requests.recv_timeout(most) {
                Ok(request) => self.waiting.push_back(request),
                Err(RecvTimeoutError::Timeout) => return Some(Work::Batch(batch)),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        while octets < BATCH_OCTETS && batch.len() < BATCH_REQUESTS {
            let next = self.waiting.pop_front().or_else(|| self.requests.try_recv().ok());
            match next {
                None => break,
                // These look at everything, and so come after all before them and before all after them.
                Some(Request::Administer(request)) if batch.is_empty() => {
                    return Some(Work::Administer(request));
                }
                Some(Request::Close(done)) if batch.is_empty() => return Some(Work::Close(done)),
                Some(request @ (Request::Administer(_) | Request::Close(_))) => {
                    self.waiting.push_front(request);
                    break;
                }
                Some(request) => {
                    octets += request.octets();
                    batch.push(request);
                }
            }
        }
        Some(Work::Batch(batch))
    }

    fn commit(&mut self, requests: Vec<Request>) {
        let stuck = std::mem::take(&mut self.stuck);
        let mut batch = Batch::plan(&self.core, stuck, requests, &mut self.waiting);
        self.short |= batch.was_refused;
        // Copying would only take from the little that is left for what must be written.
        if self.failing_since.is_none() {
            self.copy_some(&mut batch);
        }
        if batch.is_empty() {
            self.failing_since.take_if(|since| since.elapsed() > IDLE);
            return;
        }
        let Err(error) = self.write(&mut batch) else {
            if self.failing_since.take().is_some() {
                tracing::info!("the queue can be written again");
            }
            return;
        };
        if self.failing_since.replace(Instant::now()).is_none() {
            tracing::error!(error = %error, "can't write to the queue");
        }
        let full = matches!(error, AppendError::Full { .. });
        self.short |= full;
        self.reclaim = None;
        batch.refuse_accepts(&self.core, &error);
        if full {
            self.core.room.none_left();
            self.ballast.give_up(self.core.disk.as_ref());
        }
        if self.write(&mut batch).is_err() {
            // Ends are small and make room.
            let (ends, others) = batch.split_ends();
            let mut ends = Batch::of_settles(ends);
            self.stuck = others;
            if self.write(&mut ends).is_err() {
                self.stuck.append(&mut ends.into_settles());
            }
        }
    }

    fn write(&mut self, batch: &mut Batch) -> Result<(), AppendError> {
        if batch.is_empty() {
            return Ok(());
        }
        let ends = batch.ends(self.log.magic);
        let frames: Vec<&Frame> = batch.frames().chain(ends.as_ref()).collect();
        let places = self.log.append(&frames)?;
        let (segment, end) = self.log.end();
        let ready = {
            let mut index = self.core.index();
            index.segments.entry(segment).or_default().end = end;
            batch.apply(&mut index, &places);
            index.has_ready()
        };
        batch.answer();
        if ready {
            self.core.ready.notify_one();
        }
        Ok(())
    }

    /// Keeps the figures true, and the log short.
    fn tend(&mut self) {
        let ahead = self.log.ahead();
        let available = {
            let index = self.core.index();
            self.core.room.refresh(self.core.disk.as_ref(), &index, &self.core.settings, ahead)
        };
        if available > self.core.settings.segment_octets {
            self.short = false;
            self.ballast.take(self.core.disk.as_ref(), &self.core.settings, available);
        }
        self.tend_log();
    }

    /// Leaves a note that nobody was interrupted, so that the next start need not suspect every job.
    fn close(&mut self) {
        if !self.stuck.is_empty() {
            self.commit(Vec::new());
        }
        let suspects = {
            let index = self.core.index();
            let mut suspects = Vec::new();
            for (_, message) in index.messages_from(std::ops::Bound::Unbounded) {
                for job in index.jobs_of(message) {
                    let entry = index.job(job);
                    let leased = matches!(entry.standing, Standing::Leased | Standing::Settling);
                    if entry.redelivered || leased {
                        suspects.push(index.job_id(job));
                    }
                }
            }
            suspects
        };
        let frame = Frame::new(self.log.magic, Kind::Closed, 0, &pack(&suspects));
        if let Err(error) = self.log.append(&[&frame]) {
            tracing::warn!(error = %error, "can't note that the queue was closed");
        }
        self.log.seal();
    }
}

enum Work {
    Batch(Vec<Request>),
    Administer(Administer),
    Close(oneshot::Sender<()>),
}

impl Request {
    fn octets(&self) -> u64 {
        match self {
            Self::Accept(accept) => accept.frame.octets(),
            Self::Settle(settle) => settle.frame.as_ref().map_or(0, Frame::octets),
            Self::Administer(_) | Self::Close(_) => 0,
        }
    }
}
