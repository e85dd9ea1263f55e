//! What goes wrong with some mail costs the rest nothing: destinations that swallow everything, messages that can't be sent.
//! These tests assert order, never speed: the bad is still at it when the good has arrived.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::path::Path;

use tests::deadline::{SOON, until, until_true};
use tests::lab::Lab;
use tests::ledger::{failed_recipients, reported};
use tests::message;
use tests::mx::{Answer, Mx, Step};
use tests::stagepost::Stagepost;

const FROM: &str = "hello@sender.test";

fn send(stagepost: &Stagepost, count: usize, domain: &str) {
    let mut client = stagepost.login();
    for number in 0..count {
        let octets = message::text(FROM, "user@d1.test", &format!("mail-{number}"), "Hello.");
        assert_eq!(client.submit(FROM, &[&format!("user{number}@{domain}")], &octets).code, 250);
    }
}

/// A receiver that takes connections and never says a word.
fn mute(lab: &Lab, domain: &str) -> Mx {
    let mx = lab.mx(domain);
    mx.script(|_| Answer::Silence);
    mx
}

#[test]
fn destinations_that_swallow_connections_hold_up_no_other() {
    let lab = Lab::new();
    // Their connections take most of the places there are, and there is more mail for them than places.
    let holes = ["hole1.test", "hole2.test", "hole3.test"].map(|domain| mute(&lab, domain));
    let good: Vec<(String, Mx)> = (0..10)
        .map(|number| {
            let domain = format!("good{number}.test");
            let mx = lab.mx(&domain);
            (domain, mx)
        })
        .collect();
    let stagepost = lab.stagepost().set("delivery.jobs_max", 100_i64).start();
    for number in 1..=3 {
        send(&stagepost, 100, &format!("hole{number}.test"));
    }
    until_true("connections to all that swallow them", SOON, || holes.iter().all(|mx| mx.connections() > 0));
    for (domain, _) in &good {
        send(&stagepost, 20, domain);
    }
    for (domain, mx) in &good {
        mx.wait_for(20);
        assert_eq!(mx.count(), 20, "{domain}");
    }
    // Nothing has come of the rest meanwhile, and nothing is lost of it.
    until("what is left in the queue", SOON, || (stagepost.queued() == 300).then_some(()));
    for mx in &holes {
        assert!(mx.connections_at_once() <= 20, "{}", mx.connections_at_once());
    }
    assert!(!stagepost.log().contains("domain=hole1.test recipients=1 disposition=\"bounced\""));
}

#[test]
fn a_destination_that_hangs_in_the_middle_of_messages_holds_up_no_other() {
    let lab = Lab::new();
    let stages = ["EHLO", "MAIL", "RCPT", "DATA", "dot"];
    let hanging = stages.map(|stage| {
        let mx = lab.mx(&format!("{stage}.test").to_lowercase());
        mx.script(move |step| match step {
            Step::Command { line, .. } if line.starts_with(stage) => Answer::Silence,
            Step::Dot { .. } if stage == "dot" => Answer::Silence,
            _ => Answer::Usual,
        });
        mx
    });
    let good = lab.mx("good.test");
    let stagepost = lab.stagepost().start();
    for stage in stages {
        send(&stagepost, 30, &format!("{stage}.test").to_lowercase());
    }
    until_true("conversations with all that hang", SOON, || hanging.iter().all(|mx| mx.connections() > 0));
    send(&stagepost, 100, "good.test");
    good.wait_for(100);
    until("what is left in the queue", SOON, || (stagepost.queued() == 150).then_some(()));
    assert!(hanging.iter().all(|mx| mx.count() == 0));
}

#[test]
fn a_destination_that_comes_back_gets_all_its_mail_once() {
    let lab = Lab::new();
    let mx = mute(&lab, "d1.test");
    let stagepost = lab.stagepost().set("delivery.greeting_timeout_secs", 1_i64).start();
    send(&stagepost, 100, "d1.test");
    until_true("some attempts in vain", SOON, || mx.connections() >= 3);
    mx.behave();
    let received = mx.wait_for_within(100, SOON * 3);
    stagepost.wait_until_idle(SOON);
    let mut recipients: Vec<&str> = received.iter().flat_map(|message| message.recipients()).collect();
    recipients.sort_unstable();
    recipients.dedup();
    assert_eq!((recipients.len(), mx.count()), (100, 100));
}

#[test]
fn one_message_that_always_fails_does_not_hold_up_those_behind_it() {
    let lab = Lab::new();
    let (mx, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    // Whenever it comes, the server breaks.
    mx.script(|step| match step {
        Step::Dot { message, .. } if message.recipients() == ["user0@d1.test"] => Answer::Close,
        _ => Answer::Usual,
    });
    let stagepost =
        lab.stagepost().set("delivery.connections_max", 1_i64).set("delivery.lifetime_secs", 12_i64).start();
    send(&stagepost, 300, "d1.test");
    mx.wait_for(299);
    // In the end its sender hears of it.
    let received = reports.wait_for(1);
    assert!(reported(&received, "user0@d1.test"));
    stagepost.wait_until_idle(SOON);
    assert_eq!((mx.count(), reports.count()), (299, 1));
}

/// Changes an octet behind the only place in the files of a folder where `mark` stands.
fn damage(folder: &Path, mark: &[u8]) {
    let mut places = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut octets = std::fs::read(&path).unwrap();
            if let Some(at) = octets.windows(mark.len()).position(|window| window == mark) {
                octets[at + mark.len()] ^= 0x20;
                std::fs::write(&path, octets).unwrap();
                places += 1;
            }
        }
    }
    assert_eq!(places, 1, "{} stands in {places} files", String::from_utf8_lossy(mark));
}

#[test]
fn a_stored_message_that_is_damaged_never_leaves_and_stops_no_other() {
    let lab = Lab::new();
    let (mx, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    mx.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::reply("450 4.2.0 later"),
        _ => Answer::Usual,
    });
    let mut stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![2_i64]).start();
    let mut client = stagepost.login();
    let bad = [17, 40];
    let mark = |number: usize| format!("marked number {number:03}:");
    for number in 0..60 {
        let text = format!("{} original text", mark(number));
        // Small ones and such as are kept apart from their record, if there is such a difference.
        let text = if number % 2 == 0 { text } else { format!("{text}\n{}", "x\n".repeat(40_000)) };
        let octets = message::text(FROM, "user@d1.test", &format!("mail-{number}"), &text);
        assert_eq!(client.submit(FROM, &[&format!("user{number}@d1.test")], &octets).code, 250);
    }
    assert!(stagepost.stop(SOON).success());
    for number in bad {
        damage(stagepost.state(), mark(number).as_bytes());
    }
    mx.behave();
    stagepost.start_again();
    let received = mx.wait_for(58);
    let missing = bad.map(|number| format!("user{number}@d1.test"));
    for message in &received {
        let text = message.text();
        assert!(text.contains("original text\r\n"), "{}", &text[..text.len().min(2000)]);
        assert!(!missing.contains(&message.recipients()[0].to_owned()));
    }
    // It isn't lost without a word either: the sender is told, or it is named as damaged.
    until("a word on what is damaged", SOON, || {
        let told: Vec<String> =
            reports.messages().iter().flat_map(|report| failed_recipients(&report.octets)).collect();
        let named = stagepost.ask(&["queue", "summary"])["damage"].to_string();
        (missing.iter().all(|recipient| told.contains(recipient)) || named.len() > 2).then_some(())
    });
    assert_eq!(mx.count(), 58);
}
