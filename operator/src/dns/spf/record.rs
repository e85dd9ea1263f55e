//! The grammar of a record (RFC 7208 section 12). A record is read whole before any of it is evaluated: one wrong term
//! spoils all of it (section 4.6).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::macros::{MacroString, Place};
use crate::dns::lookup::Text;

const VERSION: &[u8] = b"v=spf1";

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Tried from the left until one matches.
    pub directives: Vec<Directive>,
    /// Whose record decides when none matches.
    pub redirect: Option<MacroString>,
    /// Where the explanation of a failure is.
    pub explanation: Option<MacroString>,
}

/// A mechanism, and what it means for the client when it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// The sign in front, `+` when there is none.
    pub qualifier: Qualifier,
    /// What is compared.
    pub mechanism: Mechanism,
    /// As it stands in the record.
    pub text: String,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qualifier {
    /// `+`
    Pass,
    /// `-`
    Fail,
    /// `~`
    SoftFail,
    /// `?`
    Neutral,
}

/// What is compared with the client (RFC 7208 section 5). A target that isn't given is the domain of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Always matches.
    All,
    /// Matches when the other record gives pass.
    Include(MacroString),
    /// The addresses of a host.
    A(Option<MacroString>, Prefixes),
    /// The addresses of the hosts that take a domain's mail.
    Mx(Option<MacroString>, Prefixes),
    /// A name of the client, at or below a domain, that leads back to it.
    Ptr(Option<MacroString>),
    /// A network, and the bits of it that count.
    Ip4(Ipv4Addr, u8),
    /// A network, and the bits of it that count.
    Ip6(Ipv6Addr, u8),
    /// Matches when the name has an A record.
    Exists(MacroString),
}

/// How many bits of addresses count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// At most 32.
    pub ip4: u8,
    /// At most 128.
    pub ip6: u8,
}

/// Why a record can't be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// Octets outside of visible ASCII.
    #[error("\"{}\" holds a character that isn't visible ASCII", .0.escape_default())]
    BadCharacter(String),
    /// No mechanism or modifier has this name, or it can't have what follows.
    #[error("\"{}\" is no mechanism or modifier", .0.escape_default())]
    BadTerm(String),
    /// A name to look up that is none.
    #[error("\"{}\" is no domain name", .0.escape_default())]
    BadDomain(String),
    /// An address that is none.
    #[error("\"{}\" is no network address", .0.escape_default())]
    BadAddress(String),
    /// `%` with something else than a macro.
    #[error("\"{}\" holds a macro that can't stand there", .0.escape_default())]
    BadMacro(String),
    /// `redirect` or `exp` for the second time.
    #[error("{0}= stands twice")]
    Twice(&'static str),
}

/// Whether a TXT record is one of SPF: it begins with `v=spf1` in any case, and a space or nothing follows.
#[must_use]
pub fn is_spf(text: &Text) -> bool {
    let Some((version, rest)) = text.0.split_at_checked(VERSION.len()) else { return false };
    version.eq_ignore_ascii_case(VERSION) && matches!(rest.first(), None | Some(b' '))
}

impl Record {
    /// Reads a record for which [`is_spf`] holds.
    ///
    /// # Errors
    /// [`SyntaxError`] for the first term that is wrong.
    pub fn parse(text: &Text) -> Result<Self, SyntaxError> {
        if !text.0.is_ascii() {
            return Err(SyntaxError::BadCharacter(text.shown()));
        }
        let text = String::from_utf8_lossy(&text.0);
        let mut record = Self { directives: Vec::new(), redirect: None, explanation: None };
        for term in text.split(' ').skip(1).filter(|term| !term.is_empty()) {
            record.take(term)?;
        }
        Ok(record)
    }

    fn take(&mut self, term: &str) -> Result<(), SyntaxError> {
        let Some((name, value)) = modifier(term) else {
            self.directives.push(directive(term)?);
            return Ok(());
        };
        let (known, name) = match name.to_ascii_lowercase().as_str() {
            "redirect" => (&mut self.redirect, "redirect"),
            "exp" => (&mut self.explanation, "exp"),
            _ => return MacroString::parse(value, Place::Unknown).map(drop),
        };
        if known.is_some() {
            return Err(SyntaxError::Twice(name));
        }
        *known = Some(MacroString::parse_domain(value)?);
        Ok(())
    }
}

/// `name "=" value`, with a name that begins with a letter.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic());
    let named = name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet));
    (begins && named).then_some((name, value))
}

