//! xtext (RFC 3461 section 4): how parameters carry any text, and how text gets into headers and logs if unchecked.

use std::fmt;

/// Text that came as xtext, decoded: printable ASCII and spaces only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xtext(Box<str>);

/// Text that isn't xtext, or that decodes to something unprintable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotXtext;

impl fmt::Display for NotXtext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not xtext of printable characters")
    }
}

impl std::error::Error for NotXtext {}

impl Xtext {
    /// Decodes `encoded`, where `+2B` stands for `+`.
    ///
    /// # Errors
    /// When the encoding is broken or stands for anything but printable ASCII.
    pub fn decode(encoded: &str) -> Result<Self, NotXtext> {
        let mut octets = encoded.bytes();
        let mut text = String::with_capacity(encoded.len());
        while let Some(octet) = octets.next() {
            let decoded = match octet {
                b'+' => hex(octets.next())? << 4 | hex(octets.next())?,
                b'=' | b' ' => return Err(NotXtext),
                other => other,
            };
            if !matches!(decoded, b' '..=b'~') {
                return Err(NotXtext);
            }
            text.push(char::from(decoded));
        }
        Ok(Self(text.into()))
    }

    /// Takes text that was decoded before, as from a store.
    ///
    /// # Errors
    /// When it has anything but printable ASCII and spaces.
    pub fn from_decoded(text: &str) -> Result<Self, NotXtext> {
        if text.bytes().all(|octet| matches!(octet, b' '..=b'~')) {
            Ok(Self(text.into()))
        } else {
            Err(NotXtext)
        }
    }

    /// The decoded text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The wire form: encoded again.
impl fmt::Display for Xtext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '+' | '=' | ' ' => write!(f, "+{:02X}", u32::from(character)),
            other => write!(f, "{other}"),
        })
    }
}

/// RFC 3461 has upper case only; lower case is understood all the same.
fn hex(octet: Option<u8>) -> Result<u8, NotXtext> {
    let digit = octet.and_then(|octet| char::from(octet).to_digit(16)).ok_or(NotXtext)?;
    u8::try_from(digit).map_err(|_| NotXtext)
}
