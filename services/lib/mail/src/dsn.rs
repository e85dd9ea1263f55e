//! Delivery status notifications: telling the sender what became of recipients (RFC 3461, RFC 3464, RFC 6522,
//! RFC 6533).
//!
//! ```text
//! multipart/report
//!   text/plain                  what happened, to whom, what the remote said, what to do   (module `notice`)
//!   message/delivery-status     the same for programs                                      (module `status`)
//!   message/rfc822 or           the message, when it failed, is small and RET allows it;   (module `returned`)
//!   text/rfc822-headers         else its header
//! ```
//!
//! A report's octets depend on its arguments alone, so that a composition which is repeated after a crash
//! gives the same message. Machine-readable parts are in ASCII whatever the addresses are: it takes SMTPUTF8
//! to send a report only if the sender's own address does.

mod fold;
mod notice;
mod returned;
mod status;

use std::io::Write as _;

use smtp::address::{Address, Domain};

use crate::header::is_message_id;
use crate::{BodyKind, Disposition, Message, QueueId, RecipientResult, Timestamp};
use returned::Returned;

/// A message of more octets than this is not given back whole, unless set otherwise.
pub const RETURNED_OCTETS_MAX: usize = 50 * 1024;

/// A cited Message-ID has at most this many octets.
const CITED_OCTETS_MAX: usize = 900;

/// In whose name a report is made.
#[derive(Clone, Copy, Debug)]
pub struct ReportContext<'a> {
    /// Our host name.
    pub reporting_mta: &'a Domain,
    /// The account's sending domain: the report comes from `MAILER-DAEMON` there.
    pub domain: &'a Domain,
    /// The report's own queue id, see [`QueueId::derived_from`].
    pub queue_id: QueueId,
    /// Most octets of a message that is given back whole, and most of a header section;
    /// [`RETURNED_OCTETS_MAX`] suits most.
    pub returned_octets_max: usize,
}

/// A report, ready to be accepted as a message with the null sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// To whom it goes: the original reverse-path.
    pub recipient: Address,
    /// Header section, empty line, body; lines ended by CRLF, not dot-stuffed.
    pub content: Vec<u8>,
    /// Octets of the header section, without the empty line.
    pub header_octets: usize,
    /// Its Message-ID field, with angle brackets.
    pub message_id: String,
    /// Whether octets over 127 are given back.
    pub body_kind: BodyKind,
    /// Whether it can go only where SMTPUTF8 is offered.
    pub smtputf8: bool,
}

impl Report {
    /// The header section, without the empty line.
    pub fn header(&self) -> &[u8] {
        &self.content[..self.header_octets]
    }

    /// What follows the empty line.
    pub fn body(&self) -> &[u8] {
        &self.content[self.header_octets + 2..]
    }
}

/// The report on `results`, all of which are told; `content` is the message that they are about, in pieces.
///
/// None when nobody is to be told: the message has the null reverse-path (RFC 5321 section 4.5.5), or there
/// is no result.
pub fn compose<P: AsRef<[u8]>>(
    message: &Message,
    results: &[RecipientResult],
    context: &ReportContext<'_>,
    content: &[P],
) -> Option<Report> {
    let recipient = message.original_reverse_path.mailbox()?.clone();
    let newest = results.iter().map(|result| result.at).max()?;
    let returned = Returned::choose(message, results, context.returned_octets_max, content);
    let body_kind = returned.as_ref().map_or(BodyKind::SevenBit, Returned::body_kind);
    // The queue id comes from a hash that was taken after the message was accepted: nobody can have put this
    // into it.
    let boundary = format!("=_{}", context.queue_id);
    let message_id = format!("<{}@{}>", context.queue_id, context.domain);

    let header = Header { message, results, recipient: &recipient, newest, message_id: &message_id };
    let mut out = header.write(context.domain, &boundary, body_kind);
    let header_octets = out.len();
    out.extend_from_slice(b"\r\nThis is a report on the delivery of a message, in MIME format.\r\n");
    let delimiter = format!("\r\n--{boundary}");
    out.extend_from_slice(delimiter.as_bytes());
    notice::write(message, results, context.reporting_mta, &mut out);
    out.extend_from_slice(delimiter.as_bytes());
    status::write(message, results, context.reporting_mta, &mut out);
    if let Some(returned) = returned {
        out.extend_from_slice(delimiter.as_bytes());
        returned.write(&mut out);
    }
    out.extend_from_slice(delimiter.as_bytes());
    out.extend_from_slice(b"--\r\n");
    let smtputf8 = recipient.needs_smtputf8();
    Some(Report { recipient, content: out, header_octets, message_id, body_kind, smtputf8 })
}

/// What kind of news a result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Failed,
    Delayed,
    Delivered,
    Relayed,
}

impl News {
    const ALL: [Self; 4] = [Self::Failed, Self::Delayed, Self::Delivered, Self::Relayed];

    fn of(result: &RecipientResult) -> Self {
        match result.disposition {
            Disposition::Bounced | Disposition::Expired | Disposition::Dropped => Self::Failed,
            Disposition::Deferred => Self::Delayed,
            Disposition::Delivered { relayed: false } => Self::Delivered,
            Disposition::Delivered { relayed: true } => Self::Relayed,
        }
    }

    /// The word in the Subject field.
    fn title(self) -> &'static str {
        match self {
            Self::Failed => "Failure",
            Self::Delayed => "Delay",
            Self::Delivered => "Success",
            Self::Relayed => "Relayed",
        }
    }
}

struct Header<'a> {
    message: &'a Message,
    results: &'a [RecipientResult],
    recipient: &'a Address,
    newest: Timestamp,
    message_id: &'a str,
}

impl Header<'_> {
    fn write(&self, domain: &Domain, boundary: &str, body_kind: BodyKind) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 * 1024);
        // Writing into a Vec can't fail, here and below.
        let _ = write!(
            out,
            "Date: {}\r\nFrom: Mail Delivery System <MAILER-DAEMON@{domain}>\r\nTo: <{}>\r\n",
            self.newest.to_rfc5322(),
            self.recipient
        );
        let titles =
            News::ALL.iter().filter(|news| self.results.iter().any(|result| News::of(result) == **news));
        let titles: Vec<&str> = titles.map(|news| news.title()).collect();
        let _ = write!(out, "Subject: Delivery Status Notification ({})\r\n", titles.join(", "));
        let _ = write!(out, "Message-ID: {}\r\n", self.message_id);
        let cited = &self.message.message_id;
        if cited.is_ascii() && cited.len() <= CITED_OCTETS_MAX && is_message_id(cited) {
            let _ = write!(out, "In-Reply-To: {cited}\r\nReferences: {cited}\r\n");
        }
        let _ = write!(
            out,
            "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n"
        );
        if body_kind == BodyKind::EightBitMime {
            out.extend_from_slice(b"Content-Transfer-Encoding: 8bit\r\n");
        }
        out
    }
}

#[cfg(test)]
mod tests;
