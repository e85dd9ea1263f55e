//! What leaves keeps the form of SMTP, whatever came in: line ends, dots, line lengths, octets over 127; and the signature
//! is over what left.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::process::Command;

use tests::address;
use tests::deadline::SOON;
use tests::judge;
use tests::lab::Lab;
use tests::message::{self, body, values};
use tests::mx::{Mx, Received};
use tests::process::run;
use tests::report;
use tests::smtp::{Client, Reply};

const FROM: &str = "hello@sender.test";

/// A message with this subject and body, which are kept as they are.
fn with_body(subject: &str, body: &[u8]) -> Vec<u8> {
    let header = format!(
        "From: {FROM}\r\nTo: user@d1.test\r\nSubject: {subject}\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\n\
         Message-ID: <{subject}@client.test>\r\n\r\n"
    );
    [header.as_bytes(), body].concat()
}

/// Submits in chunks of at most `chunk` octets, in which dots and line ends mean nothing (RFC 3030).
fn submit_in_chunks(client: &mut Client, octets: &[u8], chunk: usize) -> Reply {
    client.expect(&format!("MAIL FROM:<{FROM}> BODY=8BITMIME"), 250);
    client.expect("RCPT TO:<user@d1.test>", 250);
    let chunks: Vec<&[u8]> = octets.chunks(chunk).collect();
    let (last, before) = chunks.split_last().unwrap();
    for chunk in before {
        client.line(&format!("BDAT {}", chunk.len()));
        client.send(chunk);
        assert_eq!(client.reply().code, 250);
    }
    client.line(&format!("BDAT {} LAST", last.len()));
    client.send(last);
    client.reply()
}

fn with_subject<'a>(received: &'a [Received], subject: &str) -> &'a Received {
    let mut fitting = received.iter().filter(|message| values(&message.octets, "Subject") == [subject]);
    let found = fitting.next().unwrap_or_else(|| panic!("no message {subject:?} was received"));
    assert!(fitting.next().is_none(), "{subject:?} was received twice");
    found
}

/// Where a CR or LF stands that isn't part of a CRLF (RFC 5321 section 2.3.8).
fn bare_line_end(wire: &[u8]) -> Option<usize> {
    (0..wire.len()).find(|at| match wire[*at] {
        b'\r' => wire.get(at + 1) != Some(&b'\n'),
        b'\n' => *at == 0 || wire[at - 1] != b'\r',
        _ => false,
    })
}

fn assert_well_formed(lab: &Lab, received: &[Received]) {
    for message in received {
        let subject = values(&message.octets, "Subject");
        assert_eq!(bare_line_end(&message.wire), None, "{subject:?}");
        for line in message.octets.split_inclusive(|octet| *octet == b'\n') {
            assert!(line.len() <= 1000, "{subject:?}: a line of {} octets", line.len());
        }
        let octets: [&[u8]; 1] = [&message.octets];
        assert_eq!(judge::dkimpy(lab.dns.address(), &octets, lab.folder()), [Ok(())], "{subject:?}");
    }
}

#[test]
fn what_looks_like_an_end_of_data_stays_in_its_message() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    let smuggled =
        "MAIL FROM:<ceo@sender.test>\r\nRCPT TO:<victim@d1.test>\r\nDATA\r\nSubject: smuggled\r\n\r\n.\r\n";
    // Lines of a dot and nothing else, with one of another length in front: wherever a buffer ends, some line is cut there.
    let all_dots = |shift: usize| format!("{}\r\n{}", "x".repeat(shift), ".\r\n".repeat(60_000));
    let bodies = [
        format!("hello\r\n.\r\n{smuggled}"),
        format!(".\r\n{smuggled}"),
        format!("..\r\n.\r\n..\r\n...\r\n.x\r\n. \r\n{smuggled}"),
        all_dots(1),
        all_dots(2),
        all_dots(3),
    ];
    for (number, body) in bodies.iter().enumerate() {
        let octets = with_body(&format!("dots-{number}"), body.as_bytes());
        for chunk in [7_000, 65_536] {
            let octets = message::without(&octets, &["subject"]);
            let octets = [format!("Subject: dots-{number}-{chunk}\r\n").as_bytes(), &octets].concat();
            assert_eq!(submit_in_chunks(&mut client, &octets, chunk).code, 250);
        }
    }
    let received = mx.wait_for(2 * bodies.len());
    stagepost.wait_until_idle(SOON);
    assert_eq!(mx.count(), 2 * bodies.len());
    for (number, expected) in bodies.iter().enumerate() {
        for chunk in [7_000, 65_536] {
            let message = with_subject(&received, &format!("dots-{number}-{chunk}"));
            assert!(body(&message.octets) == expected.as_bytes(), "dots-{number}-{chunk} was changed");
            assert_eq!(message.recipients(), ["user@d1.test"]);
        }
    }
    assert_well_formed(&lab, &received);
    let odd = mx.commands().into_iter().find(|(_, line)| line.contains("ceo@") || line.contains("victim@"));
    assert_eq!(odd, None);
}

