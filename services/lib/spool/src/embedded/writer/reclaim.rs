//! Getting room back: what the oldest segment still holds is written once more at the log's end, then the file goes.
//!
//! Oldest first, because then every record that ends or changes a job lies at or after what it is about: nothing can come
//! back when a file goes.

use proto::spool::v1 as wire;

use super::Writer;
use super::batch::Batch;
use crate::embedded::frame::{BLOCK_OCTETS, Frame, Kind};
use crate::embedded::index::{Index, Place, Standing, Ticket};
use crate::embedded::reader::{ReadError, Reader, is_of};

/// Octets that are copied with one batch: enough to keep up, too few to be felt.
const COPY_OCTETS: u64 = 1 << 20;
/// Messages that are looked at under one lock.
const LOOK_MESSAGES: u32 = 32_768;

/// The oldest segment on its way out.
pub(super) struct Reclaim {
    segment: u32,
    /// Messages that it may still hold.
    messages: Vec<u32>,
    /// The last of them is written with the record that says so.
    is_announced: bool,
}

/// A message with its latest states, for the end of the log.
pub(super) struct Copied {
    pub(super) frame: Frame,
    message: u32,
}

impl Copied {
    pub(super) fn apply(self, index: &mut Index, place: Place) {
        for job in index.jobs_of(self.message) {
            index.give_up_state(job);
        }
        index.relocate(self.message, place, self.frame.octets(), self.frame.head_octets);
        // It has the recipients as they were once.
        index.cache.remove(self.message);
    }
}

impl Writer {
    /// Begins to reclaim the oldest segment when that is worth it, and ends it when all is copied.
    pub(super) fn tend_log(&mut self) {
        if let Some(reclaim) = self.reclaim.take_if(|reclaim| reclaim.is_announced) {
            self.drop_segment(reclaim.segment);
        }
        if self.reclaim.is_none()
            && let Some(segment) = self.worth_reclaiming()
        {
            let messages = self.messages_in(segment);
            self.reclaim = Some(Reclaim { segment, messages, is_announced: false });
        }
    }

    fn worth_reclaiming(&mut self) -> Option<u32> {
        let (current, end) = self.log.end();
        let (oldest, entry, (total, live)) = {
            let index = self.core.index();
            let (oldest, entry) =
                index.segments.first_key_value().map(|(number, entry)| (*number, *entry))?;
            (oldest, entry, index.octets())
        };
        let dead = total.saturating_sub(live);
        let settings = &self.core.settings;
        // Under pressure every eighth octet counts; else copying must free at least as much as it writes.
        let worth = dead > live.max(settings.dead_octets_max)
            || (self.short && dead > (live / 8).max(settings.segment_octets / 4));
        if oldest == current {
            // It can only go once another one has been begun.
            if !worth || end <= settings.segment_octets / 4 {
                return None;
            }
            self.log.seal();
            return self.log.begin().is_ok().then_some(oldest);
        }
        (entry.live == 0 || worth).then_some(oldest)
    }

    fn messages_in(&self, segment: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut from = 0;
        loop {
            let index = self.core.index();
            let until = from + LOOK_MESSAGES;
            if index.collect_messages(segment, from..until, &mut found) {
                return found;
            }
            from = until;
        }
    }

    /// Adds the next messages of the segment that is reclaimed.
    pub(super) fn copy_some(&mut self, batch: &mut Batch) {
        let Some(mut reclaim) = self.reclaim.take() else {
            return;
        };
        let mut octets = 0;
        while octets < COPY_OCTETS {
            let Some(message) = reclaim.messages.pop() else {
                let meta = wire::Reclaimed { up_to: reclaim.segment };
                batch.set_reclaimed(Frame::new(self.log.magic, Kind::Reclaimed, 0, &meta));
                reclaim.is_announced = true;
                break;
            };
            let Some(tickets) = self.tickets(reclaim.segment, message) else {
                continue;
            };
            match self.copy(message, &tickets) {
                Ok(copy) => {
                    octets += copy.frame.octets();
                    batch.add_copy(copy);
                }
                Err(ReadError::Damaged(what)) => {
                    self.core.note_damage(format!("message {} is lost: {what}", tickets[0].0.id.queue_id));
                    self.core.index().remove_whole(message);
                }
                Err(ReadError::Io(error)) => {
                    // The segment stays; perhaps it can be read later.
                    tracing::error!(error = %error, segment = reclaim.segment, "can't copy from a segment");
                    return;
                }
            }
        }
        self.reclaim = Some(reclaim);
    }

    /// The jobs of a message that is still in the segment, each with whether its DSN was accepted.
    fn tickets(&self, segment: u32, message: u32) -> Option<Vec<(Ticket, bool)>> {
        let index = self.core.index();
        if index.message(message).place.segment != segment {
            return None;
        }
        let jobs = index.jobs_of(message).into_iter();
        let tickets: Vec<_> = jobs.map(|job| (index.ticket(job), index.is_answered(job))).collect();
        (!tickets.is_empty()).then_some(tickets)
    }

    fn copy(&self, message: u32, tickets: &[(Ticket, bool)]) -> Result<Copied, ReadError> {
        let reader = &self.core.reader;
        let first = &tickets[0].0;
        let head = reader.message_head(first.place, first.head_octets)?;
        let recorded = reader.kept(first.place, &head)?;
        let mut states = Vec::with_capacity(tickets.len());
        for (ticket, answered) in tickets {
            let mut state = match ticket.state {
                Some(place) => reader.read_state(place, ticket.id)?,
                None => {
                    recorded.states.iter().find(|state| is_of(state, ticket.id)).cloned().unwrap_or_default()
                }
            };
            state.due_at_ms = (ticket.standing == Standing::Waiting).then_some(ticket.at.0);
            state.hold = ticket.hold.as_deref().map(str::to_owned);
            state.reports = ticket.reports.into();
            state.answered = *answered;
            state.host = self.core.index().host(ticket.claim.job).to_owned();
            states.push(state);
        }
        let meta = wire::Kept { message: recorded.message, states };
        let content = raw_content(reader, first.place, &head);
        let subject = head.header.subject;
        let frame =
            Frame::with_content(self.log.magic, Kind::Kept, subject, &meta, &head.checksums(), &content);
        Ok(Copied { frame, message })
    }

    /// Nothing in the segment counts any more, and a durable record says so.
    fn drop_segment(&mut self, segment: u32) {
        self.log.oldest = segment + 1;
        self.core.index().segments.remove(&segment);
        self.core.reader.forget(segment);
        if let Err(error) = self.log.unlink(segment) {
            // The next start removes it.
            tracing::warn!(error = %error, segment, "can't remove a segment");
        }
    }
}

/// Content as it is, damaged or not, with its checksums as they were.
fn raw_content(reader: &Reader, place: Place, head: &crate::embedded::frame::Head) -> Vec<bytes::Bytes> {
    let start = head.octets().len() as u64;
    let octets = head.header.content_octets;
    let block = |offset| reader.raw(place, start + offset, BLOCK_OCTETS.min(octets - offset));
    (0..octets.div_ceil(BLOCK_OCTETS)).map(|number| block(number * BLOCK_OCTETS)).collect()
}
