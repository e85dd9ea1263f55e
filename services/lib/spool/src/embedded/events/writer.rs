//! The one thread that writes events.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mail::Timestamp;
use tokio::sync::oneshot;

use super::files::{Files, LogFile};
use crate::EventError;
use crate::embedded::Clock;
use crate::embedded::disk::DiskFile;
use crate::embedded::settings::EventSettings;

/// How long what was noted waits for an append that syncs it along.
const NOTED: Duration = Duration::from_millis(100);
/// How long what was noted waits after a failure, before it is written again.
const RETRY: Duration = Duration::from_secs(1);
/// How often old files are looked for when nothing else happens.
const IDLE: Duration = Duration::from_secs(60);
/// Octets of one write at most, unless a single request has more.
const BATCH_OCTETS: usize = 4 << 20;
/// Octets of notes that are kept while nothing can be written.
const KEPT_OCTETS_MAX: usize = 16 << 20;
/// A file takes room in such steps: a sync into room taken ahead is cheaper than one that also grows the file.
const AHEAD_OCTETS: u64 = 1 << 20;

pub(super) struct Request {
    pub(super) frames: Vec<Bytes>,
    /// None: nobody waits for it.
    pub(super) answer: Option<oneshot::Sender<Result<(), EventError>>>,
}

impl Request {
    fn octets(&self) -> usize {
        self.frames.iter().map(Bytes::len).sum()
    }
}

pub(super) struct Writer {
    files: Arc<Files>,
    settings: EventSettings,
    clock: Clock,
    requests: Receiver<Request>,
    /// What is to be written, in the order in which it came.
    pending: Vec<Request>,
    open: Option<Open>,
    /// When old files were last looked for.
    tended: Instant,
    failing: bool,
}

/// The file that is written.
struct Open {
    start: u64,
    file: Arc<dyn DiskFile>,
    about: LogFile,
    octets: u64,
    /// Up to where room was taken.
    ahead: u64,
}

impl Writer {
    pub(super) fn new(
        files: Arc<Files>,
        settings: EventSettings,
        clock: Clock,
        requests: Receiver<Request>,
    ) -> Self {
        let tended = Instant::now();
        Self { files, settings, clock, requests, pending: Vec::new(), open: None, tended, failing: false }
    }

    /// Runs until nobody is left who could ask.
    pub(super) fn run(mut self) {
        self.tend();
        while self.collect().is_ok() {
            self.commit();
            if self.tended.elapsed() >= IDLE {
                self.tend();
            }
        }
        self.commit();
        if let Some(open) = self.open.take() {
            end(open);
        }
        self.files.close();
    }

    /// Waits until something is to be written, or looked after; an error when the log is closed.
    fn collect(&mut self) -> Result<(), RecvTimeoutError> {
        let patience = match (self.pending.is_empty(), self.failing) {
            (true, _) => IDLE,
            (false, true) => RETRY,
            (false, false) => NOTED,
        };
        let mut until = Instant::now() + patience;
        let mut octets = 0;
        loop {
            let waits = self.pending.iter().any(|request| request.answer.is_some());
            let left = if waits { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
            if octets >= BATCH_OCTETS {
                return Ok(());
            }
            match self.requests.recv_timeout(left) {
                Ok(request) => {
                    if self.pending.is_empty() {
                        until = Instant::now() + NOTED;
                    }
                    octets += request.octets();
                    self.pending.push(request);
                }
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            }
        }
    }

    fn commit(&mut self) {
        let is_empty = self.pending.iter().all(|request| request.frames.is_empty());
        match if is_empty { Ok(()) } else { self.write() } {
            Ok(()) => {
                if !is_empty && std::mem::replace(&mut self.failing, false) {
                    tracing::info!("events can be written again");
                }
                for request in self.pending.drain(..) {
                    answer(request, Ok(()));
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "can't write events");
                }
                self.abandon();
                let (waiting, noted) =
                    self.pending.drain(..).partition(|request: &Request| request.answer.is_some());
                self.pending = noted;
                for request in waiting {
                    answer(request, Err(EventError::Unavailable(error.to_string())));
                }
                self.forget_notes();
            }
        }
    }

    /// What the file has beyond its last sync is not known: it is left as it is, and removed where that is all it has.
    fn abandon(&mut self) {
        if let Some(open) = self.open.take_if(|open| open.octets == 0)
            && let Err(error) = self.files.disk.remove(&open.about.name)
        {
            tracing::debug!(%error, file = open.about.name, "can't remove an empty file of events");
        }
        self.open = None;
    }

    /// Drops the oldest notes where they are too many.
    fn forget_notes(&mut self) {
        let mut octets: usize = self.pending.iter().map(Request::octets).sum();
        let mut lost = 0;
        while octets > KEPT_OCTETS_MAX && lost < self.pending.len() {
            octets -= self.pending[lost].octets();
            lost += 1;
        }
        if lost > 0 {
            self.pending.drain(..lost);
            tracing::warn!(batches = lost, "events that couldn't be written are forgotten");
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let now = (self.clock)();
        self.rotate(now);
        if self.open.is_none() {
            let (start, about) = self.files.begin(now);
            let file = self.files.disk.create(&about.name)?;
            self.open = Some(Open { start, file, about, octets: 0, ahead: 0 });
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let mut pieces = Vec::new();
        let mut end = open.octets;
        for frame in self.pending.iter().flat_map(|request| &request.frames) {
            pieces.push(IoSlice::new(&open.about.magic.0));
            pieces.push(IoSlice::new(frame));
            end += 8 + frame.len() as u64;
        }
        if end > open.ahead {
            open.ahead = end.next_multiple_of(AHEAD_OCTETS.min(self.settings.file_octets.max(1)));
            open.file.allocate(open.ahead)?;
        }
        open.file.write_at(&mut pieces, open.octets)?;
        open.file.sync()?;
        if open.octets == 0 {
            self.files.disk.sync_directory()?;
        }
        open.octets = end;
        self.files.grown(open.start, &open.about, end, now);
        Ok(())
    }

    /// Ends the file where it is large or old, so that files can be removed one by one.
    fn rotate(&mut self, now: Timestamp) {
        let EventSettings { file_octets, age_max_secs, .. } = self.settings;
        let is_done = |open: &mut Open| {
            open.octets >= file_octets || now.millis_since(open.about.written) / 1000 >= age_max_secs / 16
        };
        if let Some(open) = self.open.take_if(is_done) {
            end(open);
            self.retain(now);
        }
    }

    fn tend(&mut self) {
        self.tended = Instant::now();
        let now = (self.clock)();
        self.rotate(now);
        self.retain(now);
    }

    /// Removes what is too old or too much.
    fn retain(&mut self, now: Timestamp) {
        let EventSettings { file_octets, octets_max, age_max_secs } = self.settings;
        let oldest = Timestamp(now.0.saturating_sub(age_max_secs.saturating_mul(1000)));
        let open = self.open.as_ref().map(|open| open.start);
        // The file that is written next needs room too.
        let room = octets_max.saturating_sub(file_octets);
        if let Err(error) = self.files.retain(oldest, room, open) {
            tracing::warn!(%error, "can't remove old events");
        }
    }
}

/// Gives back what a file took ahead.
fn end(open: Open) {
    if let Err(error) = open.file.truncate(open.octets) {
        tracing::debug!(%error, file = open.about.name, "can't shorten a file of events");
    }
}

fn answer(request: Request, result: Result<(), EventError>) {
    if let Some(answer) = request.answer {
        // Whoever asked may have gone.
        let _ = answer.send(result);
    }
}
