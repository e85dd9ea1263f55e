//! Whether a domain's SPF record lets our addresses send.

use std::net::IpAddr;
use std::time::SystemTime;

use futures_util::future::join_all;

use super::record::{Record as SpfRecord, is_spf};
use super::{Client, Outcome, Verdict, check_host};
use crate::dns::lookup::{Found, Lookup, Text};
use crate::dns::name::Name;
use crate::dns::report::{Finding, Purpose, Record, RecordType};

/// A host that we send from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Where it connects from.
    pub address: IpAddr,
    /// What it says in EHLO.
    pub ehlo: Name,
}

/// The local part with which return paths are tried; a record that looks at it is rare, and ours differ with each message.
const LOCAL_PART: &str = "bounces";

/// A record of more octets isn't one that a DNS answer should hold (RFC 7208 section 3.4), and is not made longer.
const EXTENDED_OCTETS_MAX: usize = 1024;

/// Looks at the record of a return path's domain, for each host. `term` is what lets all of them send, such as
/// `include:spf.example.net`.
pub async fn check(
    return_path: &Name,
    senders: &[Sender],
    term: &str,
    lookup: &impl Lookup,
    now: SystemTime,
) -> Record {
    let mail_from = format!("{LOCAL_PART}@{}", return_path.as_str());
    let outcomes = join_all(senders.iter().map(|sender| outcome(sender, &mail_from, lookup, now))).await;
    let outcomes: Vec<_> = senders.iter().map(|sender| sender.address).zip(outcomes).collect();
    let found = lookup.text(return_path).await;
    let (observed, expected) = (observed(&found), expected(&found, term));
    let finding = match (&found, senders) {
        (Ok(answer), []) => by_its_words(return_path, &expected, term, &answer.records),
        _ => judge(return_path, &expected, &found, &outcomes),
    };
    let (record_type, name, purpose) = (RecordType::Txt, return_path.clone(), Purpose::Spf);
    Record { record_type, name, expected, purpose, required: true, observed, finding }
}

/// Looks at the record of the name that a host says in EHLO, by which receivers judge mail with the null sender (RFC 7208
/// section 2.4).
pub async fn check_ehlo(sender: &Sender, lookup: &impl Lookup, now: SystemTime) -> Record {
    let outcome = outcome(sender, "", lookup, now).await;
    let found = lookup.text(&sender.ehlo).await;
    let (observed, expected) = (observed(&found), expected(&found, "a"));
    let finding = judge(&sender.ehlo, &expected, &found, &[(sender.address, outcome)]);
    let (record_type, name) = (RecordType::Txt, sender.ehlo.clone());
    let purpose = Purpose::SpfOfReports;
    Record { record_type, name, expected, purpose, required: false, observed, finding }
}

async fn outcome(sender: &Sender, mail_from: &str, lookup: &impl Lookup, now: SystemTime) -> Outcome {
    let (address, helo) = (sender.address, sender.ehlo.as_str());
    check_host(lookup, &Client { address, helo, mail_from, receiver: "unknown", now }).await
}

fn observed(found: &Found<Text>) -> Vec<String> {
    let texts = found.as_ref().map(|answer| answer.records.as_slice()).unwrap_or_default();
    texts.iter().filter(|text| is_spf(text)).map(Text::shown).collect()
}

/// The record that is there with our term in front, since a domain can have only one; else one of our own.
fn expected(found: &Found<Text>, term: &str) -> String {
    let observed = observed(found);
    let there = match observed.as_slice() {
        [one] if one.len() <= EXTENDED_OCTETS_MAX => one.split_once(' ').map(|(_, terms)| terms.trim()),
        _ => None,
    };
    match there {
        Some(terms) if has(terms, term) => format!("v=spf1 {terms}"),
        Some(terms) if !terms.is_empty() => format!("v=spf1 {term} {terms}"),
        _ => format!("v=spf1 {term} -all"),
    }
}

fn has(record: &str, term: &str) -> bool {
    record.split(' ').any(|there| there.strip_prefix('+').unwrap_or(there).eq_ignore_ascii_case(term))
}

