//! Removing queued mail, with the events that say so.

use std::collections::HashSet;

use mail::{Event, JobId};
use spool::{Entry, EntryState, Selection, SettleError, Spool};
use tonic::Status;

use super::selected;
use crate::context::now;
use crate::events::{append_in_time, dropped};

/// Removes jobs and tells that their recipients were dropped; says how many.
///
/// They are held first, so that nobody begins to deliver what is about to be told as dropped. What is in work can't be held:
/// of that it is told afterwards, and only if it hadn't ended by itself.
pub(super) async fn remove<S: Spool>(
    spool: &S,
    which: Selection,
    reason: &str,
) -> Result<Result<usize, SettleError>, Status> {
    let held = spool.hold(which.clone(), reason.to_owned()).await;
    if let Err(error) = &held {
        tracing::warn!(%error, "can't hold mail that is about to be removed");
    }
    let (idle, working): (Vec<Entry>, Vec<Entry>) = selected(spool, &which)
        .await?
        .into_iter()
        .partition(|entry| held.is_ok() && entry.state != EntryState::Leased);
    tell(spool, idle.iter().flat_map(|entry| dropped(&entry.job, now(), reason)).collect()).await;
    let removed = match spool.remove(which).await {
        Ok(removed) => removed,
        Err(error) => return Ok(Err(error)),
    };
    let gone: HashSet<&JobId> = removed.iter().collect();
    let cut_off = working.iter().filter(|entry| gone.contains(&entry.job.id));
    tell(spool, cut_off.flat_map(|entry| dropped(&entry.job, now(), reason)).collect()).await;
    Ok(Ok(removed.len()))
}

/// A full disk may be why mail is removed, so that it is removed even where that can't be told.
async fn tell<S: Spool>(spool: &S, events: Vec<Event>) {
    if events.is_empty() {
        return;
    }
    let count = events.len();
    if let Err(error) = append_in_time(spool, events).await {
        tracing::warn!(events = count, %error, "mail is removed without an event that says so");
    }
}
