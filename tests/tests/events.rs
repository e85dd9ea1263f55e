//! What happens to mail is told, each thing once, over kills; and who waits, why and until when can be asked.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::deadline::{SOON, until, until_true};
use tests::lab::Lab;
use tests::message;
use tests::mx::{Answer, Mx, Received, Step, Tls};
use tests::process::{Process, run};
use tests::stagepost::{Stagepost, program};

const FROM: &str = "hello@sender.test";

fn submit(stagepost: &Stagepost, from: &str, recipients: &[&str]) -> String {
    let octets = message::text(FROM, recipients[0], "told", "Hello.");
    stagepost.login().submit(from, recipients, &octets).queue_id()
}

/// Recipients whose names begin with `later` are put off once, those with `never` refused, those with `away` always put off.
fn scripted(mx: &Mx) {
    let seen = Mutex::new(BTreeSet::new());
    mx.script(move |step| match step {
        Step::Command { line, .. }
            if line.starts_with("RCPT TO:<later") && seen.lock().unwrap().insert((*line).to_owned()) =>
        {
            Answer::reply("451 4.2.0 greylisted")
        }
        Step::Command { line, .. } if line.starts_with("RCPT TO:<never") => {
            Answer::reply("550 5.1.1 nobody of that name")
        }
        Step::Command { line, .. } if line.starts_with("RCPT TO:<away") => {
            Answer::reply("451 4.3.0 the disk is full")
        }
        _ => Answer::Usual,
    });
}

/// What a command prints, one line for each of its lines.
fn told(stagepost: &Stagepost, arguments: &[&str]) -> String {
    let mut command = Command::new(program());
    command.args(arguments).arg("--state").arg(stagepost.state());
    let output = run(command, b"");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn parsed(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// All events until now that these arguments choose.
fn events(stagepost: &Stagepost, arguments: &[&str]) -> Vec<Value> {
    parsed(&told(stagepost, &[&["events", "--json", "--no-follow", "--since", "1d"], arguments].concat()))
}

/// `kind attempt` of all events of a recipient.
fn kinds(events: &[Value], recipient: &str) -> Vec<String> {
    let its = events.iter().filter(|event| event["recipient"] == recipient);
    its.map(|event| format!("{} {}", event["kind"].as_str().unwrap(), event["attempt"])).collect()
}

fn event<'a>(events: &'a [Value], recipient: &str, kind: &str) -> &'a Value {
    let wanted = |event: &&Value| event["recipient"] == recipient && event["kind"] == kind;
    events.iter().find(wanted).unwrap_or_else(|| panic!("no {kind} of {recipient} in {events:#?}"))
}

