//! Reverse-path and forward-path (RFC 5321 section 4.1.2).

use std::fmt;

use super::{Address, AddressError, Domain, Utf8, local};

/// Where reports about a message go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReversePath {
    /// `<>`: nobody is told (RFC 5321 section 4.5.5).
    Null,
    /// A mailbox.
    Mailbox(Address),
}

impl ReversePath {
    /// Reads a path without its angle brackets: nothing, or a mailbox after an ignored source route.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str, utf8: Utf8) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Ok(Self::Null);
        }
        Address::parse(without_route(text)?, utf8).map(Self::Mailbox)
    }

    /// The mailbox, unless it is the null sender.
    pub fn mailbox(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Mailbox(address) => Some(address),
        }
    }
}

/// Without angle brackets: nothing, or the address.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Mailbox(address) => address.fmt(f),
        }
    }
}

/// To whom a message goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForwardPath {
    /// `<Postmaster>`, the one recipient that needs no domain (RFC 5321 section 4.5.1).
    Postmaster,
    /// A mailbox.
    Mailbox(Address),
}

impl ForwardPath {
    /// Reads a path without its angle brackets: `Postmaster`, or a mailbox after an ignored source route.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str, utf8: Utf8) -> Result<Self, AddressError> {
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self::Postmaster);
        }
        Address::parse(without_route(text)?, utf8).map(Self::Mailbox)
    }

    /// The mailbox, unless it is the bare `Postmaster`.
    pub fn mailbox(&self) -> Option<&Address> {
        match self {
            Self::Postmaster => None,
            Self::Mailbox(address) => Some(address),
        }
    }
}

/// Without angle brackets.
impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postmaster => f.write_str("Postmaster"),
            Self::Mailbox(address) => address.fmt(f),
        }
    }
}

/// Cuts `<path>` off the front: what is inside the brackets and what follows them.
pub(crate) fn bracketed(text: &str) -> Result<(&str, &str), AddressError> {
    let inside = text.strip_prefix('<').ok_or(AddressError::BadPath)?;
    let mut from = 0;
    while let Some(found) = inside[from..].find(['"', '>']) {
        let index = from + found;
        if inside.as_bytes()[index] == b'>' {
            return Ok((&inside[..index], &inside[index + 1..]));
        }
        from = index + local::quoted_end(&inside[index..]).ok_or(AddressError::BadPath)?;
    }
    Err(AddressError::BadPath)
}

/// RFC 5321 section 4.1.1.3 and appendix C: a source route `@a,@b:` is accepted and ignored.
fn without_route(path: &str) -> Result<&str, AddressError> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    let (route, mailbox) = path.split_once(':').ok_or(AddressError::BadPath)?;
    for hop in route.split(',') {
        hop.strip_prefix('@').ok_or(AddressError::BadPath)?.parse::<Domain>()?;
    }
    Ok(mailbox)
}
