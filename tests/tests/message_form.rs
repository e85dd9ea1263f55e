//! A message goes out as it was submitted, with what is missing added once, or it is refused with what is wrong; and who changes it
//! afterwards breaks its signature.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::time::{Duration, Instant};

use tests::deadline::SOON;
use tests::judge;
use tests::lab::Lab;
use tests::message::{self, values};
use tests::smtp::{Client, Reply, stuffed};
use tests::stagepost::Stagepost;

const FROM: &str = "hello@sender.test";

fn submit(client: &mut Client, octets: &[u8]) -> Reply {
    client.submit(FROM, &["b@d1.test"], octets)
}

#[test]
fn what_is_missing_is_added_once_bcc_goes_and_the_rest_stays_as_it_is() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    let fields = "X-Odd:   spaces\t \r\nsubject:folded\r\n\tand  more\r\nX-Empty:\r\n";
    let body = "  body \r\n\r\n\r\nlast  \r\n";
    let bare = format!("From: {FROM}\r\nBcc: hidden@d9.test,\r\n other@d9.test\r\n{fields}\r\n{body}");
    let whole = format!(
        "date: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-Id: <mine@client.test>\r\nFrom: {FROM}\r\n{fields}\r\n{body}"
    );
    for (sent, count) in [&bare, &whole].into_iter().zip(1..) {
        submit(&mut client, sent.as_bytes()).queue_id();
        let received = mx.wait_for(count).remove(count - 1);
        let text = received.text();
        assert!(text.contains(fields) && text.ends_with(&format!("\r\n\r\n{body}")), "{text}");
        assert!(!text.contains("hidden"), "{text}");
        for name in ["Date", "Message-ID", "Received", "From"] {
            assert_eq!(values(&received.octets, name).len(), 1, "{name} in {text}");
        }
        assert_eq!(text.contains("<mine@client.test>"), sent.contains("<mine@client.test>"));
        let trace = values(&received.octets, "Received").remove(0);
        for fact in ["from client.test", "[127.0.0.1]", "by stagepost.test", "with ESMTPSA", "TLS", "\tid "] {
            assert!(trace.contains(fact), "no {fact:?} in {trace}");
        }
        assert!(text.find("Received:").unwrap() < text.find("X-Odd:").unwrap());
    }
}

#[test]
fn a_broken_header_is_refused_and_what_is_taken_is_signed_right() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    let from = format!("From: {FROM}\r\n");
    let (mut taken, refused) = (0, (554, Some("5.6.0".to_owned())));
    for (text, good) in [
        (String::new(), false),
        ("hello\r\n".into(), false),
        (" folded first\r\n\r\n".into(), false),
        (format!("From a@b Mon Jan  1 00:00:00 2026\r\n{from}\r\n"), false),
        (format!("NoColon\r\n{from}\r\n"), false),
        ("Subject: no author\r\n\r\n".into(), false),
        (format!("{from}{from}\r\n"), false),
        (from.clone(), true),
        (format!("{from}\r\n"), true),
        (format!("{from}\r\n\r\n\r\n"), true),
        (format!("{from}Message-ID:\r\n\r\nempty id\r\n"), true),
        (format!("{from}Bcc: x@d9.test\r\n\r\nx"), true),
    ] {
        let reply = submit(&mut client, text.as_bytes());
        if good {
            reply.queue_id();
            taken += 1;
        } else {
            assert_eq!((reply.code, reply.enhanced().map(str::to_owned)), refused, "{text:?}: {reply:?}");
            client = stagepost.login();
        }
    }
    let received = mx.wait_for(taken);
    stagepost.wait_until_idle(SOON);
    let octets: Vec<&[u8]> = received.iter().map(|received| received.octets.as_slice()).collect();
    for (verdict, octets) in judge::dkimpy(lab.dns.address(), &octets, lab.folder()).into_iter().zip(&octets)
    {
        assert!(verdict.is_ok(), "{verdict:?}\n{}", String::from_utf8_lossy(octets));
    }
}

