//! A queue without room refuses new mail for the time being and loses none: what is queued goes on, bounces, waits and drains,
//! and then mail is taken again. Content of any size, and of any number of recipients, comes through whole and leaves nothing
//! behind.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tests::deadline::{SOON, until_true};
use tests::fleet::{Fleet, FleetSetup, Role};
use tests::lab::Lab;
use tests::ledger::Ledger;
use tests::message;
use tests::mx::{Answer, Mx, Received, Step};
use tests::smtp::Reply;
use tests::submitters::FROM;

const MESSAGE: usize = 64 << 10;
const SESSIONS: usize = 4;

/// What NATS says of the streams whose names hold `part`, by name.
fn streams(fleet: &Fleet, part: &str) -> BTreeMap<String, Value> {
    let answer = fleet.nats.monitor(0, "/jsz?streams=true&config=true").unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let details = answer["account_details"][0]["stream_detail"].as_array().cloned().unwrap();
    let named = details.into_iter().map(|detail| (detail["name"].as_str().unwrap().to_owned(), detail));
    named.filter(|(name, _)| name.contains(part)).collect()
}

fn messages(fleet: &Fleet, part: &str) -> BTreeMap<String, u64> {
    let count = |detail: &Value| detail["state"]["messages"].as_u64().unwrap();
    streams(fleet, part).iter().map(|(name, detail)| (name.clone(), count(detail))).collect()
}

/// No mail is left, and no content: waited for, since it is tidied up after the last job.
fn until_nothing_is_left(fleet: &Fleet) {
    fleet.wait_until_idle(SOON * 4);
    until_true("all content is gone", SOON, || messages(fleet, "-BODY-").values().all(|count| *count == 0));
    let left: BTreeMap<_, _> =
        ["-MAIL-", "-RETRY-", "-BODY-", "-DEAD"].iter().flat_map(|part| messages(fleet, part)).collect();
    println!("GET /jsz?streams=true, messages by stream: {left:?}");
    assert!(left.values().all(|count| *count == 0), "{left:?}");
}

fn has_no_room(reply: &Reply) -> bool {
    (reply.code, reply.enhanced()) == (452, Some("4.3.1"))
}

/// Submits without end until `over`; counts refusals for want of room, and those of them that a 250 followed.
struct Flood {
    ledger: Ledger,
    over: AtomicBool,
    refused: [AtomicUsize; SESSIONS],
    accepted_again: AtomicUsize,
    drained: AtomicBool,
}

impl Flood {
    fn new() -> Self {
        Self {
            ledger: Ledger::default(),
            over: AtomicBool::new(false),
            refused: Default::default(),
            accepted_again: AtomicUsize::new(0),
            drained: AtomicBool::new(false),
        }
    }

