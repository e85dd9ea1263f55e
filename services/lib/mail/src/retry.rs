//! When a deferred job is tried again.

/// The waits between attempts, with jitter, and when to give up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySchedule {
    waits_secs: Vec<u64>,
    lifetime_secs: u64,
}

/// The schedule makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetryScheduleError {
    /// No wait at all was given.
    #[error("a retry schedule needs at least one wait")]
    Empty,
    /// A wait of nothing would be a retry storm.
    #[error("a wait between attempts must be at least 1 second")]
    ZeroWait,
    /// The message would expire before its second attempt.
    #[error("a lifetime of {lifetime_secs} s ends before the first wait of {first_secs} s")]
    LifetimeTooShort {
        /// The lifetime as given.
        lifetime_secs: u64,
        /// The first wait as given.
        first_secs: u64,
    },
}

impl RetrySchedule {
    /// After failed attempt n (counted from 1) wait the n-th of `waits_secs`, and the last of them from then
    /// on; give up `lifetime_secs` after acceptance.
    ///
    /// # Errors
    /// When there is no wait, one of 0 s, or a lifetime shorter than the first.
    pub fn new(waits_secs: Vec<u64>, lifetime_secs: u64) -> Result<Self, RetryScheduleError> {
        let first_secs = *waits_secs.first().ok_or(RetryScheduleError::Empty)?;
        if waits_secs.contains(&0) {
            return Err(RetryScheduleError::ZeroWait);
        }
        if lifetime_secs < first_secs {
            return Err(RetryScheduleError::LifetimeTooShort { lifetime_secs, first_secs });
        }
        Ok(Self { waits_secs, lifetime_secs })
    }

    /// How long a message is tried, in seconds from its acceptance.
    pub fn lifetime_secs(&self) -> u64 {
        self.lifetime_secs
    }

    /// Milliseconds to wait after the `failed`-th failed attempt (counted from 1). `chance` in `0..=u32::MAX`
    /// spreads it evenly over 90 to 110 per cent, so that what failed together doesn't come back together.
    pub fn wait_millis(&self, failed: u32, chance: u32) -> u64 {
        let place = (failed.max(1) as usize - 1).min(self.waits_secs.len() - 1);
        let tenth = self.waits_secs[place].saturating_mul(100);
        let spread = u128::from(tenth) * 2 * u128::from(chance) / u128::from(u32::MAX);
        tenth.saturating_mul(9).saturating_add(u64::try_from(spread).unwrap_or(u64::MAX))
    }
}

/// 5 minutes, 10, 20, 40, then every 80 minutes to three hours, for 72 hours: the first retry soon enough for
/// greylisting (RFC 6647), the rest spaced as RFC 5321 section 4.5.4.1 asks.
impl Default for RetrySchedule {
    fn default() -> Self {
        Self { waits_secs: vec![300, 600, 1_200, 2_400, 4_800, 7_200, 10_800], lifetime_secs: 72 * 3600 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_wait_repeats_and_jitter_stays_within_a_tenth() {
        let schedule = RetrySchedule::new(vec![10, 60], 3600).unwrap();
        assert_eq!((schedule.wait_millis(1, 0), schedule.wait_millis(1, u32::MAX)), (9_000, 11_000));
        for failed in [2, 3, 1000] {
            assert_eq!(
                (schedule.wait_millis(failed, 0), schedule.wait_millis(failed, u32::MAX)),
                (54_000, 66_000)
            );
        }
    }

    #[test]
    fn a_schedule_that_makes_no_sense_is_refused() {
        assert_eq!(RetrySchedule::new(vec![], 10), Err(RetryScheduleError::Empty));
        assert_eq!(RetrySchedule::new(vec![5, 0], 10), Err(RetryScheduleError::ZeroWait));
        assert!(RetrySchedule::new(vec![50], 10).is_err());
    }

    #[test]
    fn the_default_is_tried_within_a_quarter_of_an_hour() {
        assert!(RetrySchedule::default().wait_millis(1, u32::MAX) <= 15 * 60 * 1000);
    }
}
