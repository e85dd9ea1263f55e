//! What is given back of the message.

use super::News;
use crate::header::field;
use crate::{BodyKind, Message, RecipientResult, ReturnContent, downgrade};

/// The third part of a report.
pub(super) struct Returned {
    octets: Vec<u8>,
    media_type: &'static str,
    description: &'static str,
}

impl Returned {
    /// The whole message when something failed, RET doesn't ask for less and it is small; else its header
    /// section. RFC 3461 section 4.3 leaves the choice to us where RET wasn't given. A message that no server
    /// without 8BITMIME could be given isn't given back whole either: the report would go the way of the
    /// message, and nobody would be told. None when the content is not at hand.
    pub(super) fn choose<P: AsRef<[u8]>>(
        message: &Message,
        results: &[RecipientResult],
        octets_max: usize,
        content: &[P],
    ) -> Option<Self> {
        let failed = results.iter().any(|result| News::of(result) == News::Failed);
        let small = message.octets <= octets_max as u64;
        let header_octets = usize::try_from(message.header_octets).unwrap_or(usize::MAX);
        let header = first(content, header_octets.min(octets_max));
        if header.is_empty() {
            return None;
        }
        let unicode = !header.is_ascii();
        if failed && small && message.ret != Some(ReturnContent::Headers) {
            // RFC 6533 section 6: a message whose header is beyond ASCII is of another type.
            let media_type = if unicode { "message/global" } else { "message/rfc822" };
            let octets = first(content, octets_max);
            if unicode || fits_seven_bits(&octets, header.len()) {
                return Some(Self { octets, media_type, description: "Undelivered message" });
            }
        }
        let media_type = if unicode { "message/global-headers" } else { "text/rfc822-headers" };
        let mut octets = header;
        if octets.len() < header_octets {
            octets.truncate(whole_fields(&octets));
        }
        Some(Self { octets, media_type, description: "Message header" })
    }

    pub(super) fn body_kind(&self) -> BodyKind {
        if self.octets.is_ascii() { BodyKind::SevenBit } else { BodyKind::EightBitMime }
    }

    /// Appends the part: its CRLF after the delimiter, header and content.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for piece in ["\r\nContent-Description: ", self.description, "\r\nContent-Type: ", self.media_type] {
            out.extend_from_slice(piece.as_bytes());
        }
        if self.body_kind() == BodyKind::EightBitMime {
            out.extend_from_slice(b"\r\nContent-Transfer-Encoding: 8bit");
        }
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(&self.octets);
    }
}

/// Whether a report with this message inside can be converted to 7 bits on its way; message/global always can,
/// as it may be encoded as a whole (RFC 6532 section 3.7).
fn fits_seven_bits(octets: &[u8], header_octets: usize) -> bool {
    if octets.is_ascii() {
        return true;
    }
    let (header, rest) = octets.split_at(header_octets);
    downgrade::to_seven_bit(header, rest.strip_prefix(b"\r\n").unwrap_or(rest)).is_some()
}

/// The first octets of content that is in pieces.
fn first<P: AsRef<[u8]>>(content: &[P], octets_max: usize) -> Vec<u8> {
    let mut octets = Vec::new();
    for piece in content.iter().map(AsRef::as_ref) {
        let room = octets_max - octets.len();
        octets.extend_from_slice(&piece[..piece.len().min(room)]);
        if octets.len() == octets_max {
            break;
        }
    }
    octets
}

/// Octets of the whole fields at the beginning of a header section that was cut anywhere; of a field that may
/// go on, none.
fn whole_fields(section: &[u8]) -> usize {
    let lengths: Vec<usize> =
        field::fields(section).map_while(Result::ok).map(|field| field.octets.len()).collect();
    match lengths.split_last() {
        // The iterator stops before a line that is cut, and can't know whether a line follows that continues
        // the last field.
        Some((last, before)) => {
            let all = before.iter().sum::<usize>() + last;
            if all < section.len() { all } else { all - last }
        }
        None => 0,
    }
}
