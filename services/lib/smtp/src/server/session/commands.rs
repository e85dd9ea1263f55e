//! What each command does.

use crate::address::{ForwardPath, ReversePath};
use crate::command::{Command, InitialResponse, MailParams, Mechanism, RcptParams};
use crate::line::Line;
use crate::reply::Reply;
use crate::server::exchange::{Exchange, Next};
use crate::server::{AuthOffer, Greeted, Question, Security, StartTls, Step, replies};

use super::{Fate, Flow, Last, Pending, Phase, Session};

impl Session {
    pub(super) fn command(&mut self, command: Command<'_>, out: &mut Vec<u8>) -> Flow {
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

    fn hello(&mut self, how: Greeted, name: &str, out: &mut Vec<u8>) -> Flow {
        self.greeted = Some((how, name.into()));
        // What is offered depends on there being no transaction.
        let reset = self.reset();
        let host_name = &self.settings.host_name;
        match how {
            Greeted::Helo => Reply::bare(250, host_name.clone()).write_to(out),
            Greeted::Ehlo => Reply::bare(250, format!("{host_name}\n{}", self.extensions())).write_to(out),
        }
        reset
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
    pub(super) fn start_tls(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Flow {
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

    pub(super) fn response(&mut self, exchange: Exchange, line: Line<'_>, out: &mut Vec<u8>) -> Flow {
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
