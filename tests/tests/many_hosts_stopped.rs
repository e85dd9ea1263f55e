//! Asked to end in the middle of their work and replaced, ingresses and workers lose nothing and send nothing twice, and clients
//! learn in SMTP's own words what happens to them.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::deadline::{SOON, until_true};
use tests::fleet::{ADMIN_PORT, Fleet, FleetSetup, Role};
use tests::lab::Lab;
use tests::ledger::Ledger;
use tests::mx::{Answer, Mx, Step};
use tests::smtp::{Client, base64, stuffed};
use tests::stagepost::{HOST, PASSWORD, USER};
use tests::submitters::{FROM, Submitters};
use tests::{http, long, message};

/// How long an ingress goes on to be connected to, and how long messages may then take.
const LINGER: Duration = Duration::from_secs(1);
const DRAIN: Duration = Duration::from_secs(4);
/// Clients in the middle of a message when their ingress is told to end.
const IN_DATA: usize = 50;

/// What clients came across.
#[derive(Default)]
struct Seen {
    ledger: Ledger,
    /// Replies that weren't what a command is for.
    codes: Mutex<BTreeMap<u16, usize>>,
    /// Connections that were refused, or ended without a word.
    silent: Mutex<Vec<String>>,
}

/// A session that is over.
struct Over;

impl Seen {
    /// The reply must have this code; else the session is over, and it is written down why.
    fn reply(&self, client: &mut Client, after: &str, code: u16) -> Result<(), Over> {
        match client.try_reply() {
            Ok(reply) if reply.code == code => return Ok(()),
            Ok(reply) => *self.codes.lock().unwrap().entry(reply.code).or_default() += 1,
            Err(error) => self.silent.lock().unwrap().push(format!("after {after}: {error}")),
        }
        Err(Over)
    }

    fn step(&self, client: &mut Client, line: &str, code: u16) -> Result<(), Over> {
        // What can't be sent any more was answered before.
        let _ = client.try_send(format!("{line}\r\n").as_bytes());
        self.reply(client, line.split(' ').next().unwrap(), code)
    }

    fn login(&self, at: SocketAddr, tls: &Arc<rustls::ClientConfig>) -> Result<Client, Over> {
        let mut client = match Client::try_connect(at) {
            Ok(client) => client,
            Err(error) => {
                self.silent.lock().unwrap().push(format!("connecting: {error}"));
                return Err(Over);
            }
        };
        self.reply(&mut client, "the connection", 220)?;
        self.step(&mut client, "EHLO client.test", 250)?;
        self.step(&mut client, "STARTTLS", 220)?;
        if let Err(error) = client.try_handshake(tls, HOST) {
            self.silent.lock().unwrap().push(format!("in the handshake: {error}"));
            return Err(Over);
        }
        self.step(&mut client, "EHLO client.test", 250)?;
        let auth = base64(format!("\0{USER}\0{PASSWORD}").as_bytes());
        self.step(&mut client, &format!("AUTH PLAIN {auth}"), 235)?;
        Ok(client)
    }

    /// A message up to the middle of its content; the rest is given.
    fn begin(&self, client: &mut Client, to: &str) -> Result<Vec<u8>, Over> {
        self.step(client, &format!("MAIL FROM:<{FROM}>"), 250)?;
        self.step(client, &format!("RCPT TO:<{to}>"), 250)?;
        self.step(client, "DATA", 354)?;
        let octets = stuffed(&message::text(FROM, to, "x", "Hello."));
        let (begin, rest) = octets.split_at(octets.len() / 2);
        let _ = client.try_send(begin);
        Ok(rest.to_vec())
    }

    fn finish(&self, client: &mut Client, to: &str, rest: &[u8]) -> Result<(), Over> {
        let _ = client.try_send(rest);
        let answered = self.reply(client, "the final dot", 250);
        match answered {
            Ok(()) => self.ledger.accepted(&[to]),
            Err(Over) => self.ledger.doubtful(&[to]),
        }
        answered
    }
}

