//! How failed logins are answered, wherever they are counted: the numbers of the rising waits, and what is counted as one
//! address.
//!
//! Failures are counted for a user name from an address, and for an address, never for a user name alone: else anybody
//! could lock anybody out. A user name that has logged in from an address isn't held up by others' failures there.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// How waits rise with the failures of one key.
#[derive(Debug)]
pub(crate) struct Policy {
    /// Failures before waits begin.
    pub(crate) free: u32,
    /// So many failures more double the wait.
    pub(crate) step: u32,
    pub(crate) wait_secs_max: u64,
    /// Logins that are looked at at the same time; more wait their turn.
    pub(crate) pending_max: u32,
}

/// For one user name from one address.
pub(crate) const PAIR: Policy = Policy { free: 2, step: 1, wait_secs_max: 900, pending_max: 16 };
/// For one address: behind it there may be many people.
pub(crate) const ADDRESS: Policy = Policy { free: 20, step: 4, wait_secs_max: 60, pending_max: 64 };
/// After so long without a failure the count starts anew.
pub(crate) const MEMORY: Duration = Duration::from_secs(3600);
/// A login that was let in and of which nothing was heard for so long is over.
pub(crate) const PENDING_LIFE: Duration = Duration::from_secs(10);
/// So long a login waits for others that are being looked at, before it is refused for a while.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// The while.
pub(crate) const REFUSAL: Duration = Duration::from_secs(1);

/// What becomes of a login now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is looked at.
    Enter,
    /// So many are being looked at that it has to wait for one of them.
    Queue,
    /// It is refused unseen for this long.
    Refuse(Duration),
}

impl Policy {
    /// How long a key waits after its last of so many failures.
    pub(crate) fn wait(&self, failures: u32) -> Duration {
        match failures.saturating_sub(self.free).div_ceil(self.step) {
            0 => Duration::ZERO,
            over => {
                Duration::from_secs(1u64.checked_shl(over - 1).unwrap_or(u64::MAX).min(self.wait_secs_max))
            }
        }
    }
}

/// The address that is counted: a v4 address, or the /64 that one v6 host commands.
pub(crate) fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let secs = |policy: &Policy, failures| policy.wait(failures).as_secs();
        assert_eq!([1, 2, 3, 4, 12, 13, u32::MAX].map(|n| secs(&PAIR, n)), [0, 0, 1, 2, 512, 900, 900]);
        assert_eq!([20, 21, 24, 25, 44, 45].map(|n| secs(&ADDRESS, n)), [0, 1, 1, 2, 32, 60]);
    }

    #[test]
    fn a_v6_network_counts_as_one_address() {
        let counted = |text: &str| counted(text.parse().unwrap()).to_string();
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