#[test]
fn each_kind_of_event_arises_and_carries_its_fields() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.tls(Tls::Works(lab.authority.issue(&["mx.d1.test"]).server()));
    scripted(&mx);
    let _sender = lab.mx("sender.test");
    let stagepost = lab.stagepost().start();
    let id = submit(
        &stagepost,
        FROM,
        &["ok@d1.test", "later@d1.test", "never@d1.test", "success@simulator.stagepost.test"],
    );
    let removed = submit(&stagepost, FROM, &["away@d1.test"]);
    until_true("an attempt", SOON, || {
        !events(&stagepost, &["--kind", "deferred", "--recipient", "AWAY@d1.test"]).is_empty()
    });
    stagepost.ask(&["queue", "remove", &removed, "--reason", "sent by mistake"]);
    stagepost.wait_until_idle(SOON);

    let all = events(&stagepost, &[]);
    let ids: HashSet<&str> = all.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "each is told once");
    assert_eq!(kinds(&all, "ok@d1.test"), ["accepted 0", "delivered 1"]);
    assert_eq!(kinds(&all, "later@d1.test"), ["accepted 0", "deferred 1", "delivered 2"]);
    assert_eq!(kinds(&all, "never@d1.test"), ["accepted 0", "bounced 1"]);
    assert_eq!(kinds(&all, "success@simulator.stagepost.test"), ["accepted 0", "delivered 1"]);
    let of_removed = kinds(&all, "away@d1.test");
    assert_eq!((&*of_removed[0], &**of_removed.last().unwrap()), ("accepted 0", "dropped 0"));
    assert!(
        of_removed[1..of_removed.len() - 1].iter().all(|kind| kind.starts_with("deferred")),
        "{of_removed:?}"
    );
    assert_eq!(event(&all, "away@d1.test", "dropped")["reason"], "sent by mistake");
    // The report is mail too.
    assert_eq!(kinds(&all, FROM), ["accepted 0", "delivered 1"]);
    assert_eq!(event(&all, FROM, "delivered")["from"], "");

    let delivered = event(&all, "ok@d1.test", "delivered");
    let account = stagepost.ask(&["account", "show", "shop"])["id"].clone();
    let received = mx.messages();
    let message_id = message::values(&received[0].octets, "Message-ID").remove(0);
    for (field, value) in [
        ("queue_id", Value::from(&*id)),
        ("job", format!("{id}.0").into()),
        ("account_id", account),
        ("from", FROM.into()),
        ("message_id", message_id.into()),
        ("site", "mx.d1.test".into()),
        ("host", "mx.d1.test".into()),
        ("source", "127.0.0.1".into()),
        ("status", "2.0.0".into()),
        ("retry_at", Value::Null),
        ("redelivered", false.into()),
    ] {
        assert_eq!(delivered[field], value, "{field} of {delivered:#}");
    }
    assert!(delivered["reply"].as_str().unwrap().starts_with("250"), "{delivered:#}");
    assert!(delivered["tls"].as_str().unwrap().starts_with("TLS"), "{delivered:#}");
    assert!(delivered["octets"].as_u64().unwrap() > 100, "{delivered:#}");
    let deferred = event(&all, "later@d1.test", "deferred");
    assert_eq!((&deferred["status"], &deferred["reply"]), (&"4.2.0".into(), &"451 4.2.0 greylisted".into()));
    assert!(deferred["retry_at"].as_str().unwrap() > deferred["at"].as_str().unwrap(), "{deferred:#}");
    let bounced = event(&all, "never@d1.test", "bounced");
    assert_eq!(
        (&bounced["status"], &bounced["reply"]),
        (&"5.1.1".into(), &"550 5.1.1 nobody of that name".into())
    );
    let accepted = event(&all, "ok@d1.test", "accepted");
    assert_eq!((&accepted["at"], &accepted["reply"]), (&delivered["accepted_at"], &Value::Null));

    let at_domain = events(&stagepost, &["--recipient", "d1.test", "--kind", "bounced,dropped"]);
    let recipients: Vec<&str> = at_domain.iter().map(|event| event["recipient"].as_str().unwrap()).collect();
    assert_eq!(recipients.len(), 2, "{recipients:?}");
    assert_eq!(events(&stagepost, &["--account", "nobody"]), Vec::<Value>::new());
}

#[test]
fn mail_that_expires_says_so_with_the_last_reply() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    scripted(&mx);
    let _sender = lab.mx("sender.test");
    let stagepost = lab.stagepost().set("delivery.lifetime_secs", 3_i64).start();
    submit(&stagepost, FROM, &["away@d1.test"]);
    stagepost.wait_until_idle(SOON);
    let all = events(&stagepost, &["--recipient", "away@d1.test"]);
    let its = kinds(&all, "away@d1.test");
    assert!(its.len() >= 3 && its[0] == "accepted 0", "{its:?}");
    let expired = event(&all, "away@d1.test", "expired");
    assert_eq!(all.last(), Some(expired));
    assert_eq!(
        (&expired["status"], &expired["reply"]),
        (&"4.4.7".into(), &"451 4.3.0 the disk is full".into())
    );
}

#[test]
fn mail_that_is_removed_before_its_first_attempt_has_an_end_too() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    // A session that is in goes on for a while; delivery holds what it submits.
    let mut client = stagepost.login();
    stagepost.ask(&["account", "suspend", "shop"]);
    let octets = message::text(FROM, "held@d1.test", "held", "Hello.");
    let id = client.submit(FROM, &["held@d1.test"], &octets).queue_id();
    until_true("it is held", SOON, || stagepost.ask(&["queue", "show", &id])["jobs"][0]["state"] == "held");
    assert!(told(&stagepost, &["explain", &id]).contains("now held until released"));
    stagepost.ask(&["queue", "remove", &id]);
    assert_eq!(kinds(&events(&stagepost, &[]), "held@d1.test"), ["accepted 0", "dropped 0"]);
    assert_eq!(mx.count(), 0);
}

