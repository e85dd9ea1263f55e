//! Parameters of MAIL and RCPT: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), AUTH (RFC 4954), and those of DSN
//! (RFC 3461).

use std::fmt;
use std::str::FromStr;

use crate::reply::Reply;

use super::xtext::{NotXtext, Xtext};

const ENVID_OCTETS_MAX: usize = 100;
const ORCPT_OCTETS_MAX: usize = 500;

const UNKNOWN: Reply = Reply::fixed(555, (5, 5, 4), "parameter not recognized");
const TWICE: Reply = Reply::fixed(555, (5, 5, 4), "parameter given twice");
const BAD_VALUE: Reply = Reply::fixed(501, (5, 5, 4), "bad parameter value");

/// What BODY of MAIL declares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// `7BIT`, or nothing declared.
    #[default]
    SevenBit,
    /// `8BITMIME`.
    EightBitMime,
}

/// What RET of MAIL asks a DSN to give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header section.
    Headers,
}

impl fmt::Display for Ret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        })
    }
}

/// The parameters of a MAIL command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParams {
    /// Octets of the message as the client estimates them; a number over 64 bits is `u64::MAX`.
    pub size: Option<u64>,
    /// Whether octets over 127 are to be expected in the body.
    pub body: Body,
    /// Whether addresses and header fields may hold octets over 127.
    pub smtputf8: bool,
    /// How much a DSN gives back.
    pub ret: Option<Ret>,
    /// The sender's name for the envelope, repeated in DSNs.
    pub envid: Option<Xtext>,
    /// Who submitted the message, as the client claims: `<>` or an address.
    pub auth: Option<Xtext>,
}

impl MailParams {
    pub(super) fn parse(text: &str) -> Result<Self, Reply> {
        let mut params = Self::default();
        let mut seen = Seen::default();
        for (keyword, value) in words(text) {
            if keyword.eq_ignore_ascii_case("SIZE") {
                seen.once(1)?;
                params.size = Some(size(value)?);
            } else if keyword.eq_ignore_ascii_case("BODY") {
                seen.once(2)?;
                params.body = body(value)?;
            } else if keyword.eq_ignore_ascii_case("SMTPUTF8") {
                seen.once(4)?;
                if value.is_some() {
                    return Err(BAD_VALUE);
                }
                params.smtputf8 = true;
            } else if keyword.eq_ignore_ascii_case("RET") {
                seen.once(8)?;
                params.ret = Some(ret(value)?);
            } else if keyword.eq_ignore_ascii_case("ENVID") {
                seen.once(16)?;
                let value = value.filter(|value| (1..=ENVID_OCTETS_MAX).contains(&value.len()));
                params.envid = Some(xtext(value)?);
            } else if keyword.eq_ignore_ascii_case("AUTH") {
                seen.once(32)?;
                params.auth = Some(xtext(value.filter(|value| !value.is_empty()))?);
            } else {
                return Err(UNKNOWN);
            }
        }
        Ok(params)
    }
}

/// When the sender wants a DSN for a recipient (RFC 3461 section 4.1): a set of conditions, of which none is `NEVER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Notify {
    success: bool,
    failure: bool,
    delay: bool,
}

impl Notify {
    /// No DSN whatever happens; the empty set that the `with` methods add to.
    pub const NEVER: Self = Self { success: false, failure: false, delay: false };

    /// The set with success in it.
    pub const fn with_success(self) -> Self {
        Self { success: true, ..self }
    }

    /// The set with failure in it.
    pub const fn with_failure(self) -> Self {
        Self { failure: true, ..self }
    }

    /// The set with delay in it.
    pub const fn with_delay(self) -> Self {
        Self { delay: true, ..self }
    }

    /// Whether a delivery is reported.
    pub const fn success(&self) -> bool {
        self.success
    }

    /// Whether a failure is reported.
    pub const fn failure(&self) -> bool {
        self.failure
    }

    /// Whether a delay is reported.
    pub const fn delay(&self) -> bool {
        self.delay
    }

    /// Whether nothing is reported.
    pub const fn is_never(&self) -> bool {
        !(self.success || self.failure || self.delay)
    }
}

/// Text that is no value of NOTIFY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseNotifyError;

impl fmt::Display for ParseNotifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not NEVER or a list of SUCCESS, FAILURE and DELAY")
    }
}

impl std::error::Error for ParseNotifyError {}

impl FromStr for Notify {
    type Err = ParseNotifyError;

    fn from_str(text: &str) -> Result<Self, ParseNotifyError> {
        if text.eq_ignore_ascii_case("NEVER") {
            return Ok(Self::NEVER);
        }
        text.split(',').try_fold(Self::NEVER, |set, word| {
            if word.eq_ignore_ascii_case("SUCCESS") {
                Ok(set.with_success())
            } else if word.eq_ignore_ascii_case("FAILURE") {
                Ok(set.with_failure())
            } else if word.eq_ignore_ascii_case("DELAY") {
                Ok(set.with_delay())
            } else {
                Err(ParseNotifyError)
            }
        })
    }
}

/// The wire form: `NEVER` or `SUCCESS,FAILURE,DELAY`.
impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_never() {
            return f.write_str("NEVER");
        }
        let words = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let mut separator = "";
        for (_, word) in words.iter().filter(|(wanted, _)| *wanted) {
            write!(f, "{separator}{word}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// The recipient as the sender knew it (RFC 3461 section 4.2), for DSNs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Orcpt {
    /// The kind of address: `rfc822` or `utf-8` (RFC 6533), else some other atom.
    pub addr_type: String,
    /// The address, decoded, without control characters.
    pub address: String,
}

/// The decoded form, `rfc822;user@example.org`, as DSNs and stores hold it.
impl fmt::Display for Orcpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{}", self.addr_type, self.address)
    }
}

