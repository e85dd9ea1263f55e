//! What is counted towards one site; pure, with the time as an argument (seconds of a monotonic clock).

use std::time::Duration;

use crate::patience::Pass;
use crate::{SiteLimits, Urgency};

/// How far ahead a due job that finds no token is moved at most.
pub(crate) const CATCH_UP_SECS_MAX: f64 = 30.0;
/// Consecutive attempts without an answer after which a site is only probed.
pub(crate) const FAILURES_BEFORE_PROBING: u32 = 2;
/// Connections at a time to a site that doesn't answer.
pub(crate) const PROBES_MAX: u32 = 2;
/// How far ahead those are sent for whom there is no connection, and those who wait for a site that doesn't answer.
pub(crate) const CONNECTION_WAIT_SECS_MAX: f64 = 60.0;
pub(crate) const PROBING_WAIT_SECS_MAX: f64 = 900.0;
/// A site that failed is remembered for so long after nobody asks for it any more.
const FAILURE_MEMORY_SECS: f64 = 3600.0;
/// Sums of parts of a token are off by less.
const EPSILON: f64 = 1e-6;

/// A site's counters.
pub(super) struct Site {
    /// The bucket: messages that may go now, as of `refilled`.
    tokens: f64,
    refilled: f64,
    /// When a token was last taken.
    taken: f64,
    /// The limit in force, to see a change; 0 when there was none.
    rate: f64,
    burst: f64,
    /// Up to here the future is given away to jobs that were told to come back.
    horizon: f64,
    /// The same for due ones that came back and found no token.
    catch_up: f64,
    connections: u32,
    probes: u32,
    /// Connection attempts without an answer since the last answer.
    failures: u32,
    failed: f64,
    /// Up to here the future of the connections is given away.
    connection_horizon: f64,
    /// How long a connection is held, a moving average.
    held_secs: f64,
}

/// Whether a connection may be opened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Opening {
    /// Yes, as one of many or as a probe.
    Granted(Purpose),
    /// Not before so many seconds.
    Wait(f64),
}

/// What a connection was granted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Traffic,
    Probe,
}

impl Site {
    pub(super) fn new(now: f64) -> Self {
        Self {
            tokens: 0.0,
            refilled: now,
            taken: now,
            rate: 0.0,
            burst: 0.0,
            horizon: now,
            catch_up: now,
            connections: 0,
            probes: 0,
            failures: 0,
            failed: now,
            connection_horizon: now,
            held_secs: 1.0,
        }
    }

    /// When `want` messages may go. A fresh one never passes those who were told to come back: it goes only where the
    /// horizon isn't ahead. Nobody goes for the seconds of `pause`.
    pub(super) fn pass(
        &mut self,
        now: f64,
        limits: SiteLimits,
        want: u32,
        urgency: Urgency,
        pause: f64,
    ) -> Pass {
        let want = want.max(1);
        self.adopt(limits, now);
        if self.rate == 0.0 {
            return Pass::Go(want);
        }
        self.refill(now);
        let opens = now + pause;
        if pause > 0.0 {
            // Those who were told to come back when it ends aren't late before.
            self.taken = self.taken.max(opens);
        }
        self.forget_a_horizon_that_nobody_keeps(now);
        let in_turn = urgency == Urgency::Due || self.horizon <= now + EPSILON;
        if pause == 0.0 && in_turn && self.tokens >= 1.0 - EPSILON {
            let granted = f64::from(want).min((self.tokens + EPSILON).floor());
            self.tokens -= granted;
            self.taken = now;
            return Pass::Go(granted as u32);
        }
        let next_token = opens.max(now + (1.0 - self.tokens).max(0.0) / self.rate);
        let time = f64::from(want).min(self.burst) / self.rate;
        let start = match urgency {
            Urgency::Fresh => {
                let start = next_token.max(self.horizon);
                self.horizon = start + time;
                start
            }
            Urgency::Due => {
                let start = next_token.max(self.catch_up.min(opens + CATCH_UP_SECS_MAX));
                self.catch_up = start + time;
                self.horizon = self.horizon.max(self.catch_up);
                start
            }
        };
        // A nanosecond more, so that rounding never wakes a job just before its token is there.
        let wait = Duration::try_from_secs_f64(start - now).unwrap_or(Duration::MAX);
        Pass::Wait(wait.saturating_add(Duration::from_nanos(1)))
    }

    /// Takes what went out by others' leave.
    pub(super) fn spend(&mut self, now: f64, limits: SiteLimits, messages: u32) {
        self.adopt(limits, now);
        self.refill(now);
        self.tokens = (self.tokens - f64::from(messages)).max(0.0);
        self.taken = now;
    }

