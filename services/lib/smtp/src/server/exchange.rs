//! The SASL exchange of AUTH (RFC 4954 section 4, RFC 4616).

use super::replies::{BAD_BASE64, CANCELLED, CHALLENGE, CHALLENGE_NAME, CHALLENGE_PASSWORD};
use crate::base64;
use crate::command::Mechanism;
use crate::reply::Reply;

/// An exchange that waits for the client's next response.
pub(super) enum Exchange {
    Plain,
    LoginName,
    LoginPassword { name: String },
}

/// Where a response leads.
pub(super) enum Next {
    Challenge(Exchange, Reply),
    Credentials(Credentials),
}

/// What the client claims.
pub(super) struct Credentials {
    pub(super) mechanism: Mechanism,
    pub(super) authcid: String,
    pub(super) authzid: Option<String>,
    pub(super) password: Vec<u8>,
}

impl Exchange {
    /// Begins with AUTH's own arguments.
    pub(super) fn begin(mechanism: Mechanism, initial: Option<&str>) -> Result<Next, Reply> {
        let (exchange, challenge) = match mechanism {
            Mechanism::Plain => (Self::Plain, CHALLENGE),
            Mechanism::Login => (Self::LoginName, CHALLENGE_NAME),
        };
        match initial {
            None => Ok(Next::Challenge(exchange, challenge)),
            Some("=") => exchange.decoded(Vec::new()),
            Some(response) => exchange.decoded(base64::decode(response.as_bytes()).ok_or(BAD_BASE64)?),
        }
    }

    /// Goes on with a line that the client sent.
    pub(super) fn respond(self, line: &[u8]) -> Result<Next, Reply> {
        if line == b"*" {
            return Err(CANCELLED);
        }
        self.decoded(base64::decode(line).ok_or(BAD_BASE64)?)
    }

    fn decoded(self, response: Vec<u8>) -> Result<Next, Reply> {
        match self {
            Self::Plain => plain(&response).map(Next::Credentials).ok_or(BAD_BASE64),
            Self::LoginName => {
                let name = name(&response).ok_or(BAD_BASE64)?;
                Ok(Next::Challenge(Self::LoginPassword { name }, CHALLENGE_PASSWORD))
            }
            Self::LoginPassword { name } => Ok(Next::Credentials(Credentials {
                mechanism: Mechanism::Login,
                authcid: name,
                authzid: None,
                password: response,
            })),
        }
    }
}

/// `authzid NUL authcid NUL password`.
fn plain(message: &[u8]) -> Option<Credentials> {
    let mut parts = message.split(|octet| *octet == 0);
    let (authzid, authcid, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some(Credentials {
        mechanism: Mechanism::Plain,
        authcid: name(authcid)?,
        authzid: if authzid.is_empty() { None } else { Some(name(authzid)?) },
        password: password.to_owned(),
    })
}

/// A name is text that can be logged.
fn name(octets: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(octets).ok()?;
    (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
}

/// The kind alone.
impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::LoginName => "LoginName",
            Self::LoginPassword { .. } => "LoginPassword",
        })
    }
}
