//! Counters whose kind is chosen when the program runs.

use std::net::IpAddr;
use std::time::Duration;

use crate::local::{self, Local};
use crate::redis::{self, Redis};
use crate::{Connection, Limits, Quota, QuotaTicket, SiteLimits, Slot, Urgency};

/// One kind of counters or the other, behind one type.
pub enum Counters {
    /// This process's own.
    Local(Local),
    /// Shared with others.
    Redis(Redis),
}

/// A connection's right to exist; dropped, it is given back.
#[derive(Debug)]
pub enum Lease {
    /// Of this process's own counters.
    Local(local::ConnectionLease),
    /// Of shared ones.
    Redis(redis::ConnectionLease),
}

/// Recipients that were counted; dropped, they are given back.
#[derive(Debug)]
pub enum Ticket {
    /// By this process's own counters.
    Local(local::Ticket),
    /// By shared ones.
    Redis(redis::Ticket),
}

impl QuotaTicket for Ticket {
    fn keep(self) {
        match self {
            Self::Local(ticket) => ticket.keep(),
            Self::Redis(ticket) => ticket.keep(),
        }
    }
}

impl Counters {
    /// Before the program ends: writes down or tells what must be known afterwards.
    pub async fn close(&self) {
        match self {
            Self::Local(local) => local.close().await,
            Self::Redis(redis) => redis.close().await,
        }
    }
}

impl Limits for Counters {
    type Connection = Lease;
    type Ticket = Ticket;

    async fn slot(&self, site: &str, limits: SiteLimits, want: u32, urgency: Urgency) -> Slot {
        match self {
            Self::Local(local) => local.slot(site, limits, want, urgency).await,
            Self::Redis(redis) => redis.slot(site, limits, want, urgency).await,
        }
    }

    fn return_slot(&self, site: &str, unused: u32) {
        match self {
            Self::Local(local) => local.return_slot(site, unused),
            Self::Redis(redis) => redis.return_slot(site, unused),
        }
    }

    async fn connection(&self, site: &str, limits: SiteLimits) -> Connection<Lease> {
        match self {
            Self::Local(local) => match local.connection(site, limits).await {
                Connection::Granted(lease) => Connection::Granted(Lease::Local(lease)),
                Connection::Wait(wait) => Connection::Wait(wait),
            },
            Self::Redis(redis) => match redis.connection(site, limits).await {
                Connection::Granted(lease) => Connection::Granted(Lease::Redis(lease)),
                Connection::Wait(wait) => Connection::Wait(wait),
            },
        }
    }

    fn answered(&self, site: &str) {
        match self {
            Self::Local(local) => local.answered(site),
            Self::Redis(redis) => redis.answered(site),
        }
    }

    fn unanswered(&self, site: &str) {
        match self {
            Self::Local(local) => local.unanswered(site),
            Self::Redis(redis) => redis.unanswered(site),
        }
    }

    async fn take_quota(&self, account: &str, per_day: Option<u64>, recipients: u32) -> Quota<Ticket> {
        match self {
            Self::Local(local) => match local.take_quota(account, per_day, recipients).await {
                Quota::Taken(ticket) => Quota::Taken(Ticket::Local(ticket)),
                Quota::Exhausted { resets_in } => Quota::Exhausted { resets_in },
            },
            Self::Redis(redis) => match redis.take_quota(account, per_day, recipients).await {
                Quota::Taken(ticket) => Quota::Taken(Ticket::Redis(ticket)),
                Quota::Exhausted { resets_in } => Quota::Exhausted { resets_in },
            },
        }
    }

    async fn quota_used(&self, account: &str) -> u64 {
        match self {
            Self::Local(local) => local.quota_used(account).await,
            Self::Redis(redis) => redis.quota_used(account).await,
        }
    }

    async fn login_wait(&self, user: &str, address: IpAddr) -> Option<Duration> {
        match self {
            Self::Local(local) => local.login_wait(user, address).await,
            Self::Redis(redis) => redis.login_wait(user, address).await,
        }
    }

    async fn login_failed(&self, user: &str, address: IpAddr) {
        match self {
            Self::Local(local) => local.login_failed(user, address).await,
            Self::Redis(redis) => redis.login_failed(user, address).await,
        }
    }

    fn login_succeeded(&self, user: &str, address: IpAddr) {
        match self {
            Self::Local(local) => local.login_succeeded(user, address),
            Self::Redis(redis) => redis.login_succeeded(user, address),
        }
    }

    fn login_undecided(&self, user: &str, address: IpAddr) {
        match self {
            Self::Local(local) => local.login_undecided(user, address),
            Self::Redis(redis) => redis.login_undecided(user, address),
        }
    }
}
