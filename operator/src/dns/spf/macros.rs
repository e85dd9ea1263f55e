//! Macro strings (RFC 7208 section 7): read whole before anything is evaluated, then expanded for one client.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::record::SyntaxError;
use crate::dns::name::{NAME_OCTETS_MAX, Name};

/// A text with macros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacroString(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// `%%`, `%_` or `%-`, as what it stands for.
    Escape(&'static str),
    Macro(Macro),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Macro {
    letter: Letter,
    /// Written in upper case: what it gives is escaped as in a URL.
    escaped: bool,
    /// How many of the parts on the right are kept; all when there is none.
    keep: Option<usize>,
    reversed: bool,
    /// Where the value is split.
    delimiters: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Letter {
    Sender,
    LocalPart,
    SenderDomain,
    Domain,
    Address,
    ValidatedName,
    Family,
    Helo,
    ShownAddress,
    Receiver,
    Time,
}

/// Where a macro string stands, which decides what may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A name that is looked up.
    Domain,
    /// The value of a modifier that nobody knows.
    Unknown,
    /// The text that explains a failure: spaces may be in it, and three letters more.
    Explanation,
}

impl MacroString {
    /// Reads a macro string.
    ///
    /// # Errors
    /// [`SyntaxError`] when it isn't one that may stand there.
    pub fn parse(text: &str, place: Place) -> Result<Self, SyntaxError> {
        let bad = || SyntaxError::BadMacro(text.to_owned());
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            rest = &rest[first.len_utf8()..];
            if first != '%' {
                let space = first == ' ' && place == Place::Explanation;
                if !first.is_ascii_graphic() && !space {
                    return Err(SyntaxError::BadCharacter(text.to_owned()));
                }
                literal.push(first);
                continue;
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            let second = rest.chars().next().ok_or_else(bad)?;
            rest = &rest[second.len_utf8()..];
            parts.push(match second {
                '%' => Part::Escape("%"),
                '_' => Part::Escape(" "),
                '-' => Part::Escape("%20"),
                '{' => {
                    let (inner, after) = rest.split_once('}').ok_or_else(bad)?;
                    rest = after;
                    Part::Macro(Macro::parse(inner, place).ok_or_else(bad)?)
                }
                _ => return Err(bad()),
            });
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self(parts))
    }

    /// Reads a `domain-spec`: a macro string that isn't empty and ends in a macro or in a dot and a top-level label.
    ///
    /// # Errors
    /// [`SyntaxError`] when it isn't one.
    pub fn parse_domain(text: &str) -> Result<Self, SyntaxError> {
        let string = Self::parse(text, Place::Domain)?;
        let ends_well = match string.0.last() {
            None => false,
            Some(Part::Macro(_) | Part::Escape(_)) => true,
            Some(Part::Literal(literal)) => ends_in_a_top_level_label(literal),
        };
        if ends_well { Ok(string) } else { Err(SyntaxError::BadDomain(text.to_owned())) }
    }

    /// Whether the host's validated name must be known to expand it, which takes look-ups.
    #[must_use]
    pub fn needs_validated_name(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Macro(Macro { letter: Letter::ValidatedName, .. })))
    }

    /// The text for a client.
    #[must_use]
    pub fn expand(&self, values: &Values<'_>) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Escape(meant) => text.push_str(meant),
                Part::Macro(found) => found.expand(values, &mut text),
            }
        }
        text
    }

    /// The name for a client: cut from the left to what a name can hold (section 7.3). Nothing when that is no name.
    #[must_use]
    pub fn expand_name(&self, values: &Values<'_>) -> Option<Name> {
        let text = self.expand(values);
        let mut name = text.strip_suffix('.').unwrap_or(&text);
        while name.len() > NAME_OCTETS_MAX {
            name = name.split_once('.')?.1;
        }
        name.parse().ok()
    }
}

/// `toplabel`: letters, digits and inner hyphens, not all of them digits.
fn ends_in_a_top_level_label(literal: &str) -> bool {
    let literal = literal.strip_suffix('.').unwrap_or(literal);
    let Some((_, label)) = literal.rsplit_once('.') else { return false };
    let octets = label.as_bytes();
    octets.iter().all(|octet| octet.is_ascii_alphanumeric() || *octet == b'-')
        && octets.iter().any(|octet| !octet.is_ascii_digit())
        && octets.first() != Some(&b'-')
        && octets.last() != Some(&b'-')
}

impl Macro {
    fn parse(inner: &str, place: Place) -> Option<Self> {
        let first = inner.chars().next()?;
        let letter = match first.to_ascii_lowercase() {
            's' => Letter::Sender,
            'l' => Letter::LocalPart,
            'o' => Letter::SenderDomain,
            'd' => Letter::Domain,
            'i' => Letter::Address,
            'p' => Letter::ValidatedName,
            'v' => Letter::Family,
            'h' => Letter::Helo,
            'c' if place != Place::Domain => Letter::ShownAddress,
            'r' if place != Place::Domain => Letter::Receiver,
            't' if place != Place::Domain => Letter::Time,
            _ => return None,
        };
        let rest = &inner[first.len_utf8()..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = rest.split_at(digits);
        let keep = match digits {
            "" => None,
            // More parts than fit into a number are all parts.
            digits => Some(digits.parse().unwrap_or(usize::MAX)).filter(|keep| *keep > 0).map(Some)?,
        };
        let delimiters = rest.trim_start_matches(['r', 'R']);
        let reversed = match rest.len() - delimiters.len() {
            0 => false,
            1 => true,
            _ => return None,
        };
        if !delimiters.chars().all(|delimiter| ".-+,/_=".contains(delimiter)) {
            return None;
        }
        let delimiters = if delimiters.is_empty() { "." } else { delimiters }.to_owned();
        Some(Self { letter, escaped: first.is_ascii_uppercase(), keep, reversed, delimiters })
    }

    fn expand(&self, values: &Values<'_>, text: &mut String) {
        let value = values.of(self.letter);
        let transformed = if self.keep.is_none() && !self.reversed && self.delimiters == "." {
            value
        } else {
            let mut parts: Vec<&str> = value.split(|c| self.delimiters.contains(c)).collect();
            if self.reversed {
                parts.reverse();
            }
            let dropped = parts.len().saturating_sub(self.keep.unwrap_or(usize::MAX));
            parts.split_off(dropped).join(".")
        };
        if !self.escaped {
            text.push_str(&transformed);
            return;
        }
        for octet in transformed.bytes() {
            match octet {
                // `unreserved` of RFC 3986.
                b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                    text.push(char::from(octet));
                }
                _ => _ = write!(text, "%{octet:02X}"),
            }
        }
    }
}

