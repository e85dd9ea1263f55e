//! Addresses and domains beyond ASCII (RFC 6531, RFC 5891).
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use tests::deadline::SOON;
use tests::judge;
use tests::lab::Lab;
use tests::message::{self, values};
use tests::mx::{Received, Tls};
use tests::report;
use tests::smtp::Client;

const ASCII: &[&str] = &["PIPELINING", "8BITMIME", "SIZE 52428800", "DSN"];

fn subjects(received: &[Received]) -> Vec<String> {
    let mut subjects: Vec<_> =
        received.iter().flat_map(|message| values(&message.octets, "Subject")).collect();
    subjects.sort();
    subjects
}

fn send(client: &mut Client, from: &str, recipients: &[&str], octets: &[u8]) {
    let recipients: Vec<String> =
        recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let mail = format!("MAIL FROM:<{from}> BODY=8BITMIME SMTPUTF8");
    let reply = client.transaction(&mail, &recipients, octets);
    assert_eq!(reply.code, 250, "{reply:?}");
}

#[test]
fn both_spellings_of_a_domain_are_one_domain() {
    let lab = Lab::new();
    let host = "mx.xn--mnchen-3ya.test";
    lab.dns.mx("xn--mnchen-3ya.test", &[(10, host)]);
    let mx = lab.mx_host(host);
    mx.extensions(ASCII);
    mx.tls(Tls::Works(lab.authority.issue(&[host]).server()));
    // The certificate must name the host as DNS does.
    let authority = lab.folder().join("ca.pem");
    std::fs::write(&authority, lab.authority.pem()).unwrap();
    let setup = lab.stagepost().set("delivery.tls", "verify");
    let stagepost = setup.set("delivery.ca_file", authority.to_str().unwrap()).start();
    stagepost.domain("shop", "bücher.test", &lab.dns);
    let taken = stagepost.try_ask(&["domain", "add", "xn--bcher-kva.test", "--account", "shop"]);
    assert!(taken.is_err(), "the other spelling is another domain: {taken:?}");

    let mut client = stagepost.login();
    let octets = message::text("hello@xn--bcher-kva.test", "you@xn--mnchen-3ya.test", "both", "Hello.");
    send(
        &mut client,
        "hello@bücher.test",
        &["a@xn--mnchen-3ya.test", "b@MÜNCHEN.test", "c@münchen.TEST"],
        &octets,
    );
    let received = mx.wait_for(1);
    stagepost.wait_until_idle(SOON);
    let message = &received[0];
    assert!(message.tls);
    assert_eq!(message.reverse_path(), "hello@xn--bcher-kva.test");
    let recipients = ["a@xn--mnchen-3ya.test", "b@xn--mnchen-3ya.test", "c@xn--mnchen-3ya.test"];
    assert_eq!((mx.count(), message.recipients()), (1, recipients.to_vec()));
    assert!(!message.mail.contains("SMTPUTF8"), "{}", message.mail);
    let signatures = values(&message.octets, "DKIM-Signature");
    assert!(!signatures.is_empty());
    for signature in signatures {
        assert!(signature.contains("d=xn--bcher-kva.test;"), "{signature}");
    }
    assert_eq!(judge::mail_auth(&lab.dns, &message.octets), Ok(()));
    let odd =
        lab.dns.log().into_iter().find(|query| query.name.contains("nchen") && !query.name.contains("xn--"));
    assert_eq!(odd, None);
}

#[test]
fn a_domain_that_idna_refuses_is_refused_as_a_recipient() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    client.expect("MAIL FROM:<hello@sender.test> SMTPUTF8", 250);
    for domain in ["xn--a.test", "xn--mnchen-3yb\u{301}.test", "xn--.test", "a..test", "\u{200b}.test"] {
        let reply = client.command(&format!("RCPT TO:<user@{domain}>"));
        let fits =
            matches!(reply.code, 501 | 553) && reply.enhanced().is_some_and(|code| code.starts_with("5.1."));
        assert!(fits, "{domain}: {reply:?}");
    }
    client.expect("RCPT TO:<user@xn--mnchen-3ya.test>", 250);
}

