//! 250 means kept, and every recipient ends once, whatever is killed: a process of any role, a NATS server, Redis, or all of
//! them at once. Mail goes out twice only where the worker, or its NATS, died between the remote's 250 and our record of it.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tests::chance::Chance;
use tests::deadline::{SOON, until, until_true};
use tests::fleet::{Fleet, FleetSetup, Role};
use tests::lab::Lab;
use tests::ledger::Ledger;
use tests::long;
use tests::message;
use tests::mx::{Answer, Mx, Received, Step};
use tests::submitters::{FROM, Submitters};

/// How long before an end the remote's 250 may have come that wasn't recorded.
const UNRECORDED: Duration = Duration::from_secs(15);
const KINDS_OF_END: [&str; 4] = ["delivered", "bounced", "expired", "dropped"];

/// One fleet at a time: twelve processes and three servers are enough for a small machine.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct World {
    lab: Lab,
    receivers: Vec<Mx>,
}

impl World {
    /// One receiver takes all, one puts each recipient off once, one refuses some; the sender gets the reports.
    fn new() -> Self {
        let lab = Lab::new();
        let takes = lab.mx("takes.test");
        let puts_off = lab.mx("puts-off.test");
        let seen = Mutex::new(BTreeSet::new());
        puts_off.script(move |step| match step {
            Step::Command { line, .. }
                if line.starts_with("RCPT") && seen.lock().unwrap().insert((*line).to_owned()) =>
            {
                Answer::reply("451 4.2.0 not yet")
            }
            _ => Answer::Usual,
        });
        let refuses = lab.mx("refuses.test");
        refuses.script(|step| match step {
            Step::Command { line, .. } if line.starts_with("RCPT TO:<no") => {
                Answer::reply("550 5.1.1 nobody")
            }
            _ => Answer::Usual,
        });
        let reports = lab.mx("sender.test");
        Self { lab, receivers: vec![takes, puts_off, refuses, reports] }
    }

    fn fleet(&self) -> Fleet {
        FleetSetup::new(&self.lab)
            .replicated()
            .with(Role::Ingress, 3)
            .with(Role::Accounts, 2)
            .with(Role::Delivery, 3)
            .set("delivery.retry_waits_secs", vec![1_i64, 2, 4, 8])
            .start()
    }
}

/// Each name is used for one message.
fn recipients(submitter: usize, number: usize) -> Vec<String> {
    let name = format!("user-{submitter}-{number}");
    let mut all = vec![format!("{name}@takes.test")];
    if number.is_multiple_of(3) {
        all.push(format!("{name}@puts-off.test"));
    }
    if number.is_multiple_of(5) {
        all.push(format!("no-{name}@refuses.test"));
    }
    all
}

/// Ends one of the 3 + 2 + 3 processes, 3 NATS servers and Redis, and starts it again.
fn kill_one(fleet: &mut Fleet, chance: &mut Chance) -> &'static str {
    match chance.below(12) as usize {
        place @ 0..3 => revive(fleet, Role::Ingress, place),
        place @ 3..5 => revive(fleet, Role::Accounts, place - 3),
        place @ 5..8 => revive(fleet, Role::Delivery, place - 5),
        place @ 8..11 => {
            fleet.nats.kill(place - 8);
            fleet.nats.restart();
            "nats"
        }
        _ => {
            fleet.redis.kill();
            fleet.redis.start_again();
            "redis"
        }
    }
}

fn revive(fleet: &mut Fleet, role: Role, place: usize) -> &'static str {
    fleet.kill(role, place);
    fleet.start(role, place);
    "process"
}

/// Runs `disturb` under load and settles the account.
fn under_load(
    world: &World,
    fleet: &mut Fleet,
    submitters: usize,
    pause: Duration,
    disturb: impl FnOnce(&mut Fleet) -> Vec<Instant>,
) {
    let addresses = (0..fleet.count(Role::Ingress)).map(|place| fleet.submission(place)).collect();
    let mut load = Submitters::new(addresses, fleet.tls(), recipients);
    load.pause = pause;
    let ends = load.while_doing(submitters, || {
        std::thread::sleep(Duration::from_secs(1));
        let ends = disturb(fleet);
        std::thread::sleep(Duration::from_secs(1));
        ends
    });
    fleet.heal();
    settle(world, fleet, &load.ledger, &ends);
}

