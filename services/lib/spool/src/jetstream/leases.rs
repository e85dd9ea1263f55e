//! The leases of this process, as those see them who don't have them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mail::{Job, JobId};

use super::job::Place;

/// What an administrator wants of a leased job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// To be held when its lease ends by a retry.
    Hold(String),
    /// Gone already.
    Removed,
}

/// What is known of a lease beside the worker that has it.
pub(super) struct Held {
    pub(super) job: Mutex<Arc<Job>>,
    pub(super) place: Mutex<Place>,
    pub(super) mark: Mutex<Option<Mark>>,
    /// When it was proved last, in milliseconds since the store was opened.
    pub(super) touched: AtomicU64,
    /// The sequence of the waiting record that stands for the lease, once it was narrowed; 0 before.
    pub(super) parked: AtomicU64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The leases of this process.
#[derive(Default)]
pub(super) struct Leases {
    pub(super) held: Mutex<HashMap<JobId, Arc<Held>>>,
}

impl Leases {
    pub(super) fn place(&self, job: JobId) -> Option<Place> {
        lock(&self.held).get(&job).map(|held| lock(&held.place).clone())
    }

    /// The jobs that `wanted` names.
    pub(super) fn ids(&self, wanted: impl Fn(&Job) -> bool) -> Vec<JobId> {
        let held = lock(&self.held);
        held.iter().filter(|(_, held)| wanted(&lock(&held.job))).map(|(id, _)| *id).collect()
    }

    /// Marks the jobs that `wanted` names, and says which.
    pub(super) fn mark(&self, mark: &Mark, wanted: impl Fn(&Job) -> bool) -> Vec<JobId> {
        let held = lock(&self.held);
        let found = held.iter().filter(|(_, held)| wanted(&lock(&held.job)));
        found
            .map(|(id, held)| {
                *lock(&held.mark) = Some(mark.clone());
                *id
            })
            .collect()
    }

    /// Jobs that were to be held no longer are.
    pub(super) fn unhold(&self, wanted: impl Fn(&Job) -> bool) {
        for held in lock(&self.held).values().filter(|held| wanted(&lock(&held.job))) {
            let mut mark = lock(&held.mark);
            if matches!(*mark, Some(Mark::Hold(_))) {
                *mark = None;
            }
        }
    }

    /// How many there are, and how many of them a waiting record stands for.
    pub(super) fn count(&self) -> (u64, u64) {
        let held = lock(&self.held);
        let parked = held.values().filter(|held| held.parked.load(Ordering::SeqCst) > 0).count();
        (held.len() as u64, parked as u64)
    }
}
