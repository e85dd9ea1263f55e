use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use crate::crd::{DomainKey, DomainKeyState, KeyAlgorithm};
use crate::domain::rotation::{Next, Policy, Request, Seen, Source, step};

const DAY: i64 = 86_400;
const TTL: i64 = 3_600;
const BOTH: [KeyAlgorithm; 2] = [KeyAlgorithm::Rsa2048, KeyAlgorithm::Ed25519];

/// A domain whose records are published as soon as somebody does so.
struct World {
    policy: Policy,
    keys: Vec<DomainKey>,
    seen: Seen,
    now: i64,
    counter: u32,
    request: Option<Request>,
    begun: Option<String>,
}

impl World {
    fn new(source: Source) -> Self {
        let policy = Policy {
            source,
            algorithms: BOTH.to_vec(),
            prefix: "sd".into(),
            rotation_secs: 90 * DAY,
            retire_secs: 12 * DAY,
        };
        Self {
            policy,
            keys: Vec::new(),
            seen: Seen::default(),
            now: 1_000_000_000,
            counter: 0,
            request: None,
            begun: None,
        }
    }

    /// Decides once; what is decided is lost.
    fn decide(&mut self) -> Next {
        let request = self.request.as_ref().filter(|request| self.begun.as_ref() != Some(&request.token));
        let counter = &mut self.counter;
        let now = Timestamp::from_second(self.now).unwrap();
        step(&self.keys, &self.policy, &self.seen, request, now, || {
            *counter += 1;
            format!("x{counter}")
        })
    }

    /// Decides, keeps the outcome, and makes what Secrets are to be made.
    fn go(&mut self) -> Next {
        let next = self.decide();
        self.keys = next.keys.clone();
        self.keys.retain(|key| !next.gone.contains(&key.selector));
        if next.begun.is_some() {
            self.begun.clone_from(&next.begun);
        }
        let made = self.keys.iter().map(|key| key.selector.clone());
        self.seen.made = made.collect();
        let left = &self.keys;
        self.seen.everywhere.retain(|selector| left.iter().any(|key| key.selector == *selector));
        next
    }

    fn settle(&mut self) {
        for _ in 0..6 {
            self.go();
        }
    }

    /// Until no resolver remembers what was.
    fn wait(&mut self) {
        self.settle();
        self.now += TTL;
        self.settle();
    }

    fn publish(&mut self) {
        for key in &self.keys {
            self.seen.everywhere.insert(key.selector.clone());
            self.seen.remembered_secs.insert(key.selector.clone(), TTL);
        }
    }

    fn states(&self) -> BTreeMap<&str, DomainKeyState> {
        self.keys.iter().map(|key| (key.selector.as_str(), key.state)).collect()
    }

    fn active(&self) -> Vec<&str> {
        let active = self.keys.iter().filter(|key| key.state == DomainKeyState::Active);
        active.map(|key| key.selector.as_str()).collect()
    }

    /// A domain whose first keys sign.
    fn signing(source: Source) -> Self {
        let mut world = Self::new(source);
        world.settle();
        world.publish();
        world.settle();
        if world.policy.source == Source::Alternating {
            world.wait();
        }
        assert_eq!(world.active().len(), 2, "{:?}", world.states());
        world
    }
}

#[test]
fn the_first_keys_sign_once_all_servers_have_them() {
    let mut world = World::new(Source::Generated);
    world.go();
    assert!(world.states().values().all(|state| *state == DomainKeyState::Generating));
    world.settle();
    assert!(world.states().values().all(|state| *state == DomainKeyState::Publishing));
    world.seen.everywhere.insert("sp-x1-rsa".into());
    world.settle();
    assert_eq!(world.active(), ["sp-x1-rsa"]);
    world.publish();
    world.settle();
    assert_eq!(world.active(), ["sp-x1-rsa", "sp-x2-ed25519"]);
    assert_eq!(world.keys[0].secret_name, "sd-sp-x1-rsa");
}

#[test]
fn a_rotation_waits_until_no_resolver_can_remember_what_was_and_retires_late() {
    let mut world = World::signing(Source::Generated);
    let old: Vec<String> = world.active().into_iter().map(str::to_owned).collect();
    world.now += 90 * DAY - 1;
    world.settle();
    assert_eq!(world.keys.len(), 2);
    world.now += 1;
    world.settle();
    assert_eq!((world.keys.len(), world.active()), (4, old.iter().map(String::as_str).collect()));
    world.publish();
    let next = world.go();
    assert_eq!(world.active(), old);
    assert_eq!(next.wake_at.unwrap().as_second(), world.now + TTL);
    world.now += TTL - 1;
    world.settle();
    assert_eq!(world.active(), old);
    world.now += 1;
    world.settle();
    assert_eq!(world.active().len(), 2);
    assert!(world.active().iter().all(|selector| !old.contains(&(*selector).to_owned())));
    assert!(old.iter().all(|selector| world.states()[selector.as_str()] == DomainKeyState::Retired));
    world.now += 12 * DAY - 1;
    world.settle();
    assert_eq!(world.keys.len(), 4);
    world.now += 1;
    let next = world.go();
    assert_eq!(next.gone, old);
    assert_eq!(world.keys.len(), 2);
}

