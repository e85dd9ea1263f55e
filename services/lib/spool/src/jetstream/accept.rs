//! Accepting: content beside where it doesn't travel along, then the record or records whose storing is the acceptance.

use std::sync::Arc;
use std::time::Duration;

use mail::{AccountId, JobId, Timestamp};

use super::api::{ApiError, Outgoing};
use super::body::{CHUNK, INLINE_RETRY_MAX, Kept, whole};
use super::job::{Body, Record};
use super::names::{Kind, Lane, Side, Spot, partition};
use super::{Core, Later};
use crate::{AcceptError, NewMessage, Origin};

/// Content up to this travels in the record of a message's only job.
const INLINE_MAX: usize = 256 << 10;
/// How long the store may take for a record, and for all of a message; the client waits for its reply meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_ALL: Duration = Duration::from_secs(12);
/// How long a connection that is away may take to come back before a message is refused.
const RECONNECT: Duration = Duration::from_secs(2);

/// How an acceptance failed.
enum Failure {
    /// Nothing of it is kept.
    Refused(ApiError),
    /// The answer is missing: it may be kept.
    Doubtful(ApiError),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Refused { .. } => Self::Refused(error),
            ApiError::Unanswered(_) => Self::Doubtful(error),
        }
    }
}

/// Keeps a message.
pub(super) async fn accept(core: &Arc<Core>, new: NewMessage) -> Result<(), AcceptError> {
    if core.is_closed() {
        return Err(AcceptError::Unavailable("the queue is closed".to_owned()));
    }
    if !core.link.wait_connected(RECONNECT).await {
        return Err(AcceptError::Unavailable("NATS can't be reached".to_owned()));
    }
    if let Origin::Submission = new.origin {
        core.space.room_for(new.content.octets())?;
    }
    core.space.took(new.content.octets());
    let queue_id = new.message.queue_id;
    let partition = partition(queue_id, core.settings.partitions);
    let late = || ApiError::Unanswered(format!("not kept within {} s", PATIENCE_ALL.as_secs()));
    let kind = kind(core, &new);
    let origin = new.origin;
    let kept = tokio::time::timeout(PATIENCE_ALL, keep(core, new, kind, partition)).await;
    match kept.unwrap_or_else(|_| Err(Failure::Doubtful(late()))) {
        Ok(()) => Ok(()),
        Err(Failure::Refused(error)) if error.is_full() => Err(AcceptError::Full(error.to_string())),
        Err(Failure::Refused(error)) => Err(AcceptError::Unavailable(error.to_string())),
        Err(Failure::Doubtful(error)) => {
            // A submission comes again under another name, if at all. A report is accepted again under this one, which is then
            // found; to take it back would lose it.
            if origin == Origin::Submission {
                core.later(Later::Retract { kind, queue_id, partition });
            }
            Err(AcceptError::Unavailable(error.to_string()))
        }
    }
}

/// Where a new message's records go.
fn kind(core: &Core, new: &NewMessage) -> Kind {
    match (new.origin, new.message.not_before) {
        (_, Some(at)) if at > core.now() => Kind::Sched,
        (Origin::Report(_), _) => Kind::Due,
        (Origin::Submission, _) => Kind::Mail,
    }
}

async fn keep(core: &Arc<Core>, new: NewMessage, kind: Kind, partition: u16) -> Result<(), Failure> {
    let now = core.now();
    let inline_max = if kind == Kind::Mail { INLINE_MAX } else { INLINE_RETRY_MAX };
    let lane = lane(core, &new.message.account, new.origin);
    let message = Arc::new(new.message);
    let predecessor = match new.origin {
        Origin::Submission => None,
        Origin::Report(job) => Some(core.place_of_leased(job).ok_or_else(|| {
            Failure::Refused(ApiError::Refused {
                code: 0,
                description: format!("the lease of report {job} is gone"),
            })
        })?),
    };
    let body = if new.jobs.len() == 1 && new.content.octets() <= inline_max as u64 {
        Body::Inline(whole(&new.content))
    } else {
        let kept = core.bodies(partition).put(&message, &new.content, Kept::ForAttempts, now, PATIENCE).await;
        kept.map_err(Failure::from)?;
        Body::Chunks(CHUNK)
    };
    let due_at = (kind == Kind::Sched).then_some(message.not_before).flatten();
    let outgoing = (0_u16..).zip(new.jobs).map(|(number, job)| {
        let id = JobId::delivery(message.queue_id, number);
        let mut record = Record::fresh(id, &message, job.recipients, body.clone());
        (record.due_at, record.predecessor, record.written_at) = (due_at, predecessor.clone(), now);
        core.outgoing(Spot { kind, partition, lane, job: id }, &record).after(0)
    });
    store(core, &message.queue_id.to_string(), outgoing.collect()).await
}

