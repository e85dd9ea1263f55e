//! Quotas: what the server is still to be told about them, and what this member may give out while the server is away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::member::Member;
use crate::local::shards::Shards;
use crate::{Clock as _, QuotaTicket, SystemClock, local};

const DAY_MILLIS: u64 = 86_400_000;

pub(super) struct Quotas {
    known: Shards<Arc<str>, Known>,
    /// By account and day, what the server's count is to be corrected by.
    owed: Mutex<HashMap<(Arc<str>, u64), i64>>,
    /// Counts the times that the server came back.
    presence: AtomicU64,
    clock: SystemClock,
}

/// What is known of an account.
#[derive(Clone, Copy, Default)]
struct Known {
    /// What the server said last: so many recipients on that day.
    day: u64,
    used: u64,
    absence: Absence,
}

/// What the local counter said when the account first asked in an absence of the server, or on a new day in it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Absence {
    presence: u64,
    day: u64,
    used_locally: u64,
}

/// What an absence leaves to be shared out.
pub(super) struct Left {
    pub(super) today: u64,
    /// What the server said that was used today.
    pub(super) used: u64,
    /// What the local counter stood at.
    pub(super) used_locally: u64,
}

impl Quotas {
    pub(super) fn new() -> Self {
        Self {
            known: Shards::new(),
            owed: Mutex::default(),
            presence: AtomicU64::new(1),
            clock: SystemClock::default(),
        }
    }

    /// The server came back: its word counts again.
    pub(super) fn begin_presence(&self) {
        self.presence.fetch_add(1, Ordering::Relaxed);
    }

    /// The server said how much was used.
    pub(super) fn heard(&self, account: &str, day: u64, used: u64) {
        self.with(account, |known| (known.day, known.used) = (day, used));
    }

    /// What is left while the server is away, as far as is known.
    pub(super) fn left(&self, account: &str, used_locally: u64) -> Left {
        let today = self.today();
        let presence = self.presence.load(Ordering::Relaxed);
        self.with(account, |known| {
            if (known.absence.presence, known.absence.day) != (presence, today) {
                known.absence = Absence { presence, day: today, used_locally };
            }
            let used = if known.day == today { known.used } else { 0 };
            Left { today, used, used_locally: known.absence.used_locally }
        })
    }

    /// The server's count is to be corrected by so many recipients.
    pub(super) fn owe(&self, account: &Arc<str>, day: u64, recipients: i64) {
        let mut owed = self.owed();
        let sum = owed.entry((Arc::clone(account), day)).or_default();
        *sum += recipients;
    }

    /// Takes what the server must be told.
    pub(super) fn take_owed(&self) -> Vec<(Arc<str>, u64, i64)> {
        let owed = std::mem::take(&mut *self.owed());
        let all = owed.into_iter().map(|((account, day), recipients)| (account, day, recipients));
        all.filter(|(_, _, recipients)| *recipients != 0).collect()
    }

    /// The server may have heard it or not. In doubt, recipients count as used: what was used is told again, what was given
    /// back isn't. An account may be poorer for it, and never sends more than its quota.
    pub(super) fn in_doubt(&self, told: &[(Arc<str>, u64, i64)]) {
        for (account, day, recipients) in told.iter().filter(|(_, _, recipients)| *recipients > 0) {
            self.owe(account, *day, *recipients);
        }
    }

    fn with<T>(&self, account: &str, act: impl FnOnce(&mut Known) -> T) -> T {
        let mut shard = self.known.lock(account);
        if let Some(known) = shard.entries.get_mut(account) {
            return act(known);
        }
        let today = self.today();
        shard.make_room(|known| known.day >= today || known.absence.day >= today);
        act(shard.entries.entry(Arc::from(account)).or_default())
    }

    /// Nothing under this lock can panic half-way, so a poisoned one is whole.
    fn owed(&self) -> MutexGuard<'_, HashMap<(Arc<str>, u64), i64>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn today(&self) -> u64 {
        self.clock.unix_millis() / DAY_MILLIS
    }
}

/// Recipients that were counted; dropped, they are given back.
pub struct Ticket {
    counted: Option<Counted>,
}

struct Counted {
    member: Arc<Member>,
    account: Arc<str>,
    day: u64,
    recipients: u32,
    /// When the local counter counted them too.
    local: Option<local::Ticket>,
}

impl Ticket {
    pub(super) fn new(
        member: &Arc<Member>,
        account: &str,
        day: u64,
        recipients: u32,
        local: Option<local::Ticket>,
    ) -> Self {
        let counted =
            Counted { member: Arc::clone(member), account: Arc::from(account), day, recipients, local };
        if counted.local.is_some() {
            counted.member.quotas.owe(&counted.account, day, i64::from(recipients));
        }
        Self { counted: Some(counted) }
    }
}

impl QuotaTicket for Ticket {
    fn keep(mut self) {
        if let Some(counted) = self.counted.take()
            && let Some(local) = counted.local
        {
            local.keep();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(counted) = self.counted.take() {
            counted.member.quotas.owe(&counted.account, counted.day, -i64::from(counted.recipients));
            counted.member.tell_owed();
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let recipients = self.counted.as_ref().map_or(0, |counted| counted.recipients);
        f.debug_struct("Ticket").field("recipients", &recipients).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_today_is_taken_off_what_is_left() {
        let quotas = Quotas::new();
        let today = quotas.today();
        quotas.heard("a", today, 40);
        quotas.heard("yesterday", today - 1, 40);
        assert_eq!(
            [quotas.left("a", 0).used, quotas.left("yesterday", 0).used, quotas.left("b", 0).used],
            [40, 0, 0]
        );
    }

    #[test]
    fn an_absence_counts_from_where_the_local_counter_stood() {
        let quotas = Quotas::new();
        assert_eq!(quotas.left("a", 3).used_locally, 3);
        assert_eq!(quotas.left("a", 9).used_locally, 3);
        quotas.begin_presence();
        assert_eq!(quotas.left("a", 9).used_locally, 9);
    }

    #[test]
    fn in_doubt_recipients_count_as_used() {
        let quotas = Quotas::new();
        let (a, b): (Arc<str>, Arc<str>) = (Arc::from("a"), Arc::from("b"));
        quotas.owe(&a, 1, 5);
        quotas.owe(&a, 1, -2);
        quotas.owe(&b, 1, -4);
        quotas.owe(&b, 2, 4);
        quotas.owe(&b, 2, -4);
        let mut told = quotas.take_owed();
        told.sort();
        assert_eq!(told, [(a.clone(), 1, 3), (b, 1, -4)]);
        quotas.in_doubt(&told);
        assert_eq!(quotas.take_owed(), [(a, 1, 3)]);
    }
}
