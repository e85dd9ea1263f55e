//! The services as processes of their own, several of each, do together what one process does.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tests::deadline::{SOON, until};
use tests::fleet::{Fleet, FleetSetup, Role};
use tests::lab::Lab;
use tests::message;
use tests::mx::{Answer, Step};

const FROM: &str = "hello@sender.test";

fn pairs(lab: &Lab) -> Fleet {
    FleetSetup::new(lab).with(Role::Ingress, 2).with(Role::Accounts, 2).with(Role::Delivery, 2).start()
}

fn mail(to: &str) -> Vec<u8> {
    message::text(FROM, to, &format!("to {to}"), "Hello.")
}

/// The events of a recipient, their kinds in order.
fn kinds(events: &[Value], recipient: &str) -> Vec<String> {
    let of_recipient = events.iter().filter(|event| event["recipient"] == recipient);
    of_recipient.filter_map(|event| event["kind"].as_str()).map(str::to_owned).collect()
}

#[test]
fn mail_goes_from_any_ingress_through_any_worker_once_and_signed() {
    let lab = Lab::new();
    let receivers = ["d1.test", "d2.test", "d3.test"].map(|domain| lab.mx(domain));
    let fleet = pairs(&lab);
    let mut clients = [fleet.login(0), fleet.login(1)];
    let recipients: Vec<String> =
        (0..60).map(|number| format!("user{number}@d{}.test", 1 + number % 3)).collect();
    for (number, recipient) in recipients.iter().enumerate() {
        let reply = clients[number % 2].submit(FROM, &[recipient], &mail(recipient));
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    fleet.wait_until_idle(SOON * 2);
    let mut received = BTreeMap::new();
    for message in receivers.iter().flat_map(|receiver| receiver.messages()) {
        tests::judge::mail_auth(&lab.dns, &message.octets).unwrap();
        *received.entry(message.recipients()[0].to_owned()).or_insert(0) += 1;
    }
    assert_eq!(received.len(), recipients.len());
    assert!(received.values().all(|copies| *copies == 1), "{received:?}");
    let events = fleet.events();
    for recipient in &recipients {
        assert_eq!(kinds(&events, recipient), ["accepted", "delivered"], "{recipient}");
    }
    let worked: Vec<bool> =
        (0..2).map(|place| fleet.log(Role::Delivery, place).contains("delivered")).collect();
    assert_eq!(worked, [true, true], "both workers had some of it");
}

#[test]
fn what_waits_and_what_fails_is_told_wherever_it_is_asked() {
    let lab = Lab::new();
    let waits = lab.mx("waits.test");
    waits.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => {
            Answer::reply("451 4.7.1 greylisted, come later")
        }
        _ => Answer::Usual,
    });
    let refuses = lab.mx("refuses.test");
    refuses.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::reply("550 5.1.1 nobody here"),
        _ => Answer::Usual,
    });
    let reports = lab.mx("sender.test");
    let fleet = FleetSetup::new(&lab)
        .with(Role::Ingress, 2)
        .with(Role::Delivery, 2)
        .set("delivery.retry_waits_secs", vec![600_i64])
        .start();
    let waiting = fleet.login(0).submit(FROM, &["a@waits.test"], &mail("a@waits.test")).queue_id();
    let failing = fleet.login(1).submit(FROM, &["b@refuses.test"], &mail("b@refuses.test")).queue_id();
    let report = reports.wait_for(1).remove(0);
    assert_eq!(tests::ledger::failed_recipients(&report.octets), ["b@refuses.test"]);
    let story = until("the message waits", SOON, || {
        let story = fleet.ask(&["explain", &waiting]).to_string();
        story.contains("waiting").then_some(story)
    });
    assert!(story.contains("greylisted, come later"), "{story}");
    let story = fleet.ask(&["explain", &failing]).to_string();
    assert!(story.contains("nobody here") && story.contains("bounced"), "{story}");
    // An administrator makes it go now, whichever worker had it.
    waits.behave();
    assert_eq!(fleet.ask(&["queue", "retry", &waiting])["jobs"], 1);
    waits.wait_for(1);
    fleet.wait_until_idle(SOON);
    assert_eq!(kinds(&fleet.events(), "a@waits.test"), ["accepted", "deferred", "delivered"]);
}

#[test]
fn a_suspended_account_is_out_everywhere_and_its_mail_is_held() {
    let lab = Lab::new();
    let waits = lab.mx("waits.test");
    waits.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::reply("451 4.3.0 later"),
        _ => Answer::Usual,
    });
    let fleet = pairs(&lab);
    let mut clients = [fleet.login(0), fleet.login(1)];
    for (client, to) in clients.iter_mut().zip(["a@waits.test", "b@waits.test"]) {
        assert_eq!(client.submit(FROM, &[to], &mail(to)).code, 250);
    }
    fleet.ask(&["account", "suspend", "shop"]);
    until("the queue is held", Duration::from_secs(60), || {
        let held = fleet.ask(&["queue", "summary"])["held"].as_u64();
        (held == Some(2)).then_some(())
    });
    for client in &mut clients {
        let refused = until("the account is out", Duration::from_secs(45), || {
            let reply = client.command("MAIL FROM:<hello@sender.test>");
            if reply.code == 250 {
                client.expect("RSET", 250);
            }
            (reply.code != 250).then_some(reply)
        });
        assert!(refused.code >= 400, "{refused:?}");
    }
    waits.behave();
    fleet.ask(&["account", "resume", "shop"]);
    waits.wait_for_within(2, SOON * 2);
    fleet.wait_until_idle(SOON);
}

#[test]
fn an_orderly_end_of_each_role_under_load_loses_nothing_and_sends_nothing_twice() {
    let lab = Lab::new();
    let receiver = lab.mx("d1.test");
    let mut fleet = pairs(&lab);
    let mut accepted = Vec::new();
    for round in 0..6 {
        for place in 0..2 {
            let mut client = fleet.login(place);
            for number in 0..20 {
                let to = format!("r{round}-{place}-{number}@d1.test");
                assert_eq!(client.submit(FROM, &[&to], &mail(&to)).code, 250);
                accepted.push(to);
            }
        }
        let (role, place) = [
            (Role::Delivery, 0),
            (Role::Ingress, 0),
            (Role::Delivery, 1),
            (Role::Accounts, 0),
            (Role::Ingress, 1),
            (Role::Accounts, 1),
        ][round];
        assert!(fleet.stop(role, place, SOON * 2).success(), "{}", fleet.log(role, place));
        fleet.start(role, place);
        fleet.wait_ready(role, place);
    }
    fleet.wait_until_idle(SOON * 3);
    let mut received: Vec<String> =
        receiver.messages().iter().map(|message| message.recipients()[0].to_owned()).collect();
    received.sort();
    accepted.sort();
    assert_eq!(received, accepted);
}
