//! The memory that messages in flight may take, over all sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::config::Memory;

/// Reservations are made in steps of this many octets, so that a small message asks once.
const STEP: u64 = 64 * 1024;

/// What there is, and what is taken.
#[derive(Debug)]
pub(crate) struct Budget {
    memory: Memory,
    used: AtomicU64,
    waiting: AtomicUsize,
    freed: Notify,
}

/// All is taken, and nothing came free in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

impl Budget {
    pub(crate) fn new(memory: Memory) -> Arc<Self> {
        Arc::new(Self { memory, used: AtomicU64::new(0), waiting: AtomicUsize::new(0), freed: Notify::new() })
    }

    fn take(&self, octets: u64) -> bool {
        let max = self.memory.octets_max;
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(octets).filter(|sum| *sum <= max)
            })
            .is_ok()
    }

    fn give_back(&self, octets: u64) {
        self.used.fetch_sub(octets, Ordering::AcqRel);
        // Notifying takes a lock that all sessions would share; most of the time nobody waits.
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.freed.notify_waiters();
        }
    }

    async fn wait_for(&self, octets: u64) {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.take(octets) {
                return;
            }
            freed.await;
        }
    }
}

/// One message's share; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    octets: u64,
}

impl Reservation {
    pub(crate) fn empty(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), octets: 0 }
    }

    /// Whether it covers so many octets already, or can be made to without waiting.
    pub(crate) fn cover_now(&mut self, octets: u64) -> bool {
        let Some(missing) = self.missing(octets) else { return true };
        let taken = self.budget.take(missing);
        self.octets += if taken { missing } else { 0 };
        taken
    }

    /// Makes it cover so many octets, waiting a while for others to end.
    pub(crate) async fn cover(&mut self, octets: u64) -> Result<(), OutOfMemory> {
        if self.cover_now(octets) {
            return Ok(());
        }
        let Some(missing) = self.missing(octets) else { return Ok(()) };
        let waiting = Waiting::new(&self.budget.waiting);
        let taken = tokio::time::timeout(self.budget.memory.wait, self.budget.wait_for(missing)).await;
        drop(waiting);
        taken.map_err(|_| OutOfMemory)?;
        self.octets += missing;
        Ok(())
    }

    fn missing(&self, octets: u64) -> Option<u64> {
        let wanted = octets.max(1).next_multiple_of(STEP);
        wanted.checked_sub(self.octets).filter(|missing| *missing > 0)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.octets > 0 {
            self.budget.give_back(self.octets);
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn budget(steps: u64) -> Arc<Budget> {
        Budget::new(Memory { octets_max: steps * STEP, wait: Duration::from_secs(5) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_waits_until_another_ends() {
        let budget = budget(2);
        let mut first = Reservation::empty(&budget);
        first.cover(2 * STEP).await.unwrap();
        let mut second = Reservation::empty(&budget);
        assert!(!second.cover_now(1));
        let waiting = tokio::spawn(async move { second.cover(1).await.map(|()| second) });
        tokio::task::yield_now().await;
        drop(first);
        let second = waiting.await.unwrap().unwrap();
        assert_eq!(budget.used.load(Ordering::Relaxed), STEP);
        drop(second);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_is_told_so_and_holds_no_more_than_before() {
        let budget = budget(2);
        let mut first = Reservation::empty(&budget);
        first.cover(STEP).await.unwrap();
        let mut second = Reservation::empty(&budget);
        second.cover(STEP).await.unwrap();
        assert_eq!(second.cover(STEP + 1).await, Err(OutOfMemory));
        drop(second);
        assert_eq!(budget.used.load(Ordering::Relaxed), STEP);
        assert_eq!(budget.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_is_covered_already_costs_nothing_more() {
        let budget = budget(1);
        let mut only = Reservation::empty(&budget);
        for octets in [0, 1, 100, STEP] {
            only.cover(octets).await.unwrap();
        }
        assert_eq!(budget.used.load(Ordering::Relaxed), STEP);
    }
}
