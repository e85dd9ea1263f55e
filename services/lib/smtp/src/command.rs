//! Commands (RFC 5321 section 4.1.1 and the extensions' verbs).

mod params;
mod xtext;

use std::fmt;

use crate::address::{AddressError, ForwardPath, ReversePath, Utf8, path};
use crate::reply::Reply;

pub use params::{Body, MailParams, Notify, Orcpt, RcptParams, Ret};
pub use xtext::{NotXtext, Xtext};

/// Most octets of a client's name for itself (RFC 5321 section 4.5.3.1.2).
const NAME_OCTETS_MAX: usize = 255;

/// One command, borrowing from its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `EHLO name`; the name is as sent, without controls.
    Ehlo(&'a str),
    /// `HELO name`.
    Helo(&'a str),
    /// `MAIL FROM:<reverse-path> params`.
    Mail {
        /// The reverse-path.
        from: ReversePath,
        /// Its parameters.
        params: MailParams,
    },
    /// `RCPT TO:<forward-path> params`.
    Rcpt {
        /// The forward-path.
        to: ForwardPath,
        /// Its parameters.
        params: RcptParams,
    },
    /// `DATA`.
    Data,
    /// `BDAT size [LAST]` (RFC 3030).
    Bdat {
        /// Octets that follow the command's CRLF.
        size: u64,
        /// Whether the message ends with them.
        last: bool,
    },
    /// `RSET`.
    Rset,
    /// `NOOP`, whatever follows it.
    Noop,
    /// `QUIT`.
    Quit,
    /// `VRFY`, whatever follows it.
    Vrfy,
    /// `EXPN`, whatever follows it.
    Expn,
    /// `HELP`, whatever follows it.
    Help,
    /// `STARTTLS` (RFC 3207).
    StartTls,
    /// `AUTH mechanism [initial-response]` (RFC 4954).
    Auth {
        /// How the client proves who it is.
        mechanism: Mechanism,
        /// The initial response, still in base64; `=` stands for an empty one.
        initial: Option<InitialResponse<'a>>,
    },
}

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// Asks for name and password one after the other; never standardised, used everywhere.
    Login,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        })
    }
}

/// An initial response as sent. It holds a password: debug output doesn't show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InitialResponse<'a>(pub(crate) &'a str);

impl<'a> InitialResponse<'a> {
    /// The base64 text.
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

impl fmt::Debug for InitialResponse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InitialResponse(..)")
    }
}

const UNKNOWN: Reply = Reply::fixed(500, (5, 5, 1), "command not recognized");
const NOT_TEXT: Reply = Reply::fixed(500, (5, 5, 2), "command is not UTF-8 text");
const BAD_SYNTAX: Reply = Reply::fixed(501, (5, 5, 4), "syntax error in arguments");
const BAD_NAME: Reply = Reply::fixed(501, (5, 5, 2), "bad host name");
const NO_ARGUMENTS: Reply = Reply::fixed(501, (5, 5, 4), "command takes no arguments");
const BAD_MECHANISM: Reply = Reply::fixed(504, (5, 5, 4), "authentication mechanism not supported");

impl<'a> Command<'a> {
    /// Reads one line, without its CRLF. `utf8` says whether a RCPT may hold octets over 127: it may when its transaction's
    /// MAIL had SMTPUTF8. MAIL itself is judged by its own parameters.
    ///
    /// # Errors
    /// The reply that the client gets.
    pub fn parse(line: &'a [u8], utf8: Utf8) -> Result<Self, Reply> {
        let line = line.trim_ascii_end();
        let space = line.iter().position(|octet| *octet == b' ').unwrap_or(line.len());
        let (verb, arguments) = line.split_at(space);
        let mut upper = [0; 8];
        let verb = upper.get_mut(..verb.len()).map(|upper| {
            upper.copy_from_slice(verb);
            upper.make_ascii_uppercase();
            &*upper
        });
        let text = || std::str::from_utf8(arguments).map(str::trim_start).map_err(|_| NOT_TEXT);
        match verb.ok_or(UNKNOWN)? {
            b"EHLO" => name(text()).map(Self::Ehlo),
            b"HELO" => name(text()).map(Self::Helo),
            b"MAIL" => mail(arguments),
            b"RCPT" => rcpt(arguments, utf8),
            b"DATA" => alone(Self::Data, arguments),
            b"BDAT" => bdat(text()?),
            b"RSET" => alone(Self::Rset, arguments),
            b"NOOP" => Ok(Self::Noop),
            b"QUIT" => alone(Self::Quit, arguments),
            b"VRFY" => Ok(Self::Vrfy),
            b"EXPN" => Ok(Self::Expn),
            b"HELP" => Ok(Self::Help),
            b"STARTTLS" => alone(Self::StartTls, arguments),
            b"AUTH" => auth(text()?),
            _ => Err(UNKNOWN),
        }
    }
}

