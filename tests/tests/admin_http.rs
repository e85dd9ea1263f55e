//! Whoever looks after the process can ask it by HTTP whether it lives, whether it is ready, and what it has done: exactly that.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tests::address;
use tests::deadline::{SOON, until, until_true};
use tests::http;
use tests::lab::Lab;
use tests::message;
use tests::mx::{Answer, Step};
use tests::smtp::Client;
use tests::stagepost::{PASSWORD, Setup, USER};

const FROM: &str = "hello@sender.test";
const ADMIN_PORT: u16 = 8080;

fn with_admin(lab: &Lab) -> (Setup<'_>, SocketAddr) {
    let admin = SocketAddr::from((address::fresh(), ADMIN_PORT));
    (lab.stagepost().set("admin_listen", admin.to_string()), admin)
}

/// Samples by name and labels, as they are written. Every line must be what OpenMetrics 1.0 says.
fn metrics(admin: SocketAddr) -> BTreeMap<String, f64> {
    let answer = http::ask("GET", admin, "/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(
        answer.header.to_lowercase().contains("content-type: application/openmetrics-text"),
        "{answer:?}"
    );
    let body = answer.body.strip_suffix("# EOF\n").unwrap();
    let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            match words[..] {
                ["TYPE", family, kind] => assert_eq!(types.insert(family, kind), None, "{line}"),
                ["HELP", _, text] => assert!(text.ends_with('.'), "{line}"),
                _ => panic!("{line:?} is neither a type nor a help text"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let name = sample.split('{').next().unwrap();
        assert!(is_of_a_family(name, &types), "{line:?} is of no family");
        assert!(name.starts_with("stagepost_"), "{line}");
        let value = value.parse().unwrap_or_else(|_| panic!("{line:?} has no value"));
        assert_eq!(samples.insert(sample.to_owned(), value), None, "{line} is there twice");
    }
    samples
}

fn is_of_a_family(name: &str, types: &BTreeMap<&str, &str>) -> bool {
    let suffixes = [
        ("counter", "_total"),
        ("gauge", ""),
        ("histogram", "_bucket"),
        ("histogram", "_count"),
        ("histogram", "_sum"),
    ];
    suffixes.into_iter().any(|(kind, suffix)| {
        name.strip_suffix(suffix).and_then(|family| types.get(family)).is_some_and(|of| *of == kind)
    })
}

/// What grew since `before`, and by how much; durations only by how many they are.
fn growth(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let counts = |name: &str| {
        let name = name.split('{').next().unwrap_or_default();
        name.ends_with("_total") || name.ends_with("_count")
    };
    let grown = after.iter().filter(|(name, _)| counts(name)).map(|(name, value)| {
        let before = before.get(name).unwrap_or_else(|| panic!("{name} wasn't there from the beginning"));
        (name.trim_start_matches("stagepost_").to_owned(), value - before)
    });
    grown.filter(|(_, growth)| *growth != 0.0).collect()
}

#[test]
fn counters_grow_by_exactly_what_was_sent_and_name_nobody() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let sender = lab.mx("sender.test");
    mx.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT TO:<never") => Answer::reply("550 5.1.1 nobody"),
        _ => Answer::Usual,
    });
    let (setup, admin) = with_admin(&lab);
    let stagepost = setup.start();
    stagepost.ask(&["account", "create", "small"]);
    stagepost.domain("small", "small.test", &lab.dns);
    stagepost.credential("small", "small-app", PASSWORD);
    let before = metrics(admin);

    let mut client = stagepost.login();
    let text = message::text(FROM, "a@d1.test", "counted", "Hello.");
    client.submit(FROM, &["a@d1.test", "b@d1.test"], &text).queue_id();
    // Its bounce is reported to the sender.
    client.submit(FROM, &["never@d1.test"], &text).queue_id();
    client.expect("MAIL FROM:<hello@elsewhere.test>", 550);
    client.expect("MAIL FROM:<hello@sender.test>", 250);
    client.expect("RCPT TO:<a@[192.0.2.1]>", 550);
    client.expect("RCPT TO:<a@d1.test>", 250);
    client.expect("DATA", 354);
    client.send(b"From: somebody@elsewhere.test\r\n\r\nNot mine.\r\n.\r\n");
    assert_eq!(client.reply().code, 550);
    assert_eq!(stagepost.client().auth_plain(USER, "wrong").code, 535);
    let mut small = stagepost.login_as("small-app", PASSWORD);
    small.expect("MAIL FROM:<a@small.test>", 250);
    let quota = (0..101).map(|count| small.command(&format!("RCPT TO:<r{count}@d1.test>")).code);
    assert_eq!(quota.filter(|code| *code == 452).count(), 1);
    drop((client, small));
    stagepost.wait_until_idle(SOON);
    assert_eq!((mx.wait_for(1).len(), sender.wait_for(1).len()), (1, 1));

    let after = until("the sessions' ends and the queue's age", SOON, || {
        let now = metrics(admin);
        let zero = ["ingress_sessions_open", "delivery_jobs_in_work", "spool_jobs{state=\"leased\"}"];
        zero.iter().all(|name| now[&format!("stagepost_{name}")] == 0.0).then_some(now)
    });
    let mut grown = growth(&before, &after);
    assert!(grown.remove("ingress_accepted_bytes_total").unwrap() > 2.0 * text.len() as f64);
    // Two messages to one server may share a connection.
    let connections = (mx.connections() + sender.connections()) as f64;
    let expected = [
        ("ingress_sessions_total", 3.0),
        ("ingress_logins_total{outcome=\"accepted\"}", 2.0),
        ("ingress_logins_total{outcome=\"refused\"}", 1.0),
        ("ingress_transactions_accepted_total", 2.0),
        ("ingress_transactions_refused_total{reason=\"policy\"}", 2.0),
        ("ingress_recipients_refused_total{reason=\"address\"}", 1.0),
        ("ingress_recipients_refused_total{reason=\"quota\"}", 1.0),
        ("ingress_quota_refusals_total", 1.0),
        ("ingress_final_dot_seconds_count", 3.0),
        ("delivery_attempts_total{disposition=\"delivered\"}", 3.0),
        ("delivery_attempts_total{disposition=\"bounced\"}", 1.0),
        ("delivery_phase_seconds_count{phase=\"route\"}", 3.0),
        ("delivery_phase_seconds_count{phase=\"sign\"}", 3.0),
        ("delivery_phase_seconds_count{phase=\"connect\"}", connections),
        ("delivery_phase_seconds_count{phase=\"deliver\"}", 3.0),
    ];
    let expected: BTreeMap<String, f64> =
        expected.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    assert_eq!(grown, expected);
    let labels: BTreeSet<&str> =
        after.keys().filter_map(|sample| sample.split_once('{')).map(|(_, of)| of).collect();
    assert!(!labels.iter().any(|label| label.contains(".test") || label.contains('@')), "{labels:?}");
}

