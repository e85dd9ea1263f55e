//! Greylisting (RFC 6647): what is put off comes again with the same envelope, soon enough, and holds nobody else up.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;

use tests::deadline::{SOON, until};
use tests::lab::Lab;
use tests::message;
use tests::mx::{Answer, Step};
use tests::peers::{Postfix, Postgrey};
use tests::process::run;
use tests::stagepost::Stagepost;

const FROM: &str = "hello@sender.test";

fn send(stagepost: &Stagepost, recipients: &[&str]) {
    let mut client = stagepost.login();
    for recipient in recipients {
        let octets = message::text(FROM, recipient, "grey", "Hello.");
        assert_eq!(client.submit(FROM, &[recipient], &octets).code, 250);
    }
}

#[test]
fn postgrey_lets_a_later_attempt_through() {
    let lab = Lab::new();
    let postgrey = Postgrey::start(&lab, 3);
    let postfix = Postfix::receiver(&lab, "d1.test").set(&postgrey.main_cf()).start();
    let reports = lab.mx("sender.test");
    // The second attempt is too early, the third is not.
    let stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![1_i64, 4]).start();
    send(&stagepost, &["user@d1.test"]);
    postfix.wait_for(1);
    stagepost.wait_until_idle(SOON);
    let log = postfix.log();
    let put_off: Vec<&str> = log.lines().filter(|line| line.contains("Greylisted")).collect();
    assert_eq!(put_off.len(), 2, "{log}");
    assert!(put_off.iter().all(|line| line.contains("from=<hello@sender.test>")), "{put_off:?}");
    assert_eq!(log.matches("status=sent").count(), 1, "{log}");
    assert_eq!(reports.count(), 0);
}

#[test]
fn a_recipient_that_is_put_off_comes_again_alone_and_with_the_same_sender() {
    let lab = Lab::new();
    let (mx, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    // Each triple is put off once: what counts is client, sender and recipient.
    let seen = Mutex::new((String::new(), BTreeSet::new()));
    mx.script(move |step| {
        let Step::Command { line, .. } = step else { return Answer::Usual };
        let mut seen = seen.lock().unwrap();
        if line.starts_with("MAIL") {
            // What the server may know of the sender is the path, not the parameters.
            seen.0 = line.split('>').next().unwrap().to_owned();
        }
        let triple = (seen.0.clone(), (*line).to_owned());
        if line.starts_with("RCPT") && !line.contains("known") && seen.1.insert(triple) {
            return Answer::reply(
                "450 4.2.0 Greylisted, see http://postgrey.schweikert.ch/help/d1.test.html",
            );
        }
        Answer::Usual
    });
    let stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![1_i64, 300]).start();
    let octets = message::text(FROM, "user@d1.test", "grey", "Hello.");
    let all = ["new1@d1.test", "known@d1.test", "new2@d1.test"];
    assert_eq!(stagepost.login().submit(FROM, &all, &octets).code, 250);
    let received = mx.wait_for(2);
    stagepost.wait_until_idle(SOON);
    assert_eq!(received[0].recipients(), ["known@d1.test"]);
    assert_eq!(received[1].recipients(), ["new1@d1.test", "new2@d1.test"]);
    assert_eq!(received[0].mail, received[1].mail);
    // Who has the message isn't asked for again.
    let asked = mx.commands_of("RCPT").into_iter().filter(|line| line.contains("known")).count();
    assert_eq!((asked, mx.count(), reports.count()), (1, 2, 0));
}

#[test]
fn other_mail_to_the_domain_does_not_wait_with_it() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.script(|step| match step {
        Step::Command { line, .. } if line.contains("<grey") => Answer::reply("450 4.2.0 greylisted"),
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![300_i64]).start();
    send(&stagepost, &["grey1@d1.test", "grey2@d1.test"]);
    until("both in the queue for later", SOON, || {
        let waiting = stagepost.queue().iter().filter(|job| job["state"] == "waiting").count();
        (waiting == 2).then_some(())
    });
    let others: Vec<String> = (0..20).map(|number| format!("user{number}@d1.test")).collect();
    send(&stagepost, &others.iter().map(String::as_str).collect::<Vec<_>>());
    mx.wait_for(20);
    let queue = until("the queue without them", SOON, || {
        let queue = stagepost.queue();
        (queue.len() == 2).then_some(queue)
    });
    assert!(queue.iter().all(|job| job["attempts"] == 1 && job["state"] == "waiting"), "{queue:#?}");
}

/// Seconds since 1970 of an instant as the commands print it.
fn secs(instant: &serde_json::Value) -> u64 {
    let mut command = Command::new("date");
    command.args(["+%s", "-d", instant.as_str().unwrap()]);
    String::from_utf8(run(command, b"").stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn without_settings_the_first_wait_suits_greylisting_and_the_next_are_longer() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::reply("450 4.2.0 greylisted"),
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().unset("delivery.retry_waits_secs").start();
    send(&stagepost, &["user@d1.test"]);
    let mut waits = Vec::new();
    for attempts in 1..=3 {
        let job = until("a failed attempt", SOON, || {
            stagepost.queue().into_iter().find(|job| job["attempts"] == attempts && job["state"] == "waiting")
        });
        waits.push(secs(&job["next_attempt"]) - secs(&job["last"][0]["at"]));
        stagepost.ask(&["queue", "retry", job["job"].as_str().unwrap()]);
    }
    // Servers put off for up to 5 minutes, mostly; RFC 5321 section 4.5.4.1 asks for longer waits later.
    assert!((200..=900).contains(&waits[0]), "{waits:?}");
    assert!(waits.is_sorted() && waits[2] > waits[0], "{waits:?}");
}
