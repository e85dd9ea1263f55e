//! Opening a connection: greeting, EHLO, STARTTLS, AUTH; between transactions RSET; at the end QUIT.

use crate::address::Host;
use crate::base64;
use crate::reply::{Reply, ReplyClass};

use super::{Capabilities, ProtocolError, Stage};

/// What a [`Session`] needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Write what is in `out` if anything, read a reply and give it to [`Session::take`].
    Reply,
    /// The server is ready for TLS: shake hands, then call [`Session::after_tls`]. Octets that were read behind the reply
    /// came in the clear and must end the connection.
    StartTls,
    /// Capabilities are known. Begin a transaction, or go on with STARTTLS, AUTH, RSET or QUIT.
    Ready,
    /// The server doesn't want us, now (4xx) or ever (5xx); send QUIT or close. A greeting of 5xx says so for this host
    /// only: others of the domain may be asked.
    Refused(Reply),
    /// QUIT was answered: close.
    Closed,
}

/// A connection to a server.
#[derive(Debug)]
pub struct Session {
    name: Host,
    state: State,
    capabilities: Capabilities,
    starttls_refusal: Option<Reply>,
}

#[derive(Debug)]
enum State {
    Send(Verb),
    Await(Verb),
    Tls,
    Ready,
    Refused(Reply),
    Closed,
}

enum Verb {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    /// The message of RFC 4616, unencoded.
    Auth(Vec<u8>),
    Reset,
    Quit,
}

impl Session {
    /// A session on a new connection. The client calls itself `name`: the domain name of its address, or the address
    /// (RFC 5321 section 4.1.1.1).
    pub fn new(name: Host) -> Self {
        Self {
            name,
            state: State::Await(Verb::Greeting),
            capabilities: Capabilities::default(),
            starttls_refusal: None,
        }
    }

    /// Appends what is to be written to `out` and says what is needed.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Progress {
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Send(verb) => {
                verb.write(&self.name, out);
                State::Await(verb)
            }
            state => state,
        };
        match &self.state {
            State::Send(_) | State::Await(_) => Progress::Reply,
            State::Tls => Progress::StartTls,
            State::Ready => Progress::Ready,
            State::Refused(reply) => Progress::Refused(reply.clone()),
            State::Closed => Progress::Closed,
        }
    }

    /// Takes a reply.
    ///
    /// # Errors
    /// When nothing was asked, or the reply can't be one to what was.
    pub fn take(&mut self, reply: Reply) -> Result<(), ProtocolError> {
        let State::Await(verb) = &self.state else {
            return Err(ProtocolError::Unasked(reply));
        };
        let class = reply.class();
        if class == ReplyClass::Intermediate {
            return Err(ProtocolError::Unexpected { stage: verb.stage(), reply });
        }
        self.state = match (verb, class) {
            (Verb::Quit, _) => State::Closed,
            (Verb::Greeting, ReplyClass::Positive) => State::Send(Verb::Ehlo),
            (Verb::Ehlo, ReplyClass::Positive) => {
                self.capabilities = Capabilities::from_reply(&reply);
                State::Ready
            }
            // A server that doesn't know EHLO is asked with HELO (RFC 5321 section 3.2).
            (Verb::Ehlo, ReplyClass::Permanent) => State::Send(Verb::Helo),
            (Verb::Helo | Verb::Auth(_) | Verb::Reset, ReplyClass::Positive) => State::Ready,
            (Verb::StartTls, ReplyClass::Positive) => State::Tls,
            (Verb::StartTls, _) if reply.code() != 421 => {
                self.starttls_refusal = Some(reply);
                State::Ready
            }
            _ => State::Refused(reply),
        };
        Ok(())
    }

    /// Asks for TLS. When the server refuses, the session is ready again and [`Session::starttls_refusal`] says why.
    pub fn start_tls(&mut self) {
        self.ask(Verb::StartTls);
    }

    /// Goes on after the TLS handshake: what was learned before is forgotten, EHLO is said again (RFC 3207 section 4.2).
    pub fn after_tls(&mut self) {
        self.capabilities = Capabilities::default();
        self.starttls_refusal = None;
        self.state = State::Send(Verb::Ehlo);
    }

    /// Authenticates with PLAIN (RFC 4616); to be used under TLS only.
    pub fn auth_plain(&mut self, authcid: &str, password: &[u8]) {
        self.ask(Verb::Auth([b"\0", authcid.as_bytes(), b"\0", password].concat()));
    }

    /// Aborts what a transaction left behind.
    pub fn reset(&mut self) {
        self.ask(Verb::Reset);
    }

    /// Says goodbye, whatever came before.
    pub fn quit(&mut self) {
        self.state = State::Send(Verb::Quit);
    }

    /// What the server offers; nothing before [`Progress::Ready`] and after HELO.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The refusal of STARTTLS, if there was one.
    pub fn starttls_refusal(&self) -> Option<&Reply> {
        self.starttls_refusal.as_ref()
    }

    fn ask(&mut self, verb: Verb) {
        if matches!(self.state, State::Ready) {
            self.state = State::Send(verb);
        }
    }
}

impl Verb {
    fn write(&self, name: &Host, out: &mut Vec<u8>) {
        match self {
            Self::Greeting => {}
            Self::Ehlo => out.extend_from_slice(format!("EHLO {name}\r\n").as_bytes()),
            Self::Helo => out.extend_from_slice(format!("HELO {name}\r\n").as_bytes()),
            Self::StartTls => out.extend_from_slice(b"STARTTLS\r\n"),
            Self::Auth(message) => {
                out.extend_from_slice(b"AUTH PLAIN ");
                base64::encode(message, out);
                out.extend_from_slice(b"\r\n");
            }
            Self::Reset => out.extend_from_slice(b"RSET\r\n"),
            Self::Quit => out.extend_from_slice(b"QUIT\r\n"),
        }
    }

    fn stage(&self) -> Stage {
        match self {
            Self::Greeting => Stage::Greeting,
            Self::Ehlo | Self::Helo => Stage::Hello,
            Self::StartTls => Stage::StartTls,
            Self::Auth(_) => Stage::Auth,
            Self::Reset => Stage::Reset,
            Self::Quit => Stage::Quit,
        }
    }
}

/// The stage alone: AUTH carries a password.
impl std::fmt::Debug for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.stage(), f)
    }
}