fn directive(term: &str) -> Result<Directive, SyntaxError> {
    let (qualifier, rest) = match term.as_bytes().first() {
        Some(b'+') => (Qualifier::Pass, &term[1..]),
        Some(b'-') => (Qualifier::Fail, &term[1..]),
        Some(b'~') => (Qualifier::SoftFail, &term[1..]),
        Some(b'?') => (Qualifier::Neutral, &term[1..]),
        _ => (Qualifier::Pass, term),
    };
    let end = rest.find([':', '/']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let bad = || SyntaxError::BadTerm(term.to_owned());
    let value = rest.strip_prefix(':');
    let mechanism = match name.to_ascii_lowercase().as_str() {
        "all" if rest.is_empty() => Mechanism::All,
        "include" => Mechanism::Include(MacroString::parse_domain(value.ok_or_else(bad)?)?),
        "exists" => Mechanism::Exists(MacroString::parse_domain(value.ok_or_else(bad)?)?),
        "a" => {
            let (target, prefixes) = target(term, rest)?;
            Mechanism::A(target, prefixes)
        }
        "mx" => {
            let (target, prefixes) = target(term, rest)?;
            Mechanism::Mx(target, prefixes)
        }
        "ptr" if rest.is_empty() => Mechanism::Ptr(None),
        "ptr" => Mechanism::Ptr(Some(MacroString::parse_domain(value.ok_or_else(bad)?)?)),
        "ip4" => {
            let (address, prefix) = network(term, value, 32)?;
            Mechanism::Ip4(address, prefix)
        }
        "ip6" => {
            let (address, prefix) = network(term, value, 128)?;
            Mechanism::Ip6(address, prefix)
        }
        _ => return Err(bad()),
    };
    Ok(Directive { qualifier, mechanism, text: term.to_owned() })
}

/// `[ ":" domain-spec ] [ "/" bits ] [ "//" bits ]`. A domain may hold slashes, so lengths are cut from the end.
fn target(term: &str, rest: &str) -> Result<(Option<MacroString>, Prefixes), SyntaxError> {
    let bad = || SyntaxError::BadTerm(term.to_owned());
    let (rest, ip6) = cut_length(rest, "//");
    let (rest, ip4) = cut_length(rest, "/");
    let length = |digits: Option<&str>, most| match digits {
        Some(digits) => prefix_length(digits, most).ok_or_else(bad),
        None => Ok(most),
    };
    let prefixes = Prefixes { ip4: length(ip4, 32)?, ip6: length(ip6, 128)? };
    match rest.strip_prefix(':') {
        Some(domain) => Ok((Some(MacroString::parse_domain(domain)?), prefixes)),
        None if rest.is_empty() => Ok((None, prefixes)),
        None => Err(bad()),
    }
}

/// Takes digits after exactly these slashes off the end.
fn cut_length<'a>(text: &'a str, slashes: &str) -> (&'a str, Option<&'a str>) {
    let before = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &text[before.len()..];
    match before.strip_suffix(slashes) {
        Some(rest) if !digits.is_empty() && !rest.ends_with('/') => (rest, Some(digits)),
        _ => (text, None),
    }
}

/// Decimal without leading zeros.
fn prefix_length(digits: &str, most: u8) -> Option<u8> {
    let plain =
        digits.bytes().all(|digit| digit.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|length| plain && *length <= most)
}

fn network<A: std::str::FromStr>(term: &str, value: Option<&str>, most: u8) -> Result<(A, u8), SyntaxError> {
    let bad = || SyntaxError::BadAddress(term.to_owned());
    let value = value.ok_or_else(bad)?;
    let (address, prefix) = match value.split_once('/') {
        Some((address, digits)) => (address, prefix_length(digits, most).ok_or_else(bad)?),
        None => (value, most),
    };
    Ok((address.parse().map_err(|_| bad())?, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Record, SyntaxError> {
        Record::parse(&Text(text.into()))
    }

    #[test]
    fn only_the_version_makes_a_record_one_of_spf() {
        for (text, is) in [
            ("v=spf1", true),
            ("V=SPF1 -all", true),
            ("v=spf10", false),
            ("v=spf1\t-all", false),
            (" v=spf1", false),
            ("v=spf", false),
            ("", false),
        ] {
            assert_eq!(is_spf(&Text(text.into())), is, "{text}");
        }
    }

    #[test]
    fn a_record_is_read_whole() {
        let record =
            parse("v=spf1 a mx/24//64 A:foo:b/z.example/8 ip4:192.0.2.0/24 -ip6:2001:db8::/32  ~all exp=e.%{d} x=%{r}")
                .unwrap();
        let read: Vec<_> = record.directives.iter().map(|directive| &directive.mechanism).collect();
        assert_eq!(read[0], &Mechanism::A(None, Prefixes { ip4: 32, ip6: 128 }));
        assert_eq!(read[1], &Mechanism::Mx(None, Prefixes { ip4: 24, ip6: 64 }));
        let target = MacroString::parse_domain("foo:b/z.example").unwrap();
        assert_eq!(read[2], &Mechanism::A(Some(target), Prefixes { ip4: 8, ip6: 128 }));
        assert_eq!(read[3], &Mechanism::Ip4([192, 0, 2, 0].into(), 24));
        assert_eq!(record.directives[4].qualifier, Qualifier::Fail);
        assert_eq!(record.directives[5].text, "~all");
        assert!(record.explanation.is_some() && record.redirect.is_none());
    }

    #[test]
    fn the_term_that_is_wrong_is_named() {
        for (record, error) in [
            ("v=spf1 -all moo", SyntaxError::BadTerm("moo".into())),
            ("v=spf1 -all.", SyntaxError::BadTerm("-all.".into())),
            ("v=spf1 a:", SyntaxError::BadDomain(String::new())),
            ("v=spf1 a/24/64", SyntaxError::BadTerm("a/24/64".into())),
            ("v=spf1 a///64", SyntaxError::BadTerm("a///64".into())),
            ("v=spf1 a/032", SyntaxError::BadTerm("a/032".into())),
            ("v=spf1 ip4:1.2.3", SyntaxError::BadAddress("ip4:1.2.3".into())),
            ("v=spf1 ip4:1.2.3.4/33", SyntaxError::BadAddress("ip4:1.2.3.4/33".into())),
            ("v=spf1 include", SyntaxError::BadTerm("include".into())),
            ("v=spf1 -exp=x.example", SyntaxError::BadTerm("-exp=x.example".into())),
            ("v=spf1 redirect=a.example redirect=a.example", SyntaxError::Twice("redirect")),
            ("v=spf1 foo=%abc", SyntaxError::BadMacro("%abc".into())),
            ("v=spf1 \u{e4}", SyntaxError::BadCharacter("v=spf1 \\xc3\\xa4".into())),
        ] {
            assert_eq!(parse(record), Err(error), "{record}");
        }
    }
}
