//! Mailboxes and paths (RFC 5321 section 4.1.2, RFC 6531 section 3.3).

mod domain;
mod host;
mod local;
pub(crate) mod path;

use std::fmt;
use std::sync::Arc;

pub use domain::Domain;
pub use host::Host;
pub use path::{ForwardPath, ReversePath};

/// Most octets of a local part (RFC 5321 section 4.5.3.1.1).
pub const LOCAL_OCTETS_MAX: usize = 64;
/// Most octets of an address: a path has 256 with its angle brackets (RFC 5321 section 4.5.3.1.3).
pub const ADDRESS_OCTETS_MAX: usize = 254;

/// Whether octets over 127 may occur, as after `MAIL ... SMTPUTF8` (RFC 6531).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Utf8 {
    /// They may.
    Allowed,
    /// They are refused with [`AddressError::NeedsSmtpUtf8`].
    Refused,
}

/// Why text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// The local part is empty, or has characters that it may not have unquoted or at all.
    BadLocalPart,
    /// There is no `@`, or nothing after it.
    MissingHost,
    /// The domain is no sequence of LDH labels, or has an invalid A-label or U-label (RFC 5890).
    BadDomain,
    /// The domain ends in a dot.
    FinalDot,
    /// The address literal is neither `[192.0.2.1]` nor `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3).
    BadLiteral,
    /// The path has no angle brackets around it, or a source route that isn't one.
    BadPath,
    /// A limit of RFC 5321 section 4.5.3.1 is passed.
    TooLong,
    /// There are octets over 127 and SMTPUTF8 was not asked for (RFC 6531 section 3.5).
    NeedsSmtpUtf8,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadLocalPart => "bad local part",
            Self::MissingHost => "no domain after the local part",
            Self::BadDomain => "bad domain name",
            Self::FinalDot => "the domain must not end in a dot",
            Self::BadLiteral => "bad address literal",
            Self::BadPath => "bad path syntax",
            Self::TooLong => "address too long",
            Self::NeedsSmtpUtf8 => "non-ASCII address without SMTPUTF8",
        })
    }
}

impl std::error::Error for AddressError {}

/// A mailbox: local part and host.
///
/// The local part keeps its case (RFC 5321 section 2.4) and is held in its shortest spelling, so `"a.b"@d` and `a.b@d` are
/// equal. The domain is held as A-labels in lower case. Cloning copies no text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    local: Arc<str>,
    host: Host,
}

impl Address {
    /// Reads `local@host`, without angle brackets.
    ///
    /// # Errors
    /// When it isn't RFC 5321's `Mailbox`, passes a limit, or has octets over 127 where they are refused.
    pub fn parse(text: &str, utf8: Utf8) -> Result<Self, AddressError> {
        if utf8 == Utf8::Refused && !text.is_ascii() {
            return Err(AddressError::NeedsSmtpUtf8);
        }
        let (local, host) = local::split(text)?;
        if local.len() > LOCAL_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        let local = local::canonical(local)?;
        let host = Host::parse(host)?;
        let address = Self { local, host };
        if address.local.len() + 1 + address.host.wire_octets() > ADDRESS_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        Ok(address)
    }

    /// The local part as it is written on the wire, quoted where it must be.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// Where the mailbox is.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Whether it can be transmitted only with SMTPUTF8: the local part has octets over 127.
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

/// The wire form, the domain as A-labels.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.host)
    }
}
