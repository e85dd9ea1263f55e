//! Lists of mailboxes, as From and Sender hold them (RFC 5322 section 3.4, RFC 6532).
//!
//! Strict where readers could differ on who the author is, and lenient in one respect: names may hold dots
//! unquoted (`Example Inc. <a@example.org>`, the `obs-phrase` of RFC 5322 section 4.1), which everybody
//! writes and nobody misreads.

use smtp::address::{Address, Utf8};

use super::MailboxFlaw;

/// Most mailboxes of a field.
const MAILBOXES_MAX: usize = 100;

/// Reads a field's value, folds included.
pub(super) fn mailbox_list(value: &str) -> Result<Vec<Address>, MailboxFlaw> {
    let mut parser = Parser { rest: value };
    let mut mailboxes = Vec::with_capacity(1);
    loop {
        mailboxes.push(parser.mailbox()?);
        match parser.peek() {
            None => return Ok(mailboxes),
            Some(',') if mailboxes.len() == MAILBOXES_MAX => return Err(MailboxFlaw::TooMany),
            Some(',') => parser.skip(1)?,
            Some('<') => return Err(MailboxFlaw::AddressAsName),
            Some(other) => return Err(MailboxFlaw::Unexpected(other)),
        }
    }
}

/// Comments and blanks have been skipped up to `rest`, but for those before the first token.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// `[name] <local@domain>` or `local@domain`, and the comments and blanks around it.
    fn mailbox(&mut self) -> Result<Address, MailboxFlaw> {
        self.skip(0)?;
        let mut words = 0;
        let mut local = "";
        while let Some(word) = self.word()? {
            words += 1;
            local = word;
        }
        match self.peek() {
            Some('@') if words == 1 => self.domain(local),
            Some('@') if words > 1 => Err(MailboxFlaw::Unexpected('@')),
            Some('<') => self.angle(),
            Some(':') if words > 0 => Err(MailboxFlaw::Group),
            None | Some(',') if words == 0 => Err(MailboxFlaw::Missing),
            None | Some(',') => Err(MailboxFlaw::NoAddress),
            Some(other) => Err(MailboxFlaw::Unexpected(other)),
        }
    }

    /// `<local@domain>`
    fn angle(&mut self) -> Result<Address, MailboxFlaw> {
        self.skip(1)?;
        if self.peek() == Some('@') {
            return Err(MailboxFlaw::Route);
        }
        let local = self.word()?;
        let address = match (local, self.peek()) {
            (_, None) => return Err(MailboxFlaw::Unclosed('<')),
            (Some(local), Some('@')) => self.domain(local)?,
            (None, Some('>')) => return Err(MailboxFlaw::NoAddress),
            (Some(local), Some('>')) => return Ok(Address::parse(local, Utf8::Allowed)?),
            (_, Some(other)) => return Err(MailboxFlaw::Unexpected(other)),
        };
        match self.peek() {
            Some('>') => self.skip(1)?,
            Some(other) => return Err(MailboxFlaw::Unexpected(other)),
            None => return Err(MailboxFlaw::Unclosed('<')),
        }
        Ok(address)
    }

    /// `@domain` after a local part.
    fn domain(&mut self, local: &str) -> Result<Address, MailboxFlaw> {
        self.skip(1)?;
        let length = match self.rest.strip_prefix('[') {
            Some(literal) => literal.find(']').ok_or(MailboxFlaw::Unclosed('['))? + 2,
            None => self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len()),
        };
        let domain = &self.rest[..length];
        self.skip(length)?;
        let mut mailbox = String::with_capacity(local.len() + 1 + domain.len());
        // A fold within a quoted string is a blank there.
        mailbox.extend(local.chars().filter(|character| !matches!(character, '\r' | '\n')));
        mailbox.push('@');
        mailbox.push_str(domain);
        Ok(Address::parse(&mailbox, Utf8::Allowed)?)
    }

    /// A run of atoms and dots, or a quoted string with its quotes.
    fn word(&mut self) -> Result<Option<&'a str>, MailboxFlaw> {
        let length = match self.peek() {
            Some('"') => quoted_octets(self.rest)?,
            _ => self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len()),
        };
        let word = &self.rest[..length];
        self.skip(length)?;
        Ok((length > 0).then_some(word))
    }

    /// Goes `octets` on, and over the comments and blanks that follow.
    fn skip(&mut self, octets: usize) -> Result<(), MailboxFlaw> {
        self.rest = &self.rest[octets..];
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
            if !self.rest.starts_with('(') {
                return Ok(());
            }
            self.rest = &self.rest[comment_octets(self.rest)?..];
        }
    }
}

/// What atoms and dots are made of (RFC 5322 section 3.2.3, RFC 6532 section 3.2).
fn is_word(character: char) -> bool {
    !character.is_control()
        && !matches!(character, ' ' | '(' | ')' | '<' | '>' | '[' | ']' | ':' | ';' | '@' | '\\' | ',' | '"')
}

fn quoted_octets(text: &str) -> Result<usize, MailboxFlaw> {
    let mut escaped = false;
    for (index, octet) in text.bytes().enumerate().skip(1) {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Ok(index + 1),
            _ => {}
        }
    }
    Err(MailboxFlaw::Unclosed('"'))
}