/// Where it isn't known which addresses send, as behind a network that changes them, our term must be there.
fn by_its_words(name: &Name, expected: &str, term: &str, texts: &[Text]) -> Finding {
    let publish = format!("publish TXT \"{expected}\" at {name}");
    let records: Vec<&Text> = texts.iter().filter(|text| is_spf(text)).collect();
    match records.as_slice() {
        [] => Finding::missing(format!("{name} has no SPF record; {publish}")),
        [record] => match SpfRecord::parse(record) {
            Err(error) => {
                Finding::mismatch(format!("the SPF record of {name} is invalid: {error}; {publish}"))
            }
            Ok(_) if has(&record.shown(), term) => {
                Finding::found(format!("the SPF record of {name} has {term}"))
            }
            Ok(_) => Finding::mismatch(format!("the SPF record of {name} hasn't {term}; {publish}")),
        },
        _ => Finding::mismatch(format!("{name} has more than one SPF record; {publish} alone")),
    }
}

fn judge(name: &Name, expected: &str, found: &Found<Text>, outcomes: &[(IpAddr, Outcome)]) -> Finding {
    let with = |wanted: fn(Verdict) -> bool| outcomes.iter().find(|(_, outcome)| wanted(outcome.verdict));
    let publish = format!("publish TXT \"{expected}\" at {name}");
    if let Err(error) = found {
        return Finding::without_answer(error, RecordType::Txt, name, expected);
    }
    if with(|verdict| verdict == Verdict::None).is_some() {
        return Finding::missing(format!("{name} has no SPF record; {publish}"));
    }
    if let Some((_, outcome)) = with(|verdict| verdict == Verdict::PermError) {
        return Finding::mismatch(format!("{}; {}", outcome.reason, repaired(expected, outcome, &publish)));
    }
    let refused = |verdict| matches!(verdict, Verdict::Fail | Verdict::SoftFail | Verdict::Neutral);
    if let Some((address, outcome)) = with(refused) {
        let (verdict, why) = (outcome.verdict, &outcome.reason);
        return Finding::mismatch(format!("SPF gives {verdict} for {address}: {why}; {publish}"));
    }
    if let Some((address, outcome)) = with(|verdict| verdict == Verdict::TempError) {
        return Finding::unknown(format!("SPF for {address} can't be evaluated: {}", outcome.reason));
    }
    match outcomes {
        [(address, outcome)] => Finding::found(format!("SPF gives pass for {address}: {}", outcome.reason)),
        all => Finding::found(format!("SPF gives pass for all {} addresses", all.len())),
    }
}

