//! The header section as it goes on.

use std::fmt::Write as _;
use std::ops::Range;

use smtp::address::Address;

use super::field::{Field, fields};
use super::{HeaderError, MailboxFlaw, Trace, mailbox};

/// Most octets that we add besides the Received field: Date and Message-ID.
const ADDED_OCTETS: usize = 512;
/// Most octets of a Message-ID field that are kept in records.
const MESSAGE_ID_OCTETS_MAX: usize = 998;

/// A header section that is ready to be stored and signed, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The fields, each line ended by CRLF, without the empty line that divides them from the body.
    pub header: Vec<u8>,
    /// The mailboxes of From, one at least: all of their domains must be the account's.
    pub from: Vec<Address>,
    /// The mailbox of Sender.
    pub sender: Option<Address>,
    /// The Message-ID, the client's or ours, with its angle brackets. One that isn't `<left@right>` is given
    /// as it is, without folds.
    pub message_id: String,
    /// Whether there are octets over 127: the message can go only where SMTPUTF8 is offered (RFC 6531).
    pub eight_bit: bool,
}

/// Fields of which a message has one at most, in the order of [`Seen`]'s bits.
const ONCE: [&str; 13] = [
    "From",
    "Date",
    "Message-ID",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];
const REMOVED: [&str; 3] = ["Bcc", "Resent-Bcc", "Return-Path"];

pub(super) fn prepare(
    section: &[u8],
    received_max: usize,
    trace: &Trace<'_>,
) -> Result<Prepared, HeaderError> {
    let found = Found::read(section)?;
    if found.received > received_max {
        return Err(HeaderError::TooManyHops { received: found.received, received_max });
    }
    let text = str::from_utf8(section).map_err(|_| HeaderError::NotUtf8)?;
    let value = |range: &Range<usize>| &text[range.clone()];

    let from = mailboxes("From", value(found.from.as_ref().ok_or(HeaderError::NoFrom)?))?;
    let author = from.first().ok_or(HeaderError::NoFrom)?;
    let sender = found.sender.as_ref().map(|range| sender(value(range))).transpose()?;
    let message_id = found.message_id.as_ref().map(|range| as_message_id(value(range)));

    let received = trace.to_string();
    let mut header = Vec::with_capacity(received.len() + section.len() + ADDED_OCTETS);
    header.extend_from_slice(received.as_bytes());
    let mut kept_to = 0;
    for removed in &found.removed {
        header.extend_from_slice(&section[kept_to..removed.start]);
        kept_to = removed.end;
    }
    header.extend_from_slice(&section[kept_to..]);

    let mut added = String::new();
    if !found.date {
        // Writing into a String can't fail, here and below.
        let _ = write!(added, "Date: {}\r\n", trace.now.to_rfc5322());
    }
    let message_id = message_id.unwrap_or_else(|| {
        let message_id = format!("<{}@{}>", trace.queue_id, author.host());
        let _ = write!(added, "Message-ID: {message_id}\r\n");
        message_id
    });
    header.extend_from_slice(added.as_bytes());

    let eight_bit = !header.is_ascii();
    Ok(Prepared { header, from, sender, message_id, eight_bit })
}

/// What one pass over the fields brings. Ranges are of the section; a value's is without the colon.
#[derive(Default)]
struct Found {
    from: Option<Range<usize>>,
    sender: Option<Range<usize>>,
    message_id: Option<Range<usize>>,
    date: bool,
    received: usize,
    removed: Vec<Range<usize>>,
}

impl Found {
    fn read(section: &[u8]) -> Result<Self, HeaderError> {
        let mut found = Self::default();
        let mut seen = 0u16;
        let mut end = 0;
        for field in fields(section) {
            let field = field.map_err(|(line, flaw)| HeaderError::Line { line, flaw })?;
            let start = end;
            end += field.octets.len();
            if field.is("Received") {
                found.received += 1;
            } else if REMOVED.iter().any(|name| field.is(name)) {
                found.removed.push(start..end);
            } else if let Some(place) = ONCE.iter().position(|name| field.is(name)) {
                if seen & (1 << place) != 0 {
                    return Err(HeaderError::Twice(ONCE[place]));
                }
                seen |= 1 << place;
                found.single(ONCE[place], field, start..end);
            }
        }
        Ok(found)
    }

    fn single(&mut self, name: &str, field: Field<'_>, range: Range<usize>) {
        let value = range.end - field.value.len()..range.end;
        match name {
            "From" => self.from = Some(value),
            "Sender" => self.sender = Some(value),
            "Date" | "Message-ID" if field.is_blank() => self.removed.push(range),
            "Date" => self.date = true,
            "Message-ID" => self.message_id = Some(value),
            _ => {}
        }
    }
}

fn mailboxes(field: &'static str, value: &str) -> Result<Vec<Address>, HeaderError> {
    mailbox::mailbox_list(value).map_err(|flaw| HeaderError::Mailbox { field, flaw })
}

fn sender(value: &str) -> Result<Address, HeaderError> {
    let mut mailboxes = mailboxes("Sender", value)?;
    match mailboxes.pop() {
        Some(mailbox) if mailboxes.is_empty() => Ok(mailbox),
        _ => Err(HeaderError::Mailbox { field: "Sender", flaw: MailboxFlaw::TooMany }),
    }
}

/// The `<left@right>` of a Message-ID field's value, or else all of it in one line.
fn as_message_id(value: &str) -> String {
    let value = value.trim_ascii();
    let bracketed = value.find('<').and_then(|start| {
        let length = value[start..].find('>')? + 1;
        Some(&value[start..start + length])
    });
    match bracketed {
        Some(id) if id.len() <= MESSAGE_ID_OCTETS_MAX && is_message_id(id) => id.to_owned(),
        _ => {
            let mut line: String = value.chars().filter(|character| !character.is_control()).collect();
            line.truncate(line.floor_char_boundary(MESSAGE_ID_OCTETS_MAX));
            line
        }
    }
}

/// Whether the text is `<left@right>` without blanks, control characters or other brackets: what can be
/// cited.
pub(crate) fn is_message_id(text: &str) -> bool {
    let inside = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    inside.and_then(|inside| inside.split_once('@')).is_some_and(|(left, right)| {
        let fits = |part: &str| {
            !part.is_empty()
                && !part.contains(|c: char| c.is_control() || c.is_whitespace() || "<>".contains(c))
        };
        fits(left) && fits(right)
    })
}

#[cfg(test)]
mod tests;
