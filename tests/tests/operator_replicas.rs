//! Several operators and several objects that want the same: one works, one has it, and nobody stands in another's way.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "what was measured is worth seeing, and not worth failing for")]

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::deadline::{until, until_true};
use tests::kubernetes::SETTLED;
use tests::operated::{Operated, ZONE};

const DOMAIN: (&str, &str, &str) = ("shop", "sendingdomain", "example");

fn domain(namespace: &str, name: &str, domain: &str) -> String {
    format!(
        "apiVersion: stagepost.dev/v1alpha1\nkind: SendingDomain\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{domain: {domain}, account: shop, dkim: {{algorithms: [RSA-2048]}}}}\n"
    )
}

#[test]
fn another_operator_takes_over_and_one_that_was_stopped_writes_nothing() {
    let site = Operated::start();
    let mut first = site.operator("first");
    first.wait_leading();
    let second = site.operator("second");
    site.apply_domain();
    site.checked_domain(2);
    let keys = |site: &Operated| {
        let secrets = site.cluster.objects("shop", "secrets");
        secrets.iter().filter(|secret| secret["type"] == "stagepost.dev/dkim-key").count()
    };
    assert_eq!(keys(&site), 2);
    let stopped = Instant::now();
    first.process.signal(Signal::STOP);
    until("the second operator leads", SETTLED, || (site.cluster.leader()? == "second").then_some(()));
    println!("taken over {} ms after the leader was stopped", stopped.elapsed().as_millis());
    second.wait_leading();
    site.cluster.apply(&domain("shop", "other", "other.test"));
    site.cluster.wait(("shop", "sendingdomain", "other"), "the second operator works", |object| {
        object["status"]["keys"].as_array().map(Vec::len)
    });
    // It goes on where it was stopped, and has lost.
    first.process.signal(Signal::CONT);
    until_true("the first operator knows", SETTLED, || first.process.log().contains("the Lease is lost"));
    until_true("a key for each domain and kind", SETTLED, || keys(&site) == 3);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!((keys(&site), site.cluster.leader().as_deref()), (3, Some("second")));

    // Who ends gives the Lease back, after its work has stopped.
    let mut second = second;
    let ended = Instant::now();
    assert!(second.process.terminate(SETTLED).success());
    until("the first operator leads again", SETTLED, || (site.cluster.leader()? == "first").then_some(()));
    println!("taken over {} ms after the leader ended", ended.elapsed().as_millis());
    first.wait_leading();
    assert!(first.process.terminate(SETTLED).success());
    assert_eq!(site.cluster.leader(), None);
}

#[test]
fn the_oldest_object_has_a_domain_and_the_next_gets_it_when_that_goes() {
    let site = Operated::start();
    let _operator = site.operator("one");
    site.apply_domain();
    site.cluster.wait_condition(DOMAIN, "Claimed", "True");
    site.cluster.kubectl(&["create", "namespace", "store"]);
    site.cluster.apply(
        "apiVersion: stagepost.dev/v1alpha1\nkind: Account\nmetadata: {name: shop, namespace: store}\nspec: {name: store}\n",
    );
    // Times of objects are whole seconds; this one is later whatever the ids say.
    std::thread::sleep(Duration::from_millis(1100));
    site.cluster.apply(&domain("store", "ours", ZONE));
    let loser = ("store", "sendingdomain", "ours");
    let why = site.cluster.wait_condition(loser, "Ready", "False");
    assert!(why.contains("SendingDomain shop/example has the domain"), "{why}");
    assert_eq!(
        site.cluster.object(loser.0, loser.1, loser.2).unwrap()["status"]["keys"].as_array().map(Vec::len),
        Some(0)
    );
    site.cluster.kubectl(&["delete", "sendingdomain", "example", "-n", "shop"]);
    site.cluster.wait_condition(loser, "Claimed", "True");
    site.cluster.wait_condition(loser, "KeyReady", "True");
}

#[test]
fn the_api_refuses_what_makes_no_sense_in_plain_words() {
    let site = Operated::start();
    for (spec, part) in [
        ("{domain: Example.test, account: shop}", "lower case letters"),
        ("{domain: example.test, account: shop, dkim: {rotationDays: 3}}", "14 days or more"),
        ("{domain: example.test, account: shop, returnPath: {domain: a.example.org}}", "SPF isn't aligned"),
        ("{domain: example.test, account: shop, dns: {resolvers: [one]}}", "a resolver is an IP address"),
        ("{domain: example.test, account: shop, dkim: {selektor: a}}", "field not declared in schema"),
    ] {
        let yaml = format!(
            "apiVersion: stagepost.dev/v1alpha1\nkind: SendingDomain\nmetadata: {{name: bad, namespace: shop}}\nspec: {spec}\n"
        );
        let error = site.cluster.try_apply(&yaml).unwrap_err();
        assert!(error.contains(part), "{spec}: {error}");
    }
    let explained = site.cluster.kubectl(&["explain", "sendingdomain.spec.dkim.rotationDays"]);
    assert!(explained.contains("Days after which generated keys are replaced"), "{explained}");
}

/// Deletes namespaces all at once; kubectl says so when they aren't gone in time.
fn delete(site: &Operated, namespaces: &[String], what: &str) {
    let begun = Instant::now();
    let mut arguments = vec!["delete", "namespace", "--timeout=300s"];
    arguments.extend(namespaces.iter().map(String::as_str));
    site.cluster.kubectl(&arguments);
    println!("{} namespaces were gone after {} ms, {what}", namespaces.len(), begun.elapsed().as_millis());
}

#[test]
fn namespaces_go_in_any_order_whether_an_operator_runs_or_not() {
    let site = Operated::start();
    site.cluster.define_endpoints();
    let mut operator = site.operator("one");
    let namespaces: Vec<String> = (0..20).map(|number| format!("team-{number}")).collect();
    for namespace in &namespaces {
        site.cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\n\
             apiVersion: stagepost.dev/v1alpha1\nkind: Account\nmetadata: {{name: shop, namespace: {namespace}}}\n\
             spec: {{name: {namespace}}}\n---\n\
             apiVersion: stagepost.dev/v1alpha1\nkind: SmtpCredential\nmetadata: {{name: app, namespace: {namespace}}}\n\
             spec: {{account: shop}}\n---\n\
             apiVersion: stagepost.dev/v1alpha1\nkind: SendingDomain\nmetadata: {{name: domain, namespace: {namespace}}}\n\
             spec: {{domain: {namespace}.test, account: shop, dkim: {{algorithms: [RSA-2048]}}, dns: {{mode: ExternalDNS}}}}\n"
        ));
    }
    for namespace in &namespaces {
        site.cluster.wait_condition((namespace, "smtpcredential", "app"), "Ready", "True");
        until_true("its records are to be published", SETTLED, || {
            !site.cluster.objects(namespace, "dnsendpoints").is_empty()
        });
    }
    let (first, second) = namespaces.split_at(10);
    delete(&site, first, "while an operator ran");
    assert!(operator.process.terminate(SETTLED).success());
    delete(&site, second, "while none ran");
    let _operator = site.operator("two");
    until_true("accounts has nothing any more", SETTLED, || {
        site.ask(&["account", "list"]).as_array().is_some_and(Vec::is_empty)
    });
}
