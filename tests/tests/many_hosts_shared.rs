//! What many workers share: limits towards a destination, and the queue, in which nobody holds up anybody.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

use std::time::{Duration, Instant};

use tests::deadline::SOON;
use tests::fleet::{Fleet, FleetSetup, Role};
use tests::lab::Lab;
use tests::long;
use tests::message;
use tests::mx::{Answer, Received, Step};
use tests::probe::Probe;
use tests::smtp::Client;

const FROM: &str = "hello@sender.test";

fn submit(client: &mut Client, from: &str, to: &str) {
    let reply = client.submit(from, &[to], &message::text(from, to, "x", "Hello."));
    assert_eq!(reply.code, 250, "{reply:?}");
}

/// Submits so many messages by several sessions at a time.
fn flood(fleet: &Fleet, count: usize, to: impl Fn(usize) -> String + Sync) {
    let sessions = 4;
    std::thread::scope(|scope| {
        for session in 0..sessions {
            let to = &to;
            scope.spawn(move || {
                let mut client = fleet.login(session % fleet.count(Role::Ingress));
                (session..count).step_by(sessions).for_each(|number| submit(&mut client, FROM, &to(number)));
            });
        }
    });
}

/// The most messages in any window of this length.
fn most_within(received: &[Received], window: Duration) -> usize {
    let mut times: Vec<Instant> = received.iter().map(|message| message.at).collect();
    times.sort_unstable();
    let (mut first, mut most) = (0, 0);
    for (place, at) in times.iter().enumerate() {
        while at.duration_since(times[first]) > window {
            first += 1;
        }
        most = most.max(place - first + 1);
    }
    most
}

#[test]
fn a_sites_rate_and_connections_hold_over_three_workers_through_a_kill_and_a_restart_of_redis() {
    let lab = Lab::new();
    let receiver = lab.mx("d1.test");
    let limit = "mx.d1.test=50:10:4";
    let mut fleet = FleetSetup::new(&lab)
        .with(Role::Delivery, 3)
        .set("delivery.site_limits", vec![limit.to_owned()])
        .set("redis.pods", 3)
        .start();
    // A counter that was made a moment ago can't be told from one that was lost: for a while no connection is granted.
    let count = 1_000;
    flood(&fleet, count, |number| format!("user{number}@d1.test"));
    receiver.wait_for_within(300, SOON * 4);
    fleet.kill(Role::Delivery, 1);
    fleet.start(Role::Delivery, 1);
    receiver.wait_for_within(600, SOON * 4);
    fleet.redis.kill();
    fleet.redis.start_again();
    let received = receiver.wait_for_within(count, SOON * 8);
    println!(
        "at most {} in ten seconds, {} in one, {} connections",
        most_within(&received, Duration::from_secs(10)),
        most_within(&received, Duration::from_secs(1)),
        receiver.connections_at_once()
    );
    assert!(receiver.connections_at_once() <= 4, "{} connections at once", receiver.connections_at_once());
    assert!(most_within(&received, Duration::from_secs(10)) <= 550);
    assert!(!long::asked() || most_within(&received, Duration::from_secs(1)) <= 75);
}

#[test]
fn an_accounts_flood_does_not_hold_up_another_accounts_message_in_the_same_lane() {
    let lab = Lab::new();
    let busy = lab.mx("busy.test");
    let calm = lab.mx("calm.test");
    let fleet = FleetSetup::new(&lab).with(Role::Delivery, 2).set("nats.lanes", 1).start();
    fleet.ask(&["account", "create", "other", "--plan", "unlimited"]);
    fleet.credential("other", "other-app", "another battery staple");
    fleet.domain("other", "other.test", &lab);
    let count = long::pick(2_000, 50_000);
    let mut other = Client::connect(fleet.submission(0));
    other.start_tls(fleet.tls(), tests::stagepost::HOST);
    assert_eq!(other.auth_plain("other-app", "another battery staple").code, 235);
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&fleet, count, |number| format!("user{number}@busy.test")));
        busy.wait_for_within(count / 10, SOON * 4);
        let (begin, before) = (Instant::now(), busy.count());
        submit(&mut other, "hello@other.test", "you@calm.test");
        calm.wait_for(1);
        let took = begin.elapsed();
        println!("the other's message took {took:?}, {} of the flood went meanwhile", busy.count() - before);
        assert!(!long::asked() || took < Duration::from_secs(2));
        assert!(busy.count() < count, "the flood was over before");
    });
    busy.wait_for_within(count, SOON * 20);
}

