//! The counters that all pods share, in a Redis or Valkey server.
//!
//! ```text
//! question --one script, one round trip--> server         what nobody waits for --pipelined--> server
//!    | no answer within half a second, or the server is known to be away
//!    v
//! local counters, with this member's share of each limit
//! ```
//!
//! Every question is one Lua script that uses the server's clock and answers with a wait; concurrent questions share one
//! connection, and go out together. A member says every two seconds that it lives; the order of the members' names makes their
//! ranks.
//!
//! *While the server is away* nothing waits for it. Each member keeps to its share: a rate is divided by the number of
//! members, connections and what was last known to be left of a quota are dealt by rank, the remainder to the lowest ranks.
//! An account that this member never asked about is taken not to have used anything. Connections that are held when the
//! server goes away count in the share. For the time that a restart may take ([`Settings::restart`]) no member opens more than
//! it had; after it, what others were seen to hold is left to them for a lease's time, and then a member may use its share
//! whatever the others still hold over theirs. To a site that doesn't answer each member keeps one probe at least, for else
//! it would never learn that the site answers again. Failed logins are counted per member.
//!
//! *When it is back*, what was used of quotas and rates meanwhile is added, and connections that are held are made known by their
//! renewal. For three seconds, and for a lease's time after the server was restarted, replaced by another, or forgot
//! everything, no member holds more connections than it did: others may hold some that the server doesn't know of yet. The very
//! first start of a server can't be told from that.
//!
//! In doubt (an answer that didn't come) what was asked for counts as used: an account may be poorer for it, never richer.
//!
//! One server is spoken to, not a cluster or its sentinels; the keys are such that a cluster could hold them. It must not evict
//! keys (`maxmemory-policy noeviction`), and must let the scripts call `INFO`.

mod keeper;
mod lease;
mod link;
mod member;
mod places;
mod quota;
mod scripts;
mod settings;
mod share;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

pub use lease::ConnectionLease;
pub use quota::Ticket;
pub use settings::{ConnectError, Settings};

use self::keeper::Arrival;
use self::member::{Member, Tell};
use crate::local::site::{PROBES_MAX, Purpose};
use crate::login::{PATIENCE, REFUSAL};
use crate::patience::{self, Pass};
use crate::{Connection, Limits, Quota, SiteLimits, Slot, SystemClock, Urgency};

/// How often a login that waits for others asks whether it is its turn, when nobody tells.
const LOGIN_LOOK_EVERY: Duration = Duration::from_millis(100);

/// Limits that hold for all who share a server.
pub struct Redis {
    member: Arc<Member>,
    clock: SystemClock,
    /// What goes on in the background, ended when this is dropped.
    _background: JoinSet<()>,
}

/// How it stands with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether the server answers, so that limits hold for all together.
    pub shared: bool,
    /// Living members of the group, as they were seen last, or as many as were configured.
    pub members: u32,
    /// This one's place among them, from 0 on; none as long as it was never told.
    pub rank: Option<u32>,
    /// How long the server has been away.
    pub away_for: Option<Duration>,
    /// Questions that the server answered.
    pub answered_shared: u64,
    /// Questions that this process answered by itself.
    pub answered_locally: u64,
}

impl Redis {
    /// Takes part in the counters of `settings.instance`. A server that is away is no error: local counters answer until it is
    /// there.
    pub async fn connect(settings: Settings) -> Result<Self, ConnectError> {
        let (member, told) = Member::new(&settings)?;
        let member = Arc::new(member);
        if let Err(reason) = keeper::arrive(&member, Arrival::First).await {
            tracing::warn!(error = reason, "redis is away: limits are kept by this pod's share");
        }
        let mut background = JoinSet::new();
        background.spawn(keeper::tell(Arc::clone(&member), told));
        background.spawn(keeper::keep(Arc::clone(&member)));
        Ok(Self { member, clock: SystemClock::default(), _background: background })
    }

