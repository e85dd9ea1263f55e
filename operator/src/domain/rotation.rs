//! The life of a domain's keys, as a state machine whose state is kept in the object's status.
//!
//! ```text
//! Generating --Secret is there--> Publishing --seen at all servers--> Published --older answers waited out--> Active
//!                                                                                                              |
//!                                                 gone <--queues are empty of what it signed-- Retired <--another is Active
//! ```
//!
//! Each step is decided from what is kept and what is seen, and what it needs to be done can be done twice. So a crash
//! between any two calls costs a step's repetition and leaves nothing behind: a key is kept as `Generating` before its
//! Secret is made, and kept as `Retired` until all that it left is taken away.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::crd::{DomainKey, DomainKeyState, KeyAlgorithm};

/// What keys a domain should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Made here, each under a selector that was never used before.
    Generated,
    /// Made here, in two selectors per kind that take turns: the domain has aliases for these.
    Alternating,
    /// Somebody's own; none while its Secret isn't there or can't be read.
    Existing { selector: String, secret_name: String, algorithm: Option<KeyAlgorithm> },
}

/// What is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) source: Source,
    pub(crate) algorithms: Vec<KeyAlgorithm>,
    /// How the names of Secrets begin.
    pub(crate) prefix: String,
    /// Zero: never.
    pub(crate) rotation_secs: i64,
    /// How long a key's record stays after it signed last.
    pub(crate) retire_secs: i64,
}

/// A rotation that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Tells it from the one before.
    pub(crate) token: String,
    /// The keys that sign are known to others.
    pub(crate) emergency: bool,
}

/// What is seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Selectors whose Secret is there.
    pub(crate) made: BTreeSet<String>,
    /// Selectors whose record is at all servers of the zone.
    pub(crate) everywhere: BTreeSet<String>,
    /// How long resolvers may remember what was at a selector before, in seconds.
    pub(crate) remembered_secs: BTreeMap<String, i64>,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Next {
    /// The keys from now on, those of `gone` included.
    pub(crate) keys: Vec<DomainKey>,
    /// Selectors of keys of which everything is to be taken away, after which they are.
    pub(crate) gone: Vec<String>,
    /// A rotation has begun for this request.
    pub(crate) begun: Option<String>,
    /// When the next rotation begins by itself.
    pub(crate) rotation_at: Option<Time>,
    /// When something happens by itself.
    pub(crate) wake_at: Option<Timestamp>,
}

impl Next {
    /// The keys that stay.
    pub(crate) fn left(&self) -> Vec<DomainKey> {
        self.keys.iter().filter(|key| !self.gone.contains(&key.selector)).cloned().collect()
    }
}

/// Takes the keys as far as they can go now. `fresh` gives random letters and digits.
pub(crate) fn step(
    keys: &[DomainKey],
    policy: &Policy,
    seen: &Seen,
    request: Option<&Request>,
    now: Timestamp,
    mut fresh: impl FnMut() -> String,
) -> Next {
    let mut next = Next { keys: keys.to_vec(), ..Next::default() };
    for key in &mut next.keys {
        if key.state == DomainKeyState::Generating && seen.made.contains(&key.selector) {
            key.state = DomainKeyState::Publishing;
        }
        if key.state == DomainKeyState::Publishing && seen.everywhere.contains(&key.selector) {
            key.state = DomainKeyState::Published;
            key.published_at = Some(Time(now));
        }
    }
    begin(&mut next, policy, request, now, &mut fresh);
    activate(&mut next, policy, seen, now);
    retire_unwanted(&mut next, policy, now);
    for key in &next.keys {
        if let (DomainKeyState::Retired, Some(retired_at)) = (key.state, &key.retired_at) {
            let stays = if key.leaked { 0 } else { policy.retire_secs };
            let until = later(retired_at.0, stays);
            if until <= now {
                next.gone.push(key.selector.clone());
            } else {
                wake(&mut next.wake_at, until);
            }
        }
    }
    next
}

fn live(key: &DomainKey) -> bool {
    key.state != DomainKeyState::Retired
}

fn later(from: Timestamp, secs: i64) -> Timestamp {
    Timestamp::from_second(from.as_second().saturating_add(secs)).unwrap_or(Timestamp::MAX)
}

fn wake(at: &mut Option<Timestamp>, when: Timestamp) {
    *at = Some(at.map_or(when, |held| held.min(when)));
}

