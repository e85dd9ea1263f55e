//! Finding the end of the header section in a stream that is cut anywhere.

use super::field::LINE_OCTETS_MAX;
use super::{HeaderError, Limits, LineFlaw, Prepared, Trace, prepare};

/// Takes the octets of a message, keeps its header section and hands the body through.
///
/// ```
/// # use mail::header::{HeaderReader, Limits};
/// let mut reader = HeaderReader::new(Limits::default());
/// assert_eq!(reader.push(b"From: a@example.org\r"), b"");
/// assert_eq!(reader.push(b"\n\r\nfirst line"), b"first line");
/// assert_eq!(reader.push(b" of the body"), b" of the body");
/// ```
///
/// It keeps at most [`Limits::header_octets_max`] octets, and none once the header section is known to be
/// refused.
#[derive(Debug)]
pub struct HeaderReader {
    limits: Limits,
    section: Vec<u8>,
    /// Where the line begins that isn't complete yet.
    line_start: usize,
    lines: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Header,
    Body,
    Refused(HeaderError),
}

impl HeaderReader {
    /// A reader for one message.
    pub fn new(limits: Limits) -> Self {
        Self { limits, section: Vec::new(), line_start: 0, lines: 0, place: Place::Header }
    }

    /// Takes the next octets and returns those of them that are of the body: they follow the empty line,
    /// which is of neither. Once the header section is refused, nothing is of the body.
    pub fn push<'a>(&mut self, octets: &'a [u8]) -> &'a [u8] {
        match self.place {
            Place::Header => self.read(octets),
            Place::Body => octets,
            Place::Refused(_) => &[],
        }
    }

    /// Why the message will be refused, if that is known before its end.
    pub fn refusal(&self) -> Option<&HeaderError> {
        match &self.place {
            Place::Refused(error) => Some(error),
            Place::Header | Place::Body => None,
        }
    }

    /// The message is complete: checks its header section and makes the one that goes on.
    ///
    /// # Errors
    /// When the header section is refused; see the table of [this module](super).
    pub fn finish(mut self, trace: &Trace<'_>) -> Result<Prepared, HeaderError> {
        if let Place::Refused(error) = self.place {
            return Err(error);
        }
        if self.line_start < self.section.len() {
            // Only BDAT (RFC 3030) can end a message within a line; here that line is a field's last one.
            self.section.extend_from_slice(b"\r\n");
        }
        let octets_max = self.limits.header_octets_max;
        if self.section.len() > octets_max {
            return Err(HeaderError::TooLarge { octets_max });
        }
        prepare::prepare(&self.section, self.limits.received_max, trace)
    }

    fn read<'a>(&mut self, octets: &'a [u8]) -> &'a [u8] {
        let mut rest = octets;
        while let Some(line_feed) = rest.iter().position(|octet| *octet == b'\n') {
            let (piece, after) = rest.split_at(line_feed + 1);
            if !self.keep(piece) {
                return &[];
            }
            rest = after;
            self.lines += 1;
            if &self.section[self.line_start..] == b"\r\n" {
                self.section.truncate(self.line_start);
                self.place = Place::Body;
                return rest;
            }
            self.line_start = self.section.len();
        }
        self.keep(rest);
        &[]
    }

    /// Whether the piece of a line could be kept.
    fn keep(&mut self, piece: &[u8]) -> bool {
        let octets_max = self.limits.header_octets_max;
        // The empty line isn't of the section but passes through it.
        let fits = self.section.len() + piece.len() <= octets_max.saturating_add(2);
        if !fits {
            return self.refuse(HeaderError::TooLarge { octets_max });
        }
        self.section.extend_from_slice(piece);
        if self.section.len() - self.line_start > LINE_OCTETS_MAX + 2 {
            return self.refuse(HeaderError::Line { line: self.lines + 1, flaw: LineFlaw::TooLong });
        }
        true
    }

    fn refuse(&mut self, error: HeaderError) -> bool {
        self.section = Vec::new();
        self.place = Place::Refused(error);
        false
    }
}