    /// How it stands with the server.
    pub fn status(&self) -> Status {
        let (census, link) = (self.member.census(), &self.member.link);
        let away_for = link.away_for();
        let (answered_shared, answered_locally) = link.answered();
        Status {
            shared: away_for.is_none(),
            members: census.members,
            rank: census.rank,
            away_for,
            answered_shared,
            answered_locally,
        }
    }

    /// Waits until the server was told all that was given back or reported before, if it is there.
    pub async fn settle(&self) {
        keeper::settle(&self.member).await;
    }

    /// Before the program ends: tells the server what it must know, and leaves the group, so that its share goes to the others
    /// at once.
    pub async fn close(&self) {
        self.settle().await;
        keeper::leave(&self.member).await;
    }

    /// When messages may go, as it is now.
    async fn pass(&self, site: &str, limits: SiteLimits, want: u32, urgency: Urgency) -> Pass {
        let member = &self.member;
        let pace = member.census().pace(limits);
        // Who can't have a connection before the calm ends needs no token before.
        let pause = || member.places.pause(site, limits.connections, Instant::now());
        match member.link.ask::<(u32, u64)>(&member.pass(site, limits, want, urgency, pause())).await {
            Some((0, micros)) => Pass::Wait(Duration::from_micros(micros)),
            Some((granted, _)) => {
                member.local.spend(site, pace, granted);
                Pass::Go(granted)
            }
            None => {
                let pass = member.local.pass(site, pace, want, urgency, pause());
                if let Pass::Go(granted) = pass {
                    member.spend(site, limits, granted);
                }
                pass
            }
        }
    }

    /// Whether a connection may be opened, by this member's share; `asked` is one that the server was asked for in vain.
    fn open_locally(
        &self,
        site: &str,
        limits: SiteLimits,
        asked: Option<ConnectionLease>,
    ) -> Connection<ConnectionLease> {
        let (member, now) = (&self.member, Instant::now());
        let census = member.census();
        let (limit, share) = (limits.connections, census.deal_few(limits.connections));
        let number = asked.as_ref().map(ConnectionLease::number);
        let number = match member.places.ask_locally(site, number, share, limit, now) {
            Ok(number) => number,
            Err(calm) => return Connection::Wait(calm.unwrap_or_else(|| member.local.wait_for_place(site))),
        };
        let lease = asked.unwrap_or_else(|| ConnectionLease::asked(member, site, number));
        match member.local.open_connection(site, u32::MAX, census.deal_few(PROBES_MAX).max(1)) {
            Connection::Granted(local) => Connection::Granted(lease.granted_locally(local)),
            Connection::Wait(wait) => Connection::Wait(wait),
        }
    }

    /// What becomes of a login now; none when the server is away.
    async fn admit(&self, user: &str, address: IpAddr) -> Option<(u8, u64)> {
        self.member.link.ask(&self.member.login_enter(user, address)).await
    }
}

impl Limits for Redis {
    type Connection = ConnectionLease;
    type Ticket = Ticket;

    async fn slot(&self, site: &str, limits: SiteLimits, want: u32, urgency: Urgency) -> Slot {
        if !(limits.messages_per_sec.is_finite() && limits.messages_per_sec > 0.0) {
            return Slot::Go(want.max(1));
        }
        patience::slot(&self.clock, urgency, |urgency| self.pass(site, limits, want, urgency)).await
    }

    fn return_slot(&self, site: &str, unused: u32) {
        self.member.local.return_slot(site, unused);
        if self.member.link.line().is_some() {
            self.member.tell_put_back(site, unused);
        } else {
            self.member.unspend(site, unused);
        }
    }

