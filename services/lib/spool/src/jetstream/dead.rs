//! Dead letters: records that can't be read are put aside, so that they hold up no other, and can be put back.
//!
//! Content that a dead letter needs stays until it is put back. An entry that was put aside twice, since the first answer was
//! lost, is there once: it says where it stood.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use mail::{JobId, QueueId};

use super::Core;
use super::api::{After, ApiError, Outgoing, PATIENCE, Stored};
use super::body::Kept;
use super::job::{Body, Place, Record};
use super::names::{Kind, Spot};
use super::setup::Layout;
use crate::{DeadLetter, DeadLetterError, DeadSelection, Revival};

/// The subject that the record stood under.
const SUBJECT: &str = "Stagepost-Subject";
/// Why it can't be read.
const CAUSE: &str = "Stagepost-Cause";
/// The stream and the sequence that it stood at.
const PLACE: &str = "Stagepost-Place";
/// Entries read at a time.
const PAGE: u32 = 256;
/// Entries listed when no number is given.
const LISTED: usize = 1_000;
/// Records that no lane takes that are looked for in a stream at a time.
const STRAYS_MAX: usize = 100;
/// Octets of a cause that are kept.
const CAUSE_MAX: usize = 300;

/// A record that can't be read.
pub(super) struct Unreadable {
    pub(super) place: Place,
    pub(super) subject: String,
    /// The job that its subject names, if it does.
    pub(super) spot: Option<Spot>,
    pub(super) payload: Bytes,
    pub(super) cause: String,
    /// Whether it may have been with somebody before, who could read it.
    pub(super) suspect: bool,
}

/// Puts a record aside; what is left of a job that was settled goes instead, as it would if it could be read.
pub(super) async fn bury(core: &Core, unreadable: &Unreadable) -> Result<(), ApiError> {
    let Unreadable { place, subject, spot, payload, cause, suspect } = unreadable;
    let grave = match spot {
        Some(spot) => core.names.dead_job(spot.partition, spot.job),
        None => core.names.dead_foreign(&place.stream, place.sequence),
    };
    let standing = format!("{} {}", place.stream, place.sequence);
    let before = core.api.last(&core.names.dead(), &grave).await?;
    let buried = before
        .as_ref()
        .is_some_and(|before| before.header(PLACE) == Some(&standing) && before.payload == *payload);
    if !buried {
        if let Some(spot) = spot {
            if *suspect
                && (followed(core, spot, place).await? || outlived(core, spot, place, before.as_ref()))
            {
                tracing::info!(job = %spot.job, "a job was settled before and comes again; its rest is removed");
                return core.api.delete(&place.stream, place.sequence).await.map(drop);
            }
            core.bodies(spot.partition).keep_until_released(spot.job.queue_id).await?;
        }
        let entry = Outgoing::new(grave, payload.clone())
            .with(SUBJECT, subject)
            .with(CAUSE, &line(cause))
            .with(PLACE, &standing)
            .after(before.map_or(0, |before| before.sequence));
        core.api.publish(entry, PATIENCE).await?;
        tracing::error!(subject, cause, "a record can't be read; it is with the dead letters");
    }
    core.api.delete(&place.stream, place.sequence).await.map(drop)
}

/// Whether the queue has a record that follows this one.
async fn followed(core: &Core, spot: &Spot, place: &Place) -> Result<bool, ApiError> {
    let retry = core.names.retry(spot.partition);
    let latest = core.api.last(&retry, &core.names.of_job(spot.partition, spot.job)).await?;
    Ok(latest.is_some_and(|latest| spot.kind == Kind::Mail || latest.sequence > place.sequence))
}

/// Whether a record that follows this one couldn't be read either.
fn outlived(core: &Core, spot: &Spot, place: &Place, dead: Option<&Stored>) -> bool {
    let Some((stream, sequence)) = dead.and_then(|dead| dead.header(PLACE)?.split_once(' ')) else {
        return false;
    };
    let later = sequence.parse::<u64>().is_ok_and(|sequence| sequence > place.sequence);
    stream == core.names.retry(spot.partition) && (spot.kind == Kind::Mail || later)
}

