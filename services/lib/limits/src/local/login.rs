//! How long logins wait after failures; pure but for the hash that names a key.
//!
//! Failures are counted for a user name from an address, and for an address, never for a user name alone: else anybody
//! could lock anybody out. A user name that has logged in from an address isn't held up by others' failures there.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Failures of one user name from one address before waits begin.
const PAIR_FREE: u32 = 2;
const PAIR_WAIT_SECS_MAX: u64 = 900;
/// Failures from one address before waits begin: behind it there may be many people.
const ADDRESS_FREE: u32 = 20;
/// So many failures more double the wait.
const ADDRESS_STEP: u32 = 4;
const ADDRESS_WAIT_SECS_MAX: u64 = 60;
/// After so long without a failure the count starts anew.
const MEMORY: Duration = Duration::from_secs(3600);
/// Logins of one user name from one address, or of one address, that are looked at at the same time; more wait their turn.
const PAIR_PENDING_MAX: u32 = 16;
const ADDRESS_PENDING_MAX: u32 = 64;
/// A login that was let in and of which nothing was heard for so long is over.
const PENDING_SECS_MAX: u64 = 10;
/// Keys that a part of the memory holds; 64 parts make 100,000 pairs.
pub(super) const KEYS_MAX: usize = 100_000 / 64;

/// What is known of one key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    failures: u32,
    failed: Duration,
    pending: u32,
    touched: Duration,
    /// It logged in since it was last forgotten.
    pub(super) trusted: bool,
}

/// What becomes of a login now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is looked at.
    Enter,
    /// So many are being looked at that it has to wait for one of them.
    Queue,
    /// It is refused unseen for this long.
    Refuse(Duration),
}

/// Which of the two counts a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Pair,
    Address,
}

impl Record {
    pub(super) fn admission(&self, count: Count, now: Duration) -> Admission {
        let refused = (self.failed + self.wait(count, now)).saturating_sub(now);
        if !refused.is_zero() {
            return Admission::Refuse(refused);
        }
        let pending_max = match count {
            Count::Pair => PAIR_PENDING_MAX,
            Count::Address => ADDRESS_PENDING_MAX,
        };
        if self.pending(now) >= pending_max { Admission::Queue } else { Admission::Enter }
    }

    pub(super) fn enter(&mut self, now: Duration) {
        self.pending = self.pending(now) + 1;
        self.touched = now;
    }

    pub(super) fn fail(&mut self, now: Duration) {
        self.failures = if self.is_fresh(now) { self.failures.saturating_add(1) } else { 1 };
        self.failed = now;
        self.leave(now);
    }

    pub(super) fn succeed(&mut self, count: Count, now: Duration) {
        if count == Count::Pair {
            self.failures = 0;
            self.trusted = true;
        }
        self.leave(now);
    }

    /// It is over, whatever it was.
    pub(super) fn leave(&mut self, now: Duration) {
        self.pending = self.pending.saturating_sub(1);
        self.touched = now;
    }

    fn pending(&self, now: Duration) -> u32 {
        let lately = now.saturating_sub(self.touched) < Duration::from_secs(PENDING_SECS_MAX);
        if lately { self.pending } else { 0 }
    }

    fn is_fresh(&self, now: Duration) -> bool {
        now.saturating_sub(self.failed) < MEMORY
    }

    fn wait(&self, count: Count, now: Duration) -> Duration {
        let (over, wait_secs_max) = match count {
            Count::Pair => (self.failures.saturating_sub(PAIR_FREE), PAIR_WAIT_SECS_MAX),
            Count::Address => {
                (self.failures.saturating_sub(ADDRESS_FREE).div_ceil(ADDRESS_STEP), ADDRESS_WAIT_SECS_MAX)
            }
        };
        if over == 0 || !self.is_fresh(now) {
            return Duration::ZERO;
        }
        Duration::from_secs(1u64.checked_shl(over - 1).unwrap_or(u64::MAX).min(wait_secs_max))
    }
}

/// The address that is counted: a v4 address, or the /64 that one v6 host commands.
pub(super) fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

