//! A disk that is full, damaged or fails its syncs costs no mail that was accepted, and says what is wrong.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tests::deadline::{SOON, until, until_true};
use tests::fault::{SmallDisk, SyncTrouble};
use tests::lab::Lab;
use tests::ledger::reported;
use tests::message;
use tests::mx::{Answer, Mx, Step};
use tests::smtp::{Client, Reply};
use tests::stagepost::Stagepost;

const FROM: &str = "hello@sender.test";
const SHORT: Duration = Duration::from_millis(1500);
const MIB: u64 = 1 << 20;

fn submit(client: &mut Client, recipient: &str, octets: usize) -> Reply {
    let text = message::sized(FROM, recipient, &format!("to {recipient}"), octets);
    client.submit(FROM, &[recipient], &text)
}

/// Submits until there is no room: those who were accepted.
fn until_full(stagepost: &Stagepost, domain: &str) -> Vec<String> {
    let mut client = stagepost.login();
    let mut accepted = Vec::new();
    loop {
        let recipient = format!("full{}@{domain}", accepted.len());
        let text = message::sized(FROM, &recipient, &recipient, 65_536);
        client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
        client.expect(&format!("RCPT TO:<{recipient}>"), 250);
        // The store may be found full before the message is read, or after.
        let mut reply = client.command("DATA");
        if reply.code == 354 {
            client.send(&tests::smtp::stuffed(&text));
            reply = client.reply();
        }
        if reply.code != 250 {
            assert_eq!((reply.code, reply.enhanced()), (452, Some("4.3.1")), "{reply:?}");
            return accepted;
        }
        accepted.push(recipient);
        assert!(accepted.len() < 10_000, "the store takes all that comes");
    }
}

fn all_received(mx: &Mx, expected: &[String]) {
    let received = mx.wait_for_within(expected.len(), SOON * 4);
    let recipients: BTreeSet<&str> = received.iter().flat_map(|message| message.recipients()).collect();
    let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    assert_eq!(recipients, expected);
    assert_eq!(received.len(), expected.len(), "each once");
}

#[test]
fn a_full_disk_refuses_new_mail_delivers_the_old_and_recovers_by_itself() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::reply("451 4.3.0 later"),
        _ => Answer::Usual,
    });
    let disk = SmallDisk::mount(&lab.folder().join("disk"), 384 * MIB);
    let stagepost = lab.stagepost().state(&disk.path().join("state")).start();
    let mut client = stagepost.login();
    let mut accepted: Vec<String> = (0..20).map(|number| format!("early{number}@d1.test")).collect();
    for recipient in &accepted {
        submit(&mut client, recipient, 4096).queue_id();
    }

    let ballast = disk.fill();
    accepted.extend(until_full(&stagepost, "d1.test"));
    mx.behave();
    // Old mail leaves, though nothing can be written but what was kept in reserve.
    until_true("mail leaves a full disk", SOON * 2, || mx.count() >= 20);
    drop(ballast);
    let accepts = || {
        let mut client = stagepost.login();
        let text = message::text(FROM, "late@d1.test", "late", "Hello.");
        match client.try_submit(FROM, &["late@d1.test"], &text) {
            Ok(reply) if reply.code == 250 => Some(()),
            _ => None,
        }
    };
    until("mail is accepted again, without a restart", SOON, accepts);
    accepted.push("late@d1.test".into());
    stagepost.wait_until_idle(SOON * 2);
    all_received(&mx, &accepted);
}