/// The records of a message: one, or all or none.
async fn store(core: &Core, queue_id: &str, mut all: Vec<Outgoing>) -> Result<(), Failure> {
    // By this id of the first record the server knows the message again.
    if let Some(first) = all.first_mut() {
        first.headers.insert("Nats-Msg-Id", queue_id);
    }
    let stored = match all.pop() {
        Some(only) if all.is_empty() => core.api.publish(only, PATIENCE).await.map(drop),
        Some(last) => {
            all.push(last);
            core.api.publish_batch(queue_id, all, PATIENCE).await
        }
        None => Ok(()),
    };
    match stored {
        // It is there already.
        Err(error) if error.is_conflict() || error.is_known() => Ok(()),
        other => other.map_err(Failure::from),
    }
}

fn lane(core: &Core, account: &AccountId, origin: Origin) -> Lane {
    let side = match origin {
        Origin::Submission => core.bursts.side(account, core.now()),
        Origin::Report(_) => Side::Calm,
    };
    Lane::of(account, core.settings.lanes, side)
}

/// Accounts that submit much at a time here.
pub(super) struct Bursts {
    accounts: [std::sync::Mutex<std::collections::HashMap<AccountId, Burst>>; 16],
}

#[derive(Clone, Copy)]
struct Burst {
    /// Messages that may still come before the account counts as busy.
    left: f64,
    at: Timestamp,
}

/// Messages at a time that leave an account on the calm side.
const BURST: f64 = 200.0;
/// Messages a second that do so in the long run.
const CALM_PER_SEC: f64 = 20.0;
/// Accounts remembered in a shard; those that are calm again are forgotten first.
const ACCOUNTS_MAX: usize = 4_096;

impl Bursts {
    pub(super) fn new() -> Self {
        Self { accounts: std::array::from_fn(|_| std::sync::Mutex::default()) }
    }

    fn side(&self, account: &AccountId, now: Timestamp) -> Side {
        let shard = crc32fast::hash(account.as_str().as_bytes()) as usize % self.accounts.len();
        let mut known = self.accounts[shard].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if known.len() > ACCOUNTS_MAX {
            known.retain(|_, burst| burst.refilled(now).left < BURST);
        }
        let burst = known.entry(account.clone()).or_insert(Burst { left: BURST, at: now });
        *burst = burst.refilled(now);
        if burst.left < 1.0 {
            return Side::Busy;
        }
        burst.left -= 1.0;
        Side::Calm
    }
}

impl Burst {
    fn refilled(self, now: Timestamp) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a pause")]
        let secs = now.millis_since(self.at) as f64 / 1_000.0;
        Self { left: (self.left + secs * CALM_PER_SEC).min(BURST), at: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_busy_while_it_submits_much() {
        let bursts = Bursts::new();
        let account = AccountId::new("a").unwrap();
        let count = |side, from: u64, messages: u64| {
            (0..messages).filter(|number| bursts.side(&account, Timestamp(from + number)) == side).count()
        };
        // 200 at once, and 20 a second for the second that it takes.
        assert_eq!(count(Side::Calm, 0, 1_000), 219);
        assert_eq!(bursts.side(&AccountId::new("b").unwrap(), Timestamp(1_000)), Side::Calm);
        // After ten seconds it may do so again.
        assert_eq!(count(Side::Busy, 11_000, 200), 0);
    }
}
