//! How much may go where, and how much an account may send: one trait, [`Limits`].
//!
//! ```text
//! delivery: slot(site) -> go n now | come back in t        connection(site) -> lease | come back in t
//! ingress:  take_quota(account) -> ticket | used up        login_wait(account, address) -> how long to refuse
//! ```
//!
//! Answers are waits, never instants: the clocks of those who ask differ. Which limits hold for which site is decided by
//! the caller and passed in; this crate counts. It doesn't know what a site is made of, nor an account's plan.

mod clock;
pub mod conformance;
pub mod counters;
pub mod local;
mod login;
mod patience;
pub mod redis;

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

pub use clock::{Clock, SystemClock};
pub use counters::Counters;

/// What holds towards a site.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SiteLimits {
    /// Messages a second, in the long run; 0 means no limit.
    pub messages_per_sec: f64,
    /// Messages at once after a pause (the bucket's depth), at least 1.
    pub burst: u32,
    /// Connections at a time; 0 means no limit.
    pub connections: u32,
}

/// Whether a job comes back from a wait or is tried for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// It waited already: served first.
    Due,
    /// It is new.
    Fresh,
}

/// The answer to: when may messages go?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// So many now (1 to what was asked for).
    Go(u32),
    /// None now. Come back after this wait; the place in the line is kept by the horizon.
    Wait(Duration),
}

/// The answer to: may a connection be opened?
#[derive(Debug)]
pub enum Connection<L> {
    /// Yes, while the lease lives; dropping it gives it back.
    Granted(L),
    /// Not now; ask again after this wait.
    Wait(Duration),
}

/// The answer to: may the account send to one more recipient?
#[derive(Debug)]
pub enum Quota<T> {
    /// Counted; the ticket gives back what doesn't end in an acceptance.
    Taken(T),
    /// Used up until the UTC day ends.
    Exhausted {
        /// Until the next day begins.
        resets_in: Duration,
    },
}

/// Recipients counted against an account's quota. Dropped, they are given back; they are kept by [`QuotaTicket::keep`].
pub trait QuotaTicket: Send + 'static {
    /// The transaction ended in an acceptance, or nobody knows whether it did: what was counted stays counted.
    fn keep(self);
}

/// The counters.
pub trait Limits: Send + Sync + 'static {
    /// A connection's right to exist.
    type Connection: Send + 'static;
    /// Counted recipients.
    type Ticket: QuotaTicket;

    /// When `want` messages may go to `site`. A token bucket enforces the rate at the time of sending, due ones before
    /// fresh ones; who can't go within two seconds is told when to come back, in order of asking.
    fn slot(
        &self,
        site: &str,
        limits: SiteLimits,
        want: u32,
        urgency: Urgency,
    ) -> impl Future<Output = Slot> + Send;

    /// Gives back tokens that were taken and not used.
    fn return_slot(&self, site: &str, unused: u32);

    /// Whether one more connection to `site` may be opened. A site whose last attempts to connect failed is probed by at
    /// most two at a time until one succeeds.
    fn connection(
        &self,
        site: &str,
        limits: SiteLimits,
    ) -> impl Future<Output = Connection<Self::Connection>> + Send;

    /// The site answered: probing ends.
    fn answered(&self, site: &str);

    /// The site didn't answer (no connection, or no banner in time).
    fn unanswered(&self, site: &str);

    /// Counts `recipients` against the account's quota of `per_day` recipients a UTC day (`None`: without limit).
    fn take_quota(
        &self,
        account: &str,
        per_day: Option<u64>,
        recipients: u32,
    ) -> impl Future<Output = Quota<Self::Ticket>> + Send;

    /// Recipients that the account used today.
    fn quota_used(&self, account: &str) -> impl Future<Output = u64> + Send;

    /// How long a login of this user name from this address is refused without being looked at; none when it may try.
    fn login_wait(&self, user: &str, address: IpAddr) -> impl Future<Output = Option<Duration>> + Send;

    /// A login failed: waits rise per user name and address, and per address.
    fn login_failed(&self, user: &str, address: IpAddr) -> impl Future<Output = ()> + Send;

    /// A login succeeded: the count of this user name from this address starts anew.
    fn login_succeeded(&self, user: &str, address: IpAddr);

    /// Nobody could tell whether a login was right: it counts as neither, and no other login waits for its end.
    fn login_undecided(&self, user: &str, address: IpAddr);
}

/// Members that share counters by sharing memory.
impl<L: Limits> Limits for std::sync::Arc<L> {
    type Connection = L::Connection;
    type Ticket = L::Ticket;

    fn slot(
        &self,
        site: &str,
        limits: SiteLimits,
        want: u32,
        urgency: Urgency,
    ) -> impl Future<Output = Slot> + Send {
        L::slot(self, site, limits, want, urgency)
    }

    fn return_slot(&self, site: &str, unused: u32) {
        L::return_slot(self, site, unused);
    }

    fn connection(
        &self,
        site: &str,
        limits: SiteLimits,
    ) -> impl Future<Output = Connection<Self::Connection>> + Send {
        L::connection(self, site, limits)
    }

    fn answered(&self, site: &str) {
        L::answered(self, site);
    }

    fn unanswered(&self, site: &str) {
        L::unanswered(self, site);
    }

    fn take_quota(
        &self,
        account: &str,
        per_day: Option<u64>,
        recipients: u32,
    ) -> impl Future<Output = Quota<Self::Ticket>> + Send {
        L::take_quota(self, account, per_day, recipients)
    }

    fn quota_used(&self, account: &str) -> impl Future<Output = u64> + Send {
        L::quota_used(self, account)
    }

    fn login_wait(&self, user: &str, address: IpAddr) -> impl Future<Output = Option<Duration>> + Send {
        L::login_wait(self, user, address)
    }

    fn login_failed(&self, user: &str, address: IpAddr) -> impl Future<Output = ()> + Send {
        L::login_failed(self, user, address)
    }

    fn login_succeeded(&self, user: &str, address: IpAddr) {
        L::login_succeeded(self, user, address);
    }

    fn login_undecided(&self, user: &str, address: IpAddr) {
        L::login_undecided(self, user, address);
    }
}
