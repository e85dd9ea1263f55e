//! The client's side of a connection: a [`Session`] that opens it and a [`Transaction`] for each message.
//!
//! Both are driven alike: `next` appends octets to write and says what is needed, `take` is given each reply. The shell reads
//! replies with a [`ReplyReader`](crate::reply::ReplyReader), and owns timeouts and the socket:
//!
//! ```
//! use smtp::address::{ForwardPath, Host, ReversePath, Utf8};
//! use smtp::client::{Outcome, Progress, ProtocolError, RecipientOutcome, Session, Transaction, Want};
//! use smtp::command::{MailParams, RcptParams};
//! use smtp::data::DataEncoder;
//! use smtp::reply::{Reply, ReplyReader};
//!
//! struct Connection { input: &'static [u8], sent: Vec<u8>, reader: ReplyReader }
//!
//! impl Connection {
//!     fn reply(&mut self, out: &mut Vec<u8>) -> Result<Reply, ProtocolError> {
//!         self.sent.append(out); // write and flush
//!         let (consumed, reply) = self.reader.push(self.input); // read until there is a reply
//!         self.input = &self.input[consumed..];
//!         Ok(reply.expect("the script has all replies")?)
//!     }
//! }
//!
//! # fn main() -> Result<(), ProtocolError> {
//! let input = b"220 mx\r\n250-mx\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n550 5.1.1 no\r\n354 go\r\n250 kept\r\n";
//! let mut connection = Connection { input, sent: Vec::new(), reader: ReplyReader::new() };
//! let mut out = Vec::new();
//!
//! let mut session = Session::new(Host::parse("client.example.org").unwrap());
//! loop {
//!     match session.next(&mut out) {
//!         Progress::Reply => session.take(connection.reply(&mut out)?)?,
//!         Progress::StartTls => session.after_tls(), // shake hands first
//!         Progress::Ready => break,                  // or session.start_tls(), session.auth_plain(...)
//!         Progress::Refused(reply) => panic!("{reply}"),
//!         Progress::Closed => return Ok(()),
//!     }
//! }
//!
//! let to = |text| (ForwardPath::parse(text, Utf8::Refused).unwrap(), RcptParams::default());
//! let recipients = vec![to("one@example.org"), to("two@example.org")];
//! let mut transaction =
//!     Transaction::new(session.capabilities(), ReversePath::Null, MailParams::default(), recipients);
//! loop {
//!     match transaction.next(&mut out) {
//!         Want::Reply => transaction.take(connection.reply(&mut out)?)?,
//!         Want::Body => {
//!             let mut encoder = DataEncoder::new();
//!             encoder.encode(b"Subject: hello\r\n\r\n.\r\n", &mut out);
//!             encoder.finish(&mut out);
//!             transaction.body_sent();
//!         }
//!         Want::Done => break,
//!     }
//! }
//! let Outcome { recipients, .. } = transaction.outcome();
//! assert!(matches!(&recipients[0], RecipientOutcome::Accepted(reply) if reply.text() == "kept"));
//! assert!(matches!(&recipients[1], RecipientOutcome::Refused { reply, .. } if reply.code() == 550));
//! assert!(connection.sent.ends_with(b"DATA\r\nSubject: hello\r\n\r\n..\r\n.\r\n"));
//! # Ok(())
//! # }
//! ```
//!
//! Octets that follow a reply nobody is waiting for must end the connection: `take` calls such a reply
//! [`ProtocolError::Unasked`], and the shell looks whether any are left unread before it shakes hands for TLS or begins a
//! transaction.

mod capabilities;
mod session;
mod transaction;

use std::fmt;

use crate::reply::{Reply, ReplyError};

pub use capabilities::Capabilities;
pub use session::{Progress, Session};
pub use transaction::{Connection, Outcome, RecipientOutcome, Transaction, Want};

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The connection itself.
    Greeting,
    /// EHLO, or HELO after it.
    Hello,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The final dot.
    Message,
    /// RSET.
    Reset,
    /// QUIT.
    Quit,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "the connection",
            Self::Hello => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Message => "the final dot",
            Self::Reset => "RSET",
            Self::Quit => "QUIT",
        })
    }
}

/// The server left the protocol. Which reply belongs to which command is lost, so the connection must be closed; what had
/// no result yet is tried again elsewhere or later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// What it sent is no reply.
    Reply(ReplyError),
    /// It replied and nothing was asked.
    Unasked(Reply),
    /// Its reply makes no sense there.
    Unexpected {
        /// What was replied to.
        stage: Stage,
        /// The reply.
        reply: Reply,
    },
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(_) => f.write_str("reading a reply"),
            Self::Unasked(reply) => write!(f, "unasked reply: {reply}"),
            Self::Unexpected { stage, reply } => write!(f, "unexpected reply to {stage}: {reply}"),
        }
    }
}

impl std::error::Error for ProtocolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Reply(error) => Some(error),
            Self::Unasked(_) | Self::Unexpected { .. } => None,
        }
    }
}

impl From<ReplyError> for ProtocolError {
    fn from(error: ReplyError) -> Self {
        Self::Reply(error)
    }
}
