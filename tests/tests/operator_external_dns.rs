//! A sending domain whose records external-dns publishes: applied, and nobody touches anything else.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "what was measured is worth seeing, and not worth failing for")]

use std::time::Instant;

use tests::address;
use tests::deadline::until_true;
use tests::external_dns::ExternalDns;
use tests::kubernetes::{Operator, SETTLED};
use tests::mx::Mx;
use tests::operated::{Operated, ZONE, selectors};

const DOMAIN: (&str, &str, &str) = ("shop", "sendingdomain", "example");
/// Another zone, and another domain.
const PLAIN: &str = "plain.test";
/// The zone that aliases lead to.
const KEYS: &str = "keys.test";

/// A SendingDomain with a return path below it; `dns` and `spec` say more.
fn domain(name: &str, domain: &str, dns: &str, spec: &str) -> String {
    format!(
        "apiVersion: stagepost.dev/v1alpha1\nkind: SendingDomain\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{domain: {domain}, account: shop, returnPath: {{domain: bounces.{domain}}}, \
         dns: {{mode: ExternalDNS, ttlSecs: 30{dns}}}{spec}}}\n"
    )
}

/// An operator that knows who takes reports on undelivered mail.
fn operator(site: &Operated, more: &[&str]) -> Operator {
    let mut arguments = site.arguments();
    arguments.push("--operator-report-hosts=mx.servers.test".into());
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    site.cluster.operator("one", &arguments)
}

fn apply_account(site: &Operated) {
    site.cluster.apply(
        "apiVersion: stagepost.dev/v1alpha1\nkind: Account\nmetadata: {name: shop, namespace: shop}\n\
         spec: {plan: unlimited}\n",
    );
    site.apply_credential();
}

/// The records of a zone that are about mail, and how many notes external-dns has on them.
fn published(site: &Operated, zone: &str) -> (Vec<String>, usize) {
    let notes = |record: &String| record.contains("heritage=external-dns");
    let (notes, records): (Vec<_>, Vec<_>) = site.knot.records(zone).into_iter().partition(notes);
    (records, notes.len())
}

/// Stagepost's judges see what the zones' servers have.
fn show_judges(site: &Operated, zones: &[&str]) {
    for record in zones.iter().flat_map(|zone| published(site, zone).0) {
        let mut parts = record.splitn(4, ' ');
        let (name, _ttl, kind, data) =
            (parts.next().unwrap(), parts.next(), parts.next().unwrap(), parts.next().unwrap());
        let name = name.trim_end_matches('.');
        match kind {
            "TXT" => site.lab.dns.txt(name, &data.split('"').skip(1).step_by(2).collect::<String>()),
            "CNAME" => site.lab.dns.cname(name, data.trim_end_matches('.')),
            _ => {}
        }
    }
}

/// Sends a mail, which must be signed with exactly these keys.
fn is_signed(site: &Operated, mx: &Mx, zones: &[&str], wanted: &[String]) {
    show_judges(site, zones);
    let mut signed = Vec::new();
    until_true("mail is signed with the domain's keys", SETTLED, || {
        signed = site.send(mx, mx.count() + 1);
        signed.sort();
        signed == wanted
    });
}

/// Asks for new keys; they sign in the end, and nothing is left of the old ones.
fn rotates(site: &Operated, zones: &[&str]) -> Vec<String> {
    let old = active(site);
    let begun = Instant::now();
    let annotation = "stagepost.dev/rotate=1";
    site.cluster.kubectl(&["annotate", "sendingdomain", "example", "-n", "shop", annotation]);
    site.cluster.wait(DOMAIN, "new keys sign and the old ones are gone", |object| {
        let new = selectors(object, "Active");
        let all = object["status"]["keys"].as_array()?.len();
        (all == 2 && new.len() == 2 && new.iter().all(|selector| !old.contains(selector))).then_some(())
    });
    println!("rotated after {} ms", begun.elapsed().as_millis());
    until_true("nothing of the old keys is in the zones", SETTLED, || {
        let records: Vec<String> = zones.iter().flat_map(|zone| site.knot.records(zone)).collect();
        old.iter().all(|selector| records.iter().all(|record| !record.contains(selector)))
    });
    active(site)
}