    fn submit(&self, fleet: &Fleet, session: usize) {
        let mut client = fleet.login(session % fleet.count(Role::Ingress));
        let mut number = 0;
        while !self.over.load(Ordering::Relaxed) {
            number += 1;
            // Some go at once, some wait, some bounce: each with its share of what is kept.
            let domain = ["takes.test", "waits.test", "waits.test", "refuses.test"][number % 4];
            let to = format!("user-{session}-{number}@{domain}");
            let octets = message::sized(FROM, &to, "x", MESSAGE);
            let reply = client.command(&format!("MAIL FROM:<{FROM}> SIZE={MESSAGE}"));
            if reply.code != 250 {
                self.refused(session, &reply);
                continue;
            }
            client.expect(&format!("RCPT TO:<{to}>"), 250);
            let reply = client.command("DATA");
            if reply.code != 354 {
                self.refused(session, &reply);
                client.expect("RSET", 250);
                continue;
            }
            client.send(&tests::smtp::stuffed(&octets));
            let reply = client.reply();
            if reply.code == 250 {
                self.ledger.accepted(&[&to]);
                if self.drained.load(Ordering::Relaxed) {
                    self.accepted_again.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(300));
                }
            } else {
                self.refused(session, &reply);
            }
        }
        client.expect("QUIT", 221);
    }

    fn refused(&self, session: usize, reply: &Reply) {
        assert!(has_no_room(reply), "{reply:?}");
        self.refused[session].fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Fills the queue while most of it can't go, then lets it go.
fn fills_drains_and_takes_mail_again(lab: &Lab, fleet: FleetSetup<'_>) {
    let takes = lab.mx("takes.test");
    let reports = lab.mx("sender.test");
    let refuses = lab.mx("refuses.test");
    refuses.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::reply("550 5.1.1 nobody"),
        _ => Answer::Usual,
    });
    let waits = lab.mx("waits.test");
    let open = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&open);
    waits.script(move |step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") && !opened.load(Ordering::Relaxed) => {
            Answer::reply("451 4.2.0 later")
        }
        _ => Answer::Usual,
    });
    let fleet = fleet.with(Role::Ingress, 2).set("delivery.retry_waits_secs", vec![3_i64]).start();
    let flood = Flood::new();
    let mut taken_most = 0;
    std::thread::scope(|scope| {
        for session in 0..SESSIONS {
            let (flood, fleet) = (&flood, &fleet);
            scope.spawn(move || flood.submit(fleet, session));
        }
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until_true("each session is refused for want of room", SOON * 4, || {
                taken_most = taken_most.max(fleet.disk.as_ref().map_or(0, |disk| disk.taken()));
                flood.refused.iter().all(|count| count.load(Ordering::Relaxed) >= 10)
            });
            println!(
                "full: {} messages accepted, {:?} waits",
                flood.ledger.count(),
                fleet.ask(&["queue", "summary"])
            );
            open.store(true, Ordering::Relaxed);
            let queued = flood.ledger.count() / 3;
            waits.wait_for_within(queued, SOON * 2);
            flood.drained.store(true, Ordering::Relaxed);
            until_true("mail is taken again", Duration::from_secs(60), || {
                flood.accepted_again.load(Ordering::Relaxed) >= 8
            });
        }));
        flood.over.store(true, Ordering::Relaxed);
        watched.unwrap();
    });
    until_nothing_is_left(&fleet);
    let received: Vec<Received> =
        [&takes, &waits, &refuses, &reports].into_iter().flat_map(Mx::messages).collect();
    let balance = flood.ledger.balance(&received, &fleet.queue());
    println!("{balance}; at most {taken_most} octets of the disk were taken");
    assert!(balance.is_complete() && balance.duplicates.is_empty(), "{balance} {:?}", balance.duplicates);
    assert_eq!(balance.delivered + balance.bounced, balance.accepted);
    assert!(balance.bounced > 0, "{balance}");
    for message in received.iter().filter(|message| !message.reverse_path().is_empty()) {
        let octets = message::without(&message.octets, &["received", "dkim-signature"]);
        assert_eq!(octets, message::sized(FROM, message.recipients()[0], "x", MESSAGE));
    }
}

fn small_disk(lab: &Lab) -> FleetSetup<'_> {
    FleetSetup::new(lab)
        .on_small_disk(128 << 20)
        .set("nats.partitions", 2)
        .set("nats.events_bytes_max", 16_i64 << 20)
}

#[test]
fn a_full_disk_of_nats_refuses_new_mail_until_there_is_room_and_loses_none() {
    let lab = Lab::new();
    fills_drains_and_takes_mail_again(&lab, small_disk(&lab));
}

#[test]
fn a_queue_that_has_its_share_of_nats_refuses_new_mail_until_there_is_room_and_loses_none() {
    let lab = Lab::new();
    // So much can't be set aside for each stream; the queue as a whole keeps to it.
    fills_drains_and_takes_mail_again(&lab, small_disk(&lab).set("nats.bytes_max", 48_i64 << 20));
}