/// Prints what the events say of recipients that are missing, and of all reports.
fn tell(fleet: &Fleet, lost: &[String]) {
    let events = fleet.events();
    let named = |event: &&Value| lost.iter().take(3).any(|recipient| event["recipient"] == **recipient);
    events.iter().filter(named).for_each(|event| println!("{event}"));
    let mut of_reports: BTreeMap<String, usize> = BTreeMap::new();
    for event in events.iter().filter(|event| event["recipient"] == FROM) {
        *of_reports.entry(text(&event["kind"])).or_default() += 1;
    }
    println!("events of reports: {of_reports:?}");
}

/// Whether an end explains a second try of what the first had only just done, or was doing.
fn explained(ends: &[Instant], first: Instant, second: Instant) -> bool {
    ends.iter().any(|end| first <= *end + UNRECORDED && *end <= second)
}

/// Recipients that got more than one copy, each of which an end explains.
fn second_copies<'a>(received: &'a [Received], ends: &[Instant]) -> BTreeSet<&'a str> {
    let mut copies: BTreeMap<&str, Vec<Instant>> = BTreeMap::new();
    for message in received.iter().filter(|message| !message.reverse_path().is_empty()) {
        for recipient in message.recipients() {
            copies.entry(recipient).or_default().push(message.at);
        }
    }
    copies.retain(|_, copies| copies.len() > 1);
    for (recipient, copies) in &copies {
        for pair in copies.windows(2) {
            assert!(
                explained(ends, pair[0], pair[1]),
                "{recipient} got a second copy {:?} after the first, which came {:?} after the first of the ends, and none of \
                 them explains it: {:?}",
                pair[1] - pair[0],
                pair[0].saturating_duration_since(ends[0]),
                ends.iter().map(|end| *end - ends[0]).collect::<Vec<_>>()
            );
        }
    }
    copies.into_keys().collect()
}

fn settle(world: &World, fleet: &Fleet, ledger: &Ledger, ends: &[Instant]) {
    fleet.wait_until_idle(SOON * 8);
    // What a replica of a consumer can't write down, it forgets; then it may take for acknowledged what isn't.
    let differing: Vec<String> =
        fleet.nats.logs().filter(|line| line.contains("bad pending entry")).collect();
    assert!(differing.is_empty(), "{} lines such as {}", differing.len(), differing[0]);
    let received: Vec<_> = world.receivers.iter().flat_map(Mx::messages).collect();
    let balance = ledger.balance(&received, &fleet.queue());
    println!("{} ends: {balance}", ends.len());
    if !balance.is_complete() {
        tell(fleet, &balance.lost);
    }
    assert!(balance.is_complete(), "{balance}\nlost {:?}\nunknown {:?}", balance.lost, balance.unknown);
    assert_eq!(
        balance.accepted + balance.contradictory.len(),
        balance.delivered + balance.bounced,
        "{balance}"
    );
    for report in received.iter().filter(|message| message.reverse_path().is_empty()) {
        let failed = tests::ledger::failed_recipients(&report.octets);
        if failed.iter().any(|recipient| balance.contradictory.contains(recipient)) {
            println!("reported as failed though delivered:\n{}", report.text());
        }
    }
    assert!(
        balance.contradictory.is_empty(),
        "delivered, and reported as failed: {:?}",
        balance.contradictory
    );
    assert!(balance.delivered > 100 && balance.bounced > 0, "a load that proves little: {balance}");

    let twice = second_copies(&received, ends);
    // Every accepted recipient has an event that says how it ended, and one only unless a copy too many went out.
    // They are read from any replica, and one that was started a moment ago lags.
    let recipients = ledger.recipients();
    let missing = |ended: &BTreeMap<String, Ends>| {
        recipients.iter().filter(|recipient| !ended.contains_key(*recipient)).count()
    };
    let ended = until("an event that says how each ended", SOON * 2, || {
        let ended = ends_by_events(fleet);
        let missing = missing(&ended);
        if missing > 0 {
            println!("no event says how {missing} of {} ended", recipients.len());
        }
        (missing == 0).then_some(ended)
    });
    // The sender has a report of each failure, and so many ends; the others have one message each. Who is refused gets no copy,
    // and a second refusal has a number of its own if what came between was put off.
    let several: Vec<_> =
        ended.iter().filter(|(recipient, ids)| ids.len() > 1 && *recipient != FROM).collect();
    let (again, odd): (Vec<_>, Vec<_>) = several.into_iter().partition(|(recipient, ids)| {
        let mut times: Vec<Instant> = ids.values().copied().collect();
        times.sort();
        twice.contains(recipient.as_str())
            || (ids.keys().all(|id| id.contains("bounced"))
                && times.windows(2).all(|pair| explained(ends, pair[0], pair[1])))
    });
    println!("{} copies too many, {} recipients with two ends", twice.len(), again.len());
    assert!(odd.is_empty(), "{odd:?}");
}

