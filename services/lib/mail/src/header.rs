//! The header section of a message on its way in: read, checked, completed.
//!
//! ```text
//! octets of the message, cut anywhere --push--> HeaderReader --the body's octets--> buffer, body hash
//!                                                    |
//!                                 Trace --finish--> Prepared { header, From's mailboxes, Message-ID }
//! ```
//!
//! What is done with a header section, always the same:
//!
//! | found | becomes |
//! |---|---|
//! | no Received of ours | one is put on top (RFC 5321 section 4.4) |
//! | no Date, or an empty one | Date of now is added (RFC 6409 section 8.2) |
//! | no Message-ID, or an empty one | `<queue id@domain of From>` is added (RFC 6409 section 8.3) |
//! | Bcc, Resent-Bcc | removed (RFC 5322 section 3.6.3) |
//! | Return-Path | removed (RFC 5321 section 4.4: only final delivery writes it) |
//! | a header section that isn't followed by an empty line | taken; the message has no body |
//! | no From, or two (the empty message has none) | 554 5.6.0 |
//! | From that isn't a list of mailboxes, Sender that isn't one mailbox (RFC 5322 section 3.4) | 554 5.6.0 |
//! | two of Date, Sender, Reply-To, To, Cc, Message-ID, In-Reply-To, References, Subject (RFC 5322 section 3.6), MIME-Version, Content-Type or Content-Transfer-Encoding | 554 5.6.0 |
//! | a line without colon, such as a body without header | 554 5.6.0 |
//! | a first line that begins with a blank | 554 5.6.0 |
//! | a line of blanks only, which some take for the end of the header | 554 5.6.0 |
//! | the `From user Mon Jan 1` line of a mailbox file | 554 5.6.0 |
//! | a field name that is empty or has a blank, a control character or an octet over 127 | 554 5.6.0 |
//! | a NUL, a CR or LF alone, a line of over 998 octets | 554 5.6.0 |
//! | octets over 127 that aren't UTF-8 (RFC 6532 section 3.1) | 554 5.6.0 |
//! | more octets than [`Limits::header_octets_max`] | 552 5.3.4 |
//! | more Received fields than [`Limits::received_max`] | 554 5.4.6 (RFC 5321 section 6.3) |
//!
//! Refused is what readers on the way could understand in two ways: a repair would choose one of them in the
//! sender's name. All other fields pass as they came, octet for octet.

mod error;
pub(crate) mod field;
mod mailbox;
mod prepare;
mod reader;
mod trace;

pub use error::{HeaderError, LineFlaw, MailboxFlaw};
pub use prepare::Prepared;
pub(crate) use prepare::is_message_id;
pub use reader::HeaderReader;
pub use trace::{Protocol, Trace};

/// How large and how travelled a header section may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most octets of the header section as submitted. What is over it isn't kept in memory.
    pub header_octets_max: usize,
    /// Most Received fields as submitted.
    pub received_max: usize,
}

/// 512 KiB, and 100 hops (RFC 5321 section 6.3).
impl Default for Limits {
    fn default() -> Self {
        Self { header_octets_max: 512 * 1024, received_max: 100 }
    }
}