/// Adds keys that are wanted and aren't there, or all when a rotation is due.
fn begin(
    next: &mut Next,
    policy: &Policy,
    request: Option<&Request>,
    now: Timestamp,
    fresh: &mut impl FnMut() -> String,
) {
    if let Source::Existing { selector, secret_name, algorithm } = &policy.source {
        let known = next.keys.iter().any(|key| key.selector == *selector);
        if let (Some(algorithm), false) = (algorithm, known) {
            let mut key = new_key(selector.clone(), *algorithm, secret_name.clone(), now);
            key.external = true;
            next.keys.push(key);
        }
        return;
    }
    let under_way = next.keys.iter().any(|key| live(key) && key.state != DomainKeyState::Active);
    let active: Vec<Timestamp> = next
        .keys
        .iter()
        .filter_map(|key| key.active_at.as_ref().filter(|_| live(key)))
        .map(|at| at.0)
        .collect();
    let oldest = active.iter().min().copied();
    let due = oldest.filter(|_| policy.rotation_secs > 0).map(|at| later(at, policy.rotation_secs));
    next.rotation_at = due.map(Time);
    let asked = request.filter(|_| !under_way && oldest.is_some());
    let rotate = !under_way && (asked.is_some() || due.is_some_and(|due| due <= now));
    if let Some(due) = due.filter(|due| *due > now) {
        wake(&mut next.wake_at, due);
    }
    let mut made = Vec::new();
    for algorithm in &policy.algorithms {
        let has = next.keys.iter().any(|key| key.algorithm == *algorithm && live(key) && !key.external);
        if has && !rotate {
            continue;
        }
        let Some(selector) = selector(&next.keys, &policy.source, *algorithm, fresh) else {
            // Both places are taken until the key before the last one is gone.
            return;
        };
        // A selector that takes turns has another Secret each time.
        let secret_name = match &policy.source {
            Source::Alternating => format!("{}-{selector}-{}", policy.prefix, fresh()),
            Source::Generated | Source::Existing { .. } => format!("{}-{selector}", policy.prefix),
        };
        made.push(new_key(selector, *algorithm, secret_name, now));
    }
    if next.keys.is_empty() {
        // The first keys are as new as anybody can ask for.
        next.begun = request.map(|request| request.token.clone());
    }
    if rotate {
        next.begun = asked.map(|request| request.token.clone());
        if asked.is_some_and(|request| request.emergency) {
            next.keys.iter_mut().filter(|key| live(key)).for_each(|key| key.leaked = true);
        }
    }
    next.keys.extend(made);
}

fn new_key(selector: String, algorithm: KeyAlgorithm, secret_name: String, now: Timestamp) -> DomainKey {
    DomainKey {
        selector,
        algorithm,
        state: DomainKeyState::Generating,
        secret_name,
        external: false,
        leaked: false,
        created_at: Time(now),
        published_at: None,
        active_at: None,
        retired_at: None,
    }
}

/// A selector for a new key: unused ever, or the free one of two.
fn selector(
    keys: &[DomainKey],
    source: &Source,
    algorithm: KeyAlgorithm,
    fresh: &mut impl FnMut() -> String,
) -> Option<String> {
    let suffix = match algorithm {
        KeyAlgorithm::Rsa2048 => "rsa",
        KeyAlgorithm::Ed25519 => "ed25519",
    };
    match source {
        Source::Generated | Source::Existing { .. } => Some(format!("sp-{}-{suffix}", fresh())),
        Source::Alternating => alternating(algorithm)
            .into_iter()
            .find(|selector| keys.iter().all(|key| key.selector != *selector)),
    }
}

/// The two selectors of a kind of key that take turns.
pub(crate) fn alternating(algorithm: KeyAlgorithm) -> [String; 2] {
    match algorithm {
        KeyAlgorithm::Rsa2048 => ["sp1-rsa".into(), "sp2-rsa".into()],
        KeyAlgorithm::Ed25519 => ["sp1-ed25519".into(), "sp2-ed25519".into()],
    }
}

/// Lets keys sign that no receiver can miss any more, in place of those before.
fn activate(next: &mut Next, policy: &Policy, seen: &Seen, now: Timestamp) {
    for index in 0..next.keys.len() {
        let key = &next.keys[index];
        let (DomainKeyState::Published, Some(published_at)) = (key.state, &key.published_at) else {
            continue;
        };
        let remembered = seen.remembered_secs.get(&key.selector).copied().unwrap_or_default();
        // Nobody can have asked for a selector that is new, so that a first key need not wait; and a leaked one must go.
        let replaced = next
            .keys
            .iter()
            .find(|other| other.algorithm == key.algorithm && other.state == DomainKeyState::Active);
        let hurry = replaced.is_none_or(|replaced| replaced.leaked);
        let wait = if hurry && policy.source != Source::Alternating { 0 } else { remembered };
        let until = later(published_at.0, wait);
        if until > now {
            wake(&mut next.wake_at, until);
            continue;
        }
        let algorithm = key.algorithm;
        for (place, other) in next.keys.iter_mut().enumerate() {
            if place != index && other.algorithm == algorithm && other.state == DomainKeyState::Active {
                retire(other, now);
            }
        }
        next.keys[index].state = DomainKeyState::Active;
        next.keys[index].active_at = Some(Time(now));
    }
}

fn retire(key: &mut DomainKey, now: Timestamp) {
    key.state = DomainKeyState::Retired;
    key.retired_at = Some(Time(now));
}

/// Retires keys that nothing wants any more, once others sign.
fn retire_unwanted(next: &mut Next, policy: &Policy, now: Timestamp) {
    let wanted = |key: &DomainKey| match &policy.source {
        Source::Existing { selector, .. } => key.selector == *selector,
        Source::Generated | Source::Alternating => {
            !key.external && policy.algorithms.contains(&key.algorithm)
        }
    };
    let signs = next.keys.iter().any(|key| wanted(key) && key.state == DomainKeyState::Active);
    if signs {
        next.keys.iter_mut().filter(|key| live(key) && !wanted(key)).for_each(|key| retire(key, now));
    }
}