fn alone<'a>(command: Command<'a>, arguments: &[u8]) -> Result<Command<'a>, Reply> {
    if arguments.is_empty() { Ok(command) } else { Err(NO_ARGUMENTS) }
}

/// Names are taken leniently: what clients call themselves is rarely right and decides nothing here.
fn name(text: Result<&str, Reply>) -> Result<&str, Reply> {
    let name = text.map_err(|_| BAD_NAME)?;
    if name.is_empty() {
        return Err(BAD_SYNTAX);
    }
    if name.len() > NAME_OCTETS_MAX || name.contains(char::is_control) {
        return Err(BAD_NAME);
    }
    Ok(name)
}

fn mail(arguments: &[u8]) -> Result<Command<'_>, Reply> {
    let text =
        std::str::from_utf8(arguments).map_err(|_| reverse_path_refusal(AddressError::BadLocalPart))?;
    let (path, rest) = path_and_rest(text, "FROM:", reverse_path_refusal)?;
    let params = MailParams::parse(rest)?;
    let utf8 = if params.smtputf8 { Utf8::Allowed } else { Utf8::Refused };
    let from = ReversePath::parse(path, utf8).map_err(reverse_path_refusal)?;
    Ok(Command::Mail { from, params })
}

fn rcpt(arguments: &[u8], utf8: Utf8) -> Result<Command<'_>, Reply> {
    let text =
        std::str::from_utf8(arguments).map_err(|_| forward_path_refusal(AddressError::BadLocalPart))?;
    let (path, rest) = path_and_rest(text, "TO:", forward_path_refusal)?;
    let params = RcptParams::parse(rest)?;
    let to = ForwardPath::parse(path, utf8).map_err(forward_path_refusal)?;
    Ok(Command::Rcpt { to, params })
}

/// `keyword <path> params`, with the space after the colon that RFC 5321 forbids and many clients send.
fn path_and_rest<'a>(
    text: &'a str,
    keyword: &str,
    refusal: fn(AddressError) -> Reply,
) -> Result<(&'a str, &'a str), Reply> {
    let text = text.trim_start_matches(' ');
    let (found, path) = text.split_at_checked(keyword.len()).ok_or(BAD_SYNTAX)?;
    if !found.eq_ignore_ascii_case(keyword) {
        return Err(BAD_SYNTAX);
    }
    let (path, rest) = path::bracketed(path.trim_start_matches(' ')).map_err(refusal)?;
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(BAD_SYNTAX);
    }
    Ok((path, rest))
}

const UTF8_NOT_ASKED: Reply = Reply::fixed(553, (5, 6, 7), "non-ASCII address without SMTPUTF8");
const BAD_DOMAIN: Reply = Reply::fixed(501, (5, 1, 2), "bad domain name");

fn reverse_path_refusal(error: AddressError) -> Reply {
    match error {
        AddressError::NeedsSmtpUtf8 => UTF8_NOT_ASKED,
        AddressError::BadDomain => BAD_DOMAIN,
        AddressError::TooLong => Reply::fixed(501, (5, 1, 7), "sender address too long"),
        _ => Reply::fixed(501, (5, 1, 7), "bad sender address syntax"),
    }
}

fn forward_path_refusal(error: AddressError) -> Reply {
    match error {
        AddressError::NeedsSmtpUtf8 => UTF8_NOT_ASKED,
        AddressError::BadDomain => BAD_DOMAIN,
        AddressError::TooLong => Reply::fixed(501, (5, 1, 3), "recipient address too long"),
        _ => Reply::fixed(501, (5, 1, 3), "bad recipient address syntax"),
    }
}

fn bdat(text: &str) -> Result<Command<'_>, Reply> {
    let mut words = text.split_ascii_whitespace();
    let size = words.next().filter(|digits| digits.bytes().all(|octet| octet.is_ascii_digit()));
    let size = size.and_then(|digits| digits.parse().ok()).ok_or(BAD_SYNTAX)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(BAD_SYNTAX),
    };
    if words.next().is_some() { Err(BAD_SYNTAX) } else { Ok(Command::Bdat { size, last }) }
}

fn auth(text: &str) -> Result<Command<'_>, Reply> {
    let mut words = text.split_ascii_whitespace();
    let mechanism = match words.next().ok_or(BAD_SYNTAX)? {
        word if word.eq_ignore_ascii_case("PLAIN") => Mechanism::Plain,
        word if word.eq_ignore_ascii_case("LOGIN") => Mechanism::Login,
        _ => return Err(BAD_MECHANISM),
    };
    let initial = words.next().map(InitialResponse);
    if words.next().is_some() { Err(BAD_SYNTAX) } else { Ok(Command::Auth { mechanism, initial }) }
}
