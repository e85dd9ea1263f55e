//! One connection.

mod body;
mod commands;

use std::mem;
use std::sync::Arc;

use super::exchange::Exchange;
use super::{EnvelopeRecipient, Greeted, Question, Security, Settings, Step, Transaction, Verdict, replies};
use crate::address::{ForwardPath, ReversePath, Utf8};
use crate::command::{Command, MailParams, RcptParams};
use crate::data::{DataDecoder, Inspector};
use crate::line::{Line, LineReader};
use crate::reply::Reply;

/// Most octets of a command line but AUTH's; RFC 5321 section 4.5.3.1.4 has 512, extensions add to it.
const COMMAND_OCTETS_MAX: usize = 4096;

/// A client's connection, from greeting to close.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    security: Security,
    lines: LineReader,
    phase: Phase,
    errors: u32,
    auth_failures: u32,
    greeted: Option<(Greeted, Box<str>)>,
    authenticated: bool,
    transaction: Option<Transaction>,
    /// The content so far, when it comes by BDAT.
    chunks: Option<Inspector>,
}

/// What the next octets are.
#[derive(Debug)]
enum Phase {
    /// A command.
    Command,
    /// A response within AUTH.
    Auth(Exchange),
    /// Nothing yet: a question is open.
    Asking(Pending),
    /// Content up to the final dot.
    Data(DataDecoder),
    /// Content by number.
    Chunk { octets_left: u64, last: Last, fate: Fate },
    /// The client's part of a TLS handshake, but for those that were sent too early.
    StartTls,
    /// Of no interest any more.
    Closed,
}

/// What the open question is about.
#[derive(Debug)]
enum Pending {
    Authenticate,
    Sender { from: ReversePath, params: MailParams },
    Recipient { to: ForwardPath, params: RcptParams },
    Data,
    Bdat { size: u64, last: Last },
    Message,
}

/// Whether a chunk ends its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

/// What becomes of a chunk.
#[derive(Debug)]
enum Fate {
    Kept,
    /// It is read, because it was sent, and then this is said.
    Dropped(Reply),
}

/// What a piece of work leads to.
enum Flow {
    /// On to the next.
    Go,
    /// Waiting for more octets.
    Need,
    /// Out to the shell.
    Out(Step),
}

impl Session {
    /// A session on a new connection.
    pub fn new(settings: Arc<Settings>, security: Security) -> Self {
        Self {
            settings,
            security,
            lines: LineReader::new(),
            phase: Phase::Command,
            errors: 0,
            auth_failures: 0,
            greeted: None,
            authenticated: false,
            transaction: None,
            chunks: None,
        }
    }

    /// Appends the greeting, which the server says first.
    pub fn greeting(&self, out: &mut Vec<u8>) {
        Reply::bare(220, format!("{} ESMTP", self.settings.host_name)).write_to(out);
    }

