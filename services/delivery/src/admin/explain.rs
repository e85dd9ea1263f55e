//! All that is known of a message: its events, what is queued of it, and the reports on it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use mail::{Event, JobId, JobKind, QueueId, Timestamp};
use proto::admin::v1 as admin;
use smtp::address::Address;
use spool::events::batch_to_wire;
use spool::{Entry, EventLog as _, EventQuery, EventReader as _, Follow, Query, Spool};
use tonic::Status;

use super::follow::{address, is_same, unreadable};
use super::{entries, invalid, queued_job};
use crate::context::now;

/// How far back a recipient's mail is searched when nothing is said.
const WITHIN: Duration = Duration::from_secs(86_400);
/// Messages that are told of at once; of more the latest.
const STORIES_MAX: usize = 50;
/// Jobs whose reports are looked for.
const REPORTED_JOBS_MAX: usize = 100;
const PAGE: usize = 1_000;

/// What is asked about.
pub(super) enum About {
    Message(QueueId),
    Job(JobId),
    Recipient(Address),
}

impl About {
    pub(super) fn parse(text: &str) -> Result<Self, Status> {
        if text.contains('@') {
            return address(text).map(Self::Recipient);
        }
        let neither = |_| {
            invalid(format!(
                "{text:?} is neither a queue id (26 characters), a job id (that, a dot and a number) nor an address"
            ))
        };
        if text.contains('.') {
            return text.parse().map(Self::Job).map_err(neither);
        }
        text.parse().map(Self::Message).map_err(neither)
    }

    /// Whether an event belongs to it, of a message that does.
    fn includes(&self, event: &Event) -> bool {
        match self {
            Self::Message(_) => true,
            Self::Job(job) => event.job == JobId { report: None, ..*job },
            Self::Recipient(address) => is_same(address, &event.recipient),
        }
    }

    fn includes_job(&self, entry: &Entry) -> bool {
        match (self, &entry.job.kind) {
            (Self::Message(_), _) => true,
            (Self::Job(job), _) => JobId { report: None, ..entry.job.id } == JobId { report: None, ..*job },
            (Self::Recipient(address), JobKind::Delivery { recipients }) => {
                recipients.iter().any(|recipient| is_same(address, &recipient.address))
            }
            (Self::Recipient(address), JobKind::Report { results }) => {
                results.iter().any(|result| is_same(address, &result.recipient.address))
            }
        }
    }
}

/// Answers, or says what was searched in vain.
pub(super) async fn explain<S: Spool>(
    spool: &S,
    about: About,
    within: Duration,
) -> Result<admin::ExplainResponse, Status> {
    let (messages, since, left_out) = match &about {
        About::Message(id) => (vec![*id], id.time(), 0),
        About::Job(id) => (vec![id.queue_id], id.queue_id.time(), 0),
        About::Recipient(address) => {
            let within = if within.is_zero() { WITHIN } else { within };
            let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            let since = Timestamp(now().0.saturating_sub(millis));
            let mut messages = to_recipient(spool, address, since).await?;
            let left_out = messages.len().saturating_sub(STORIES_MAX);
            (messages.split_off(left_out), since, left_out)
        }
    };
    let stories = stories(spool, &about, messages).await?;
    if stories.is_empty() {
        return Err(unknown(spool, &about, since).await);
    }
    Ok(admin::ExplainResponse {
        stories,
        searched_since_ms: since.0,
        left_out: u32::try_from(left_out).unwrap_or(u32::MAX),
    })
}

/// The messages with an event of the recipient since then, or queued for it, in the order of acceptance.
async fn to_recipient<S: Spool>(
    spool: &S,
    address: &Address,
    since: Timestamp,
) -> Result<Vec<QueueId>, Status> {
    let mut found = BTreeSet::new();
    let query = EventQuery { since, messages: Vec::new(), follow: Follow::UntilNow };
    let mut reader = spool.events().read(query).await.map_err(|error| unreadable(&error))?;
    while let Some(events) = reader.next().await.map_err(|error| unreadable(&error))? {
        let mine = events.iter().filter(|event| is_same(address, &event.recipient));
        found.extend(mine.map(|event| event.message.queue_id));
    }
    let about = About::Recipient(address.clone());
    let mut after = None;
    loop {
        let query = Query { host: Some(address.host().clone()), after, limit: PAGE, ..Query::default() };
        let page = spool.look(query).await.map_err(|error| super::unreadable(&error))?;
        let mine = page.iter().filter(|entry| about.includes_job(entry));
        found.extend(mine.map(|entry| entry.job.id.queue_id));
        after = page.last().map(|entry| entry.job.id);
        if page.len() < PAGE {
            return Ok(found.into_iter().collect());
        }
    }
}

