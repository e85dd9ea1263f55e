//! `SendingDomain` objects: keys, records, DNS, rotation.
//!
//! ```text
//! dereference: rivals, account, Secrets, DNS -> validate: Wanted -> decide: rotation::step, judge
//!     -> keep the keys' states, and what the domain lacks -> apply: Secrets, DNSEndpoints, accounts -> keep the status
//! ```

mod apply;
pub(crate) mod endpoints;
mod judge;
pub(crate) mod look;
mod observe;
mod pace;
mod rotation;
mod silence;
#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use proto::accounts::v1::{Algorithm as WireAlgorithm, KeyState};
use smtp::address::Domain as DomainName;

use self::judge::{Circumstances, Patience};
use self::rotation::{Next, Request};
use crate::claim;
use crate::condition;
use crate::context::{Context, Failure};
use crate::crd::{
    DnsRecord, DomainKey, DomainKeyState, KeyAlgorithm, SendingDomain, SendingDomainStatus, Unready,
};
use crate::dns::name::Name;
use crate::told::{Said, TellError};

/// A new value asks for new keys.
const ROTATE: &str = "stagepost.dev/rotate";
/// A new value says that others may know the keys.
const ROTATE_EMERGENCY: &str = "stagepost.dev/rotate-emergency";
const DAY_SECS: i64 = 86_400;

/// A domain as its object wants it, checked.
pub(crate) struct Wanted {
    pub(crate) domain: DomainName,
    pub(crate) return_path: DomainName,
    /// The zone that keys' aliases lead to.
    zone: Option<Name>,
}

impl Wanted {
    fn of(domain: &SendingDomain) -> Result<Self, String> {
        let spec = &domain.spec;
        let parse = |name: &str| {
            name.parse::<DomainName>().map_err(|error| format!("{name:?} is no domain: {error}"))
        };
        let name = parse(&spec.domain)?;
        let return_path = match &spec.return_path {
            Some(return_path) => parse(&return_path.domain)?,
            None => name.clone(),
        };
        let zone = spec
            .dkim
            .cname_zone
            .as_ref()
            .map(|zone| zone.parse::<Name>().map_err(|error| format!("{zone:?} is no zone: {error}")));
        Ok(Self { domain: name, return_path, zone: zone.transpose()? })
    }

    /// The name that a selector's alias leads to, where there are aliases.
    pub(crate) fn target(&self, selector: &str) -> Option<Name> {
        self.zone.as_ref()?.below(&format!("{selector}.{}", self.domain)).ok()
    }
}

/// What accounts should know of it, once it has keys.
pub(crate) fn said(domain: &SendingDomain, context: &Context) -> Option<Said> {
    let namespace = domain.namespace().unwrap_or_default();
    let account = context.account(&namespace, &domain.spec.account)?;
    let account = crate::account::name_of(account.0.as_ref().ok()?);
    let status = domain.status.as_ref()?;
    let rivals = context.domains.state();
    let rivals = rivals.iter().filter_map(|object| object.0.as_ref().ok());
    if domain.metadata.deletion_timestamp.is_some() || claim::rival(domain, rivals).is_some() {
        return None;
    }
    say(domain, &account, &status.keys, status.unready.as_ref())
}