/// Records that no consumer takes, by stream and sequence, as they were seen the last time.
pub(super) type Strays = BTreeSet<(String, u64)>;

/// Looks at the first records of each stream: one that no consumer takes stays until it is among them. It goes to the dead letters
/// when it was seen before the layout was looked at, too: a lane may be new.
pub(super) async fn look_for_strays(
    core: &Core,
    layout: &Layout,
    strays: &Mutex<Strays>,
) -> Result<(), ApiError> {
    let before = strays.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut seen = Strays::new();
    for partition in &layout.partitions {
        for kind in [Kind::Mail, Kind::Due] {
            let stream = core.names.stream(kind, *partition);
            let mut from = 1;
            for _ in 0..STRAYS_MAX {
                let first = core.api.from(&stream, from).await?;
                let Some(stray) = first.filter(|first| is_stray(core, layout, first)) else { break };
                from = stray.sequence + 1;
                let known = (stream.clone(), stray.sequence);
                if before.contains(&known) {
                    put_aside(core, &stream, stray).await?;
                }
                seen.insert(known);
            }
        }
    }
    *strays.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    Ok(())
}

async fn put_aside(core: &Core, stream: &str, stray: Stored) -> Result<(), ApiError> {
    if core.names.is_void(&stray.subject) {
        return core.api.delete(stream, stray.sequence).await.map(drop);
    }
    let unreadable = Unreadable {
        place: Place { stream: stream.to_owned(), sequence: stray.sequence },
        cause: format!("no lane takes the subject {}", stray.subject),
        spot: core.names.parse(&stray.subject),
        subject: stray.subject,
        payload: stray.payload,
        suspect: false,
    };
    bury(core, &unreadable).await
}

/// Whether no consumer takes a record. What is held or waits is taken by none until its time.
fn is_stray(core: &Core, layout: &Layout, record: &Stored) -> bool {
    match core.names.parse(&record.subject) {
        Some(spot) => spot.lane.number >= layout.lanes && matches!(spot.kind, Kind::Mail | Kind::Due),
        None => true,
    }
}

/// A cause as the value of a header.
fn line(cause: &str) -> String {
    let printable = cause.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut octets = 0;
    printable
        .take_while(|letter| {
            octets += letter.len_utf8();
            octets <= CAUSE_MAX
        })
        .collect()
}

/// How many there are.
pub(super) async fn count(core: &Core) -> Result<u64, ApiError> {
    match core.api.info(&core.names.dead()).await {
        Err(error) if error.is_without_stream() => Ok(0),
        other => Ok(other?["state"]["messages"].as_u64().unwrap_or_default()),
    }
}

/// Whether somebody deleted their stream; it is made anew then.
pub(super) async fn is_missing(core: &Core) -> bool {
    core.api.info(&core.names.dead()).await.is_err_and(|error| error.is_without_stream())
}

/// Whether there is one of a message: its content is still wanted.
pub(super) async fn has_of(core: &Core, partition: u16, queue_id: QueueId) -> Result<bool, ApiError> {
    let filter = core.names.dead_message(partition, queue_id);
    Ok(core.api.last(&core.names.dead(), &filter).await?.is_some())
}

/// Those after a sequence, in order.
pub(super) async fn list(
    core: &Core,
    mut after: u64,
    limit: usize,
) -> Result<Vec<DeadLetter>, DeadLetterError> {
    let limit = if limit == 0 { LISTED } else { limit };
    let mut letters = Vec::new();
    while letters.len() < limit {
        let some = page(core, after).await.map_err(unavailable)?;
        let Some(last) = some.last() else { break };
        after = last.sequence;
        letters.extend(some.iter().map(letter));
    }
    letters.truncate(limit);
    Ok(letters)
}

async fn page(core: &Core, after: u64) -> Result<Vec<Stored>, ApiError> {
    core.api.range(&core.names.dead(), &core.names.all_dead(), &After::Sequence(after), PAGE).await
}