    /// Puts back tokens that weren't used.
    pub(super) fn put_back(&mut self, unused: u32) {
        self.tokens = (self.tokens + f64::from(unused)).min(self.burst);
    }

    /// Whether one more connection may be opened, of at most `connections_max`, and `probes_max` while the site doesn't answer.
    pub(super) fn open(&mut self, now: f64, connections_max: u32, probes_max: u32) -> Opening {
        let probing = self.is_probed();
        if self.connections < connections_max && (!probing || self.probes < probes_max) {
            self.connections += 1;
            self.probes += u32::from(probing);
            return Opening::Granted(if probing { Purpose::Probe } else { Purpose::Traffic });
        }
        Opening::Wait(self.wait_for_place(now, connections_max, probes_max))
    }

    /// How long somebody waits for whom there is no connection now.
    pub(super) fn wait_for_place(&mut self, now: f64, connections_max: u32, probes_max: u32) -> f64 {
        let (places, wait_max) = if self.is_probed() {
            (probes_max.min(connections_max), PROBING_WAIT_SECS_MAX)
        } else {
            (connections_max, CONNECTION_WAIT_SECS_MAX)
        };
        // Connections become free at about this pace; those who wait are spread over it.
        let pace = self.held_secs / f64::from(places);
        let start = self.connection_horizon.max(now + pace).min(now + wait_max);
        self.connection_horizon = start + pace;
        start - now
    }

    /// A connection is closed after `held_secs`.
    pub(super) fn close(&mut self, purpose: Purpose, held_secs: f64) {
        self.connections = self.connections.saturating_sub(1);
        self.probes = self.probes.saturating_sub(u32::from(purpose == Purpose::Probe));
        self.held_secs = (0.8 * self.held_secs + 0.2 * held_secs).clamp(0.05, 60.0);
    }

    /// The site answered.
    pub(super) fn answered(&mut self, now: f64) {
        if self.is_probed() {
            self.connection_horizon = now;
        }
        self.failures = 0;
    }

    /// The site didn't answer.
    pub(super) fn unanswered(&mut self, now: f64) {
        self.failures = self.failures.saturating_add(1);
        self.failed = now;
    }

    fn is_probed(&self) -> bool {
        self.failures >= FAILURES_BEFORE_PROBING
    }

    /// Whether forgetting the site would change an answer.
    pub(super) fn is_needed(&self, now: f64) -> bool {
        let full = self.rate == 0.0 || self.tokens + (now - self.refilled) * self.rate >= self.burst;
        self.connections > 0
            || !full
            || self.horizon > now
            || (self.failures > 0 && now - self.failed < FAILURE_MEMORY_SECS)
    }

    /// Takes up the limits, which may have changed: what is given away of the future is stretched or shrunk to the new rate.
    fn adopt(&mut self, limits: SiteLimits, now: f64) {
        let asked = limits.messages_per_sec;
        let rate = if asked.is_finite() && asked > 0.0 { asked } else { 0.0 };
        let burst = f64::from(limits.burst.max(1));
        if rate == self.rate && burst == self.burst {
            return;
        }
        self.refill(now);
        if self.rate == 0.0 {
            self.tokens = burst;
        } else if rate == 0.0 {
            self.horizon = now;
            self.catch_up = now;
        } else {
            let stretch = self.rate / rate;
            self.horizon = now + (self.horizon - now).max(0.0) * stretch;
            self.catch_up = now + (self.catch_up - now).max(0.0) * stretch;
        }
        self.tokens = self.tokens.min(burst);
        (self.rate, self.burst) = (rate, burst);
    }

    fn refill(&mut self, now: f64) {
        let earned = (now - self.refilled).max(0.0) * self.rate;
        self.tokens = (self.tokens + earned).min(self.burst);
        self.refilled = now;
    }