    async fn connection(&self, site: &str, limits: SiteLimits) -> Connection<ConnectionLease> {
        let member = &self.member;
        if member.link.line().is_none() {
            member.link.count_local();
            return self.open_locally(site, limits, None);
        }
        let lease = match member.places.ask(site, limits.connections, Instant::now()) {
            Ok(number) => ConnectionLease::asked(member, site, number),
            Err(wait) => return Connection::Wait(wait),
        };
        match member.link.ask::<(u8, u8, u64, u32)>(&member.open(site, limits, lease.number())).await {
            Some((1, probe, _, open)) => {
                let purpose = if probe == 1 { Purpose::Probe } else { Purpose::Traffic };
                Connection::Granted(lease.granted(purpose, open))
            }
            Some((_, _, micros, open)) => {
                lease.refused(open);
                Connection::Wait(Duration::from_micros(micros))
            }
            None => self.open_locally(site, limits, Some(lease)),
        }
    }

    fn answered(&self, site: &str) {
        self.member.local.answered(site);
        self.member.tell_answered(site);
    }

    fn unanswered(&self, site: &str) {
        self.member.local.unanswered(site);
        self.member.tell_unanswered(site);
    }

    async fn take_quota(&self, account: &str, per_day: Option<u64>, recipients: u32) -> Quota<Ticket> {
        let (member, quotas) = (&self.member, &self.member.quotas);
        let question = member.quota(account, per_day, recipients);
        if let Some((taken, used, day, micros)) = member.link.ask::<(u8, u64, u64, u64)>(&question).await {
            quotas.heard(account, day, used);
            return match taken {
                0 => Quota::Exhausted { resets_in: Duration::from_micros(micros) },
                _ => Quota::Taken(Ticket::new(member, account, day, recipients, None)),
            };
        }
        let left = quotas.left(account, member.local.quota_used(account).await);
        let census = member.census();
        let share = |per_day: u64| left.used_locally + census.deal(per_day.saturating_sub(left.used));
        match member.local.take_quota(account, per_day.map(share), recipients).await {
            Quota::Exhausted { resets_in } => Quota::Exhausted { resets_in },
            Quota::Taken(local) => {
                Quota::Taken(Ticket::new(member, account, left.today, recipients, Some(local)))
            }
        }
    }

    async fn quota_used(&self, account: &str) -> u64 {
        let member = &self.member;
        if let Some((_, used, day, _)) =
            member.link.ask::<(u8, u64, u64, u64)>(&member.quota(account, None, 0)).await
        {
            member.quotas.heard(account, day, used);
            return used;
        }
        let used_locally = member.local.quota_used(account).await;
        let left = member.quotas.left(account, used_locally);
        left.used + used_locally.saturating_sub(left.used_locally)
    }

    async fn login_wait(&self, user: &str, address: IpAddr) -> Option<Duration> {
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            match self.admit(user, address).await {
                None => return self.member.local.login_wait(user, address).await,
                Some((0, _)) => return None,
                Some((2, micros)) => return Some(Duration::from_micros(micros)),
                Some(_) if Instant::now() >= give_up_at => return Some(REFUSAL),
                Some(_) => look_again(&self.member.login_ended).await,
            }
        }
    }

    async fn login_failed(&self, user: &str, address: IpAddr) {
        let member = &self.member;
        member.local.login_failed(user, address).await;
        let end = member.login_end(user, address, "failed");
        match member.link.ask::<u8>(&end).await {
            Some(_) => member.login_ended.notify_one(),
            // The failure counts also when the server is back.
            None => member.tell(Tell::LoginEnded(end)),
        }
    }

    fn login_succeeded(&self, user: &str, address: IpAddr) {
        self.member.local.login_succeeded(user, address);
        self.member.tell(Tell::LoginEnded(self.member.login_end(user, address, "succeeded")));
    }

    fn login_undecided(&self, user: &str, address: IpAddr) {
        self.member.local.login_undecided(user, address);
        self.member.tell(Tell::LoginEnded(self.member.login_end(user, address, "undecided")));
    }
}

/// Until somebody's end is heard of, here or, so often, perhaps elsewhere.
async fn look_again(ended: &Notify) {
    let _ = tokio::time::timeout(LOGIN_LOOK_EVERY, ended.notified()).await;
}
