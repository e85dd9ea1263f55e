//! The body's share of a signature: relaxed canonicalisation and SHA-256, as the octets stream by.

use aws_lc_rs::digest::{Context, SHA256};
use base64::{Engine, engine::general_purpose::STANDARD};

/// SHA-256 of a body in relaxed canonical form: the `bh=` tag (RFC 6376 section 3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BodyHash([u8; 32]);

impl BodyHash {
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The value of the `bh=` tag, 44 characters.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }
}

/// Hashes a body that arrives in pieces; where it is cut makes no difference to the hash.
///
/// RFC 6376 section 3.4.4: blanks (space, tab) before a line's end go, other runs of blanks become one space,
/// empty lines at the end go, and what remains ends in CR LF; a body of nothing but empty lines is no octets at
/// all. So a body whose last line lacks its CR LF has the hash that it has on the wire, where the line is ended.
/// Only CR LF ends a line. A lone CR or LF is hashed as any other octet: it may not leave towards a receiver
/// (RFC 5321 section 2.3.8), so a body that has one is refused or repaired before it is hashed.
pub struct BodyHasher {
    sink: Sink,
    /// Line ends that have been read but not hashed, because they count only if text follows.
    line_ends: u64,
    /// Blanks have been read that count (as one space) only if text follows on their line.
    blank: bool,
    /// The last piece ended with a CR, which is half a line end only if the next begins with LF.
    carriage_return: bool,
    has_text: bool,
}

impl BodyHasher {
    #[must_use]
    pub fn new() -> Self {
        Self { sink: Sink::new(), line_ends: 0, blank: false, carriage_return: false, has_text: false }
    }

    pub fn update(&mut self, piece: &[u8]) {
        let mut rest = piece;
        if self.carriage_return && !piece.is_empty() {
            self.carriage_return = false;
            match piece {
                [b'\n', tail @ ..] => {
                    self.line_end();
                    rest = tail;
                }
                _ => self.text(b"\r"),
            }
        }
        while !rest.is_empty() {
            rest = match rest {
                [b' ' | b'\t', tail @ ..] => {
                    self.blank = true;
                    tail
                }
                [b'\r', b'\n', tail @ ..] => {
                    self.line_end();
                    tail
                }
                [b'\r'] => {
                    self.carriage_return = true;
                    &[]
                }
                _ => {
                    let (text, tail) = rest.split_at(canonical_run(rest));
                    self.text(text);
                    tail
                }
            };
        }
    }

    #[must_use]
    pub fn finish(mut self) -> BodyHash {
        if self.carriage_return {
            self.text(b"\r");
        }
        if self.has_text {
            self.sink.write(b"\r\n");
        }
        BodyHash(self.sink.finish())
    }

    fn line_end(&mut self) {
        self.blank = false;
        self.line_ends += 1;
    }

    fn text(&mut self, text: &[u8]) {
        self.has_text = true;
        for _ in 0..std::mem::take(&mut self.line_ends) {
            self.sink.write(b"\r\n");
        }
        if std::mem::take(&mut self.blank) {
            self.sink.write(b" ");
        }
        self.sink.write(text);
    }
}

impl Default for BodyHasher {
    fn default() -> Self {
        Self::new()
    }
}

/// How many octets of `text` are already in canonical form, with text as the last of them. `text` begins with
/// text, not with a blank or a line end; at least one octet is.
fn canonical_run(text: &[u8]) -> usize {
    let mut end = first_change(text);
    loop {
        // What counts only if text follows is left for the next step, which knows whether it does.
        end -= match &text[..end] {
            [_, .., b' '] => 1,
            [_, .., b'\r', b'\n'] => 2,
            [_, .., b'\r'] if end == text.len() => 1,
            _ => return end,
        };
    }
}

/// The end of the longest start of `text` in which no two neighbours need attention. Most text has few such
/// places, so whole paragraphs are hashed where they lie.
fn first_change(text: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let mut at = 0;
    while let (Some(block), Some(shifted)) = (text.get(at..at + BLOCK), text.get(at + 1..=at + BLOCK)) {
        // Without an early exit the compiler turns this into a few vector instructions.
        let found = block.iter().zip(shifted).fold(0, |found, (&a, &b)| found | u8::from(changes(a, b)));
        if found != 0 {
            break;
        }
        at += BLOCK;
    }
    let pairs = text[at..].windows(2);
    let found = pairs.map(|pair| changes(pair[0], pair[1])).position(|change| change);
    found.map_or(text.len(), |place| at + place + 1)
}

/// Whether the canonical form may differ from the input at these neighbours: a tab, a run of blanks, a blank
/// before a line's end, or an empty line.
const fn changes(a: u8, b: u8) -> bool {
    (b == b'\t') | ((a == b' ') & ((b == b' ') | (b == b'\r'))) | ((a == b'\n') & (b == b'\r'))
}

const SINK_OCTETS: usize = 512;

/// The hash, behind a small buffer: a call into the hash costs more than copying a short line.
struct Sink {
    hash: Context,
    buffer: [u8; SINK_OCTETS],
    filled: usize,
}

impl Sink {
    fn new() -> Self {
        Self { hash: Context::new(&SHA256), buffer: [0; SINK_OCTETS], filled: 0 }
    }