/// Text that is no value of ORCPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseOrcptError;

impl fmt::Display for ParseOrcptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an original recipient")
    }
}

impl std::error::Error for ParseOrcptError {}

/// Reads the decoded form.
impl FromStr for Orcpt {
    type Err = ParseOrcptError;

    fn from_str(text: &str) -> Result<Self, ParseOrcptError> {
        let (addr_type, address) = text.split_once(';').ok_or(ParseOrcptError)?;
        Self::new(addr_type, address.to_owned()).ok_or(ParseOrcptError)
    }
}

impl Orcpt {
    fn new(addr_type: &str, address: String) -> Option<Self> {
        let is_type = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
        let typed = !addr_type.is_empty() && addr_type.bytes().all(is_type);
        let unicode = addr_type.eq_ignore_ascii_case("utf-8") || address.is_ascii();
        let safe = !address.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
        (typed && unicode && safe && !address.is_empty())
            .then(|| Self { addr_type: addr_type.to_owned(), address })
    }

    fn decode(encoded: &str) -> Result<Self, Reply> {
        let (addr_type, address) = encoded.split_once(';').ok_or(BAD_VALUE)?;
        let address = if addr_type.eq_ignore_ascii_case("utf-8") {
            utf8_address(address).map_err(|_| BAD_VALUE)?
        } else {
            Xtext::decode(address).map_err(|_| BAD_VALUE)?.as_str().to_owned()
        };
        Self::new(addr_type, address).ok_or(BAD_VALUE)
    }

    /// The wire form: xtext, or for `utf-8` the 7-bit form of RFC 6533 section 3, which every server may be sent.
    pub fn encoded(&self) -> String {
        let mut encoded = format!("{};", self.addr_type);
        let unicode = self.addr_type.eq_ignore_ascii_case("utf-8");
        for character in self.address.chars() {
            if unicode && (!matches!(character, '!'..='~') || matches!(character, '+' | '=' | '\\')) {
                encoded.push_str(&format!("\\x{{{:02X}}}", u32::from(character)));
            } else if matches!(character, '+' | '=' | ' ') {
                encoded.push_str(&format!("+{:02X}", u32::from(character)));
            } else {
                encoded.push(character);
            }
        }
        encoded
    }
}

/// `utf-8-addr-xtext` or `utf-8-addr-unitext` of RFC 6533: `\x{E9}` stands for `é`.
fn utf8_address(encoded: &str) -> Result<String, NotXtext> {
    let mut address = String::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        address.push_str(plain);
        let (digits, after) = escaped.strip_prefix("x{").and_then(|it| it.split_once('}')).ok_or(NotXtext)?;
        let number = u32::from_str_radix(digits, 16).map_err(|_| NotXtext)?;
        address.push(char::from_u32(number).ok_or(NotXtext)?);
        rest = after;
    }
    address.push_str(rest);
    Ok(address)
}

/// The parameters of a RCPT command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcptParams {
    /// When to send a DSN; none means that the sender left it to the servers.
    pub notify: Option<Notify>,
    /// The recipient as the sender knew it.
    pub orcpt: Option<Orcpt>,
}

impl RcptParams {
    pub(super) fn parse(text: &str) -> Result<Self, Reply> {
        let mut params = Self::default();
        let mut seen = Seen::default();
        for (keyword, value) in words(text) {
            if keyword.eq_ignore_ascii_case("NOTIFY") {
                seen.once(1)?;
                params.notify = Some(value.and_then(|value| value.parse().ok()).ok_or(BAD_VALUE)?);
            } else if keyword.eq_ignore_ascii_case("ORCPT") {
                seen.once(2)?;
                let value = value.filter(|value| value.len() <= ORCPT_OCTETS_MAX).ok_or(BAD_VALUE)?;
                params.orcpt = Some(Orcpt::decode(value)?);
            } else {
                return Err(UNKNOWN);
            }
        }
        Ok(params)
    }
}

/// Which parameters have been given, a bit each.
#[derive(Default)]
struct Seen(u8);

impl Seen {
    fn once(&mut self, bit: u8) -> Result<(), Reply> {
        if self.0 & bit != 0 {
            return Err(TWICE);
        }
        self.0 |= bit;
        Ok(())
    }
}

fn words(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    })
}

fn size(value: Option<&str>) -> Result<u64, Reply> {
    let digits = value.unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(BAD_VALUE);
    }
    // All that can go wrong with digits is that they are too many: such a message is too big by any limit.
    Ok(digits.parse().unwrap_or(u64::MAX))
}

fn body(value: Option<&str>) -> Result<Body, Reply> {
    match value {
        Some(value) if value.eq_ignore_ascii_case("7BIT") => Ok(Body::SevenBit),
        Some(value) if value.eq_ignore_ascii_case("8BITMIME") => Ok(Body::EightBitMime),
        _ => Err(BAD_VALUE),
    }
}

fn ret(value: Option<&str>) -> Result<Ret, Reply> {
    match value {
        Some(value) if value.eq_ignore_ascii_case("FULL") => Ok(Ret::Full),
        Some(value) if value.eq_ignore_ascii_case("HDRS") => Ok(Ret::Headers),
        _ => Err(BAD_VALUE),
    }
}

fn xtext(value: Option<&str>) -> Result<Xtext, Reply> {
    value.and_then(|value| Xtext::decode(value).ok()).ok_or(BAD_VALUE)
}
