//! Addresses, commands, lines and replies.

use smtp::address::{ADDRESS_OCTETS_MAX, Address, Domain, Host, LOCAL_OCTETS_MAX, Utf8};
use smtp::command::{Command, Orcpt, RcptParams, Xtext};
use smtp::line::{LINE_OCTETS_MAX, Line, LineReader};
use smtp::reply::{Reply, ReplyError, ReplyReader};

use super::arrivals;

/// What is taken for an address is one, within limits, and is the same when it is written and read again.
pub(crate) fn address(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let refused = Address::parse(text, Utf8::Refused);
    let Ok(address) = Address::parse(text, Utf8::Allowed) else {
        assert!(refused.is_err());
        return;
    };
    assert_eq!(refused.is_ok(), text.is_ascii());
    check_address(&address);
}

fn check_address(address: &Address) {
    let wire = address.to_string();
    assert!(address.local().len() <= LOCAL_OCTETS_MAX && wire.len() <= ADDRESS_OCTETS_MAX);
    assert!(!wire.contains(char::is_control));
    assert_eq!(Address::parse(&wire, Utf8::Allowed).as_ref(), Ok(address));
    assert_eq!(address.needs_smtputf8(), !wire.is_ascii());
    if let Host::Domain(domain) = address.host() {
        let text = domain.as_str();
        assert!(text.bytes().all(|octet| matches!(octet, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')));
        assert_eq!(domain.to_unicode().parse::<Domain>().as_ref(), Ok(domain));
        assert!(domain.is_at_or_below(domain));
    }
}

/// What is taken for a command holds nothing that could become a line, and its addresses and parameters survive.
pub(crate) fn command(line: &[u8]) {
    match Command::parse(line, Utf8::Allowed) {
        Err(reply) => assert!(reply.is_permanent(), "{reply}"),
        Ok(Command::Ehlo(name) | Command::Helo(name)) => assert!(!name.contains(char::is_control)),
        Ok(Command::Mail { from, params }) => {
            if let Some(address) = from.mailbox() {
                check_address(address);
                assert!(params.smtputf8 || !address.needs_smtputf8());
            }
            for xtext in [params.envid, params.auth].into_iter().flatten() {
                assert!(xtext.as_str().bytes().all(|octet| matches!(octet, b' '..=b'~')));
                assert_eq!(Xtext::decode(&xtext.to_string()), Ok(xtext));
            }
        }
        Ok(Command::Rcpt { to, params }) => {
            to.mailbox().into_iter().for_each(check_address);
            check_recipient_params(&params);
        }
        Ok(_) => {}
    }
}

fn check_recipient_params(params: &RcptParams) {
    if let Some(notify) = params.notify {
        assert_eq!(notify.to_string().parse(), Ok(notify));
    }
    let Some(orcpt) = &params.orcpt else { return };
    assert!(!orcpt.to_string().contains(char::is_control));
    assert_eq!(orcpt.to_string().parse::<Orcpt>().as_ref(), Ok(orcpt));
    let encoded = orcpt.encoded();
    assert!(encoded.bytes().all(|octet| matches!(octet, b'!'..=b'~')), "{encoded}");
    if encoded.len() <= 500 {
        let line = format!("RCPT TO:<a@example.org> ORCPT={encoded}");
        let again = Command::parse(line.as_bytes(), Utf8::Refused);
        assert!(matches!(again, Ok(Command::Rcpt { params, .. }) if params.orcpt.as_ref() == Some(orcpt)));
    }
}

/// Lines are what lies between CRLFs, however they arrive.
pub(crate) fn line(octets: &[u8]) {
    let expected = lines_of(octets);
    for pieces in arrivals(octets) {
        let mut reader = LineReader::new();
        let mut lines = Vec::new();
        for piece in pieces {
            let mut rest = piece;
            while !rest.is_empty() {
                let (consumed, line) = reader.push(rest);
                lines.extend(line.map(owned));
                rest = &rest[consumed..];
            }
        }
        assert_eq!(lines, expected);
    }
}

fn owned(line: Line<'_>) -> Result<Vec<u8>, &'static str> {
    match line {
        Line::Text(text) => Ok(text.to_vec()),
        Line::Broken => Err("broken"),
        Line::Overlong => Err("overlong"),
    }
}

fn lines_of(octets: &[u8]) -> Vec<Result<Vec<u8>, &'static str>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    for octet in octets {
        line.push(*octet);
        if line.ends_with(b"\r\n") {
            line.truncate(line.len() - 2);
            lines.push(if line.len() > LINE_OCTETS_MAX {
                Err("overlong")
            } else if line.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
                Err("broken")
            } else {
                Ok(line.clone())
            });
            line.clear();
        }
    }
    lines
}

/// Replies are the same however they arrive, can be written anywhere, and are the same when they are read again.
pub(crate) fn reply(octets: &[u8]) {
    let [whole, single, random] = arrivals(octets).map(|pieces| replies_of(&pieces));
    assert_eq!(whole, single);
    assert_eq!(whole, random);
    for reply in whole.iter().flatten() {
        assert!((200..=599).contains(&reply.code()));
        assert!(!reply.text().contains(|c: char| c.is_control() && c != '\n'));
        assert!(!reply.to_string().contains(char::is_control));
        let mut wire = Vec::new();
        reply.write_to(&mut wire);
        assert!(wire.split(|octet| *octet == b'\n').all(|line| line.len() < 512));
        let again = replies_of(&[&wire]);
        let [Ok(again)] = &again[..] else { panic!("{again:?}") };
        assert_eq!((again.code(), again.enhanced()), (reply.code(), reply.enhanced()));
        if reply.lines().all(|line| line.len() < 480) {
            assert_eq!(again, reply);
        }
    }
}

fn replies_of(pieces: &[&[u8]]) -> Vec<Result<Reply, ReplyError>> {
    let mut reader = ReplyReader::new();
    let mut replies = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (consumed, reply) = reader.push(rest);
            rest = &rest[consumed..];
            let failed = matches!(reply, Some(Err(_)));
            replies.extend(reply);
            if failed {
                return replies;
            }
        }
    }
    replies
}
