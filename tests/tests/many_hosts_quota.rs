//! An account's recipients a day, counted over several ingresses at once: exactly as many as its plan says, whatever races.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::time::Duration;

use rustix::process::Signal;
use tests::deadline::{SOON, until, until_true};
use tests::fleet::{Fleet, FleetSetup, Role};
use tests::lab::Lab;
use tests::message;
use tests::mx::Mx;
use tests::smtp::{Client, Reply};
use tests::stagepost::{HOST, PASSWORD};

/// Recipients a day on the free plan.
const QUOTA: usize = 100;
const CONNECTIONS: usize = 25;
const MESSAGES: usize = 10;

/// Two ingresses, and accounts on the free plan.
fn fleet(lab: &Lab, accounts: &[&str]) -> Fleet {
    let fleet = FleetSetup::new(lab).with(Role::Ingress, 2).start();
    for account in accounts {
        fleet.ask(&["account", "create", account]);
        fleet.domain(account, &format!("{account}.test"), lab);
        fleet.credential(account, &format!("{account}-app"), PASSWORD);
    }
    fleet
}

/// A password takes its time to be compared the first time, and a busy machine may answer 454 meanwhile.
fn login(fleet: &Fleet, ingress: usize, account: &str) -> Client {
    until("a login", SOON * 2, || {
        let mut client = Client::connect(fleet.submission(ingress));
        client.start_tls(fleet.tls(), HOST);
        let code = client.auth_plain(&format!("{account}-app"), PASSWORD).code;
        assert!([235, 454].contains(&code), "{code}");
        (code == 235).then_some(client)
    })
}

/// What a recipient is answered whom the quota has no room for.
fn is_used_up(reply: &Reply) -> bool {
    (reply.code, reply.enhanced()) == (452, Some("4.2.2")) && reply.text().contains("quota of 100 recipients")
}

/// A message to one recipient; the reply to what was refused, or to the final dot.
fn submit(client: &mut Client, account: &str, to: &str) -> Reply {
    let from = format!("a@{account}.test");
    client.expect(&format!("MAIL FROM:<{from}>"), 250);
    let reply = client.command(&format!("RCPT TO:<{to}>"));
    if reply.code != 250 {
        client.expect("RSET", 250);
        return reply;
    }
    client.expect("DATA", 354);
    client.send(&message::text(&from, to, "x", "Hello."));
    client.send(b".\r\n");
    client.reply()
}

/// All connections submit at once, to both ingresses; gives the recipients that were accepted.
fn race(fleet: &Fleet, account: &str, domain: &str, meanwhile: impl FnOnce()) -> Vec<String> {
    let clients: Vec<Client> =
        (0..2 * CONNECTIONS).map(|session| login(fleet, session % 2, account)).collect();
    let barrier = Barrier::new(clients.len() + 1);
    std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..)
            .zip(clients)
            .map(|(session, mut client): (usize, Client)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let mut accepted = Vec::new();
                    for number in 0..MESSAGES {
                        let to = format!("user-{session}-{number}@{domain}");
                        let reply = submit(&mut client, account, &to);
                        match reply.code {
                            250 => accepted.push(to),
                            _ => assert!(is_used_up(&reply), "{reply:?}"),
                        }
                    }
                    accepted
                })
            })
            .collect();
        barrier.wait();
        meanwhile();
        sessions.into_iter().flat_map(|session| session.join().unwrap()).collect()
    })
}

#[test]
fn of_five_hundred_messages_at_once_exactly_the_quota_is_accepted_and_delivered() {
    let lab = Lab::new();
    let receiver = lab.mx("d1.test");
    let other = lab.mx("d2.test");
    let fleet = fleet(&lab, &["small", "slow"]);
    let mut accepted = race(&fleet, "small", "d1.test", || {});
    assert_eq!(accepted.len(), QUOTA);

    // The same while accounts don't answer: who is logged in goes on, and is counted as exactly.
    let by_slow = race(&fleet, "slow", "d2.test", || {
        fleet.signal(Role::Accounts, 0, Signal::STOP);
        std::thread::sleep(Duration::from_secs(3));
        fleet.signal(Role::Accounts, 0, Signal::CONT);
    });
    assert_eq!(by_slow.len(), QUOTA);

    fleet.wait_until_idle(SOON * 2);
    accepted.extend(by_slow);
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    for message in receiver.messages().iter().chain(&other.messages()) {
        for recipient in message.recipients() {
            *copies.entry(recipient.to_owned()).or_default() += 1;
        }
    }
    assert!(copies.values().all(|count| *count == 1), "{copies:?}");
    accepted.sort();
    assert_eq!(copies.into_keys().collect::<Vec<_>>(), accepted);
    // It stays used up, wherever it is asked.
    for ingress in 0..2 {
        let reply = submit(&mut login(&fleet, ingress, "small"), "small", "late@d1.test");
        assert!(is_used_up(&reply), "{reply:?}");
    }
}

