//! What administrators see and do. Records are found by their subjects, and read where an answer depends on what they say.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use mail::{JobId, QueueId, Timestamp};

use super::api::{ApiError, Outgoing, PATIENCE, Stored};
use super::body::Kept;
use super::control::{self, Order, means};
use super::job::{Body, Place, Record};
use super::names::{Kind, Spot};
use super::{Core, Later, setup};
use crate::{ContentError, Entry, EntryState, Query, Selection, SettleError, StateName, Summary};

/// Records read at a time.
const AT_ONCE: usize = 256;
/// How often a search is repeated: jobs move from one stream to another meanwhile.
const PASSES: usize = 4;
/// Records that are counted by host at most; a longer queue is judged by its oldest ones.
const HOSTS_OF: usize = 100_000;
/// Entries of a page when no number is given.
const PAGE: usize = 1_000;

/// A record that was found.
struct Found {
    spot: Spot,
    place: Place,
    record: Record,
}

/// Which subjects to search.
enum Range {
    All,
    Message(QueueId),
}

/// The latest record of each job in the range, in order of job id.
async fn spots(core: &Core, range: &Range) -> Result<BTreeMap<JobId, Spot>, ApiError> {
    let mut latest: BTreeMap<JobId, Spot> = BTreeMap::new();
    for partition in core.partitions() {
        for (stream, kinds) in [
            (core.names.mail(partition), &[Kind::Mail][..]),
            (core.names.retry(partition), &Kind::RETRIES[..]),
        ] {
            let filters = match range {
                Range::All => kinds.iter().map(|kind| core.names.all(*kind, partition)).collect(),
                Range::Message(queue_id) => vec![core.names.of_message(partition, *queue_id)],
            };
            for filter in filters {
                let subjects = core.api.subjects(&stream, &filter).await?;
                // A job that is in both streams was settled a moment ago.
                latest.extend(
                    subjects
                        .iter()
                        .filter_map(|subject| core.names.parse(subject))
                        .map(|spot| (spot.job, spot)),
                );
            }
        }
    }
    Ok(latest)
}

/// The records at these spots, in the same order; those that are gone meanwhile, or can't be read, are left out.
async fn records(core: &Core, spots: &[Spot]) -> Result<Vec<Found>, ApiError> {
    let mut by_stream: HashMap<String, Vec<String>> = HashMap::new();
    for spot in spots {
        by_stream
            .entry(core.names.stream(spot.kind, spot.partition))
            .or_default()
            .push(core.names.subject(*spot));
    }
    let asked = by_stream.iter().map(|(stream, subjects)| core.api.near_all(stream, subjects));
    let stored: Vec<Vec<Stored>> = try_join_all(asked).await?;
    let mut stored: HashMap<String, Stored> =
        stored.into_iter().flatten().map(|stored| (stored.subject.clone(), stored)).collect();
    let found = spots.iter().filter_map(|spot| {
        let stored = stored.remove(&core.names.subject(*spot))?;
        let place = Place { stream: core.names.stream(spot.kind, spot.partition), sequence: stored.sequence };
        Some(Found { spot: *spot, place, record: Record::decode(*spot, stored.payload).ok()? })
    });
    Ok(found.collect())
}

/// The records that a selection means.
async fn selected(core: &Core, which: &Selection) -> Result<Vec<Found>, ApiError> {
    let range = match which {
        Selection::Job(id) => Range::Message(id.queue_id),
        Selection::Message(queue_id) => Range::Message(*queue_id),
        Selection::Account(_) | Selection::Host(_) => Range::All,
    };
    let spots: Vec<Spot> = spots(core, &range).await?.into_values().collect();
    let mut found = Vec::new();
    for some in spots.chunks(AT_ONCE) {
        let some = records(core, some).await?;
        found.extend(some.into_iter().filter(|found| means(which, &found.record.job)));
    }
    Ok(found)
}

