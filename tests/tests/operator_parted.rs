//! Two operators whose clocks are five minutes apart, each with a way of its own to the API server, which gets cut.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "what was measured is worth seeing, and not worth failing for")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tests::between::Between;
use tests::deadline::{until, until_true};
use tests::kubernetes::{Operator, condition};
use tests::long;
use tests::operated::Operated;

/// In the long form 50.
fn domains() -> usize {
    long::pick(20, 50)
}

/// Three times the usual, so that the API may take its time on a busy machine.
const LEASE_SECS: u64 = 45;
/// Far more than a Lease, and less than clocks differ.
const TAKEN_OVER: Duration = Duration::from_secs(240);
/// Who doesn't lead asks for the Lease several times meanwhile.
const WATCHED: Duration = Duration::from_secs(25);
/// For twenty keys, say.
const PATIENCE: Duration = Duration::from_secs(300);

/// An operator and its way to the API.
struct Candidate {
    name: &'static str,
    between: Between,
    operator: Operator,
}

impl Candidate {
    fn start(site: &Operated, name: &'static str, clock_off_secs: i64) -> Self {
        let between = Between::start(&site.cluster);
        let mut arguments = site.arguments();
        // Each look at a domain is a change of its object.
        arguments.retain(|argument| !argument.starts_with("--operator-check-quick"));
        arguments.push("--operator-check-quick-secs=3".into());
        arguments.push(format!("--operator-lease-secs={LEASE_SECS}"));
        let kubeconfig = between.kubeconfig();
        let operator = site.cluster.operator_off_by(clock_off_secs, name, &arguments, &kubeconfig);
        Self { name, between, operator }
    }

    fn changes(&self) -> usize {
        self.between.changes().len()
    }

    /// Whether it has written the status of all of the domains, beginning with this change.
    fn has_seen_to_all(&self, since: usize) -> bool {
        let changes = self.between.changes();
        (0..domains()).all(|number| {
            let path = format!("/sendingdomains/d{number}/status");
            changes[since..].iter().any(|change| change.call.ends_with(&path) && change.answer == Some(200))
        })
    }
}

fn apply_domains(site: &Operated, numbers: Range<usize>) {
    let mut yaml = String::from(
        "apiVersion: stagepost.dev/v1alpha1\nkind: Account\nmetadata: {name: shop, namespace: shop}\nspec: {}\n",
    );
    for number in numbers {
        let _ = write!(
            yaml,
            "---\napiVersion: stagepost.dev/v1alpha1\nkind: SendingDomain\nmetadata: {{name: d{number}, namespace: shop}}\n\
             spec: {{domain: d{number}.test, account: shop, dkim: {{algorithms: [RSA-2048]}}}}\n"
        );
    }
    site.cluster.apply(&yaml);
}

/// Of each domain that has a key: its selectors, and since when there has been one.
fn keys(site: &Operated) -> BTreeMap<String, (Vec<String>, String)> {
    let objects = site.cluster.objects("shop", "sendingdomains");
    let made = objects.iter().filter_map(|object| {
        let since = condition(object, "KeyReady").filter(|ready| ready["status"] == "True")?;
        let selectors = object["status"]["keys"].as_array()?.iter().map(|key| key["selector"].to_string());
        let name = object["metadata"]["name"].to_string();
        Some((name, (selectors.collect(), since["lastTransitionTime"].to_string())))
    });
    made.collect()
}

/// There is one key of each domain, and no other.
fn has_one_key_each(site: &Operated) -> bool {
    let keys = keys(site);
    let secrets = site.cluster.objects("shop", "secrets");
    let made = secrets.iter().filter(|secret| secret["type"] == "stagepost.dev/dkim-key").count();
    keys.len() == domains() && keys.values().all(|(selectors, _)| selectors.len() == 1) && made == domains()
}

/// For a while the one works, and the other doesn't.
fn follows(site: &Operated, follower: &Candidate, leader: &Candidate) {
    let (before, worked) = (follower.changes(), leader.changes());
    let begun = Instant::now();
    while begun.elapsed() < WATCHED {
        assert_eq!(site.cluster.leader().as_deref(), Some(leader.name));
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(follower.changes(), before, "{} isn't the leader", follower.name);
    assert!(leader.changes() > worked, "{} is the leader", leader.name);
    assert_eq!(follower.operator.metric("stagepost_operator_leading"), 0);
}

/// The leader gets parted from the API by the change that it asks for next with `part` in its path, until the other has seen to
/// all domains.
fn takes_over(site: &Operated, leader: &Candidate, other: &Candidate, part: &str, rest: Range<usize>) {
    let before = other.changes();
    leader.between.part_at(part);
    apply_domains(site, rest);
    let first_late = until("they are parted", PATIENCE, || leader.between.parted_at());
    let parted = Instant::now();
    until_true("the other leads", TAKEN_OVER, || site.cluster.leader().as_deref() == Some(other.name));
    println!("{} took over {} ms after {} was parted", other.name, parted.elapsed().as_millis(), leader.name);
    until_true("it sees to all domains", PATIENCE, || other.has_seen_to_all(before));
    until_true("all have a key", PATIENCE, || has_one_key_each(site));
    let (asked, asks) = (leader.between.changes(), other.between.changes());
    let (last, first) = (asked.last().unwrap(), &asks[before]);
    assert!(last.at < first.at, "both wrote: {last:?}, then {first:?}, then {:?}", last.at - first.at);
    println!("between what the two asked for were {} ms", (first.at - last.at).as_millis());
    assert!(leader.operator.process.log().contains("the Lease is lost"));

    leader.between.join();
    let late = until("all that was late is answered", PATIENCE, || {
        let late = leader.between.changes().split_off(first_late);
        late.iter().all(|change| change.answer.is_some()).then_some(late)
    });
    println!("{} changes came late", late.len());
    assert!(late.iter().all(|change| change.answer == Some(409)), "{late:?}");
    assert_eq!(late.len(), asked.len() - first_late, "{} asked for changes when it was back", leader.name);
    follows(site, leader, other);
}

#[test]
fn whatever_clocks_say_one_operator_writes_at_a_time_and_one_that_was_cut_off_follows() {
    let site = Operated::start();
    let first = Candidate::start(&site, "first", 150);
    first.operator.wait_leading();
    let second = Candidate::start(&site, "second", -150);
    let half = domains() / 2;
    apply_domains(&site, 0..half);
    until_true("half of the domains have keys", PATIENCE, || keys(&site).len() == half);
    follows(&site, &second, &first);
    let lease = site.cluster.object("default", "lease", "stagepost-operator").unwrap();
    let renewed: Timestamp = lease["spec"]["renewTime"].as_str().unwrap().parse().unwrap();
    assert!(renewed.as_second() > Timestamp::now().as_second() + 30, "the clock is right: {renewed}");

    takes_over(&site, &first, &second, "/secrets", half..domains());
    let made = keys(&site);
    takes_over(&site, &second, &first, "/sendingdomains/", domains()..domains());
    assert_eq!(keys(&site), made);
    assert!(has_one_key_each(&site));

    // Who was cut off leads again when the other ends.
    let mut first = first;
    assert!(first.operator.process.terminate(PATIENCE).success());
    until_true("the second leads", PATIENCE, || site.cluster.leader().as_deref() == Some("second"));
    let before = second.changes();
    until_true("it sees to all domains", PATIENCE, || second.has_seen_to_all(before));
    assert_eq!(keys(&site), made);
}