/// Spreads connections over the ingresses that say that they are ready, as it was a moment ago.
struct Spread {
    ingresses: Vec<SocketAddr>,
    ready: Mutex<Vec<SocketAddr>>,
    over: AtomicBool,
    turn: AtomicUsize,
}

impl Spread {
    fn new(fleet: &Fleet) -> Self {
        let ingresses: Vec<_> = (0..2).map(|place| fleet.submission(place)).collect();
        let ready = Mutex::new(ingresses.clone());
        Self { ingresses, ready, over: AtomicBool::new(false), turn: AtomicUsize::new(0) }
    }

    fn look(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let is_ready = |at: &&SocketAddr| {
                let answer = http::try_ask("GET", (at.ip(), ADMIN_PORT).into(), "/readyz");
                answer.is_ok_and(|answer| answer.status == 200)
            };
            let ready = self.ingresses.iter().filter(is_ready).copied().collect();
            *self.ready.lock().unwrap() = ready;
            std::thread::sleep(LINGER / 4);
        }
    }

    fn next(&self) -> Option<SocketAddr> {
        let ready = self.ready.lock().unwrap();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        ready.get(turn % ready.len().max(1)).copied()
    }
}

/// Submits by session after session until it is over.
fn submit(seen: &Seen, spread: &Spread, tls: &Arc<rustls::ClientConfig>, submitter: usize) {
    let mut number = 0;
    while !spread.over.load(Ordering::Relaxed) {
        let Some(at) = spread.next() else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let mut session = || {
            let mut client = seen.login(at, tls)?;
            for _ in 0..5 {
                number += 1;
                let to = format!("load-{submitter}-{number}@d1.test");
                let rest = seen.begin(&mut client, &to)?;
                seen.finish(&mut client, &to, &rest)?;
                std::thread::sleep(Duration::from_millis(50));
            }
            seen.step(&mut client, "QUIT", 221)
        };
        // Why it ended was written down.
        let _ = session();
    }
}

/// 50 clients are in the middle of a message when their ingress is told to end: half of them go on in time, half never.
fn stop_in_data(fleet: &mut Fleet, seen: &Seen, round: usize) {
    let place = round % 2;
    let (at, tls) = (fleet.submission(place), Arc::clone(fleet.tls()));
    let begun = Barrier::new(IN_DATA + 1);
    std::thread::scope(|scope| {
        for number in 0..IN_DATA {
            let (begun, tls) = (&begun, &tls);
            scope.spawn(move || {
                let to = format!("data-{round}-{number}@d1.test");
                let started = seen.login(at, tls).and_then(|mut client| {
                    let rest = seen.begin(&mut client, &to)?;
                    Ok((client, rest))
                });
                begun.wait();
                let Ok((mut client, rest)) = started else { panic!("nothing was to be in the way yet") };
                if number % 2 == 0 {
                    std::thread::sleep(LINGER + DRAIN / 2);
                    assert!(seen.finish(&mut client, &to, &rest).is_ok(), "{to} was to be finished");
                }
                let reply = client.try_reply();
                assert!(
                    reply.as_ref().is_ok_and(|reply| reply.code == 421 && reply.enhanced() == Some("4.3.2")),
                    "{to}: {reply:?}"
                );
                assert!(client.closed(SOON));
            });
        }
        begun.wait();
        fleet.signal(Role::Ingress, place, Signal::TERM);
    });
    assert!(fleet.ended(Role::Ingress, place, SOON).success(), "{}", fleet.log(Role::Ingress, place));
    fleet.start(Role::Ingress, place);
    fleet.wait_ready(Role::Ingress, place);
}

