//! Nothing leaves unsigned, or for a domain that isn't the account's.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use tests::deadline::{SOON, until_true};
use tests::lab::Lab;
use tests::message::{self, values};
use tests::stagepost::PASSWORD;

/// The tags of a DKIM-Signature field (RFC 6376 section 3.2) that matter here.
fn tag(field: &str, name: &str) -> String {
    let tags = field.split(';').map(str::trim);
    tags.into_iter()
        .find_map(|tag| tag.strip_prefix(&format!("{name}=")))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[test]
fn each_message_has_a_signature_of_each_key_of_its_authors_domain_in_lower_case() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    stagepost.domain("shop", "news.test", &lab.dns);
    let mut client = stagepost.login();
    let senders = [
        ("hello@sender.test", "sender.test"),
        ("Hello@Sender.TEST", "sender.test"),
        ("a@news.test", "news.test"),
    ];
    for ((from, domain), count) in senders.into_iter().zip(1..) {
        let octets = message::text(from, "b@d1.test", from, "Hello.");
        client.submit(from, &["UsEr+Tag@D1.Test"], &octets).queue_id();
        let received = mx.wait_for(count).pop().unwrap();
        let signatures = values(&received.octets, "DKIM-Signature");
        let mut algorithms: Vec<String> = signatures.iter().map(|field| tag(field, "a")).collect();
        algorithms.sort();
        assert_eq!(algorithms, ["ed25519-sha256", "rsa-sha256"]);
        assert!(signatures.iter().all(|field| tag(field, "d") == domain), "{signatures:?}");
        // The local part is the recipient's own business.
        assert!(received.recipients()[0].starts_with("UsEr+Tag@"), "{:?}", received.recipients());
    }
}

#[test]
fn a_sender_of_another_accounts_domain_is_refused_in_the_envelope_and_in_the_header() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    stagepost.ask(&["account", "create", "rival"]);
    stagepost.domain("rival", "rival.test", &lab.dns);
    stagepost.credential("rival", "rival-app", PASSWORD);
    let mut client = stagepost.login_as("rival-app", PASSWORD);
    let reply = client.command("MAIL FROM:<a@sender.test>");
    assert_eq!((reply.code, reply.enhanced()), (550, Some("5.7.1")), "{reply:?}");
    assert!(reply.text().contains("sender.test"), "{reply:?}");
    for from in [
        "a@sender.test",
        "a@rival.test, b@sender.test",
        "\"a@rival.test\" <b@sender.test>",
        "a@rival.test.sender.test",
        "a@sub.rival.test",
        "(a@rival.test) <b@sender.test>",
        "group: a@sender.test;",
    ] {
        let octets = message::text(from, "b@d1.test", "forged", "Hello.");
        for reverse_path in ["a@rival.test", ""] {
            let reply = client.submit(reverse_path, &["success@simulator.stagepost.test"], &octets);
            assert_eq!(reply.code / 100, 5, "{from} with {reverse_path:?}: {reply:?}");
        }
    }
    let octets = message::text("a@rival.test", "b@d1.test", "honest", "Hello.");
    client.submit("", &["success@simulator.stagepost.test"], &octets).queue_id();
}

#[test]
fn subdomains_may_send_where_the_domain_says_so() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().set("ingress.profile_refresh_secs", 1_i64).start();
    let from = "a@eu.sender.test";
    let mut client = stagepost.login();
    assert_eq!(client.command(&format!("MAIL FROM:<{from}>")).code, 550);
    stagepost.ask(&["domain", "set", "sender.test", "--subdomains"]);
    until_true("it may", SOON, || {
        let code = client.command(&format!("MAIL FROM:<{from}>")).code;
        client.expect("RSET", 250);
        code == 250
    });
    client.submit(from, &["b@d1.test"], &message::text(from, "b@d1.test", "below", "Hello.")).queue_id();
    let received = mx.wait_for(1);
    let signatures = values(&received[0].octets, "DKIM-Signature");
    assert_eq!(signatures.len(), 2, "{signatures:?}");
    // Aligned with the From field in relaxed mode (RFC 7489 section 3.1.1).
    assert!(signatures.iter().all(|field| tag(field, "d") == "sender.test"), "{signatures:?}");
}

#[test]
fn mail_of_a_domain_that_was_removed_waits_and_never_leaves_unsigned() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let mut stagepost = lab.stagepost().set("ingress.profile_refresh_secs", 1_i64).start();
    stagepost.domain("shop", "gone.test", &lab.dns);
    lab.dns.fault("d1.test", tests::dns::Fault::ServFail);
    let mut client = stagepost.login();
    let octets = message::text("a@gone.test", "b@d1.test", "gone", "Hello.");
    let id = client.submit("a@gone.test", &["b@d1.test"], &octets).queue_id();
    stagepost.ask(&["domain", "remove", "gone.test"]);
    // What accounts said of the domain holds for a while; a new process asks.
    assert!(stagepost.stop(SOON).success());
    lab.dns.heal("d1.test");
    stagepost.start_again();
    stagepost.ask(&["queue", "retry", &id]);
    until_true("it says what it waits for", SOON, || {
        let job = stagepost.ask(&["queue", "show", &id])["jobs"][0].clone();
        job["state"] == "waiting" && job["reason"].as_str().unwrap().contains("gone.test")
    });
    assert_eq!(mx.count(), 0);
    stagepost.domain("shop", "gone.test", &lab.dns);
    assert!(stagepost.stop(SOON).success());
    stagepost.start_again();
    stagepost.ask(&["queue", "retry", &id]);
    let received = mx.wait_for(1);
    assert_eq!(values(&received[0].octets, "DKIM-Signature").len(), 2);
}
