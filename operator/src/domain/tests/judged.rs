use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::claim::Holder;
use crate::condition::Holds;
use crate::crd::{DomainKey, DomainKeyState, SendingDomain, SendingDomainStatus, Unready};
use crate::dns::report::{Finding, Purpose, Record, RecordType, Report, State};
use crate::domain::judge::{Circumstances, Patience, records, unready, verdicts};
use crate::domain::look::Look;

const HOLD_SECS: i64 = 3600;

/// A file of `fixtures`: what is there, what is seen at which second, and what follows.
#[derive(Deserialize)]
struct Fixture {
    object: SendingDomain,
    keys: Vec<DomainKey>,
    #[serde(default)]
    doubt_secs: i64,
    looks: Vec<Seen>,
}

#[derive(Deserialize)]
struct Seen {
    at: i64,
    /// Another version of what is wanted, from then on.
    #[serde(default)]
    generation: Option<i64>,
    /// By `purpose name`; what isn't named is Found.
    #[serde(default)]
    states: BTreeMap<String, String>,
    /// By selector; what isn't named is Found.
    #[serde(default)]
    everywhere: BTreeMap<String, String>,
    #[serde(default)]
    rival: Option<String>,
    expect: BTreeMap<String, String>,
    #[serde(default)]
    message: Option<String>,
    /// What accounts is told: `ready`, or since when it isn't and a part of why.
    #[serde(default)]
    told: Option<String>,
}

fn state(word: Option<&String>) -> State {
    match word.map(String::as_str) {
        None | Some("Found") => State::Found,
        Some("Missing") => State::Missing,
        Some("Mismatch") => State::Mismatch,
        Some("Unknown") => State::Unknown,
        Some(other) => panic!("{other} is no state"),
    }
}

fn look(keys: &[DomainKey], seen: &Seen) -> Look {
    let record = |purpose: Purpose, record_type, name: &str, key: &str, required| {
        let state = state(seen.states.get(key));
        Record {
            record_type,
            name: name.parse().unwrap(),
            expected: format!("value of {key}"),
            purpose,
            required,
            observed: Vec::new(),
            finding: Finding { state, reason: format!("{key} is {state}") },
        }
    };
    let mut all: Vec<Record> = keys
        .iter()
        .map(|key| {
            let name = format!("{}._domainkey.example.com", key.selector);
            let purpose = Purpose::Dkim { selector: key.selector.clone() };
            record(purpose, RecordType::Txt, &name, &format!("dkim {}", key.selector), true)
        })
        .collect();
    all.push(record(Purpose::Spf, RecordType::Txt, "example.com", "spf", true));
    all.push(record(Purpose::ReturnPath, RecordType::Mx, "example.com", "return-path", true));
    all.push(record(Purpose::Dmarc, RecordType::Txt, "_dmarc.example.com", "dmarc", true));
    all.push(record(Purpose::Reverse, RecordType::Ptr, "1.2.0.192.in-addr.arpa", "ptr", true));
    all.push(record(Purpose::MtaSts, RecordType::Txt, "_mta-sts.example.com", "mta-sts", false));
    all.push(record(Purpose::TlsReports, RecordType::Txt, "_smtp._tls.example.com", "tls-rpt", false));
    let aligned = state(seen.states.get("alignment"));
    let return_path_alignment = Finding { state: aligned, reason: format!("alignment is {aligned}") };
    let everywhere = keys.iter().map(|key| {
        let state = state(seen.everywhere.get(&key.selector));
        let reason = format!("servers have {}: {state}", key.selector);
        (key.selector.clone(), Finding { state, reason })
    });
    Look {
        report: Report { checked_at: UNIX_EPOCH, records: all, return_path_alignment },
        everywhere: everywhere.collect(),
        remembered_secs: BTreeMap::new(),
    }
}