/// Entries in order of job id.
pub(super) async fn look(core: &Arc<Core>, query: Query) -> Result<Vec<Entry>, ContentError> {
    let unavailable = |error: ApiError| ContentError::Unavailable {
        queue_id: query.queue_id.unwrap_or(QueueId::from_bits(0)),
        cause: error.to_string(),
    };
    let range = query.queue_id.map_or(Range::All, Range::Message);
    let leased = control::leased(core).await;
    let spots = spots(core, &range).await.map_err(unavailable)?;
    let after = query.after.map(std::ops::Bound::Excluded).unwrap_or(std::ops::Bound::Unbounded);
    let wanted = |spot: &Spot| query.state.is_none_or(|state| state == state_of(spot, &leased));
    let spots: Vec<Spot> =
        spots.range((after, std::ops::Bound::Unbounded)).map(|(_, spot)| *spot).filter(wanted).collect();
    let limit = if query.limit == 0 { PAGE } else { query.limit };
    let mut entries = Vec::new();
    for some in spots.chunks(AT_ONCE.min(limit)) {
        for Found { spot, record, .. } in records(core, some).await.map_err(unavailable)? {
            let of_account =
                query.account.as_ref().is_none_or(|account| record.job.message.account == *account);
            let of_host = query.host.as_ref().is_none_or(|host| record.job.destination() == Some(host));
            if of_account && of_host {
                let state = match state_of(&spot, &leased) {
                    StateName::Ready => EntryState::Ready,
                    StateName::Leased => EntryState::Leased,
                    StateName::Waiting => {
                        EntryState::Waiting { until: record.due_at.unwrap_or(Timestamp(0)) }
                    }
                    StateName::Held => EntryState::Held,
                };
                let mut job = record.job;
                job.deferred = record.hold.or(job.deferred);
                entries.push(Entry { job, state });
            }
            if entries.len() == limit {
                return Ok(entries);
            }
        }
    }
    Ok(entries)
}

fn state_of(spot: &Spot, leased: &HashSet<JobId>) -> StateName {
    match spot.kind {
        _ if leased.contains(&spot.job) => StateName::Leased,
        Kind::Mail | Kind::Due => StateName::Ready,
        Kind::Sched => StateName::Waiting,
        Kind::Held => StateName::Held,
    }
}

/// The header section of a queued message.
pub(super) async fn header(core: &Core, queue_id: QueueId) -> Result<Option<Bytes>, ContentError> {
    let found = selected(core, &Selection::Message(queue_id)).await;
    let found = found.map_err(|error| ContentError::Unavailable { queue_id, cause: error.to_string() })?;
    let Some(Found { spot, record, .. }) = found.into_iter().next() else { return Ok(None) };
    let message = &record.job.message;
    let most = message.header_octets as usize;
    let mut header = BytesMut::new();
    match &record.body {
        Body::Inline(octets) => header.extend_from_slice(octets),
        Body::Chunks(size) => {
            while header.len() < most {
                let piece = core.bodies(spot.partition).read(message, *size, header.len() as u64).await?;
                if piece.is_empty() {
                    break;
                }
                header.extend_from_slice(&piece);
            }
        }
    }
    header.truncate(most);
    Ok(Some(header.freeze()))
}

/// Counts by what the server knows of its streams, and the processes of their leases.
pub(super) async fn summary(core: &Arc<Core>, hosts_max: usize) -> Summary {
    // What was given back or held a moment ago is to be counted as such.
    super::tidy::wait(core).await;
    let (leased, parked) = control::counts(core);
    let mut summary = Summary { leased, ..Summary::default() };
    let counted = async {
        let (mut jobs, mut waiting, mut held) = (0, 0, 0);
        for partition in core.partitions() {
            let retry = core.names.retry(partition);
            jobs += messages(core, &core.names.mail(partition)).await?;
            jobs += messages(core, &retry).await?;
            waiting += pending(core, &retry, Kind::Sched).await?;
            held += pending(core, &retry, Kind::Held).await?;
        }
        Ok::<_, ApiError>((jobs, waiting, held, super::dead::count(core).await?))
    };
    match counted.await {
        Ok((jobs, waiting, held, dead)) => {
            summary.dead_letters = dead;
            summary.held = held;
            summary.waiting = waiting - parked.min(waiting);
            summary.ready = jobs.saturating_sub(held + summary.waiting + leased);
        }
        Err(error) => summary.damage.push(format!("the queue can't be counted just now: {error}")),
    }
    if let Err(error) = core.space.measure(&core.api, &core.names).await {
        tracing::debug!(%error, "can't see how much room NATS has");
    }
    summary.disk_octets = core.space.disk_octets();
    if hosts_max > 0 {
        match hosts(core, hosts_max).await {
            Ok(hosts) => summary.hosts = hosts,
            Err(error) => summary.damage.push(format!("hosts can't be counted just now: {error}")),
        }
    }
    summary
}