#[test]
fn who_follows_is_told_at_once_and_ends_quietly() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let mut stagepost = lab.stagepost().start();
    let before = submit(&stagepost, FROM, &["before@d1.test"]);
    mx.wait_for(1);
    stagepost.wait_until_idle(SOON);
    let follow = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(program());
        command.args([&["events"], arguments].concat()).arg("--state").arg(stagepost.state());
        Process::start(name, command, &lab.folder().join(name))
    };
    let mut all = follow("all.log", &["--json", "--since", "1h"]);
    until_true("what was", SOON, || all.log().lines().count() == 2);
    let mut people = follow("people.log", &["--kind", "delivered"]);
    // It is known to follow once it tells.
    let mut sent = 1;
    until("a follower's first line", SOON, || {
        submit(&stagepost, FROM, &[&format!("u{sent}@d1.test")]);
        sent += 1;
        mx.wait_for(sent);
        std::thread::sleep(Duration::from_millis(100));
        people.log().contains("delivered").then_some(())
    });
    until_true("all that was sent", SOON, || all.log().lines().count() == 2 * sent);
    let told = parsed(&all.log());
    assert_eq!(told[0]["queue_id"], Value::from(before));
    let line = people.log().lines().next().unwrap().to_owned();
    for part in ["delivered", FROM, "@d1.test: attempt 1, 2.0.0", "mx.d1.test said: 250"] {
        assert!(line.contains(part), "{line} lacks {part:?}");
    }
    people.signal(Signal::INT);
    assert!(people.wait(SOON).success());
    assert!(!people.log().contains("stagepost:"), "{}", people.log());
    // Nor does it hold up the end of what it follows.
    assert!(stagepost.stop(SOON).success());
    assert!(all.wait(SOON).success(), "{}", all.log());
    assert_eq!(parsed(&all.log()).len(), 2 * sent);
}

fn message_id(received: &Received) -> String {
    let text = received.text();
    let line = text.lines().find(|line| line.to_ascii_lowercase().starts_with("message-id:"));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// Killed again and again while mail is accepted and tried.
#[test]
fn each_recipient_ends_with_one_event_whatever_is_killed() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    scripted(&mx);
    let sender = lab.mx("sender.test");
    let mut stagepost = lab.stagepost().start();
    let mut expected = BTreeMap::new();
    for round in 0..5 {
        for number in 0..12 {
            let (name, kind) =
                [("ok", "delivered"), ("later", "delivered"), ("never", "bounced")][number % 3];
            let recipient = format!("{name}-{round}-{number}@d1.test");
            submit(&stagepost, FROM, &[&recipient]);
            expected.insert(recipient, kind);
        }
        if round == 3 {
            until_true("some are tried", SOON, || mx.count() > 10);
        }
        stagepost.kill();
        stagepost.start_again();
    }
    stagepost.wait_until_idle(SOON * 2);
    let all = events(&stagepost, &[]);
    let mut put_off = 0;
    for (recipient, kind) in &expected {
        let its: Vec<&Value> = all.iter().filter(|event| event["recipient"] == **recipient).collect();
        let of_kind = |wanted: &[&str]| {
            its.iter().filter(|event| wanted.contains(&event["kind"].as_str().unwrap())).count()
        };
        assert_eq!(of_kind(&["accepted"]), 1, "{recipient}: {its:#?}");
        assert_eq!(of_kind(&["delivered", "bounced", "expired", "dropped"]), 1, "{recipient}: {its:#?}");
        assert_eq!(of_kind(&[kind]), 1, "{recipient}: {its:#?}");
        put_off += usize::from(of_kind(&["deferred"]) > 0);
    }
    // A kill between the remote's answer and our record of it leaves no trace of the attempt.
    assert!((10..=20).contains(&put_off), "{put_off} of 20 have been put off");
    let ids: HashSet<&str> = all.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "each is told once");
    // A kill between the remote's 250 and our record of it sends a report a second time, as the message that it is.
    let messages = sender.messages();
    let reports: HashSet<String> = messages.iter().map(message_id).collect();
    assert_eq!(reports.len(), 20, "a report for each that was refused");
    assert!(messages.len() - reports.len() <= 10, "{} reports a second time", messages.len() - reports.len());
}

