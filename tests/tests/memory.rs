//! Memory is bounded: idle sessions cost little, and a large message no more than three times its size.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::deadline::{SOON, until, until_true};
use tests::lab::Lab;
use tests::message;
use tests::smtp::{Client, Reply, stuffed};
use tests::stagepost::Stagepost;

const MIB: u64 = 1 << 20;
const SESSIONS: usize = 1000;
const LARGE: usize = 30_000_000;
const FROM: &str = "hello@sender.test";

/// This process holds the other ends of many connections.
fn allow_descriptors(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        let current = Some(limit.maximum.map_or(count, |maximum| maximum.min(count)));
        setrlimit(Resource::Nofile, Rlimit { current, maximum: limit.maximum }).unwrap();
    }
}

#[test]
fn a_thousand_idle_sessions_take_less_than_60_megabytes() {
    allow_descriptors(4096);
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    let mut sessions: Vec<Client> = (0..SESSIONS)
        .map(|number| match number % 2 {
            0 => stagepost.login(),
            _ => {
                let mut client = Client::connect(stagepost.submission());
                assert_eq!(client.reply().code, 220);
                client.expect("EHLO client.test", 250);
                client
            }
        })
        .collect();
    // Hashing a password takes 19 MiB, which the allocator gives back a little later.
    let begun = Instant::now();
    let resident = until("the sessions take little", SOON, || {
        let resident = stagepost.process().resident();
        (resident < 60_000_000).then_some(resident)
    });
    println!(
        "{SESSIONS} sessions, half of them logged in under TLS: {} KiB resident after {} ms",
        resident / 1024,
        begun.elapsed().as_millis()
    );
    for session in &mut sessions {
        session.expect("NOOP", 250);
    }
    drop(sessions);
    let mut client = stagepost.login();
    let octets = message::text(FROM, "b@simulator.stagepost.test", "after", "Hello.");
    client.submit(FROM, &["success@simulator.stagepost.test"], &octets).queue_id();
}

/// How many octets more than before were resident at most while `send` sent a message and it was delivered.
fn growth(lab: &Lab, domain: &str, send: impl FnOnce(&mut Client, &str, &[u8]) -> Reply) -> u64 {
    let mx = lab.mx(domain);
    let stagepost: Stagepost = lab.stagepost().start();
    let recipient = format!("b@{domain}");
    let small = message::text(FROM, &recipient, "small", "Hello.");
    let mut client = stagepost.login();
    client.submit(FROM, &[&recipient], &small).queue_id();
    mx.wait_for(1);
    stagepost.wait_until_idle(SOON);

    let large = message::sized(FROM, &recipient, "large", LARGE);
    let before = stagepost.process().resident();
    stagepost.process().forget_resident_peak();
    send(&mut client, &recipient, &large).queue_id();
    let received = mx.wait_for_within(2, SOON * 2);
    assert!(message::body(&received[1].octets) == message::body(&large), "what arrived differs");
    stagepost.wait_until_idle(SOON);
    let growth = stagepost.process().resident_peak().saturating_sub(before);
    println!("{domain}: {} KiB more at the peak for {} KiB", growth / 1024, LARGE / 1024);
    until_true("memory is given back", SOON, || stagepost.process().resident() < before + 2 * LARGE as u64);
    growth
}

#[test]
fn a_large_message_by_data_takes_at_most_three_times_its_size() {
    let lab = Lab::new();
    let growth =
        growth(&lab, "data.test", |client, recipient, octets| client.submit(FROM, &[recipient], octets));
    assert!(growth <= 3 * LARGE as u64 + MIB, "{growth} octets for {LARGE}");
}

#[test]
fn a_large_message_by_bdat_takes_at_most_three_times_its_size() {
    let lab = Lab::new();
    let growth = growth(&lab, "bdat.test", |client, recipient, octets| {
        client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
        client.expect(&format!("RCPT TO:<{recipient}>"), 250);
        client.line(&format!("BDAT {} LAST", octets.len()));
        client.send(octets);
        client.reply()
    });
    assert!(growth <= 3 * LARGE as u64 + MIB, "{growth} octets for {LARGE}");
}

#[test]
fn messages_that_memory_does_not_suffice_for_are_put_off() {
    let lab = Lab::new();
    let stagepost = lab
        .stagepost()
        .set("ingress.memory_bytes_max", 40_000_000_i64)
        .set("ingress.memory_wait_secs", 1_i64)
        .start();
    let large = message::sized(FROM, "b@d1.test", "large", LARGE);
    let wire = stuffed(&large);
    // Two that are received at once and don't fit together: one waits, then is told to come again.
    let mut clients = [stagepost.login(), stagepost.login()];
    for client in &mut clients {
        client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
        client.expect("RCPT TO:<success@simulator.stagepost.test>", 250);
        client.expect("DATA", 354);
    }
    let [first, second] = &mut clients;
    first.send(&wire[..wire.len() - 5]);
    second.send(&wire);
    let refused = second.reply();
    assert_eq!((refused.code, refused.enhanced()), (452, Some("4.3.1")), "{refused:?}");
    first.send(&wire[wire.len() - 5..]);
    first.reply().queue_id();
    second.submit(FROM, &["success@simulator.stagepost.test"], &large).queue_id();
}
