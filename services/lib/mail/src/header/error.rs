//! Why a header section is refused, and what the client is told.

use smtp::address::AddressError;
use smtp::reply::Reply;

/// Why a header section is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It is larger than allowed.
    #[error("header section has more than {octets_max} octets")]
    TooLarge {
        /// The limit.
        octets_max: usize,
    },
    /// The message goes in circles.
    #[error("message has {received} Received fields, more than {received_max}: it is in a loop")]
    TooManyHops {
        /// How many there are.
        received: usize,
        /// The limit.
        received_max: usize,
    },
    /// A line that can't be part of a header section.
    #[error("header line {line}: {flaw}")]
    Line {
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong with it.
        flaw: LineFlaw,
    },
    /// There is text that no charset explains.
    #[error("header section has octets over 127 that are not UTF-8")]
    NotUtf8,
    /// Nobody says who wrote it.
    #[error("no From: field")]
    NoFrom,
    /// A field that may occur once only (RFC 5322 section 3.6).
    #[error("more than one {0}: field")]
    Twice(&'static str),
    /// From or Sender isn't what RFC 5322 section 3.6.2 wants.
    #[error("bad {field}: field: {flaw}")]
    Mailbox {
        /// `From` or `Sender`.
        field: &'static str,
        /// What is wrong with it.
        flaw: MailboxFlaw,
    },
}

impl HeaderError {
    /// The reply that refuses the message.
    pub fn reply(&self) -> Reply {
        match self {
            Self::TooLarge { .. } => Reply::new(552, (5, 3, 4), self.to_string()),
            Self::TooManyHops { .. } => Reply::new(554, (5, 4, 6), self.to_string()),
            Self::NotUtf8 => Reply::new(554, (5, 6, 0), format!("{self}, see RFC 6532")),
            Self::Line { .. } | Self::NoFrom | Self::Twice(_) | Self::Mailbox { .. } => {
                Reply::new(554, (5, 6, 0), format!("{self}, see RFC 5322"))
            }
        }
    }
}

/// What is wrong with a line of a header section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineFlaw {
    /// The first line continues nothing.
    #[error("begins with a blank, but no field is before it")]
    BlankFirst,
    /// Some readers take it for the end of the header section.
    #[error("has only blanks")]
    OnlyBlanks,
    /// Text where a field should be.
    #[error("has no colon; is the empty line between header and body missing?")]
    NoColon,
    /// As mailbox files have it between messages.
    #[error("is the `From ` line of a mailbox file, not a field")]
    MailboxFile,
    /// The name is empty or has a blank, a control character or an octet over 127.
    #[error("has a bad field name")]
    BadName,
    /// A NUL.
    #[error("has a NUL octet")]
    Nul,
    /// A CR or LF alone.
    #[error("has a CR or LF that is not part of CR LF")]
    BareLineEnd,
    /// More than 998 octets (RFC 5322 section 2.1.1).
    #[error("has more than 998 octets")]
    TooLong,
}

/// Why text is no list of mailboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailboxFlaw {
    /// Nothing where a mailbox should be.
    #[error("a mailbox is missing")]
    Missing,
    /// A display name that no address follows.
    #[error("a name without an address; a comma in a name needs quotes around the name")]
    NoAddress,
    /// `name: a@b, c@d;`, which From and Sender can't have.
    #[error("a group is not allowed here; a colon in a name needs quotes around the name")]
    Group,
    /// `<@a,@b:c@d>`.
    #[error("a source route is obsolete")]
    Route,
    /// `a@b <c@d>`, which readers understand in two ways.
    #[error("an address as name needs quotes around it")]
    AddressAsName,
    /// A character that can't be there.
    #[error("unexpected {0:?}; a name with special characters needs quotes around it")]
    Unexpected(char),
    /// A comment, quoted string, angle bracket or address literal that doesn't end.
    #[error("the {0:?} has no end")]
    Unclosed(char),
    /// The address itself.
    #[error("{0}")]
    Address(AddressError),
    /// More than 100.
    #[error("too many mailboxes")]
    TooMany,
}

impl From<AddressError> for MailboxFlaw {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}
