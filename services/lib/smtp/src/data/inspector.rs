//! Watching content for flaws as it passes.

use super::{Flaws, LINE_OCTETS_MAX};
use crate::scan::find;

/// What content has shown so far; the pieces may be cut anywhere.
#[derive(Debug, Default)]
pub(crate) struct Inspector {
    flaws: Flaws,
    octets: u64,
    eight_bit: bool,
    /// Octets of the current line so far, a CR at its end included.
    line_octets: u64,
    after_cr: bool,
}

impl Inspector {
    pub(crate) fn inspect(&mut self, piece: &[u8]) {
        self.octets += piece.len() as u64;
        self.eight_bit |= !piece.is_ascii();
        self.flaws.nul |= piece.contains(&0);
        let mut rest = piece;
        while let Some(length) = find(b'\n', rest) {
            self.add(&rest[..length]);
            self.end_line();
            rest = &rest[length + 1..];
        }
        self.add(rest);
    }

    pub(crate) fn octets(&self) -> u64 {
        self.octets
    }

    pub(crate) fn has_eight_bit(&self) -> bool {
        self.eight_bit
    }

    /// The flaws of content that ends here, if it has any.
    pub(crate) fn finish(&mut self) -> Option<Flaws> {
        self.flaws.bare_cr |= self.after_cr;
        self.flaws.long_line |= self.line_octets > LINE_OCTETS_MAX;
        (self.flaws != Flaws::default()).then_some(self.flaws)
    }

    /// Adds octets of the current line, without LF.
    fn add(&mut self, piece: &[u8]) {
        let Some((last, before)) = piece.split_last() else { return };
        self.flaws.bare_cr |= self.after_cr || find(b'\r', before).is_some();
        self.after_cr = *last == b'\r';
        self.line_octets += piece.len() as u64;
    }

    fn end_line(&mut self) {
        self.flaws.bare_lf |= !self.after_cr;
        self.flaws.long_line |= self.line_octets - u64::from(self.after_cr) > LINE_OCTETS_MAX;
        self.line_octets = 0;
        self.after_cr = false;
    }
}