#[test]
fn a_full_queue_drains_though_everything_in_it_is_deferred_and_bounced() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let sender = lab.mx("sender.test");
    mx.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::reply("451 4.3.0 later"),
        _ => Answer::Usual,
    });
    let stagepost = lab.stagepost().set("spool.bytes_max", (24 * MIB).cast_signed()).start();
    let accepted = until_full(&stagepost, "d1.test");
    let waits =
        || stagepost.queue().iter().all(|job| job["attempts"].as_u64().is_some_and(|count| count >= 2));
    until_true("all of it was deferred twice", SOON * 2, waits);
    mx.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::reply("550 5.1.1 nobody"),
        _ => Answer::Usual,
    });
    stagepost.wait_until_idle(SOON * 4);
    let reports = sender.messages();
    for recipient in &accepted {
        assert!(reported(&reports, recipient), "no report about {recipient}");
    }
    assert_eq!(reports.len(), accepted.len(), "one report each");
    let mut client = stagepost.login();
    submit(&mut client, "success@simulator.stagepost.test", 65_536).queue_id();
}

fn segments(state: &Path) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(state.join("spool")).unwrap();
    let mut all: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.metadata().unwrap().len() > 0 && path.is_file());
    all.sort();
    all
}

/// Where in the queue's files the message for `recipient` begins: file and octet of its subject, which stands there as it is.
fn place(state: &Path, recipient: &str) -> (PathBuf, usize) {
    let needle = format!("Subject: to {recipient}");
    let found = segments(state).into_iter().find_map(|path| {
        let octets = std::fs::read(&path).unwrap();
        let at = octets.windows(needle.len()).position(|window| window == needle.as_bytes())?;
        Some((path, at))
    });
    found.unwrap_or_else(|| panic!("the message to {recipient} isn't on disk as it was sent"))
}

fn flip(path: &Path, at: usize) {
    let mut octets = std::fs::read(path).unwrap();
    octets[at] ^= 0x20;
    std::fs::write(path, octets).unwrap();
}

#[test]
fn of_a_damaged_queue_what_is_readable_is_delivered_and_the_rest_is_named_with_its_path() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    lab.dns.fault("d1.test", tests::dns::Fault::ServFail);
    let mut stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    let recipients: Vec<String> = (0..60).map(|number| format!("user{number}@d1.test")).collect();
    for recipient in &recipients {
        submit(&mut client, recipient, 4096).queue_id();
    }
    assert!(stagepost.stop(SOON).success());
    let state = stagepost.state().to_owned();
    // The header of one, the middle of another, the last octets of a third.
    let hurt = ["user10@d1.test", "user30@d1.test", "user50@d1.test"];
    for (recipient, further) in hurt.iter().zip([0, 1500, 3500]) {
        let (path, at) = place(&state, recipient);
        flip(&path, at + further);
    }
    lab.dns.heal("d1.test");
    stagepost.start_again();
    let whole: Vec<String> =
        recipients.iter().filter(|recipient| !hurt.contains(&recipient.as_str())).cloned().collect();
    all_received(&mx, &whole);
    for received in mx.messages() {
        let recipient = received.recipients()[0].to_owned();
        let sent = message::sized(FROM, &recipient, &format!("to {recipient}"), 4096);
        assert!(message::body(&received.octets) == message::body(&sent), "{recipient}");
    }
    let log = stagepost.log();
    let said = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    let named = log.lines().filter(said).filter(|line| line.contains(state.join("spool").to_str().unwrap()));
    assert!(named.count() >= hurt.len(), "{log}");
}

#[test]
fn a_queue_that_lost_a_file_or_its_end_starts_and_says_so() {
    for (what, wreck) in [("cut", truncate as fn(&Path)), ("removed", remove)] {
        let lab = Lab::new();
        let mx = lab.mx("d1.test");
        lab.dns.fault("d1.test", tests::dns::Fault::ServFail);
        let mut stagepost = lab.stagepost().start();
        let mut client = stagepost.login();
        for number in 0..20 {
            submit(&mut client, &format!("user{number}@d1.test"), 4096).queue_id();
        }
        assert!(stagepost.stop(SOON).success());
        let (path, _) = place(stagepost.state(), "user10@d1.test");
        wreck(&path);
        lab.dns.heal("d1.test");
        stagepost.start_again();
        let mut client = stagepost.login();
        submit(&mut client, "after@d1.test", 4096).queue_id();
        until_true("what is left is delivered", SOON, || {
            mx.messages().iter().any(|received| received.recipients() == ["after@d1.test"])
        });
        stagepost.wait_until_idle(SOON);
        let summary: Value = stagepost.ask(&["queue", "summary"]);
        let named = |damage: &Value| damage.as_str().unwrap().contains(path.to_str().unwrap());
        assert!(summary["damage"].as_array().unwrap().iter().any(named), "{what}: {summary}");
        assert!(stagepost.log().contains(path.to_str().unwrap()), "{what}: {}", stagepost.log());
    }
}

