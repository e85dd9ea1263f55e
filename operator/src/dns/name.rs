//! Names to ask DNS for.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use smtp::address::Domain;

/// Most octets of a name in text; 255 in a DNS message, of which the first length octet and the root take two.
pub(crate) const NAME_OCTETS_MAX: usize = 253;
const LABEL_OCTETS_MAX: usize = 63;

/// A name of one label or more, always absolute: no search list is ever tried for it. Unlike a host name it may hold any
/// characters, since SPF macros and underscored names do; ASCII letters are in lower case, so that names are compared as
/// DNS compares them (RFC 4343).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or the root alone.
    #[error("the name is empty")]
    Empty,
    /// Two dots in a row, or one in front.
    #[error("a label of the name is empty")]
    EmptyLabel,
    /// A label over 63 octets.
    #[error("a label of the name has over {LABEL_OCTETS_MAX} octets")]
    LabelTooLong,
    /// More than 253 octets.
    #[error("the name has over {NAME_OCTETS_MAX} octets")]
    TooLong,
}

impl Name {
    /// The name without its final dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its labels, the leftmost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// The name with its first label taken off, if something remains.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.split_once('.').map(|(_, rest)| Self(rest.into()))
    }

    /// `labels` in front of this name, as `_dmarc` is.
    ///
    /// # Errors
    /// [`NameError`] when that isn't a name.
    pub fn below(&self, labels: &str) -> Result<Self, NameError> {
        format!("{labels}.{}", self.0).parse()
    }

    /// Whether this is `parent` or a name below it.
    #[must_use]
    pub fn is_at_or_below(&self, parent: &Self) -> bool {
        match self.0.strip_suffix(parent.as_str()) {
            Some(rest) => rest.is_empty() || rest.ends_with('.'),
            None => false,
        }
    }

    /// The name whose PTR records name the host at an address (RFC 1035 section 3.5, RFC 3596 section 2.5).
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        let text = match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            IpAddr::V6(address) => {
                let nibbles = address.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
                nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
            }
        };
        Self(text.into())
    }
}

impl FromStr for Name {
    type Err = NameError;

    /// A final dot is taken off.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.split('.').any(str::is_empty) {
            return Err(NameError::EmptyLabel);
        }
        if text.split('.').any(|label| label.len() > LABEL_OCTETS_MAX) {
            return Err(NameError::LabelTooLong);
        }
        if text.len() > NAME_OCTETS_MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl From<&Domain> for Name {
    fn from(domain: &Domain) -> Self {
        Self(domain.as_str().into())
    }
}

impl fmt::Display for Name {
    /// With the final dot, as zone files and DNS panels want it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case_and_final_dot() {
        let name: Name = "Mail.Example.COM.".parse().unwrap();
        assert_eq!((name.as_str(), name.to_string().as_str()), ("mail.example.com", "mail.example.com."));
        assert_eq!(name, "mail.example.com".parse().unwrap());
        assert_eq!(name.parent().unwrap().to_string(), "example.com.");
        assert_eq!(name.below("_dmarc").unwrap().to_string(), "_dmarc.mail.example.com.");
        assert!(name.is_at_or_below(&"example.com".parse().unwrap()));
        assert!(!name.is_at_or_below(&"ample.com".parse().unwrap()));
        assert_eq!(Name::from_str("com").unwrap().parent(), None);
    }

    #[test]
    fn what_dns_has_no_message_for_is_no_name() {
        for (text, error) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("a..", NameError::EmptyLabel),
        ] {
            assert_eq!(text.parse::<Name>(), Err(error), "{text}");
        }
        assert_eq!("x".repeat(64).parse::<Name>(), Err(NameError::LabelTooLong));
        assert!("x".repeat(63).parse::<Name>().is_ok());
        assert!([&*"x.".repeat(126), "x"].concat().parse::<Name>().is_ok());
        assert_eq!([&*"x.".repeat(126), "xx"].concat().parse::<Name>(), Err(NameError::TooLong));
    }

    #[test]
    fn addresses_have_names() {
        let name = |address: &str| Name::of_address(address.parse().unwrap()).to_string();
        assert_eq!(name("192.0.2.7"), "7.2.0.192.in-addr.arpa.");
        assert_eq!(name("::ffff:192.0.2.7"), "7.2.0.192.in-addr.arpa.");
        let nibbles = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2";
        assert_eq!(name("2001:db8::1"), format!("{nibbles}.ip6.arpa."));
    }
}
