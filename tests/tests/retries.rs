//! Mail that can't be delivered is tried again as the schedule says, only for those who are left, over restarts, until it expires.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tests::deadline::{SOON, until_true};
use tests::lab::Lab;
use tests::ledger::{failed_recipients, report_values};
use tests::message;
use tests::mx::{Answer, Mx, Step};
use tests::stagepost::Stagepost;

const FROM: &str = "hello@sender.test";

fn submit(stagepost: &Stagepost, from: &str, recipients: &[&str]) -> String {
    let octets = message::text(FROM, recipients[0], "retried", "Hello.");
    stagepost.login().submit(from, recipients, &octets).queue_id()
}

/// Every recipient gets this reply.
fn answers(mx: &Mx, reply: &'static str) {
    mx.script(move |step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::reply(reply),
        _ => Answer::Usual,
    });
}

fn job(stagepost: &Stagepost, id: &str) -> Value {
    stagepost.ask(&["queue", "show", id])["jobs"][0].clone()
}

#[test]
fn only_those_who_are_left_are_tried_again_and_who_is_refused_is_reported_once() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let sender = lab.mx("sender.test");
    let first = AtomicBool::new(true);
    mx.script(move |step| match step {
        Step::Command { line, .. }
            if line.starts_with("RCPT TO:<later") && first.swap(false, Ordering::Relaxed) =>
        {
            Answer::reply("451 4.2.0 later")
        }
        Step::Command { line, .. } if line.starts_with("RCPT TO:<never") => Answer::reply("550 5.1.1 nobody"),
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().start();
    let all = ["now@d1.test", "later@d1.test", "never@d1.test"];
    submit(&stagepost, FROM, &all);
    stagepost.wait_until_idle(SOON);
    let got: Vec<String> =
        mx.messages().iter().flat_map(|received| received.recipients()).map(str::to_owned).collect();
    assert_eq!(got, ["now@d1.test", "later@d1.test"]);
    let tried = |name: &str| mx.commands_of("RCPT").iter().filter(|line| line.contains(name)).count();
    assert_eq!((tried("<now@"), tried("<later@"), tried("<never@")), (1, 2, 1));
    let reports = sender.messages();
    assert_eq!(reports.len(), 1);
    assert_eq!(failed_recipients(&reports[0].octets), ["never@d1.test"]);
}

#[test]
fn attempts_and_due_times_survive_restarts_and_kills() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    answers(&mx, "451 4.3.0 later");
    let mut stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![1_i64, 1, 3600]).start();
    let id = submit(&stagepost, FROM, &["b@d1.test"]);
    until_true("three attempts", SOON, || job(&stagepost, &id)["attempts"] == 3);
    let before = job(&stagepost, &id);
    assert!(before["reason"].as_str().unwrap().contains("451 4.3.0 later"), "{before}");
    stagepost.kill();
    stagepost.start_again();
    assert_eq!(job(&stagepost, &id), before);
    assert!(stagepost.stop(SOON).success());
    stagepost.start_again();
    assert_eq!(job(&stagepost, &id), before);
    assert_eq!(mx.commands_of("RCPT").len(), 3, "nothing is tried before it is due");
    mx.behave();
    stagepost.ask(&["queue", "retry", &id]);
    assert_eq!(mx.wait_for(1).len(), 1);
    stagepost.wait_until_idle(SOON);
}

#[test]
fn a_retry_of_what_is_being_tried_changes_nothing_and_of_what_is_not_there_says_so() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::Silence,
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().start();
    let id = submit(&stagepost, FROM, &["b@d1.test"]);
    until_true("it is tried", SOON, || mx.commands_of("RCPT").len() == 1);
    assert_eq!(stagepost.ask(&["queue", "retry", &id])["jobs"], 0);
    assert_eq!(job(&stagepost, &id)["state"], "leased");
    assert_eq!(stagepost.ask(&["queue", "retry", &format!("{id}.0")])["jobs"], 0);
    for unknown in [format!("{id}.7"), "01K00000000000000000000000".to_owned()] {
        let error = stagepost.try_ask(&["queue", "retry", &unknown]).unwrap_err();
        assert!(error.contains(&format!("nothing of {unknown} is queued")), "{error}");
    }
}

#[test]
fn mail_that_expires_is_reported_once_with_the_last_reply_and_not_to_the_null_sender() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let sender = lab.mx("sender.test");
    answers(&mx, "451 4.3.0 never ready");
    let stagepost = lab.stagepost().set("delivery.lifetime_secs", 4_i64).start();
    submit(&stagepost, FROM, &["b@d1.test"]);
    submit(&stagepost, "", &["c@d1.test"]);
    stagepost.wait_until_idle(SOON * 2);
    assert!(mx.commands_of("RCPT").len() >= 4, "each is tried more than once");
    assert_eq!(mx.count(), 0);
    let reports = sender.messages();
    assert_eq!(reports.len(), 1);
    assert_eq!(failed_recipients(&reports[0].octets), ["b@d1.test"]);
    assert_eq!(report_values(&reports[0].octets, "Status"), ["4.4.7"]);
    assert!(reports[0].text().contains("never ready"), "{}", reports[0].text());
}

#[test]
fn held_mail_stays_held_over_a_kill_and_removed_mail_ends_without_a_report() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let sender = lab.mx("sender.test");
    answers(&mx, "451 4.3.0 later");
    let mut stagepost = lab.stagepost().start();
    let [held, removed] = ["held@d1.test", "removed@d1.test"].map(|to| submit(&stagepost, FROM, &[to]));
    stagepost.ask(&["queue", "hold", &held]);
    stagepost.ask(&["queue", "remove", &removed]);
    until_true("it is held", SOON, || job(&stagepost, &held)["state"] == "held");
    mx.behave();
    stagepost.kill();
    stagepost.start_again();
    assert_eq!(job(&stagepost, &held)["state"], "held");
    // Mail that comes after it goes before it.
    submit(&stagepost, FROM, &["after@d1.test"]);
    mx.wait_for(1);
    stagepost.ask(&["queue", "retry", &held]);
    let got: Vec<String> =
        mx.wait_for(2).iter().flat_map(|received| received.recipients()).map(str::to_owned).collect();
    assert_eq!(got, ["after@d1.test", "held@d1.test"]);
    stagepost.wait_until_idle(SOON);
    assert_eq!((mx.count(), sender.count()), (2, 0));
}

#[test]
fn the_first_wait_is_the_schedules_first_and_the_last_goes_on() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let times = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = std::sync::Arc::clone(&times);
    mx.script(move |step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => {
            noted.lock().unwrap().push(std::time::Instant::now());
            Answer::reply("451 4.3.0 later")
        }
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![1_i64, 3]).start();
    submit(&stagepost, FROM, &["b@d1.test"]);
    until_true("four attempts", SOON * 2, || times.lock().unwrap().len() >= 4);
    let times = times.lock().unwrap();
    let waits: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Jitter may make a wait shorter by a tenth; a machine may make it as long as it likes.
    for (wait, least) in waits.iter().zip([900, 2700, 2700]) {
        assert!(*wait >= Duration::from_millis(least), "{waits:?}");
    }
}
