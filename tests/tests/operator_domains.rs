//! A sending domain as a Kubernetes object: applied, published, Ready; watched, rotated, and gone without a trace.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "what was measured is worth seeing, and not worth failing for")]

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::deadline::until_true;
use tests::kubernetes::SETTLED;
use tests::operated::{Operated, ZONE, selectors};

const DOMAIN: (&str, &str, &str) = ("shop", "sendingdomain", "example");

#[test]
fn a_domain_that_is_applied_becomes_ready_when_its_records_are_there_and_its_mail_is_signed() {
    let mut site = Operated::start();
    let mx = site.lab.mx("d1.test");
    let operator = site.operator("one");
    site.apply_domain();
    site.apply_credential();
    let object = site.checked_domain(2);
    let why = site.cluster.wait_condition(DOMAIN, "Ready", "False");
    let first = &object["status"]["records"][0];
    let name = first["name"].as_str().unwrap();
    assert!(why.contains(name), "{why}");
    is_put_off(&site, &["isn't ready to send", name, "SendingDomain shop/example"]);
    site.cluster.wait_condition(("shop", "account", "shop"), "Ready", "True");

    let published = Instant::now();
    site.publish(&object, None);
    site.cluster.wait_condition(DOMAIN, "Ready", "True");
    println!("Ready {} ms after the records were published", published.elapsed().as_millis());
    site.cluster.wait_condition(("shop", "smtpcredential", "app"), "Ready", "True");
    let ready = site.cluster.object(DOMAIN.0, DOMAIN.1, DOMAIN.2).unwrap();
    let signing = selectors(&ready, "Active");
    let mut signed = site.send(&mx, 1);
    signed.sort();
    let mut wanted = signing.clone();
    wanted.sort();
    assert_eq!(signed, wanted);
    assert_eq!(site.judged_by_zones(&mx.messages()[0].octets), Ok(()));
    let described = site.cluster.kubectl(&["get", "sendingdomains", "-n", "shop", "-o", "wide"]);
    println!("{described}");
    for word in ["DOMAIN", "READY", ZONE, "True", "Complete", &signing[0]] {
        assert!(described.contains(word), "{word} in {described}");
    }

    a_removed_record_shows(&mut site, &ready);
    leaked_keys_are_replaced(&mut site, &mx, &signing);
    let metrics = operator.metrics();
    assert!(
        metrics.contains("stagepost_operator_reconcile_seconds_count{kind=\"SendingDomain\"}"),
        "{metrics}"
    );
    nothing_is_left(&site);
}

/// Mail from the domain is put off with these words, as soon as accounts is told.
fn is_put_off(site: &Operated, words: &[&str]) {
    site.cluster.wait_condition(("shop", "smtpcredential", "app"), "Ready", "True");
    let login = site.secret("shop", "app").unwrap();
    until_true("mail is put off with what is missing", SETTLED, || {
        let mut client = site.stagepost.login_as(&login["username"], &login["password"]);
        let reply = client.command(&format!("MAIL FROM:<hello@{ZONE}>"));
        (reply.code, reply.enhanced()) == (451, Some("4.7.1"))
            && words.iter().all(|word| reply.text().contains(word))
    });
}

fn a_removed_record_shows(site: &mut Operated, ready: &Value) {
    site.publish(ready, Some("DMARC"));
    let why = site.cluster.wait_condition(DOMAIN, "Ready", "False");
    assert!(why.contains(&format!("_dmarc.{ZONE}")), "{why}");
    let object = site.cluster.object(DOMAIN.0, DOMAIN.1, DOMAIN.2).unwrap();
    let records = object["status"]["records"].as_array().unwrap();
    let dmarc = records.iter().find(|record| record["condition"] == "DMARCPublished").unwrap();
    assert_eq!(dmarc["state"], "Missing");
    is_put_off(site, &[&format!("_dmarc.{ZONE}"), "SendingDomain shop/example"]);
    site.publish(ready, None);
    site.cluster.wait_condition(DOMAIN, "Ready", "True");
    // Servers that don't answer change nothing.
    site.knot.stop();
    std::thread::sleep(Duration::from_secs(8));
    let object = site.cluster.object(DOMAIN.0, DOMAIN.1, DOMAIN.2).unwrap();
    assert_eq!(tests::kubernetes::condition(&object, "Ready").unwrap()["status"], "True");
    site.knot.go_on();
}

fn leaked_keys_are_replaced(site: &mut Operated, mx: &tests::mx::Mx, old: &[String]) {
    let annotation = "stagepost.dev/rotate-emergency=1";
    site.cluster.kubectl(&["annotate", "sendingdomain", "example", "-n", "shop", annotation]);
    let both = site.checked_domain(4);
    let signed = site.send(mx, 2);
    assert!(signed.iter().all(|selector| old.contains(selector)), "{signed:?}");
    site.publish(&both, None);
    let new = site.cluster.wait(DOMAIN, "new keys sign and the old ones are gone", |object| {
        let new = selectors(object, "Active");
        let all = object["status"]["keys"].as_array()?.len();
        (all == 2 && new.len() == 2 && new.iter().all(|selector| !old.contains(selector))).then_some(new)
    });
    until_true("mail is signed with the new keys", SETTLED, || {
        let number = mx.count() + 1;
        site.send(mx, number).iter().all(|selector| new.contains(selector))
    });
    // With the old keys' records their signatures go.
    let now = site.cluster.object(DOMAIN.0, DOMAIN.1, DOMAIN.2).unwrap();
    site.publish(&now, None);
    let received = mx.messages();
    assert_eq!(site.judged_by_zones(&received.last().unwrap().octets), Ok(()));
    assert!(site.judged_by_zones(&received[0].octets).is_err());
    let secrets = site.cluster.objects("shop", "secrets");
    let keys = secrets.iter().filter(|secret| secret["type"] == "stagepost.dev/dkim-key");
    assert_eq!(keys.count(), 2);
}

fn nothing_is_left(site: &Operated) {
    let name = site.secret("shop", "app").unwrap();
    site.cluster.kubectl(&["delete", "namespace", "shop", "--timeout=120s"]);
    let left =
        || [site.ask(&["domain", "list"]), site.ask(&["account", "list"])].map(|list| list.to_string());
    let end = Instant::now() + SETTLED;
    while left().iter().any(|list| list != "[]") {
        assert!(Instant::now() < end, "accounts still has {:?}", left());
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut client = site.stagepost.client();
    assert_eq!(client.auth_plain(&name["username"], &name["password"]).code, 535);
}