#[test]
fn a_bare_line_end_never_reaches_the_wire() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    for bare in ["a\nb", "a\rb", "a\n.\nb", "a\r.\rb", "a\n.\r\nb", "a\r\n.\nb", "a\r\r\nb", "\n", "a\r\n\rb"]
    {
        let octets = with_body("bare", format!("{bare}\r\n").as_bytes());
        let reply = submit_in_chunks(&mut client, &octets, 1 << 20);
        assert_eq!(reply.code / 100, 5, "{bare:?}: {reply:?}");
        client.expect("RSET", 250);
        let in_header = octets.replace(b"Subject: bare", format!("X-A: {bare}\r\nSubject: bare").as_bytes());
        let reply = submit_in_chunks(&mut client, &in_header, 1 << 20);
        assert_eq!(reply.code / 100, 5, "in the header, {bare:?}: {reply:?}");
        client.expect("RSET", 250);
    }
    // What a command line gives has the line ends of the system.
    let text = "one\n.\ntwo\r\n.\r\nthree\rfour\n..";
    let subject = "from a shell";
    stagepost.ask(&[
        "send",
        "--account",
        "shop",
        "--from",
        FROM,
        "--to",
        "user@d1.test",
        "--subject",
        subject,
        "--text",
        text,
    ]);
    assert_eq!(client.submit(FROM, &["user@d1.test"], &with_body("good", b"good\r\n")).code, 250);
    let received = mx.wait_for(2);
    stagepost.wait_until_idle(SOON);
    assert_eq!(mx.count(), 2);
    with_subject(&received, "good");
    let sent = with_subject(&received, subject).text();
    assert!(sent.ends_with("\r\n\r\none\r\n.\r\ntwo\r\n.\r\nthree\r\nfour\r\n..\r\n"), "{sent:?}");
    assert_well_formed(&lab, &received);
}

trait Replace {
    fn replace(&self, old: &[u8], new: &[u8]) -> Vec<u8>;
}

impl Replace for Vec<u8> {
    /// With the first `old` replaced.
    fn replace(&self, old: &[u8], new: &[u8]) -> Vec<u8> {
        let at = self.windows(old.len()).position(|octets| octets == old).unwrap();
        [&self[..at], new, &self[at + old.len()..]].concat()
    }
}

#[test]
fn a_line_of_998_octets_passes_and_a_longer_one_is_refused() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    let long = |octets: usize| format!("{}\r\n", "x".repeat(octets));
    // The first shift moves what follows, so that long lines end at every place of the buffers on their way.
    let mut good: Vec<(String, Vec<u8>)> = (0..8)
        .map(|shift| {
            let lines = long(998).repeat(150);
            (
                format!("shift-{shift}"),
                with_body(&format!("shift-{shift}"), (long(shift) + &lines).as_bytes()),
            )
        })
        .collect();
    // A stuffed dot is not counted (RFC 5321 section 4.5.3.1.6).
    good.push(("dot".into(), with_body("dot", format!(".{}\r\n", "x".repeat(997)).as_bytes())));
    let references: Vec<String> = (0..40).map(|number| format!("<{number}.reference@client.test>")).collect();
    let folded = format!("References: {}\r\nSubject: folded", references.join("\r\n "));
    good.push((
        "folded".into(),
        with_body("folded", b"x\r\n").replace(b"Subject: folded", folded.as_bytes()),
    ));
    let field = format!("X-Long: {}\r\nSubject: field", "x".repeat(990));
    good.push(("field".into(), with_body("field", b"x\r\n").replace(b"Subject: field", field.as_bytes())));
    for (name, octets) in &good {
        let reply = client.submit(FROM, &["user@d1.test"], octets);
        assert_eq!(reply.code, 250, "{name}: {reply:?}");
    }
    let in_one_line = format!("References: {}\r\nSubject: bad", references.join(" "));
    for bad in [
        with_body("bad", long(999).as_bytes()),
        with_body("bad", format!("x\r\n{}y\r\n", long(5000)).as_bytes()),
        with_body("bad", b"x\r\n").replace(b"Subject: bad", in_one_line.as_bytes()),
    ] {
        let reply = client.submit(FROM, &["user@d1.test"], &bad);
        assert!(
            reply.code / 100 == 5 && reply.enhanced().is_some_and(|code| code.starts_with("5.6.")),
            "{reply:?}"
        );
    }
    let received = mx.wait_for(good.len());
    stagepost.wait_until_idle(SOON);
    assert_eq!(mx.count(), good.len());
    for (name, octets) in &good {
        let message = with_subject(&received, name);
        assert!(body(&message.octets) == body(octets), "{name} was changed");
    }
    assert_well_formed(&lab, &received);
}

/// UTF-8 text, its kind and encoding declared.
fn eight_bit(subject: &str, text: &str) -> Vec<u8> {
    with_body(subject, text.replace('\n', "\r\n").as_bytes()).replace(
        b"\r\n\r\n",
        b"\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
    )
}