/// What is known of each message, followed by the reports on it.
async fn stories<S: Spool>(
    spool: &S,
    about: &About,
    messages: Vec<QueueId>,
) -> Result<Vec<admin::Story>, Status> {
    // First the queue: what isn't there any more has an event already.
    let mut queued = Vec::new();
    for queue_id in &messages {
        let mut entries = entries(spool, *queue_id).await?;
        entries.retain(|entry| about.includes_job(entry));
        queued.push(entries);
    }
    let mut told = of_messages(spool, &messages).await?;
    let mut stories = Vec::new();
    for (queue_id, queued) in messages.into_iter().zip(queued) {
        let mut events = told.remove(&queue_id).unwrap_or_default();
        events.retain(|event| about.includes(event));
        if events.is_empty() && queued.is_empty() {
            continue;
        }
        stories.push(story(queue_id, &events, &queued, None));
        stories.extend(reports(spool, &events).await?);
    }
    Ok(stories)
}

fn story(queue_id: QueueId, events: &[Event], queued: &[Entry], report_on: Option<JobId>) -> admin::Story {
    admin::Story {
        queue_id: queue_id.to_string(),
        events: Some(batch_to_wire(events)),
        jobs: queued.iter().map(queued_job).collect(),
        report_on: report_on.map(|job| job.to_string()),
    }
}

/// The events of messages, each once.
async fn of_messages<S: Spool>(
    spool: &S,
    messages: &[QueueId],
) -> Result<BTreeMap<QueueId, Vec<Event>>, Status> {
    let mut told: BTreeMap<QueueId, Vec<Event>> = BTreeMap::new();
    if messages.is_empty() {
        return Ok(told);
    }
    let mut seen = HashSet::new();
    let query =
        EventQuery { since: Timestamp::default(), messages: messages.to_vec(), follow: Follow::UntilNow };
    let mut reader = spool.events().read(query).await.map_err(|error| unreadable(&error))?;
    while let Some(events) = reader.next().await.map_err(|error| unreadable(&error))? {
        for event in events.into_iter().filter(|event| seen.insert(event.id())) {
            told.entry(event.message.queue_id).or_default().push(event);
        }
    }
    Ok(told)
}

/// The reports that jobs gave rise to. Their queue ids follow from the jobs'; a job's reports are counted from 1, and each is
/// about one recipient or more that has ended.
async fn reports<S: Spool>(spool: &S, events: &[Event]) -> Result<Vec<admin::Story>, Status> {
    let mut ended: BTreeMap<JobId, u16> = BTreeMap::new();
    for event in events.iter().filter(|event| event.kind.is_final()) {
        let count = ended.entry(event.job).or_default();
        *count = count.saturating_add(1);
    }
    let candidates: Vec<(JobId, QueueId)> = ended
        .into_iter()
        .take(REPORTED_JOBS_MAX)
        .flat_map(|(job, count)| (1..=count).map(move |number| JobId { report: Some(number), ..job }))
        .map(|job| (job, QueueId::derived_from(job)))
        .collect();
    let ids: Vec<QueueId> = candidates.iter().map(|(_, queue_id)| *queue_id).collect();
    let mut told = of_messages(spool, &ids).await?;
    let mut stories = Vec::new();
    let mut last: Option<JobId> = None;
    for (job, queue_id) in candidates {
        // After the first number that isn't there, there is none of this job.
        let follows = job.report == Some(1)
            || last.is_some_and(|last| JobId { report: last.report.map(|number| number + 1), ..last } == job);
        if !follows {
            continue;
        }
        let events = told.remove(&queue_id).unwrap_or_default();
        let queued = entries(spool, queue_id).await?;
        if !events.is_empty() || !queued.is_empty() {
            stories.push(story(queue_id, &events, &queued, Some(job)));
            last = Some(job);
        }
    }
    Ok(stories)
}

/// Says what was searched, and why what is asked for may not be there.
async fn unknown<S: Spool>(spool: &S, about: &About, since: Timestamp) -> Status {
    let searched = match about {
        About::Message(id) => format!("nothing is known of message {id}"),
        About::Job(id) => format!("nothing is known of job {id}"),
        About::Recipient(address) => {
            return Status::not_found(format!(
                "nothing is queued for {address}, and no event since {since} is about it; search further back with --since"
            ));
        }
    };
    let query = EventQuery { since: Timestamp::default(), messages: Vec::new(), follow: Follow::UntilNow };
    let oldest = match spool.events().read(query).await {
        Ok(mut reader) => reader.next().await.ok().flatten(),
        Err(_) => None,
    };
    let oldest = match oldest.as_deref().and_then(<[Event]>::first) {
        Some(event) => format!("the oldest event that is kept is of {}", event.at),
        None => String::from("no events are kept"),
    };
    Status::not_found(format!(
        "{searched}: it isn't queued, and none of the events since {since}, when it would have been accepted, is about it; {oldest}"
    ))
}
