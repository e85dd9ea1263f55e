//! What nobody waits for: giving jobs back, deleting content whose jobs have ended, taking back what was accepted in doubt.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail::QueueId;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::api::{ApiError, Outgoing};
use super::body::Kept;
use super::job::{Body, Place, Record};
use super::names::{Kind, Spot};
use super::{Core, space};

/// Pieces of work at a time.
const AT_ONCE: usize = 32;
/// How long work that fails waits before it is tried again.
const PAUSE: Duration = Duration::from_secs(2);
/// How often it is: what can't be done within a lease's time is somebody else's by then.
const TRIES: u32 = 60;
/// How long the end waits for what is left to do.
const LAST: Duration = Duration::from_secs(5);

pub(super) enum Later {
    /// A lease that was dropped: the job is ready at once.
    GiveBack { ack: String },
    /// A lease that was dropped whose job was to be held.
    Hold { spot: Spot, record: Box<Record>, place: Place },
    /// A lease that was dropped after it was narrowed.
    Unpark { spot: Spot, sequence: u64 },
    /// A job with content beside it has ended.
    Ended { queue_id: QueueId, partition: u16 },
    /// A message was refused in doubt: if it is kept and nobody has it, it goes.
    Retract { queue_id: QueueId, partition: u16 },
    /// Something that can't be read goes to the dead letters.
    Bury { place: Place, subject: String, partition: u16, payload: Bytes, cause: String },
    /// Tells when everything before it was done.
    Barrier(oneshot::Sender<()>),
}

/// Works until the store ends.
pub(super) async fn run(core: Arc<Core>, mut to_do: mpsc::UnboundedReceiver<Later>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut working = JoinSet::new();
    while let Some(work) = to_do.recv().await {
        if let Later::Barrier(told) = work {
            while working.join_next().await.is_some() {}
            let _ = told.send(());
            continue;
        }
        while working.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let core = Arc::clone(&core);
        working.spawn(async move {
            let _place = place;
            for _ in 0..TRIES {
                match attempt(&core, &work).await {
                    Ok(()) => return,
                    Err(error) => tracing::debug!(%error, "can't tidy up yet"),
                }
                // Others have their turn meanwhile; a retraction matters more than its place.
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}

/// Waits until all that was given so far is done, or can't be.
pub(super) async fn wait(core: &Core) {
    let (told, done) = oneshot::channel();
    core.later(Later::Barrier(told));
    let _ = tokio::time::timeout(LAST, done).await;
}

/// Asks from time to time how much room there is.
pub(super) async fn measure(core: Arc<Core>) {
    loop {
        tokio::time::sleep(space::INTERVAL).await;
        if let Err(error) = core.space.measure(&core.api, &core.names).await {
            tracing::debug!(%error, "can't see how much room NATS has");
        }
    }
}

async fn attempt(core: &Arc<Core>, work: &Later) -> Result<(), ApiError> {
    match work {
        Later::GiveBack { ack } => {
            let sent = core.api.client().publish(ack.clone(), Bytes::from_static(b"-NAK")).await;
            sent.map_err(|error| ApiError::Unanswered(error.to_string()))
        }
        Later::Hold { spot, record, place } => {
            let to = Spot { kind: Kind::Held, ..*spot };
            if let Body::Chunks(_) = record.body {
                let bodies = core.bodies(spot.partition);
                bodies.keep(&record.job.message, Kept::UntilReleased, core.now()).await?;
            }
            match core.api.publish(core.outgoing(to, record).after(0), super::api::PATIENCE).await {
                Err(error) if error.is_conflict() => {}
                other => drop(other?),
            }
            core.api.delete(&place.stream, place.sequence).await.map(drop)
        }
        Later::Unpark { spot, sequence } => super::admin::make_due(core, *spot, *sequence).await.map(drop),
        Later::Ended { queue_id, partition } => ended(core, *queue_id, *partition).await,
        Later::Retract { queue_id, partition } => retract(core, *queue_id, *partition).await,
        Later::Bury { place, subject, partition, payload, cause } => {
            let grave = Outgoing::new(core.names.dead_subject(*partition), payload.clone())
                .with("Nats-Msg-Id", &format!("{}-{}", place.stream, place.sequence))
                .with("Stagepost-Subject", subject)
                .with("Stagepost-Cause", &cause.replace(['\r', '\n'], " "));
            core.api.publish(grave, super::api::PATIENCE).await?;
            tracing::error!(subject, cause, "a record can't be read; it is with the dead letters");
            core.api.delete(&place.stream, place.sequence).await.map(drop)
        }
        Later::Barrier(_) => Ok(()),
    }
}

/// Deletes a message's content if no job of it is left.
async fn ended(core: &Core, queue_id: QueueId, partition: u16) -> Result<(), ApiError> {
    let filter = core.names.of_message(partition, queue_id);
    for stream in [core.names.mail(partition), core.names.retry(partition)] {
        if core.api.last(&stream, &filter).await?.is_some() {
            return Ok(());
        }
    }
    core.bodies(partition).delete(queue_id).await
}

async fn retract(core: &Arc<Core>, queue_id: QueueId, partition: u16) -> Result<(), ApiError> {
    let filter = core.names.of_message(partition, queue_id);
    let mut kept = 0;
    for stream in [core.names.mail(partition), core.names.retry(partition)] {
        for subject in core.api.subjects(&stream, &filter).await? {
            let Some(spot) = core.names.parse(&subject) else { continue };
            if super::control::is_leased(core, spot.job).await {
                kept += 1;
                continue;
            }
            if let Some(stored) = core.api.last(&stream, &subject).await? {
                core.api.delete(&stream, stored.sequence).await?;
            }
        }
    }
    if kept > 0 {
        tracing::warn!(%queue_id, jobs = kept, "mail that was refused for want of an answer is being delivered already");
        return Ok(());
    }
    core.bodies(partition).delete(queue_id).await
}
