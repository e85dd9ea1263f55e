//! Sending content after DATA.

use crate::scan::find_line_end;

/// Doubles the dots that begin lines and ends content with CRLF, dot, CRLF. However the content is cut, the wire is the same.
///
/// A bare CR or LF becomes CRLF, and the line after it is stuffed like any other: whatever came in, a receiver can see but
/// one message. Content that is signed must be without them before.
#[derive(Debug)]
pub struct DataEncoder {
    at_line_start: bool,
    after_cr: bool,
}

impl Default for DataEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl DataEncoder {
    /// An encoder for one message.
    pub fn new() -> Self {
        Self { at_line_start: true, after_cr: false }
    }

    /// Appends a piece of the content to `out`.
    pub fn encode(&mut self, content: &[u8], out: &mut Vec<u8>) {
        out.reserve(content.len() + content.len() / 64);
        let mut rest = content;
        while let Some(length) = find_line_end(rest) {
            self.add_text(&rest[..length], out);
            let is_cr = rest[length] == b'\r';
            // The LF of a CRLF has been written with its CR.
            if is_cr || !self.after_cr {
                out.extend_from_slice(b"\r\n");
            }
            self.after_cr = is_cr;
            self.at_line_start = true;
            rest = &rest[length + 1..];
        }
        self.add_text(rest, out);
    }

    /// Appends the end: CRLF if the last line lacks it, and the final dot.
    pub fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.at_line_start { b".\r\n" } else { b"\r\n.\r\n" });
    }

    fn add_text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        if self.at_line_start && text[0] == b'.' {
            out.push(b'.');
        }
        out.extend_from_slice(text);
        self.at_line_start = false;
        self.after_cr = false;
    }
}
