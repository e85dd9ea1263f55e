//! The addresses for trying things out: they end as their names say, in every mode, without a network.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use tests::deadline::{SOON, until};
use tests::lab::Lab;
use tests::ledger::failed_recipients;
use tests::message;
use tests::report;
use tests::stagepost::Stagepost;

const FROM: &str = "hello@sender.test";
const DOMAIN: &str = "simulator.stagepost.test";

fn address(local: &str) -> String {
    format!("{local}@{DOMAIN}")
}

fn send(stagepost: &Stagepost, locals: &[&str]) {
    let mut client = stagepost.login();
    for local in locals {
        let to = address(local);
        let octets = message::text(FROM, &to, "simulated", "Hello.");
        assert_eq!(client.submit(FROM, &[&to], &octets).code, 250, "{to}");
    }
}

/// What waits for an address after its first attempt.
fn waiting(stagepost: &Stagepost, local: &str) -> serde_json::Value {
    let to = address(local);
    until(&format!("{to} to wait"), SOON, || {
        let jobs = stagepost.queue().into_iter();
        jobs.into_iter().find(|job| job["to"][0] == to.as_str() && job["state"] == "waiting")
    })
}

fn log_of<'a>(log: &'a str, queue_id: &str) -> Vec<&'a str> {
    log.lines()
        .filter(|line| line.contains("attempt=") && line.contains(&format!("queue_id={queue_id} ")))
        .collect()
}

#[test]
fn simulated_recipients_end_as_their_names_say() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    let stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![300_i64]).start();
    let (success, bounce, defer) =
        (["success", "success+1", "Success+a.b"], ["bounce", "bounce+x"], ["defer", "defer+y"]);
    send(&stagepost, &success);
    send(&stagepost, &bounce);
    send(&stagepost, &defer);
    for local in defer {
        let job = waiting(&stagepost, local);
        assert_eq!((&job["last"][0]["status"], &job["attempts"]), (&"4.3.0".into(), &1.into()), "{job:#}");
        assert!(job["last"][0]["reply"].as_str().unwrap().starts_with("451 4.3.0"), "{job:#}");
    }
    let received = reports.wait_for(bounce.len());
    let mut told: Vec<String> =
        received.iter().flat_map(|report| failed_recipients(&report.octets)).collect();
    told.sort_by_key(String::len);
    assert_eq!(told, bounce.map(address));
    for message in &received {
        let report = report::read(message);
        assert_eq!(report.of_one("status"), "5.1.1");
        assert!(report.of_one("diagnostic-code").starts_with("smtp; 550 5.1.1"), "{report:#?}");
    }
    let left = until("nothing but what was deferred", SOON, || {
        let queue = stagepost.queue();
        (queue.len() == defer.len()).then_some(queue)
    });
    assert!(left.iter().all(|job| job["to"][0].as_str().unwrap().starts_with("defer")), "{left:#?}");
    assert_eq!(stagepost.log().matches("disposition=\"delivered\"").count(), success.len() + bounce.len());
    assert_eq!((lab.dns.queries(DOMAIN), reports.count()), (0, bounce.len()));
}

#[test]
fn an_unknown_simulated_recipient_bounces_and_names_the_known_ones() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    let stagepost = lab.stagepost().start();
    send(&stagepost, &["somebody"]);
    let report = report::read(&reports.wait_for(1)[0]);
    assert_eq!(report.of_one("status"), "5.1.1");
    for name in ["success@", "bounce@", "defer@"] {
        assert!(report.text.contains(name), "{}", report.text);
    }
    stagepost.wait_until_idle(SOON);
}

#[test]
fn what_was_deferred_by_simulation_is_tried_again_and_given_up_in_the_end() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    let stagepost = lab.stagepost().set("delivery.lifetime_secs", 5_i64).start();
    let to = address("defer+again");
    let octets = message::text(FROM, &to, "simulated", "Hello.");
    let queue_id = stagepost.login().submit(FROM, &[&to], &octets).queue_id();
    let report = report::read(&reports.wait_for(1)[0]);
    assert_eq!((report.of_one("action"), report.of_one("status")), ("failed", "4.4.7"));
    stagepost.wait_until_idle(SOON);
    let log = stagepost.log();
    let attempts = log_of(&log, &queue_id);
    assert!(attempts.len() >= 3, "{attempts:?}");
    assert_eq!(reports.count(), 1);
}

#[test]
fn a_simulated_success_is_told_to_who_asks_for_it() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    let stagepost = lab.stagepost().start();
    let mail = format!("MAIL FROM:<{FROM}> ENVID=try");
    let recipient = format!("RCPT TO:<{}> NOTIFY=SUCCESS,FAILURE", address("success"));
    let octets = message::text(FROM, &address("success"), "simulated", "Hello.");
    assert_eq!(stagepost.login().transaction(&mail, &[&recipient], &octets).code, 250);
    let report = report::read(&reports.wait_for(1)[0]);
    assert_eq!((report.of_one("action"), report.of_one("status")), ("delivered", "2.0.0"));
    assert_eq!(report.message["original-envelope-id"], "try");
    stagepost.wait_until_idle(SOON);
    assert_eq!(reports.count(), 1);
}

#[test]
fn a_message_to_simulated_and_real_recipients_goes_to_both() {
    let lab = Lab::new();
    let (mx, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    let stagepost = lab.stagepost().start();
    let (good, bad) = (address("success"), address("bounce"));
    let octets = message::text(FROM, "user@d1.test", "mixed", "Hello.");
    assert_eq!(stagepost.login().submit(FROM, &[&good, "user@d1.test", &bad], &octets).code, 250);
    assert_eq!(mx.wait_for(1)[0].recipients(), ["user@d1.test"]);
    let report = report::read(&reports.wait_for(1)[0]);
    assert_eq!(report.of_one("final-recipient"), format!("rfc822; {bad}"));
    stagepost.wait_until_idle(SOON);
    assert_eq!((mx.count(), reports.count()), (1, 1));
}

#[test]
fn the_sandbox_simulates_too() {
    let lab = Lab::new();
    let sandbox = lab.folder().join("sandbox");
    let stagepost = lab
        .stagepost()
        .set("delivery.mode", "sandbox")
        .set("delivery.sandbox", sandbox.to_str().unwrap())
        .set("delivery.retry_waits_secs", vec![300_i64])
        .start();
    send(&stagepost, &["success+label", "bounce", "defer"]);
    let job = waiting(&stagepost, "defer");
    assert_eq!(job["last"][0]["status"], "4.3.0");
    // The report is mail to a real address, and so it is all that the sandbox gets.
    let report = until("a report in the sandbox", SOON, || {
        let entry = std::fs::read_dir(sandbox.join("new")).unwrap().next()?;
        Some(std::fs::read_to_string(entry.unwrap().path()).unwrap())
    });
    assert!(report.contains(&format!("Final-Recipient: rfc822; {}", address("bounce"))), "{report}");
    until("nothing but what was deferred", SOON, || (stagepost.queued() == 1).then_some(()));
    assert_eq!(std::fs::read_dir(sandbox.join("new")).unwrap().count(), 1);
    assert_eq!(lab.dns.log(), []);
}
