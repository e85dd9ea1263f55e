//! The layout of a `DKIM-Signature` field.

/// Octets in a line, without its CR LF: the length that RFC 5322 section 2.1.1 recommends. A name that is longer
/// by itself stands on a line of its own.
const LINE_OCTETS: usize = 78;

/// Text in lines, folded only where RFC 6376 section 3.2 allows white space: between tags, after a colon of `h=`,
/// within base64.
pub(crate) struct Folded {
    text: Vec<u8>,
    column: usize,
}

impl Folded {
    pub(crate) fn resume(text: Vec<u8>) -> Self {
        let column = text.iter().rev().take_while(|octet| **octet != b'\n').count();
        Self { text, column }
    }

    pub(crate) fn word(&mut self, word: &str) {
        self.text.extend_from_slice(word.as_bytes());
        self.column += word.len();
    }

    fn fold(&mut self) {
        self.text.extend_from_slice(b"\r\n\t");
        self.column = 1;
    }

    /// A tag with its semicolon, after a space or a fold.
    pub(crate) fn tag(&mut self, parts: &[&str]) {
        let octets: usize = parts.iter().map(|part| part.len()).sum();
        if self.column + 1 + octets > LINE_OCTETS {
            self.fold();
        } else {
            self.word(" ");
        }
        parts.iter().for_each(|part| self.word(part));
    }

    /// A further part of a tag's value, after a fold if need be.
    pub(crate) fn part(&mut self, part: &str, after: &str) {
        if self.column + part.len() + after.len() > LINE_OCTETS {
            self.fold();
        }
        self.word(part);
        self.word(after);
    }

    pub(crate) fn base64(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            if self.column >= LINE_OCTETS {
                self.fold();
            }
            let (line, tail) = rest.split_at(rest.len().min(LINE_OCTETS - self.column));
            self.word(line);
            rest = tail;
        }
    }

    pub(crate) fn finish_unended(self) -> Vec<u8> {
        self.text
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.text.extend_from_slice(b"\r\n");
        self.text
    }
}
