//! One message to the recipients of one connection.

use std::fmt::Write as _;

use crate::address::{ForwardPath, ReversePath};
use crate::command::{Body, MailParams, RcptParams};
use crate::reply::{Reply, ReplyClass};

use super::{Capabilities, ProtocolError, Stage};

/// What a [`Transaction`] needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Write what is in `out` if anything, read a reply and give it to [`Transaction::take`].
    Reply,
    /// Send the message through a [`DataEncoder`](crate::data::DataEncoder), and call [`Transaction::body_sent`] when its final
    /// dot is about to be written. Who can't finish closes the connection: a message must not end early.
    Body,
    /// All recipients have a result: take it with [`Transaction::outcome`].
    Done,
}

/// What became of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientOutcome {
    /// The server took responsibility; this was its reply to the final dot.
    Accepted(Reply),
    /// The server refused. The first digit of the reply says whether for now or for good.
    Refused {
        /// What it refused.
        stage: Stage,
        /// Its reply.
        reply: Reply,
    },
    /// The server takes no more recipients in this transaction (RFC 5321 section 4.5.3.1.10): another one is to follow.
    Remaining,
    /// The conversation ended before the message did; the server has nothing.
    Unsettled,
    /// The message was sent to its end and no reply came: the server may have it or not (RFC 1047).
    InDoubt,
}

/// What state the connection is left in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// The next transaction may begin.
    Usable,
    /// RSET must come before the next transaction.
    NeedsReset,
    /// It is to be closed: the server said 421, left the protocol, or was left in the middle.
    Close,
}

/// What a transaction brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The results, in the order of the recipients.
    pub recipients: Vec<RecipientOutcome>,
    /// The connection's state.
    pub connection: Connection,
}

/// One transaction. With PIPELINING all commands up to DATA leave at once, else one by one.
#[derive(Debug)]
pub struct Transaction {
    capabilities: Capabilities,
    from: ReversePath,
    params: MailParams,
    recipients: Vec<(ForwardPath, RcptParams)>,
    settled: Vec<Settled>,
    accepted: usize,
    at: At,
    sent: Sent,
    connection: Connection,
}

/// A recipient so far.
#[derive(Debug)]
enum Settled {
    Waiting,
    ToBeSent,
    Done(RecipientOutcome),
}

/// Whose reply is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Mail,
    Rcpt(usize),
    Data,
    Body,
    Message,
    /// DATA was accepted with no recipient: an empty message ends it, and its reply means nothing.
    EmptyMessage,
    Done,
}

/// Whether the command whose reply is next has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    No,
    Yes,
    /// And so have all up to DATA.
    Group,
}

impl Transaction {
    /// A transaction on a connection that is ready for one. Of the parameters those are sent that the server knows; whether
    /// the message may go to a server without them (SIZE, 8BITMIME, SMTPUTF8) is for the caller to see to before.
    pub fn new(
        capabilities: &Capabilities,
        from: ReversePath,
        params: MailParams,
        recipients: Vec<(ForwardPath, RcptParams)>,
    ) -> Self {
        Self {
            capabilities: *capabilities,
            from,
            params,
            settled: recipients.iter().map(|_| Settled::Waiting).collect(),
            at: if recipients.is_empty() { At::Done } else { At::Mail },
            recipients,
            accepted: 0,
            sent: Sent::No,
            connection: Connection::Usable,
        }
    }

