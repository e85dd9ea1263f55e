//! A bounded cache whose missing values are made once, however many ask.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

const SHARDS: usize = 16;

/// Values that hold until an instant.
pub(crate) struct Cache<K, V> {
    shards: [Mutex<HashMap<K, Arc<Slot<V>>>>; SHARDS],
    hasher: RandomState,
    shard_entries_max: usize,
}

struct Slot<V> {
    value: Mutex<Option<(V, Instant)>>,
    /// Held by the one who makes the value.
    making: tokio::sync::Mutex<()>,
}

impl<V: Clone> Slot<V> {
    fn current(&self) -> Option<V> {
        let value = lock(&self.value);
        value.as_ref().filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            shard_entries_max: (entries_max / SHARDS).max(1),
        }
    }

    /// The value of `key`, made by `make` when there is none that still holds.
    pub(crate) async fn value<F>(&self, key: &K, make: impl FnOnce() -> F) -> V
    where
        F: Future<Output = (V, Instant)>,
    {
        let slot = self.slot(key);
        if let Some(value) = slot.current() {
            return value;
        }
        let _making = slot.making.lock().await;
        if let Some(value) = slot.current() {
            return value;
        }
        let (value, until) = make().await;
        *lock(&slot.value) = Some((value.clone(), until));
        value
    }

    /// Forgets the values of keys that are meant.
    pub(crate) fn forget(&self, meant: impl Fn(&K) -> bool) {
        for shard in &self.shards {
            lock(shard).retain(|key, _| !meant(key));
        }
    }

    fn slot(&self, key: &K) -> Arc<Slot<V>> {
        let shard = self.hasher.hash_one(key) as usize % SHARDS;
        let mut entries = lock(&self.shards[shard]);
        if let Some(slot) = entries.get(key) {
            return Arc::clone(slot);
        }
        if entries.len() >= self.shard_entries_max {
            make_room(&mut entries);
        }
        let slot = Arc::new(Slot { value: Mutex::new(None), making: tokio::sync::Mutex::default() });
        entries.insert(key.clone(), Arc::clone(&slot));
        slot
    }
}

/// Drops what no longer holds; if all does, an arbitrary eighth. Who waits for a dropped value still gets it.
fn make_room<K: Eq + Hash + Clone, V>(entries: &mut HashMap<K, Arc<Slot<V>>>) {
    let now = Instant::now();
    let full = entries.len();
    entries.retain(|_, slot| lock(&slot.value).as_ref().is_none_or(|(_, until)| *until > now));
    if entries.len() == full {
        let some: Vec<K> = entries.keys().take(full.div_ceil(8)).cloned().collect();
        for key in some {
            entries.remove(&key);
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What runs under these locks leaves nothing half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_missing_value_is_made_once_however_many_ask() {
        let cache = Arc::new(Cache::new(100));
        let made = Arc::new(AtomicU32::new(0));
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (cache, made) = (Arc::clone(&cache), Arc::clone(&made));
            asking.spawn(async move {
                let make = || async {
                    tokio::task::yield_now().await;
                    (made.fetch_add(1, Ordering::Relaxed), Instant::now() + Duration::from_secs(60))
                };
                cache.value(&"key", make).await
            });
        }
        assert!(asking.join_all().await.iter().all(|value| *value == 0));
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_value_that_no_longer_holds_is_made_again_and_the_cache_stays_bounded() {
        let cache = Cache::new(64);
        let past = Instant::now();
        assert_eq!(cache.value(&0, || async { (1, past) }).await, 1);
        assert_eq!(cache.value(&0, || async { (2, past) }).await, 2);
        let far = past + Duration::from_secs(600);
        for key in 0..10_000 {
            assert_eq!(cache.value(&key, || async { (key, far) }).await, key);
        }
        let entries: usize = cache.shards.iter().map(|shard| lock(shard).len()).sum();
        assert!(entries <= 64, "{entries}");
    }
}
