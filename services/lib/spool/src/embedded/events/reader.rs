//! Reads events up to what is durable, and waits for more.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use mail::{Event, QueueId, Timestamp};
use prost::Message as _;
use proto::events::v1::Batch;
use tokio::sync::watch;

use super::files::{Files, LogFile, Place, Progress};
use super::frame::{self, Rest, Scanned};
use crate::embedded::disk::{Disk, read_exact_at};
use crate::events::batch_from_wire;
use crate::{EventError, EventQuery, EventReader, Follow};

/// Octets that are read at a time, unless a frame has more.
const BLOCK_OCTETS: u64 = 1 << 20;

/// A reader of the embedded log.
pub struct EmbeddedEventReader {
    files: Arc<Files>,
    progress: watch::Receiver<Progress>,
    since: Timestamp,
    /// All when there are none.
    messages: Arc<HashSet<QueueId>>,
    place: Place,
    /// Where reading ends, if it does.
    until: Option<Place>,
}

/// What was read of a file.
struct Block {
    events: Vec<Event>,
    /// Octets that are done with.
    octets: u64,
    /// Where the first octets begin that should be events and aren't.
    damage: Option<u64>,
}

impl EmbeddedEventReader {
    pub(super) fn new(files: Arc<Files>, query: EventQuery) -> Self {
        let EventQuery { since, messages, follow } = query;
        let oldest = messages.iter().map(|queue_id| queue_id.time()).min().unwrap_or_default();
        let until = (follow == Follow::UntilNow).then(|| files.end());
        Self {
            place: files.since(since.max(oldest)),
            progress: files.progress(),
            since,
            messages: Arc::new(messages.into_iter().collect()),
            until,
            files,
        }
    }

    /// Reads a block from a place in a file; a file that is gone was too old.
    async fn read(&self, place: Place, file: LogFile) -> Result<Option<Block>, EventError> {
        let disk = Arc::clone(&self.files.disk);
        let (since, messages) = (self.since, Arc::clone(&self.messages));
        let end = match self.until {
            Some(until) if until.start == place.start => until.offset,
            _ => file.octets,
        };
        let wanted = move |event: &Event| {
            event.at >= since && (messages.is_empty() || messages.contains(&event.message.queue_id))
        };
        let name = file.name.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut block = block(disk.as_ref(), &file, place.offset, end)?;
            block.events.retain(wanted);
            Ok(block)
        });
        match reading.await.map_err(io::Error::other).flatten() {
            Ok(block) => Ok(Some(block)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let path = self.files.disk.path(&name);
                Err(EventError::Unavailable(format!("can't read {}: {error}", path.display())))
            }
        }
    }
}

impl EventReader for EmbeddedEventReader {
    async fn next(&mut self) -> Result<Option<Vec<Event>>, EventError> {
        loop {
            // What comes after this look is told.
            let progress = *self.progress.borrow_and_update();
            let found = self.files.from(self.place);
            let Some((place, file)) = found.filter(|(place, _)| self.until.is_none_or(|end| *place < end))
            else {
                if self.until.is_some()
                    || progress == Progress::Closed
                    || self.progress.changed().await.is_err()
                {
                    return Ok(None);
                }
                continue;
            };
            let name = file.name.clone();
            let Some(block) = self.read(place, file).await? else {
                self.place = Place::after(place.start);
                continue;
            };
            self.place = Place { start: place.start, offset: place.offset + block.octets };
            if let Some(damage) = block.damage
                && self.files.first_warning(place.start)
            {
                let path = self.files.disk.path(&name);
                tracing::warn!(file = %path.display(), octet = damage, "events are damaged, those that can't be read are skipped");
            }
            if !block.events.is_empty() {
                return Ok(Some(block.events));
            }
        }
    }
}

/// The events of the frames from `offset` on, of those that end before `end`.
fn block(disk: &dyn Disk, file: &LogFile, offset: u64, end: u64) -> io::Result<Block> {
    let handle = disk.open(&file.name)?;
    let mut wanted = BLOCK_OCTETS;
    loop {
        let count = wanted.min(end - offset);
        let mut octets = vec![0; usize::try_from(count).unwrap_or(usize::MAX)];
        read_exact_at(handle.as_ref(), &mut octets, offset)?;
        let rest = if offset + count < end { Rest::Follows } else { Rest::Nothing };
        let scanned = frame::scan(file.magic, &octets, rest);
        if scanned.done > 0 {
            return Ok(decoded(&octets, offset, scanned));
        }
        wanted = (scanned.wanted as u64).max(count + 1);
    }
}

fn decoded(octets: &[u8], offset: u64, scanned: Scanned) -> Block {
    let Scanned { payloads, gaps, done, wanted: _ } = scanned;
    // Room that was taken ahead and never written reads as zeros.
    let damaged = |gap: &&std::ops::Range<usize>| octets[(*gap).clone()].iter().any(|octet| *octet != 0);
    let mut damage = gaps.iter().find(damaged).map(|gap| offset + gap.start as u64);
    let mut events = Vec::new();
    for payload in payloads {
        let place = offset + payload.start as u64;
        let batch = Batch::decode(&octets[payload]).map_err(|error| error.to_string());
        match batch.and_then(|batch| batch_from_wire(batch).map_err(|error| error.to_string())) {
            Ok(some) => events.extend(some),
            Err(error) => {
                tracing::debug!(error, place, "a record of events can't be read");
                damage.get_or_insert(place);
            }
        }
    }
    Block { events, octets: done as u64, damage }
}
