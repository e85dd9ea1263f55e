//! A long queue costs disk, not memory, and a restart with it is quick: a million messages of 4 KiB in the long form.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tests::deadline::{SOON, until, until_true};
use tests::dns::Fault;
use tests::lab::Lab;
use tests::long;
use tests::message;
use tests::stagepost::Stagepost;

const FROM: &str = "hello@sender.test";
const OCTETS: usize = 4096;
const DOMAINS: usize = 100;
const SESSIONS: usize = 4;
/// Transactions that are written at once.
const BATCH: usize = 50;
/// What may be resident: what a busy process has anyway, and so much for each queued message.
const RESIDENT: u64 = 140_000_000;
const RESIDENT_A_MESSAGE: u64 = 160;

/// Submits `count` messages to the domains in turn; gives the queue id of the last.
fn submit(stagepost: &Stagepost, session: usize, count: usize) -> String {
    let mut client = stagepost.login();
    let octets = message::sized(FROM, "user@d0.test", "queued", OCTETS);
    let mut last = String::new();
    let mut sent = 0;
    while sent < count {
        let batch = BATCH.min(count - sent);
        let mut wire = String::with_capacity(batch * (OCTETS + 200));
        for number in sent..sent + batch {
            let domain = (number + session * 7) % DOMAINS;
            let _ = write!(
                wire,
                "MAIL FROM:<{FROM}>\r\nRCPT TO:<user-{session}-{number}@d{domain}.test>\r\nBDAT {OCTETS} LAST\r\n"
            );
            wire.push_str(str::from_utf8(&octets).unwrap());
        }
        client.send(wire.as_bytes());
        for _ in 0..batch {
            assert_eq!(client.reply().code, 250);
            assert_eq!(client.reply().code, 250);
            last = client.reply().queue_id();
        }
        sent += batch;
    }
    last
}

fn waiting(stagepost: &Stagepost) -> u64 {
    stagepost.ask(&["queue", "summary"])["waiting"].as_u64().unwrap()
}

#[test]
fn a_long_queue_stays_on_disk_and_a_restart_with_it_is_quick() {
    let count: usize = long::pick(40_000, 1_000_000);
    let bound = RESIDENT + RESIDENT_A_MESSAGE * count as u64;
    let lab = Lab::new();
    // Their name servers are out of order, so all of it waits.
    for domain in 0..DOMAINS {
        lab.dns.fault(&format!("d{domain}.test"), Fault::ServFail);
    }
    lab.dns.forget_queries();
    let mut stagepost =
        lab.stagepost().set("delivery.retry_waits_secs", vec![36_000_i64]).set("log", "warn").start();
    let begin = Instant::now();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let stagepost = &stagepost;
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|session| scope.spawn(move || submit(stagepost, session, count / SESSIONS)))
            .collect();
        sessions.into_iter().map(|session| session.join().unwrap()).collect()
    });
    let accepted = begin.elapsed();
    until_true("all of it waits", SOON * 40, || waiting(&stagepost) == count as u64);
    let resident = stagepost.process().resident();

    assert!(stagepost.stop(SOON * 2).success());
    let begin = Instant::now();
    stagepost.start_again_within(Duration::from_secs(30));
    let restart = begin.elapsed();
    let summary = stagepost.ask(&["queue", "summary"]);
    let resident_again = stagepost.process().resident();
    println!(
        "{count} messages accepted in {accepted:.1?}: {} KiB resident; restart {restart:.1?}: {} KiB resident, {} MiB on disk",
        resident / 1024,
        resident_again / 1024,
        summary["disk_octets"].as_u64().unwrap() >> 20,
    );
    assert!(resident < bound && resident_again < bound, "more than {bound} octets are resident");
    assert_eq!(summary["waiting"], count);

    // A kill is no different.
    stagepost.kill();
    stagepost.start_again_within(Duration::from_secs(30));
    assert_eq!(waiting(&stagepost), count as u64);

    // What was asked for is read from disk and goes out whole.
    let first = stagepost.ask(&["queue", "show", &ids[0]])["jobs"][0]["to"][0].as_str().unwrap().to_owned();
    let domain = first.split_once('@').unwrap().1.to_owned();
    let mx = lab.mx(&domain);
    lab.dns.heal(&domain);
    stagepost.ask(&["queue", "retry", &ids[0]]);
    let received = until("the message", SOON, || {
        mx.messages().into_iter().find(|received| received.recipients().contains(&first.as_str()))
    });
    let sent = message::sized(FROM, "user@d0.test", "queued", OCTETS);
    assert!(message::body(&received.octets) == message::body(&sent), "what arrived differs");
    until_true("it has left the queue", SOON, || waiting(&stagepost) == count as u64 - 1);
}
