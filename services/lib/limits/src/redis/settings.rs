//! What has to be known to take part.

use std::time::Duration;

use redis::{Client, TlsCertificates};
// The provider that `redis` finds for `rediss://`: the only one that is built in is aws-lc-rs, which this crate brings in.
use rustls as _;

/// Where the server is, and as whom to take part.
#[derive(Clone)]
pub struct Settings {
    /// `redis://[user][:password@]host[:port][/database]`, or `rediss://` for TLS.
    pub url: String,
    /// The authorities in PEM that a `rediss://` server's certificate is held against; the system's when there are none.
    pub authorities: Option<Vec<u8>>,
    /// Whose counters these are: all keys begin with it, so that several installations can share a server.
    pub instance: String,
    /// Those with whom the limits are shared out while the server is away: members of one group ask for the same things
    /// (workers for sites, ingresses for quotas).
    pub group: String,
    /// Members that the group is taken to have as long as none were seen.
    pub pods: u32,
    /// How long a connection's lease holds unless it is renewed. All members of an instance must have the same.
    pub lease: Duration,
    /// How long a restart of the server may take. So long after it was lost, no member holds more connections than it did;
    /// afterwards each keeps to its share.
    pub restart: Duration,
}

/// The counters can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address isn't one. It isn't repeated here, because it may hold a password.
    #[error("the address of the Redis server is malformed")]
    Url(#[source] redis::RedisError),
    /// The authorities can't be used.
    #[error("the certificate authorities for the Redis server can't be used")]
    Authorities(#[source] redis::RedisError),
    /// Something else is wrong.
    #[error("{setting} for the Redis server must be {must}")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// What it must be.
        must: &'static str,
    },
}

impl Settings {
    /// The usual settings for a server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            authorities: None,
            instance: "stagepost".into(),
            group: "delivery".into(),
            pods: 1,
            lease: Duration::from_secs(30),
            restart: Duration::from_secs(5),
        }
    }

    /// The client for the server, not connected.
    pub(super) fn client(&self) -> Result<Client, ConnectError> {
        let wrong = |setting, must| Err(ConnectError::Setting { setting, must });
        if self.instance.is_empty() || self.instance.contains(['{', '}']) {
            return wrong("the instance's name", "a name without braces");
        }
        if self.lease < Duration::from_secs(1) {
            return wrong("the time that a lease holds", "a second or more");
        }
        let client = Client::open(self.url.as_str()).map_err(ConnectError::Url)?;
        match &self.authorities {
            None => Ok(client),
            Some(pem) => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
                Client::build_with_tls(self.url.as_str(), certificates).map_err(ConnectError::Authorities)
            }
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("instance", &self.instance)
            .field("group", &self.group)
            .field("pods", &self.pods)
            .field("lease", &self.lease)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_address_is_an_error_that_does_not_repeat_it() {
        for url in ["", "localhost", "http://:secret@localhost", "redis://:secret@host:port"] {
            let error = Settings::new(url).client().expect_err(url);
            assert!(matches!(error, ConnectError::Url(_)), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
        assert!(!format!("{:?}", Settings::new("redis://:secret@host")).contains("secret"));
        for url in ["redis://localhost", "redis://:secret@host:1/2", "rediss://user:secret@host"] {
            assert!(Settings::new(url).client().is_ok(), "{url}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let usual = || Settings::new("redis://localhost");
        let brace = Settings { instance: "a{b}".into(), ..usual() };
        let short = Settings { lease: Duration::from_millis(10), ..usual() };
        assert!(matches!(brace.client(), Err(ConnectError::Setting { .. })));
        assert!(matches!(short.client(), Err(ConnectError::Setting { .. })));
        // Authorities are for TLS only.
        let clear = Settings { authorities: Some(Vec::new()), ..usual() };
        assert!(matches!(clear.client(), Err(ConnectError::Authorities(_))));
    }
}