#[test]
fn only_what_is_accepted_in_the_end_costs_and_recipients_have_what_is_left_in_turn() {
    let lab = Lab::new();
    let receiver = lab.mx("d1.test");
    let fleet = fleet(&lab, &["small", "large"]);
    more_recipients_than_the_quota(&fleet, &receiver);
    what_is_not_accepted_costs_nothing(&fleet);
}

fn more_recipients_than_the_quota(fleet: &Fleet, receiver: &Mx) {
    let mut client = login(fleet, 0, "large");
    client.expect("MAIL FROM:<a@large.test>", 250);
    let replies: Vec<Reply> =
        (0..150).map(|number| client.command(&format!("RCPT TO:<user{number:03}@d1.test>"))).collect();
    let (taken, refused) = replies.split_at(QUOTA);
    assert!(taken.iter().all(|reply| reply.code == 250), "{taken:?}");
    assert!(refused.iter().all(is_used_up), "{refused:?}");
    client.expect("DATA", 354);
    client.send(b"From: a@large.test\r\n\r\nHello.\r\n.\r\n");
    client.reply().queue_id();
    fleet.wait_until_idle(SOON);
    let mut received: Vec<String> = receiver
        .messages()
        .iter()
        .flat_map(|message| message.recipients().into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    received.sort();
    assert_eq!(received, (0..QUOTA).map(|number| format!("user{number:03}@d1.test")).collect::<Vec<_>>());
}

fn what_is_not_accepted_costs_nothing(fleet: &Fleet) {
    let take_all = |ingress: usize| {
        let mut client = login(fleet, ingress, "small");
        client.expect("MAIL FROM:<a@small.test>", 250);
        (0..QUOTA).for_each(|number| drop(client.expect(&format!("RCPT TO:<u{number}@d1.test>"), 250)));
        client
    };
    // Until it is all there again: the other ingress asks.
    let is_whole = |ingress: usize| {
        until_true("the quota is given back", SOON, || {
            let mut client = login(fleet, ingress, "small");
            client.expect("MAIL FROM:<a@small.test>", 250);
            let rcpt = |number| client.command(&format!("RCPT TO:<u{number}@d1.test>"));
            let replies: Vec<Reply> = (0..QUOTA + 1).map(rcpt).collect();
            let taken = replies.iter().filter(|reply| reply.code == 250).count();
            assert!(taken <= QUOTA && replies.iter().all(|reply| reply.code == 250 || is_used_up(reply)));
            client.expect("RSET", 250);
            taken == QUOTA
        });
    };
    // Refused content, content that is too large, an unfinished message, RSET, QUIT, a connection that goes.
    let mut client = take_all(0);
    client.expect("DATA", 354);
    client.send(b"From: a@small.test\r\n\r\na bare\nline feed\r\n.\r\n");
    assert_eq!(client.reply().code / 100, 5);
    is_whole(1);
    let mut client = take_all(1);
    client.expect("MAIL FROM:<a@small.test>", 503);
    client.expect("RSET", 250);
    is_whole(0);
    take_all(0).expect("QUIT", 221);
    is_whole(1);
    let mut client = take_all(1);
    client.expect("DATA", 354);
    client.send(b"From: a@small.test\r\n\r\nhalf of it");
    drop(client);
    is_whole(0);
    let mut client = take_all(0);
    client.expect("DATA", 354);
    client.send(b"no header\r\n.\r\n");
    assert_eq!(client.reply().code, 554);
    // The session goes on, and all of the quota is there for a message that is accepted.
    client.expect("MAIL FROM:<a@small.test>", 250);
    (0..QUOTA).for_each(|number| drop(client.expect(&format!("RCPT TO:<u{number}@d1.test>"), 250)));
    client.expect("DATA", 354);
    client.send(b"From: a@small.test\r\n\r\nHello.\r\n.\r\n");
    client.reply().queue_id();
    for ingress in 0..2 {
        let reply = submit(&mut login(fleet, ingress, "small"), "small", "late@d1.test");
        assert!(is_used_up(&reply), "{reply:?}");
    }
}
