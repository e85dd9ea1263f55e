//! Domain names, held in the one form in which they can be compared and looked up.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use super::AddressError;

/// Most octets of a name in text; 255 in the DNS, of which the first length octet and the root take two.
const DOMAIN_OCTETS_MAX: usize = 253;
const LABEL_OCTETS_MAX: usize = 63;

/// A domain name: A-labels and LDH labels in lower case, no final dot (RFC 5890). Cloning copies no text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Arc<str>);

impl Domain {
    /// The name as A-labels, as DNS, TLS and DKIM want it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name with its A-labels shown as U-labels.
    pub fn to_unicode(&self) -> String {
        let (unicode, _) =
            Uts46::new().to_unicode(self.0.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast);
        unicode.into_owned()
    }

    /// Whether this is `parent` or a subdomain of it.
    pub fn is_at_or_below(&self, parent: &Self) -> bool {
        match self.0.strip_suffix(parent.as_str()) {
            Some(rest) => rest.is_empty() || rest.ends_with('.'),
            None => false,
        }
    }

    /// The name with its first label taken off, if something remains.
    pub fn parent(&self) -> Option<Self> {
        self.0.split_once('.').map(|(_, rest)| Self(rest.into()))
    }
}

impl FromStr for Domain {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::MissingHost);
        }
        if text.ends_with('.') {
            return Err(AddressError::FinalDot);
        }
        if text.len() > 4 * DOMAIN_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        let plain = text.is_ascii() && !text.split('.').any(is_a_label);
        let name: Arc<str> = if !plain {
            internationalised(text)?.into()
        } else if text.bytes().any(|octet| octet.is_ascii_uppercase()) {
            text.to_ascii_lowercase().into()
        } else {
            text.into()
        };
        if name.len() > DOMAIN_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        if !name.split('.').all(is_ldh_label) || ends_in_a_number(&name) {
            return Err(AddressError::BadDomain);
        }
        Ok(Self(name))
    }
}

impl TryFrom<&str> for Domain {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl AsRef<str> for Domain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn is_a_label(label: &str) -> bool {
    label.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--"))
}

fn is_ldh_label(label: &str) -> bool {
    let octets = label.as_bytes();
    (1..=LABEL_OCTETS_MAX).contains(&octets.len())
        && octets.iter().all(|octet| octet.is_ascii_alphanumeric() || *octet == b'-')
        && octets.first() != Some(&b'-')
        && octets.last() != Some(&b'-')
}

/// No top-level domain is all digits (RFC 3696 section 2), and resolvers take such a name for an IPv4 address.
fn ends_in_a_number(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|label| label.bytes().all(|octet| octet.is_ascii_digit()))
}

/// Turns U-labels into A-labels and checks those that are there. UTS 46 would also map compatibility characters (full
/// width letters, other dots); RFC 6531 wants U-labels, and a name that becomes another one is how checks are evaded, so
/// but for its case the input must already be what its A-labels mean.
fn internationalised(text: &str) -> Result<String, AddressError> {
    let uts46 = Uts46::new();
    let ascii = uts46
        .to_ascii(text.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
        .map_err(|_| AddressError::BadDomain)?;
    let (unicode, valid) = uts46.to_unicode(ascii.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast);
    if valid.is_err() {
        return Err(AddressError::BadDomain);
    }
    let mut meant = unicode.split('.');
    for label in text.split('.') {
        let meaning = meant.next().ok_or(AddressError::BadDomain)?;
        // RFC 5891 section 4.2.3.1; else what an A-label means could look like an A-label itself.
        let hyphens = meaning.chars().skip(2).take(2).eq(['-', '-']);
        if hyphens && !meaning.is_ascii() {
            return Err(AddressError::BadDomain);
        }
        if !label.is_ascii() && label != meaning && label.to_lowercase() != meaning {
            return Err(AddressError::BadDomain);
        }
    }
    if meant.next().is_some() {
        return Err(AddressError::BadDomain);
    }
    Ok(ascii.into_owned())
}
