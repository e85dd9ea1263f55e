//! An operator that is killed before or after any change it makes: keys are replaced all the same, nothing is left over, and
//! no mail goes unsigned or signed with a key that nobody can see. And connections that die without a sign.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "what was measured is worth seeing, and not worth failing for")]

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::between::{Between, Moment};
use tests::kubernetes::{Operator, SETTLED, condition};
use tests::long;
use tests::operated::Operated;

const DOMAIN: (&str, &str, &str) = ("shop", "sendingdomain", "example");
const CREDENTIAL: &str = "apiVersion: stagepost.dev/v1alpha1\nkind: SmtpCredential\n\
                          metadata: {name: app, namespace: shop}\nspec: {account: shop}\n";
/// A rotation changes at least so much: the keys' states, two Secrets made, two deleted, and the status at the end.
const CHANGES_MIN: usize = 7;
/// No rotation needs more.
const CHANGES_MAX: usize = 60;

fn operator(site: &Operated, between: &Between, number: usize) -> Operator {
    let mut arguments = site.arguments();
    arguments.push("--operator-lease-secs=3".into());
    site.cluster.operator_with(&format!("operator-{number}"), &arguments, &between.kubeconfig())
}

fn keys(object: &Value) -> Vec<(String, String)> {
    let word = |key: &Value, field: &str| key[field].as_str().unwrap_or_default().to_owned();
    let keys = object["status"]["keys"].as_array().cloned().unwrap_or_default();
    keys.iter().map(|key| (word(key, "selector"), word(key, "state"))).collect()
}

/// Whether both keys are others than before and sign, nothing else is left, and the domain is ready.
fn replaced(object: &Value, before: &[(String, String)]) -> bool {
    let now = keys(object);
    let new = |(selector, state): &(String, String)| {
        state == "Active" && before.iter().all(|(old, _)| old != selector)
    };
    let ready = condition(object, "Ready").is_some_and(|ready| ready["status"] == "True");
    now.len() == 2 && now.iter().all(new) && ready
}

/// Publishes what the status asks for, if that has changed.
fn publish(site: &mut Operated, object: &Value, published: &mut Value) {
    let records = &object["status"]["records"];
    let asked: Vec<(&Value, &Value)> = records
        .as_array()
        .map_or(Vec::new(), |records| records.iter().map(|r| (&r["name"], &r["value"])).collect());
    let asked = serde_json::to_value(asked).unwrap();
    if asked != *published {
        site.publish(object, None);
        *published = asked;
    }
}

/// One rotation with a kill at its `number`th change; whether it came to that.
fn rotation(
    site: &mut Operated,
    between: &Between,
    running: &mut Operator,
    (round, number, moment): (usize, usize, Moment),
    published: &mut Value,
) -> bool {
    let object = |site: &Operated| site.cluster.object(DOMAIN.0, DOMAIN.1, DOMAIN.2).unwrap();
    let before = keys(&object(site));
    between.hold_at(number, moment);
    let annotation = format!("stagepost.dev/rotate-emergency=round-{round}");
    site.cluster.kubectl(&["annotate", "--overwrite", DOMAIN.1, DOMAIN.2, "-n", DOMAIN.0, &annotation]);
    let begun = Instant::now();
    let mut killed = false;
    loop {
        if let Some(what) = between.held().filter(|_| !killed) {
            running.process.kill();
            between.let_go();
            *running = operator(site, between, round);
            killed = true;
            println!("killed at change {number} ({moment:?}): {what}");
        }
        let object = object(site);
        if replaced(&object, &before) {
            between.let_go();
            return killed;
        }
        publish(site, &object, published);
        assert!(
            begun.elapsed() < SETTLED,
            "the keys aren't replaced after a kill at change {number} ({moment:?})\n{object:#}\n{}",
            running.process.log()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn keys_are_replaced_whenever_the_operator_is_killed_and_all_mail_is_signed() {
    let mut site = Operated::start();
    let mx = site.lab.mx("d1.test");
    let between = Between::start(&site.cluster);
    let mut running = operator(&site, &between, 0);
    site.apply_domain();
    site.cluster.apply(CREDENTIAL);
    let object = site.checked_domain(2);
    let mut published = Value::Null;
    publish(&mut site, &object, &mut published);
    site.cluster.wait_condition(DOMAIN, "Ready", "True");
    site.cluster.wait_condition(("shop", "smtpcredential", "app"), "Ready", "True");
    let sent = site.application().send_while(|| {
        let moments = long::pick(vec![Moment::BeforeAnswer], vec![Moment::BeforeAnswer, Moment::BeforeCall]);
        let mut round = 0;
        for moment in moments {
            let mut number = 1;
            loop {
                round += 1;
                assert!(number < CHANGES_MAX, "a rotation doesn't end");
                if !rotation(&mut site, &between, &mut running, (round, number, moment), &mut published) {
                    break;
                }
                number += 1;
            }
            println!("a rotation was over before its change {number}");
            assert!(number > CHANGES_MIN, "only {number} changes in a rotation");
        }
    });
    println!("{sent} messages were sent meanwhile");
    site.all_signed(&mx, sent);
    let secrets = site.cluster.objects("shop", "secrets");
    let left = secrets.iter().filter(|secret| secret["type"] == "stagepost.dev/dkim-key");
    assert_eq!(left.count(), 2);
}

#[test]
fn a_watch_that_died_without_a_sign_is_begun_anew_within_a_minute() {
    let site = Operated::start();
    let between = Between::start(&site.cluster);
    let operator = operator(&site, &between, 0);
    site.apply_domain();
    site.checked_domain(2);
    between.forget_connections();
    let patched = Instant::now();
    let patch = r#"{"spec": {"dmarc": {"policy": "reject"}}}"#;
    site.cluster.kubectl(&["patch", DOMAIN.1, DOMAIN.2, "-n", DOMAIN.0, "--type=merge", "-p", patch]);
    let generation =
        site.cluster.object(DOMAIN.0, DOMAIN.1, DOMAIN.2).unwrap()["metadata"]["generation"].clone();
    site.cluster.wait(DOMAIN, "the change is seen", |object| {
        (object["status"]["observedGeneration"] == generation).then_some(())
    });
    let took = patched.elapsed();
    println!("a change was seen {} s after its watch died", took.as_secs());
    assert!(took < Duration::from_secs(90), "{took:?}");
    drop(operator);
}
