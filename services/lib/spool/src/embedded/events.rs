//! The log of events on one host: files in a folder of their own, one thread that writes, readers that follow it.
//!
//! ```text
//! note ---.                   .-> events-0001795579643042-8c1f….log   frames, one sync for all that wait   (frame)
//! append --> writer thread ---+-> files: how far each is durable      (files)
//!                             '-> answers
//! read <--- reader: up to what is durable, then waits                  (reader)
//! ```
//!
//! A file is begun by its first event, ended by its size or age, and removed as a whole when it is too old or the folder too
//! large. After a failed write or sync nothing more is written to that file: another is begun.

mod files;
mod frame;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use mail::Event;
use prost::Message as _;
use tokio::sync::oneshot;

use super::disk::Disk;
use super::settings::EventSettings;
use super::{Clock, OpenError};
use crate::events::batch_to_wire;
use crate::{EventError, EventLog, EventQuery};
use files::Files;
use writer::{Request, Writer};

pub use reader::EmbeddedEventReader;

/// Events of a frame at most, so that no frame is large.
const FRAME_EVENTS_MAX: usize = 50;

/// The log of events in a folder.
pub struct EmbeddedEvents {
    files: Arc<Files>,
    requests: Mutex<Option<Sender<Request>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedEvents {
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        settings: EventSettings,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let files = Arc::new(Files::open(disk, clock())?);
        let (requests, received) = channel();
        let writer = Writer::new(Arc::clone(&files), settings, clock, received);
        let thread = std::thread::Builder::new().name("events".into()).spawn(move || writer.run());
        let writer = Mutex::new(Some(thread.map_err(OpenError::Thread)?));
        Ok(Self { files, requests: Mutex::new(Some(requests)), writer })
    }

    fn send(&self, request: Request) -> Result<(), EventError> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.as_ref().ok_or(EventError::Closed)?.send(request).map_err(|_| EventError::Closed)
    }

    /// Writes what was noted and waits for the writer's end; readers come to their end too.
    pub(super) fn end(&self) {
        drop(self.requests.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A writer that panicked has said so.
        let _ = writer.map(JoinHandle::join);
    }
}

impl EventLog for EmbeddedEvents {
    type Reader = EmbeddedEventReader;

    async fn append(&self, events: Vec<Event>) -> Result<(), EventError> {
        let frames = frames(&events)?;
        let (answer, answered) = oneshot::channel();
        self.send(Request { frames, answer: Some(answer) })?;
        answered.await.map_err(|_| EventError::Closed)?
    }

    fn note(&self, events: Vec<Event>) {
        let noted = frames(&events).and_then(|frames| self.send(Request { frames, answer: None }));
        if let Err(error) = noted {
            tracing::warn!(%error, events = events.len(), "events aren't noted");
        }
    }

    async fn read(&self, query: EventQuery) -> Result<EmbeddedEventReader, EventError> {
        Ok(EmbeddedEventReader::new(Arc::clone(&self.files), query))
    }
}

impl Drop for EmbeddedEvents {
    fn drop(&mut self) {
        self.end();
    }
}

fn frames(events: &[Event]) -> Result<Vec<Bytes>, EventError> {
    let frame = |some: &[Event]| {
        let payload = batch_to_wire(some).encode_to_vec();
        frame::seal(&payload).ok_or_else(|| {
            EventError::Unavailable(format!("{} octets of events are too many", payload.len()))
        })
    };
    events.chunks(FRAME_EVENTS_MAX).map(frame).collect()
}
