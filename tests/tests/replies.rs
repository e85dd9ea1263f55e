//! What a receiver says, and in which pieces: each reply belongs to one command, its first digit decides, and its text harms
//! nobody.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tests::deadline::{SOON, until_true};
use tests::lab::Lab;
use tests::ledger::{failed_recipients, reported};
use tests::message::{self, values};
use tests::mx::{Answer, Mx, Step};
use tests::report;
use tests::stagepost::Stagepost;

const FROM: &str = "hello@sender.test";

fn send(stagepost: &Stagepost, recipients: &[&str]) {
    let mut client = stagepost.login();
    for recipient in recipients {
        let subject = recipient.split('@').next().unwrap();
        let octets = message::text(FROM, recipient, subject, "Hello.");
        assert_eq!(client.submit(FROM, &[recipient], &octets).code, 250);
    }
}

/// The recipients of all messages at the receiver, sorted.
fn delivered(mx: &Mx) -> Vec<String> {
    let messages = mx.messages();
    let mut all: Vec<String> =
        messages.iter().flat_map(|message| message.recipients()).map(str::to_owned).collect();
    all.sort();
    all
}

#[test]
fn replies_in_any_pieces_belong_to_their_commands() {
    let lab = Lab::new();
    let (mx, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    let in_pieces = |text: &str| Answer::octet_by_octet(text, Duration::ZERO);
    mx.script(move |step| match step {
        Step::Connect { .. } => in_pieces("220-mx.d1.test\r\n220-is\r\n220 here\r\n"),
        Step::Command { line, .. } if line.starts_with("EHLO") => {
            in_pieces("250-mx.d1.test hi\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 1000000\r\n")
        }
        Step::Command { line, .. } if line.starts_with("MAIL") => in_pieces("250\r\n"),
        Step::Command { line, .. } if line.contains("<refused") => {
            in_pieces("550-5.1.1 nobody\r\n550-5.1.1 of this name\r\n550 5.1.1 is here\r\n")
        }
        Step::Command { line, .. } if line.starts_with("RCPT") => in_pieces("250-2.1.5 good\r\n250 \r\n"),
        Step::Command { line, .. } if *line == "DATA" => in_pieces("354-go\r\n354 ahead\r\n"),
        Step::Dot { message, .. } if message.text().contains("<late") => {
            in_pieces("554-no\r\n554 5.6.0 never\r\n")
        }
        Step::Dot { .. } => in_pieces("250-2.0.0 a\r\n250-2.0.0 b\r\n250 2.0.0 c\r\n"),
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().set("delivery.connections_max", 1_i64).start();
    let names: Vec<String> = (0..20)
        .map(|number| {
            let kind = ["good", "refused", "good", "late"][number % 4];
            format!("{kind}{number:02}@d1.test")
        })
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    send(&stagepost, &names);
    stagepost.wait_until_idle(SOON);
    let (good, bad): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.starts_with("good"));
    assert_eq!(delivered(&mx), good);
    let mut failed: Vec<String> =
        reports.messages().iter().flat_map(|report| failed_recipients(&report.octets)).collect();
    failed.sort();
    let mut bad: Vec<String> = bad.iter().map(|name| (*name).to_owned()).collect();
    bad.sort();
    assert_eq!(failed, bad);
    assert_eq!(mx.connections(), 1);
}

#[test]
fn what_is_no_reply_ends_the_connection_and_the_message_comes_again() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    let long = "250-x\r\n".repeat(5000);
    // Each is what the first RCPT gets.
    let table: Vec<(&str, &str)> = vec![
        ("mixed", "250-x\r\n550 y\r\n"),
        ("mixedback", "550-x\r\n250 y\r\n"),
        ("endless", &long),
        ("letters", "xyz\r\n"),
        ("short", "25\r\n"),
        ("empty", "\r\n"),
        ("glued", "250ok\r\n"),
        ("preliminary", "150 wait\r\n"),
        ("beyond", "650 what\r\n"),
        ("doubled", "250 ok\r\n250 once more\r\n"),
        ("intermediate", "354 go ahead\r\n"),
        ("binary", "\0\u{1}\u{2}\r\n"),
    ];
    let servers: Vec<Mx> = table
        .iter()
        .map(|(name, reply)| {
            let mx = lab.mx(&format!("{name}.test"));
            let reply = (*reply).to_owned();
            mx.script(move |step| match step {
                Step::Command { connection: 0, line, .. } if line.starts_with("RCPT") => {
                    Answer::Pieces(vec![reply.clone().into_bytes()], Duration::ZERO)
                }
                _ => Answer::Usual,
            });
            mx
        })
        .collect();
    let stagepost = lab.stagepost().start();
    let recipients: Vec<String> = table.iter().map(|(name, _)| format!("user@{name}.test")).collect();
    send(&stagepost, &recipients.iter().map(String::as_str).collect::<Vec<_>>());
    stagepost.wait_until_idle(SOON);
    for (mx, recipient) in servers.iter().zip(&recipients) {
        assert_eq!(delivered(mx), [recipient.as_str()]);
        // The message came by a connection of which nothing odd had come.
        assert_eq!((mx.messages()[0].connection, mx.connections()), (1, 2), "{recipient}");
    }
    assert_eq!(reports.count(), 0);
}

#[test]
fn a_reply_too_many_is_never_taken_for_that_of_the_next_message() {
    let lab = Lab::new();
    let (mx, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    mx.script(|step| match step {
        Step::Dot { message, .. } if message.text().contains("<first") => Answer::Pieces(
            vec![b"250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n".to_vec()],
            Duration::ZERO,
        ),
        Step::Command { line, .. } if line.contains("<second") => Answer::reply("550 5.1.1 nobody"),
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().set("delivery.connections_max", 1_i64).start();
    send(&stagepost, &["first@d1.test", "second@d1.test", "third@d1.test"]);
    stagepost.wait_until_idle(SOON);
    assert_eq!(delivered(&mx), ["first@d1.test", "third@d1.test"]);
    assert!(reported(&reports.messages(), "second@d1.test"));
    assert_eq!(reports.count(), 1);
}

#[test]
fn an_endless_reply_takes_no_memory() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.script(|step| match step {
        Step::Connect { connection: 0 } => {
            Answer::Pieces(vec![b"220-x\r\n".repeat(100_000); 100], Duration::ZERO)
        }
        Step::Connect { connection: 1 } => Answer::Pieces(vec![vec![b'2'; 700_000]; 100], Duration::ZERO),
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().start();
    let before = stagepost.process().resident();
    stagepost.process().forget_resident_peak();
    send(&stagepost, &["user@d1.test"]);
    mx.wait_for(1);
    let grown = stagepost.process().resident_peak().saturating_sub(before);
    assert!(grown < 20 << 20, "{grown} octets more");
    assert_eq!((mx.count(), mx.connections()), (1, 3));
}

#[test]
fn a_server_that_takes_few_recipients_at_a_time_gets_all_in_one_attempt() {
    let lab = Lab::new();
    let servers = ["452 4.5.3 too many recipients", "552 5.5.3 too many recipients"].map(|reply| {
        let mx = lab.mx(&format!("d{}.test", &reply[..3]));
        // The recipients of the transaction on each connection.
        let counts = Mutex::new(BTreeMap::new());
        mx.script(move |step| {
            let Step::Command { connection, line, .. } = step else { return Answer::Usual };
            let mut counts = counts.lock().unwrap();
            let count = counts.entry(*connection).or_insert(0);
            if line.starts_with("MAIL") {
                *count = 0;
            } else if line.starts_with("RCPT") {
                *count += 1;
            }
            if *count > 30 && line.starts_with("RCPT") { Answer::reply(reply) } else { Answer::Usual }
        });
        (&reply[..3], mx)
    });
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    for (code, mx) in &servers {
        let recipients: Vec<String> =
            (0..100).map(|number| format!("user{number:02}@d{code}.test")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let octets = message::text(FROM, recipients[0], "many", "Hello.");
        assert_eq!(client.submit(FROM, &recipients, &octets).code, 250);
        let received = mx.wait_for(4);
        stagepost.wait_until_idle(SOON);
        assert_eq!(delivered(mx), recipients, "{code}");
        let counts: Vec<usize> = received.iter().map(|message| message.rcpt.len()).collect();
        assert_eq!((counts, mx.connections()), (vec![30, 30, 30, 10], 1), "{code}");
    }
    assert!(!stagepost.log().contains("disposition=\"deferred\""));
}

/// What becomes of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It has the message after the first attempt.
    Delivered,
    /// It has the message after another one.
    Deferred,
    /// The sender is told, with this status.
    Bounced(&'static str),
}

use End::{Bounced, Deferred, Delivered};

/// Whom it is about, what is answered to the first command of a kind, and what is to become of it.
const CLASSES: [(&str, &str, &str, End); 26] = [
    ("rcpt-1", "RCPT", "550 4.7.1 x", Bounced("5.0.0")),
    ("rcpt-2", "RCPT", "450 5.1.1 x", Deferred),
    ("rcpt-3", "RCPT", "250 5.0.0 x", Delivered),
    ("rcpt-4", "RCPT", "571 x", Bounced("5.0.0")),
    ("rcpt-5", "RCPT", "521 5.3.2 x", Bounced("5.3.2")),
    ("rcpt-6", "RCPT", "299 x", Delivered),
    ("rcpt-7", "RCPT", "251 will forward", Delivered),
    ("rcpt-8", "RCPT", "499 5.5.5 x", Deferred),
    ("rcpt-9", "RCPT", "550 User unknown, try again later", Bounced("5.0.0")),
    ("rcpt-10", "RCPT", "451 permanent failure, do not retry", Deferred),
    ("rcpt-11", "RCPT", "421 4.3.2 x", Deferred),
    ("mail-1", "MAIL", "550 4.7.1 x", Bounced("5.0.0")),
    ("mail-2", "MAIL", "451 5.7.1 x", Deferred),
    ("data-1", "DATA", "554 5.7.0 x", Bounced("5.7.0")),
    ("data-2", "DATA", "451 4.7.0 x", Deferred),
    ("dot-1", "dot", "554 4.6.0 x", Bounced("5.0.0")),
    ("dot-2", "dot", "450 5.6.0 x", Deferred),
    ("dot-3", "dot", "250 4.0.0 x", Delivered),
    ("dot-4", "dot", "552 5.3.4 x", Bounced("5.3.4")),
    ("banner-1", "banner", "554 x", Bounced("5.0.0")),
    ("banner-2", "banner", "521 5.3.2 x", Bounced("5.3.2")),
    ("banner-3", "banner", "421 5.3.2 x", Deferred),
    ("banner-4", "banner", "450 x", Deferred),
    ("banner-5", "banner", "299 x", Delivered),
    ("ehlo-1", "EHLO", "502 what?", Delivered),
    ("ehlo-2", "EHLO", "421 4.3.2 x", Deferred),
];

#[test]
fn the_first_digit_of_a_reply_decides() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    let servers: Vec<Mx> = CLASSES
        .iter()
        .map(|&(name, stage, reply, _)| {
            let mx = lab.mx(&format!("{name}.test"));
            let seen = AtomicUsize::new(0);
            // The odd answer is given once; whoever comes again is served.
            mx.script(move |step| {
                let here = match step {
                    Step::Connect { .. } => stage == "banner",
                    Step::Command { line, .. } => line.starts_with(stage),
                    Step::Dot { .. } => stage == "dot",
                    _ => false,
                };
                if here && seen.fetch_add(1, Ordering::Relaxed) == 0 {
                    Answer::reply(reply)
                } else {
                    Answer::Usual
                }
            });
            mx
        })
        .collect();
    let stagepost = lab.stagepost().start();
    let recipients: Vec<String> = CLASSES.iter().map(|(name, ..)| format!("{name}@{name}.test")).collect();
    send(&stagepost, &recipients.iter().map(String::as_str).collect::<Vec<_>>());
    stagepost.wait_until_idle(SOON);

    let told = reports.messages();
    let log = stagepost.log();
    for (((_, stage, reply, end), mx), recipient) in CLASSES.iter().zip(&servers).zip(&recipients) {
        let report = told.iter().find(|report| failed_recipients(&report.octets).contains(recipient));
        let attempts = log.lines().filter(|line| {
            line.contains("attempt=")
                && line.contains(&format!("domain={} ", recipient.split('@').nth(1).unwrap()))
        });
        let came = match (report, mx.count(), attempts.count()) {
            (Some(report), 0, 1) => Bounced(report::read(report).of_one("status").to_owned().leak()),
            (None, 1, 1) => Delivered,
            (None, 1, _) => Deferred,
            (_, count, attempts) => {
                panic!("{stage} {reply}: received {count} times in {attempts} attempts, {report:?}")
            }
        };
        assert_eq!(came, *end, "{stage} {reply}");
    }
    let bounced = CLASSES.iter().filter(|(.., end)| matches!(end, Bounced(_))).count();
    assert_eq!(told.len(), bounced);
}

#[test]
fn what_a_server_says_stays_text_in_reports_and_logs() {
    let lab = Lab::new();
    let (mx, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    let evil = format!(
        "550-5.1.1 a\nX-Evil: 1\r\n550-5.1.1 <script>alert(1)</script>\r\n550-5.1.1 \u{1b}[31mred\u{7}\u{0}\r\n550 5.1.1 {}\r\n",
        "é".repeat(9000)
    );
    mx.script(move |step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => {
            Answer::Pieces(vec![evil.clone().into_bytes()], Duration::ZERO)
        }
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().set("log_format", "json").start();
    send(&stagepost, &["user@d1.test"]);
    let received = reports.wait_for(1);
    stagepost.wait_until_idle(SOON);
    assert_eq!((mx.commands_of("RCPT").len(), mx.count(), reports.count()), (1, 0, 1));

    let report = report::read(&received[0]);
    assert_eq!((report.of_one("status"), report.of_one("action")), ("5.1.1", "failed"));
    let diagnostic = report.of_one("diagnostic-code");
    assert!(diagnostic.starts_with("smtp; 550 5.1.1 a"), "{diagnostic}");
    assert!(diagnostic.contains("X-Evil: 1") && diagnostic.contains("<script>"), "{diagnostic}");
    // None of it is a field of its own.
    assert!(values(&received[0].octets, "X-Evil").is_empty());
    assert!(report.recipients[0].keys().chain(report.message.keys()).all(|name| !name.contains("evil")));

    let log = stagepost.log();
    let mut about = 0;
    for line in log.lines() {
        let parsed: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(!line.contains('\u{1b}'), "{line}");
        about += usize::from(parsed.to_string().contains("script"));
    }
    assert_eq!(about, 1);
}

#[test]
fn the_queue_shows_what_a_server_says_without_its_controls() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => {
            Answer::Pieces(vec![b"451 4.7.1 \x1b]0;title\x07wait\x1b[2J\r\n".to_vec()], Duration::ZERO)
        }
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![300_i64]).start();
    send(&stagepost, &["user@d1.test"]);
    until_true("a reason in the queue", SOON, || {
        stagepost
            .queue()
            .iter()
            .any(|job| job["reason"].as_str().is_some_and(|reason| reason.contains("wait")))
    });
    let job = &stagepost.queue()[0];
    for shown in [&job["reason"], &job["last"][0]["reply"]] {
        let shown = shown.as_str().unwrap();
        assert!(shown.contains("4.7.1") && !shown.chars().any(char::is_control), "{shown:?}");
    }
    assert_eq!(job["last"][0]["status"], "4.7.1");
}
