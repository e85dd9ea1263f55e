//! One version after the other, and back, with mail queued and deferred: none is lost, none goes twice or early, no attempt is
//! counted anew, and what both keep outside the queue is each other's.
//!
//! There is one version only. The next one is this one with other settings, and what a test does through NATS's and Redis's own
//! interfaces as the next version might.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

#[path = "jetstream/setup.rs"]
mod setup;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use serde_json::{Value, json};
use setup::SetUp;
use tests::deadline::{SOON, until_true};
use tests::fleet::{Fleet, FleetSetup, Role};
use tests::lab::Lab;
use tests::message;
use tests::mx::{Answer, Mx, Step};
use tests::smtp::Client;
use tests::stagepost::{HOST, PASSWORD};
use tests::submitters::Submitters;

const ALL: [(Role, usize); 6] = [
    (Role::Accounts, 0),
    (Role::Ingress, 0),
    (Role::Delivery, 0),
    (Role::Delivery, 1),
    (Role::Ingress, 1),
    (Role::Accounts, 1),
];

/// What the next version is set to.
fn next() -> [(&'static str, toml::Value); 6] {
    [
        ("nats.partitions", 5.into()),
        ("nats.lanes", 3.into()),
        ("nats.lease_secs", 75.into()),
        ("nats.bytes_max", (4_i64 << 30).into()),
        ("nats.events_hours_max", 200.into()),
        ("delivery.retry_waits_secs", vec![2_i64, 3, 3].into()),
    ]
}

/// Ends a process in order and starts the other version in its place.
fn replace(fleet: &mut Fleet, (role, place): (Role, usize), settings: &[(&str, toml::Value)]) {
    let ended = fleet.stop(role, place, 2 * SOON);
    assert!(ended.success(), "{}", fleet.log(role, place));
    fleet.set(role, place, settings);
    fleet.start(role, place);
    fleet.wait_ready(role, place);
}

/// NATS as its own tools see it.
struct Tools {
    runtime: tokio::runtime::Runtime,
    context: Context,
}

impl Tools {
    fn new(fleet: &Fleet) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let connected = async { jetstream::new(async_nats::connect(fleet.nats.url()).await.unwrap()) };
        let context = runtime.block_on(connected);
        Self { runtime, context }
    }

    fn set_up(&self) -> SetUp {
        self.runtime.block_on(SetUp::of(&self.context, "stagepost-"))
    }

    /// What a key of accounts holds.
    fn entry(&self, key: &str) -> Value {
        let octets = self.runtime.block_on(async {
            let bucket = self.context.get_key_value("stagepost-accounts").await.unwrap();
            bucket.get(key).await.unwrap().unwrap()
        });
        serde_json::from_slice(&octets).unwrap()
    }

    fn put(&self, key: &str, value: &Value) {
        self.runtime.block_on(async {
            let bucket = self.context.get_key_value("stagepost-accounts").await.unwrap();
            bucket.put(key, value.to_string().into()).await.unwrap();
        });
    }

    fn keys(&self) -> Vec<String> {
        use futures_util::TryStreamExt as _;
        self.runtime.block_on(async {
            let bucket = self.context.get_key_value("stagepost-accounts").await.unwrap();
            bucket.keys().await.unwrap().try_collect().await.unwrap()
        })
    }
}

/// Most are taken, every third recipient is put off once, every fourth until the test says so.
fn recipients(submitter: usize, number: usize) -> Vec<String> {
    let name = format!("user-{submitter}-{number}");
    let mut all = vec![format!("{name}@takes.test")];
    if number.is_multiple_of(3) {
        all.push(format!("{name}@puts-off.test"));
    }
    if number.is_multiple_of(4) {
        all.push(format!("{name}@waits.test"));
    }
    all
}

