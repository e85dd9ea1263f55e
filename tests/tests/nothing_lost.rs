//! 250 means kept: whenever the process dies, each accepted recipient is delivered, bounced or queued still. Mail goes out twice
//! only where the process died between the remote's 250 and our record of it.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tests::chance::Chance;
use tests::deadline::{SOON, until_true};
use tests::lab::Lab;
use tests::ledger::{Balance, Ledger};
use tests::long;
use tests::mx::{Answer, Mx, Received, Step};
use tests::stagepost::Stagepost;
use tests::submitters::Submitters;

const SUBMITTERS: usize = 4;
/// So many messages a submitter sends at most between two kills, whatever the machine can do.
const MESSAGES_A_ROUND: usize = 400;
/// How long before a kill the remote's 250 may have come that wasn't recorded; what is recorded takes milliseconds.
const UNRECORDED: Duration = Duration::from_secs(5);

/// The receivers: one that takes all, one that puts each recipient off once, one that refuses those whose name begins with
/// `no`, one that takes nothing for now, and the sender's, who gets the reports.
struct World {
    lab: Lab,
    receivers: Vec<Mx>,
}

impl World {
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
                Answer::reply("550 5.1.1 nobody of that name")
            }
            _ => Answer::Usual,
        });
        let away = lab.mx("away.test");
        away.script(|step| match step {
            Step::Command { line, .. } if line.starts_with("RCPT") => Answer::reply("451 4.3.0 come again"),
            _ => Answer::Usual,
        });
        let reports = lab.mx("sender.test");
        Self { lab, receivers: vec![takes, puts_off, refuses, away, reports] }
    }

    fn stagepost(&self) -> Stagepost {
        self.lab.stagepost().set("delivery.retry_waits_secs", vec![1_i64, 1, 2, 3600]).start()
    }

    fn received(&self) -> Vec<Received> {
        self.receivers.iter().flat_map(Mx::messages).collect()
    }

    /// Waits until only those are queued who can't be served, and adds up.
    fn settled(&self, ledger: &Ledger, stagepost: &Stagepost) -> Balance {
        let stuck = || {
            let jobs = stagepost.queue();
            jobs.iter().all(|job| {
                job["state"] == "waiting"
                    && job["to"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .all(|to| to.as_str().unwrap().ends_with("@away.test"))
            })
        };
        until_true("all that can be delivered is", SOON * 4, stuck);
        ledger.balance(&self.received(), &stagepost.queue())
    }
}

/// What submits to it.
fn load(stagepost: &Stagepost) -> Submitters {
    let mut load = Submitters::new(vec![stagepost.submission()], stagepost.tls(), recipients);
    load.messages_a_round = MESSAGES_A_ROUND;
    load
}

/// Each name is used for one message.
fn recipients(submitter: usize, number: usize) -> Vec<String> {
    let name = format!("user-{submitter}-{number}");
    let mut all =
        vec![format!("{name}@takes.test"), format!("{name}@puts-off.test"), format!("{name}@refuses.test")];
    if number.is_multiple_of(5) {
        all.push(format!("no-{name}@refuses.test"));
    }
    if number.is_multiple_of(10) {
        all.push(format!("{name}@away.test"));
    }
    all
}

/// Until the next kill.
fn pause(chance: &mut Chance) {
    std::thread::sleep(Duration::from_millis(u64::from(200 + chance.below(1300))));
}

/// When each recipient's copies came.
fn copies(received: &[Received]) -> BTreeMap<&str, Vec<Instant>> {
    let mut copies: BTreeMap<&str, Vec<Instant>> = BTreeMap::new();
    for message in received.iter().filter(|message| !message.reverse_path().is_empty()) {
        for recipient in message.recipients() {
            copies.entry(recipient).or_default().push(message.at);
        }
    }
    copies
}

#[test]
fn a_250_means_kept_and_each_recipient_ends_once_though_the_process_is_killed() {
    let world = World::new();
    let mut stagepost = world.stagepost();
    let load = load(&stagepost);
    let mut chance = Chance::new();
    let mut kills = Vec::new();
    let rounds = long::pick(3, 20);
    load.while_doing(SUBMITTERS, || {
        for _ in 0..rounds {
            pause(&mut chance);
            stagepost.kill();
            kills.push(Instant::now());
            stagepost.start_again();
            load.next_round();
        }
        pause(&mut chance);
    });
    let balance = world.settled(&load.ledger, &stagepost);
    println!("{rounds} kills: {balance}");
    assert!(balance.is_complete(), "{balance}\nlost {:?}\nunknown {:?}", balance.lost, balance.unknown);
    assert_eq!(balance.accepted, balance.delivered + balance.bounced + balance.queued, "{balance}");
    assert!(
        balance.delivered > 100 && balance.bounced > 0 && balance.queued > 0,
        "a load that proves little: {balance}"
    );

    let received = world.received();
    for (recipient, copies) in copies(&received).into_iter().filter(|(_, copies)| copies.len() > 1) {
        for pair in copies.windows(2) {
            let between = kills.iter().any(|kill| {
                pair[0] <= *kill && *kill <= pair[1] && kill.duration_since(pair[0]) < UNRECORDED
            });
            assert!(between, "{recipient} got a second copy, and no kill explains it");
        }
    }
    let reports: BTreeMap<String, usize> = received
        .iter()
        .filter(|message| message.reverse_path().is_empty())
        .flat_map(|report| tests::ledger::failed_recipients(&report.octets))
        .fold(BTreeMap::new(), |mut counts, recipient| {
            *counts.entry(recipient).or_default() += 1;
            counts
        });
    assert!(reports.keys().all(|recipient| recipient.starts_with("no-")), "{reports:?}");
}

#[test]
fn an_orderly_end_under_load_loses_nothing_and_sends_nothing_twice() {
    let world = World::new();
    let mut stagepost = world.stagepost();
    let load = load(&stagepost);
    let mut chance = Chance::new();
    load.while_doing(SUBMITTERS, || {
        for _ in 0..2 {
            pause(&mut chance);
            assert!(stagepost.stop(SOON * 2).success());
            stagepost.start_again();
            load.next_round();
        }
        pause(&mut chance);
    });
    let balance = world.settled(&load.ledger, &stagepost);
    println!("{balance}");
    assert!(balance.is_complete(), "{balance}\nlost {:?}\nunknown {:?}", balance.lost, balance.unknown);
    assert_eq!(balance.accepted, balance.delivered + balance.bounced + balance.queued, "{balance}");
    assert!(balance.duplicates.is_empty(), "{:?}", balance.duplicates);
    assert!(balance.delivered > 100, "a load that proves little: {balance}");
}