fn say(domain: &SendingDomain, account: &str, keys: &[DomainKey], unready: Option<&Unready>) -> Option<Said> {
    let told = keys.iter().filter(|key| key_state(key.state).is_some());
    let mut parts = vec![account.to_owned(), domain.spec.domain.clone(), domain.spec.subdomains.to_string()];
    let about_domain = parts.len();
    for key in told {
        parts.push(format!("{} {:?} {:?} {}", key.selector, key.algorithm, key.state, key.secret_name));
    }
    (parts.len() > about_domain).then_some(())?;
    // Since when doesn't count: accounts keeps the first that it was told.
    parts.extend(unready.map(|unready| format!("unready {}", unready.reason)));
    Some(Said::of(domain.uid()?, &parts.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// What accounts calls a state, if it is told of it.
fn key_state(state: DomainKeyState) -> Option<KeyState> {
    match state {
        DomainKeyState::Generating => None,
        DomainKeyState::Publishing | DomainKeyState::Published => Some(KeyState::Published),
        DomainKeyState::Active => Some(KeyState::Active),
        DomainKeyState::Retired => Some(KeyState::Retired),
    }
}

pub(crate) async fn reconcile(domain: &SendingDomain, context: &Context) -> Result<Action, Failure> {
    if domain.metadata.deletion_timestamp.is_some() {
        if let Some(uid) = domain.uid() {
            context.told.withdraw(&uid).await?;
        }
        return Ok(Action::await_change());
    }
    let all = context.domains.state();
    let all = || all.iter().filter_map(|object| object.0.as_ref().ok());
    let (rival, unsettled) = (claim::rival(domain, all()), pace::unsettled(all()));
    let before = domain.status.clone().unwrap_or_default();
    Reconcile { context, domain: domain.clone(), before, unsettled }.run(rival).await
}

struct Reconcile<'a> {
    context: &'a Context,
    /// As it is kept now.
    domain: SendingDomain,
    /// As it was at the beginning.
    before: SendingDomainStatus,
    /// How many domains aren't settled.
    unsettled: usize,
}

impl Reconcile<'_> {
    async fn run(mut self, rival: Option<claim::Holder>) -> Result<Action, Failure> {
        let now = Time(Timestamp::now());
        let wanted = match Wanted::of(&self.domain) {
            Ok(wanted) if rival.is_none() => wanted,
            Ok(_) => return self.lost(rival, &now).await,
            Err(why) => {
                let circumstances = Circumstances { rival: None, no_key: Some(why), untold: None };
                self.finish(Vec::new(), &circumstances, None, &now).await?;
                return Ok(Action::await_change());
            }
        };
        let (material, no_key) = self.material().await?;
        let look = self.look(&wanted, &material, &now).await;
        let next = self.next(&material, look.as_ref(), now.0);
        let records = match &look {
            Some(look) => {
                let settings = &self.context.settings;
                let patience = Patience { hold_secs: settings.hold_secs, doubt_secs: settings.doubt_secs };
                let before = &self.before;
                let mut records = judge::records(&self.domain, &next.keys, look, before, patience, &now);
                let aliases = self.aliases(&wanted, &material);
                records.extend(judge::behind_aliases(&self.domain, &aliases, look, &now));
                records
            }
            None => self.before.records.clone(),
        };
        let left = next.left();
        let mut circumstances = Circumstances { rival: None, no_key, untold: None };
        let unready = judge::unready(self.before.unready.as_ref(), &left, &records, &circumstances, &now);
        self.keep_decided(&next, unready.as_ref()).await?;
        self.publish(&wanted, &next.keys, &material, &records).await?;
        let (untold, away) = match self.tell(&left, &material, unready.as_ref()).await {
            Ok(untold) => (untold, None),
            // What is known of DNS is told all the same, and the domain isn't less ready than it was.
            Err(Failure::Accounts(error @ TellError::Away(_))) => {
                let was = condition::of(&self.before.conditions, "Ready");
                let text = error.to_string();
                (
                    was.is_none_or(|(status, _)| status != "True").then_some(("AccountsAway", text)),
                    Some(error),
                )
            }
            Err(error) => return Err(error),
        };
        if away.is_none() {
            self.clear(&next).await?;
        }
        let mut next = next;
        if away.is_some() {
            next.gone.clear();
        }
        circumstances.untold = untold;
        let changed = next.keys != self.before.keys;
        let made = next.keys.iter().any(|key| key.state == DomainKeyState::Generating);
        let wake_at = next.wake_at;
        let hindered = circumstances.no_key.is_some() || circumstances.untold.is_some();
        self.finish(records, &circumstances, Some((next, look.is_some())), &now).await?;
        match away {
            Some(error) => Err(error.into()),
            None => Ok(Action::requeue(self.pause(changed || made, hindered, wake_at, now.0))),
        }
    }

    /// Another object has the domain.
    async fn lost(mut self, rival: Option<claim::Holder>, now: &Time) -> Result<Action, Failure> {
        if let Some(uid) = self.domain.uid() {
            self.context.told.withdraw(&uid).await?;
        }
        let circumstances = Circumstances { rival, no_key: None, untold: None };
        // Once it has the domain it is checked anew before anything leaves.
        let same = Next { keys: self.before.keys.clone(), ..Next::default() };
        let unready = judge::unready(self.before.unready.as_ref(), &same.keys, &[], &circumstances, now);
        self.keep_decided(&same, unready.as_ref()).await?;
        self.finish(Vec::new(), &circumstances, None, now).await?;
        Ok(Action::requeue(jitter(Duration::from_secs(30))))
    }

    /// Keeps what is decided before it is done or told.
    async fn keep_decided(&mut self, next: &Next, unready: Option<&Unready>) -> Result<(), Failure> {
        let mut status = self.before.clone();
        status.keys.clone_from(&next.keys);
        if next.begun.is_some() {
            status.rotation_begun.clone_from(&next.begun);
        }
        status.unready = unready.cloned();
        self.keep(status).await
    }

    async fn keep(&mut self, status: SendingDomainStatus) -> Result<(), Failure> {
        if self.domain.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = SendingDomain { status: Some(status), ..self.domain.clone() };
        self.domain = self.context.put_status(&changed).await?;
        Ok(())
    }

    /// Keeps the status as it follows from everything.
    async fn finish(
        &mut self,
        records: Vec<DnsRecord>,
        circumstances: &Circumstances,
        went: Option<(Next, bool)>,
        now: &Time,
    ) -> Result<(), Failure> {
        let kept = self.domain.status.clone().unwrap_or_default();
        let generation = self.domain.metadata.generation;
        let mut status = SendingDomainStatus { observed_generation: generation, records, ..kept };
        if let Some((next, looked)) = went {
            status.keys = next.keys;
            status.keys.retain(|key| !next.gone.contains(&key.selector));
            status.next_rotation = next.rotation_at;
            if looked {
                status.checked_at = Some(now.clone());
            }
        }
        let active = status.keys.iter().filter(|key| key.state == DomainKeyState::Active);
        let active: Vec<&str> = active.map(|key| key.selector.as_str()).collect();
        status.active_selectors = (!active.is_empty()).then(|| active.join(","));
        let verdicts = judge::verdicts(&status.keys, &status.records, circumstances);
        status.conditions = condition::after(&self.before.conditions, verdicts, generation, now);
        self.keep(status.clone()).await?;
        self.events(&status).await;
        Ok(())
    }

    /// Tells of transitions, and of nothing else.
    async fn events(&self, status: &SendingDomainStatus) {
        let ready = |conditions| {
            condition::of(conditions, "Ready").map(|(status, reason)| (status.to_owned(), reason.to_owned()))
        };
        let (before, after) = (ready(&self.before.conditions), ready(&status.conditions));
        if let Some((holds, reason)) = after.filter(|after| before.as_ref() != Some(after)) {
            let message = status.conditions.iter().find(|condition| condition.type_ == "Ready");
            let message = message.map(|condition| condition.message.clone()).unwrap_or_default();
            let kind = if holds == "True" { EventType::Normal } else { EventType::Warning };
            self.context.event(&self.domain, kind, (&reason, "Check"), message).await;
        }
        for key in status.keys.iter().filter(|key| key.state == DomainKeyState::Active) {
            let was = self.before.keys.iter().find(|old| old.selector == key.selector);
            if was.is_none_or(|old| old.state != DomainKeyState::Active) {
                let note = format!("key {} signs from now on", key.selector);
                self.context.event(&self.domain, EventType::Normal, ("KeyActive", "Rotate"), note).await;
            }
        }
    }

    /// How long after a look at its DNS the next one is due.
    fn every(&self, status: &SendingDomainStatus, now: Timestamp) -> Duration {
        pace::every(&self.context.settings, &self.domain, status, self.unsettled, now)
    }

    fn pause(&self, changed: bool, hindered: bool, wake_at: Option<Timestamp>, now: Timestamp) -> Duration {
        let until = |at: Timestamp| u64::try_from(at.as_second() - now.as_second()).unwrap_or_default();
        let status = self.domain.status.clone().unwrap_or_default();
        let since = status.checked_at.as_ref().map_or(0, |at| now.as_second() - at.0.as_second());
        let since = Duration::from_secs(u64::try_from(since).unwrap_or_default());
        let look = jitter(self.every(&status, now)).saturating_sub(since).max(Duration::from_secs(1));
        let base = match (changed, hindered) {
            (true, _) => Duration::from_millis(50),
            (false, true) => look.min(jitter(pace::again(&self.context.settings, self.unsettled))),
            (false, false) => look,
        };
        wake_at.map_or(base, |at| base.min(Duration::from_secs(until(at).max(1))))
    }
}

/// Give or take a tenth, so that many domains don't ask at once.
fn jitter(base: Duration) -> Duration {
    let part = f64::from(runtime::random_u32()) / f64::from(u32::MAX);
    base.mul_f64(0.9 + part / 5.0)
}

/// The rotation that somebody asks for and that hasn't begun.
fn request(domain: &SendingDomain, begun: Option<&str>) -> Option<Request> {
    let asked = |annotation: &str, kind: &str| {
        let value = domain.annotations().get(annotation)?;
        Some(format!("{kind}:{value}"))
    };
    let (emergency, usual) = (asked(ROTATE_EMERGENCY, "emergency"), asked(ROTATE, "rotate"));
    // Both may stand; what has begun is the token of both.
    let token = [emergency.as_deref(), usual.as_deref()].map(Option::unwrap_or_default).join(" ");
    let token = token.trim().to_owned();
    if token.is_empty() || begun == Some(token.as_str()) {
        return None;
    }
    let known = begun.and_then(|begun| begun.split(' ').next());
    let known = emergency.is_some() && known == emergency.as_deref();
    Some(Request { token, emergency: emergency.is_some() && !known })
}

const fn algorithm(algorithm: KeyAlgorithm) -> dkim::Algorithm {
    match algorithm {
        KeyAlgorithm::Rsa2048 => dkim::Algorithm::RsaSha256,
        KeyAlgorithm::Ed25519 => dkim::Algorithm::Ed25519Sha256,
    }
}

const fn key_algorithm(algorithm: dkim::Algorithm) -> KeyAlgorithm {
    match algorithm {
        dkim::Algorithm::RsaSha256 => KeyAlgorithm::Rsa2048,
        dkim::Algorithm::Ed25519Sha256 => KeyAlgorithm::Ed25519,
    }
}

fn wire_algorithm(algorithm: KeyAlgorithm) -> i32 {
    match algorithm {
        KeyAlgorithm::Rsa2048 => WireAlgorithm::RsaSha256.into(),
        KeyAlgorithm::Ed25519 => WireAlgorithm::Ed25519Sha256.into(),
    }
}