    /// Consumes what it can of `input`, appends replies to `out`, gives body octets to `body`. While a question is open
    /// nothing is consumed.
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>, body: &mut dyn FnMut(&[u8])) -> (usize, Step) {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            let (taken, flow) = match &self.phase {
                Phase::Command | Phase::Auth(_) => self.read_line(rest, out),
                Phase::Asking(_) => (0, Flow::Need),
                Phase::Data(_) => self.read_data(rest, out, body),
                Phase::Chunk { .. } => self.read_chunk(rest, out, body),
                Phase::StartTls => (0, self.start_tls(rest, out)),
                Phase::Closed => (0, Flow::Out(Step::Close)),
            };
            consumed += taken;
            match flow {
                Flow::Go => {}
                Flow::Need => return (consumed, Step::Read),
                Flow::Out(step) => return (consumed, step),
            }
        }
    }

    /// Answers the question last asked; without one it does nothing.
    pub fn answer(&mut self, verdict: Verdict, out: &mut Vec<u8>) {
        let pending = match mem::replace(&mut self.phase, Phase::Command) {
            Phase::Asking(pending) => pending,
            phase => return self.phase = phase,
        };
        match verdict {
            Verdict::Yes => self.granted(pending, None, out),
            Verdict::YesWith(reply) => self.granted(pending, Some(reply), out),
            Verdict::Refuse(reply) => self.refused(pending, reply, out),
            Verdict::CloseWith(reply) => self.close_with(&reply, out),
        }
    }

    /// Ends the session from outside, as at a timeout or shutdown: the reply is written, and [`Step::Close`] is next.
    pub fn close_with(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        reply.write_to(out);
        self.end_transaction();
        self.phase = Phase::Closed;
    }

    /// The session after the TLS handshake: all that was learned before is forgotten (RFC 3207 section 4.2).
    pub fn after_tls(self) -> Self {
        Self::new(self.settings, Security::Tls)
    }

    /// What protects the connection.
    pub fn security(&self) -> Security {
        self.security
    }

    /// How the client said hello, and the name it gave.
    pub fn greeted(&self) -> Option<(Greeted, &str)> {
        self.greeted.as_ref().map(|(how, name)| (*how, &**name))
    }

    /// The name that the client gave itself: printable, but whatever it liked.
    pub fn helo_name(&self) -> Option<&str> {
        self.greeted().map(|(_, name)| name)
    }

    /// Whether the client has authenticated.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// The transaction, from the accepted MAIL until it is accepted, refused or reset.
    pub fn transaction(&self) -> Option<&Transaction> {
        self.transaction.as_ref()
    }

    /// Whether there is a transaction.
    pub fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whether the octets of a message are being read.
    pub fn is_in_body(&self) -> bool {
        matches!(self.phase, Phase::Data(_) | Phase::Chunk { .. })
    }

    /// Whether a question is open.
    pub fn is_asking(&self) -> bool {
        matches!(self.phase, Phase::Asking(_))
    }

    fn granted(&mut self, pending: Pending, reply: Option<Reply>, out: &mut Vec<u8>) {
        let usual = match pending {
            Pending::Authenticate => {
                self.authenticated = true;
                replies::AUTHENTICATED
            }
            Pending::Sender { from, params } => {
                self.transaction = Some(Transaction { from, params, recipients: Vec::new() });
                replies::SENDER_OK
            }
            Pending::Recipient { to, params } => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.recipients.push(EnvelopeRecipient { to, params });
                }
                replies::RECIPIENT_OK
            }
            Pending::Data => {
                self.phase = Phase::Data(DataDecoder::new());
                replies::SEND_DATA
            }
            Pending::Bdat { size, last } => {
                self.chunks = Some(Inspector::default());
                self.phase = Phase::Chunk { octets_left: size, last, fate: Fate::Kept };
                // BDAT is answered when its octets are in.
                return;
            }
            Pending::Message => {
                self.end_transaction();
                replies::ACCEPTED
            }
        };
        reply.unwrap_or(usual).write_to(out);
    }

    fn refused(&mut self, pending: Pending, reply: Reply, out: &mut Vec<u8>) {
        match pending {
            Pending::Authenticate => {
                reply.write_to(out);
                if reply.is_permanent() {
                    self.auth_failures += 1;
                }
                if self.auth_failures >= self.settings.auth_failures_max {
                    self.close_with(&replies::TOO_MANY_FAILURES, out);
                }
            }
            Pending::Sender { .. } | Pending::Recipient { .. } => reply.write_to(out),
            Pending::Data | Pending::Message => {
                reply.write_to(out);
                self.end_transaction();
            }
            Pending::Bdat { size, last } => {
                self.end_transaction();
                self.phase = Phase::Chunk { octets_left: size, last, fate: Fate::Dropped(reply) };
            }
        }
    }

    fn end_transaction(&mut self) -> Option<Transaction> {
        self.chunks = None;
        self.transaction.take()
    }

    fn read_line(&mut self, rest: &[u8], out: &mut Vec<u8>) -> (usize, Flow) {
        let mut lines = mem::take(&mut self.lines);
        let (taken, line) = lines.push(rest);
        let flow = match line {
            None => Flow::Need,
            Some(line) => match mem::replace(&mut self.phase, Phase::Command) {
                Phase::Auth(exchange) => self.response(exchange, line, out),
                _ => self.command_line(line, out),
            },
        };
        self.lines = lines;
        (taken, flow)
    }

    fn command_line(&mut self, line: Line<'_>, out: &mut Vec<u8>) -> Flow {
        let line = match line {
            Line::Text(line) => line,
            Line::Broken => return self.error(&replies::BROKEN_LINE, out),
            Line::Overlong => return self.error(&replies::LONG_LINE, out),
        };
        let verb = line.get(..4).unwrap_or_default();
        if line.len() > COMMAND_OCTETS_MAX && !verb.eq_ignore_ascii_case(b"AUTH") {
            return self.error(&replies::LONG_LINE, out);
        }
        let smtputf8 = self.transaction.as_ref().is_some_and(|transaction| transaction.params.smtputf8);
        match Command::parse(line, if smtputf8 { Utf8::Allowed } else { Utf8::Refused }) {
            Ok(command) => self.command(command, out),
            Err(reply) if verb.eq_ignore_ascii_case(b"BDAT") => {
                // How many octets of content follow isn't known, and none of them may be taken for a command.
                self.close_with(&reply, out);
                Flow::Go
            }
            Err(reply) => self.error(&reply, out),
        }
    }

    /// Says what was wrong, and goodbye after too much of it.
    fn error(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Flow {
        reply.write_to(out);
        self.errors += 1;
        if self.errors >= self.settings.errors_max {
            self.close_with(&replies::TOO_MANY_ERRORS, out);
        }
        Flow::Go
    }

    fn reset(&mut self) -> Flow {
        match self.end_transaction() {
            Some(_) => Flow::Out(Step::Reset),
            None => Flow::Go,
        }
    }

    fn is_too_big(&self, octets: u64) -> bool {
        self.settings.size_max != 0 && octets > self.settings.size_max
    }

    fn ask(&mut self, question: Question, pending: Pending) -> Flow {
        self.phase = Phase::Asking(pending);
        Flow::Out(Step::Ask(question))
    }
}
