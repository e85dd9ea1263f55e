//! Instants as the store and the wire keep them.

use std::fmt;

use jiff::fmt::rfc2822;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This instant moved `millis` into the future; saturates.
    pub fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// This instant moved `secs` into the future; saturates.
    pub fn plus_secs(self, secs: u64) -> Self {
        self.plus_millis(secs.saturating_mul(1000))
    }

    /// Milliseconds from `earlier` to this instant, or 0 when it isn't earlier.
    pub fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds since 1970.
    pub fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// The `date-time` of RFC 5322 section 3.3, in UTC: `Wed, 25 Nov 2026 04:07:23 +0000`.
    pub fn to_rfc5322(self) -> String {
        let zoned = self.to_jiff().to_zoned(jiff::tz::TimeZone::UTC);
        rfc2822::to_string(&zoned).unwrap_or_else(|_| String::from("Thu, 1 Jan 1970 00:00:00 +0000"))
    }

    fn to_jiff(self) -> jiff::Timestamp {
        i64::try_from(self.0)
            .ok()
            .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
            .unwrap_or(jiff::Timestamp::MAX)
    }
}

/// RFC 3339 with milliseconds: `2026-11-25T04:07:23.042Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.to_jiff())
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn an_instant_prints_as_the_standards_have_it() {
        let instant = Timestamp(1_795_579_643_042);
        assert_eq!(instant.to_string(), "2026-11-25T04:07:23.042Z");
        assert_eq!(instant.to_rfc5322(), "Wed, 25 Nov 2026 04:07:23 +0000");
        assert_eq!(Timestamp(u64::MAX).plus_secs(1), Timestamp(u64::MAX));
        assert!(!Timestamp(u64::MAX).to_string().is_empty());
    }
}