/// The text that a mail program shows.
fn shown(octets: &[u8]) -> String {
    let mut command = Command::new(address::cache().join("python/bin/python3"));
    command.arg(address::tests_folder().join("clients/python/read_message.py"));
    let output = run(command, octets);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    read["text"].as_str().unwrap().to_owned()
}

fn submit_eight_bit(client: &mut Client, recipients: &[&str], octets: &[u8]) {
    let recipients: Vec<String> =
        recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let reply = client.transaction(&format!("MAIL FROM:<{FROM}> BODY=8BITMIME"), &recipients, octets);
    assert_eq!(reply.code, 250, "{reply:?}");
}

/// A receiver whose server takes seven bits only.
fn seven_bit_mx(lab: &Lab, domain: &str) -> Mx {
    let mx = lab.mx(domain);
    mx.extensions(&["PIPELINING", "SIZE 50000000"]);
    mx
}

#[test]
fn a_server_without_8bitmime_gets_seven_bits_that_say_the_same() {
    let lab = Lab::new();
    let (old, new) = (seven_bit_mx(&lab, "old.test"), lab.mx("new.test"));
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    let text = "Grüße aus Köln.\n.\nA line that is long enough to need a soft line break, = and then a blank: ß \nFrom here\n";
    let octets = eight_bit("umlauts", text);
    submit_eight_bit(&mut client, &["user@old.test", "user@new.test"], &octets);
    let ascii = with_body("ascii", b"plain\r\n");
    submit_eight_bit(&mut client, &["user@old.test"], &ascii);

    let untouched = new.wait_for(1);
    assert!(untouched[0].octets.ends_with(&octets), "{}", untouched[0].text());
    assert!(untouched[0].mail.contains("BODY=8BITMIME"), "{}", untouched[0].mail);
    let received = old.wait_for(2);
    stagepost.wait_until_idle(SOON);
    let converted = with_subject(&received, "umlauts");
    assert!(converted.wire.is_ascii(), "{}", converted.text());
    assert!(!converted.mail.contains("8BITMIME"), "{}", converted.mail);
    assert_eq!(shown(&converted.octets).replace("\r\n", "\n"), text);
    // What fits as it is, isn't touched.
    assert!(with_subject(&received, "ascii").octets.ends_with(&ascii));
    assert_well_formed(&lab, &received);
    assert_well_formed(&lab, &untouched);
}

#[test]
fn what_cannot_be_said_in_seven_bits_goes_back_to_its_sender() {
    let lab = Lab::new();
    let (old, reports) = (seven_bit_mx(&lab, "old.test"), seven_bit_mx(&lab, "sender.test"));
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    // A conversion would break the inner signature.
    let signed = "--b\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGrüße\n--b\n\
                  Content-Type: application/pgp-signature\n\nx\n--b--\n";
    let octets = with_body("signed", signed.replace('\n', "\r\n").as_bytes()).replace(
        b"\r\n\r\n",
        b"\r\nMIME-Version: 1.0\r\nContent-Type: multipart/signed; protocol=\"application/pgp-signature\"; boundary=b\r\n\r\n",
    );
    submit_eight_bit(&mut client, &["user@old.test"], &octets);
    let received = reports.wait_for(1);
    stagepost.wait_until_idle(SOON);
    let report = report::read(&received[0]);
    assert_eq!((report.of_one("status"), report.of_one("action")), ("5.6.3", "failed"));
    // The report itself has to go to a server that takes seven bits, and so without the message's text.
    assert_eq!(report.returned_type.as_deref(), Some("text/rfc822-headers"));
    assert!(received[0].wire.is_ascii(), "{}", received[0].text());
    assert_eq!((old.count(), reports.count()), (0, 1));
    assert_well_formed(&lab, &received);
}

#[test]
fn a_message_larger_than_a_server_takes_goes_back_without_being_sent() {
    let lab = Lab::new();
    let (mx, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    // RFC 1870: what is announced counts with all that stands in it, our signature among it.
    mx.extensions(&["PIPELINING", "SIZE 20000"]);
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    let large = message::sized(FROM, "user@d1.test", "large", 20_000);
    let small = message::sized(FROM, "user@d1.test", "small", 15_000);
    for octets in [&large, &small] {
        assert_eq!(client.submit(FROM, &["user@d1.test"], octets).code, 250);
    }
    let received = mx.wait_for(1);
    let report = report::read(&reports.wait_for(1)[0]);
    stagepost.wait_until_idle(SOON);
    assert_eq!((report.of_one("status"), report.of_one("action")), ("5.3.4", "failed"));
    assert!(received[0].octets.ends_with(&small));
    assert!(received[0].mail.contains(&format!("SIZE={}", received[0].octets.len())), "{}", received[0].mail);
    assert_eq!((mx.count(), mx.commands_of("MAIL").len(), reports.count()), (1, 1, 1));
}
