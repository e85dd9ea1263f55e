//! What kubectl says of a sending domain, as the README has it.
//!
//! `STAGEPOST_WRITE_README=1 tests/run operator_readme` writes it there.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use serde_json::Value;
use tests::address::tests_folder;
use tests::operated::{Operated, selectors};

const DOMAIN: (&str, &str, &str) = ("shop", "sendingdomain", "example");
const BEGIN: &str = "<!-- What kubectl says: made by tests/tests/operator_readme.rs -->\n";
const END: &str = "<!-- End of what kubectl says -->\n";
/// In place of those that are new each time, and as long.
const SELECTORS: [&str; 2] = ["sp-m3x7q2fz-rsa", "sp-k8d4w1tn-ed25519"];
const TIME: &str = "2027-02-26T10:00:00Z";

#[test]
fn what_kubectl_says_of_a_domain_is_in_the_readme() {
    let mut site = Operated::start();
    let _operator = site.operator("one");
    site.apply_domain();
    let object = site.checked_domain(2);
    site.publish(&object, Some("DMARC"));
    // The keys sign before the last record is there.
    site.cluster.wait(DOMAIN, "only a record is missing", |object| {
        let ready = tests::kubernetes::condition(object, "Ready")?;
        (selectors(object, "Active").len() == 2 && ready["message"].as_str()?.contains("_dmarc."))
            .then_some(())
    });
    let mut said = shown(&site, "get sendingdomains -n shop -o wide", without_age);
    said += &shown(&site, "describe sendingdomain example -n shop | grep -B 5 'Type: *Ready$'", of_ready);
    site.publish(&object, None);
    let wait = "wait --for=condition=Ready sendingdomain/example -n shop --timeout=2m";
    said += &shown(&site, wait, str::to_owned);
    said += &shown(&site, "get sendingdomains -n shop -o wide", without_age);
    said += &shown(&site, "explain sendingdomain.spec.dkim", str::to_owned);
    is_in_the_readme(&fixed(&said, &object));
}

/// A command and what it prints, as a block of code; what stands after a pipe in it is done by `pipe`.
fn shown(site: &Operated, command: &str, pipe: impl Fn(&str) -> String) -> String {
    let arguments: Vec<&str> = command.split('|').next().unwrap().split_whitespace().collect();
    let printed = pipe(&site.cluster.kubectl(&arguments));
    let lines = std::iter::once(format!("$ kubectl {command}"))
        .chain(printed.trim_matches('\n').lines().map(str::to_owned));
    lines.map(|line| format!("    {line}").trim_end().to_owned() + "\n").collect::<String>() + "\n"
}

/// The last column says how old an object is.
fn without_age(table: &str) -> String {
    let row = |line: &str| match line.trim_end().rsplit_once(' ') {
        Some((rest, age)) if age != "AGE" => format!("{rest} 1m\n"),
        _ => format!("{line}\n"),
    };
    table.lines().map(row).collect()
}

/// The condition Ready, of all that is described.
fn of_ready(description: &str) -> String {
    let lines: Vec<&str> = description.lines().collect();
    let is_ready = |line: &&str| line.trim().strip_prefix("Type:").is_some_and(|kind| kind.trim() == "Ready");
    let at = lines.iter().position(is_ready).unwrap();
    lines[at - 5..=at].iter().map(|line| format!("{line}\n")).collect()
}

/// The text with nothing in it that differs from run to run.
fn fixed(text: &str, object: &Value) -> String {
    let keys = object["status"]["keys"].as_array().unwrap();
    let mut text = text.to_owned();
    for (key, selector) in keys.iter().zip(SELECTORS) {
        let own = key["selector"].as_str().unwrap();
        assert_eq!(own.len(), selector.len(), "{own}");
        text = text.replace(own, selector);
    }
    let mut at = 0;
    while let Some(place) = text[at..].find("T").map(|place| at + place) {
        at = place + 1;
        let (begin, end) = (place.wrapping_sub(10), place + 10);
        if text.get(begin..end).is_some_and(is_time) {
            text.replace_range(begin..end, TIME);
        }
    }
    text
}

/// Whether it is like `2027-02-26T10:00:00Z`.
fn is_time(text: &str) -> bool {
    let like = |(octet, wanted): (u8, u8)| {
        if wanted.is_ascii_digit() { octet.is_ascii_digit() } else { octet == wanted }
    };
    text.len() == TIME.len() && text.bytes().zip(TIME.bytes()).all(like)
}

fn is_in_the_readme(said: &str) {
    let path = tests_folder().join("../README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let begin = readme.find(BEGIN).map(|at| at + BEGIN.len()).unwrap();
    let end = begin + readme[begin..].find(END).unwrap();
    let said = format!("\n{said}");
    if std::env::var_os("STAGEPOST_WRITE_README").is_some() {
        std::fs::write(&path, format!("{}{said}{}", &readme[..begin], &readme[end..])).unwrap();
        return;
    }
    assert_eq!(
        &readme[begin..end],
        said,
        "the README is stale: run STAGEPOST_WRITE_README=1 tests/run operator_readme"
    );
}
