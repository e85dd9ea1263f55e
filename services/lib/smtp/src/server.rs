//! The server's side of a connection as a state machine.
//!
//! ```text
//!            advance(input)                    answer(verdict)
//!  Read <---------+---------> Ask(question) ------------------> advance ...
//!                 +---------> Reset, StartTls, Close
//! ```
//!
//! The shell is one loop:
//!
//! ```
//! use std::sync::Arc;
//! use smtp::server::{Security, Session, Settings, Step, Question, Verdict};
//!
//! let mut session = Session::new(Arc::new(Settings::new("mx.example.org")), Security::Tls);
//! let (mut out, mut message) = (Vec::new(), Vec::new());
//! session.greeting(&mut out);
//! let mut input: &[u8] = b"EHLO client.example.org\r\nQUIT\r\n"; // what was read from the socket
//! loop {
//!     let (consumed, step) = session.advance(input, &mut out, &mut |octets| message.extend_from_slice(octets));
//!     input = &input[consumed..];
//!     match step {
//!         Step::Read => break,             // flush `out`, read more
//!         Step::Ask(Question::Body) => {   // a message begins
//!             message.clear();
//!             session.answer(Verdict::Yes, &mut out);
//!         }
//!         Step::Ask(_) => session.answer(Verdict::Yes, &mut out),
//!         Step::Reset => message.clear(),  // the transaction is over, nothing was accepted
//!         Step::StartTls | Step::Close => break, // flush `out` first
//!     }
//! }
//! assert!(out.starts_with(b"220 mx.example.org "));
//! ```

mod exchange;
mod replies;
mod session;

use std::fmt;

use crate::address::{ForwardPath, ReversePath};
use crate::command::{MailParams, Mechanism, RcptParams};
use crate::data::Flaws;
use crate::reply::Reply;

pub use session::Session;

/// What all sessions of a listener share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The server's name: the first word of the greeting and of the answer to EHLO.
    pub host_name: String,
    /// Most octets of a message as RFC 1870 counts them; 0 means no limit.
    pub size_max: u64,
    /// Most accepted recipients of a transaction; RFC 5321 section 4.5.3.1.8 wants at least 100.
    pub recipients_max: usize,
    /// Commands that may be in error before the session ends with 421.
    pub errors_max: u32,
    /// Whether STARTTLS is offered in the clear.
    pub starttls: StartTls,
    /// When AUTH is offered. MAIL always wants it.
    pub auth: AuthOffer,
    /// Failed authentications before the session ends with 421.
    pub auth_failures_max: u32,
}

impl Settings {
    /// Settings with usual values: 25 MiB, 1000 recipients, 20 errors, STARTTLS, AUTH under TLS with 3 failures.
    pub fn new(host_name: impl Into<String>) -> Self {
        Self {
            host_name: host_name.into(),
            size_max: 25 * 1024 * 1024,
            recipients_max: 1000,
            errors_max: 20,
            starttls: StartTls::Offered,
            auth: AuthOffer::UnderTls,
            auth_failures_max: 3,
        }
    }
}

/// Whether STARTTLS is offered on a connection in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTls {
    /// It is.
    Offered,
    /// There is no certificate.
    NotOffered,
}

/// When AUTH is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthOffer {
    /// Under TLS only; in the clear it is refused with 538 5.7.11.
    UnderTls,
    /// In the clear too: for a network that is safe by other means.
    Always,
}

/// What protects the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Nothing.
    Plain,
    /// TLS, from the start or since STARTTLS.
    Tls,
}

/// How a client said hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeted {
    /// With HELO: SMTP without extensions.
    Helo,
    /// With EHLO.
    Ehlo,
}

/// What the shell does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Write what is in `out`, read more, call [`Session::advance`].
    Read,
    /// Decide, call [`Session::answer`], then [`Session::advance`] with the rest of the input.
    Ask(Question),
    /// The transaction ended without acceptance (RSET, EHLO, a message over the limit): give back what was taken for it,
    /// then advance. Not said where the shell itself refused or closed, nor at [`Step::Close`], which ends everything.
    Reset,
    /// Write `out`, shake hands, and go on with [`Session::after_tls`]. Nothing read before the handshake may be passed to
    /// the new session (RFC 3207 section 4.2); a session that is given octets behind STARTTLS closes instead.
    StartTls,
    /// Write `out` and close.
    Close,
}

/// What the session can't know.
#[derive(PartialEq, Eq)]
pub enum Question {
    /// Is this the client's password? After [`Verdict::Yes`] the client is authenticated. A permanent refusal counts as a
    /// failure, a transient one (454) doesn't.
    Authenticate {
        /// How it was sent.
        mechanism: Mechanism,
        /// Whose password it is.
        authcid: String,
        /// As whom the client wants to act, if not as that.
        authzid: Option<String>,
        /// The password; debug output doesn't show it.
        password: Vec<u8>,
    },
    /// May this sender begin a transaction?
    Sender {
        /// The reverse-path.
        from: ReversePath,
        /// Its parameters.
        params: MailParams,
    },
    /// May mail go to this recipient?
    Recipient {
        /// The forward-path.
        to: ForwardPath,
        /// Its parameters.
        params: RcptParams,
    },
    /// May a message begin (DATA, or the first BDAT)? Octets follow from here on; forget any of before.
    Body,
    /// The message is complete: accept it? [`Session::transaction`] is readable until this is answered. With flaws it must be
    /// refused, as with [`Flaws::reply`].
    Message {
        /// What was wrong with its lines.
        flaws: Option<Flaws>,
        /// Octets given to the body sink.
        octets: u64,
        /// Whether octets over 127 were among them.
        eight_bit: bool,
    },
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authenticate { mechanism, authcid, authzid, password: _ } => f
                .debug_struct("Authenticate")
                .field("mechanism", mechanism)
                .field("authcid", authcid)
                .field("authzid", authzid)
                .finish_non_exhaustive(),
            Self::Sender { from, params } => {
                f.debug_struct("Sender").field("from", from).field("params", params).finish()
            }
            Self::Recipient { to, params } => {
                f.debug_struct("Recipient").field("to", to).field("params", params).finish()
            }
            Self::Body => f.write_str("Body"),
            Self::Message { flaws, octets, eight_bit } => f
                .debug_struct("Message")
                .field("flaws", flaws)
                .field("octets", octets)
                .field("eight_bit", eight_bit)
                .finish(),
        }
    }
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, with the usual reply.
    Yes,
    /// Yes, with this reply (`250 2.0.0 queued as ...`).
    YesWith(Reply),
    /// No; the session goes on. Refusing a body or a message ends the transaction.
    Refuse(Reply),
    /// No; the session ends after this reply.
    CloseWith(Reply),
}

/// A mail transaction as it stands: the envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The reverse-path of MAIL.
    pub from: ReversePath,
    /// The parameters of MAIL.
    pub params: MailParams,
    /// The recipients that were accepted, in order.
    pub recipients: Vec<EnvelopeRecipient>,
}

/// An accepted recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeRecipient {
    /// The forward-path of RCPT.
    pub to: ForwardPath,
    /// The parameters of RCPT.
    pub params: RcptParams,
}
