//! Reading a server's replies, whatever way they are cut.

use std::borrow::Cow;
use std::fmt;

use super::{EnhancedCode, Reply, clean};

/// Most lines of a reply.
const LINES_MAX: usize = 512;
/// Most octets of a reply on the wire.
const OCTETS_MAX: usize = 64 * 1024;
/// Octets of text that are kept; what is over it is read and dropped.
const TEXT_OCTETS_MAX: usize = 8 * 1024;

/// Why octets are no reply. The connection is of no further use: which reply belongs to which command is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// A line doesn't begin with a code of 200 to 599 and a space, a hyphen or its end.
    Malformed,
    /// The lines of one reply have different codes.
    MixedCodes,
    /// More than 512 lines or 64 KiB.
    TooLong,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed reply",
            Self::MixedCodes => "reply with different codes in its lines",
            Self::TooLong => "reply without an end",
        })
    }
}

impl std::error::Error for ReplyError {}

/// Reads replies out of octets in pieces of any size. After an error it must not be used again.
#[derive(Debug, Default)]
pub struct ReplyReader {
    line: Vec<u8>,
    octets: usize,
    lines: usize,
    code: Option<u16>,
    enhanced: Option<EnhancedCode>,
    text: String,
    after_bare_lf: bool,
}

impl ReplyReader {
    /// A reader at the start of a reply.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it is between replies: nothing of a next one has been read.
    pub fn is_between_replies(&self) -> bool {
        self.octets == 0
    }

    /// Reads on; gives the octets consumed, and a reply when one is complete. Call it again with the rest for the next.
    pub fn push(&mut self, input: &[u8]) -> (usize, Option<Result<Reply, ReplyError>>) {
        let mut consumed = 0;
        while let Some(length) = input[consumed..].iter().position(|octet| *octet == b'\n') {
            let piece = &input[consumed..consumed + length];
            consumed += length + 1;
            match self.end_line(piece) {
                Ok(None) => {}
                Ok(Some(reply)) => return (consumed, Some(Ok(reply))),
                Err(error) => return (consumed, Some(Err(error))),
            }
        }
        let rest = &input[consumed..];
        self.octets += rest.len();
        if self.octets > OCTETS_MAX {
            return (input.len(), Some(Err(ReplyError::TooLong)));
        }
        self.line.extend_from_slice(rest);
        (input.len(), None)
    }

    fn end_line(&mut self, piece: &[u8]) -> Result<Option<Reply>, ReplyError> {
        self.octets += piece.len() + 1;
        self.lines += 1;
        if self.octets > OCTETS_MAX || self.lines > LINES_MAX {
            return Err(ReplyError::TooLong);
        }
        self.line.extend_from_slice(piece);
        let line = std::mem::take(&mut self.line);
        let end = self.take_line(&line);
        self.line = line;
        self.line.clear();
        match end? {
            End::Goes => Ok(None),
            End::Done => Ok(Some(self.finish())),
        }
    }

    fn take_line(&mut self, line: &[u8]) -> Result<End, ReplyError> {
        let after_bare_lf = self.after_bare_lf;
        let (line, bare_lf) = match line.strip_suffix(b"\r") {
            Some(line) => (line, false),
            None => (line, true),
        };
        self.after_bare_lf = bare_lf;
        let Some((code, end, text)) = split_line(line) else {
            // A server that lets a bare LF into its text didn't mean to end the line there; the code already read stands.
            if after_bare_lf && self.code.is_some() {
                self.add_text(line);
                return Ok(End::Goes);
            }
            return Err(ReplyError::Malformed);
        };
        if self.code.is_some_and(|first| first != code) {
            return Err(ReplyError::MixedCodes);
        }
        let text = self.without_enhanced(text);
        self.add_text(text);
        self.code = Some(code);
        Ok(end)
    }

    /// Takes the enhanced code off a line: the first line's is the reply's, others repeat it.
    fn without_enhanced<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        let is_space = |octet: &u8| matches!(octet, b' ' | b'\t');
        let length = text.iter().position(is_space).unwrap_or(text.len());
        let found = std::str::from_utf8(&text[..length]).ok().and_then(|word| word.parse().ok());
        let Some(found) = found else { return text };
        if self.code.is_none() {
            self.enhanced = Some(found);
        }
        if self.enhanced == Some(found) { text.get(length + 1..).unwrap_or_default() } else { text }
    }

    fn add_text(&mut self, text: &[u8]) {
        if self.code.is_some() && self.text.len() < TEXT_OCTETS_MAX {
            self.text.push('\n');
        }
        let text = String::from_utf8_lossy(text);
        let room = TEXT_OCTETS_MAX.saturating_sub(self.text.len());
        self.text.push_str(&text[..text.floor_char_boundary(room)]);
    }

    fn finish(&mut self) -> Reply {
        let text = clean(Cow::Owned(std::mem::take(&mut self.text)));
        let reply = Reply { code: self.code.unwrap_or_default(), enhanced: self.enhanced, text };
        *self = Self { line: std::mem::take(&mut self.line), ..Self::default() };
        reply
    }
}

enum End {
    Goes,
    Done,
}

fn split_line(line: &[u8]) -> Option<(u16, End, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    if !(200..=599).contains(&code) {
        return None;
    }
    match rest.split_first() {
        None => Some((code, End::Done, rest)),
        Some((b' ' | b'\t', text)) => Some((code, End::Done, text)),
        Some((b'-', text)) => Some((code, End::Goes, text)),
        Some(_) => None,
    }
}
