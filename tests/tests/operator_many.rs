//! Many sending domains: each has its keys, is checked and told; how long that takes, and what it costs.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "what was measured is worth seeing, and not worth failing for")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::deadline::until_true;
use tests::kubernetes::{Operator, condition};
use tests::long;
use tests::operated::{Operated, ZONE, zone_lines};

/// An RSA key is a fifth of a second of CPU, on threads that give way to all else.
const KEY: Duration = Duration::from_secs(2);
/// In the long form, with all domains in it.
const RESIDENT_MAX: u64 = 150_000_000;

fn domains(count: usize) -> String {
    let mut yaml = String::from(
        "apiVersion: stagepost.dev/v1alpha1\nkind: Account\nmetadata: {name: shop, namespace: shop}\nspec: {plan: unlimited}\n",
    );
    for number in 0..count {
        let _ = write!(
            yaml,
            "---\napiVersion: stagepost.dev/v1alpha1\nkind: SendingDomain\nmetadata: {{name: d{number}, namespace: shop}}\n\
             spec: {{domain: d{number}.{ZONE}, account: shop}}\n"
        );
    }
    yaml
}

fn objects(site: &Operated) -> Vec<Value> {
    site.cluster.objects("shop", "sendingdomains")
}

fn with_records(object: &Value) -> bool {
    let of_keys = |records: &Vec<Value>| records.iter().filter(|r| r["condition"] == "DKIMPublished").count();
    object["status"]["records"].as_array().map_or(0, of_keys) == 2
}

fn ready(object: &Value) -> bool {
    condition(object, "Ready").is_some_and(|ready| ready["status"] == "True")
}

fn looked_at(operator: &Operator) -> u64 {
    operator.metric("stagepost_operator_reconciles_total{kind=\"SendingDomain\"}")
}

/// Datagrams that came in, in this network namespace: DNS, and nothing else.
fn datagrams() -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let line = text.lines().filter(|line| line.starts_with("Udp:")).nth(1).unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn many_domains_are_all_looked_after() {
    let count = long::pick(40, 2000);
    let all = u64::try_from(count).unwrap();
    let generous = Duration::from_secs(120) + KEY * u32::try_from(count).unwrap();
    let mut site = Operated::start();
    let mut arguments = site.arguments();
    arguments.retain(|argument| !argument.starts_with("--operator-check"));
    let mut first = site.cluster.operator("first", &arguments);

    let begun = Instant::now();
    site.cluster.apply(&domains(count));
    println!("{count} domains applied after {} s", begun.elapsed().as_secs());
    // To see them all costs the API server more than the operator does.
    let pause = Duration::from_secs(long::pick(1, 10));
    let made = |operator: &Operator| {
        ["rsa", "ed25519"]
            .map(|kind| operator.metric(&format!("stagepost_operator_keys_total{{algorithm=\"{kind}\"}}")))
    };
    until_true("all domains have keys", generous, || {
        std::thread::sleep(pause);
        made(&first).iter().all(|made| *made >= all)
    });
    println!("all keys made after {} s", begun.elapsed().as_secs());
    until_true("all domains say what to publish", generous, || {
        std::thread::sleep(pause);
        objects(&site).iter().filter(|object| with_records(object)).count() == count
    });
    println!("all say what to publish after {} s", begun.elapsed().as_secs());
    let mut records = String::new();
    for object in objects(&site) {
        records.push_str(&zone_lines(&object, None));
    }
    site.knot.serve(ZONE, &records);
    let published = Instant::now();
    until_true("all domains are ready", generous, || {
        std::thread::sleep(pause);
        objects(&site).iter().all(ready)
    });
    println!("all ready {} s after their records were published", published.elapsed().as_secs());
    println!("resident {} MB at most", first.process.resident_peak() / 1_000_000);
    assert_eq!(site.ask(&["domain", "list"]).as_array().map(Vec::len), Some(count));

    let before = datagrams();
    let window = Duration::from_secs(long::pick(5, 300));
    std::thread::sleep(window);
    // Each query comes in at the server, and its answer here.
    let queries = (datagrams() - before) / 2;
    println!("{queries} DNS queries in {} s for {count} domains", window.as_secs());

    assert!(first.process.terminate(generous).success());
    let started = Instant::now();
    let mut again = site.cluster.operator("again", &arguments);
    until_true("all are looked at after a start", generous, || looked_at(&again) >= all);
    println!("all looked at {} ms after a start", started.elapsed().as_millis());
    until_true("all count as ready", generous, || {
        again.metric("stagepost_operator_domains_true{condition=\"Ready\"}") == all
    });
    let resident = again.process.resident_peak();
    println!("resident {} MB at most", resident / 1_000_000);
    assert!(resident < RESIDENT_MAX, "{resident} octets");

    let next = site.cluster.operator("next", &arguments);
    std::thread::sleep(Duration::from_secs(2));
    let killed = Instant::now();
    again.process.kill();
    next.wait_leading();
    println!("taken over {} ms after a kill", killed.elapsed().as_millis());
    until_true("all are looked at after a take-over", generous, || looked_at(&next) >= all);
    println!("all looked at {} ms after a kill", killed.elapsed().as_millis());
    assert!(objects(&site).iter().all(ready));
}