fn active(site: &Operated) -> Vec<String> {
    let mut active = selectors(&site.cluster.object(DOMAIN.0, DOMAIN.1, DOMAIN.2).unwrap(), "Active");
    active.sort();
    active
}

fn leaves_nothing(site: &Operated, zones: &[&str]) {
    let begun = Instant::now();
    site.cluster.kubectl(&["delete", "sendingdomains", "-n", "shop", "--all"]);
    until_true("its records are gone", SETTLED, || {
        zones.iter().all(|zone| site.knot.records(zone).is_empty())
    });
    println!("all records were gone after {} ms", begun.elapsed().as_millis());
}

#[test]
fn a_domain_that_is_applied_is_published_signs_is_rotated_and_leaves_nothing() {
    let site = Operated::start_with(&[], &[ZONE, PLAIN]);
    let mx = site.lab.mx("d1.test");
    let _external_dns = ExternalDns::start(&site.lab, &site.cluster, &site.knot, &[ZONE, PLAIN]);
    let _operator = operator(&site, &[]);
    apply_account(&site);
    let applied = Instant::now();
    site.cluster.apply(&domain("example", ZONE, "", ""));
    site.cluster.wait_condition(DOMAIN, "Ready", "True");
    println!("Ready {} ms after it was applied", applied.elapsed().as_millis());
    let (records, notes) = published(&site, ZONE);
    let about = |part: &str| records.iter().filter(|record| record.contains(part)).count();
    assert_eq!(["._domainkey.", "v=DKIM1", "v=spf1", "v=DMARC1", " MX "].map(about), [2, 2, 1, 1, 1]);
    assert_eq!((records.len(), notes), (5, 5));
    let signing = active(&site);
    is_signed(&site, &mx, &[ZONE], &signing);

    // What a zone file would have in quotes isn't taken for what it was by this provider, and the operator says so.
    let plain = |format: &str| {
        site.cluster.apply(&domain("plain", PLAIN, &format!(", txtFormat: {format}"), ""));
    };
    plain("Plain");
    let object = ("shop", "sendingdomain", "plain");
    site.cluster.wait(object, "the text after the semicolon is missed", |object| {
        let message = tests::kubernetes::condition(object, "DKIMPublished")?["message"].as_str()?;
        message.contains("it has no p=").then_some(())
    });
    plain("Chunked");
    site.cluster.wait_condition(object, "Ready", "True");

    let signing = rotates(&site, &[ZONE]);
    is_signed(&site, &mx, &[ZONE], &signing);
    leaves_nothing(&site, &[ZONE, PLAIN]);
}

#[test]
fn aliases_are_published_and_rotated_too_while_a_server_is_silent() {
    let mut site = Operated::start_with(&[], &[ZONE, KEYS]);
    let (here, silent) = (site.knot.address(), address::fresh());
    let servers = format!("ns1 A {here}\nns2 A {silent}\nout A 192.0.2.1\nmx A 192.0.2.9\n");
    site.knot.serve("servers.test", &servers);
    let mx = site.lab.mx("d1.test");
    let _external_dns = ExternalDns::start(&site.lab, &site.cluster, &site.knot, &[ZONE, KEYS]);
    let _operator = operator(&site, &["--operator-hold-secs=10"]);
    apply_account(&site);
    site.cluster.apply(&domain("example", ZONE, "", &format!(", dkim: {{cnameZone: {KEYS}}}")));
    site.cluster.wait_condition(DOMAIN, "Ready", "True");
    let (records, _) = published(&site, ZONE);
    let of_kind = |kind: &str| records.iter().filter(|record| record.contains(kind)).count();
    assert_eq!((of_kind(" CNAME "), of_kind(" MX 10 mx.servers.test."), of_kind(" TXT ")), (2, 1, 2));
    assert_eq!(published(&site, KEYS).0.len(), 2);
    let first = active(&site);
    assert_eq!(first, ["sp1-ed25519", "sp1-rsa"]);
    is_signed(&site, &mx, &[ZONE, KEYS], &first);
    let second = rotates(&site, &[ZONE, KEYS]);
    assert_eq!(second, ["sp2-ed25519", "sp2-rsa"]);
    is_signed(&site, &mx, &[ZONE, KEYS], &second);
    leaves_nothing(&site, &[ZONE, KEYS]);
}