/// What to do about a record that is in error: with our term in front of it, it would still be.
fn repaired(expected: &str, outcome: &Outcome, publish: &str) -> String {
    if outcome.lookups > 10 {
        format!("take terms out of it until ten look-ups do, with \"{expected}\" in mind")
    } else {
        format!("repair that, so that it becomes like this: {publish}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::dns::memory::{Memory, name};
    use crate::dns::report::State;

    fn senders() -> Vec<Sender> {
        ["192.0.2.1", "192.0.2.2"]
            .map(|address| Sender { address: address.parse().unwrap(), ehlo: name("out.example.net") })
            .to_vec()
    }

    async fn looked(dns: &Memory) -> Record {
        let at = name("example.com");
        check(&at, &senders(), "include:spf.example.net", dns, UNIX_EPOCH).await
    }

    fn ours() -> Memory {
        Memory::default().txt("spf.example.net", "v=spf1 ip4:192.0.2.0/24 -all")
    }

    #[tokio::test]
    async fn what_to_publish_keeps_what_is_there() {
        let nothing = looked(&ours()).await;
        assert_eq!(nothing.expected, "v=spf1 include:spf.example.net -all");
        assert_eq!(nothing.finding.state, State::Missing);
        let other = looked(&ours().txt("example.com", "x").txt("example.com", "v=spf1 mx ~all")).await;
        assert_eq!(other.expected, "v=spf1 include:spf.example.net mx ~all");
        assert_eq!(
            (other.finding.state, other.observed),
            (State::Mismatch, vec!["v=spf1 mx ~all".to_owned()])
        );
        assert_eq!(
            other.finding.reason,
            "SPF gives softfail for 192.0.2.1: ~all of example.com. matches; \
             publish TXT \"v=spf1 include:spf.example.net mx ~all\" at example.com."
        );
        let right = looked(&ours().txt("example.com", "v=spf1 mx include:spf.example.net -all")).await;
        assert_eq!(right.expected, "v=spf1 mx include:spf.example.net -all");
        assert_eq!(right.finding.state, State::Found, "{}", right.finding.reason);
    }

    #[tokio::test]
    async fn one_address_that_may_not_send_is_enough() {
        let dns = Memory::default().txt("example.com", "v=spf1 ip4:192.0.2.1 -all");
        let record = looked(&dns).await;
        assert_eq!(record.finding.state, State::Mismatch);
        assert!(
            record.finding.reason.starts_with("SPF gives fail for 192.0.2.2:"),
            "{}",
            record.finding.reason
        );
    }

    #[tokio::test]
    async fn without_known_addresses_our_term_must_be_there() {
        for (records, state) in [
            (&["v=spf1 mx +include:SPF.example.net -all"][..], State::Found),
            (&["v=spf1 mx -all"], State::Mismatch),
            (&["v=spf1 include:spf.example.net nothing -all"], State::Mismatch),
            (&["v=spf1 include:spf.example.net -all", "v=spf1 -all"], State::Mismatch),
            (&["something else"], State::Missing),
            (&[], State::Missing),
        ] {
            let dns = records.iter().fold(ours(), |dns, record| dns.txt("example.com", record));
            let record = check(&name("example.com"), &[], "include:spf.example.net", &dns, UNIX_EPOCH).await;
            assert_eq!(record.finding.state, state, "{records:?}: {}", record.finding.reason);
        }
    }

    #[tokio::test]
    async fn errors_are_told_from_failures() {
        let damaged = ours().txt("example.com", "v=spf1 include:spf.example.net ip4:192.0.2 -all");
        let record = looked(&damaged).await;
        assert!(
            record.finding.reason.contains("\"ip4:192.0.2\" is no network address"),
            "{}",
            record.finding.reason
        );
        let twice = ours().txt("example.com", "v=spf1 -all").txt("example.com", "v=spf1 ~all");
        let record = looked(&twice).await;
        assert_eq!(record.expected, "v=spf1 include:spf.example.net -all");
        assert!(record.finding.reason.contains("more than one SPF record"), "{}", record.finding.reason);
        let away = Memory::default()
            .txt("example.com", "v=spf1 include:spf.example.net -all")
            .failing("spf.example.net");
        assert_eq!(looked(&away).await.finding.state, State::Unknown);
        assert_eq!(looked(&Memory::default().failing("example.com")).await.finding.state, State::Unknown);
        let eleven = "include:spf.example.net ".repeat(11);
        let many = Memory::default()
            .txt("example.com", &format!("v=spf1 {eleven}-all"))
            .txt("spf.example.net", "v=spf1 ip4:198.51.100.1 ?all");
        let record = looked(&many).await;
        assert!(record.finding.reason.contains("until ten look-ups do"), "{}", record.finding.reason);
    }

    #[tokio::test]
    async fn reports_are_judged_by_the_name_in_ehlo() {
        let sender = &senders()[0];
        let dns =
            Memory::default().txt("out.example.net", "v=spf1 a -all").address("out.example.net", "192.0.2.1");
        let record = check_ehlo(sender, &dns, UNIX_EPOCH).await;
        assert_eq!((record.finding.state, record.required), (State::Found, false));
        let record =
            check_ehlo(sender, &Memory::default().address("out.example.net", "192.0.2.1"), UNIX_EPOCH).await;
        assert_eq!((record.finding.state, record.expected.as_str()), (State::Missing, "v=spf1 a -all"));
    }
}
