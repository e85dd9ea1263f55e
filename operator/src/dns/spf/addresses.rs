//! Addresses in networks.

use std::net::IpAddr;

use super::record::Prefixes;

/// Whether the first `prefix` bits of two addresses are the same. Addresses of different families never match: a client
/// over IPv4 is one of IPv4 however it was written (RFC 7208 section 5).
pub(super) fn within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differing = address.to_bits() ^ network.to_bits();
            differing.leading_zeros() >= u32::from(prefix)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let differing = address.to_bits() ^ network.to_bits();
            differing.leading_zeros() >= u32::from(prefix)
        }
        _ => false,
    }
}

/// The same for the addresses of a host.
pub(super) fn any_within(address: IpAddr, hosts: &[IpAddr], prefixes: Prefixes) -> bool {
    let prefix = if address.is_ipv4() { prefixes.ip4 } else { prefixes.ip6 };
    hosts.iter().any(|host| within(address, *host, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_has_their_first_bits() {
        for (address, network, prefix, holds) in [
            ("192.0.2.1", "192.0.2.1", 32, true),
            ("192.0.2.1", "192.0.2.0", 32, false),
            ("192.0.2.1", "192.0.2.0", 31, true),
            ("192.0.2.1", "10.0.0.0", 0, true),
            ("2001:db8::1", "2001:db8::", 32, true),
            ("2001:db9::1", "2001:db8::", 32, false),
            ("2001:db8::1", "2001:db8::1", 128, true),
            ("2001:db8::1", "::", 0, true),
            ("192.0.2.1", "::", 0, false),
            ("2001:db8::1", "0.0.0.0", 0, false),
        ] {
            let held = within(address.parse().unwrap(), network.parse().unwrap(), prefix);
            assert_eq!(held, holds, "{address} in {network}/{prefix}");
        }
    }
}
