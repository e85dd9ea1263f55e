//! The log of events in a stream, which all processes write and read.
//!
//! One task writes: what came in while the last write was on its way goes with the next one, a record a shard. A message's
//! events are all in one shard. Readers ask for the records that follow, so that nothing has to be kept for them on the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use mail::{Event, QueueId};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use super::Core;
use super::api::{After, Outgoing, PATIENCE};
use crate::events::{batch_from_wire, batch_to_wire};
use crate::{EventError, EventLog, EventQuery, EventReader, Follow};

/// Parts of the log; a message's events are in one.
const SHARDS: u128 = 16;
/// Events of a record at most.
const RECORD_MAX: usize = 50;
/// Events that wait for NATS at most, when nobody waits for them.
const NOTED_MAX: usize = 20_000;
/// Events that are kept for a later write at most, when NATS doesn't take them.
const KEPT_MAX: usize = 100_000;
/// How soon it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long noted events wait for others.
const GATHER: Duration = Duration::from_millis(20);
/// Records read at a time.
const READ_MAX: u32 = 128;
/// How often a reader that follows looks for more.
const POLL: Duration = Duration::from_millis(200);
/// Clocks differ, and an event is written after it happened.
const SKEW_MS: u64 = 300_000;

struct Request {
    events: Vec<Event>,
    /// None when nobody waits.
    written: Option<oneshot::Sender<Result<(), EventError>>>,
}

/// The log.
pub struct JetStreamEvents {
    core: Arc<Core>,
    requests: mpsc::UnboundedSender<Request>,
    noted: Arc<AtomicUsize>,
}

impl JetStreamEvents {
    /// The log, and the task that writes it.
    pub(super) fn new(core: Arc<Core>) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (requests, received) = mpsc::unbounded_channel();
        let noted = Arc::new(AtomicUsize::new(0));
        let writer = write(Arc::clone(&core), received, Arc::clone(&noted));
        (Self { core, requests, noted }, writer)
    }
}

impl EventLog for JetStreamEvents {
    type Reader = JetStreamEventReader;

    async fn append(&self, events: Vec<Event>) -> Result<(), EventError> {
        let (written, answer) = oneshot::channel();
        self.requests.send(Request { events, written: Some(written) }).map_err(|_| EventError::Closed)?;
        answer.await.unwrap_or(Err(EventError::Closed))
    }

    fn note(&self, events: Vec<Event>) {
        if self.noted.fetch_add(events.len(), Ordering::SeqCst) > NOTED_MAX {
            self.noted.fetch_sub(events.len(), Ordering::SeqCst);
            tracing::warn!(
                events = events.len(),
                "events are lost: NATS doesn't take them, and too many wait"
            );
            return;
        }
        // After the end nobody writes any more.
        let _ = self.requests.send(Request { events, written: None });
    }

    async fn read(&self, query: EventQuery) -> Result<JetStreamEventReader, EventError> {
        JetStreamEventReader::new(Arc::clone(&self.core), query).await
    }
}

fn shard(queue_id: QueueId) -> u128 {
    u128::from(crc32fast::hash(&queue_id.to_bits().to_be_bytes())) % SHARDS
}

/// Writes what comes in until the store ends. What NATS didn't take goes with the next write, and whoever waits for it waits on;
/// a reader drops what it sees twice.
async fn write(core: Arc<Core>, mut requests: mpsc::UnboundedReceiver<Request>, noted: Arc<AtomicUsize>) {
    let mut kept = Unwritten::default();
    loop {
        let first = if kept.is_empty() {
            requests.recv().await
        } else {
            tokio::time::timeout(AGAIN, requests.recv()).await.unwrap_or(Some(Request::nothing()))
        };
        let Some(first) = first else { return };
        if first.written.is_none() && kept.is_empty() {
            tokio::time::sleep(GATHER).await;
        }
        let mut next = Some(first);
        while let Some(request) = next {
            kept.add(request);
            next = requests.try_recv().ok();
        }
        match store(&core, &kept.events).await {
            Ok(()) => kept.end(&Ok(()), &noted),
            Err(error) if kept.events.len() > KEPT_MAX => {
                tracing::warn!(%error, events = kept.events.len(), "events are lost: NATS doesn't take them, and too many wait");
                kept.end(&Err(error), &noted);
            }
            Err(error) => tracing::debug!(%error, events = kept.events.len(), "events wait"),
        }
    }
}

/// What NATS hasn't taken yet.
#[derive(Default)]
struct Unwritten {
    events: Vec<Event>,
    /// Those of them for which nobody waits.
    notes: usize,
    waiting: Vec<oneshot::Sender<Result<(), EventError>>>,
}

