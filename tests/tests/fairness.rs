//! Nobody holds anybody up: neither a destination that is slow or mute, nor an account with a lot to send.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::fmt::Write as _;
use std::time::Duration;

use tests::deadline::{SOON, until_true};
use tests::lab::Lab;
use tests::message;
use tests::mx::{Answer, Mx, Step};
use tests::smtp::Client;
use tests::stagepost::PASSWORD;

/// Submits one message after the other, many at a write.
fn flood(client: &mut Client, from: &str, domain: &str, count: usize) {
    let octets = message::text(from, &format!("user@{domain}"), "flood", "Hello.");
    for first in (0..count).step_by(100) {
        let numbers = first..count.min(first + 100);
        let mut wire = String::new();
        for number in numbers.clone() {
            let _ = write!(
                wire,
                "MAIL FROM:<{from}>\r\nRCPT TO:<user{number}@{domain}>\r\nBDAT {} LAST\r\n",
                octets.len()
            );
            wire.push_str(str::from_utf8(&octets).unwrap());
        }
        client.send(wire.as_bytes());
        for _ in numbers {
            assert_eq!(client.reply().code, 250);
            assert_eq!(client.reply().code, 250);
            client.reply().queue_id();
        }
    }
}

/// A receiver that takes so long for each message.
fn slow(lab: &Lab, domain: &str, pause: Duration) -> Mx {
    let mx = lab.mx(domain);
    mx.script(move |step| match step {
        Step::Dot { .. } => Answer::Late(pause),
        _ => Answer::Usual,
    });
    mx
}

#[test]
fn a_slow_destination_holds_up_no_other() {
    const SLOW: usize = 1_000;
    let lab = Lab::new();
    let slow = slow(&lab, "slow.test", Duration::from_secs(1));
    let others: Vec<Mx> = (0..20).map(|number| lab.mx(&format!("d{number}.test"))).collect();
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    flood(&mut client, "hello@sender.test", "slow.test", SLOW);
    for number in 0..20 {
        flood(&mut client, "hello@sender.test", &format!("d{number}.test"), 5);
    }
    until_true("the others' mail", SOON, || others.iter().all(|mx| mx.count() == 5));
    let before = slow.count();
    assert!(before < SLOW / 2, "{before} of {SLOW} were delivered to the slow one before the others' mail");
    assert!(slow.connections_at_once() <= 20, "{} connections", slow.connections_at_once());
    // Nor is it forgotten for the others.
    until_true("the slow one gets mail too", SOON, || slow.count() > before);
}

#[test]
fn destinations_that_say_nothing_hold_up_no_other() {
    let lab = Lab::new();
    let mute: Vec<Mx> = (0..100)
        .map(|number| {
            let mx = lab.mx(&format!("mute{number}.test"));
            mx.script(|step| match step {
                Step::Connect { .. } => Answer::Silence,
                _ => Answer::Usual,
            });
            mx
        })
        .collect();
    let others: Vec<Mx> = (0..10).map(|number| lab.mx(&format!("d{number}.test"))).collect();
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    for number in 0..mute.len() {
        flood(&mut client, "hello@sender.test", &format!("mute{number}.test"), 15);
    }
    for number in 0..others.len() {
        flood(&mut client, "hello@sender.test", &format!("d{number}.test"), 5);
    }
    until_true("the others' mail", SOON * 2, || others.iter().all(|mx| mx.count() == 5));
    for mx in &mute {
        // A site that doesn't answer is probed by two at a time.
        assert!(
            mx.connections_at_once() <= 2,
            "{} connections to one that says nothing",
            mx.connections_at_once()
        );
        assert_eq!(mx.count(), 0);
    }
    assert_eq!(stagepost.queued(), 15 * mute.len() as u64);
}

#[test]
fn an_account_with_a_lot_to_send_holds_up_no_other() {
    const LOT: usize = 3_000;
    let lab = Lab::new();
    let mx = slow(&lab, "d1.test", Duration::from_millis(300));
    let other = lab.mx("d2.test");
    let stagepost = lab.stagepost().start();
    stagepost.ask(&["account", "create", "flood", "--plan", "unlimited"]);
    stagepost.domain("flood", "flood.test", &lab.dns);
    stagepost.credential("flood", "flood-app", PASSWORD);
    flood(&mut stagepost.login_as("flood-app", PASSWORD), "news@flood.test", "d1.test", LOT);
    let octets = message::text("hello@sender.test", "single@d2.test", "single", "Hello.");
    let already = mx.count();
    stagepost.login().submit("hello@sender.test", &["single@d2.test"], &octets).queue_id();
    let arrived = || other.count() == 1;
    until_true("the single message", SOON * 2, arrived);
    let meanwhile = mx.count() - already;
    let left = LOT - already;
    assert!(left > LOT / 2, "the lot was gone before the single message came: {already} of {LOT}");
    assert!(
        meanwhile < left / 2,
        "{meanwhile} of {left} were delivered before another account's single message"
    );
}