fn letter(stored: &Stored) -> DeadLetter {
    let text = |name| stored.header(name).unwrap_or_default().to_owned();
    DeadLetter {
        number: stored.sequence,
        subject: text(SUBJECT),
        cause: text(CAUSE),
        octets: stored.payload.len() as u64,
        at: stored.stored_at,
    }
}

fn unavailable(error: ApiError) -> DeadLetterError {
    DeadLetterError::Unavailable(error.to_string())
}

/// Puts entries back.
pub(super) async fn revive(core: &Core, which: DeadSelection) -> Result<Revival, DeadLetterError> {
    super::tidy::wait(core).await;
    let mut revival = Revival::default();
    match which {
        DeadSelection::Number(sequence) => {
            if let Some(entry) = core.api.at(&core.names.dead(), sequence).await.map_err(unavailable)? {
                put_back(core, entry, &mut revival).await.map_err(unavailable)?;
            }
        }
        DeadSelection::All => {
            // Those that come back meanwhile are not tried again.
            let info = core.api.info(&core.names.dead()).await.map_err(unavailable)?;
            let last = info["state"]["last_seq"].as_u64().unwrap_or_default();
            let mut after = 0;
            while after < last {
                let some = page(core, after).await.map_err(unavailable)?;
                let Some(furthest) = some.last() else { break };
                after = furthest.sequence;
                for entry in some.into_iter().filter(|entry| entry.sequence <= last) {
                    put_back(core, entry, &mut revival).await.map_err(unavailable)?;
                }
            }
        }
    }
    Ok(revival)
}

/// Stores an entry where it stood, and then removes it here.
async fn put_back(core: &Core, entry: Stored, revival: &mut Revival) -> Result<(), ApiError> {
    let Some(subject) = entry.header(SUBJECT).map(ToOwned::to_owned) else {
        revival.left += 1;
        return Ok(());
    };
    if let Some(spot) = core.names.parse(&subject) {
        match queued(core, spot.partition, spot.job, &entry.payload).await? {
            Queued::Another => {
                tracing::warn!(job = %spot.job, "a dead letter stays: the queue has another record of its job");
                revival.left += 1;
                return Ok(());
            }
            Queued::Same | Queued::Nothing => keep_while_tried(core, spot, &entry.payload).await?,
        }
    }
    // A second try within a while of one whose answer was lost is known by the id, and a later one by the record.
    let outgoing = Outgoing::new(subject, entry.payload)
        .with("Nats-Msg-Id", &format!("{}-{}", core.names.dead(), entry.sequence))
        .after(0);
    match core.api.publish(outgoing, PATIENCE).await {
        Err(error) if error.is_conflict() => {}
        other => drop(other?),
    }
    core.api.delete(&core.names.dead(), entry.sequence).await?;
    revival.revived += 1;
    Ok(())
}

enum Queued {
    Nothing,
    /// This very record.
    Same,
    Another,
}

/// What the queue has of a job.
async fn queued(core: &Core, partition: u16, job: JobId, payload: &Bytes) -> Result<Queued, ApiError> {
    let mut found = Queued::Nothing;
    for stream in [core.names.mail(partition), core.names.retry(partition)] {
        match core.api.last(&stream, &core.names.of_job(partition, job)).await? {
            None => {}
            Some(stored) if stored.payload == *payload => found = Queued::Same,
            Some(_) => return Ok(Queued::Another),
        }
    }
    Ok(found)
}

/// Content that stayed for the dead letter lives as long as the message again.
async fn keep_while_tried(core: &Core, spot: Spot, payload: &Bytes) -> Result<(), ApiError> {
    let Ok(record) = Record::decode(spot, payload.clone()) else { return Ok(()) };
    match record.body {
        Body::Inline(_) => Ok(()),
        Body::Chunks(_) => {
            let bodies = core.bodies(spot.partition);
            bodies.keep(&record.job.message, Kept::ForAttempts, core.now()).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_one_line_that_a_header_takes() {
        assert_eq!(line("not a\r\nrecord"), "not a  record");
        assert_eq!(line(&"ä".repeat(400)).len(), CAUSE_MAX);
    }
}
