//! A message for receivers that take no octet over 127 (RFC 6152 section 3): what has such octets is encoded,
//! all else stays.
//!
//! ```text
//! multipart/mixed, 8bit             -> 7bit
//!   text/plain, 8bit                -> quoted-printable
//!   image/png, base64                  (as it is)
//!   application/json, binary        -> base64
//!   message/rfc822, 8bit            -> 7bit
//!     text/html, 8bit               -> quoted-printable
//! ```
//!
//! It changes what a signature over the body covers, so it comes before signing. Where a faithful conversion
//! isn't possible there is none, and the message can't go there (5.6.3): multipart/signed and
//! multipart/encrypted with octets over 127, parts that are encoded and have such octets all the same, header
//! fields with them (these need SMTPUTF8), MIME that can't be read, or over 100 multiparts in one another. In
//! text before the first and after the last part of a multipart, which nobody reads (RFC 2046 section 5.1.1),
//! octets over 127 become `?`.
//!
//! Nothing here recurses, and time is linear in the size of the message.

mod content_type;
mod entity;
mod scanner;

use crate::transfer_encoding;
use entity::{Entity, Kind};
use scanner::{Delimiter, Follows, Head, Scanner};

/// The message without octets over 127: header section and body, divided as they come in. `header` is without
/// the empty line after it, `body` what follows that line.
///
/// None when it can't be converted faithfully.
pub fn to_seven_bit(header: &[u8], body: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut converter = Converter {
        scanner: Scanner::new(body),
        header: Vec::with_capacity(header.len() + 128),
        body: Vec::with_capacity(body.len() + body.len() / 4),
        is_top: true,
    };
    converter.convert(header)?;
    let Converter { header, body, .. } = converter;
    (header.is_ascii() && body.is_ascii()).then_some((header, body))
}

struct Converter<'a> {
    scanner: Scanner<'a>,
    header: Vec<u8>,
    body: Vec<u8>,
    /// Whether the next header section to be written is that of the message.
    is_top: bool,
}

impl<'a> Converter<'a> {
    fn convert(&mut self, header: &'a [u8]) -> Option<()> {
        let mut head = Head { octets: header, has_end: true };
        let mut entity = Entity::message(header);
        loop {
            let mut delimiter = match entity.kind {
                Kind::Message => {
                    self.write_head(&head, &entity, "7bit");
                    head = self.scanner.head();
                    entity = Entity::message(head.octets);
                    entity.fix_unless(head.has_end);
                    continue;
                }
                Kind::Multipart { ref boundary, digest } => {
                    self.write_head(&head, &entity, "7bit");
                    self.scanner.open(boundary, digest)?;
                    self.preamble()?
                }
                Kind::Text | Kind::Other | Kind::Fixed => self.leaf(&head, &entity)?,
            };
            loop {
                let Some(found) = delimiter else { return Some(()) };
                self.body.extend_from_slice(found.octets);
                let read = match self.scanner.arrive(&found) {
                    Follows::Part => Entity::part,
                    Follows::PartOfDigest => Entity::part_of_digest,
                    Follows::Epilogue => {
                        delimiter = self.epilogue();
                        continue;
                    }
                };
                head = self.scanner.head();
                entity = read(head.octets);
                entity.fix_unless(head.has_end);
                break;
            }
        }
    }

    /// A part that holds no others. The outer option is of the conversion, the inner of what follows.
    fn leaf(&mut self, head: &Head<'a>, entity: &Entity) -> Option<Option<Delimiter<'a>>> {
        let (content, delimiter) = self.scanner.cut();
        if content.is_ascii() {
            self.write_head(head, entity, "7bit");
            self.body.extend_from_slice(content);
            return Some(delimiter);
        }
        match entity.kind {
            Kind::Text if entity.encoding.is_identity() => {
                self.write_head(head, &entity.labelled_for(content), "quoted-printable");
                transfer_encoding::quoted_printable(content, &mut self.body);
            }
            Kind::Other if entity.encoding.is_identity() => {
                self.write_head(head, entity, "base64");
                transfer_encoding::base64(content, &mut self.body);
                if delimiter.is_none() {
                    self.body.extend_from_slice(b"\r\n");
                }
            }
            _ => return None,
        }
        Some(delimiter)
    }

    /// What precedes the first part. Where no part follows, it may be what people read: then it has to be in
    /// 7 bits.
    fn preamble(&mut self) -> Option<Option<Delimiter<'a>>> {
        let (content, delimiter) = self.scanner.cut();
        let followed = delimiter.as_ref().is_some_and(|delimiter| self.scanner.is_innermost(delimiter));
        if !followed && !content.is_ascii() {
            return None;
        }
        self.write_masked(content);
        Some(delimiter)
    }

    fn epilogue(&mut self) -> Option<Delimiter<'a>> {
        let (content, delimiter) = self.scanner.cut();
        self.write_masked(content);
        delimiter
    }

    fn write_masked(&mut self, content: &[u8]) {
        self.body.extend(content.iter().map(|octet| if octet.is_ascii() { *octet } else { b'?' }));
    }

    fn write_head(&mut self, head: &Head<'_>, entity: &Entity, encoding: &str) {
        if self.is_top {
            entity.write(head.octets, encoding, &mut self.header);
            self.is_top = false;
            return;
        }
        entity.write(head.octets, encoding, &mut self.body);
        if head.has_end {
            self.body.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests;
