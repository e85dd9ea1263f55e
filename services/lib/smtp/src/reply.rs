//! Replies (RFC 5321 section 4.2) and enhanced status codes (RFC 3463, RFC 2034).

mod reader;

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use std::str::FromStr;

pub use reader::{ReplyError, ReplyReader};

/// Most octets of a reply line with its CRLF (RFC 5321 section 4.5.3.1.5).
const LINE_OCTETS_MAX: usize = 512;

/// An enhanced status code, `class.subject.detail` (RFC 3463).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedCode {
    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    pub class: u8,
    /// What it is about: 1 addressing, 2 mailbox, 3 mail system, 4 network, 5 protocol, 6 content, 7 security.
    pub subject: u16,
    /// Which of the subject's conditions.
    pub detail: u16,
}

impl EnhancedCode {
    /// The code of these three numbers.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }
}

impl From<(u8, u16, u16)> for EnhancedCode {
    fn from((class, subject, detail): (u8, u16, u16)) -> Self {
        Self { class, subject, detail }
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// Text that isn't an enhanced status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseEnhancedCodeError;

impl fmt::Display for ParseEnhancedCodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an enhanced status code")
    }
}

impl std::error::Error for ParseEnhancedCodeError {}

impl FromStr for EnhancedCode {
    type Err = ParseEnhancedCodeError;

    fn from_str(text: &str) -> Result<Self, ParseEnhancedCodeError> {
        let mut parts = text.split('.');
        let mut number = || {
            let digits = parts.next().filter(|part| {
                (1..=3).contains(&part.len()) && part.bytes().all(|octet| octet.is_ascii_digit())
            })?;
            digits.parse::<u16>().ok()
        };
        let (Some(class), Some(subject), Some(detail)) = (number(), number(), number()) else {
            return Err(ParseEnhancedCodeError);
        };
        match (class, parts.next()) {
            (2, None) => Ok(Self::new(2, subject, detail)),
            (4, None) => Ok(Self::new(4, subject, detail)),
            (5, None) => Ok(Self::new(5, subject, detail)),
            _ => Err(ParseEnhancedCodeError),
        }
    }
}

/// What the first digit of a reply says; it alone decides (RFC 5321 section 4.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyClass {
    /// 2xx: done.
    Positive,
    /// 3xx: go on.
    Intermediate,
    /// 4xx: not now.
    Transient,
    /// 5xx: never like this.
    Permanent,
}

/// One reply: code, enhanced code and text of one or more lines.
///
/// The text never holds a control character but the line feeds between its lines, whoever it came from, so it can be
/// written, logged and reported as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    code: u16,
    enhanced: Option<EnhancedCode>,
    text: Cow<'static, str>,
}

impl Reply {
    /// A reply with an enhanced code; a line feed in the text begins the next line.
    pub fn new(code: u16, enhanced: impl Into<EnhancedCode>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, enhanced: Some(enhanced.into()), text: clean(text.into()) }
    }

    /// A reply without an enhanced code, as greetings and 3xx have it.
    pub fn bare(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, enhanced: None, text: clean(text.into()) }
    }

    pub(crate) const fn fixed(
        code: u16,
        (class, subject, detail): (u8, u16, u16),
        text: &'static str,
    ) -> Self {
        Self { code, enhanced: Some(EnhancedCode::new(class, subject, detail)), text: Cow::Borrowed(text) }
    }

    pub(crate) const fn fixed_bare(code: u16, text: &'static str) -> Self {
        Self { code, enhanced: None, text: Cow::Borrowed(text) }
    }

    /// The three digits, 200 to 599.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced code. It informs; what happens is decided by [`Reply::class`].
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        self.enhanced
    }

    /// The text without codes, lines divided by line feeds.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The lines of the text; at least one, which may be empty.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    /// What the first digit says.
    pub fn class(&self) -> ReplyClass {
        match self.code / 100 {
            0..=2 => ReplyClass::Positive,
            3 => ReplyClass::Intermediate,
            4 => ReplyClass::Transient,
            _ => ReplyClass::Permanent,
        }
    }

    /// 2xx.
    pub fn is_positive(&self) -> bool {
        self.class() == ReplyClass::Positive
    }

    /// 3xx.
    pub fn is_intermediate(&self) -> bool {
        self.class() == ReplyClass::Intermediate
    }

    /// 4xx.
    pub fn is_transient(&self) -> bool {
        self.class() == ReplyClass::Transient
    }

    /// 5xx.
    pub fn is_permanent(&self) -> bool {
        self.class() == ReplyClass::Permanent
    }

    /// Appends the wire form: the enhanced code on each line (RFC 2034 section 4), no line over 512 octets.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let prefix = match self.enhanced {
            Some(enhanced) => 5 + enhanced.to_string_octets(),
            None => 4,
        };
        let room = LINE_OCTETS_MAX - 2 - prefix;
        let mut rest = &*self.text;
        loop {
            let line = rest.split('\n').next().unwrap_or_default();
            let line = &line[..line.floor_char_boundary(room)];
            let last = line.len() == rest.len();
            self.write_line(line, if last { ' ' } else { '-' }, out);
            if last {
                return;
            }
            rest = &rest[line.len()..];
            rest = rest.strip_prefix('\n').unwrap_or(rest);
        }
    }

    fn write_line(&self, line: &str, separator: char, out: &mut Vec<u8>) {
        // Writing into a Vec can't fail.
        let _ = write!(out, "{}{separator}", self.code);
        if let Some(enhanced) = self.enhanced {
            let _ = write!(out, "{enhanced} ");
        }
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

impl EnhancedCode {
    fn to_string_octets(self) -> usize {
        let digits = |number: u16| number.checked_ilog10().map_or(1, |log| log as usize + 1);
        3 + digits(self.subject) + digits(self.detail)
    }
}

/// One line, for logs and reports: `550 5.1.1 no such user`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for line in self.lines().filter(|line| !line.is_empty()) {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

/// Characters that could end a line, hide text or move a cursor when a reply is written somewhere.
fn is_unsafe(character: char) -> bool {
    (character.is_control() && character != '\n')
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn clean(text: Cow<'static, str>) -> Cow<'static, str> {
    if !text.contains(is_unsafe) {
        return text;
    }
    let clean = |character| if is_unsafe(character) { '?' } else { character };
    text.replace("\r\n", "\n").replace('\t', " ").chars().map(clean).collect::<String>().into()
}