#[test]
fn gauges_say_what_is_there_now() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::Silence,
        _ => Answer::Usual,
    });
    let (setup, admin) = with_admin(&lab);
    let stagepost = setup.start();
    let mut client = stagepost.login();
    let text = message::text(FROM, "a@d1.test", "there", "Hello.");
    client.submit(FROM, &["a@d1.test"], &text).queue_id();
    let wanted = [
        ("stagepost_ingress_sessions_open", 1.0),
        ("stagepost_delivery_jobs_in_work", 1.0),
        ("stagepost_delivery_connections_open", 1.0),
        ("stagepost_spool_jobs{state=\"leased\"}", 1.0),
        ("stagepost_spool_jobs{state=\"ready\"}", 0.0),
    ];
    until_true("one of each", SOON, || {
        let now = metrics(admin);
        wanted.iter().all(|(name, value)| now[*name] == *value)
    });
    assert!(metrics(admin)["stagepost_spool_disk_bytes"] > 0.0);
}

#[test]
fn it_lives_is_ready_and_refuses_what_it_does_not_know() {
    let lab = Lab::new();
    let (setup, admin) = with_admin(&lab);
    let mut stagepost = setup.start();
    let get = |path: &str| {
        let answer = http::ask("GET", admin, path);
        (answer.status, answer.body)
    };
    assert_eq!(get("/livez"), (200, "alive\n".into()));
    assert_eq!(get("/readyz"), (200, "ready\n".into()));
    assert_eq!(get("/").0, 404);
    assert_eq!(get("/livez/more").0, 404);
    let refused = http::ask("POST", admin, "/metrics");
    assert_eq!(refused.status, 405);
    assert!(refused.header.to_lowercase().contains("allow: get, head"), "{refused:?}");
    // What isn't HTTP is refused too, or cut off, and nothing ends for it.
    assert!(http::try_ask("\u{1}", admin, "/livez").map_or(true, |answer| answer.status == 400));
    assert_eq!(get("/livez").0, 200);

    // While it stops it lives, but isn't ready: a client in the middle of its message holds the process.
    let mut client = stagepost.login();
    client.expect("MAIL FROM:<hello@sender.test>", 250);
    client.expect("RCPT TO:<success@simulator.stagepost.test>", 250);
    client.expect("DATA", 354);
    client.send(b"From: hello@sender.test\r\n");
    stagepost.begin_to_stop();
    until_true("it isn't ready any more", SOON, || {
        get("/readyz") == (503, "process: it is stopping\n".into())
    });
    assert_eq!(get("/livez").0, 200);
    client.send(b"\r\nHello.\r\n.\r\n");
    client.reply().queue_id();
    assert!(stagepost.ended(SOON).success());
    assert!(http::try_ask("GET", admin, "/livez").is_err());
}

#[test]
fn without_accounts_it_lives_and_is_not_ready() {
    let lab = Lab::new();
    let (setup, admin) = with_admin(&lab);
    let nobody = lab.publish("nobody.test");
    let stagepost = setup.bare().set("accounts_server", format!("http://{nobody}:8081")).start();
    let answer = http::ask("GET", admin, "/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.body.starts_with("accounts: ") && answer.body.lines().count() == 1, "{answer:?}");
    assert_eq!(http::ask("GET", admin, "/livez").status, 200);
    // It still says by SMTP what is the matter.
    assert_eq!(stagepost.client().auth_plain(USER, PASSWORD).code, 454);
}

#[test]
fn an_address_that_is_taken_is_named_and_nothing_is_started() {
    let lab = Lab::new();
    let (first, admin) = with_admin(&lab);
    let first = first.bare().start();
    let (status, said) = lab.stagepost().bare().set("admin_listen", admin.to_string()).start_in_vain();
    assert_eq!(status.code(), Some(2));
    assert!(said.contains(&format!("{admin} (--admin-listen)")) && said.lines().count() == 1, "{said}");
    assert_eq!(http::ask("GET", admin, "/livez").status, 200);
    assert!(Client::try_connect(first.submission()).is_ok());
}
