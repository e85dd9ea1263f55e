//! Waiting for jobs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Core;
use super::lease::JetStreamLease;

/// How long a lease waits for more jobs than the first, so that accounts have their turns.
const GATHER: Duration = Duration::from_millis(3);
/// The same while jobs are being looked at twice.
const GATHER_LOOKED_AT: Duration = Duration::from_millis(50);
/// More jobs than this are not waited for.
const GATHER_MAX: usize = 16;
/// A worker that waits says so again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long the first lease waits until all lanes were looked at.
const PRIME: Duration = Duration::from_secs(1);

/// Waits for jobs.
pub(super) async fn lease(core: &Arc<Core>, max: usize) -> Vec<JetStreamLease> {
    let mut primed = core.primed.subscribe();
    ask(core);
    let _ = tokio::time::timeout(PRIME, primed.wait_for(|primed| *primed)).await;
    let mut gathered = None;
    loop {
        let mut arrived = std::pin::pin!(core.arrived.notified());
        arrived.as_mut().enable();
        ask(core);
        let there = core.ready().len();
        if (1..max.min(GATHER_MAX)).contains(&there) {
            let since = *gathered.get_or_insert_with(Instant::now);
            let most = if core.looking.load(Ordering::SeqCst) > 0 { GATHER_LOOKED_AT } else { GATHER };
            if since.elapsed() < most {
                tokio::time::sleep(GATHER).await;
                continue;
            }
        }
        let taken = if core.is_closed() { Vec::new() } else { core.ready().take(max) };
        let leases: Vec<_> =
            taken.into_iter().filter_map(|fetched| JetStreamLease::begin(core, fetched)).collect();
        if !leases.is_empty() {
            return leases;
        }
        let _ = tokio::time::timeout(ASK_AGAIN, arrived).await;
    }
}

fn ask(core: &Core) {
    core.wanted_at.store(core.link.elapsed(), Ordering::Relaxed);
    core.wanted.notify_one();
}