/// The record of a key, made when there is none. A full memory forgets the quarter that was quiet longest, so that the
/// cost of forgetting is spread over many insertions.
pub(super) fn record<K: Hash + Eq + Copy>(
    records: &mut HashMap<K, Record>,
    key: K,
    now: Duration,
) -> &mut Record {
    if records.len() >= KEYS_MAX && !records.contains_key(&key) {
        let mut times: Vec<Duration> = records.values().map(|record| record.touched).collect();
        let quarter = times.len() / 4;
        let (_, bound, _) = times.select_nth_unstable(quarter);
        let bound = *bound;
        let mut excess = quarter + 1;
        records.retain(|_, record| {
            let forget = record.touched <= bound && excess > 0;
            excess -= usize::from(forget);
            !forget
        });
    }
    records.entry(key).or_insert(Record { touched: now, ..Record::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(10_000);

    fn refusal(record: &Record, count: Count, now: Duration) -> u64 {
        match record.admission(count, now) {
            Admission::Refuse(time) => time.as_secs(),
            _ => 0,
        }
    }

    #[test]
    fn waits_rise_with_each_failure_and_end() {
        let mut record = Record::default();
        let mut waits = Vec::new();
        for _ in 0..14 {
            record.fail(NOW);
            waits.push(refusal(&record, Count::Pair, NOW));
        }
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        assert_eq!(refusal(&record, Count::Pair, NOW + Duration::from_secs(899)), 1);
        assert_eq!(record.admission(Count::Pair, NOW + Duration::from_secs(900)), Admission::Enter);
        record.succeed(Count::Pair, NOW);
        assert_eq!(record.admission(Count::Pair, NOW), Admission::Enter);
    }

    #[test]
    fn an_address_guesses_at_most_40_times_in_its_first_minute_and_once_a_minute_later() {
        let (mut record, mut guesses) = (Record::default(), [0u32; 10]);
        for millis in 0..600_000 {
            let now = NOW + Duration::from_millis(millis);
            if record.admission(Count::Address, now) == Admission::Enter {
                guesses[usize::try_from(millis / 60_000).unwrap()] += 1;
                record.fail(now);
            }
        }
        assert!(guesses[0] <= 40, "{guesses:?}");
        assert!(guesses[8] <= 2 && guesses[9] <= 2, "{guesses:?}");
    }

    #[test]
    fn failures_are_forgotten_after_an_hour() {
        let mut record = Record::default();
        for _ in 0..40 {
            record.fail(NOW);
        }
        record.fail(NOW + MEMORY);
        assert_eq!(refusal(&record, Count::Pair, NOW + MEMORY), 0);
    }

    #[test]
    fn many_at_once_wait_their_turn() {
        let mut record = Record::default();
        for _ in 0..PAIR_PENDING_MAX {
            assert_eq!(record.admission(Count::Pair, NOW), Admission::Enter);
            record.enter(NOW);
        }
        assert_eq!(record.admission(Count::Pair, NOW), Admission::Queue);
        record.succeed(Count::Pair, NOW);
        assert_eq!(record.admission(Count::Pair, NOW), Admission::Enter);
        record.enter(NOW);
        // Those whose end was never told don't keep others out for ever.
        assert_eq!(record.admission(Count::Pair, NOW + Duration::from_secs(10)), Admission::Enter);
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_longest_quiet() {
        let mut records = HashMap::new();
        for key in 0..10 * KEYS_MAX {
            let now = NOW + Duration::from_secs(key as u64);
            record(&mut records, key, now).fail(now);
            assert!(records.len() <= KEYS_MAX);
        }
        assert!(!records.contains_key(&0) && records.contains_key(&(10 * KEYS_MAX - 2)));
        let mut equal = HashMap::new();
        for key in 0..10 * KEYS_MAX {
            record(&mut equal, key, NOW);
            assert!(equal.len() <= KEYS_MAX && equal.len() > key.min(KEYS_MAX / 2));
        }
    }

    #[test]
    fn a_v6_network_counts_as_one_address() {
        let counted = |text: &str| counted(text.parse().unwrap()).to_string();
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
