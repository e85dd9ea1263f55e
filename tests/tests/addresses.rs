//! Addresses go out as they came in, mail goes where they say and nowhere else, and nothing that is in them or beside them becomes
//! a line of its own anywhere.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use tests::deadline::SOON;
use tests::lab::Lab;
use tests::message;
use tests::mx::{Answer, Step};

const FROM: &str = "hello@sender.test";

#[test]
fn a_recipient_goes_to_its_own_domain_with_its_local_part_as_it_is() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    // Nobody asks them: what looks like a route isn't one any more (RFC 5321 appendix F.2).
    let others = [lab.mx("a.test"), lab.mx("evil.test")];
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    let paths = [
        ("<@a.test,@evil.test:route@d1.test>", "route"),
        ("<percent%evil.test@d1.test>", "percent%evil.test"),
        ("<evil.test!bang@d1.test>", "evil.test!bang"),
        ("<UsEr+Tag@D1.Test>", "UsEr+Tag"),
        ("<\"quoted local part\"@d1.test>", "\"quoted local part\""),
        ("<\"a@evil.test\"@d1.test>", "\"a@evil.test\""),
        ("<o'hara=/?^_`{|}~#$&*-@d1.test>", "o'hara=/?^_`{|}~#$&*-"),
    ];
    for ((path, _), count) in paths.iter().zip(1..) {
        client.expect(&format!("mAiL fRoM:<{FROM}> BODY=8bitmime"), 250);
        client.expect(&format!("rcpt to:{path}"), 250);
        client.expect("data", 354);
        client.send(format!("From: {FROM}\r\n\r\n{path}\r\n.\r\n").as_bytes());
        client.reply().queue_id();
        mx.wait_for(count);
    }
    let received = mx.messages();
    for (received, (path, local_part)) in received.iter().zip(paths) {
        let address = received.recipients()[0].to_owned();
        let (local, domain) = address.rsplit_once('@').unwrap();
        assert_eq!((local, domain.to_ascii_lowercase().as_str()), (local_part, "d1.test"), "{path}");
        assert_eq!(message::body(&received.octets), format!("{path}\r\n").as_bytes());
    }
    stagepost.wait_until_idle(SOON);
    assert!(others.iter().all(|mx| mx.connections() == 0), "somebody else was asked");
}

#[test]
fn what_is_no_address_is_refused_where_it_is_named_and_the_session_goes_on() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
    let long = |count: usize| "x".repeat(count);
    let bad = [
        "<u@>".to_owned(),
        "<@d1.test>".into(),
        "<u@d1..test>".into(),
        "<u@-d1.test>".into(),
        "<u u@d1.test>".into(),
        "<\"a\x01b\"@d1.test>".into(),
        "<u@[999.1.1.1]>".into(),
        "<u@[IPv6:::g]>".into(),
        format!("<{}@d1.test>", long(65)),
        format!("<u@{}.test>", long(64)),
        "u@d1.test".into(),
    ];
    for (path, number) in bad.iter().zip(0..) {
        let reply = client.command(&format!("RCPT TO:{path}"));
        assert!([501, 550, 553].contains(&reply.code), "{path}: {reply:?}");
        assert!(reply.enhanced().is_some_and(|code| code.starts_with("5.")), "{path}: {reply:?}");
        assert!(!reply.text().chars().any(char::is_control), "{reply:?}");
        if number % 8 == 7 {
            // Errors are counted; an honest client would have gone by now.
            client = stagepost.login();
            client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
        }
    }
    client.expect(&format!("RCPT TO:<{}@d1.test>", long(64)), 250);
    client.expect("DATA", 354);
    client.send(format!("From: {FROM}\r\n\r\nHello.\r\n.\r\n").as_bytes());
    client.reply().queue_id();
    assert_eq!(mx.wait_for(1).len(), 1);
}

#[test]
fn no_parameter_becomes_a_line_of_a_message_a_report_a_log_or_the_next_hop() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT TO:<refused") => {
            Answer::reply("550 5.1.1 nobody")
        }
        _ => Answer::Usual,
    });
    let sender = lab.mx("sender.test");
    let stagepost = lab.stagepost().set("log_format", "json").start();
    let evil = ["X-Evil", "+0D+0A"];
    let mut accepted = 0;
    for (mail, rcpt) in [
        ("AUTH=x+0D+0AX-Evil:+20v", ""),
        ("ENVID=q+0D+0AX-Evil:1", ""),
        ("", "ORCPT=rfc822;b+0D+0AX-Evil:+20y"),
        ("ENVID=honest+2Bplus", "ORCPT=rfc822;refused+40d1.test NOTIFY=FAILURE"),
    ] {
        let mut client = stagepost.login();
        let reply = client.command(&format!("MAIL FROM:<{FROM}> {mail}"));
        if reply.code != 250 {
            assert_eq!((reply.code, reply.enhanced()), (501, Some("5.5.4")), "{mail}: {reply:?}");
            continue;
        }
        let reply = client.command(&format!("RCPT TO:<refused@d1.test> {rcpt}"));
        if reply.code != 250 {
            assert_eq!((reply.code, reply.enhanced()), (501, Some("5.5.4")), "{rcpt}: {reply:?}");
            continue;
        }
        client.expect("DATA", 354);
        client.send(format!("From: {FROM}\r\n\r\nHello.\r\n.\r\n").as_bytes());
        client.reply().queue_id();
        accepted += 1;
    }
    assert!(accepted >= 1, "the honest one at least");
    // A name in EHLO that carries a line.
    let mut client = stagepost.client();
    client.send(b"EHLO a\rX-Evil: 1\r\n");
    assert_eq!(client.reply().code / 100, 5);

    let reports = sender.wait_for(accepted);
    stagepost.wait_until_idle(SOON);
    let texts =
        reports.iter().map(tests::mx::Received::text).chain(mx.commands().into_iter().map(|(_, line)| line));
    for text in texts {
        assert!(text.lines().all(|line| !line.starts_with(evil[0])), "{text}");
    }
    for line in stagepost.log().lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok(),
            "a log line that is no JSON: {line}"
        );
    }
}