#[test]
fn a_waiting_message_is_explained_with_the_remotes_words_and_the_time() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    scripted(&mx);
    let stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![3600_i64]).start();
    let id = submit(&stagepost, FROM, &["away@d1.test", "ok@d1.test"]);
    until_true("it waits", SOON, || stagepost.ask(&["queue", "show", &id])["jobs"][0]["state"] == "waiting");
    let due = stagepost.ask(&["queue", "show", &id])["jobs"][0]["next_attempt"].as_str().unwrap().to_owned();

    let story = told(&stagepost, &["explain", &id]);
    let now = story.lines().find(|line| line.contains("now waiting")).unwrap_or_else(|| panic!("{story}"));
    assert!(
        now.contains(&format!("now waiting until {due}: mx.d1.test said: 451 4.3.0 the disk is full")),
        "{now}"
    );
    assert!(now.contains("1 attempt failed so far, given up 20"), "{now}");
    let attempt =
        story.lines().find(|line| line.contains(" deferred: ")).unwrap_or_else(|| panic!("{story}"));
    for part in ["attempt 1, 4.3.0", "host mx.d1.test", "from 127.0.0.1", &format!("next attempt {due}")] {
        assert!(attempt.contains(part), "{attempt} lacks {part:?}");
    }
    assert!(story.contains("to ok@d1.test\n") && story.contains(" delivered: attempt 1, 2.0.0"), "{story}");
    assert!(story.contains(&format!("from {FROM}, account ")), "{story}");
    let facts = stagepost.ask(&["explain", &id]);
    assert_eq!(facts["stories"][0]["jobs"][0]["next_attempt"], Value::from(&*due));
    assert_eq!(facts["stories"][0]["events"].as_array().unwrap().len(), 4, "{facts:#}");

    stagepost.ask(&["queue", "hold", &id, "--reason", "under suspicion"]);
    let story = told(&stagepost, &["explain", &format!("{id}.0")]);
    assert!(story.contains("now held until released") && story.contains(": under suspicion"), "{story}");

    // By recipient: only what is theirs.
    let story = told(&stagepost, &["explain", "Away@d1.test", "--since", "1h"]);
    assert!(
        story.starts_with("Mail to Away@d1.test that is queued, or of which there was an event since 20"),
        "{story}"
    );
    assert!(
        story.contains(&id) && story.contains("under suspicion") && !story.contains("ok@d1.test"),
        "{story}"
    );
}

#[test]
fn a_bounced_message_is_explained_with_its_report() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    scripted(&mx);
    let sender = lab.mx("sender.test");
    let stagepost = lab.stagepost().start();
    let id = submit(&stagepost, FROM, &["never@d1.test", "success@simulator.stagepost.test"]);
    stagepost.wait_until_idle(SOON);
    assert_eq!(sender.count(), 1);
    let story = told(&stagepost, &["explain", &id]);
    let bounced = story.lines().find(|line| line.contains(" bounced: ")).unwrap_or_else(|| panic!("{story}"));
    assert!(bounced.contains("5.1.1, mx.d1.test said: 550 5.1.1 nobody of that name"), "{bounced}");
    assert!(!story.contains(" now "), "{story}");
    let facts = stagepost.ask(&["explain", &id]);
    let stories = facts["stories"].as_array().unwrap();
    assert_eq!(stories.len(), 2, "{facts:#}");
    let report = &stories[1];
    assert_eq!(report["report_on"], format!("{id}.0-1"));
    let report_id = report["queue_id"].as_str().unwrap();
    assert!(story.contains(&format!("{report_id}, the report to the sender on job {id}.0-1")), "{story}");
    assert_eq!(kinds(report["events"].as_array().unwrap(), FROM), ["accepted 0", "delivered 1"]);
    let received = sender.messages();
    assert!(received[0].text().contains(report_id), "the report that was received is that one");
    // The report can be asked for itself, and the recipient leads to it too.
    assert!(told(&stagepost, &["explain", report_id]).contains(&format!("to {FROM}\n")));
    assert!(told(&stagepost, &["explain", "never@d1.test"]).contains(report_id));
}

#[test]
fn what_is_not_known_is_said_with_where_it_was_searched() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let unknown = "01K00000000000000000000000";
    let error = stagepost.try_ask(&["explain", unknown]).unwrap_err();
    assert!(
        error.contains(&format!("nothing is known of message {unknown}"))
            && error.contains("no events are kept"),
        "{error}"
    );
    submit(&stagepost, FROM, &["b@d1.test"]);
    mx.wait_for(1);
    stagepost.wait_until_idle(SOON);
    let error = stagepost.try_ask(&["explain", unknown]).unwrap_err();
    assert!(error.contains("the oldest event that is kept is of 20"), "{error}");
    let error = stagepost.try_ask(&["explain", "nobody@d1.test"]).unwrap_err();
    assert!(error.contains("nothing is queued for nobody@d1.test") && error.contains("--since"), "{error}");
    let error = stagepost.try_ask(&["explain", "what"]).unwrap_err();
    assert!(error.contains("neither a queue id"), "{error}");
}
