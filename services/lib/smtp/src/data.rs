//! Message content on the wire (RFC 5321 section 4.5.2): lines, dots and the end.

use crate::reply::Reply;

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
    /// A line of more than 998 octets without its CRLF (RFC 5322 section 2.1.1).
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