#[test]
fn a_rolling_upgrade_and_its_rollback_lose_no_mail_and_send_none_twice_or_early() {
    let lab = Lab::new();
    let takes = lab.mx("takes.test");
    let puts_off = lab.mx("puts-off.test");
    let seen = std::sync::Mutex::new(BTreeSet::new());
    puts_off.script(move |step| match step {
        Step::Command { line, .. }
            if line.starts_with("RCPT") && seen.lock().unwrap().insert((*line).to_owned()) =>
        {
            Answer::reply("451 4.2.0 not yet")
        }
        _ => Answer::Usual,
    });
    let waits = lab.mx("waits.test");
    let open = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&open);
    waits.script(move |step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") && !opened.load(Ordering::Relaxed) => {
            Answer::reply("450 4.2.1 later")
        }
        _ => Answer::Usual,
    });
    let mut fleet = FleetSetup::new(&lab)
        .with(Role::Ingress, 2)
        .with(Role::Accounts, 2)
        .with(Role::Delivery, 2)
        .set("nats.partitions", 4)
        .set("nats.lanes", 2)
        .set("delivery.retry_waits_secs", vec![2_i64, 4, 4])
        .start();
    let tools = Tools::new(&fleet);
    let mut known = tools.set_up();
    let mut load =
        Submitters::new((0..2).map(|place| fleet.submission(place)).collect(), fleet.tls(), recipients);
    load.pause = Duration::from_millis(250);
    load.while_doing(4, || {
        until_true("some mail waits", SOON, || waits.commands_of("RCPT").len() >= 5);
        let begun = std::time::Instant::now();
        let mut look = |what: &str| {
            let now = tools.set_up();
            known.must_go_on_in(&now);
            println!("{what} after {:?}: handed out {} times", begun.elapsed(), now.deliveries());
            known = now;
        };
        look("as it was");
        // Half-way and back.
        ALL[..3].iter().for_each(|process| replace(&mut fleet, *process, &next()));
        tools.runtime.block_on(setup::change_as_a_newer_version(&tools.context, "stagepost-"));
        look("half of it is new");
        ALL[..3].iter().rev().for_each(|process| replace(&mut fleet, *process, &[]));
        look("rolled back");
        tools.runtime.block_on(setup::has_what_the_newer_version_set(&tools.context, "stagepost-"));
        // All the way, and back.
        ALL.iter().for_each(|process| replace(&mut fleet, *process, &next()));
        look("all of it is new");
        ALL.iter().for_each(|process| replace(&mut fleet, *process, &[]));
        look("all of it is old");
        assert!(known.consumers.values().all(|consumer| consumer.ack_wait == Duration::from_secs(30)));
    });
    open.store(true, Ordering::Relaxed);
    fleet.wait_until_idle(SOON * 4);
    known.must_go_on_in(&tools.set_up());

    let received: Vec<_> = [&takes, &puts_off, &waits].into_iter().flat_map(Mx::messages).collect();
    let balance = load.ledger.balance(&received, &fleet.queue());
    println!("{balance}");
    assert!(balance.is_complete(), "{balance}: {:?} {:?}", balance.lost, balance.unknown);
    assert!(balance.duplicates.is_empty(), "{:?}", balance.duplicates);
    assert_eq!((balance.delivered, balance.bounced), (balance.accepted, 0));
    assert!(balance.accepted > 300, "a load that proves little: {balance}");
    let deferred = attempts_go_on(&fleet.events(), &load.ledger.recipients());
    println!("{deferred} attempts were put off");
    assert!(deferred > 200, "too little waited: {deferred}");
}

/// Each attempt of a recipient is one more than the one before, none is early, and the last one ends it. Gives how many were
/// deferred.
fn attempts_go_on(events: &[Value], accepted: &[String]) -> usize {
    let mut of: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["kind"] != "accepted") {
        of.entry(event["recipient"].as_str().unwrap()).or_default().push(event);
    }
    let mut deferred = 0;
    for recipient in accepted {
        let events = of.get(recipient.as_str()).unwrap_or_else(|| panic!("{recipient} has no end"));
        let attempts: Vec<u64> = events.iter().map(|event| event["attempt"].as_u64().unwrap()).collect();
        let expected: Vec<u64> = (1..=events.len() as u64).collect();
        assert_eq!(attempts, expected, "{recipient}: {events:?}");
        for pair in events.windows(2) {
            assert_eq!(pair[0]["kind"], "deferred", "{recipient}: {events:?}");
            // Both in the form of RFC 3339 with milliseconds in UTC, which is in order of time.
            let (due, at) = (pair[0]["retry_at"].as_str().unwrap(), pair[1]["at"].as_str().unwrap());
            assert!(
                due.len() == at.len() && due.ends_with('Z') && at >= due,
                "{recipient} was early: {events:?}"
            );
        }
        assert_eq!(events.last().unwrap()["kind"], "delivered", "{recipient}");
        deferred += events.len() - 1;
    }
    deferred
}

/// An account on the free plan, with a domain and a way in.
fn small_account(fleet: &Fleet, lab: &Lab, name: &str) {
    fleet.ask(&["account", "create", name]);
    fleet.domain(name, &format!("{name}.test"), lab);
    fleet.credential(name, &format!("{name}-app"), PASSWORD);
}

/// Connects and logs in; the code that answers the login.
fn login(fleet: &Fleet, name: &str) -> (Client, u16) {
    let mut client = Client::connect(fleet.submission(0));
    client.start_tls(fleet.tls(), HOST);
    let code = client.auth_plain(&format!("{name}-app"), PASSWORD).code;
    (client, code)
}