async fn messages(core: &Core, stream: &str) -> Result<u64, ApiError> {
    Ok(core.api.info(stream).await?["state"]["messages"].as_u64().unwrap_or_default())
}

async fn pending(core: &Core, stream: &str, kind: Kind) -> Result<u64, ApiError> {
    let subject = format!("CONSUMER.INFO.{stream}.{}", setup::counter(kind));
    let answer = core.api.call(&subject, &serde_json::Value::Null).await?;
    Ok(answer["num_pending"].as_u64().unwrap_or_default())
}

/// The hosts with most jobs.
async fn hosts(core: &Core, hosts_max: usize) -> Result<Vec<(String, u64)>, ApiError> {
    let spots: Vec<Spot> = spots(core, &Range::All).await?.into_values().take(HOSTS_OF).collect();
    let mut counts: HashMap<String, u64> = HashMap::new();
    for some in spots.chunks(AT_ONCE) {
        for found in records(core, some).await? {
            if let Some(host) = found.record.job.destination() {
                *counts.entry(host.to_string()).or_default() += 1;
            }
        }
    }
    let mut hosts: Vec<_> = counts.into_iter().collect();
    hosts.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    hosts.truncate(hosts_max);
    Ok(hosts)
}

fn unavailable(which: &Selection, error: &ApiError) -> SettleError {
    let job = match which {
        Selection::Job(id) => *id,
        Selection::Message(queue_id) => JobId::delivery(*queue_id, 0),
        Selection::Account(_) | Selection::Host(_) => JobId::delivery(QueueId::from_bits(0), 0),
    };
    SettleError::Unavailable { job, cause: error.to_string() }
}

/// Makes waiting and held jobs ready.
pub(super) async fn release(core: &Arc<Core>, which: Selection) -> Result<usize, SettleError> {
    super::tidy::wait(core).await;
    control::forget_holds(core, &which).await;
    let leased = control::leased(core).await;
    let released = async {
        let mut count = 0;
        let mut found = selected(core, &which).await?;
        // In the order in which they would have become due.
        found.sort_by_key(|found| (found.record.due_at, found.spot.job));
        for Found { spot, place, record } in found {
            let done = match spot.kind {
                _ if leased.contains(&spot.job) => false,
                Kind::Sched => make_due(core, spot, place.sequence).await?,
                Kind::Held => unhold(core, spot, place, record).await?,
                Kind::Mail | Kind::Due => false,
            };
            count += usize::from(done);
        }
        Ok(count)
    };
    released.await.map_err(|error: ApiError| unavailable(&which, &error))
}

/// Makes a waiting record due, unless it is another one by now.
pub(super) async fn make_due(core: &Core, spot: Spot, sequence: u64) -> Result<bool, ApiError> {
    let subject = core.names.subject(spot);
    let Some(stored) = core.api.last(&core.names.retry(spot.partition), &subject).await? else {
        return Ok(false);
    };
    if stored.sequence != sequence {
        return Ok(false);
    }
    let due = Outgoing::new(core.names.subject(Spot { kind: Kind::Due, ..spot }), stored.payload)
        .with("Nats-Schedule-Next", "purge")
        .with("Nats-Scheduler", &subject)
        .with("Nats-Expected-Last-Subject-Sequence-Subject", &subject)
        .after(sequence);
    match core.api.publish(due, PATIENCE).await {
        Err(error) if error.is_conflict() => Ok(false),
        other => other.map(|_| true),
    }
}