    /// Appends what is to be written to `out` and says what is needed.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Want {
        match self.at {
            At::Body => return Want::Body,
            At::Done => return Want::Done,
            At::Message => return Want::Reply,
            At::Mail | At::Rcpt(_) | At::Data | At::EmptyMessage => {}
        }
        if self.sent == Sent::No {
            self.sent =
                if self.capabilities.pipelining && self.at == At::Mail { Sent::Group } else { Sent::Yes };
            match self.at {
                At::Mail => self.write_mail(out),
                At::Rcpt(index) => self.write_rcpt(index, out),
                At::Data => out.extend_from_slice(b"DATA\r\n"),
                _ => out.extend_from_slice(b".\r\n"),
            }
            if self.sent == Sent::Group {
                (0..self.recipients.len()).for_each(|index| self.write_rcpt(index, out));
                out.extend_from_slice(b"DATA\r\n");
            }
        }
        Want::Reply
    }

    /// Takes a reply.
    ///
    /// # Errors
    /// When nothing was asked, or the reply can't be one to what was. [`Transaction::outcome`] then has the results so far.
    pub fn take(&mut self, reply: Reply) -> Result<(), ProtocolError> {
        if self.at == At::Body {
            return self.take_early(reply);
        }
        if self.at == At::Done || self.sent == Sent::No {
            return Err(self.lost(ProtocolError::Unasked(reply)));
        }
        let (stage, positive) = match self.at {
            At::Mail => (Stage::Mail, ReplyClass::Positive),
            At::Rcpt(_) => (Stage::Rcpt, ReplyClass::Positive),
            At::Data => (Stage::Data, ReplyClass::Intermediate),
            _ => (Stage::Message, ReplyClass::Positive),
        };
        if reply.code() == 421 {
            self.refuse_all(stage, &reply);
            self.end(Connection::Close);
            return Ok(());
        }
        let class = reply.class();
        let negative = matches!(class, ReplyClass::Transient | ReplyClass::Permanent);
        if class != positive && !negative {
            return Err(self.lost(ProtocolError::Unexpected { stage, reply }));
        }
        match self.at {
            At::Mail => self.take_mail(&reply),
            At::Rcpt(index) => self.take_rcpt(index, reply),
            At::Data => self.take_data(&reply),
            At::EmptyMessage => self.end(Connection::Usable),
            At::Message | At::Body | At::Done => self.take_message(&reply),
        }
        Ok(())
    }

    /// Says that the message's final dot is about to leave: from here on a lost connection leaves doubt.
    pub fn body_sent(&mut self) {
        if self.at == At::Body {
            self.at = At::Message;
            self.sent = Sent::Yes;
        }
    }

    /// How many recipients were accepted so far.
    pub fn recipients_accepted(&self) -> usize {
        self.accepted
    }

    /// What the next reply answers: for the caller's timeouts (RFC 5321 section 4.5.3.2) and reports.
    pub fn stage(&self) -> Stage {
        match self.at {
            At::Mail => Stage::Mail,
            At::Rcpt(_) => Stage::Rcpt,
            At::Data => Stage::Data,
            At::Body | At::Message | At::EmptyMessage | At::Done => Stage::Message,
        }
    }

    /// The results. It may be asked at any time, as when the connection broke.
    pub fn outcome(self) -> Outcome {
        let in_doubt = self.at == At::Message;
        let recipients = self.settled.into_iter().map(|settled| match settled {
            Settled::Done(outcome) => outcome,
            Settled::ToBeSent if in_doubt => RecipientOutcome::InDoubt,
            Settled::ToBeSent | Settled::Waiting => RecipientOutcome::Unsettled,
        });
        let connection = if self.at == At::Done { self.connection } else { Connection::Close };
        Outcome { recipients: recipients.collect(), connection }
    }

    fn take_mail(&mut self, reply: &Reply) {
        if !reply.is_positive() {
            self.refuse_all(Stage::Mail, reply);
            if self.sent != Sent::Group {
                return self.end(Connection::Usable);
            }
        }
        self.advance(At::Rcpt(0));
    }

    fn take_rcpt(&mut self, index: usize, reply: Reply) {
        let after_others = self.accepted > 0;
        if let Some(settled) =
            self.settled.get_mut(index).filter(|settled| matches!(settled, Settled::Waiting))
        {
            *settled = if reply.is_positive() {
                self.accepted += 1;
                Settled::ToBeSent
            } else if after_others && is_too_many(&reply) {
                Settled::Done(RecipientOutcome::Remaining)
            } else {
                Settled::Done(RecipientOutcome::Refused { stage: Stage::Rcpt, reply })
            };
        }
        if index + 1 < self.recipients.len() {
            self.advance(At::Rcpt(index + 1));
        } else if self.accepted > 0 || self.sent == Sent::Group {
            self.advance(At::Data);
        } else {
            self.end(Connection::NeedsReset);
        }
    }

    fn take_data(&mut self, reply: &Reply) {
        if !reply.is_intermediate() {
            self.refuse_all(Stage::Data, reply);
            self.end(Connection::NeedsReset);
        } else if self.accepted > 0 {
            self.at = At::Body;
        } else {
            self.at = At::EmptyMessage;
            self.sent = Sent::No;
        }
    }

    fn take_message(&mut self, reply: &Reply) {
        if reply.is_positive() {
            for settled in self.settled.iter_mut().filter(|settled| matches!(settled, Settled::ToBeSent)) {
                *settled = Settled::Done(RecipientOutcome::Accepted(reply.clone()));
            }
        } else {
            self.refuse_all(Stage::Message, reply);
        }
        self.end(Connection::Usable);
    }

    /// A refusal may come while the message is being sent; an acceptance can't.
    fn take_early(&mut self, reply: Reply) -> Result<(), ProtocolError> {
        if !reply.is_transient() && !reply.is_permanent() {
            return Err(self.lost(ProtocolError::Unasked(reply)));
        }
        self.refuse_all(Stage::Message, &reply);
        self.end(Connection::Close);
        Ok(())
    }

    fn refuse_all(&mut self, stage: Stage, reply: &Reply) {
        for settled in self.settled.iter_mut().filter(|settled| !matches!(settled, Settled::Done(_))) {
            *settled = Settled::Done(RecipientOutcome::Refused { stage, reply: reply.clone() });
        }
        self.accepted = 0;
    }

    fn advance(&mut self, at: At) {
        self.at = at;
        if self.sent != Sent::Group {
            self.sent = Sent::No;
        }
    }

    fn end(&mut self, connection: Connection) {
        self.at = At::Done;
        self.connection = connection;
    }

    /// What has no result stays so; a message that was sent to its end stays in doubt.
    fn lost(&mut self, error: ProtocolError) -> ProtocolError {
        self.connection = Connection::Close;
        error
    }

    fn write_mail(&self, out: &mut Vec<u8>) {
        let offered = &self.capabilities;
        let mut line = format!("MAIL FROM:<{}>", self.from);
        // Writing into a String can't fail.
        if let Some(size) = self.params.size.filter(|_| offered.size.is_some()) {
            let _ = write!(line, " SIZE={size}");
        }
        if offered.eight_bit_mime && self.params.body == Body::EightBitMime {
            line.push_str(" BODY=8BITMIME");
        }
        if offered.smtputf8 && self.params.smtputf8 {
            line.push_str(" SMTPUTF8");
        }
        if let Some(ret) = self.params.ret.filter(|_| offered.dsn) {
            let _ = write!(line, " RET={ret}");
        }
        if let Some(envid) = self.params.envid.as_ref().filter(|_| offered.dsn) {
            let _ = write!(line, " ENVID={envid}");
        }
        line.push_str("\r\n");
        out.extend_from_slice(line.as_bytes());
    }

    fn write_rcpt(&self, index: usize, out: &mut Vec<u8>) {
        let Some((to, params)) = self.recipients.get(index) else { return };
        let mut line = format!("RCPT TO:<{to}>");
        if let Some(notify) = params.notify.filter(|_| self.capabilities.dsn) {
            let _ = write!(line, " NOTIFY={notify}");
        }
        if let Some(orcpt) = params.orcpt.as_ref().filter(|_| self.capabilities.dsn) {
            let _ = write!(line, " ORCPT={}", orcpt.encoded());
        }
        line.push_str("\r\n");
        out.extend_from_slice(line.as_bytes());
    }
}

/// 452, or 552 from servers older than RFC 2821, means too many recipients when others were accepted before; an enhanced
/// code that speaks of something else, as of a full mailbox, says that it doesn't.
fn is_too_many(reply: &Reply) -> bool {
    matches!(reply.code(), 452 | 552)
        && reply.enhanced().is_none_or(|enhanced| (enhanced.subject, enhanced.detail) == (5, 3))
}
