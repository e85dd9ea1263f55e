//! What nobody waits for: giving jobs back, deleting content whose jobs have ended, taking back what was accepted in doubt.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail::QueueId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::api::{Acknowledged, ApiError, Outgoing};
use super::body::Kept;
use super::control::{self, Order};
use super::dead::{self, Unreadable};
use super::job::{Body, Place, Record};
use super::names::{Kind, Spot};
use super::{Core, space};
use crate::Selection;

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
    Retract { kind: Kind, queue_id: QueueId, partition: u16 },
    /// Something that can't be read goes to the dead letters.
    Bury(Box<Unreadable>),
    /// Tells when everything before it was done.
    Barrier(oneshot::Sender<()>),
}

/// Works until the store ends.
pub(super) async fn run(core: Arc<Core>, mut to_do: mpsc::UnboundedReceiver<Later>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut working = JoinSet::new();
    // Work holds a clone of the sender until it was tried once: then the receiver sees the end.
    let (mut trying, mut tried) = mpsc::channel::<()>(1);
    while let Some(work) = to_do.recv().await {
        while working.try_join_next().is_some() {}
        if let Later::Barrier(told) = work {
            let (next, receiver) = mpsc::channel(1);
            // What comes later waits for this barrier as for work, so that it has waited for all before it.
            let before = next.clone();
            drop(std::mem::replace(&mut trying, next));
            let mut earlier = std::mem::replace(&mut tried, receiver);
            working.spawn(async move {
                let _before = before;
                let _ = earlier.recv().await;
                let _ = told.send(());
            });
            continue;
        }
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        working.spawn(persist(Arc::clone(&core), work, trying.clone(), (place, Arc::clone(&places))));
    }
}

/// Tries until it is done, or somebody else's to do.
async fn persist(
    core: Arc<Core>,
    work: Later,
    trying: mpsc::Sender<()>,
    (place, places): (OwnedSemaphorePermit, Arc<Semaphore>),
) {
    let (mut place, mut trying) = (Some(place), Some(trying));
    for _ in 0..TRIES {
        let tried = attempt(&core, &work).await;
        // While it waits it holds up neither other work nor who asks for the end of what came before.
        drop((place.take(), trying.take()));
        match tried {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "can't tidy up yet"),
        }
        tokio::time::sleep(PAUSE).await;
        place = Arc::clone(&places).acquire_owned().await.ok();
    }
    if let Later::Bury(unreadable) = work {
        tracing::error!(
            subject = unreadable.subject,
            cause = unreadable.cause,
            "a record can't be read, nor be put with the dead letters; it comes again when its lease lapses"
        );
    }
}

/// Waits until all that was given so far is done, or can't be done just now.
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
        Later::Retract { kind, queue_id, partition } => retract(core, *kind, *queue_id, *partition).await,
        Later::Bury(unreadable) => dead::bury(core, unreadable).await,
        Later::Barrier(_) => Ok(()),
    }
}

/// Deletes a message's content if no job of it is left, dead letters among them.
async fn ended(core: &Core, queue_id: QueueId, partition: u16) -> Result<(), ApiError> {
    let filter = core.names.of_message(partition, queue_id);
    for stream in [core.names.mail(partition), core.names.retry(partition)] {
        if core.api.last(&stream, &filter).await?.is_some() {
            return Ok(());
        }
    }
    if dead::has_of(core, partition, queue_id).await? {
        return Ok(());
    }
    core.bodies(partition).delete(queue_id).await
}

/// Takes back what may have been kept.
///
/// It may also still be on its way, in the buffers of a connection that is gone. A record of the same id goes ahead of it, so that
/// the server takes what comes afterwards for a repetition, and drops it: else content would be deleted that a late record
/// needs.
async fn retract(core: &Arc<Core>, kind: Kind, queue_id: QueueId, partition: u16) -> Result<(), ApiError> {
    let void = Outgoing::new(core.names.void(kind, partition, queue_id), Bytes::new())
        .with("Nats-Msg-Id", &queue_id.to_string());
    let Acknowledged { sequence, known } = core.api.publish_once(void, super::api::PATIENCE).await?;
    let stream = core.names.stream(kind, partition);
    // What is known may be an earlier try of this one.
    let is_void = !known
        || core.api.at(&stream, sequence).await?.is_some_and(|found| core.names.is_void(&found.subject));
    if is_void {
        core.api.delete(&stream, sequence).await?;
        return core.bodies(partition).delete(queue_id).await;
    }
    let leased = control::order(core, &Selection::Message(queue_id), &Order::Retract).await;
    let filter = core.names.of_message(partition, queue_id);
    let mut kept = 0;
    for stream in [core.names.mail(partition), core.names.retry(partition)] {
        for subject in core.api.subjects(&stream, &filter).await? {
            let Some(spot) = core.names.parse(&subject) else { continue };
            if leased.contains(&spot.job) {
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
