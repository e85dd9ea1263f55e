//! The right of one connection to exist.

use std::sync::Arc;
use std::time::Instant;

use super::member::Member;
use super::places::Number;
use crate::local;
use crate::local::site::Purpose;

/// A connection's right to exist, renewed in the background; dropped, it is given back.
pub struct ConnectionLease {
    member: Arc<Member>,
    site: Box<str>,
    number: Number,
    /// None until it is granted.
    since: Option<Instant>,
    /// When the local counters granted it.
    local: Option<local::ConnectionLease>,
    closed: bool,
}

impl ConnectionLease {
    /// One that is being asked for. Dropped before it is answered, it is taken back from the server, which may have granted
    /// it meanwhile.
    pub(super) fn asked(member: &Arc<Member>, site: &str, number: Number) -> Self {
        let member = Arc::clone(member);
        Self { member, site: site.into(), number, since: None, local: None, closed: false }
    }

    pub(super) fn number(&self) -> Number {
        self.number
    }

    /// The server granted it.
    pub(super) fn granted(mut self, purpose: Purpose, open: u32) -> Self {
        let now = Instant::now();
        self.since = Some(now);
        self.member.places.granted(&self.site, self.number, purpose, open, now);
        self
    }

    /// The local counters granted it.
    pub(super) fn granted_locally(mut self, lease: local::ConnectionLease) -> Self {
        self.since = Some(Instant::now());
        self.member.places.granted_locally(&self.site, self.number, lease.purpose());
        self.local = Some(lease);
        self
    }

    /// The server refused it, and knows nothing of it.
    pub(super) fn refused(mut self, open: u32) {
        self.member.places.refused(&self.site, self.number, open, Instant::now());
        self.closed = true;
    }
}

impl Drop for ConnectionLease {
    fn drop(&mut self) {
        if !self.closed {
            self.member.places.close(&self.site, self.number);
            let held = self.since.map(|since| since.elapsed());
            self.member.tell_close(&self.site, self.number, held.unwrap_or_default());
        }
    }
}

impl std::fmt::Debug for ConnectionLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionLease").field("site", &self.site).finish_non_exhaustive()
    }
}
