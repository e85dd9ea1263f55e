//! This process as one of those that share the counters: what it knows, and how it puts its questions.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::Cmd;
use tokio::sync::{Notify, mpsc, oneshot};

use super::link::Link;
use super::places::{Number, Places};
use super::quota::Quotas;
use super::scripts::{Keys, call};
use super::settings::{ConnectError, Settings};
use super::share::Census;
use crate::local::Local;
use crate::local::site::{
    CATCH_UP_SECS_MAX, CONNECTION_WAIT_SECS_MAX, FAILURES_BEFORE_PROBING, PROBES_MAX, PROBING_WAIT_SECS_MAX,
};
use crate::login::{ADDRESS, MEMORY, PAIR, PENDING_LIFE, counted};
use crate::{SiteLimits, Urgency};

pub(super) struct Member {
    /// What it is called among the members; chance made it.
    pub(super) name: String,
    pub(super) group: String,
    pub(super) keys: Keys,
    pub(super) lease: Duration,
    pub(super) link: Link,
    /// What answers while the server is away. It is told of what the server grants, so that going away begins nothing anew.
    pub(super) local: Local,
    pub(super) places: Arc<Places>,
    pub(super) quotas: Quotas,
    census: Mutex<Census>,
    /// What went to sites while the server was away.
    spent: Mutex<HashMap<Box<str>, (SiteLimits, u32)>>,
    tells: mpsc::UnboundedSender<Tell>,
    /// Rung once for each login whose end the server heard.
    pub(super) login_ended: Notify,
}

/// What the server is told without anybody waiting for its answer.
pub(super) enum Tell {
    /// Of no interest any more when the server is away.
    Passing(Cmd),
    /// To be told also when it is back.
    Lasting(Cmd),
    /// A login ended; likewise.
    LoginEnded(Cmd),
    /// What is owed on quotas.
    Owed,
    /// The leases that are held, and what was spent.
    Renew,
    /// Rings when all that was told before was sent.
    Settle(oneshot::Sender<()>),
}

impl Member {
    /// A member that isn't connected yet, and what it wants to tell.
    pub(super) fn new(settings: &Settings) -> Result<(Self, mpsc::UnboundedReceiver<Tell>), ConnectError> {
        let places = Arc::new(Places::new(settings.lease));
        let link = Link::new(settings.client()?, {
            let (places, restart) = (Arc::clone(&places), settings.restart);
            move || places.begin_calm(restart, Instant::now())
        });
        let (tells, told) = mpsc::unbounded_channel();
        let chance = || RandomState::new().hash_one(std::process::id());
        let member = Self {
            name: format!("{:016x}{:016x}", chance(), chance()),
            group: settings.group.clone(),
            keys: Keys::new(settings.instance.clone()),
            lease: settings.lease,
            link,
            local: Local::in_memory(),
            places,
            quotas: Quotas::new(),
            census: Mutex::new(Census::assumed(settings.pods)),
            spent: Mutex::default(),
            tells,
            login_ended: Notify::new(),
        };
        Ok((member, told))
    }

    /// The group as it was seen last.
    pub(super) fn census(&self) -> Census {
        *self.census.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn saw(&self, census: Census) {
        *self.census.lock().unwrap_or_else(PoisonError::into_inner) = census;
    }

    /// Messages went to a site (or less than none, when tokens were given back) while the server was away.
    pub(super) fn spend(&self, site: &str, limits: SiteLimits, messages: u32) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = spent.entry(site.into()).or_insert((limits, 0));
        *entry = (limits, entry.1.saturating_add(messages));
    }

