//! Message content on the wire: lines, dots and the end (RFC 5321 section 4.5.2).
//!
//! ```
//! use smtp::data::{DataDecoder, DataEncoder};
//!
//! let mut wire = Vec::new();
//! let mut encoder = DataEncoder::new();
//! encoder.encode(b"Subject: dots\r\n\r\n.one\r\n", &mut wire);
//! encoder.finish(&mut wire);
//! assert_eq!(wire, b"Subject: dots\r\n\r\n..one\r\n.\r\n");
//!
//! let mut content = Vec::new();
//! let mut decoder = DataDecoder::new();
//! let (consumed, end) = decoder.decode(&wire, &mut |octets: &[u8]| content.extend_from_slice(octets));
//! assert_eq!(consumed, wire.len());
//! assert!(end.is_some_and(|end| end.flaws.is_none()));
//! assert_eq!(content, b"Subject: dots\r\n\r\n.one\r\n");
//! ```

mod decoder;
mod encoder;
mod inspector;

use crate::reply::Reply;

pub use decoder::{DataDecoder, End};
pub use encoder::DataEncoder;
pub(crate) use inspector::Inspector;

/// Most octets of a line without its CRLF (RFC 5322 section 2.1.1).
pub const LINE_OCTETS_MAX: u64 = 998;

/// What is wrong with the lines of a message. RFC 5321 section 2.3.8 wants CR and LF only together: receivers that differ
/// on anything else can be made to see two messages where one was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// A CR without an LF.
    pub bare_cr: bool,
    /// An LF without a CR.
    pub bare_lf: bool,
    /// A NUL.
    pub nul: bool,
    /// A line of more than [`LINE_OCTETS_MAX`] octets.
    pub long_line: bool,
}

impl Flaws {
    /// The reply that refuses such a message.
    pub fn reply(&self) -> Reply {
        if self.bare_cr || self.bare_lf {
            Reply::fixed(554, (5, 6, 0), "message has a bare CR or LF, see RFC 5321 section 2.3.8")
        } else if self.nul {
            Reply::fixed(554, (5, 6, 0), "message has a NUL octet")
        } else {
            Reply::fixed(554, (5, 6, 0), "message has a line of more than 998 octets")
        }
    }
}
