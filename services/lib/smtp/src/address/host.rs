//! The part after the `@`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{AddressError, Domain};

/// Where a mailbox is: a domain, or one machine by its address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// By name.
    Domain(Domain),
    /// By address literal (RFC 5321 section 4.1.3); general literals, of which none was ever registered, are refused.
    Literal(IpAddr),
}

impl Host {
    /// Reads a domain or an address literal.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let Some(literal) = text.strip_prefix('[') else {
            return text.parse().map(Self::Domain);
        };
        let literal = literal.strip_suffix(']').ok_or(AddressError::BadLiteral)?;
        let ip = match literal.split_at_checked(5) {
            Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => {
                address.parse::<Ipv6Addr>().map(IpAddr::V6)
            }
            _ => literal.parse::<Ipv4Addr>().map(IpAddr::V4),
        };
        ip.map(Self::Literal).map_err(|_| AddressError::BadLiteral)
    }

    /// The domain, unless it is a literal.
    pub fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Domain(domain) => Some(domain),
            Self::Literal(_) => None,
        }
    }

    pub(super) fn wire_octets(&self) -> usize {
        match self {
            Self::Domain(domain) => domain.as_str().len(),
            // The longest literal, `[IPv6:` and 39 octets and `]`, is far from any limit.
            Self::Literal(_) => 47,
        }
    }
}

/// The wire form: `example.org`, `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => f.write_str(domain.as_str()),
            Self::Literal(IpAddr::V4(ip)) => write!(f, "[{ip}]"),
            Self::Literal(IpAddr::V6(ip)) => write!(f, "[IPv6:{ip}]"),
        }
    }
}