    /// Jobs that were told to come back may be removed, or late. When the bucket stood full for its own filling time and
    /// a second, nobody comes at the pace, and fresh ones need not wait behind them.
    fn forget_a_horizon_that_nobody_keeps(&mut self, now: f64) {
        if now - self.taken > 2.0 * self.burst / self.rate + 1.0 {
            self.horizon = self.horizon.min(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE_A_SECOND: SiteLimits = SiteLimits { messages_per_sec: 5.0, burst: 10, connections: 3 };

    fn wait(pass: Pass) -> f64 {
        let Pass::Wait(wait) = pass else { panic!("{pass:?} is no wait") };
        wait.saturating_sub(Duration::from_nanos(1)).as_secs_f64()
    }

    #[test]
    fn a_backlog_is_given_times_at_the_pace_in_the_order_of_asking() {
        let mut site = Site::new(100.0);
        assert_eq!(site.pass(100.0, FIVE_A_SECOND, 99, Urgency::Fresh, 0.0), Pass::Go(10));
        for place in 1..=100_000u32 {
            let secs = wait(site.pass(100.0, FIVE_A_SECOND, 1, Urgency::Fresh, 0.0));
            assert!((secs - f64::from(place) / 5.0).abs() < 1e-3, "place {place} waits {secs} s");
        }
        for place in 1..=1000u32 {
            let now = 100.0 + f64::from(place) / 5.0;
            assert_eq!(site.pass(now, FIVE_A_SECOND, 1, Urgency::Due, 0.0), Pass::Go(1), "place {place}");
        }
    }

    #[test]
    fn no_second_sees_more_than_the_rate_after_the_burst() {
        let mut site = Site::new(0.0);
        let mut gone = 0;
        for millis in 0..60_000u32 {
            for urgency in [Urgency::Fresh, Urgency::Due] {
                if let Pass::Go(messages) = site.pass(f64::from(millis) / 1e3, FIVE_A_SECOND, 2, urgency, 0.0)
                {
                    gone += messages;
                }
            }
        }
        assert!((305..=310).contains(&gone), "{gone} went in a minute");
    }

    #[test]
    fn due_ones_go_before_fresh_ones() {
        let mut site = Site::new(0.0);
        site.pass(0.0, FIVE_A_SECOND, 10, Urgency::Fresh, 0.0);
        let due_in = wait(site.pass(0.0, FIVE_A_SECOND, 1, Urgency::Fresh, 0.0));
        assert!((due_in - 0.2).abs() < 1e-6);
        // A token is there, and it is not for the one who just came.
        assert!(wait(site.pass(0.2, FIVE_A_SECOND, 1, Urgency::Fresh, 0.0)) > 0.19);
        assert_eq!(site.pass(0.2, FIVE_A_SECOND, 1, Urgency::Due, 0.0), Pass::Go(1));
    }

    #[test]
    fn a_due_job_without_a_token_is_moved_a_little_only() {
        let mut site = Site::new(0.0);
        site.pass(0.0, FIVE_A_SECOND, 10, Urgency::Fresh, 0.0);
        for _ in 0..50_000 {
            site.pass(0.0, FIVE_A_SECOND, 1, Urgency::Fresh, 0.0);
        }
        for _ in 0..1000 {
            assert!(wait(site.pass(0.0, FIVE_A_SECOND, 1, Urgency::Due, 0.0)) <= CATCH_UP_SECS_MAX);
        }
    }

    #[test]
    fn who_comes_in_a_pause_is_told_its_place_after_it_and_finds_it_kept() {
        let mut site = Site::new(100.0);
        for place in 0..100u32 {
            let now = 100.0 + f64::from(place) / 10.0;
            let urgency = if place % 2 == 0 { Urgency::Fresh } else { Urgency::Due };
            let secs = wait(site.pass(now, FIVE_A_SECOND, 1, urgency, 130.0 - now));
            assert!(now + secs >= 130.0 && now + secs <= 150.0, "place {place} at {}", now + secs);
        }
        assert_eq!(site.pass(130.0, FIVE_A_SECOND, 1, Urgency::Due, 0.0), Pass::Go(1));
        assert!(wait(site.pass(130.0, FIVE_A_SECOND, 1, Urgency::Fresh, 0.0)) > 9.0, "it goes behind them");
    }

    #[test]
    fn a_changed_rate_rescales_the_horizon() {
        let mut site = Site::new(0.0);
        site.pass(0.0, FIVE_A_SECOND, 10, Urgency::Fresh, 0.0);
        for _ in 0..500 {
            site.pass(0.0, FIVE_A_SECOND, 1, Urgency::Fresh, 0.0);
        }
        let twice = SiteLimits { messages_per_sec: 10.0, ..FIVE_A_SECOND };
        let secs = wait(site.pass(0.0, twice, 1, Urgency::Fresh, 0.0));
        assert!((secs - 50.1).abs() < 0.1, "{secs}");
        let tenth = SiteLimits { messages_per_sec: 1.0, ..FIVE_A_SECOND };
        let secs = wait(site.pass(0.0, tenth, 1, Urgency::Fresh, 0.0));
        assert!((secs - 502.0).abs() < 1.0, "{secs}");
        let none = SiteLimits { messages_per_sec: 0.0, ..FIVE_A_SECOND };
        assert_eq!(site.pass(0.0, none, 7, Urgency::Fresh, 0.0), Pass::Go(7));
        assert_eq!(site.pass(0.0, FIVE_A_SECOND, 1, Urgency::Fresh, 0.0), Pass::Go(1));
    }

    #[test]
    fn a_horizon_whose_jobs_never_come_is_forgotten() {
        let mut site = Site::new(0.0);
        site.pass(0.0, FIVE_A_SECOND, 10, Urgency::Fresh, 0.0);
        for _ in 0..5_000 {
            site.pass(0.0, FIVE_A_SECOND, 1, Urgency::Fresh, 0.0);
        }
        assert!(wait(site.pass(4.9, FIVE_A_SECOND, 1, Urgency::Fresh, 0.0)) > 900.0);
        assert_eq!(site.pass(5.1, FIVE_A_SECOND, 1, Urgency::Fresh, 0.0), Pass::Go(1));
    }

    #[test]
    fn unused_tokens_go_back_up_to_the_burst() {
        let mut site = Site::new(0.0);
        assert_eq!(site.pass(0.0, FIVE_A_SECOND, 4, Urgency::Fresh, 0.0), Pass::Go(4));
        site.put_back(3);
        assert_eq!(site.pass(0.0, FIVE_A_SECOND, 99, Urgency::Fresh, 0.0), Pass::Go(9));
        site.put_back(1000);
        assert_eq!(site.pass(0.0, FIVE_A_SECOND, 99, Urgency::Due, 0.0), Pass::Go(10));
    }

    #[test]
    fn no_more_connections_than_the_limit_are_open() {
        let mut site = Site::new(0.0);
        for _ in 0..3 {
            assert_eq!(site.open(0.0, 3, PROBES_MAX), Opening::Granted(Purpose::Traffic));
        }
        let waits: Vec<f64> = (0..1000)
            .map(|_| match site.open(0.0, 3, PROBES_MAX) {
                Opening::Wait(secs) => secs,
                Opening::Granted(_) => panic!("a fourth connection"),
            })
            .collect();
        assert!(waits.is_sorted() && waits[0] > 0.0 && waits[999] <= CONNECTION_WAIT_SECS_MAX);
        site.close(Purpose::Traffic, 1.0);
        assert_eq!(site.open(0.0, 3, PROBES_MAX), Opening::Granted(Purpose::Traffic));
    }

    #[test]
    fn a_site_that_does_not_answer_is_probed_by_two_until_one_succeeds() {
        let mut site = Site::new(0.0);
        for _ in 0..20 {
            assert_eq!(site.open(0.0, u32::MAX, PROBES_MAX), Opening::Granted(Purpose::Traffic));
        }
        site.unanswered(30.0);
        site.unanswered(30.0);
        // The twenty that are still open don't keep the probes away.
        assert_eq!(site.open(30.0, u32::MAX, PROBES_MAX), Opening::Granted(Purpose::Probe));
        assert_eq!(site.open(30.0, u32::MAX, PROBES_MAX), Opening::Granted(Purpose::Probe));
        assert!(matches!(site.open(30.0, u32::MAX, PROBES_MAX), Opening::Wait(_)));
        site.close(Purpose::Probe, 30.0);
        site.unanswered(60.0);
        assert_eq!(site.open(60.0, u32::MAX, PROBES_MAX), Opening::Granted(Purpose::Probe));
        assert!(matches!(site.open(60.0, u32::MAX, PROBES_MAX), Opening::Wait(_)));
        site.answered(61.0);
        assert_eq!(site.open(61.0, u32::MAX, PROBES_MAX), Opening::Granted(Purpose::Traffic));
    }

    #[test]
    fn one_failure_does_not_make_a_busy_site_probed() {
        let mut site = Site::new(0.0);
        site.unanswered(0.0);
        for _ in 0..3 {
            assert_eq!(site.open(0.0, 3, PROBES_MAX), Opening::Granted(Purpose::Traffic));
        }
    }

    #[test]
    fn a_site_at_rest_is_not_needed() {
        let mut site = Site::new(0.0);
        assert!(!site.is_needed(0.0));
        site.pass(0.0, FIVE_A_SECOND, 5, Urgency::Fresh, 0.0);
        assert!(site.is_needed(0.5) && !site.is_needed(1.5));
        site.unanswered(2.0);
        assert!(site.is_needed(100.0) && !site.is_needed(4000.0));
        site.open(4000.0, 3, PROBES_MAX);
        assert!(site.is_needed(9000.0));
    }
}