    fn write(&mut self, octets: &[u8]) {
        if octets.len() > SINK_OCTETS - self.filled {
            self.flush();
        }
        if octets.len() > SINK_OCTETS / 2 {
            self.flush();
            self.hash.update(octets);
        } else {
            self.buffer[self.filled..self.filled + octets.len()].copy_from_slice(octets);
            self.filled += octets.len();
        }
    }

    fn flush(&mut self) {
        self.hash.update(&self.buffer[..self.filled]);
        self.filled = 0;
    }

    fn finish(mut self) -> [u8; 32] {
        self.flush();
        let mut digest = [0; 32];
        digest.copy_from_slice(self.hash.finish().as_ref());
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::digest::digest;
    use proptest::prelude::*;

    fn hash(body: &[u8]) -> BodyHash {
        let mut hasher = BodyHasher::new();
        hasher.update(body);
        hasher.finish()
    }

    fn sha256(octets: &[u8]) -> BodyHash {
        BodyHash(digest(&SHA256, octets).as_ref().try_into().unwrap())
    }

    /// Section 3.4.4 word for word, one line after the other, with no thought of speed.
    fn canonical(body: &[u8]) -> Vec<u8> {
        let mut lines = vec![Vec::new()];
        let mut at = 0;
        while at < body.len() {
            if body[at..].starts_with(b"\r\n") {
                lines.push(Vec::new());
                at += 2;
            } else {
                lines.last_mut().unwrap().push(body[at]);
                at += 1;
            }
        }
        for line in &mut lines {
            let mut reduced = Vec::new();
            for &octet in line.iter() {
                match octet {
                    b' ' | b'\t' if reduced.last() == Some(&b' ') => {}
                    b' ' | b'\t' => reduced.push(b' '),
                    _ => reduced.push(octet),
                }
            }
            if reduced.last() == Some(&b' ') {
                reduced.pop();
            }
            *line = reduced;
        }
        while lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        lines.into_iter().flat_map(|line| [line, b"\r\n".to_vec()].concat()).collect()
    }

    #[test]
    fn the_example_of_rfc_6376_3_4_5_has_the_canonical_form_given_there() {
        assert_eq!(hash(b" C \r\nD \t E\r\n\r\n\r\n"), sha256(b" C\r\nD E\r\n"));
    }

    #[test]
    fn a_body_without_text_is_no_octets() {
        let empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        for body in ["", "\r\n", "\r\n\r\n\r\n", " ", " \t", " \r\n\t\r\n", "\r\n  "] {
            assert_eq!(hash(body.as_bytes()).to_base64(), empty, "{body:?}");
        }
    }

    #[test]
    fn blanks_and_line_ends_count_only_before_text() {
        for (body, form) in [
            ("a", "a\r\n"),
            ("a\r\n", "a\r\n"),
            ("a\r\n \t \r\n\t\r\n", "a\r\n"),
            ("a\r\n  ", "a\r\n"),
            ("a  ", "a\r\n"),
            ("\r\n\r\na", "\r\n\r\na\r\n"),
            (" \r\n\ta", "\r\n a\r\n"),
            ("a\r\n \r\n b\tc  d \r\n", "a\r\n\r\n b c d\r\n"),
            ("a\r", "a\r\r\n"),
            ("a\r\r\nb", "a\r\r\nb\r\n"),
            ("a\rb\nc\r\n", "a\rb\nc\r\n"),
            ("a \n b \r c", "a \n b \r c\r\n"),
            ("\n\r\n\r\r", "\n\r\n\r\r\r\n"),
        ] {
            assert_eq!(hash(body.as_bytes()), sha256(form.as_bytes()), "{body:?}");
        }
    }

    #[test]
    fn the_message_of_rfc_8463_has_the_body_hash_given_there() {
        let body = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
        assert_eq!(hash(body).to_base64(), "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");
    }

    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => "[a-z]{1,9}".prop_map(String::into_bytes),
            4 => Just(b" ".to_vec()),
            3 => Just(b"\r\n".to_vec()),
            1 => "[ \t]{1,3}".prop_map(String::into_bytes),
            1 => "(\r\n){2,5}".prop_map(String::into_bytes),
            1 => prop_oneof![Just(b"\r".to_vec()), Just(b"\n".to_vec()), Just(vec![0xff])],
            1 => "[a-z ]{200,900}".prop_map(String::into_bytes),
        ];
        proptest::collection::vec(piece, 0..120).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_hash_is_that_of_the_canonical_form_wherever_the_body_is_cut(
            body in bodies(),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
        ) {
            let expected = sha256(&canonical(&body));
            prop_assert_eq!(hash(&body), expected);

            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            cuts.sort_unstable();
            let mut hasher = BodyHasher::new();
            let mut from = 0;
            for cut in cuts {
                hasher.update(&body[from..cut]);
                from = cut;
            }
            hasher.update(&body[from..]);
            prop_assert_eq!(hasher.finish(), expected);

            let mut hasher = BodyHasher::new();
            for octet in &body {
                hasher.update(std::slice::from_ref(octet));
            }
            prop_assert_eq!(hasher.finish(), expected);
        }
    }
}
