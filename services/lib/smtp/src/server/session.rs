//! One connection.

use std::sync::Arc;

use super::{Greeted, Security, Settings, Step, Transaction, Verdict};
use crate::reply::Reply;

/// A client's connection, from greeting to close.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    security: Security,
    greeted: Option<(Greeted, Box<str>)>,
    authenticated: bool,
    transaction: Option<Transaction>,
}

impl Session {
    /// A session on a new connection.
    pub fn new(settings: Arc<Settings>, security: Security) -> Self {
        Self { settings, security, greeted: None, authenticated: false, transaction: None }
    }

    /// Appends the greeting, which the server says first.
    pub fn greeting(&self, out: &mut Vec<u8>) {
        Reply::bare(220, format!("{} ESMTP", self.settings.host_name)).write_to(out);
    }

    /// Consumes what it can of `input`, appends replies to `out`, gives body octets to `body`. While a question is open
    /// nothing is consumed.
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>, body: &mut dyn FnMut(&[u8])) -> (usize, Step) {
        let _ = (out, body);
        (input.len(), Step::Read)
    }

    /// Answers the question last asked; without one it does nothing.
    pub fn answer(&mut self, verdict: Verdict, out: &mut Vec<u8>) {
        let _ = (verdict, out);
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

    /// The name that the client gave itself.
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
        false
    }
}