#[test]
fn one_key_of_a_kind_signs_at_each_moment_of_a_rotation_and_none_unseen() {
    let mut world = World::signing(Source::Generated);
    world.now += 90 * DAY;
    for turn in 0..400 {
        let next = world.decide();
        // Every other outcome is lost, as in a crash before it is kept.
        if turn % 2 == 0 {
            world.go();
        }
        if turn == 20 {
            world.publish();
        }
        for kept in [&world.keys, &next.keys] {
            for algorithm in BOTH {
                let signing = kept
                    .iter()
                    .filter(|key| key.algorithm == algorithm && key.state == DomainKeyState::Active);
                let signing: Vec<_> = signing.collect();
                assert_eq!(signing.len(), 1, "{kept:?}");
                assert!(world.seen.everywhere.contains(&signing[0].selector));
            }
        }
        world.now += TTL / 4;
    }
    assert_eq!(world.keys.iter().filter(|key| key.state == DomainKeyState::Retired).count(), 2);
    world.now += 12 * DAY;
    world.settle();
    assert_eq!(world.keys.len(), 2);
}

#[test]
fn a_rotation_is_asked_for_once_and_begins_once() {
    let mut world = World::signing(Source::Generated);
    world.request = Some(Request { token: "rotate:1".into(), emergency: false });
    world.settle();
    assert_eq!((world.keys.len(), world.begun.as_deref()), (4, Some("rotate:1")));
    world.publish();
    world.wait();
    world.now += 12 * DAY;
    world.settle();
    assert_eq!((world.keys.len(), world.active().len()), (2, 2));
}

#[test]
fn an_object_that_is_made_with_a_request_has_new_keys_already() {
    let mut world = World::new(Source::Generated);
    world.request = Some(Request { token: "rotate:1".into(), emergency: false });
    world.settle();
    world.publish();
    world.settle();
    assert_eq!((world.keys.len(), world.begun.as_deref()), (2, Some("rotate:1")));
}

#[test]
fn in_an_emergency_the_old_key_goes_as_soon_as_the_new_one_is_seen() {
    let mut world = World::signing(Source::Generated);
    let old: Vec<String> = world.active().into_iter().map(str::to_owned).collect();
    world.request = Some(Request { token: "emergency:1".into(), emergency: true });
    world.settle();
    assert_eq!(world.active(), old, "mail is never unsigned");
    world.publish();
    world.settle();
    assert_eq!((world.keys.len(), world.active().len()), (2, 2));
    assert!(world.active().iter().all(|selector| !old.contains(&(*selector).to_owned())));
}

#[test]
fn two_selectors_take_turns_behind_aliases() {
    let mut world = World::signing(Source::Alternating);
    assert_eq!(world.active(), ["sp1-rsa", "sp1-ed25519"]);
    let first = world.keys[0].secret_name.clone();
    for round in 0..3 {
        world.now += 90 * DAY;
        world.settle();
        world.publish();
        // Resolvers may remember what the alias led to before.
        world.wait();
        let place = if round % 2 == 0 { 2 } else { 1 };
        assert_eq!(world.active(), [format!("sp{place}-rsa"), format!("sp{place}-ed25519")]);
    }
    world.now += 12 * DAY;
    world.settle();
    assert_eq!(world.keys.len(), 2);
    assert_ne!(world.keys[0].secret_name, first);
}

#[test]
fn a_turn_waits_until_its_selector_is_free() {
    let mut world = World::signing(Source::Alternating);
    for token in ["rotate:1", "rotate:2"] {
        world.request = Some(Request { token: token.into(), emergency: false });
        world.settle();
        world.publish();
        world.wait();
    }
    assert_eq!((world.active(), world.begun.as_deref()), (vec!["sp2-rsa", "sp2-ed25519"], Some("rotate:1")));
    world.now += 12 * DAY;
    world.settle();
    assert_eq!(world.begun.as_deref(), Some("rotate:2"));
}

#[test]
fn a_key_of_somebody_replaces_generated_ones_and_is_never_rotated() {
    let mut world = World::signing(Source::Generated);
    let mine =
        |algorithm| Source::Existing { selector: "mine".into(), secret_name: "my-key".into(), algorithm };
    world.policy.source = mine(None);
    world.settle();
    assert_eq!(world.active().len(), 2);
    world.policy.source = mine(Some(KeyAlgorithm::Rsa2048));
    world.settle();
    assert_eq!(world.active().len(), 2);
    world.publish();
    world.wait();
    assert_eq!(world.active(), ["mine"]);
    world.now += 400 * DAY;
    world.settle();
    assert_eq!((world.keys.len(), world.active()), (1, vec!["mine"]));
    assert!(world.keys[0].external);
}

#[test]
fn a_kind_of_key_comes_and_goes_as_it_is_wanted() {
    let mut world = World::signing(Source::Generated);
    world.policy.algorithms = vec![KeyAlgorithm::Rsa2048];
    world.settle();
    assert_eq!(world.active().len(), 1);
    world.policy.algorithms = BOTH.to_vec();
    world.settle();
    world.publish();
    world.wait();
    assert_eq!(world.active().len(), 2);
    world.policy.rotation_secs = 0;
    world.now += 4000 * DAY;
    world.settle();
    assert_eq!((world.keys.len(), world.decide().rotation_at), (2, None));
}
