//! What is remembered of logins that failed or are being looked at.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::login::{ADDRESS, Admission, MEMORY, PAIR, PENDING_LIFE, Policy};

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

/// Which of the two counts a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Pair,
    Address,
}

impl Count {
    fn policy(self) -> &'static Policy {
        match self {
            Self::Pair => &PAIR,
            Self::Address => &ADDRESS,
        }
    }
}

impl Record {
    pub(super) fn admission(&self, count: Count, now: Duration) -> Admission {
        let refused = (self.failed + self.wait(count, now)).saturating_sub(now);
        if !refused.is_zero() {
            return Admission::Refuse(refused);
        }
        if self.pending(now) >= count.policy().pending_max { Admission::Queue } else { Admission::Enter }
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
        if now.saturating_sub(self.touched) < PENDING_LIFE { self.pending } else { 0 }
    }

    fn is_fresh(&self, now: Duration) -> bool {
        now.saturating_sub(self.failed) < MEMORY
    }

    fn wait(&self, count: Count, now: Duration) -> Duration {
        if self.is_fresh(now) { count.policy().wait(self.failures) } else { Duration::ZERO }
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
        for _ in 0..PAIR.pending_max {
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
}
