//! One connection.

use std::mem;
use std::sync::Arc;

use super::exchange::{Exchange, Next};
use super::{
    AuthOffer, EnvelopeRecipient, Greeted, Question, Security, Settings, StartTls, Step, Transaction,
    Verdict, replies,
};
use crate::address::{ForwardPath, ReversePath, Utf8};
use crate::command::{Command, InitialResponse, MailParams, Mechanism, RcptParams};
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

    fn command(&mut self, command: Command<'_>, out: &mut Vec<u8>) -> Flow {
        match command {
            Command::Ehlo(name) => return self.hello(Greeted::Ehlo, name, out),
            Command::Helo(name) => return self.hello(Greeted::Helo, name, out),
            Command::Mail { from, params } => return self.mail(from, params, out),
            Command::Rcpt { to, params } => return self.rcpt(to, params, out),
            Command::Data => return self.data(out),
            Command::Bdat { size, last } => return self.bdat(size, if last { Last::Yes } else { Last::No }),
            Command::Auth { mechanism, initial } => return self.auth(mechanism, initial, out),
            Command::Rset => {
                replies::OK.write_to(out);
                return self.reset();
            }
            Command::StartTls => match self.starttls_refusal() {
                Some(refusal) => return self.error(&refusal, out),
                None => self.phase = Phase::StartTls,
            },
            Command::Quit => self.close_with(&replies::BYE, out),
            Command::Expn => return self.error(&replies::NO_EXPN, out),
            Command::Noop => replies::OK.write_to(out),
            Command::Vrfy => replies::CANNOT_VERIFY.write_to(out),
            Command::Help => replies::HELP.write_to(out),
        }
        Flow::Go
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

    fn hello(&mut self, how: Greeted, name: &str, out: &mut Vec<u8>) -> Flow {
        self.greeted = Some((how, name.into()));
        let host_name = &self.settings.host_name;
        match how {
            Greeted::Helo => Reply::bare(250, host_name.clone()).write_to(out),
            Greeted::Ehlo => Reply::bare(250, format!("{host_name}\n{}", self.extensions())).write_to(out),
        }
        self.reset()
    }

    fn extensions(&self) -> String {
        let mut extensions = match self.settings.size_max {
            0 => String::from("PIPELINING\nSIZE"),
            size_max => format!("PIPELINING\nSIZE {size_max}"),
        };
        extensions.push_str("\n8BITMIME\nSMTPUTF8\nDSN\nCHUNKING\nENHANCEDSTATUSCODES\nHELP");
        if self.starttls_refusal().is_none() {
            extensions.push_str("\nSTARTTLS");
        }
        if self.offers_auth() {
            extensions.push_str("\nAUTH PLAIN LOGIN");
        }
        extensions
    }

    fn starttls_refusal(&self) -> Option<Reply> {
        match (self.security, self.settings.starttls) {
            (Security::Tls, _) => Some(replies::TLS_ALREADY),
            (Security::Plain, StartTls::NotOffered) => Some(replies::NO_STARTTLS),
            (Security::Plain, StartTls::Offered) if self.transaction.is_some() => {
                Some(replies::IN_TRANSACTION)
            }
            (Security::Plain, StartTls::Offered) => None,
        }
    }

    fn offers_auth(&self) -> bool {
        self.security == Security::Tls || self.settings.auth == AuthOffer::Always
    }

    /// Octets behind STARTTLS were sent in the clear and would be taken as if they had come by TLS.
    fn start_tls(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Flow {
        if !rest.is_empty() {
            self.close_with(&replies::NOT_LAST, out);
            return Flow::Go;
        }
        replies::START_TLS.write_to(out);
        self.phase = Phase::Closed;
        Flow::Out(Step::StartTls)
    }

    fn mail(&mut self, from: ReversePath, params: MailParams, out: &mut Vec<u8>) -> Flow {
        if self.greeted.is_none() {
            return self.error(&replies::SAY_HELLO, out);
        }
        if !self.authenticated {
            let refusal = if self.offers_auth() { replies::AUTH_REQUIRED } else { replies::TLS_REQUIRED };
            return self.error(&refusal, out);
        }
        if self.transaction.is_some() {
            return self.error(&replies::IN_TRANSACTION, out);
        }
        if params.size.is_some_and(|size| self.is_too_big(size)) {
            replies::TOO_BIG.write_to(out);
            return Flow::Go;
        }
        self.ask(
            Question::Sender { from: from.clone(), params: params.clone() },
            Pending::Sender { from, params },
        )
    }

    fn rcpt(&mut self, to: ForwardPath, params: RcptParams, out: &mut Vec<u8>) -> Flow {
        let refusal = match &self.transaction {
            // Not counted as an error: a group was sent before the refusal of its MAIL could be read.
            None => replies::SEND_MAIL,
            Some(_) if self.chunks.is_some() => replies::IN_CHUNKS,
            Some(transaction) if transaction.recipients.len() >= self.settings.recipients_max => {
                replies::TOO_MANY_RECIPIENTS
            }
            Some(_) => {
                let question = Question::Recipient { to: to.clone(), params: params.clone() };
                return self.ask(question, Pending::Recipient { to, params });
            }
        };
        refusal.write_to(out);
        Flow::Go
    }

    fn data(&mut self, out: &mut Vec<u8>) -> Flow {
        let refusal = self.body_refusal().or(self.chunks.as_ref().map(|_| replies::IN_CHUNKS));
        match refusal {
            Some(refusal) => {
                refusal.write_to(out);
                Flow::Go
            }
            None => self.ask(Question::Body, Pending::Data),
        }
    }

    fn bdat(&mut self, size: u64, last: Last) -> Flow {
        let fate = match self.body_refusal() {
            Some(refusal) => Fate::Dropped(refusal),
            None if self.chunks.is_none() => return self.ask(Question::Body, Pending::Bdat { size, last }),
            None => Fate::Kept,
        };
        self.phase = Phase::Chunk { octets_left: size, last, fate };
        Flow::Go
    }

    fn body_refusal(&self) -> Option<Reply> {
        match &self.transaction {
            None => Some(replies::SEND_MAIL),
            Some(transaction) if transaction.recipients.is_empty() => Some(replies::NO_RECIPIENTS),
            Some(_) => None,
        }
    }

    fn is_too_big(&self, octets: u64) -> bool {
        self.settings.size_max != 0 && octets > self.settings.size_max
    }

    fn ask(&mut self, question: Question, pending: Pending) -> Flow {
        self.phase = Phase::Asking(pending);
        Flow::Out(Step::Ask(question))
    }

    fn read_data(&mut self, rest: &[u8], out: &mut Vec<u8>, body: &mut dyn FnMut(&[u8])) -> (usize, Flow) {
        let Phase::Data(decoder) = &mut self.phase else { return (0, Flow::Go) };
        let size_max = self.settings.size_max;
        let mut octets = decoder.octets();
        let (taken, end) = decoder.decode(rest, &mut |piece: &[u8]| {
            octets += piece.len() as u64;
            if size_max == 0 || octets <= size_max {
                body(piece);
            }
        });
        match end {
            None => (taken, Flow::Need),
            Some(end) if self.is_too_big(end.octets) => (taken, self.overflow(out)),
            Some(end) => {
                let question =
                    Question::Message { flaws: end.flaws, octets: end.octets, eight_bit: end.eight_bit };
                (taken, self.ask(question, Pending::Message))
            }
        }
    }

    fn read_chunk(&mut self, rest: &[u8], out: &mut Vec<u8>, body: &mut dyn FnMut(&[u8])) -> (usize, Flow) {
        let Phase::Chunk { octets_left, fate, .. } = &mut self.phase else { return (0, Flow::Go) };
        let taken = usize::try_from(*octets_left).map_or(rest.len(), |left| left.min(rest.len()));
        let piece = &rest[..taken];
        *octets_left -= taken as u64;
        let more = *octets_left > 0;
        if let (Fate::Kept, Some(inspector)) = (fate, &mut self.chunks) {
            inspector.inspect(piece);
            let octets = inspector.octets();
            if !piece.is_empty() && !self.is_too_big(octets) {
                body(piece);
            }
        }
        (taken, if more { Flow::Need } else { self.end_chunk(out) })
    }

    fn end_chunk(&mut self, out: &mut Vec<u8>) -> Flow {
        let Phase::Chunk { last, fate, .. } = mem::replace(&mut self.phase, Phase::Command) else {
            return Flow::Go;
        };
        let kept = match fate {
            Fate::Kept => self.chunks.as_mut(),
            Fate::Dropped(reply) => {
                reply.write_to(out);
                None
            }
        };
        let Some(inspector) = kept else { return Flow::Go };
        let octets = inspector.octets();
        if last == Last::Yes {
            let (flaws, eight_bit) = (inspector.finish(), inspector.has_eight_bit());
            if self.is_too_big(octets) {
                return self.overflow(out);
            }
            return self.ask(Question::Message { flaws, octets, eight_bit }, Pending::Message);
        }
        if self.is_too_big(octets) {
            return self.overflow(out);
        }
        replies::CHUNK_OK.write_to(out);
        Flow::Go
    }

    /// The message was over the limit: it has been read and dropped, and the session takes the next.
    fn overflow(&mut self, out: &mut Vec<u8>) -> Flow {
        replies::TOO_BIG.write_to(out);
        self.phase = Phase::Command;
        self.reset()
    }

    fn auth(
        &mut self,
        mechanism: Mechanism,
        initial: Option<InitialResponse<'_>>,
        out: &mut Vec<u8>,
    ) -> Flow {
        let refusal = if self.greeted.is_none() {
            replies::SAY_HELLO
        } else if self.authenticated {
            replies::AUTHENTICATED_ALREADY
        } else if self.transaction.is_some() {
            replies::IN_TRANSACTION
        } else if !self.offers_auth() {
            replies::AUTH_NEEDS_TLS
        } else {
            let next = Exchange::begin(mechanism, initial.map(|initial| initial.as_str()));
            return self.exchange(next, out);
        };
        self.error(&refusal, out)
    }

    fn response(&mut self, exchange: Exchange, line: Line<'_>, out: &mut Vec<u8>) -> Flow {
        let next = match line {
            Line::Text(line) => exchange.respond(line),
            Line::Broken => Err(replies::BAD_BASE64),
            Line::Overlong => Err(replies::LONG_LINE),
        };
        self.exchange(next, out)
    }

    fn exchange(&mut self, next: Result<Next, Reply>, out: &mut Vec<u8>) -> Flow {
        match next {
            Ok(Next::Challenge(exchange, challenge)) => {
                challenge.write_to(out);
                self.phase = Phase::Auth(exchange);
                Flow::Go
            }
            Ok(Next::Credentials(credentials)) => {
                let question = Question::Authenticate {
                    mechanism: credentials.mechanism,
                    authcid: credentials.authcid,
                    authzid: credentials.authzid,
                    password: credentials.password,
                };
                self.ask(question, Pending::Authenticate)
            }
            Err(reply) => self.error(&reply, out),
        }
    }
}
