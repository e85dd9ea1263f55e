//! Addresses of others that may be connected to, and those that may not, whoever names them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::str::FromStr;

/// Addresses that share a prefix: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// The text names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: expected an address such as 10.0.0.1, or one with a prefix such as 10.0.0.0/8")]
pub struct ParseNetworkError(String);

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseNetworkError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= bits).ok_or_else(wrong)?,
            None => bits,
        };
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Network {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(first: u16, second: u16, third: u16, prefix: u8) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0)), prefix }
    }

    /// Whether `ip` is in it; `ip` is not an IPv4 address in IPv6's clothes.
    fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let host_bits = 32 - u32::from(self.prefix);
                (network.to_bits() ^ ip.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let host_bits = 128 - u32::from(self.prefix);
                (network.to_bits() ^ ip.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Where no server of somebody else can be: this network, private and shared ones, link-local, documentation,
/// benchmarks, multicast, reserved, and IPv6 forms that stand for IPv4 addresses (RFC 6890 and its registry).
const NEVER: [Network; 26] = [
    Network::v4(0, 0, 0, 0, 8),
    Network::v4(10, 0, 0, 0, 8),
    Network::v4(100, 64, 0, 0, 10),
    Network::v4(127, 0, 0, 0, 8),
    Network::v4(169, 254, 0, 0, 16),
    Network::v4(172, 16, 0, 0, 12),
    Network::v4(192, 0, 0, 0, 24),
    Network::v4(192, 0, 2, 0, 24),
    Network::v4(192, 88, 99, 0, 24),
    Network::v4(192, 168, 0, 0, 16),
    Network::v4(198, 18, 0, 0, 15),
    Network::v4(198, 51, 100, 0, 24),
    Network::v4(203, 0, 113, 0, 24),
    Network::v4(224, 0, 0, 0, 4),
    Network::v4(240, 0, 0, 0, 4),
    // ::/96 with the unspecified and the loopback address and IPv4-compatible ones.
    Network::v6(0, 0, 0, 96),
    Network::v6(0x64, 0xff9b, 0, 96),
    Network::v6(0x64, 0xff9b, 1, 48),
    Network::v6(0x100, 0, 0, 64),
    Network::v6(0x2001, 0, 0, 32),
    Network::v6(0x2001, 0xdb8, 0, 32),
    Network::v6(0x2002, 0, 0, 16),
    Network::v6(0xfc00, 0, 0, 7),
    Network::v6(0xfe80, 0, 0, 10),
    Network::v6(0xfec0, 0, 0, 10),
    Network::v6(0xff00, 0, 0, 8),
];

/// What is said of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be connected to.
    Allowed,
    /// It is this host: loopback, unspecified, an interface's, or one that was named as ours.
    Ours,
    /// Never to be connected to.
    Refused,
}

/// Decides about addresses that DNS or an address literal names.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Refused beside those that never are somebody else's.
    pub refused: Vec<Network>,
    /// Allowed although refused.
    pub allowed: Vec<Network>,
    /// Addresses that lead back to us, as of a load balancer.
    pub own: Vec<IpAddr>,
}

impl Reach {
    /// What holds for an address.
    #[must_use]
    pub fn verdict(&self, ip: IpAddr) -> Verdict {
        let ip = ip.to_canonical();
        if self.own.iter().any(|own| own.to_canonical() == ip) {
            return Verdict::Ours;
        }
        let allowed = self.allowed.iter().any(|network| network.contains(ip));
        if (ip.is_loopback() || ip.is_unspecified()) && !allowed {
            return Verdict::Ours;
        }
        // All of 127.0.0.0/8 is local; who allows it means something that listens there.
        if !ip.is_loopback() && !is_for_many(ip) && is_of_this_host(ip) {
            return Verdict::Ours;
        }
        let refused = NEVER.iter().chain(&self.refused).any(|network| network.contains(ip));
        if refused && !allowed { Verdict::Refused } else { Verdict::Allowed }
    }
}

/// Sockets can be bound to these too.
fn is_for_many(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// The system binds a socket only to addresses of its interfaces; nothing is sent.
fn is_of_this_host(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(reach: &Reach, ip: &str) -> Verdict {
        reach.verdict(ip.parse().unwrap())
    }

    #[test]
    fn internal_addresses_are_never_connected_to() {
        let reach = Reach { refused: vec!["8.8.4.0/24".parse().unwrap()], ..Reach::default() };
        for ip in ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"] {
            assert_eq!(verdict(&reach, ip), Verdict::Ours, "{ip}");
        }
        for ip in [
            "10.96.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "::ffff:10.0.0.1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "::10.0.0.1",
            "8.8.4.4",
        ] {
            assert_eq!(verdict(&reach, ip), Verdict::Refused, "{ip}");
        }
        for ip in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "1.2.3.4"] {
            assert_eq!(verdict(&reach, ip), Verdict::Allowed, "{ip}");
        }
    }

    #[test]
    fn what_is_allowed_or_own_by_setting_wins() {
        let reach = Reach {
            allowed: vec!["127.64.0.0/10".parse().unwrap(), "10.9.0.0/16".parse().unwrap()],
            own: vec!["127.64.0.9".parse().unwrap(), "192.0.2.7".parse().unwrap()],
            ..Reach::default()
        };
        assert_eq!(verdict(&reach, "127.64.0.1"), Verdict::Allowed);
        assert_eq!(verdict(&reach, "::ffff:127.64.0.1"), Verdict::Allowed);
        assert_eq!(verdict(&reach, "127.0.0.1"), Verdict::Ours);
        assert_eq!(verdict(&reach, "127.64.0.9"), Verdict::Ours);
        assert_eq!(verdict(&reach, "192.0.2.7"), Verdict::Ours);
        assert_eq!(verdict(&reach, "10.9.1.1"), Verdict::Allowed);
        assert_eq!(verdict(&reach, "10.10.1.1"), Verdict::Refused);
    }

    #[test]
    fn a_network_is_an_address_with_a_fitting_prefix() {
        for text in ["10.0.0.0/33", "10.0.0/8", "fd00::/129", "", "/8", "10.0.0.0/", "mx.test"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("203.0.113.9".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
        assert_eq!("fd00::/8".parse::<Network>().unwrap().to_string(), "fd00::/8");
        assert_eq!("192.0.2.1".parse::<Network>().unwrap().to_string(), "192.0.2.1/32");
    }
}