/// How many of so many recipients an account may name, each in a message of its own.
fn accepted(fleet: &Fleet, name: &str, count: usize) -> usize {
    let (mut client, code) = login(fleet, name);
    assert_eq!(code, 235);
    let from = format!("a@{name}.test");
    let submit = |number| {
        let to = format!("user{number}@d1.test");
        let taken = client.try_submit(&from, &[&to], &message::text(&from, &to, "x", "Hello."));
        let taken = taken.is_ok_and(|reply| reply.code == 250);
        if !taken {
            client.expect("RSET", 250);
        }
        taken
    };
    (0..count).map(submit).filter(|taken| *taken).count()
}

/// The keys in Redis that hold this text.
fn redis_keys(fleet: &Fleet, part: &str) -> Vec<String> {
    let answer = fleet.redis.command(&format!("KEYS *{part}*"));
    answer.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

#[test]
fn what_a_later_version_adds_to_accounts_and_counters_stays_and_is_no_hindrance() {
    let lab = Lab::new();
    let receiver = lab.mx("d1.test");
    let mut fleet = FleetSetup::new(&lab).with(Role::Accounts, 2).start();
    small_account(&fleet, &lab, "small");
    assert_eq!(accepted(&fleet, "small", 30), 30);
    receiver.wait_for(30);

    // Each entry and each counter gets something more, and there is an entry of a new kind.
    let tools = Tools::new(&fleet);
    for key in tools.keys().iter().filter(|key| !key.starts_with("sealing")) {
        let mut entry = tools.entry(key);
        entry["later"] = json!({ "of": [1, 2], "text": "what the next version knows" });
        for signing in entry["keys"].as_array_mut().into_iter().flatten() {
            signing["later"] = json!(7);
        }
        tools.put(key, &entry);
    }
    tools.put("plan/pro", &json!({ "recipients_per_day": 5_000 }));
    let counters = redis_keys(&fleet, "quota");
    assert!(!counters.is_empty());
    let hashes: Vec<String> = redis_keys(&fleet, "{stagepost:")
        .into_iter()
        .filter(|key| fleet.redis.command(&format!("TYPE {key}")).starts_with("+hash"))
        .collect();
    for key in &hashes {
        fleet.redis.command(&format!("HSET {key} later 7"));
    }
    for role in [Role::Accounts, Role::Ingress, Role::Delivery] {
        replace(&mut fleet, (role, 0), &[]);
    }

    // The counts go on where they were, and changes keep what isn't understood.
    assert_eq!(accepted(&fleet, "small", 75), 70);
    receiver.wait_for(100);
    for key in &counters {
        assert!(fleet.redis.command(&format!("HGET {key} later")).contains('7'), "{key} of {hashes:?}");
    }
    fleet.ask(&["account", "set", "small", "--recipients-per-day", "200"]);
    fleet.ask(&["domain", "add-key", "small.test", "ed25519"]);
    for key in tools.keys().iter().filter(|key| !key.starts_with("sealing") && !key.starts_with("plan")) {
        let entry = tools.entry(key);
        assert_eq!(entry["later"]["text"], "what the next version knows", "{entry}");
    }
    let domain = tools.entry("domain/small.test");
    let older: Vec<_> = domain["keys"].as_array().unwrap().iter().filter(|key| key["later"] == 7).collect();
    assert_eq!(older.len(), 2, "{domain}");

    // What can't be understood holds up nobody else, and refuses nobody for good.
    small_account(&fleet, &lab, "other");
    let key = tools
        .keys()
        .into_iter()
        .find(|key| key.starts_with("account") && tools.entry(key)["name"] == "small");
    let key = key.unwrap();
    let readable = tools.entry(&key);
    let mut unreadable = readable.clone();
    unreadable["plan"] = json!({ "gold": { "recipients_per_day": 5_000 } });
    tools.put(&key, &unreadable);
    fleet.stop(Role::Accounts, 1, SOON);
    fleet.stop(Role::Accounts, 0, SOON);
    fleet.start(Role::Accounts, 0);
    until_true("other accounts are let in", SOON, || login(&fleet, "other").1 == 235);
    let (mut client, code) = login(&fleet, "small");
    assert_eq!(code, 454, "not now, and not never");
    client.expect("QUIT", 221);
    assert_eq!(accepted(&fleet, "other", 1), 1);
    fleet.wait_readiness(Role::Ingress, 0, 200, SOON);
    let metrics = fleet.admin(Role::Accounts, 0, "/metrics").unwrap().body;
    assert!(metrics.contains("stagepost_accounts_current 0"), "{metrics}");
    let refused = fleet.try_ask(&["account", "suspend", "other"]).unwrap_err();
    assert!(refused.contains(&key), "{refused}");
    tools.put(&key, &readable);
    until_true("the account is let in again", SOON, || login(&fleet, "small").1 == 235);
    assert_eq!(accepted(&fleet, "small", 1), 1);
    fleet.ask(&["account", "suspend", "other"]);
}
