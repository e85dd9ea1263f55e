//! What a server offers.

use crate::reply::Reply;

/// The service extensions that a server listed after EHLO; none after HELO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Commands may be sent in groups (RFC 2920).
    pub pipelining: bool,
    /// SIZE (RFC 1870) with the most octets of a message, 0 when the server states none.
    pub size: Option<u64>,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034).
    pub enhanced_status_codes: bool,
    /// AUTH with PLAIN (RFC 4954, RFC 4616).
    pub auth_plain: bool,
    /// AUTH with LOGIN.
    pub auth_login: bool,
}

impl Capabilities {
    /// Reads the reply to EHLO: after the first line, a keyword and its parameters in each. What is unknown is ignored.
    pub fn from_reply(reply: &Reply) -> Self {
        let mut capabilities = Self::default();
        for line in reply.lines().skip(1) {
            capabilities.add(line);
        }
        capabilities
    }

    /// Whether a message of so many octets is within the server's limit, if it states one.
    pub fn accepts_size(&self, octets: u64) -> bool {
        self.size.is_none_or(|limit| limit == 0 || octets <= limit)
    }

    fn add(&mut self, line: &str) {
        // `AUTH=PLAIN LOGIN` is how servers listed it before RFC 2554.
        let mut words = line.split(|c: char| c == '=' || c.is_ascii_whitespace());
        match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "PIPELINING" => self.pipelining = true,
            "SIZE" => self.size = Some(words.next().and_then(|limit| limit.parse().ok()).unwrap_or(0)),
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "DSN" => self.dsn = true,
            "CHUNKING" => self.chunking = true,
            "STARTTLS" => self.starttls = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            "AUTH" => words.for_each(|mechanism| {
                self.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
                self.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
            }),
            _ => {}
        }
    }
}
