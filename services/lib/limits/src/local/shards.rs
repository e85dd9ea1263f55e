//! A map in 64 parts, each under a lock of its own, so that no lock is shared by all sessions.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;
/// A part isn't swept before it has so many entries.
const SWEEP_FROM: usize = 256;

pub(crate) struct Shards<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    hasher: RandomState,
}

/// One part of the map.
pub(crate) struct Shard<K, V> {
    pub(crate) entries: HashMap<K, V>,
    sweep_at: usize,
}

impl<K: Hash + Eq, V> Shards<K, V> {
    pub(crate) fn new() -> Self {
        let shard = || Mutex::new(Shard { entries: HashMap::new(), sweep_at: SWEEP_FROM });
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), hasher: RandomState::new() }
    }

    /// The part in which `key` is or would be. Nothing under these locks can panic half-way, so a poisoned one is whole.
    pub(crate) fn lock<Q>(&self, key: &Q) -> MutexGuard<'_, Shard<K, V>>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        let place = usize::try_from(self.hasher.hash_one(key) >> 32).unwrap_or(0) % SHARDS;
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every part in turn.
    pub(crate) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Shard<K, V>>> {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<K: Hash + Eq, V> Shard<K, V> {
    /// Before an insertion: drops entries that say nothing any more, when the part doubled since it was last swept.
    pub(crate) fn make_room(&mut self, mut is_needed: impl FnMut(&V) -> bool) {
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, value| is_needed(value));
            self.sweep_at = SWEEP_FROM.max(self.entries.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_swept_when_it_doubled() {
        let mut shard = Shard { entries: HashMap::new(), sweep_at: SWEEP_FROM };
        for key in 0..10 * SWEEP_FROM {
            shard.make_room(|kept| *kept);
            shard.entries.insert(key, key < 3);
            assert!(shard.entries.len() <= SWEEP_FROM);
        }
        assert!((0..3).all(|key| shard.entries.contains_key(&key)));
    }
}
