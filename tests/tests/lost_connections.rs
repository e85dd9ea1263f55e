//! Connections that end at any moment, and a process that does: mail comes again, and no more often than it must.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tests::deadline::{SOON, until_true};
use tests::lab::Lab;
use tests::message::{self, values};
use tests::mx::{Answer, Mx, Received, Step, Tls};
use tests::stagepost::{HOST, Stagepost};

const FROM: &str = "hello@sender.test";

fn send(stagepost: &Stagepost, count: usize, domain: &str) {
    let mut client = stagepost.login();
    for number in 0..count {
        let octets = message::text(FROM, "user@d1.test", &format!("mail-{number}"), "Hello.");
        assert_eq!(client.submit(FROM, &[&format!("user{number}@{domain}")], &octets).code, 250);
    }
}

/// How many attempts were deferred so far, as the log has it.
fn deferred(stagepost: &Stagepost) -> usize {
    stagepost.log().matches("disposition=\"deferred\"").count()
}

fn recipients(received: &[Received]) -> Vec<String> {
    let mut all: Vec<String> = received.iter().flat_map(Received::recipients).map(str::to_owned).collect();
    all.sort();
    all
}

fn expected(count: usize, domain: &str) -> Vec<String> {
    let mut all: Vec<String> = (0..count).map(|number| format!("user{number}@{domain}")).collect();
    all.sort();
    all
}

#[test]
fn a_connection_that_is_lost_after_the_final_dot_brings_one_more_copy_and_not_at_once() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.script(|step| match step {
        Step::Dot { count: 0, .. } => Answer::KeepAndClose,
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![3_i64]).start();
    send(&stagepost, 1, "d1.test");
    let received = mx.wait_for(2);
    stagepost.wait_until_idle(SOON);
    assert_eq!(mx.count(), 2);
    let between = received[1].at.duration_since(received[0].at);
    assert!(between >= Duration::from_millis(2700), "the second copy came {between:?} after the first");
    // By Message-ID and trace field a receiver can tell that it is the same; the signature is the first one's.
    assert!(received[0].octets == received[1].octets, "the copies differ");
    assert_eq!(values(&received[0].octets, "Message-ID"), ["<mail-0@client.test>"]);
    assert_eq!(deferred(&stagepost), 1);
}

#[test]
fn silence_after_the_final_dot_ends_with_the_time_that_is_set_for_it() {
    let lab = Lab::new();
    let (clear, encrypted) = (lab.mx("clear.test"), lab.mx("tls.test"));
    encrypted.tls(Tls::Works(lab.authority.issue(&["mx.tls.test"]).server()));
    for mx in [&clear, &encrypted] {
        mx.script(|step| match step {
            Step::Dot { count: 0, .. } => Answer::Silence,
            _ => Answer::Usual,
        });
    }
    let stagepost = lab.stagepost().set("delivery.final_timeout_secs", 2_i64).start();
    send(&stagepost, 1, "clear.test");
    send(&stagepost, 1, "tls.test");
    for (mx, tls) in [(&clear, false), (&encrypted, true)] {
        assert_eq!(mx.wait_for(1)[0].tls, tls);
        assert_eq!(mx.commands_of("DATA").len(), 2);
    }
    stagepost.wait_until_idle(SOON);
    assert_eq!(deferred(&stagepost), 2);
}

#[test]
fn a_connection_that_is_lost_before_the_final_dot_brings_one_copy() {
    let lab = Lab::new();
    let large = message::sized(FROM, "user@d1.test", "large", 3_000_000);
    // At the first connection, where each ends.
    for (number, stage) in ["banner", "EHLO", "MAIL", "RCPT", "DATA", "body"].into_iter().enumerate() {
        let domain = format!("d{number}.test");
        let mx = lab.mx(&domain);
        mx.script(move |step| match step {
            Step::Connect { connection: 0 } if stage == "banner" => Answer::Close,
            Step::Command { connection: 0, line, .. } if line.starts_with(stage) => Answer::Close,
            Step::Command { connection: 0, line, .. } if stage == "body" && *line == "DATA" => {
                Answer::ReplyAndClose("354 go ahead".into())
            }
            _ => Answer::Usual,
        });
        let stagepost = lab.stagepost().start();
        let mut client = stagepost.login();
        assert_eq!(client.submit(FROM, &[&format!("user@{domain}")], &large).code, 250);
        let received = mx.wait_for(1);
        stagepost.wait_until_idle(SOON);
        assert_eq!((mx.count(), mx.connections()), (1, 2), "{stage}");
        assert!(received[0].octets.ends_with(&large), "{stage}");
        assert_eq!(deferred(&stagepost), 1, "{stage}");
    }
}

