//! Jobs that were fetched and nobody has asked for yet: lanes have their turns, in a lane its accounts, of an account what is
//! due goes before what is fresh.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use mail::{AccountId, JobId, Timestamp};

use super::job::{Place, Record};
use super::names::{Kind, Lane, Spot};

/// A job as it came from a stream.
pub(super) struct Fetched {
    pub(super) record: Record,
    pub(super) spot: Spot,
    pub(super) place: Place,
    /// Where the server takes acknowledgements.
    pub(super) ack: String,
    pub(super) fetched_at: Instant,
    /// In milliseconds since the store was opened.
    pub(super) fetched_ms: u64,
    pub(super) epoch: u64,
}

/// The fetched jobs.
#[derive(Default)]
pub(super) struct Ready {
    lanes: Turns<Lane, Turns<AccountId, Jobs>>,
    count: usize,
}

/// Queues that are served in turn; an empty one leaves.
struct Turns<K, Q> {
    queues: HashMap<K, Q>,
    order: VecDeque<K>,
}

impl<K, Q> Default for Turns<K, Q> {
    fn default() -> Self {
        Self { queues: HashMap::new(), order: VecDeque::new() }
    }
}

#[derive(Default)]
struct Jobs {
    due: BTreeMap<(Timestamp, JobId), Fetched>,
    fresh: BTreeMap<JobId, Fetched>,
}

trait Queue {
    fn take(&mut self) -> Option<Fetched>;
    fn is_empty(&self) -> bool;
}

impl Queue for Jobs {
    fn take(&mut self) -> Option<Fetched> {
        let due = self.due.pop_first().map(|(_, fetched)| fetched);
        due.or_else(|| self.fresh.pop_first().map(|(_, fetched)| fetched))
    }

    fn is_empty(&self) -> bool {
        self.due.is_empty() && self.fresh.is_empty()
    }
}

impl<K: Clone + Eq + std::hash::Hash, Q: Queue + Default> Turns<K, Q> {
    fn of(&mut self, key: &K) -> &mut Q {
        if !self.queues.contains_key(key) {
            self.order.push_back(key.clone());
        }
        self.queues.entry(key.clone()).or_default()
    }
}

impl<K: Clone + Eq + std::hash::Hash, Q: Queue + Default> Queue for Turns<K, Q> {
    fn take(&mut self) -> Option<Fetched> {
        let key = self.order.pop_front()?;
        let queue = self.queues.get_mut(&key)?;
        let taken = queue.take();
        if queue.is_empty() {
            self.queues.remove(&key);
        } else {
            self.order.push_back(key);
        }
        taken
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

impl Ready {
    pub(super) fn push(&mut self, fetched: Fetched) {
        let job = &fetched.record.job;
        let (id, account) = (job.id, job.message.account.clone());
        let jobs = self.lanes.of(&fetched.spot.lane).of(&account);
        // A job that comes twice, since its first lease lapsed here, is there once.
        let before = match fetched.spot.kind {
            Kind::Mail => jobs.fresh.insert(id, fetched),
            _ => jobs.due.insert((fetched.record.due_at.unwrap_or(Timestamp(0)), id), fetched),
        };
        self.count += usize::from(before.is_none());
    }

    /// The next ones, up to `max`.
    pub(super) fn take(&mut self, max: usize) -> Vec<Fetched> {
        let taken: Vec<_> = std::iter::from_fn(|| self.lanes.take()).take(max).collect();
        self.count -= taken.len();
        taken
    }

    /// Those that were fetched before an instant: their leases run out.
    pub(super) fn take_older(&mut self, than: Instant) -> Vec<Fetched> {
        let (old, young): (Vec<_>, Vec<_>) =
            self.take(usize::MAX).into_iter().partition(|fetched| fetched.fetched_at < than);
        young.into_iter().for_each(|fetched| self.push(fetched));
        old
    }

    /// Those that `wanted` names.
    pub(super) fn take_if(&mut self, wanted: impl Fn(&Fetched) -> bool) -> Vec<Fetched> {
        let (taken, left): (Vec<_>, Vec<_>) = self.take(usize::MAX).into_iter().partition(wanted);
        left.into_iter().for_each(|fetched| self.push(fetched));
        taken
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }
}