/// How often what a probe takes is compared in the long form: this machine may be busy with other things.
const TRIES: usize = 3;
/// The pace of a probe's messages.
const PAUSE: Duration = Duration::from_millis(20);

/// What a worker takes more than at its start, for connections and what it has in hand, however much waits.
const WORKER_GROWS_MAX_MB: u64 = 40;

/// Sends what is to be no trouble to others, and looks at what these take meanwhile and without it.
fn compare(fleet: &Fleet, lab: &Lab, trouble: impl Fn(usize) + Sync) {
    let probe = Probe::new(lab, long::pick(10, 100));
    let count = long::pick(100, 2_000);
    let tries = long::pick(1, TRIES);
    // As long as Redis doesn't know who has connections, none is opened.
    probe.run(fleet, 1, PAUSE, || true);
    let mut least = f64::INFINITY;
    for round in 0..tries {
        let before = probe.run(fleet, count, PAUSE, || true);
        let during = std::thread::scope(|scope| {
            let sending = scope.spawn(|| trouble(round));
            let while_sent = probe.run(fleet, count, PAUSE, || !sending.is_finished());
            sending.join().unwrap();
            println!("while it is submitted, {while_sent}");
            probe.run(fleet, count, PAUSE, || true)
        });
        println!("without it, {before}; with it, {during}");
        least = least.min(during.percentile(99).div_duration_f64(before.percentile(99)));
    }
    println!("p99 with it is {least:.2} times p99 without, in the best of {tries} tries");
    assert!(!long::asked() || least <= 2.0);
}

#[test]
fn a_slow_destinations_backlog_waits_beside_the_others_and_is_moved_twice_at_most() {
    let lab = Lab::new();
    let slow = lab.mx("slow.test");
    let fleet = FleetSetup::new(&lab)
        .with(Role::Delivery, 2)
        .set("delivery.site_limits", vec![format!("mx.slow.test={0}:{0}:10", long::pick(20, 200))])
        .set("redis.pods", 2)
        .start();
    let count = long::pick(600, 20_000);
    let resident = || (0..2).map(|place| fleet.process(Role::Delivery, place).resident_peak());
    let empty: Vec<u64> = resident().collect();
    compare(&fleet, &lab, |round| {
        let before = slow.count();
        flood(&fleet, count, |number| format!("user{round}-{number}@slow.test"));
        println!("{} of {count} had gone to the slow one when all were submitted", slow.count() - before);
        assert!(slow.count() < before + count, "the slow destination wasn't slow");
    });
    let count = count * long::pick(1, TRIES);
    slow.wait_for_within(count, SOON * 20);
    fleet.wait_until_idle(SOON * 2);
    // What waits isn't in a worker's memory.
    let grown: Vec<u64> = resident().zip(empty).map(|(most, empty)| (most - empty) / 1_000_000).collect();
    println!("the workers grew by {grown:?} MB");
    assert!(grown.iter().all(|grown| *grown < WORKER_GROWS_MAX_MB), "{grown:?}");
    // A record that waits is written once, and once more when it is due.
    let streams = fleet.nats.monitor(0, "/jsz?streams=true").unwrap();
    let streams: serde_json::Value = serde_json::from_str(&streams).unwrap();
    let details = streams["account_details"][0]["stream_detail"].as_array().cloned().unwrap();
    let of_retries = details.iter().filter(|stream| stream["name"].as_str().unwrap().contains("-RETRY-"));
    let written: u64 = of_retries.filter_map(|stream| stream["state"]["last_seq"].as_u64()).sum();
    println!("{written} records of {count} messages that waited");
    assert!(written <= 4 * count as u64, "{written} records");
}

#[test]
fn a_host_that_swallows_packets_is_no_trouble_to_others() {
    let lab = Lab::new();
    let swallows = lab.mx("swallows.test");
    swallows.script(|step| match step {
        Step::Connect { .. } => Answer::Silence,
        _ => Answer::Usual,
    });
    let fleet = FleetSetup::new(&lab).with(Role::Delivery, 2).start();
    let count = long::pick(1_000, 10_000) / long::pick(1, TRIES);
    compare(&fleet, &lab, |round| {
        flood(&fleet, count, |number| format!("user{round}-{number}@swallows.test"))
    });
    assert!(swallows.connections_at_once() <= 4, "{} connections probe it", swallows.connections_at_once());
}