/// When a recipient ended, by what tells one such event from another.
type Ends = BTreeMap<String, Instant>;

/// How recipients ended, as the events say.
fn ends_by_events(fleet: &Fleet) -> BTreeMap<String, Ends> {
    let mut ended: BTreeMap<String, Ends> = BTreeMap::new();
    let (now, wall) = (Instant::now(), jiff::Timestamp::now().as_millisecond());
    for event in fleet.events() {
        let kind = event["kind"].as_str().unwrap_or_default();
        if KINDS_OF_END.contains(&kind) {
            let id = ["job", "attempt", "kind"].map(|field| event[field].to_string()).join("/");
            let at: jiff::Timestamp = text(&event["at"]).parse().unwrap();
            let ago = u64::try_from(wall - at.as_millisecond()).unwrap_or_default();
            ended.entry(text(&event["recipient"])).or_default().insert(id, now - Duration::from_millis(ago));
        }
    }
    ended
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
fn whatever_single_process_is_killed_nothing_is_lost() {
    let _alone = alone();
    let world = World::new();
    let mut fleet = world.fleet();
    let mut chance = Chance::new();
    let kills = long::pick(10, 150);
    under_load(&world, &mut fleet, 6, Duration::from_millis(10), |fleet| {
        (0..kills)
            .map(|_| {
                let at = Instant::now();
                println!("killed {}", kill_one(fleet, &mut chance));
                std::thread::sleep(Duration::from_secs(2));
                at
            })
            .collect()
    });
}

#[test]
fn all_killed_at_once_nothing_is_lost() {
    let _alone = alone();
    let world = World::new();
    let mut fleet = world.fleet();
    let rounds = long::pick(2, 10);
    under_load(&world, &mut fleet, 6, Duration::from_millis(10), |fleet| {
        (0..rounds)
            .map(|_| {
                let at = Instant::now();
                for role in [Role::Ingress, Role::Delivery, Role::Accounts] {
                    (0..fleet.count(role)).for_each(|place| fleet.kill(role, place));
                }
                fleet.nats.kill_all();
                fleet.redis.kill();
                fleet.redis.start_again();
                fleet.heal();
                std::thread::sleep(Duration::from_secs(3));
                at
            })
            .collect()
    });
}

#[test]
fn whatever_is_stopped_for_a_while_nothing_is_lost() {
    let _alone = alone();
    let world = World::new();
    let mut fleet = world.fleet();
    let stopped = Duration::from_secs(40);
    under_load(&world, &mut fleet, 4, Duration::from_millis(20), |fleet| {
        let begin = Instant::now();
        // One of each kind at the same time; the others go on.
        for role in [Role::Ingress, Role::Accounts, Role::Delivery] {
            fleet.signal(role, 0, Signal::STOP);
        }
        fleet.nats.process(0).signal(Signal::STOP);
        std::thread::sleep(stopped);
        fleet.nats.process(0).signal(Signal::CONT);
        for role in [Role::Ingress, Role::Accounts, Role::Delivery] {
            fleet.signal(role, 0, Signal::CONT);
        }
        // What the stopped worker had, and those had who hung on the stopped server, is another's within a lease after that.
        (0..=7).map(|tens| begin + Duration::from_secs(10) * tens).collect()
    });
    until_true("the stopped ingress takes mail again", SOON, || {
        fleet.login(0).submit(FROM, &["x@takes.test"], &message::text(FROM, "x@takes.test", "x", "x")).code
            == 250
    });
}
