//! Reading envelopes and content back.
//!
//! All of this blocks and is called from threads that may.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use mail::{Job, JobId, JobKind, Message};
use proto::spool::v1 as wire;

use super::disk::{Disk, DiskFile};
use super::frame::{BLOCK_OCTETS, HEADER_OCTETS, Head, Header, Kind, Magic};
use super::index::{Place, Ticket};
use super::segment::log_name;
use crate::record;

/// Open segments at most, so that a store of any size leaves file descriptors to the sessions.
const FILES_MAX: usize = 64;
/// A message is read with its content when it has at most this many octets with its envelope.
const WHOLE_OCTETS_MAX: u32 = 64 * 1024;
/// What is read first where a record's size isn't known.
const FIRST_OCTETS: usize = 4 * 1024;

#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The octets are not those that were written.
    #[error("{0}")]
    Damaged(String),
    #[error("read a segment: {0}")]
    Io(#[from] io::Error),
}

/// A message's content as a lease has it.
#[derive(Clone, Debug)]
pub(super) enum LeasedContent {
    Whole(Bytes),
    /// Read block by block; the checksums of the blocks.
    OnDisk {
        checksums: Arc<[u32]>,
        octets: u64,
    },
}

#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) job: Job,
    pub(super) content: LeasedContent,
}

pub(super) struct Reader {
    disk: Arc<dyn Disk>,
    magic: Magic,
    files: Mutex<HashMap<u32, Arc<dyn DiskFile>>>,
}

impl Reader {
    pub(super) fn new(disk: Arc<dyn Disk>, magic: Magic) -> Self {
        Self { disk, magic, files: Mutex::new(HashMap::new()) }
    }

    /// The job that the ticket names, from the cache as far as that goes.
    pub(super) fn load(&self, ticket: &Ticket) -> Result<Loaded, ReadError> {
        let (mut from, content) = match &ticket.cached {
            Some(cached) => {
                (Envelope::Cached(Arc::clone(cached)), LeasedContent::Whole(cached.content.clone()))
            }
            None => self.read_message(ticket)?,
        };
        let state = match ticket.state {
            Some(place) => Some(self.read_state(place, ticket.id)?),
            None => from.state_of(ticket.id),
        };
        let message = from.message(self, ticket)?;
        let broken = |error: record::RecordError| self.damaged(ticket.place, &error.to_string());
        let job = match (state, from) {
            (Some(state), _) => job_of(ticket, message, state).map_err(broken)?,
            (None, from) => {
                let recipients = from.recipients_of(ticket.id).map_err(broken)?;
                let recipients = recipients
                    .ok_or_else(|| self.damaged(ticket.place, "the record doesn't have the job"))?;
                fresh_job(ticket, message, recipients)
            }
        };
        Ok(Loaded { job, content })
    }

    fn read_message(&self, ticket: &Ticket) -> Result<(Envelope, LeasedContent), ReadError> {
        let whole = ticket.octets <= WHOLE_OCTETS_MAX;
        let octets = if whole { ticket.octets } else { ticket.head_octets };
        let octets = self.read(ticket.place, octets as usize)?;
        let head = self.head(ticket.place, &octets)?;
        let content = if whole && head.header.content_octets <= BLOCK_OCTETS {
            let content = octets.slice(head.octets().len().min(octets.len())..);
            let sound = content.len() as u64 == head.header.content_octets
                && (content.is_empty() || head.is_block(0, &content));
            if sound {
                LeasedContent::Whole(content)
            } else {
                // The envelope is sound: the sender can still be told.
                on_disk(&head)
            }
        } else {
            on_disk(&head)
        };
        let envelope = match head.header.kind {
            Kind::Kept => Envelope::Kept(self.decode(ticket.place, &head)?),
            _ => Envelope::Accepted(self.decode(ticket.place, &head)?),
        };
        Ok((envelope, content))
    }

    /// A message's record without its content, for copying.
    pub(super) fn message_head(&self, place: Place, head_octets: u32) -> Result<Head, ReadError> {
        let octets = self.read(place, head_octets as usize)?;
        self.head(place, &octets)
    }

    /// A message and the states of its jobs as its record has them.
    pub(super) fn kept(&self, place: Place, head: &Head) -> Result<wire::Kept, ReadError> {
        if head.header.kind == Kind::Kept {
            return self.decode(place, head);
        }
        let accepted: wire::Accepted = self.decode(place, head)?;
        let due_at_ms = accepted.message.as_ref().and_then(|message| message.not_before_ms);
        let states = accepted.jobs.into_iter().zip(0..).map(|(group, number)| wire::State {
            number,
            host: host_of(&group.recipients).to_owned(),
            recipients: group.recipients,
            due_at_ms,
            ..wire::State::default()
        });
        Ok(wire::Kept { states: states.collect(), message: accepted.message })
    }

    /// The latest state of a job from the record of its last change.
    pub(super) fn read_state(&self, place: Place, id: JobId) -> Result<wire::State, ReadError> {
        let mut octets = self.read(place, FIRST_OCTETS)?;
        if let Some(header) = Header::parse(self.magic, &octets)
            && header.head_octets() > octets.len()
        {
            octets = self.read(place, header.head_octets())?;
        }
        let head = self.head(place, &octets)?;
        let change: wire::Change = self.decode(place, &head)?;
        let named = |state: &wire::State| is_of(state, id);
        change
            .states
            .into_iter()
            .find(named)
            .ok_or_else(|| self.damaged(place, "the record doesn't have the job"))
    }