#[test]
fn what_a_server_says_before_it_stops_listening_is_heard() {
    let lab = Lab::new();
    let (mx, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    mx.script(|step| match step {
        Step::Command { line, .. } if *line == "DATA" => {
            Answer::ReplyAndClose("354 go ahead\r\n552 5.3.4 this is more than I take".into())
        }
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().start();
    let octets = message::sized(FROM, "user@d1.test", "large", 10_000_000);
    assert_eq!(stagepost.login().submit(FROM, &["user@d1.test"], &octets).code, 250);
    until_true("an end or another attempt", SOON, || reports.count() > 0 || mx.connections() > 1);
    // The reply may be lost with the connection, as TCP has it; then the message comes again, until it is heard.
    let report = tests::report::read(&reports.wait_for(1)[0]);
    assert_eq!(report.of_one("status"), "5.3.4");
    stagepost.wait_until_idle(SOON);
}

#[test]
fn a_server_that_closes_its_connections_between_messages_loses_none_and_defers_none() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.script(|step| match step {
        // Kept, and then the connection is gone.
        Step::Dot { count, .. } if count % 2 == 0 => Answer::ReplyAndClose("250 2.0.0 kept".into()),
        Step::Dot { .. } => Answer::ReplyAndClose("250 2.0.0 kept\r\n421 4.4.2 enough for today".into()),
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().set("delivery.connections_max", 1_i64).start();
    send(&stagepost, 20, "d1.test");
    let received = mx.wait_for(20);
    stagepost.wait_until_idle(SOON);
    assert_eq!(mx.count(), 20);
    assert_eq!(recipients(&received), expected(20, "d1.test"));
    assert_eq!(deferred(&stagepost), 0);
}

#[test]
fn after_421_the_next_host_is_asked_in_the_same_attempt() {
    let lab = Lab::new();
    lab.dns.mx("d1.test", &[(10, "busy.test"), (20, "other.test")]);
    let (busy, other) = (lab.mx_host("busy.test"), lab.mx_host("other.test"));
    busy.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => {
            Answer::ReplyAndClose("421 4.3.2 going down".into())
        }
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().start();
    send(&stagepost, 1, "d1.test");
    other.wait_for(1);
    stagepost.wait_until_idle(SOON);
    assert_eq!((busy.count(), other.count(), deferred(&stagepost)), (0, 1, 0));
}

#[test]
fn we_call_ourselves_by_our_full_name() {
    let lab = Lab::new();
    let (new, old) = (lab.mx("new.test"), lab.mx("old.test"));
    old.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("EHLO") => Answer::reply("500 what?"),
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().start();
    send(&stagepost, 1, "new.test");
    send(&stagepost, 1, "old.test");
    for mx in [&new, &old] {
        assert_eq!(mx.wait_for(1)[0].helo, HOST);
    }
    assert_eq!(old.commands_of("HELO").len(), 1);
    // Without EHLO nothing is offered, so nothing is asked for.
    assert_eq!(old.messages()[0].mail, format!("MAIL FROM:<{FROM}>"));
}

/// Waits until the receiver has seen a final dot.
fn wait_for_dot(dots: &AtomicUsize) {
    until_true("a final dot", SOON, || dots.load(Ordering::Relaxed) > 0);
}

/// A receiver that takes so long to answer the first final dots.
fn slow_at_the_dot(lab: &Lab, slow: usize, pause: Duration) -> (Mx, std::sync::Arc<AtomicUsize>) {
    let mx = lab.mx("d1.test");
    let dots = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&dots);
    mx.script(move |step| match step {
        Step::Dot { count, .. } => {
            counted.fetch_add(1, Ordering::Relaxed);
            if *count < slow { Answer::Late(pause) } else { Answer::Usual }
        }
        _ => Answer::Usual,
    });
    (mx, dots)
}

#[test]
fn a_process_that_is_told_to_end_waits_for_the_answer_to_what_it_has_sent() {
    let lab = Lab::new();
    // All connections are in the middle of something, and more waits behind them.
    let (mx, dots) = slow_at_the_dot(&lab, 4, Duration::from_secs(3));
    let mut stagepost = lab.stagepost().set("delivery.connections_max", 4_i64).start();
    send(&stagepost, 40, "d1.test");
    wait_for_dot(&dots);
    let status = stagepost.stop(SOON);
    assert!(status.success(), "{status}");
    let before = mx.count();
    assert!((1..40).contains(&before), "{before} messages were delivered before the end");
    stagepost.start_again();
    let received = mx.wait_for(40);
    stagepost.wait_until_idle(SOON);
    assert_eq!(mx.count(), 40, "some came twice");
    assert_eq!(recipients(&received), expected(40, "d1.test"));
}

#[test]
fn a_server_that_never_answers_does_not_keep_the_process() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let dots = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&dots);
    mx.script(move |step| match step {
        Step::Dot { .. } if counted.fetch_add(1, Ordering::Relaxed) == 0 => Answer::Silence,
        _ => Answer::Usual,
    });
    let mut stagepost = lab.stagepost().set("delivery.drain_secs", 1_i64).start();
    send(&stagepost, 1, "d1.test");
    wait_for_dot(&dots);
    let status = stagepost.stop(SOON);
    assert!(status.success(), "{status}");
    stagepost.start_again();
    mx.wait_for(1);
    stagepost.wait_until_idle(SOON);
    assert_eq!(mx.count(), 1);
}

#[test]
fn being_told_to_end_over_and_over_loses_and_doubles_nothing() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.script(|step| match step {
        Step::Dot { .. } => Answer::Late(Duration::from_millis(50)),
        _ => Answer::Usual,
    });
    let mut stagepost = lab.stagepost().set("delivery.connections_max", 2_i64).start();
    send(&stagepost, 200, "d1.test");
    for round in 1..=5 {
        let goal = round * 20;
        until_true("some more messages", SOON, || mx.count() >= goal);
        let status = stagepost.stop(SOON);
        assert!(status.success(), "{status}");
        stagepost.start_again();
    }
    let received = mx.wait_for(200);
    stagepost.wait_until_idle(SOON);
    assert_eq!(mx.count(), 200, "some came twice");
    assert_eq!(recipients(&received), expected(200, "d1.test"));
}
