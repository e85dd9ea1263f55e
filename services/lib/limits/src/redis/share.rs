//! What of a limit is this member's while the server is away; pure.

use crate::SiteLimits;

/// The group as it was seen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Census {
    /// Members, at least 1.
    pub(super) members: u32,
    /// This one's place among them from 0 on; none as long as nobody told.
    pub(super) rank: Option<u32>,
}

impl Census {
    /// What is assumed before anybody was seen. Alone, one has the lowest rank; of several, nobody knows who has it, and
    /// what doesn't go round stays undealt, so that the limit holds.
    pub(super) fn assumed(pods: u32) -> Self {
        let members = pods.max(1);
        Self { members, rank: (members == 1).then_some(0) }
    }

    /// This member's part of a number: as much as everybody's, and one more for each of the lowest ranks while the remainder
    /// lasts.
    pub(super) fn deal(self, number: u64) -> u64 {
        let members = u64::from(self.members);
        let extra = self.rank.is_some_and(|rank| u64::from(rank) < number % members);
        number / members + u64::from(extra)
    }

    /// The same of a small number.
    pub(super) fn deal_few(self, number: u32) -> u32 {
        // A part is never more than the whole.
        u32::try_from(self.deal(u64::from(number))).unwrap_or(number)
    }

    /// This member's part of a site's rate: an equal one, since a rate can be divided as finely as need be.
    pub(super) fn pace(self, limits: SiteLimits) -> SiteLimits {
        let burst = self.deal_few(limits.burst).max(1);
        SiteLimits { messages_per_sec: limits.messages_per_sec / f64::from(self.members), burst, ..limits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dealt(members: u32, number: u64) -> Vec<u64> {
        (0..members).map(|rank| Census { members, rank: Some(rank) }.deal(number)).collect()
    }

    #[test]
    fn all_of_a_limit_is_dealt_and_not_more() {
        assert_eq!(dealt(3, 1), [1, 0, 0]);
        assert_eq!(dealt(3, 5), [2, 2, 1]);
        assert_eq!(dealt(3, 6), [2, 2, 2]);
        for members in 1..20 {
            for number in 0..50 {
                assert_eq!(dealt(members, number).iter().sum::<u64>(), number);
            }
        }
    }

    #[test]
    fn who_does_not_know_its_rank_takes_no_remainder() {
        assert_eq!(Census::assumed(3).deal(5), 1);
        assert_eq!(Census::assumed(3).deal(1), 0);
        assert_eq!(Census::assumed(1).deal(1), 1);
        assert_eq!(Census::assumed(0).members, 1);
    }

    #[test]
    fn a_rate_is_divided_and_a_bucket_holds_one_at_least() {
        let limits = SiteLimits { messages_per_sec: 3.0, burst: 4, connections: 7 };
        let pace = |rank| Census { members: 3, rank: Some(rank) }.pace(limits);
        assert_eq!(pace(0), SiteLimits { messages_per_sec: 1.0, burst: 2, connections: 7 });
        assert_eq!(pace(2).burst, 1);
        assert_eq!(Census { members: 9, rank: Some(8) }.pace(limits).burst, 1);
    }
}
