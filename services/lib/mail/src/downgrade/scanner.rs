//! Cutting a body at the delimiters of the multiparts that are open.

use std::collections::HashMap;

/// Most multiparts in one another.
const DEPTH_MAX: usize = 100;
/// Most octets of a boundary: RFC 2046 has 70, some writers more.
const BOUNDARY_OCTETS_MAX: usize = 200;

/// Goes over a body once.
pub(super) struct Scanner<'a> {
    body: &'a [u8],
    at: usize,
    open: Vec<Multipart>,
    /// The innermost multipart that has this boundary, by its place in `open`.
    places: HashMap<Vec<u8>, usize>,
}

/// A multipart whose end hasn't come.
struct Multipart {
    boundary: Vec<u8>,
    /// An outer one with the same boundary.
    hidden: Option<usize>,
    digest: bool,
}

/// What comes after a delimiter.
pub(super) enum Follows {
    Part,
    PartOfDigest,
    /// Text after the last part.
    Epilogue,
}

/// The line between two parts or after the last.
pub(super) struct Delimiter<'a> {
    /// The line with the CRLF before it, if that is no other line's.
    pub(super) octets: &'a [u8],
    place: usize,
    closes: bool,
}

/// The header section of a part.
pub(super) struct Head<'a> {
    /// Without the empty line after it.
    pub(super) octets: &'a [u8],
    /// Whether there was an empty line.
    pub(super) has_end: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0, open: Vec::new(), places: HashMap::new() }
    }

    /// A multipart begins. None when there are too many, or its boundary can't be one.
    pub(super) fn open(&mut self, boundary: &[u8], digest: bool) -> Option<()> {
        let fits =
            (1..=BOUNDARY_OCTETS_MAX).contains(&boundary.len()) && boundary.trim_ascii_end() == boundary;
        if !fits || self.open.len() == DEPTH_MAX {
            return None;
        }
        let hidden = self.places.insert(boundary.to_vec(), self.open.len());
        self.open.push(Multipart { boundary: boundary.to_vec(), hidden, digest });
        Some(())
    }

    /// Ends all multiparts that a delimiter ends.
    pub(super) fn arrive(&mut self, delimiter: &Delimiter<'_>) -> Follows {
        let left = delimiter.place + usize::from(!delimiter.closes);
        for ended in self.open.drain(left..).rev() {
            match ended.hidden {
                Some(place) => self.places.insert(ended.boundary, place),
                None => self.places.remove(&ended.boundary),
            };
        }
        match self.open.last() {
            Some(multipart) if !delimiter.closes && multipart.digest => Follows::PartOfDigest,
            Some(_) if !delimiter.closes => Follows::Part,
            _ => Follows::Epilogue,
        }
    }

    /// Whether the delimiter begins or ends a part of the innermost multipart.
    pub(super) fn is_innermost(&self, delimiter: &Delimiter<'_>) -> bool {
        delimiter.place + 1 == self.open.len()
    }

    /// The header section that begins here: up to an empty line, which is passed, or a delimiter, which is
    /// not.
    pub(super) fn head(&mut self) -> Head<'a> {
        let start = self.at;
        while let Some(line) = self.line() {
            if line == b"\r\n" {
                let octets = &self.body[start..self.at];
                self.at += 2;
                return Head { octets, has_end: true };
            }
            if self.delimiter(line).is_some() {
                break;
            }
            self.at += line.len();
        }
        Head { octets: &self.body[start..self.at], has_end: false }
    }

    /// All up to the next delimiter, which is passed, or to the end.
    pub(super) fn cut(&mut self) -> (&'a [u8], Option<Delimiter<'a>>) {
        let start = self.at;
        while let Some(line) = self.line() {
            let found = self.delimiter(line);
            let line_start = self.at;
            self.at += line.len();
            if let Some((place, closes)) = found {
                let before = &self.body[start..line_start];
                let content = before.strip_suffix(b"\r\n").unwrap_or(before);
                let octets = &self.body[start + content.len()..self.at];
                return (content, Some(Delimiter { octets, place, closes }));
            }
        }
        (&self.body[start..], None)
    }

    fn line(&self) -> Option<&'a [u8]> {
        let rest = &self.body[self.at..];
        let length = rest.iter().position(|octet| *octet == b'\n').map_or(rest.len(), |index| index + 1);
        (length > 0).then(|| &rest[..length])
    }

    /// The multipart whose delimiter the line is, and whether it ends it (RFC 2046 section 5.1.1).
    fn delimiter(&self, line: &[u8]) -> Option<(usize, bool)> {
        let boundary = line.strip_prefix(b"--")?.trim_ascii_end();
        if boundary.len() > BOUNDARY_OCTETS_MAX + 2 {
            return None;
        }
        let place = |boundary: &[u8]| self.places.get(boundary).copied();
        match place(boundary) {
            Some(place) => Some((place, false)),
            None => place(boundary.strip_suffix(b"--")?).map(|place| (place, true)),
        }
    }
}
