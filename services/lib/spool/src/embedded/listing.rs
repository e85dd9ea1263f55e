//! What is queued, for people.

use std::io;
use std::ops::Bound;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mail::{JobId, QueueId};

use super::frame::BLOCK_OCTETS;
use super::index::{Index, Standing, Ticket};
use super::reader::ReadError;
use super::{Core, host_text};
use crate::{ContentError, Entry, EntryState, Query, StateName};

/// Entries of a page where none is named.
const LIMIT: usize = 1_000;
/// Messages that are looked at under one lock.
const LOOK_MESSAGES: usize = 4_096;

pub(super) async fn look(core: &Arc<Core>, query: Query) -> Result<Vec<Entry>, ContentError> {
    let at = query.after.map(|after| after.queue_id).or(query.queue_id).unwrap_or(QueueId::from_bits(0));
    let core = Arc::clone(core);
    let looking = tokio::task::spawn_blocking(move || page(&core, &query));
    let unavailable =
        |error: tokio::task::JoinError| ContentError::Unavailable { queue_id: at, cause: error.to_string() };
    looking.await.map_err(unavailable)?
}

pub(super) async fn header(core: &Arc<Core>, queue_id: QueueId) -> Result<Option<Bytes>, ContentError> {
    let core = Arc::clone(core);
    let reading = tokio::task::spawn_blocking(move || read_header(&core, queue_id));
    reading.await.map_err(|error| ContentError::Unavailable { queue_id, cause: error.to_string() })?
}

fn read_header(core: &Core, queue_id: QueueId) -> Result<Option<Bytes>, ContentError> {
    let failed = |error: ReadError| match error {
        ReadError::Damaged(cause) => ContentError::Damaged { queue_id, cause },
        ReadError::Io(error) => ContentError::Unavailable { queue_id, cause: error.to_string() },
    };
    let ticket = {
        let index = core.index();
        let message = index.find_message(queue_id);
        message.and_then(|message| index.jobs_of(message).first().map(|job| index.ticket(*job)))
    };
    let Some(ticket) = ticket else { return Ok(None) };
    let wanted = core.reader.load(&ticket).map_err(failed)?.job.message.header_octets;
    let head = core.reader.message_head(ticket.place, ticket.head_octets).map_err(failed)?;
    let mut header = BytesMut::new();
    for (number, checksum) in (0..).zip(head.checksums()) {
        if header.len() >= wanted as usize {
            break;
        }
        let octets = BLOCK_OCTETS.min(head.header.content_octets - number * BLOCK_OCTETS);
        let part = (checksum, usize::try_from(octets).unwrap_or_default());
        let block = core.reader.block(ticket.place, ticket.head_octets, number, part).map_err(failed)?;
        header.extend_from_slice(&block);
    }
    header.truncate(wanted as usize);
    Ok(Some(header.freeze()))
}

fn page(core: &Core, query: &Query) -> Result<Vec<Entry>, ContentError> {
    let limit = if query.limit == 0 { LIMIT } else { query.limit };
    let mut entries = Vec::new();
    let mut after = query.after;
    loop {
        let (tickets, reached) = tickets(core, query, after, limit - entries.len());
        for ticket in tickets {
            entries.extend(entry(core, ticket)?);
        }
        match reached {
            Some(reached) if entries.len() < limit => after = Some(reached),
            _ => return Ok(entries),
        }
    }
}

/// The next entries, and the job up to which was looked when there may be more.
fn tickets(core: &Core, query: &Query, after: Option<JobId>, most: usize) -> (Vec<Ticket>, Option<JobId>) {
    let mut index = core.index();
    index.advance(core.now(), usize::MAX);
    let Some(filter) = Filter::new(&index, query) else {
        return (Vec::new(), None);
    };
    let from = match (after, query.queue_id) {
        (Some(after), only) => Bound::Included(only.map_or(after.queue_id, |only| only.max(after.queue_id))),
        (None, Some(only)) => Bound::Included(only),
        (None, None) => Bound::Unbounded,
    };
    let mut tickets = Vec::new();
    let mut reached = after;
    for (id, message) in index.messages_from(from).take(LOOK_MESSAGES) {
        if query.queue_id.is_some_and(|only| only != id) {
            return (tickets, None);
        }
        for job in index.jobs_of(message) {
            let id = index.job_id(job);
            if after.is_some_and(|after| id <= after) {
                continue;
            }
            if tickets.len() == most {
                return (tickets, reached);
            }
            reached = Some(id);
            if filter.takes(&index, message, job) {
                tickets.push(index.ticket(job));
            }
        }
    }
    let more = reached != after;
    (tickets, reached.filter(|_| more))
}

struct Filter {
    account: Option<u32>,
    host: Option<u32>,
    state: Option<StateName>,
}

impl Filter {
    /// Nothing when no job can match: nobody has that account or host.
    fn new(index: &Index, query: &Query) -> Option<Self> {
        let account = match &query.account {
            Some(account) => Some(index.account_number(account.as_str())?),
            None => None,
        };
        let host = match &query.host {
            Some(host) => Some(index.host_number(&host_text(host))?),
            None => None,
        };
        Some(Self { account, host, state: query.state })
    }

    fn takes(&self, index: &Index, message: u32, job: u32) -> bool {
        self.account.is_none_or(|account| index.is_of_account(message, account))
            && self.host.is_none_or(|host| index.is_for_host(job, host))
            && self.state.is_none_or(|state| name(index.job(job).standing) == state)
    }
}

fn name(standing: Standing) -> StateName {
    match standing {
        Standing::Ready => StateName::Ready,
        Standing::Leased | Standing::Settling => StateName::Leased,
        Standing::Waiting => StateName::Waiting,
        Standing::Held => StateName::Held,
    }
}

/// Nothing when the job has gone meanwhile, or is damaged, which the summary says.
fn entry(core: &Core, mut ticket: Ticket) -> Result<Option<Entry>, ContentError> {
    let queue_id = ticket.id.queue_id;
    let loaded = loop {
        match core.reader.load(&ticket) {
            Ok(loaded) => break loaded,
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                let index = core.index();
                let Some(job) = index.find_job(ticket.id) else {
                    return Ok(None);
                };
                let now = index.ticket(job);
                if now.place == ticket.place && now.state == ticket.state {
                    return Err(ContentError::Unavailable { queue_id, cause: error.to_string() });
                }
                ticket = now;
            }
            Err(ReadError::Damaged(what)) => {
                core.note_damage(format!("job {} can't be read: {what}", ticket.id));
                return Ok(None);
            }
            Err(ReadError::Io(error)) => {
                return Err(ContentError::Unavailable { queue_id, cause: error.to_string() });
            }
        }
    };
    let state = match ticket.standing {
        Standing::Ready => EntryState::Ready,
        Standing::Leased | Standing::Settling => EntryState::Leased,
        Standing::Waiting => EntryState::Waiting { until: ticket.at },
        Standing::Held => EntryState::Held,
    };
    Ok(Some(Entry { job: loaded.job, state }))
}
