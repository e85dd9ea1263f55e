//! What the header section of a message or part says about its content, and writing it anew.

use std::ops::Range;

use super::content_type::ContentType;
use crate::header::field::{Field, fields};

/// A message or a part of one, by its header section.
pub(super) struct Entity {
    pub(super) kind: Kind,
    pub(super) encoding: Encoding,
    /// Where the Content-Transfer-Encoding field is.
    encoding_field: Option<Range<usize>>,
    /// Fields that conversion has to add, CRLF ended.
    missing: &'static str,
    has_content_type: bool,
}

/// How content can be treated.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Multipart {
        boundary: Vec<u8>,
        digest: bool,
    },
    /// message/rfc822: a header section and content of its own, that may not be encoded as a whole (RFC 2046
    /// section 5.2.1).
    Message,
    Text,
    Other,
    /// To be left alone, by its type or because it can't be read.
    Fixed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    SevenBit,
    /// `8bit` or `binary`.
    EightBit,
    /// Something else.
    Encoded,
}

impl Encoding {
    /// Whether the content is as it is.
    pub(super) fn is_identity(self) -> bool {
        matches!(self, Self::SevenBit | Self::EightBit)
    }

    fn of(field: Field<'_>) -> Self {
        let value = field.value.trim_ascii();
        if value.eq_ignore_ascii_case(b"7bit") {
            Self::SevenBit
        } else if value.eq_ignore_ascii_case(b"8bit") || value.eq_ignore_ascii_case(b"binary") {
            Self::EightBit
        } else {
            Self::Encoded
        }
    }
}

impl Entity {
    /// A message; one without MIME-Version gets it.
    pub(super) fn message(header: &[u8]) -> Self {
        let mut entity = Self::part(header);
        let has_version = fields(header).any(|field| field.is_ok_and(|field| field.is("MIME-Version")));
        if !has_version {
            entity.missing = "MIME-Version: 1.0\r\n";
        }
        entity
    }

    /// A part of multipart/digest, which is a message unless it says otherwise (RFC 2046 section 5.1.5).
    pub(super) fn part_of_digest(header: &[u8]) -> Self {
        let mut entity = Self::part(header);
        if !entity.has_content_type && entity.kind == Kind::Text && entity.encoding.is_identity() {
            entity.kind = Kind::Message;
        }
        entity
    }

    /// A part of a multipart.
    pub(super) fn part(header: &[u8]) -> Self {
        Self::read(header).unwrap_or(Self {
            kind: Kind::Fixed,
            encoding: Encoding::Encoded,
            encoding_field: None,
            missing: "",
            has_content_type: true,
        })
    }

    /// None when a field can't be read or one that counts is there twice.
    fn read(header: &[u8]) -> Option<Self> {
        let mut content_type = None;
        let mut encoding = None;
        let mut end = 0;
        for field in fields(header) {
            let field = field.ok()?;
            let start = end;
            end += field.octets.len();
            if field.is("Content-Type") && content_type.replace(ContentType::parse(field.value)?).is_some() {
                return None;
            }
            if field.is("Content-Transfer-Encoding")
                && encoding.replace((Encoding::of(field), start..end)).is_some()
            {
                return None;
            }
        }
        let has_content_type = content_type.is_some();
        let (encoding, encoding_field) = match encoding {
            Some((encoding, range)) => (encoding, Some(range)),
            None => (Encoding::SevenBit, None),
        };
        let kind = content_type.map_or(Kind::Text, |content_type| kind(content_type, encoding));
        Some(Self { kind, encoding, encoding_field, missing: "", has_content_type })
    }

    /// A header section that no empty line ends has no content to convert.
    pub(super) fn fix_unless(&mut self, has_end: bool) {
        if !has_end {
            self.kind = Kind::Fixed;
        }
    }

    /// The same for text with octets over 127: where no Content-Type says what they are, one is added
    /// (`unknown-8bit`: RFC 1428).
    pub(super) fn labelled_for(&self, content: &[u8]) -> Self {
        let missing = match (self.has_content_type, self.missing.is_empty(), str::from_utf8(content).is_ok())
        {
            (true, ..) => self.missing,
            (false, true, true) => "Content-Type: text/plain; charset=utf-8\r\n",
            (false, true, false) => "Content-Type: text/plain; charset=unknown-8bit\r\n",
            (false, false, true) => "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n",
            (false, false, false) => {
                "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
            }
        };
        Self { kind: Kind::Text, encoding_field: self.encoding_field.clone(), missing, ..*self }
    }

    /// Appends the header section with the encoding that the content has now.
    pub(super) fn write(&self, header: &[u8], encoding: &str, out: &mut Vec<u8>) {
        let changed = encoding != "7bit" || (self.kind != Kind::Fixed && self.encoding == Encoding::EightBit);
        let has_structure = matches!(self.kind, Kind::Multipart { .. } | Kind::Message);
        let Some(range) = self.encoding_field.clone().filter(|_| changed) else {
            out.extend_from_slice(header);
            if changed || has_structure {
                out.extend_from_slice(self.missing.as_bytes());
            }
            if changed {
                write_encoding(encoding, out);
            }
            return;
        };
        out.extend_from_slice(&header[..range.start]);
        write_encoding(encoding, out);
        out.extend_from_slice(&header[range.end..]);
        out.extend_from_slice(self.missing.as_bytes());
    }
}

fn write_encoding(encoding: &str, out: &mut Vec<u8>) {
    for piece in ["Content-Transfer-Encoding: ", encoding, "\r\n"] {
        out.extend_from_slice(piece.as_bytes());
    }
}

fn kind(content_type: ContentType, encoding: Encoding) -> Kind {
    let identity = encoding.is_identity();
    match (&*content_type.main, &*content_type.sub, content_type.boundary) {
        ("multipart", "signed" | "encrypted", _) => Kind::Fixed,
        ("multipart", sub, Some(boundary)) if identity => {
            Kind::Multipart { boundary, digest: sub == "digest" }
        }
        ("multipart", ..) => Kind::Fixed,
        ("message", "rfc822", _) if identity => Kind::Message,
        // RFC 6532 section 3.7, RFC 6533: these may be encoded.
        ("message", "global" | "global-headers" | "global-delivery-status", _) => Kind::Other,
        ("message", ..) => Kind::Fixed,
        ("text", ..) => Kind::Text,
        _ => Kind::Other,
    }
}
