//! Recipients counted per account and UTC day.
//!
//! ```text
//! take: used + n <= durable ? count in memory : wait for the journal to reserve a block more
//! ```
//!
//! The journal is always at or above what was used: a crash makes an account poorer by at most a block (a 32nd of its
//! quota, at least 4, at most 4,096 recipients), and never lets more out than the quota.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::journal::Journal;
use super::shards::Shards;
use crate::{Clock, QuotaTicket};

const DAY_MILLIS: u64 = 86_400_000;

/// One account's day.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    /// Days since 1970; never goes back, whatever the clock does.
    pub(super) day: u64,
    pub(super) used: u64,
    /// What the journal holds, or will hold when what was asked of it is done.
    pub(super) durable: u64,
    requested: u64,
    /// How far ahead of use the journal is kept.
    pub(super) block: u64,
}

/// All accounts' days.
pub(super) type Uses = Shards<Arc<str>, Use>;

pub(super) struct Quotas {
    uses: Arc<Uses>,
    journal: Option<Journal>,
    /// Rung when the journal reserved.
    reserved: Arc<Notify>,
    clock: Arc<dyn Clock>,
}

/// How one try to count ended.
enum Taking {
    Taken(Arc<str>, u64),
    Exhausted(Duration),
    AwaitJournal,
}

impl Quotas {
    pub(super) fn new(
        uses: Arc<Uses>,
        journal: Option<Journal>,
        reserved: Arc<Notify>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { uses, journal, reserved, clock }
    }

    pub(super) async fn take(
        self: &Arc<Self>,
        account: &str,
        per_day: Option<u64>,
        recipients: u32,
    ) -> crate::Quota<Ticket> {
        // Listening begins before the look, so that no ring is missed.
        let mut ring = std::pin::pin!(self.reserved.notified());
        loop {
            ring.as_mut().enable();
            match self.try_take(account, per_day, u64::from(recipients)) {
                Taking::Taken(account, day) => {
                    let counted = Counted { quotas: Arc::clone(self), account, day, recipients };
                    return crate::Quota::Taken(Ticket { counted: Some(counted) });
                }
                Taking::Exhausted(resets_in) => return crate::Quota::Exhausted { resets_in },
                Taking::AwaitJournal => {
                    ring.as_mut().await;
                    ring.set(self.reserved.notified());
                }
            }
        }
    }

    pub(super) fn used(&self, account: &str) -> u64 {
        let today = self.today();
        self.uses
            .lock(account)
            .entries
            .get(account)
            .map_or(0, |entry| if entry.day >= today { entry.used } else { 0 })
    }

    /// Brings the journal down to what was really used.
    pub(super) async fn settle(&self) {
        if let Some(journal) = &self.journal {
            journal.settle().await;
        }
    }

    fn try_take(&self, account: &str, per_day: Option<u64>, recipients: u64) -> Taking {
        let today = self.today();
        let mut shard = self.uses.lock(account);
        let known = shard.entries.get_key_value(account).map(|(name, _)| Arc::clone(name));
        let name = known.unwrap_or_else(|| {
            shard.make_room(|entry| entry.day >= today);
            Arc::from(account)
        });
        let entry = shard.entries.entry(Arc::clone(&name)).or_default();
        if today > entry.day {
            *entry = Use { day: today, ..Use::default() };
        }
        let after = entry.used.saturating_add(recipients);
        if per_day.is_some_and(|per_day| after > per_day) {
            let resets_at = (entry.day + 1) * DAY_MILLIS;
            return Taking::Exhausted(Duration::from_millis(
                resets_at.saturating_sub(self.clock.unix_millis()),
            ));
        }
        entry.block = per_day.map_or(4096, |per_day| (per_day / 32).clamp(4, 4096));
        let journalled = self.reserve(entry, &name, after, per_day.unwrap_or(u64::MAX));
        if after > entry.durable && per_day.is_some() && journalled {
            return Taking::AwaitJournal;
        }
        entry.used = after;
        Taking::Taken(name, entry.day)
    }

    /// Asks the journal for a block more once half of the last one is used; says whether there is a journal to wait for.
    fn reserve(&self, entry: &mut Use, account: &Arc<str>, after: u64, per_day: u64) -> bool {
        let Some(journal) = &self.journal else { return false };
        entry.requested = entry.requested.max(entry.durable);
        if after + entry.block / 2 > entry.requested && entry.requested < per_day {
            entry.requested = (after + entry.block).min(per_day);
            return journal.reserve(Arc::clone(account), entry.day, entry.requested);
        }
        journal.is_alive()
    }

    fn give_back(&self, account: &str, day: u64, recipients: u32) {
        if let Some(entry) = self.uses.lock(account).entries.get_mut(account)
            && entry.day == day
        {
            entry.used = entry.used.saturating_sub(u64::from(recipients));
        }
    }

    fn today(&self) -> u64 {
        self.clock.unix_millis() / DAY_MILLIS
    }
}

impl Use {
    /// What the journal knew when the counters were opened.
    pub(super) fn restored(day: u64, count: u64) -> Self {
        Self { day, used: count, durable: count, requested: count, block: 4 }
    }

    /// The journal holds `count` now.
    pub(super) fn reserved(&mut self, day: u64, count: u64) {
        if self.day == day {
            self.durable = self.durable.max(count);
        }
    }

    /// Brings what the journal is to hold down to what was used; the count to write, when it differs.
    pub(super) fn settled(&mut self) -> Option<u64> {
        // A reservation that is still on its way would be written after this and undo it.
        if self.durable == self.used || self.requested > self.durable {
            return None;
        }
        self.durable = self.used;
        self.requested = self.used;
        Some(self.used)
    }
}

/// Recipients that were counted; dropped, they are given back.
pub struct Ticket {
    counted: Option<Counted>,
}

struct Counted {
    quotas: Arc<Quotas>,
    account: Arc<str>,
    day: u64,
    recipients: u32,
}

impl QuotaTicket for Ticket {
    fn keep(mut self) {
        self.counted = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(counted) = self.counted.take() {
            counted.quotas.give_back(&counted.account, counted.day, counted.recipients);
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let recipients = self.counted.as_ref().map_or(0, |counted| counted.recipients);
        f.debug_struct("Ticket").field("recipients", &recipients).finish()
    }
}
