//! NATS or Redis goes away and comes back, and nobody has to start anything again.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::deadline::{SOON, until};
use tests::fleet::{Fleet, FleetSetup, Role};
use tests::lab::Lab;
use tests::message;
use tests::smtp::Client;

const FROM: &str = "hello@sender.test";
const TO: &str = "user@d1.test";

fn submit(client: &mut Client, to: &str) -> u16 {
    client.submit(FROM, &[to], &message::text(FROM, to, "x", "Hello.")).code
}

/// Submits while NATS is away: refused for now, in time, and the session lives on.
fn refused_for_now(client: &mut Client) {
    let begin = Instant::now();
    let reply = client.submit(FROM, &[TO], &message::text(FROM, TO, "x", "Hello."));
    assert!((451..=452).contains(&reply.code), "{reply:?}");
    assert!(begin.elapsed() < Duration::from_secs(15), "the refusal took {:?}", begin.elapsed());
    client.expect("NOOP", 250);
}

/// Submits until it is taken again.
fn taken_again(client: &mut Client, what: &str) {
    let begin = Instant::now();
    until(what, SOON, || (submit(client, TO) == 250).then_some(()));
    println!("{what}: after {:?}", begin.elapsed());
}

fn fleet(lab: &Lab) -> Fleet {
    FleetSetup::new(lab).with(Role::Delivery, 2).start()
}

#[test]
fn while_nats_is_away_mail_is_refused_for_now_and_taken_when_it_is_back() {
    let lab = Lab::new();
    let receiver = lab.mx("d1.test");
    let mut fleet = fleet(&lab);
    let mut client = fleet.login(0);
    assert_eq!(submit(&mut client, TO), 250);
    receiver.wait_for(1);

    fleet.nats.kill(0);
    refused_for_now(&mut client);
    fleet.wait_readiness(Role::Ingress, 0, 503, SOON);
    assert_eq!(fleet.admin(Role::Ingress, 0, "/livez").unwrap().status, 200);
    // Accounts answer from memory: who comes now can log in, and is told to come again.
    let mut other = fleet.login(0);
    refused_for_now(&mut other);
    fleet.nats.restart();
    fleet.nats.wait_ready();
    taken_again(&mut client, "mail is taken after NATS was killed");
    taken_again(&mut other, "and from another session");

    // A server that is there and doesn't answer.
    fleet.nats.process(0).signal(Signal::STOP);
    refused_for_now(&mut client);
    fleet.nats.process(0).signal(Signal::CONT);
    taken_again(&mut client, "mail is taken after NATS hung");
    fleet.wait_readiness(Role::Ingress, 0, 200, SOON);
    fleet.wait_until_idle(SOON * 2);
    // What was refused in doubt may have been kept; what was taken was.
    assert!(receiver.count() >= 4);
}

#[test]
fn while_redis_is_away_mail_flows_and_limits_are_shared_again_when_it_is_back() {
    let lab = Lab::new();
    let receiver = lab.mx("d1.test");
    let mut fleet = fleet(&lab);
    let shared = |fleet: &Fleet, role, place| {
        let metrics = fleet.admin(role, place, "/metrics").unwrap().body;
        let line = metrics.lines().find(|line| line.starts_with("stagepost_limits_shared "));
        line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    };
    let all_say = |fleet: &Fleet, wanted: &str| {
        until(&format!("limits_shared is {wanted}"), SOON, || {
            let all = [(Role::Ingress, 0), (Role::Delivery, 0), (Role::Delivery, 1)];
            all.iter()
                .all(|(role, place)| shared(fleet, *role, *place).as_deref() == Some(wanted))
                .then_some(())
        });
    };
    all_say(&fleet, "1");
    let mut client = fleet.login(0);
    let mut sent = 0;
    let mut send = |client: &mut Client, count: usize| {
        for _ in 0..count {
            sent += 1;
            assert_eq!(submit(client, &format!("user{sent}@d1.test")), 250);
        }
        receiver.wait_for(sent);
    };
    send(&mut client, 20);
    fleet.redis.kill();
    send(&mut client, 20);
    all_say(&fleet, "0");
    let mut other = fleet.login(0);
    send(&mut other, 5);
    fleet.redis.start_again();
    all_say(&fleet, "1");
    send(&mut client, 20);
    // One that is there and doesn't answer.
    fleet.redis.stop();
    send(&mut client, 20);
    fleet.redis.go_on();
    all_say(&fleet, "1");
    send(&mut client, 20);
}

#[test]
fn a_worker_that_is_cut_off_in_the_middle_of_a_delivery_does_not_send_it_again() {
    let lab = Lab::new();
    let receiver = lab.mx("d1.test");
    // The remote takes its time with the final reply, and NATS goes away meanwhile.
    receiver.script(|step| match step {
        tests::mx::Step::Dot { .. } => tests::mx::Answer::Late(Duration::from_secs(4)),
        _ => tests::mx::Answer::Usual,
    });
    let mut fleet = FleetSetup::new(&lab).replicated().start();
    let mut client = fleet.login(0);
    assert_eq!(submit(&mut client, TO), 250);
    until("the content is there", SOON, || (!receiver.commands_of("DATA").is_empty()).then_some(()));
    fleet.nats.kill_all();
    receiver.wait_for(1);
    fleet.nats.restart();
    fleet.nats.wait_ready();
    fleet.wait_until_idle(SOON * 3);
    assert_eq!(receiver.count(), 1, "the message went out again");
}
