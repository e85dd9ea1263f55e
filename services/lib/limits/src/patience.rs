//! How long a job keeps its lease on the queue for want of a slot.

use std::future::Future;
use std::time::Duration;

use crate::{Clock, Slot, Urgency};

/// So long.
const PATIENCE: Duration = Duration::from_secs(2);

/// When messages may go, as the counters say at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pass {
    /// So many now.
    Go(u32),
    /// Not before this time has passed.
    Wait(Duration),
}

/// Asks the counters, waits where that is short, and asks again as one that waited.
pub(crate) async fn slot<F: Future<Output = Pass>>(
    clock: &dyn Clock,
    mut urgency: Urgency,
    mut ask: impl FnMut(Urgency) -> F,
) -> Slot {
    let give_up_at = clock.monotonic() + PATIENCE;
    loop {
        match ask(urgency).await {
            Pass::Go(messages) => return Slot::Go(messages),
            Pass::Wait(wait) => {
                if clock.monotonic().saturating_add(wait) > give_up_at {
                    return Slot::Wait(wait);
                }
                clock.sleep(wait).await;
                urgency = Urgency::Due;
            }
        }
    }
}
