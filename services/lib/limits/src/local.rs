//! The counters of one host, in memory; quota use survives a restart when a file is given.

mod journal;
mod login;
mod quota;
pub(crate) mod shards;
pub(crate) mod site;

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

pub use journal::OpenError;
pub use quota::Ticket;

use self::journal::Journal;
use self::login::{Count, Record};
use self::quota::Quotas;
use self::shards::Shards;
use self::site::{Opening, PROBES_MAX, Purpose, Site};
use crate::login::{Admission, PATIENCE, REFUSAL, counted};
use crate::patience::{self, Pass};
use crate::{Clock, Connection, Limits, Quota, SiteLimits, Slot, SystemClock, Urgency};

/// Limits that hold within this process.
pub struct Local {
    sites: Arc<Sites>,
    quotas: Arc<Quotas>,
    logins: Shards<u64, Record>,
    login_addresses: Shards<IpAddr, Record>,
    /// Rung when a login's end was told.
    login_ended: Notify,
    hasher: RandomState,
    clock: Arc<dyn Clock>,
}

struct Sites {
    shards: Shards<Box<str>, Site>,
    clock: Arc<dyn Clock>,
}

impl Local {
    /// Counters that a restart forgets.
    pub fn in_memory() -> Self {
        Self::in_memory_with_clock(Arc::new(SystemClock::default()))
    }

    /// Counters that a restart forgets, with their own time.
    pub fn in_memory_with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::new(Arc::new(Shards::new()), None, Arc::default(), clock)
    }

    /// Counters that keep quota use in the file at `path`, made when there is none. A kill forgets none of it; it may
    /// count up to a 32nd of an account's quota (at least 4, at most 4,096 recipients) that wasn't used, twice that when
    /// transactions were given up in the last five seconds.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with_clock(path, Arc::new(SystemClock::default()))
    }

    /// The same as [`Local::open`], with its own time.
    pub fn open_with_clock(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let uses = Arc::new(Shards::new());
        let reserved = Arc::new(Notify::new());
        let journal = Journal::open(path, &uses, Arc::clone(&reserved))?;
        Ok(Self::new(uses, Some(journal), reserved, clock))
    }

    fn new(
        uses: Arc<quota::Uses>,
        journal: Option<Journal>,
        reserved: Arc<Notify>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            sites: Arc::new(Sites { shards: Shards::new(), clock: Arc::clone(&clock) }),
            quotas: Arc::new(Quotas::new(uses, journal, reserved, Arc::clone(&clock))),
            logins: Shards::new(),
            login_addresses: Shards::new(),
            login_ended: Notify::new(),
            hasher: RandomState::new(),
            clock,
        }
    }

    /// Writes down exactly what was used, before the program ends. Dropping the last ticket and the counters does too.
    pub async fn close(&self) {
        self.quotas.settle().await;
    }

    /// When messages may go, as it is now; none for the time of `pause`.
    pub(crate) fn pass(
        &self,
        site: &str,
        limits: SiteLimits,
        want: u32,
        urgency: Urgency,
        pause: Duration,
    ) -> Pass {
        self.sites.with(site, |site, now| site.pass(now, limits, want, urgency, pause.as_secs_f64()))
    }

    /// Takes what went out by others' leave.
    pub(crate) fn spend(&self, site: &str, limits: SiteLimits, messages: u32) {
        self.sites.with(site, |site, now| site.spend(now, limits, messages));
    }

    /// Whether one more connection may be opened, of at most `connections_max`, and `probes_max` while the site doesn't answer.
    pub(crate) fn open_connection(
        &self,
        site: &str,
        connections_max: u32,
        probes_max: u32,
    ) -> Connection<ConnectionLease> {
        match self.sites.with(site, |site, now| (site.open(now, connections_max, probes_max), now)) {
            (Opening::Granted(purpose), since) => Connection::Granted(ConnectionLease {
                sites: Arc::clone(&self.sites),
                site: site.into(),
                purpose,
                since,
            }),
            (Opening::Wait(secs), _) => Connection::Wait(Duration::from_secs_f64(secs)),
        }
    }

    /// How long somebody waits for whom there is no connection to the site now, though there may be one.
    pub(crate) fn wait_for_place(&self, site: &str) -> Duration {
        Duration::from_secs_f64(self.sites.with(site, |site, now| site.wait_for_place(now, 1, 1)))
    }

    /// What becomes of this login now; counted as being looked at when it is let in.
    fn admit(&self, user: &str, address: IpAddr) -> Admission {
        let now = self.clock.monotonic();
        let address = counted(address);
        let key = self.hasher.hash_one((user, address));
        let mut pairs = self.logins.lock(&key);
        let known = pairs.entries.get(&key).copied().unwrap_or_default();
        let mut addresses = self.login_addresses.lock(&address);
        let mut admission = known.admission(Count::Pair, now);
        if admission == Admission::Enter && !known.trusted {
            let at_address = addresses.entries.get(&address).copied().unwrap_or_default();
            admission = at_address.admission(Count::Address, now);
        }
        if admission == Admission::Enter {
            login::record(&mut pairs.entries, key, now).enter(now);
            login::record(&mut addresses.entries, address, now).enter(now);
        }
        admission
    }

    fn settle_login(&self, user: &str, address: IpAddr, mut end: impl FnMut(&mut Record, Count, Duration)) {
        let now = self.clock.monotonic();
        let address = counted(address);
        let key = self.hasher.hash_one((user, address));
        end(login::record(&mut self.logins.lock(&key).entries, key, now), Count::Pair, now);
        end(
            login::record(&mut self.login_addresses.lock(&address).entries, address, now),
            Count::Address,
            now,
        );
        self.login_ended.notify_waiters();
    }
}

