//! Command lines: ended by CRLF and by nothing else (RFC 5321 section 2.3.8).

use crate::scan::find;

/// Most octets of a line, of AUTH with its longest response (RFC 4954 section 4.5).
pub const LINE_OCTETS_MAX: usize = 12_288;

/// Reads lines out of octets in pieces of any size, in bounded memory.
#[derive(Debug, Default)]
pub struct LineReader {
    /// The line so far, when it didn't come in one piece.
    partial: Vec<u8>,
    /// Whether `partial` was handed out and is done with.
    spent: bool,
    overlong: bool,
    after_cr: bool,
}

/// A line without its CRLF.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// Octets without CR, LF and NUL.
    Text(&'a [u8]),
    /// There was a bare CR, a bare LF or a NUL in it.
    Broken,
    /// It had more than [`LINE_OCTETS_MAX`] octets.
    Overlong,
}

impl LineReader {
    /// A reader at the start of a line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on; gives the octets consumed, and a line when one is complete. Call it again with the rest for the next.
    pub fn push<'a>(&'a mut self, input: &'a [u8]) -> (usize, Option<Line<'a>>) {
        if self.spent {
            self.partial.clear();
            self.spent = false;
        }
        let mut from = 0;
        while let Some(found) = find(b'\n', &input[from..]) {
            let at = from + found;
            let after_cr = if at == 0 { self.after_cr } else { input[at - 1] == b'\r' };
            if after_cr {
                return (at + 1, Some(self.end(&input[..at])));
            }
            from = at + 1;
        }
        if let Some(last) = input.last() {
            self.after_cr = *last == b'\r';
            self.keep(input);
        }
        (input.len(), None)
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.overlong || self.partial.len() + piece.len() > LINE_OCTETS_MAX + 1 {
            self.overlong = true;
            self.partial.clear();
        } else {
            self.partial.extend_from_slice(piece);
        }
    }

    /// Ends a line whose last piece ends in the CR, unless the piece is empty and the CR came before.
    fn end<'a>(&'a mut self, piece: &'a [u8]) -> Line<'a> {
        let whole = self.partial.is_empty() && !self.overlong;
        if !whole {
            self.keep(piece);
        }
        self.spent = true;
        self.after_cr = false;
        if std::mem::take(&mut self.overlong) {
            return Line::Overlong;
        }
        let line: &[u8] = if whole { piece } else { &self.partial };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > LINE_OCTETS_MAX {
            Line::Overlong
        } else if line.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            Line::Broken
        } else {
            Line::Text(line)
        }
    }
}

/// The kind alone: a line may hold a password.
impl std::fmt::Debug for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text(..)",
            Self::Broken => "Broken",
            Self::Overlong => "Overlong",
        })
    }
}