#[test]
fn who_adds_a_field_or_text_on_the_way_breaks_the_signatures() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let octets = message::text(FROM, "b@d1.test", "An invoice", "Pay 10 EUR.");
    submit(&mut stagepost.login(), &octets).queue_id();
    let signed = mx.wait_for(1).remove(0).octets;
    let tags = values(&signed, "DKIM-Signature").join(";");
    assert!(!tags.split(';').any(|tag| tag.trim().starts_with("l=")), "{tags}");
    let mut all = vec![signed.clone()];
    for field in [
        "From: ceo@sender.test\r\n",
        "Subject: Pay at once\r\n",
        "To: c@d1.test\r\n",
        "Reply-To: evil@evil.test\r\n",
        "Content-Type: text/html\r\n",
        "Date: Thu, 26 Nov 2026 12:00:00 +0000\r\n",
        "Message-ID: <other@evil.test>\r\n",
        "Cc: d@d1.test\r\n",
        "MIME-Version: 1.0\r\n",
    ] {
        all.push([field.as_bytes(), &signed].concat());
    }
    all.push([&signed, b"More.\r\n".as_slice()].concat());
    let octets: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    let mail_auth = judge::MailAuth::new(&lab.dns);
    for verdicts in [
        judge::dkimpy(lab.dns.address(), &octets, lab.folder()),
        octets.iter().map(|octets| mail_auth.judge(octets)).collect(),
    ] {
        let passed: Vec<bool> = verdicts.iter().map(Result::is_ok).collect();
        assert!(passed[0], "{:?}", verdicts[0]);
        assert!(passed[1..].iter().all(|passed| !passed), "{passed:?}");
    }
}

/// What a message gets, and that it gets it in good time, with memory in bounds and others served meanwhile.
fn answered(stagepost: &Stagepost, octets: &[u8]) -> Reply {
    let (mut client, mut other) = (stagepost.login(), stagepost.login());
    client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
    client.expect("RCPT TO:<b@d1.test>", 250);
    client.expect("DATA", 354);
    let before = stagepost.process().resident();
    stagepost.process().forget_resident_peak();
    client.send(&stuffed(octets));
    let sent = Instant::now();
    other.expect("NOOP", 250);
    let reply = client.reply();
    assert!(sent.elapsed() < Duration::from_secs(20), "{reply:?} after {:?}", sent.elapsed());
    let growth = stagepost.process().resident_peak().saturating_sub(before);
    assert!(growth < 3 * octets.len() as u64 + (16 << 20), "{growth} octets for {}", octets.len());
    client.expect("NOOP", 250);
    reply
}

#[test]
fn a_huge_header_is_refused_for_its_size_quickly_and_a_large_one_goes_through() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let from =
        format!("From: {FROM}\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@client.test>\r\n");
    let folded = |count: usize| {
        format!("{from}Subject: a\r\n{}\r\nbody\r\n", format!(" {}\r\n", "b".repeat(70)).repeat(count))
    };
    for huge in [
        folded(24_000_000 / 73),
        format!("{from}{}\r\nbody\r\n", "X-A: b\r\n".repeat(500_000)),
        format!(
            "{from}{}\r\nbody\r\n",
            "DKIM-Signature: v=1; a=rsa-sha256; d=x.test; b=y\r\n".repeat(20_000)
        ),
    ] {
        let reply = answered(&stagepost, huge.as_bytes());
        assert_eq!((reply.code, reply.enhanced()), (552, Some("5.3.4")), "{reply:?}");
    }
    let large = folded(400_000 / 73);
    answered(&stagepost, large.as_bytes()).queue_id();
    let received = mx.wait_for(1).remove(0);
    assert!(received.text().ends_with(&large), "it isn't as it was");
    let verdict = judge::dkimpy(lab.dns.address(), &[&received.octets], lab.folder()).remove(0);
    assert!(verdict.is_ok(), "{verdict:?}");
}