async fn unhold(core: &Core, spot: Spot, place: Place, record: Record) -> Result<bool, ApiError> {
    let now = core.now();
    if let Body::Chunks(_) = record.body {
        core.bodies(spot.partition).keep(&record.job.message, Kept::ForAttempts, now).await?;
    }
    let predecessor = Some(place.clone());
    let due = Record { hold: None, due_at: None, predecessor, written_at: now, ..record };
    let to = Spot { kind: Kind::Due, ..spot };
    match core.api.publish(core.outgoing(to, &due).after(0), PATIENCE).await {
        Err(error) if error.is_conflict() => {}
        other => drop(other?),
    }
    core.api.delete(&place.stream, place.sequence).await?;
    Ok(true)
}

/// Holds what is ready or waiting, and marks what is leased.
pub(super) async fn hold(core: &Arc<Core>, which: Selection, reason: String) -> Result<usize, SettleError> {
    super::tidy::wait(core).await;
    let before: HashSet<JobId> = held_now(core, &which).await.map_err(|error| unavailable(&which, &error))?;
    let leased = control::order(core, &which, &Order::Hold(reason.clone())).await;
    let mut held: HashSet<JobId> = leased.clone();
    for _ in 0..PASSES {
        let found = selected(core, &which).await.map_err(|error| unavailable(&which, &error))?;
        let (there, left): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|found| found.spot.kind == Kind::Held);
        held.extend(there.iter().map(|found| found.spot.job).filter(|job| !before.contains(job)));
        let left: Vec<_> = left.into_iter().filter(|found| !leased.contains(&found.spot.job)).collect();
        if left.is_empty() {
            break;
        }
        for Found { spot, place, record } in left {
            hold_one(core, spot, place, record, &reason)
                .await
                .map_err(|error| unavailable(&which, &error))?;
            held.insert(spot.job);
        }
    }
    Ok(held.len())
}

async fn held_now(core: &Core, which: &Selection) -> Result<HashSet<JobId>, ApiError> {
    let found = selected(core, which).await?;
    Ok(found.iter().filter(|found| found.spot.kind == Kind::Held).map(|found| found.spot.job).collect())
}

async fn hold_one(
    core: &Core,
    spot: Spot,
    place: Place,
    mut record: Record,
    reason: &str,
) -> Result<(), ApiError> {
    let (message, now) = (Arc::clone(&record.job.message), core.now());
    let bodies = core.bodies(spot.partition);
    match &record.body {
        Body::Chunks(_) => bodies.keep(&message, Kept::UntilReleased, now).await?,
        Body::Inline(octets) => {
            let content = crate::Content { pieces: vec![octets.clone()] };
            bodies.put(&message, &content, Kept::UntilReleased, now, PATIENCE).await?;
            record.body = Body::Chunks(super::body::CHUNK);
        }
    }
    let predecessor = Some(place.clone());
    let held = Record { due_at: None, hold: Some(reason.to_owned()), predecessor, written_at: now, ..record };
    let to = Spot { kind: Kind::Held, ..spot };
    match core.api.publish(core.outgoing(to, &held).after(0), PATIENCE).await {
        Err(error) if error.is_conflict() => {}
        other => drop(other?),
    }
    core.api.delete(&place.stream, place.sequence).await.map(drop)
}

/// Removes jobs, leased ones too.
pub(super) async fn remove(core: &Arc<Core>, which: Selection) -> Result<Vec<JobId>, SettleError> {
    super::tidy::wait(core).await;
    control::order(core, &which, &Order::Remove).await;
    let removed = async {
        let mut removed = std::collections::BTreeSet::new();
        for _ in 0..PASSES {
            let found = selected(core, &which).await?;
            if found.is_empty() {
                break;
            }
            for Found { spot, place, record } in found {
                core.api.delete(&place.stream, place.sequence).await?;
                removed.insert(spot.job);
                if let Body::Chunks(_) = record.body {
                    core.later(Later::Ended { queue_id: spot.job.queue_id, partition: spot.partition });
                }
            }
        }
        Ok(removed.into_iter().collect())
    };
    removed.await.map_err(|error: ApiError| unavailable(&which, &error))
}
