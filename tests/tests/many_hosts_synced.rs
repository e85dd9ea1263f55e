//! 250 is said after NATS has the message on disk: what its server calls the system for, and in which order, shows it.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use tests::deadline::{SOON, until};
use tests::fault::Calls;
use tests::fleet::FleetSetup;
use tests::lab::Lab;
use tests::message;
use tests::submitters::FROM;

/// A call that was made: when it began and ended in seconds of Unix time, and how strace writes it.
#[derive(Debug)]
struct Call {
    begin: f64,
    end: f64,
    text: String,
}

/// The calls in the order of their ends; those that strace had to write in two parts are put together.
fn calls(log: &str) -> Vec<Call> {
    let mut unfinished: HashMap<&str, (f64, String)> = HashMap::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        // The thread, the time, the call.
        let Some((thread, rest)) = line.trim_start().split_once(' ') else { continue };
        let Some((at, text)) = rest.trim_start().split_once(' ') else { continue };
        let Ok(at) = at.parse::<f64>() else { continue };
        if let Some(begin) = text.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, (at, begin.to_owned()));
            continue;
        }
        let (begin, text) = match text.split_once("resumed>") {
            Some((_, rest)) => {
                let (begin, text) = unfinished.remove(thread).unwrap_or((at, String::new()));
                (begin, text + rest)
            }
            None => (at, text.to_owned()),
        };
        // The time that a call took stands at its end, in angle brackets.
        let took = text.rsplit_once('<').and_then(|(_, took)| took.trim_end_matches('>').parse::<f64>().ok());
        calls.push(Call { begin, end: begin + took.unwrap_or_default(), text });
    }
    calls
}

/// The file that a call is about: strace writes it in angle brackets after the descriptor.
fn file(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('<')?;
    rest.split_once('>').map(|(path, _)| path)
}

fn is_write(text: &str) -> bool {
    ["write(", "pwrite64(", "writev("].iter().any(|call| text.starts_with(call))
}

fn is_sync(text: &str) -> bool {
    (text.starts_with("fsync(") || text.starts_with("fdatasync(")) && text.contains("= 0")
}

/// Where in `calls` the record of the job is written, and where NATS answers for it; none where strace hasn't told yet.
fn record_and_answer(calls: &[Call], queue_id: &str) -> Option<(usize, usize)> {
    let record = calls.iter().position(|call| {
        is_write(&call.text)
            && call.text.contains(queue_id)
            && file(&call.text).is_some_and(|path| path.contains("-MAIL-") && path.contains("/msgs/"))
    })?;
    let answer = calls
        .iter()
        .skip(record)
        .position(|call| is_write(&call.text) && call.text.contains(r#"{\"stream\":\"stagepost-MAIL-"#))?;
    Some((record, record + answer))
}

/// Everything that holds `token` and was written to a stream's files was synced before NATS answered for the record of the job,
/// and that was before `answered`. Gives how many writes there were.
fn synced_before(calls: &[Call], token: &str, queue_id: &str, answered: f64) -> usize {
    let (record, answer) = record_and_answer(calls, queue_id).unwrap();
    // What is written later is the job's further way.
    let writes: Vec<(usize, &str)> = calls[..answer]
        .iter()
        .enumerate()
        .filter(|(_, call)| {
            // Content begins with the token; where it goes on, the chunk's subject has the message's id.
            is_write(&call.text) && [token, queue_id].iter().any(|mark| call.text.contains(mark))
        })
        .filter_map(|(place, call)| Some((place, file(&call.text)?)))
        .filter(|(_, path)| path.contains("/streams/") && path.contains("/msgs/"))
        .collect();
    assert!(!writes.is_empty(), "{token} was written nowhere");
    // The answer may be with its reader before strace lets the call that wrote it end.
    assert!(calls[answer].begin <= answered, "the 250 came before NATS's answer");
    for (place, path) in writes.iter().copied().chain([(record, file(&calls[record].text).unwrap())]) {
        let before = |call: &Call| call.end <= calls[answer].begin;
        let synced = calls[place..answer]
            .iter()
            .any(|call| is_sync(&call.text) && file(&call.text) == Some(path) && before(call));
        assert!(synced, "{path} wasn't synced before the answer:\n{:#?}", &calls[place..=answer]);
    }
    writes.len()
}

fn unix_secs() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn the_final_dot_is_answered_after_nats_has_synced_the_message() {
    let lab = Lab::new();
    let fleet = FleetSetup::new(&lab).start();
    let mut client = fleet.login(0);
    let log = lab.folder().join("calls");
    let watched = Calls::watch(fleet.nats.process(0), &log);
    // One whose content travels in the record, one whose content is kept beside, and one that is several jobs.
    let mut answered = Vec::new();
    for (token, octets, recipients) in [
        ("token-small", 2_000, &["a@nowhere.test"][..]),
        ("token-large", 1_500_000, &["a@nowhere.test"][..]),
        ("token-several", 2_000, &["a@nowhere.test", "b@elsewhere.test"][..]),
    ] {
        let octets = message::sized(FROM, recipients[0], token, octets);
        let queue_id = client.submit(FROM, recipients, &octets).queue_id();
        answered.push((token, queue_id, unix_secs()));
    }
    // Who is answered may know of it before strace writes down the call that told.
    let log = until("the calls that wrote and answered for each message", SOON, || {
        let log = std::fs::read_to_string(&log).unwrap();
        let calls = calls(&log);
        let whole = answered.iter().all(|(_, queue_id, _)| record_and_answer(&calls, queue_id).is_some());
        whole.then_some(log)
    });
    drop(watched);
    let calls = calls(&log);
    for (token, queue_id, at) in answered {
        let writes = synced_before(&calls, token, &queue_id, at);
        println!("{token}: {writes} writes, all synced before the answer");
    }
}