#[test]
fn mail_that_needs_smtputf8_goes_back_where_it_is_not_offered() {
    let lab = Lab::new();
    let (ascii, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    ascii.extensions(ASCII);
    let stagepost = lab.stagepost().set("delivery.connections_max", 1_i64).start();
    let mut client = stagepost.login();
    let octets = message::text("ü@sender.test", "u@d1.test", "international", "Hello.");
    send(&mut client, "ü@sender.test", &["u@d1.test"], &octets);
    let received = reports.wait_for(1);
    // Mail in ASCII isn't held up by its having been announced, on the same connection or another.
    for number in 0..3 {
        let octets = message::text("hello@sender.test", "u@d1.test", &format!("ascii-{number}"), "Hello.");
        send(&mut client, "hello@sender.test", &["u@d1.test"], &octets);
    }
    let delivered = ascii.wait_for(3);
    stagepost.wait_until_idle(SOON);
    assert_eq!(subjects(&delivered), ["ascii-0", "ascii-1", "ascii-2"]);
    assert!(delivered.iter().all(|message| !message.mail.contains("SMTPUTF8")), "{delivered:?}");
    assert!(ascii.commands().iter().all(|(_, line)| line.is_ascii()), "{:?}", ascii.commands());

    let report = report::read(&received[0]);
    assert_eq!((report.of_one("status"), report.of_one("action")), ("5.6.7", "failed"));
    assert_eq!(received[0].recipients(), ["ü@sender.test"]);
    // This report can go to its recipient only so.
    assert!(received[0].mail.contains("SMTPUTF8"), "{}", received[0].mail);
    assert_eq!(reports.count(), 1);
    assert_eq!(judge::mail_auth(&lab.dns, &received[0].octets), Ok(()));
}

#[test]
fn only_the_recipients_that_need_smtputf8_fail() {
    let lab = Lab::new();
    let (ascii, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    ascii.extensions(ASCII);
    reports.extensions(ASCII);
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    let octets = message::text("hello@sender.test", "u@d1.test", "mixed", "Hello.");
    send(&mut client, "hello@sender.test", &["ü@d1.test", "u@d1.test"], &octets);
    let received = reports.wait_for(1);
    stagepost.wait_until_idle(SOON);
    assert_eq!(ascii.wait_for(1)[0].recipients(), ["u@d1.test"]);
    let report = report::read(&received[0]);
    assert_eq!(report.of_one("status"), "5.6.7");
    // RFC 6533 section 3: the form of an address beyond ASCII that every server can carry.
    assert_eq!(report.of_one("final-recipient"), "utf-8; \\x{FC}@d1.test");
    assert!(received[0].wire.is_ascii(), "{}", received[0].text());
    assert_eq!((ascii.count(), reports.count()), (1, 1));
}

#[test]
fn a_report_that_its_recipient_cannot_take_ends_there() {
    let lab = Lab::new();
    let (ascii, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    ascii.extensions(ASCII);
    reports.extensions(ASCII);
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    let octets = message::text("ü@sender.test", "u@d1.test", "lost", "Hello.");
    send(&mut client, "ü@sender.test", &["u@d1.test"], &octets);
    stagepost.wait_until_idle(SOON);
    // It isn't tried over and over, and nobody is told of it.
    assert_eq!((ascii.count(), reports.count(), reports.commands_of("MAIL").len()), (0, 0, 0));
}

#[test]
fn a_connection_carries_mail_of_both_kinds() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().set("delivery.connections_max", 1_i64).start();
    let mut client = stagepost.login();
    let expected: Vec<(String, bool)> =
        (0..8).map(|number| (format!("kind-{number}"), number % 2 == 0)).collect();
    for (subject, international) in &expected {
        let from = if *international { "ü@sender.test" } else { "hello@sender.test" };
        send(&mut client, from, &["u@d1.test"], &message::text(from, "u@d1.test", subject, "Hello."));
    }
    let received = mx.wait_for(8);
    stagepost.wait_until_idle(SOON);
    for (subject, international) in expected {
        let found =
            received.iter().find(|message| values(&message.octets, "Subject") == [subject.as_str()]).unwrap();
        assert_eq!(found.mail.contains("SMTPUTF8"), international, "{subject}: {}", found.mail);
    }
    assert_eq!(mx.connections(), 1);
}