impl Unwritten {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.waiting.is_empty()
    }

    fn add(&mut self, Request { events, written }: Request) {
        match written {
            Some(written) => self.waiting.push(written),
            None => self.notes += events.len(),
        }
        self.events.extend(events);
    }

    fn end(&mut self, written: &Result<(), EventError>, noted: &AtomicUsize) {
        let Self { events: _, notes, waiting } = std::mem::take(self);
        noted.fetch_sub(notes, Ordering::SeqCst);
        for waiter in waiting {
            // Who waits no longer doesn't mind.
            let _ = waiter.send(written.clone());
        }
    }
}

impl Request {
    /// Asks for what is kept to be written.
    fn nothing() -> Self {
        Self { events: Vec::new(), written: None }
    }
}

async fn store(core: &Core, events: &[Event]) -> Result<(), EventError> {
    let mut shards: Vec<Vec<Event>> = vec![Vec::new(); usize::try_from(SHARDS).unwrap_or(1)];
    for event in events {
        shards[usize::try_from(shard(event.message.queue_id)).unwrap_or(0)].push(event.clone());
    }
    let written = shards.iter().enumerate().map(async |(shard, events)| {
        // The records of a shard one after the other, so that they are read in this order.
        for some in events.chunks(RECORD_MAX) {
            let payload: Bytes = batch_to_wire(some).encode_to_vec().into();
            core.api.publish(Outgoing::new(core.names.event(&shard.to_string()), payload), PATIENCE).await?;
        }
        Ok(())
    });
    let all: Result<Vec<()>, super::api::ApiError> = join_all(written).await.into_iter().collect();
    all.map(drop).map_err(|error| EventError::Unavailable(error.to_string()))
}

/// Reads the log.
pub struct JetStreamEventReader {
    core: Arc<Core>,
    query: EventQuery,
    subject: String,
    after: After,
    /// The sequence of the last record that was there; none to follow.
    ends_with: Option<u64>,
    ended: bool,
}

impl EventReader for JetStreamEventReader {
    async fn next(&mut self) -> Result<Option<Vec<Event>>, EventError> {
        let stream = self.core.names.events();
        while !self.ended {
            if self.core.is_closed() {
                return Ok(None);
            }
            let found = self.core.api.range(&stream, &self.subject, &self.after, READ_MAX).await;
            let found = match found {
                Ok(found) => found,
                // Who follows waits until NATS is there again.
                Err(error) if self.ends_with.is_none() => {
                    tracing::debug!(%error, "can't read events just now");
                    tokio::time::sleep(POLL).await;
                    continue;
                }
                Err(error) => return Err(EventError::Unavailable(error.to_string())),
            };
            let Some(last) = found.last().map(|stored| stored.sequence) else {
                if self.ends_with.is_some() {
                    self.ended = true;
                } else {
                    tokio::time::sleep(POLL).await;
                }
                continue;
            };
            self.after = After::Sequence(last);
            self.ended = self.ends_with.is_some_and(|end| last >= end);
            let events: Vec<Event> = found
                .into_iter()
                .filter(|stored| self.ends_with.is_none_or(|end| stored.sequence <= end))
                .flat_map(|stored| self.events(&stored))
                .collect();
            if !events.is_empty() {
                return Ok(Some(events));
            }
        }
        Ok(None)
    }
}

impl JetStreamEventReader {
    /// A reader of what is asked for.
    pub(super) async fn new(core: Arc<Core>, query: EventQuery) -> Result<Self, EventError> {
        let stream = core.names.events();
        let info =
            core.api.info(&stream).await.map_err(|error| EventError::Unavailable(error.to_string()))?;
        let last = info["state"]["last_seq"].as_u64().unwrap_or_default();
        let since =
            query.messages.iter().map(|id| id.time()).min().map_or(query.since, |at| at.max(query.since));
        let start = mail::Timestamp(since.0.saturating_sub(SKEW_MS));
        let mut shards: Vec<u128> = query.messages.iter().map(|id| shard(*id)).collect();
        shards.sort_unstable();
        shards.dedup();
        let subject = match shards[..] {
            [only] => core.names.event(&only.to_string()),
            _ => core.names.event("*"),
        };
        let ends_with = (query.follow == Follow::UntilNow).then_some(last);
        let ended = last == 0 && ends_with.is_some();
        Ok(Self { core, query, subject, after: After::Time(start), ends_with, ended })
    }

    /// The events of a record that were asked for.
    fn events(&self, stored: &super::api::Stored) -> Vec<Event> {
        let batch =
            proto::events::v1::Batch::decode(stored.payload.clone()).map_err(|error| error.to_string());
        let events = batch.and_then(|batch| batch_from_wire(batch).map_err(|error| error.to_string()));
        let mut events = events.unwrap_or_else(|error| {
            tracing::warn!(sequence = stored.sequence, error, "events that can't be read are left out");
            Vec::new()
        });
        let wanted = |event: &Event| {
            event.at >= self.query.since
                && (self.query.messages.is_empty() || self.query.messages.contains(&event.message.queue_id))
        };
        events.retain(wanted);
        events
    }
}