    /// So many of them didn't go after all.
    pub(super) fn unspend(&self, site: &str, messages: u32) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = spent.get_mut(site) {
            *count = count.saturating_sub(messages);
        }
    }

    /// The calls that take from the server's buckets what was spent.
    pub(super) fn take_spent(&self) -> Vec<Cmd> {
        let spent = std::mem::take(&mut *self.spent.lock().unwrap_or_else(PoisonError::into_inner));
        let spend = |(site, (limits, messages)): (Box<str>, (SiteLimits, u32))| {
            let mut call = call(&self.link.scripts().spend, &self.keys.bucket(&site));
            call.arg(limits.messages_per_sec).arg(limits.burst.max(1)).arg(messages);
            call
        };
        spent.into_iter().map(spend).collect()
    }

    pub(super) fn lease_name(&self, number: Number) -> String {
        format!("{}:{number}", self.name)
    }

    pub(super) fn pass(
        &self,
        site: &str,
        limits: SiteLimits,
        want: u32,
        urgency: Urgency,
        pause: Duration,
    ) -> Cmd {
        let mut call = call(&self.link.scripts().pass, &self.keys.bucket(site));
        call.arg(limits.messages_per_sec).arg(limits.burst.max(1)).arg(want.max(1));
        call.arg(u8::from(urgency == Urgency::Due)).arg(CATCH_UP_SECS_MAX * 1e6).arg(micros(pause));
        call
    }

    pub(super) fn open(&self, site: &str, limits: SiteLimits, number: Number) -> Cmd {
        let mut call = call(&self.link.scripts().open, &self.keys.connections(site));
        call.arg(limits.connections).arg(self.lease_name(number)).arg(micros(self.lease));
        call.arg(FAILURES_BEFORE_PROBING).arg(PROBES_MAX);
        call.arg(CONNECTION_WAIT_SECS_MAX * 1e6).arg(PROBING_WAIT_SECS_MAX * 1e6);
        call
    }

    pub(super) fn quota(&self, account: &str, per_day: Option<u64>, recipients: u32) -> Cmd {
        let mut call = call(&self.link.scripts().quota_take, &self.keys.quota(account));
        let most = per_day.map_or(-1, |per_day| i64::try_from(per_day).unwrap_or(i64::MAX));
        call.arg(most).arg(recipients);
        call
    }

    pub(super) fn login_enter(&self, user: &str, address: IpAddr) -> Cmd {
        let mut call = call(&self.link.scripts().login_enter, &self.keys.login(user, counted(address)));
        policies(&mut call);
        call
    }

    pub(super) fn login_end(&self, user: &str, address: IpAddr, end: &str) -> Cmd {
        let mut call = call(&self.link.scripts().login_end, &self.keys.login(user, counted(address)));
        policies(&mut call);
        call.arg(end);
        call
    }

    pub(super) fn tell_put_back(&self, site: &str, unused: u32) {
        let mut call = call(&self.link.scripts().put_back, &self.keys.bucket(site));
        call.arg(unused);
        self.tell(Tell::Passing(call));
    }

    pub(super) fn tell_answered(&self, site: &str) {
        let mut call = call(&self.link.scripts().answered, &self.keys.site_state(site));
        call.arg(FAILURES_BEFORE_PROBING);
        self.tell(Tell::Passing(call));
    }

    pub(super) fn tell_unanswered(&self, site: &str) {
        self.tell(Tell::Passing(call(&self.link.scripts().unanswered, &self.keys.site_state(site))));
    }

    pub(super) fn tell_close(&self, site: &str, number: Number, held: Duration) {
        let mut call = call(&self.link.scripts().close, &self.keys.connections(site));
        call.arg(self.lease_name(number)).arg(micros(held));
        self.tell(Tell::Lasting(call));
    }

    pub(super) fn tell_owed(&self) {
        self.tell(Tell::Owed);
    }

    pub(super) fn tell(&self, what: Tell) {
        // The other end is gone when the counters were dropped: leases then expire by themselves.
        let _ = self.tells.send(what);
    }
}

/// The numbers of the rising waits.
fn policies(call: &mut Cmd) {
    for policy in [&PAIR, &ADDRESS] {
        call.arg(policy.free).arg(policy.step).arg(policy.wait_secs_max * 1_000_000).arg(policy.pending_max);
    }
    call.arg(micros(MEMORY)).arg(micros(PENDING_LIFE));
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
