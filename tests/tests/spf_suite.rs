//! SPF is evaluated as the standard says: all cases of the openspf.org test suite for RFC 7208, release 2014.04.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that can't go on panics; it tells how many passed"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::UNIX_EPOCH;

use operator::dns::lookup::{Answer, Found, Lookup, LookupError, Mx, Text};
use operator::dns::name::Name;
use operator::dns::spf::{Client, Outcome, check_host};
use serde_json::Value;

/// How many cases the release has.
const CASES: usize = 203;

/// The records of one scenario: of each name, in the suite's own notation.
struct Zone(BTreeMap<Name, Vec<(String, Value)>>);

impl Zone {
    fn read(records: &Value) -> Self {
        let names = records.as_object().unwrap().iter().map(|(name, records)| {
            let records = records.as_array().unwrap().iter().map(|record| match record {
                // `TIMEOUT` alone: whatever else is asked for isn't answered.
                Value::String(alone) => (alone.clone(), Value::Null),
                record => {
                    let (kind, value) = record.as_object().unwrap().iter().next().unwrap();
                    (kind.clone(), value.clone())
                }
            });
            (name.parse().unwrap(), records.collect())
        });
        Self(names.collect())
    }

    fn ask<T>(&self, name: &Name, kind: &'static str, read: impl Fn(&Value) -> T) -> Found<T> {
        let mut aliases: Vec<Name> = Vec::new();
        let mut owner = name.clone();
        loop {
            let Some(records) = self.0.get(&owner) else { return Err(LookupError::NoDomain) };
            let has = |wanted: &'static str| {
                records.iter().filter(move |(kind, _)| kind == wanted).map(|(_, value)| value)
            };
            // What is written as a record of the type SPF stands for a TXT record, unless there are some of that type.
            let kind = if kind == "TXT" && has("TXT").next().is_none() { "SPF" } else { kind };
            let found: Vec<T> = has(kind).filter(|value| **value != "NONE").map(&read).collect();
            if !found.is_empty() {
                return Ok(Answer { records: found, aliases, ttl_secs: 1 });
            }
            if has("TIMEOUT").next().is_some() {
                return Err(LookupError::Failed("it timed out".into()));
            }
            let Some(target) = has("CNAME").next() else { return Err(LookupError::NoRecords) };
            let target: Name = target.as_str().unwrap().parse().unwrap();
            if aliases.contains(&target) {
                return Err(LookupError::Failed("the aliases are a circle".into()));
            }
            aliases.push(target.clone());
            owner = target;
        }
    }
}

/// Octets are written as characters below U+0100.
fn octets(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).unwrap()).collect()
}

fn host(value: &Value) -> Name {
    value.as_str().unwrap().parse().unwrap()
}

impl Lookup for Zone {
    async fn text(&self, name: &Name) -> Found<Text> {
        self.ask(name, "TXT", |value| match value {
            Value::Array(strings) => {
                Text(strings.iter().flat_map(|text| octets(text.as_str().unwrap())).collect())
            }
            text => Text(octets(text.as_str().unwrap())),
        })
    }

    async fn exchanges(&self, name: &Name) -> Found<Mx> {
        self.ask(name, "MX", |value| Mx {
            preference: value[0].as_u64().unwrap().try_into().unwrap(),
            exchange: value[1].as_str().unwrap().parse().ok(),
        })
    }

    async fn ipv4(&self, name: &Name) -> Found<Ipv4Addr> {
        self.ask(name, "A", |value| value.as_str().unwrap().parse().unwrap())
    }

    async fn ipv6(&self, name: &Name) -> Found<Ipv6Addr> {
        self.ask(name, "AAAA", |value| value.as_str().unwrap().parse().unwrap())
    }

    async fn pointers(&self, name: &Name) -> Found<Name> {
        self.ask(name, "PTR", host)
    }

    async fn alias(&self, name: &Name) -> Found<Name> {
        self.ask(name, "CNAME", host)
    }
}

/// What is wrong with an outcome, by what the case wants: one result of some, and words of the domain.
fn wrong(case: &Value, outcome: &Outcome) -> Option<String> {
    let verdict = outcome.verdict.to_string();
    let wanted = &case["result"];
    let fits =
        *wanted == verdict || wanted.as_array().is_some_and(|all| all.iter().any(|one| *one == verdict));
    if !fits {
        return Some(format!("{verdict} ({}) instead of {wanted}", outcome.reason));
    }
    // `DEFAULT` is what a receiver says where the domain has no words that can be used.
    let words = outcome.explanation.as_deref().unwrap_or("DEFAULT");
    match case["explanation"].as_str() {
        Some(wanted) if wanted != words => Some(format!("explained by {words:?} instead of {wanted:?}")),
        _ => None,
    }
}

#[tokio::test]
async fn every_case_of_the_openspf_suite_gives_its_result() {
    let path = tests::address::cache().join("spf/rfc7208-tests.json");
    let suite = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let suite: Value = serde_json::from_str(&suite).unwrap();
    let (mut passed, mut failed) = (0, Vec::new());
    for scenario in suite.as_array().unwrap() {
        let zone = Zone::read(&scenario["zonedata"]);
        for (name, case) in scenario["tests"].as_object().unwrap() {
            let client = Client {
                address: case["host"].as_str().unwrap().parse::<IpAddr>().unwrap(),
                helo: case["helo"].as_str().unwrap(),
                mail_from: case["mailfrom"].as_str().unwrap(),
                receiver: "unknown",
                now: UNIX_EPOCH,
            };
            match wrong(case, &check_host(&zone, &client).await) {
                None => passed += 1,
                Some(wrong) => failed.push(format!("{}, {name}: {wrong}", scenario["description"])),
            }
        }
    }
    println!("{passed} of {CASES} cases passed");
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(passed, CASES);
}
