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
        println!(
            "the other's message took {:?}, {} of the flood went meanwhile",
            begin.elapsed(),
            busy.count() - before
        );
        assert!(busy.count() < count, "the flood was over before");
    });
    busy.wait_for_within(count, SOON * 20);
}

#[test]
fn a_slow_destinations_backlog_waits_beside_the_others_and_is_moved_twice_at_most() {
    let lab = Lab::new();
    let slow = lab.mx("slow.test");
    let others: Vec<_> = (0..10).map(|number| lab.mx(&format!("other{number}.test"))).collect();
    let fleet = FleetSetup::new(&lab)
        .with(Role::Delivery, 2)
        .set("delivery.site_limits", vec!["mx.slow.test=100:100:10".to_owned()])
        .set("redis.pods", 2)
        .start();
    let count = long::pick(1_000, 20_000);
    flood(&fleet, count, |number| format!("user{number}@slow.test"));
    let before = slow.count();
    flood(&fleet, 100, |number| format!("user{number}@other{}.test", number % 10));
    others.iter().for_each(|other| drop(other.wait_for(10)));
    println!(
        "{before} of {count} had gone to the slow one when the others began, {} when they had theirs",
        slow.count()
    );
    assert!(slow.count() < count, "the slow destination wasn't slow");
    slow.wait_for_within(count, SOON * 20);
    fleet.wait_until_idle(SOON * 2);
    // A record that waits is written once, and once more when it is due.
    let streams = fleet.nats.monitor(0, "/jsz?streams=true").unwrap();
    let streams: serde_json::Value = serde_json::from_str(&streams).unwrap();
    let details = streams["account_details"][0]["stream_detail"].as_array().cloned().unwrap();
    let of_retries = details.iter().filter(|stream| stream["name"].as_str().unwrap().contains("-RETRY-"));
    let written: u64 = of_retries.filter_map(|stream| stream["state"]["last_seq"].as_u64()).sum();
    println!("{written} records of {count} messages that waited");
    assert!(written <= 4 * count as u64 + 400, "{written} records");
}

#[test]
fn a_host_that_swallows_packets_is_no_trouble_to_others() {
    let lab = Lab::new();
    let swallows = lab.mx("swallows.test");
    swallows.script(|step| match step {
        Step::Connect { .. } => Answer::Silence,
        _ => Answer::Usual,
    });
    let other = lab.mx("d1.test");
    let fleet = FleetSetup::new(&lab).with(Role::Delivery, 2).start();
    let count = long::pick(1_000, 10_000);
    flood(&fleet, count, |number| format!("user{number}@swallows.test"));
    let begin = Instant::now();
    flood(&fleet, 50, |number| format!("user{number}@d1.test"));
    other.wait_for(50);
    println!("the others' 50 messages took {:?}", begin.elapsed());
    assert!(swallows.connections_at_once() <= 4, "{} connections probe it", swallows.connections_at_once());
}