fn comment_octets(text: &str) -> Result<usize, MailboxFlaw> {
    let mut depth = 0usize;
    let mut escaped = false;
    for (index, octet) in text.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' => depth += 1,
            b')' if depth == 1 => return Ok(index + 1),
            b')' => depth -= 1,
            _ => {}
        }
    }
    Err(MailboxFlaw::Unclosed('('))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smtp::address::AddressError;

    use super::*;

    fn parsed(value: &str) -> Result<Vec<String>, MailboxFlaw> {
        mailbox_list(value).map(|list| list.iter().map(Address::to_string).collect())
    }

    #[test]
    fn mailboxes_are_read_as_rfc_5322_has_them() {
        for (value, addresses) in [
            (" a@example.org\r\n", vec!["a@example.org"]),
            (" A@SENDER.TEST\r\n", vec!["A@sender.test"]),
            (" Example Inc. <a@example.org>\r\n", vec!["a@example.org"]),
            (" <a@example.org>\r\n", vec!["a@example.org"]),
            (" \"b@evil.test\" <a@example.org>\r\n", vec!["a@example.org"]),
            (
                " \"Last, First\" <a@example.org>,\r\n b@example.net (B)\r\n",
                vec!["a@example.org", "b@example.net"],
            ),
            (" (one (two \\) still) a@evil.test) a (x) @ (y) example.org (z)\r\n", vec!["a@example.org"]),
            (" =?utf-8?Q?J=C3=BCrgen?= <j@example.org>\r\n", vec!["j@example.org"]),
            (" Jürgen Groß <jürgen@bücher.example>\r\n", vec!["jürgen@xn--bcher-kva.example"]),
            (" \"a b\"@example.org\r\n", vec!["\"a b\"@example.org"]),
            (" \"a\r\n b\"@example.org\r\n", vec!["\"a b\"@example.org"]),
            (" \"x\\\"y\"@example.org\r\n", vec!["\"x\\\"y\"@example.org"]),
            (" u@[192.0.2.1]\r\n", vec!["u@[192.0.2.1]"]),
            (" one two three\r\n <a@example.org>\r\n", vec!["a@example.org"]),
        ] {
            assert_eq!(parsed(value), Ok(addresses.into_iter().map(str::to_owned).collect()), "{value}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (value, flaw) in [
            ("", MailboxFlaw::Missing),
            (" \r\n", MailboxFlaw::Missing),
            (" a@example.org,", MailboxFlaw::Missing),
            (" ,a@example.org", MailboxFlaw::Missing),
            (" Example, Inc <a@example.org>", MailboxFlaw::NoAddress),
            (" <>", MailboxFlaw::NoAddress),
            (" Name", MailboxFlaw::NoAddress),
            (" <a>", MailboxFlaw::Address(AddressError::MissingHost)),
            (" friends: a@example.org, b@example.org;", MailboxFlaw::Group),
            (" <@a.test,@b.test:u@example.org>", MailboxFlaw::Route),
            (" a@example.org <b@example.net>", MailboxFlaw::AddressAsName),
            (" a@example.org b@example.net", MailboxFlaw::Unexpected('b')),
            (" b a@example.org", MailboxFlaw::Unexpected('@')),
            (" <a@example.org> <b@example.net>", MailboxFlaw::AddressAsName),
            (" <a@example.org b@example.net>", MailboxFlaw::Unexpected('b')),
            (" a@b@example.org", MailboxFlaw::Unexpected('@')),
            (" [App] <a@example.org>", MailboxFlaw::Unexpected('[')),
            (" a@example.org; b@example.org", MailboxFlaw::Unexpected(';')),
            (" a\u{1b}b@example.org", MailboxFlaw::Unexpected('\u{1b}')),
            (" \"open <a@example.org>", MailboxFlaw::Unclosed('"')),
            (" a@example.org (open", MailboxFlaw::Unclosed('(')),
            (" <a@example.org", MailboxFlaw::Unclosed('<')),
            (" <a", MailboxFlaw::Unclosed('<')),
            (" a@[192.0.2.1", MailboxFlaw::Unclosed('[')),
            (" a@[999.1.1.1]", MailboxFlaw::Address(AddressError::BadLiteral)),
            (" .a@example.org", MailboxFlaw::Address(AddressError::BadLocalPart)),
            (" a@exa_mple.org", MailboxFlaw::Address(AddressError::BadDomain)),
            (" a@example.org.", MailboxFlaw::Address(AddressError::FinalDot)),
            (" a@", MailboxFlaw::Address(AddressError::MissingHost)),
            (" @example.org", MailboxFlaw::Unexpected('@')),
        ] {
            assert_eq!(parsed(value), Err(flaw), "{value}");
        }
    }

    #[test]
    fn a_list_without_end_is_refused() {
        assert_eq!(parsed(&["a@b.test"; 100].join(",")).map(|list| list.len()), Ok(100));
        assert_eq!(parsed(&["a@b.test"; 101].join(",")), Err(MailboxFlaw::TooMany));
    }

    #[test]
    fn deep_comments_need_no_stack() {
        let value = format!(" {}a@b.test{} <x@example.org>", "(".repeat(200_000), ")".repeat(200_000));
        assert_eq!(parsed(&value), Ok(vec![String::from("x@example.org")]));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(value in "[ab@<>(),:;\"\\\\\\[\\] .\r\né]{0,40}") {
            let _ = mailbox_list(&value);
        }

        #[test]
        fn any_name_in_quotes_hides_no_address(name in "[ -~&&[^\"\\\\]]{0,40}") {
            prop_assert_eq!(parsed(&format!("\"{name}\" <a@example.org>")), Ok(vec![String::from("a@example.org")]));
        }
    }
}
