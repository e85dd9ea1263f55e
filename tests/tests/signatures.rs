//! Signatures as they arrive, judged by three verifiers that aren't ours: mail-auth, dkimpy and OpenDKIM.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use tests::corpus::{self, Sample};
use tests::judge::{self, Verdict};
use tests::lab::Lab;
use tests::message;
use tests::peers::Postfix;
use tests::smtp::{Client, Reply};
use tests::stagepost::Stagepost;

/// For some hundreds of messages on a slow machine.
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn every_judge_passes_500_messages_of_public_collections() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let samples = corpus::public();
    let sent = send(&stagepost, &samples, "d1.test");
    assert!(sent.refused.iter().all(|(_, reply)| is_of_the_header_table(reply)), "{:#?}", sent.refused);
    let received = mx.wait_for_within(sent.accepted.len(), PATIENCE);
    let received =
        received.iter().map(|message| (name(&samples, message.recipients()[0]), message.octets.as_slice()));
    let passed = judge_all(&lab, &stagepost, &received.collect::<Vec<_>>());
    assert_eq!(passed, sent.accepted.len());
    assert!(passed >= 500, "only {passed} of {} passed; {} were refused", samples.len(), sent.refused.len());
}

#[test]
fn every_judge_passes_1000_messages_with_what_signers_stumble_over() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let samples = corpus::generated(1000);
    let sent = send(&stagepost, &samples, "d1.test");
    assert!(sent.refused.is_empty(), "{:#?}", sent.refused);
    let received = mx.wait_for_within(1000, PATIENCE);
    let received =
        received.iter().map(|message| (name(&samples, message.recipients()[0]), message.octets.as_slice()));
    assert_eq!(judge_all(&lab, &stagepost, &received.collect::<Vec<_>>()), 1000);
}

#[test]
fn signatures_hold_after_a_postfix_has_stored_the_message() {
    let lab = Lab::new();
    let postfix = Postfix::receiver(&lab, "d1.test").set("local_header_rewrite_clients =").start();
    let stagepost = lab.stagepost().start();
    let mut samples = corpus::generated(90);
    samples.extend(corpus::public().into_iter().step_by(7));
    let sent = send(&stagepost, &samples, "d1.test");
    let received = postfix.wait_for_within(sent.accepted.len(), PATIENCE);
    let received =
        received.iter().map(|octets| (String::from("a message in Postfix's Maildir"), octets.as_slice()));
    assert_eq!(judge_all(&lab, &stagepost, &received.collect::<Vec<_>>()), sent.accepted.len());
}

/// What became of the samples when they were submitted.
#[derive(Default)]
struct Sent {
    accepted: Vec<String>,
    refused: Vec<(String, Reply)>,
}

/// Submits each sample to a recipient of its own, `s<its place>`.
fn send(stagepost: &Stagepost, samples: &[Sample], domain: &str) -> Sent {
    let mut sent = Sent::default();
    let mut client = stagepost.login();
    for (place, sample) in samples.iter().enumerate() {
        let recipient = format!("s{place}@{domain}");
        let reply = if sample.octets.ends_with(b"\r\n") {
            client.submit(corpus::FROM, &[&recipient], &sample.octets)
        } else {
            submit_as_it_is(&mut client, &recipient, &sample.octets)
        };
        if reply.code == 250 {
            sent.accepted.push(sample.name.clone());
        } else {
            sent.refused.push((sample.name.clone(), reply));
            client = stagepost.login();
        }
    }
    sent
}

/// BDAT carries a message whose last line has no end (RFC 3030); DATA can't.
fn submit_as_it_is(client: &mut Client, recipient: &str, octets: &[u8]) -> Reply {
    client.expect(&format!("MAIL FROM:<{}> BODY=8BITMIME", corpus::FROM), 250);
    client.expect(&format!("RCPT TO:<{recipient}>"), 250);
    client.send(format!("BDAT {} LAST\r\n", octets.len()).as_bytes());
    client.send(octets);
    client.reply()
}

/// Whether a message was refused for its header section, as the table at the top of `mail::header` has it.
fn is_of_the_header_table(reply: &Reply) -> bool {
    reply.code == 554 && matches!(reply.enhanced(), Some("5.6.0" | "5.4.6"))
}

fn name(samples: &[Sample], recipient: &str) -> String {
    let place =
        recipient.trim_start_matches('s').split('@').next().and_then(|place| place.parse::<usize>().ok());
    samples[place.unwrap()].name.clone()
}

/// How many messages pass with every judge.
///
/// # Panics
/// When one doesn't.
fn judge_all(lab: &Lab, stagepost: &Stagepost, messages: &[(String, &[u8])]) -> usize {
    let octets: Vec<&[u8]> = messages.iter().map(|(_, octets)| *octets).collect();
    for (name, octets) in messages {
        assert_eq!(message::values(octets, "DKIM-Signature").len(), 2, "{name}: one by RSA, one by Ed25519");
    }
    let mail_auth = judge::MailAuth::new(&lab.dns);
    let by_mail_auth = octets.iter().map(|octets| {
        // It keeps blanks in the last lines of a body that relaxed canonicalisation takes away (RFC 6376 section 3.4.4).
        if ends_in_a_line_of_blanks(octets) { Ok(()) } else { mail_auth.judge(octets) }
    });
    let verdicts: [(&str, Vec<Verdict>); 3] = [
        ("mail-auth", by_mail_auth.collect()),
        ("dkimpy", judge::dkimpy(lab.dns.address(), &octets, lab.folder())),
        ("OpenDKIM", judge::opendkim(&keys(stagepost), &octets, lab.folder())),
    ];
    let mut failures: BTreeMap<&str, String> = BTreeMap::new();
    for (judge, verdicts) in &verdicts {
        for ((name, _), verdict) in messages.iter().zip(verdicts) {
            if let Err(why) = verdict {
                let _ = writeln!(failures.entry(name.as_str()).or_default(), "  {judge}: {}", why.trim());
            }
        }
    }
    let first = messages.iter().find(|(name, _)| failures.contains_key(name.as_str()));
    let first = first.map(|(_, octets)| String::from_utf8_lossy(octets)).unwrap_or_default();
    let all: String = failures.iter().map(|(name, why)| format!("{name}\n{why}")).collect();
    assert!(failures.is_empty(), "{} of {} failed:\n{all}\n{first}", failures.len(), messages.len());
    messages.len()
}

fn ends_in_a_line_of_blanks(octets: &[u8]) -> bool {
    let body = String::from_utf8_lossy(message::body(octets)).into_owned();
    let mut last_lines = body.rsplit("\r\n").take_while(|line| line.trim_matches([' ', '\t']).is_empty());
    last_lines.any(|line| !line.is_empty())
}

/// The DNS records of the domain's keys.
fn keys(stagepost: &Stagepost) -> Vec<(String, String)> {
    let shown = stagepost.ask(&["domain", "show", "sender.test"]);
    let records = shown["records"].as_array().unwrap().iter();
    let records = records.map(|record| (record["name"].as_str().unwrap(), record["value"].as_str().unwrap()));
    let keys = records.filter(|(name, _)| name.contains("._domainkey."));
    keys.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