impl Limits for Local {
    type Connection = ConnectionLease;
    type Ticket = Ticket;

    async fn slot(&self, site: &str, limits: SiteLimits, want: u32, urgency: Urgency) -> Slot {
        patience::slot(&*self.clock, urgency, |urgency| {
            std::future::ready(self.pass(site, limits, want, urgency, Duration::ZERO))
        })
        .await
    }

    fn return_slot(&self, site: &str, unused: u32) {
        self.sites.with(site, |site, _| site.put_back(unused));
    }

    async fn connection(&self, site: &str, limits: SiteLimits) -> Connection<ConnectionLease> {
        let connections_max = if limits.connections == 0 { u32::MAX } else { limits.connections };
        self.open_connection(site, connections_max, PROBES_MAX)
    }

    fn answered(&self, site: &str) {
        self.sites.with(site, |site, now| site.answered(now));
    }

    fn unanswered(&self, site: &str) {
        self.sites.with(site, |site, now| site.unanswered(now));
    }

    fn take_quota(
        &self,
        account: &str,
        per_day: Option<u64>,
        recipients: u32,
    ) -> impl Future<Output = Quota<Ticket>> + Send {
        self.quotas.take(account, per_day, recipients)
    }

    async fn quota_used(&self, account: &str) -> u64 {
        self.quotas.used(account)
    }

    async fn login_wait(&self, user: &str, address: IpAddr) -> Option<Duration> {
        let give_up_at = self.clock.monotonic() + PATIENCE;
        loop {
            // Listening begins before the look, so that no ring is missed.
            let mut ring = std::pin::pin!(self.login_ended.notified());
            ring.as_mut().enable();
            match self.admit(user, address) {
                Admission::Enter => return None,
                Admission::Refuse(wait) => return Some(wait),
                Admission::Queue => {
                    let patience = give_up_at.saturating_sub(self.clock.monotonic());
                    if patience.is_zero() {
                        return Some(REFUSAL);
                    }
                    tokio::select! {
                        () = ring => {}
                        () = self.clock.sleep(patience) => {}
                    }
                }
            }
        }
    }

    async fn login_failed(&self, user: &str, address: IpAddr) {
        self.settle_login(user, address, |record, _, now| record.fail(now));
    }

    fn login_succeeded(&self, user: &str, address: IpAddr) {
        self.settle_login(user, address, Record::succeed);
    }

    fn login_undecided(&self, user: &str, address: IpAddr) {
        self.settle_login(user, address, |record, _, now| record.leave(now));
    }
}

impl Sites {
    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Site, f64) -> T) -> T {
        let now = self.clock.monotonic().as_secs_f64();
        let mut shard = self.shards.lock(name);
        if let Some(site) = shard.entries.get_mut(name) {
            return act(site, now);
        }
        shard.make_room(|site| site.is_needed(now));
        act(shard.entries.entry(name.into()).or_insert_with(|| Site::new(now)), now)
    }
}

/// A connection's right to exist; dropped, it is given back.
pub struct ConnectionLease {
    sites: Arc<Sites>,
    site: Box<str>,
    purpose: Purpose,
    since: f64,
}

impl ConnectionLease {
    /// What it was granted as.
    pub(crate) fn purpose(&self) -> Purpose {
        self.purpose
    }
}

impl Drop for ConnectionLease {
    fn drop(&mut self) {
        let (purpose, since) = (self.purpose, self.since);
        self.sites.with(&self.site, |site, now| site.close(purpose, now - since));
    }
}

impl std::fmt::Debug for ConnectionLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionLease").field("site", &self.site).finish_non_exhaustive()
    }
}