/// What macros stand for.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    /// The client, an IPv4 address even where it came over an IPv6 socket.
    pub address: IpAddr,
    /// `local-part@domain` of the sender.
    pub local_part: &'a str,
    /// The sender's domain.
    pub sender_domain: &'a str,
    /// The domain whose record is being evaluated.
    pub domain: &'a str,
    /// What the client said in HELO or EHLO.
    pub helo: &'a str,
    /// The host that asks.
    pub receiver: &'a str,
    /// A name of the client that leads back to it, if one was looked for and found.
    pub validated_name: Option<&'a str>,
    /// When it asks.
    pub now: SystemTime,
}

impl Values<'_> {
    fn of(&self, letter: Letter) -> String {
        match letter {
            Letter::Sender => format!("{}@{}", self.local_part, self.sender_domain),
            Letter::LocalPart => self.local_part.to_owned(),
            Letter::SenderDomain => self.sender_domain.to_owned(),
            Letter::Domain => self.domain.to_owned(),
            Letter::Address => match self.address {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => {
                    let octets = address.octets();
                    let nibbles = octets.iter().flat_map(|octet| [octet >> 4, octet & 15]);
                    nibbles.map(|nibble| format!("{nibble:X}")).collect::<Vec<_>>().join(".")
                }
            },
            Letter::ValidatedName => self.validated_name.unwrap_or("unknown").to_owned(),
            Letter::Family => if self.address.is_ipv4() { "in-addr" } else { "ip6" }.to_owned(),
            Letter::Helo => self.helo.to_owned(),
            Letter::ShownAddress => self.address.to_string(),
            Letter::Receiver => self.receiver.to_owned(),
            Letter::Time => {
                self.now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).to_string()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn expand(text: &str) -> String {
        expand_for(text, "192.0.2.3")
    }

    fn expand_for(text: &str, address: &str) -> String {
        let values = Values {
            address: address.parse().unwrap(),
            local_part: "strong-bad",
            sender_domain: "email.example.com",
            domain: "email.example.com",
            helo: "mail.example.com",
            receiver: "mx.example.org",
            validated_name: Some("mx.example.com"),
            now: UNIX_EPOCH + Duration::from_secs(7),
        };
        MacroString::parse(text, Place::Explanation).unwrap().expand(&values)
    }

    /// The examples of RFC 7208 section 7.4, and what they leave out.
    #[test]
    fn macros_expand_as_in_the_examples_of_the_standard() {
        for (text, expanded) in [
            ("%{s}", "strong-bad@email.example.com"),
            ("%{o}", "email.example.com"),
            ("%{d4}", "email.example.com"),
            ("%{d3}", "email.example.com"),
            ("%{d2}", "example.com"),
            ("%{d1}", "com"),
            ("%{dr}", "com.example.email"),
            ("%{d2r}", "example.email"),
            ("%{l}", "strong-bad"),
            ("%{l-}", "strong.bad"),
            ("%{lr}", "strong-bad"),
            ("%{lr-}", "bad.strong"),
            ("%{l1r-}", "strong"),
            ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
            ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
            ("%%%_%-", "% %20"),
            ("%{S}", "strong-bad%40email.example.com"),
            ("%{p} %{h} %{r} %{t} %{c}", "mx.example.com mail.example.com mx.example.org 7 192.0.2.3"),
        ] {
            assert_eq!(expand(text), expanded, "{text}");
        }
        let nibbles = "1.0.B.C.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.B.D.0.1.0.0.2";
        assert_eq!(expand_for("%{ir}.%{v}", "2001:db8::cb01"), format!("{nibbles}.ip6"));
    }

    #[test]
    fn what_is_no_macro_is_refused() {
        for text in ["%", "%a", "%(d)", "%{d", "%{}", "%{x}", "%{d0}", "%{drr}", "%{d2r!}", "%{r}"] {
            assert!(MacroString::parse(text, Place::Domain).is_err(), "{text}");
        }
        assert!(MacroString::parse("a b", Place::Domain).is_err());
        assert!(MacroString::parse("a\u{e4}", Place::Explanation).is_err());
    }

    #[test]
    fn a_domain_ends_in_a_macro_or_a_top_level_label() {
        for good in ["a.example", "a.example.", "%{d}", "x%{d}", "x%%", "%{d}.a-b", "_x.%{d2}.c0m"] {
            assert!(MacroString::parse_domain(good).is_ok(), "{good}");
        }
        for bad in [
            "", "museum", "museum.", "a.1", "a.-b", "a.b-", "%{d}com", "a.com:25", "a.com/x", ".", "a.com%%_",
        ] {
            assert!(MacroString::parse_domain(bad).is_err(), "{bad}");
        }
    }
}