#[test]
fn clients_of_an_ingress_that_ends_in_the_middle_are_served_or_told() {
    let lab = Lab::new();
    let receiver = lab.mx("d1.test");
    let mut fleet = FleetSetup::new(&lab)
        .with(Role::Ingress, 2)
        .set("ingress.linger_secs", i64::try_from(LINGER.as_secs()).unwrap())
        .set("ingress.drain_secs", i64::try_from(DRAIN.as_secs()).unwrap())
        .start();
    // From here on the password is known, and compared at once.
    drop(fleet.login(0));
    let (seen, spread, tls) = (Seen::default(), Spread::new(&fleet), Arc::clone(fleet.tls()));
    std::thread::scope(|scope| {
        scope.spawn(|| spread.look());
        for submitter in 0..6 {
            let (seen, spread, tls) = (&seen, &spread, &tls);
            scope.spawn(move || submit(seen, spread, tls, submitter));
        }
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..long::pick(3, 20)).for_each(|round| stop_in_data(&mut fleet, &seen, round));
        }));
        spread.over.store(true, Ordering::Relaxed);
        stopped.unwrap();
    });
    fleet.wait_until_idle(SOON * 4);
    let balance = seen.ledger.balance(&receiver.messages(), &fleet.queue());
    let (codes, silent) = (seen.codes.into_inner().unwrap(), seen.silent.into_inner().unwrap());
    println!("{balance}; replies that ended a session: {codes:?}");
    assert!(silent.is_empty(), "{silent:?}");
    assert!(codes.keys().all(|code| [421, 451].contains(code)), "{codes:?}");
    assert!(balance.is_complete() && balance.duplicates.is_empty(), "{balance} {:?}", balance.duplicates);
    assert_eq!(balance.delivered, balance.accepted);
    assert!(balance.accepted > 3 * IN_DATA / 2 + 100, "a load that proves little: {balance}");
}

fn to_slow(submitter: usize, number: usize) -> Vec<String> {
    (0..2).map(|part| format!("user-{submitter}-{number}-{part}@slow{}.test", (number + part) % 5)).collect()
}

#[test]
fn a_worker_that_ends_while_servers_take_their_time_with_the_final_dot_sends_nothing_twice() {
    let lab = Lab::new();
    let delay = Duration::from_secs(4);
    let at_the_dot = Arc::new(AtomicUsize::new(0));
    let receivers: Vec<Mx> = (0..5).map(|number| lab.mx(&format!("slow{number}.test"))).collect();
    for receiver in &receivers {
        let at_the_dot = Arc::clone(&at_the_dot);
        receiver.script(move |step| match step {
            Step::Dot { .. } => {
                at_the_dot.fetch_add(1, Ordering::SeqCst);
                Answer::Late(delay)
            }
            _ => Answer::Usual,
        });
    }
    let mut fleet = FleetSetup::new(&lab).with(Role::Delivery, 2).start();
    let mut load = Submitters::new(vec![fleet.submission(0)], fleet.tls(), to_slow);
    load.pause = Duration::from_millis(400);
    load.while_doing(3, || {
        for round in 0..long::pick(4, 40) {
            let before = at_the_dot.load(Ordering::SeqCst);
            until_true("more are at the final dot", SOON, || at_the_dot.load(Ordering::SeqCst) > before + 8);
            let place = round % 2;
            let begun = Instant::now();
            assert!(
                fleet.stop(Role::Delivery, place, SOON).success(),
                "{}",
                fleet.log(Role::Delivery, place)
            );
            println!("the worker ended after {:?}", begun.elapsed());
            fleet.start(Role::Delivery, place);
            fleet.wait_ready(Role::Delivery, place);
        }
    });
    receivers.iter().for_each(Mx::behave);
    fleet.wait_until_idle(SOON * 4);
    let received: Vec<_> = receivers.iter().flat_map(Mx::messages).collect();
    let balance = load.ledger.balance(&received, &fleet.queue());
    println!("{balance}");
    assert!(balance.is_complete() && balance.duplicates.is_empty(), "{balance} {:?}", balance.duplicates);
    assert_eq!(balance.delivered, balance.accepted);
    assert!(balance.accepted > 100, "a load that proves little: {balance}");
    let delivered = fleet.events().into_iter().filter(|event| event["kind"] == "delivered");
    let recipients: Vec<String> = delivered.map(|event| event["recipient"].to_string()).collect();
    assert_eq!(recipients.iter().collect::<BTreeSet<_>>().len(), recipients.len(), "one event each");
    assert_eq!(recipients.len(), balance.accepted);
}