fn truncate(path: &Path) {
    let length = path.metadata().unwrap().len();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length / 2).unwrap();
}

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

#[test]
fn damaged_accounts_end_the_start_with_one_line_that_has_the_path() {
    let lab = Lab::new();
    let mut stagepost = lab.stagepost().start();
    assert!(stagepost.stop(SOON).success());
    let folder = stagepost.state().join("accounts");
    let mut files: Vec<PathBuf> = vec![];
    match folder.is_dir() {
        true => files.extend(std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path())),
        false => files.push(folder),
    }
    let path = files.into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let octets = std::fs::read(&path).unwrap();
    std::fs::write(&path, vec![0xa5; octets.len()]).unwrap();
    let (status, log) = lab.stagepost().state(stagepost.state()).start_in_vain();
    assert!(!status.success(), "{log}");
    assert_eq!(log.lines().filter(|line| !line.contains(" INFO ")).count(), 1, "{log}");
    assert!(log.contains(path.to_str().unwrap()), "{log}");
    // Put back, all is as before.
    std::fs::write(&path, octets).unwrap();
    stagepost.start_again();
    stagepost.login().expect("NOOP", 250);
}

#[test]
fn a_sync_that_fails_is_never_a_250_and_loses_nothing_that_had_one() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    lab.dns.fault("d1.test", tests::dns::Fault::ServFail);
    let mut stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    submit(&mut client, "before@d1.test", 4096).queue_id();
    let failing = SyncTrouble::failing(stagepost.process(), &lab.folder().join("strace.log"));
    let reply = submit(&mut client, "during@d1.test", 4096);
    assert!(failing.count() > 0, "no sync was made to fail");
    assert_eq!((reply.code, reply.enhanced()), (451, Some("4.3.0")), "{reply:?}");
    drop(failing);

    // What a failed sync left in the page cache can't be trusted: it is up to a restart or the program itself to go on.
    stagepost.kill();
    lab.dns.heal("d1.test");
    stagepost.start_again();
    let mut client = stagepost.login();
    submit(&mut client, "after@d1.test", 4096).queue_id();
    let has = |recipient: &str| {
        mx.messages().iter().filter(|received| received.recipients() == [recipient]).count()
    };
    until_true("both are delivered", SOON, || has("before@d1.test") == 1 && has("after@d1.test") == 1);
    stagepost.wait_until_idle(SOON);
    // The one in between was answered 451: it may have been kept, but not twice.
    assert!(has("during@d1.test") <= 1 && has("before@d1.test") == 1 && has("after@d1.test") == 1);
}

#[test]
fn no_250_comes_before_the_sync() {
    let lab = Lab::new();
    lab.dns.fault("d1.test", tests::dns::Fault::ServFail);
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    submit(&mut client, "first@d1.test", 4096).queue_id();
    let slow = SyncTrouble::slow(stagepost.process(), &lab.folder().join("strace.log"), 2 * SHORT);
    client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
    client.expect("RCPT TO:<second@d1.test>", 250);
    client.expect("DATA", 354);
    let text = message::sized(FROM, "second@d1.test", "to second@d1.test", 4096);
    client.send(&tests::smtp::stuffed(&text));
    assert!(client.silent(SHORT), "a reply came before the sync was even begun");
    client.reply().queue_id();
    assert!(slow.count() > 0, "no sync was slow");
}