fn play(text: &str) {
    let Fixture { mut object, keys, doubt_secs, looks } = serde_saphyr::from_str(text).unwrap();
    let patience = Patience { hold_secs: HOLD_SECS, doubt_secs };
    let mut kept = SendingDomainStatus::default();
    let mut told: Option<Unready> = None;
    for seen in &looks {
        let now = Time(Timestamp::from_second(seen.at).unwrap());
        object.metadata.generation = seen.generation.or(object.metadata.generation);
        kept.records = records(&object, &keys, &look(&keys, seen), &kept, patience, &now);
        kept.observed_generation = object.metadata.generation;
        let rival =
            seen.rival.as_ref().map(|namespace| Holder { namespace: namespace.clone(), name: "sd".into() });
        let circumstances = Circumstances { rival, no_key: None, untold: None };
        let verdicts = verdicts(&keys, &kept.records, &circumstances);
        for (kind, expected) in &seen.expect {
            let verdict = verdicts.iter().find(|verdict| verdict.kind == kind).unwrap();
            let holds = match verdict.holds {
                Holds::True => "True",
                Holds::False => "False",
                Holds::Unknown => "Unknown",
            };
            let found = format!("{holds} {}", verdict.reason);
            assert_eq!(&found, expected, "{kind} at {}: {}", seen.at, verdict.message);
        }
        if let Some(message) = &seen.message {
            assert!(verdicts[0].message.contains(message), "{}", verdicts[0].message);
        }
        told = unready(told.as_ref(), &keys, &kept.records, &circumstances, &now);
        let line = told.as_ref().map_or_else(
            || "ready".to_owned(),
            |told| format!("since {}: {}", told.since.0.as_second(), told.reason),
        );
        if let Some(expected) = &seen.told {
            assert!(line.starts_with(expected), "{line} at {}, not {expected}", seen.at);
        }
    }
}

#[test]
fn a_new_domain_becomes_ready_record_by_record() {
    play(include_str!("../../../tests/fixtures/new-domain.yaml"));
}

#[test]
fn what_cannot_be_looked_up_changes_nothing_for_an_hour() {
    play(include_str!("../../../tests/fixtures/failing-lookups.yaml"));
}

#[test]
fn what_was_there_is_gone_only_when_every_look_misses_it_for_a_minute() {
    play(include_str!("../../../tests/fixtures/flapping-servers.yaml"));
}

#[test]
fn keys_to_come_and_keys_that_were_do_not_make_a_domain_unready() {
    play(include_str!("../../../tests/fixtures/rotation.yaml"));
}

#[test]
fn expectations_are_the_objects() {
    play(include_str!("../../../tests/fixtures/expectations.yaml"));
}

#[test]
fn accounts_is_told_what_is_missing_and_the_same_however_servers_differ() {
    play(include_str!("../../../tests/fixtures/told.yaml"));
}

#[test]
fn a_domain_without_a_key_that_signs_is_never_told_to_be_ready() {
    let Fixture { mut keys, looks, .. } =
        serde_saphyr::from_str(include_str!("../../../tests/fixtures/new-domain.yaml")).unwrap();
    let now = Time(Timestamp::from_second(looks[0].at).unwrap());
    // DNS hasn't been asked, and nothing was told before.
    let mut circumstances = Circumstances { rival: None, no_key: None, untold: None };
    let told = unready(None, &keys, &[], &circumstances, &now).unwrap();
    assert_eq!((told.reason.as_str(), told.since), ("DNS hasn't been asked yet", now.clone()));
    // A domain that was told to be ready by an earlier version, with look-ups that fail.
    keys[0].state = DomainKeyState::Active;
    assert_eq!(unready(None, &keys, &[], &circumstances, &now), None);
    let why = "é".repeat(1000);
    circumstances.no_key = Some(why.clone());
    let told = unready(None, &keys, &[], &circumstances, &now).unwrap();
    assert!(told.reason.len() <= 512 && why.starts_with(&told.reason), "{}", told.reason);
}

#[test]
fn who_lost_the_domain_is_told_who_has_it() {
    play(include_str!("../../../tests/fixtures/claimed.yaml"));
}
