//! Receiving content after DATA.

use super::{Flaws, Inspector};
use crate::scan::find;

/// Takes the dots off content and finds its end, which is CRLF, dot, CRLF and nothing like it.
///
/// Content is handed on as slices of the input, unchanged but for the dots; whatever else is wrong with it is remembered,
/// so that the message can be refused as one message.
#[derive(Debug, Default)]
pub struct DataDecoder {
    state: State,
    inspector: Inspector,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// At the start, or after CRLF.
    #[default]
    LineStart,
    /// After a dot that began a line, held back.
    Dot,
    /// After that and a CR, held back as well.
    DotCr,
    /// Within a line.
    Text,
    /// Within a line, after a CR.
    TextCr,
}

/// Content that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// What was wrong with its lines.
    pub flaws: Option<Flaws>,
    /// Octets handed on: the message's size as RFC 1870 counts.
    pub octets: u64,
    /// Whether octets over 127 were among them.
    pub eight_bit: bool,
}

impl DataDecoder {
    /// A decoder for the octets that follow the reply 354.
    pub fn new() -> Self {
        Self::default()
    }

    /// Octets handed on so far.
    pub fn octets(&self) -> u64 {
        self.inspector.octets()
    }

    /// Reads on; gives the octets consumed and, when the content is complete, how it was. What follows then is commands.
    pub fn decode(&mut self, input: &[u8], sink: &mut impl FnMut(&[u8])) -> (usize, Option<End>) {
        let mut emit = |inspector: &mut Inspector, octets: &[u8]| {
            if !octets.is_empty() {
                inspector.inspect(octets);
                sink(octets);
            }
        };
        let (mut from, mut at) = (0, 0);
        while let Some(octet) = input.get(at) {
            match self.state {
                State::LineStart if *octet == b'.' => {
                    emit(&mut self.inspector, &input[from..at]);
                    at += 1;
                    from = at;
                    self.state = State::Dot;
                }
                State::Dot if *octet == b'\r' => {
                    at += 1;
                    from = at;
                    self.state = State::DotCr;
                }
                State::DotCr if *octet == b'\n' => return (at + 1, Some(self.end())),
                State::DotCr => {
                    emit(&mut self.inspector, b"\r");
                    self.state = State::TextCr;
                }
                State::LineStart | State::Dot => self.state = State::Text,
                State::Text | State::TextCr => at += self.skip_line(&input[at..]),
            }
        }
        emit(&mut self.inspector, &input[from..]);
        (input.len(), None)
    }

    /// Goes to the end of the line, or of the input, which isn't empty.
    fn skip_line(&mut self, rest: &[u8]) -> usize {
        let line = find(b'\n', rest);
        let text = &rest[..line.unwrap_or(rest.len())];
        let after_cr = text.last().map_or(self.state == State::TextCr, |last| *last == b'\r');
        self.state = match (line, after_cr) {
            (Some(_), true) => State::LineStart,
            (None, true) => State::TextCr,
            (_, false) => State::Text,
        };
        line.map_or(rest.len(), |length| length + 1)
    }

    fn end(&mut self) -> End {
        let inspector = &mut self.inspector;
        End { flaws: inspector.finish(), octets: inspector.octets(), eight_bit: inspector.has_eight_bit() }
    }
}
