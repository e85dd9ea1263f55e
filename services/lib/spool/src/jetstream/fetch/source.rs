//! One lane's consumer of a stream, as the fetcher asks it.

use std::time::Instant;

use async_nats::StatusCode;

use super::TICK;
use crate::jetstream::names::{Kind, Lane, Names};

/// Jobs asked for at a time of a lane that had few, and of one that had many.
const WINDOW_MIN: u32 = 16;
pub(super) const WINDOW_MAX: u32 = 128;

/// One lane's jobs of a kind in a partition.
pub(super) struct Source {
    pub(super) kind: Kind,
    pub(super) partition: u16,
    pub(super) lane: Lane,
    /// Where jobs are asked for.
    pub(super) subject: String,
    pub(super) window: u32,
    /// Jobs that are still to come.
    pub(super) outstanding: u32,
    pub(super) asked_at: Option<Instant>,
    /// Which request is the latest; answers to earlier ones don't count.
    pub(super) turn: u64,
    /// Not before this instant, after an error.
    pub(super) not_before: Option<Instant>,
    pub(super) primed: bool,
}

impl Source {
    pub(super) fn new(names: &Names, kind: Kind, partition: u16, lane: Lane) -> Self {
        let (stream, consumer) = (names.stream(kind, partition), Names::consumer(kind, lane));
        Self {
            kind,
            partition,
            lane,
            subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            window: WINDOW_MIN,
            outstanding: 0,
            asked_at: None,
            turn: 0,
            not_before: None,
            primed: false,
        }
    }

    /// The latest request has ended.
    pub(super) fn end(&mut self, status: StatusCode) {
        self.asked_at = None;
        self.primed = true;
        self.window = (self.window / 2).max(WINDOW_MIN);
        let calm = status == StatusCode::NOT_FOUND || status == StatusCode::TIMEOUT;
        // Room in a request that is too small for the next job is no error, but all else is.
        let full = status == StatusCode::REQUEST_TERMINATED && self.outstanding < self.window;
        self.not_before = (!calm && !full).then(|| Instant::now() + TICK);
    }
}