#[test]
fn content_of_any_size_and_any_number_of_recipients_comes_through_whole_and_leaves_nothing() {
    let lab = Lab::new();
    let receiver = lab.mx("d1.test");
    let fleet = FleetSetup::new(&lab).with(Role::Delivery, 2).start();
    let mut client = fleet.login(0);
    // As submitted, and as kept with our own field on top: both around the bounds of what travels in a record or a message.
    client.submit(FROM, &["first@d1.test"], &message::sized(FROM, "first@d1.test", "x", 1_000)).queue_id();
    let first = receiver.wait_for(1).remove(0);
    let ours = message::without(&first.octets, &["dkim-signature"]).len() - 1_000;
    let mut sizes = vec![400, 5 << 20, 25 << 20, 30 << 20];
    for bound in [256 << 10, 1 << 20] {
        sizes.extend([bound - 1, bound, bound + 1, bound - ours - 1, bound - ours, bound - ours + 1]);
    }
    let mut sent = BTreeMap::new();
    for (number, size) in sizes.iter().enumerate() {
        let to = format!("user{number}@d1.test");
        let octets = message::sized(FROM, &to, "x", *size);
        client.submit(FROM, &[&to], &octets).queue_id();
        sent.insert(to, octets);
    }
    let tiny =
        b"From: hello@sender.test\r\nDate: Sat, 28 Nov 2026 00:00:00 +0000\r\nMessage-ID: <a@b>\r\n\r\n1"
            .to_vec();
    client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
    client.expect("RCPT TO:<tiny@d1.test>", 250);
    client.expect("DATA", 354);
    client.send(&[&tiny[..], b"\r\n.\r\n"].concat());
    client.reply().queue_id();
    sent.insert("tiny@d1.test".to_owned(), [&tiny[..], b"\r\n"].concat());
    for message in &receiver.wait_for_within(sent.len() + 1, SOON * 4)[1..] {
        let expected = sent.remove(message.recipients()[0]).expect("each comes once");
        let octets = message::without(&message.octets, &["received", "dkim-signature"]);
        assert!(octets == expected, "{} octets became {}", expected.len(), octets.len());
    }
    assert!(sent.is_empty());

    many_recipients(&lab, &fleet);
    until_nothing_is_left(&fleet);
}

/// One message to 1,000 recipients over 300 domains, one of ten of which puts it off at first, and one refuses it.
fn many_recipients(lab: &Lab, fleet: &Fleet) {
    let all = lab.mx_host("mx.all.test");
    let reports = lab.mx("sender.test");
    let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
    all.script(move |step| match step {
        Step::Command { line, .. }
            if line.contains("0.test>") && seen.lock().unwrap().insert((*line).to_owned()) =>
        {
            Answer::reply("451 4.2.0 not yet")
        }
        Step::Command { line, .. } if line.starts_with("RCPT") && line.contains("1.test>") => {
            Answer::reply("550 5.1.1 nobody")
        }
        _ => Answer::Usual,
    });
    (0..300).for_each(|domain| lab.dns.mx(&format!("d-{domain}.test"), &[(10, "mx.all.test")]));
    let recipients: Vec<String> =
        (0..1_000).map(|number| format!("user{number}@d-{}.test", number % 300)).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let octets = message::sized(FROM, "all@d-0.test", "x", 700_000);
    let ledger = Ledger::default();
    fleet.login(0).submit(FROM, &recipients, &octets).queue_id();
    ledger.accepted(&recipients);
    fleet.wait_until_idle(SOON * 6);
    let received: Vec<Received> = [&all, &reports].into_iter().flat_map(Mx::messages).collect();
    let balance = ledger.balance(&received, &fleet.queue());
    println!("{balance}");
    assert!(balance.is_complete() && balance.duplicates.is_empty(), "{balance}");
    assert_eq!((balance.delivered + balance.bounced, balance.contradictory.len()), (1_000, 0));
    assert_eq!(balance.bounced, recipients.iter().filter(|recipient| recipient.contains("1.test")).count());
    for message in all.messages() {
        assert!(message::without(&message.octets, &["received", "dkim-signature"]) == octets);
    }
}
