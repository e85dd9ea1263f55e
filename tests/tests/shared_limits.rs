//! Limits hold for all who share a Redis (or Valkey) server; while it is away, each keeps to its share.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use limits::conformance::Stage;
use limits::redis::{ConnectionLease, Redis, Settings};
use limits::{Connection, Limits, Quota, QuotaTicket, SiteLimits};
use tempfile::TempDir;
use tests::deadline::SOON;
use tests::redis::{Kind, Memory, RedisServer};

const FOUR: SiteLimits = SiteLimits { messages_per_sec: 0.0, burst: 1, connections: 4 };

/// A server, and settings for members that share it.
struct Shared {
    server: RedisServer,
    settings: Settings,
    /// The server's; it goes when the server has ended.
    _folder: TempDir,
}

impl Shared {
    fn new(kind: Kind, memory: Memory) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = RedisServer::start(folder.path(), kind, memory);
        let settings = Settings { lease: Duration::from_secs(3), ..Settings::new(server.url()) };
        Self { server, settings, _folder: folder }
    }

    /// One more member, which knows of the server.
    async fn member(&self) -> Arc<Redis> {
        Arc::new(Redis::connect(self.settings.clone()).await.unwrap())
    }

    /// So many members, each of which knows of all; in the order of their ranks.
    async fn members(&self, count: u32) -> Vec<Arc<Redis>> {
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(self.member().await);
        }
        for member in &members {
            until("a member that knows of all", || member.status().members == count).await;
        }
        members.sort_by_key(|member| member.status().rank);
        members
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "waited {SOON:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn open(member: &Redis, site: &str, limits: SiteLimits) -> Option<ConnectionLease> {
    match member.connection(site, limits).await {
        Connection::Granted(lease) => Some(lease),
        Connection::Wait(_) => None,
    }
}

/// The lease that a member gets in the end.
async fn opened(member: &Redis, site: &str, limits: SiteLimits) -> ConnectionLease {
    let end = Instant::now() + SOON;
    loop {
        if let Some(lease) = open(member, site, limits).await {
            return lease;
        }
        assert!(Instant::now() < end, "no connection to {site} in {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// As many leases as a member gets now.
async fn open_all(member: &Redis, site: &str, limits: SiteLimits) -> Vec<ConnectionLease> {
    let mut leases = Vec::new();
    while let Some(lease) = open(member, site, limits).await {
        leases.push(lease);
    }
    leases
}

async fn taken(member: &Redis, account: &str, per_day: u64, recipients: u32) -> bool {
    match member.take_quota(account, Some(per_day), recipients).await {
        Quota::Taken(ticket) => {
            ticket.keep();
            true
        }
        Quota::Exhausted { .. } => false,
    }
}

async fn taken_in_all(member: &Redis, account: &str, per_day: u64) -> u64 {
    let mut count = 0;
    while taken(member, account, per_day, 1).await {
        count += 1;
    }
    count
}

impl Stage for Shared {
    type Limits = Arc<Redis>;

    async fn join(&mut self) -> Arc<Redis> {
        let member = self.member().await;
        // A new server's first lease's time has to pass, as after a restart.
        drop(opened(&member, "another site", FOUR).await);
        member
    }

    async fn pass(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn settle(&mut self, member: &Arc<Redis>) {
        member.settle().await;
    }
}

#[path = "shared_limits/away.rs"]
mod away;
#[path = "shared_limits/logins.rs"]
mod logins;
#[path = "shared_limits/restarts.rs"]
mod restarts;
#[path = "shared_limits/server.rs"]
mod server;

mod redis {
    use super::*;
    limits::conformance_tests!(Shared::new(Kind::Redis, Memory::KeptEachSecond));
}

mod valkey {
    use super::*;
    limits::conformance_tests!(Shared::new(Kind::Valkey, Memory::KeptEachSecond));
}