    /// A block of content, checked.
    pub(super) fn block(
        &self,
        place: Place,
        head_octets: u32,
        block: u64,
        (checksum, octets): (u32, usize),
    ) -> Result<Bytes, ReadError> {
        let start = u64::from(place.offset) + u64::from(head_octets) + block * BLOCK_OCTETS;
        let mut buffer = BytesMut::zeroed(octets);
        let count = self.file(place.segment)?.read_at(&mut buffer, start)?;
        if count < octets || crc32fast::hash(&buffer) != checksum {
            let text = format!("content block {block} doesn't match its checksum");
            return Err(self.damaged(place, &text));
        }
        Ok(buffer.freeze())
    }

    /// So many octets from a place on, as they are; where the file ends or can't be read, zeros.
    pub(super) fn raw(&self, place: Place, skip: u64, octets: u64) -> Bytes {
        let mut buffer = BytesMut::zeroed(usize::try_from(octets).unwrap_or_default());
        if let Ok(file) = self.file(place.segment) {
            // What can't be read is no longer what its checksum says, and is reported when it is wanted.
            let _ = file.read_at(&mut buffer, u64::from(place.offset) + skip);
        }
        buffer.freeze()
    }

    /// Drops a segment that is no longer there.
    pub(super) fn forget(&self, segment: u32) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }

    fn read(&self, place: Place, octets: usize) -> Result<Bytes, ReadError> {
        let mut buffer = BytesMut::zeroed(octets);
        let count = self.file(place.segment)?.read_at(&mut buffer, place.offset.into())?;
        buffer.truncate(count);
        Ok(buffer.freeze())
    }

    fn head(&self, place: Place, octets: &Bytes) -> Result<Head, ReadError> {
        Head::parse(self.magic, octets)
            .ok_or_else(|| self.damaged(place, "the record doesn't match its checksum"))
    }

    fn decode<T: prost::Message + Default>(&self, place: Place, head: &Head) -> Result<T, ReadError> {
        T::decode(head.meta()).map_err(|error| self.damaged(place, &error.to_string()))
    }

    fn damaged(&self, place: Place, what: &str) -> ReadError {
        let path = self.disk.path(&log_name(place.segment));
        ReadError::Damaged(format!("{} at octet {}: {what}", path.display(), place.offset))
    }

    fn file(&self, segment: u32) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&segment) {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&log_name(segment))?;
        if files.len() >= FILES_MAX {
            files.clear();
        }
        files.insert(segment, Arc::clone(&file));
        Ok(file)
    }
}

/// Where a message's envelope comes from.
enum Envelope {
    Cached(Arc<super::index::Cached>),
    Accepted(wire::Accepted),
    Kept(wire::Kept),
}

impl Envelope {
    fn message(&mut self, reader: &Reader, ticket: &Ticket) -> Result<Arc<Message>, ReadError> {
        let record = match self {
            Self::Cached(cached) => return Ok(Arc::clone(&cached.message)),
            Self::Accepted(accepted) => accepted.message.take(),
            Self::Kept(kept) => kept.message.take(),
        };
        let record = record.ok_or_else(|| reader.damaged(ticket.place, "the record has no message"))?;
        let message = record::message_from_wire(record);
        message.map(Arc::new).map_err(|error| reader.damaged(ticket.place, &error.to_string()))
    }

    /// The state of a job, where the record has states.
    fn state_of(&mut self, id: JobId) -> Option<wire::State> {
        match self {
            Self::Kept(kept) => kept.states.iter_mut().find(|state| is_of(state, id)).map(std::mem::take),
            Self::Cached(_) | Self::Accepted(_) => None,
        }
    }

    /// The recipients of a job that nobody has changed yet.
    fn recipients_of(self, id: JobId) -> Result<Option<Vec<mail::Recipient>>, record::RecordError> {
        let place = usize::from(id.number);
        match self {
            Self::Cached(cached) => Ok(cached.jobs.get(place).cloned()),
            Self::Accepted(accepted) => {
                let group = accepted.jobs.into_iter().nth(place);
                group.map(|group| record::recipients_from_wire(group.recipients)).transpose()
            }
            Self::Kept(_) => Ok(None),
        }
    }
}

pub(super) fn is_of(state: &wire::State, id: JobId) -> bool {
    state.number == u32::from(id.number) && state.report == id.report.map(u32::from)
}

/// The host of these recipients' addresses, in its wire form.
pub(super) fn host_of(recipients: &[wire::Recipient]) -> &str {
    // A host has no `@`, whatever a quoted local part has.
    recipients.first().and_then(|first| first.address.rsplit_once('@')).map_or("", |(_, host)| host)
}

fn on_disk(head: &Head) -> LeasedContent {
    LeasedContent::OnDisk { checksums: head.checksums().into(), octets: head.header.content_octets }
}

fn fresh_job(ticket: &Ticket, message: Arc<Message>, recipients: Vec<mail::Recipient>) -> Job {
    Job {
        id: ticket.id,
        message,
        kind: JobKind::Delivery { recipients },
        attempts: 0,
        deferred: ticket.hold.as_deref().map(str::to_owned),
        signature: None,
        redelivered: ticket.redelivered,
    }
}

fn job_of(ticket: &Ticket, message: Arc<Message>, state: wire::State) -> Result<Job, record::RecordError> {
    let kind = if ticket.id.report.is_some() {
        JobKind::Report { results: record::results_from_wire(state.results)? }
    } else {
        JobKind::Delivery { recipients: record::recipients_from_wire(state.recipients)? }
    };
    Ok(Job {
        id: ticket.id,
        message,
        kind,
        attempts: state.attempts,
        deferred: ticket.hold.as_deref().map(str::to_owned).or(state.reason),
        signature: state.signature.map(Into::into),
        redelivered: ticket.redelivered,
    })
}

const _: () = assert!(FIRST_OCTETS > HEADER_OCTETS);
