//! TLS on the way out: used where it works, done without where nobody asks for it (RFC 7435), and never done without where
//! somebody does.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::path::PathBuf;

use tests::deadline::{SOON, until};
use tests::lab::Lab;
use tests::message;
use tests::mx::{Answer, Mx, Step, Tls};
use tests::stagepost::Stagepost;

const FROM: &str = "hello@sender.test";

fn send(stagepost: &Stagepost, domains: &[&str]) {
    let mut client = stagepost.login();
    for domain in domains {
        let octets = message::text(FROM, "user@d1.test", domain, "Hello.");
        assert_eq!(client.submit(FROM, &[&format!("user@{domain}")], &octets).code, 250);
    }
}

fn deferred(stagepost: &Stagepost) -> usize {
    stagepost.log().matches("disposition=\"deferred\"").count()
}

/// The status of what waits for this domain after an attempt.
fn wait_for_status(stagepost: &Stagepost, domain: &str) -> String {
    let about = format!("user@{domain}");
    until(&format!("an attempt for {domain}"), SOON, || {
        let queue = stagepost.queue();
        let job = queue.iter().find(|job| job["state"] == "waiting" && job["to"][0] == about.as_str())?;
        Some(job["last"][0]["status"].as_str()?.to_owned())
    })
}

fn authority(lab: &Lab) -> PathBuf {
    let path = lab.folder().join("ca.pem");
    std::fs::write(&path, lab.authority.pem()).unwrap();
    path
}

/// Receivers whose TLS doesn't work, each in its way.
fn broken(lab: &Lab) -> Vec<(&'static str, Mx)> {
    let kinds = [
        ("closes.test", Tls::Closes),
        ("garbage.test", Tls::Garbage),
        ("old.test", Tls::TooOld),
        ("refuses.test", Tls::Refused),
        ("hangs.test", Tls::Hangs),
    ];
    kinds
        .into_iter()
        .map(|(domain, tls)| {
            let mx = lab.mx(domain);
            mx.tls(tls);
            (domain, mx)
        })
        .collect()
}

/// Only what may be said in the clear when TLS is a must.
fn assert_nothing_said_in_the_clear(mx: &Mx, domain: &str) {
    for (connection, line) in mx.commands() {
        let verb = line.split(' ').next().unwrap();
        assert!(["EHLO", "STARTTLS", "QUIT"].contains(&verb), "{domain}, connection {connection}: {line}");
    }
    assert_eq!(mx.count(), 0, "{domain}");
}

#[test]
fn where_nobody_asks_for_tls_a_broken_one_is_done_without() {
    let lab = Lab::new();
    let servers = broken(&lab);
    let stagepost = lab.stagepost().set("delivery.tls_timeout_secs", 1_i64).start();
    let domains: Vec<&str> = servers.iter().map(|(domain, _)| *domain).collect();
    send(&stagepost, &domains);
    for (domain, mx) in &servers {
        let received = mx.wait_for(1);
        assert!(!received[0].tls, "{domain}");
        // What comes after a failed handshake is a new connection; where STARTTLS was refused the old one is as good.
        let connections = if *domain == "refuses.test" { 1 } else { 2 };
        assert_eq!((received[0].connection + 1, mx.connections()), (connections, connections), "{domain}");
        assert_eq!(mx.commands_of("STARTTLS").len(), 1, "{domain}");
    }
    stagepost.wait_until_idle(SOON);
    // It is remembered for a while: the next mail doesn't run into it again.
    send(&stagepost, &domains);
    for (domain, mx) in servers.iter().filter(|(domain, _)| *domain != "refuses.test") {
        mx.wait_for(2);
        assert_eq!(mx.commands_of("STARTTLS").len(), 1, "{domain}");
    }
    stagepost.wait_until_idle(SOON);
    assert_eq!(deferred(&stagepost), 0);
}

#[test]
fn where_nobody_asks_for_tls_any_certificate_will_do() {
    let lab = Lab::new();
    let certificates = [
        ("good.test", lab.authority.issue(&["mx.good.test"])),
        ("expired.test", lab.authority.issue_expired(&["mx.expired.test"])),
        ("other.test", lab.authority.issue(&["somebody.else.test"])),
    ];
    let servers = certificates.map(|(domain, certificate)| {
        let mx = lab.mx(domain);
        mx.tls(Tls::Works(certificate.server()));
        (domain, mx)
    });
    let stagepost = lab.stagepost().start();
    send(&stagepost, &servers.each_ref().map(|(domain, _)| *domain));
    for (domain, mx) in &servers {
        assert!(mx.wait_for(1)[0].tls, "{domain}");
        assert_eq!(mx.connections(), 1, "{domain}");
        // What was learned in the clear is asked anew (RFC 3207 section 4.2).
        assert_eq!(mx.commands_of("EHLO").len(), 2, "{domain}");
    }
}

#[test]
fn where_tls_is_a_must_mail_waits_until_it_works() {
    let lab = Lab::new();
    let mut servers = broken(&lab);
    servers.push(("none.test", lab.mx("none.test")));
    let stagepost = lab
        .stagepost()
        .set("delivery.tls", "encrypt")
        .set("delivery.tls_timeout_secs", 1_i64)
        .set("delivery.retry_waits_secs", vec![2_i64])
        .start();
    let domains: Vec<&str> = servers.iter().map(|(domain, _)| *domain).collect();
    send(&stagepost, &domains);
    for (domain, mx) in &servers {
        let status = wait_for_status(&stagepost, domain);
        assert!(["4.7.4", "4.7.5"].contains(&status.as_str()), "{domain}: {status}");
        assert_nothing_said_in_the_clear(mx, domain);
    }
    for (domain, mx) in &servers {
        // Any certificate: it was encryption that was asked for.
        mx.tls(Tls::Works(lab.authority.issue_expired(&[&format!("mx.{domain}")]).server()));
    }
    for (domain, mx) in &servers {
        assert!(mx.wait_for(1)[0].tls, "{domain}");
    }
    stagepost.wait_until_idle(SOON);
}

#[test]
fn where_a_verified_server_is_a_must_mail_goes_to_no_other() {
    let lab = Lab::new();
    let foreign = tests::certs::Authority::new();
    let bad = [
        ("expired.test", lab.authority.issue_expired(&["mx.expired.test"])),
        ("other.test", lab.authority.issue(&["somebody.else.test"])),
        ("domain.test", lab.authority.issue(&["domain.test"])),
        ("foreign.test", foreign.issue(&["mx.foreign.test"])),
    ];
    let servers = bad.map(|(domain, certificate)| {
        let mx = lab.mx(domain);
        mx.tls(Tls::Works(certificate.server()));
        (domain, mx)
    });
    let good = lab.mx("good.test");
    good.tls(Tls::Works(lab.authority.issue(&["mx.good.test"]).server()));
    let stagepost = lab
        .stagepost()
        .set("delivery.tls", "verify")
        .set("delivery.ca_file", authority(&lab).to_str().unwrap())
        .set("delivery.retry_waits_secs", vec![300_i64])
        .start();
    send(&stagepost, &["good.test", "expired.test", "other.test", "domain.test", "foreign.test"]);
    assert!(good.wait_for(1)[0].tls);
    for (domain, mx) in &servers {
        assert_eq!(wait_for_status(&stagepost, domain), "4.7.5", "{domain}");
        assert_nothing_said_in_the_clear(mx, domain);
    }
}

#[test]
fn a_must_for_one_domain_is_none_for_others_and_shares_no_connection() {
    let lab = Lab::new();
    // Both have the same server, which refuses TLS.
    let mx = lab.mx_host("mx.shared.test");
    mx.tls(Tls::Refused);
    for domain in ["may.test", "must.test"] {
        lab.dns.mx(domain, &[(10, "mx.shared.test")]);
    }
    let stagepost = lab
        .stagepost()
        .set("delivery.tls_sites", vec!["must.test=encrypt".to_owned()])
        .set("delivery.connections_max", 1_i64)
        .set("delivery.retry_waits_secs", vec![2_i64])
        .start();
    // A connection in the clear is open and idle when the other mail comes.
    send(&stagepost, &["may.test"]);
    assert!(!mx.wait_for(1)[0].tls);
    send(&stagepost, &["must.test", "may.test", "must.test", "may.test"]);
    assert_eq!(wait_for_status(&stagepost, "must.test"), "4.7.4");
    let received = mx.wait_for(3);
    let recipients: Vec<&str> = received.iter().flat_map(|message| message.recipients()).collect();
    assert_eq!(recipients, ["user@may.test"; 3]);
    // Now that it works, all goes, and what must goes under TLS.
    mx.tls(Tls::Works(lab.authority.issue(&["mx.shared.test"]).server()));
    let received = mx.wait_for(5);
    stagepost.wait_until_idle(SOON);
    let must: Vec<_> = received.iter().filter(|message| message.recipients() == ["user@must.test"]).collect();
    assert!(must.len() == 2 && must.iter().all(|message| message.tls));
}

#[test]
fn what_comes_in_the_clear_behind_the_answer_to_starttls_is_not_believed() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    mx.tls(Tls::Works(lab.authority.issue(&["mx.d1.test"]).server()));
    mx.script(|step| match step {
        // A reply that would be read as that to the EHLO under TLS.
        Step::Command { line, tls: false, .. } if *line == "STARTTLS" => {
            Answer::reply("220 go ahead\r\n250-mx.d1.test\r\n250 X-INJECTED")
        }
        _ => Answer::Usual,
    });
    let stagepost = lab
        .stagepost()
        .set("delivery.tls", "encrypt")
        .set("delivery.retry_waits_secs", vec![300_i64])
        .start();
    send(&stagepost, &["d1.test"]);
    assert!(wait_for_status(&stagepost, "d1.test").starts_with("4."));
    assert_nothing_said_in_the_clear(&mx, "d1.test");
}

#[test]
fn a_next_hop_of_the_settings_has_its_own_demand() {
    let lab = Lab::new();
    let relay = lab.mx_host("relay.test");
    relay.tls(Tls::Works(lab.authority.issue(&["relay.test"]).server()));
    let plain = lab.mx_host("plain.test");
    let port = tests::address::MX_PORT;
    let routes = [
        format!("secret.test=relay.test:{port}/verify"),
        format!(".inner.test=plain.test:{port}/encrypt"),
        format!("*=plain.test:{port}"),
    ];
    let stagepost = lab
        .stagepost()
        .set("delivery.routes", routes.to_vec())
        .set("delivery.ca_file", authority(&lab).to_str().unwrap())
        .set("delivery.retry_waits_secs", vec![300_i64])
        .start();
    send(&stagepost, &["secret.test", "a.inner.test", "anything.test"]);
    let received = relay.wait_for(1);
    assert!(received[0].tls && received[0].recipients() == ["user@secret.test"]);
    let received = plain.wait_for(1);
    assert!(!received[0].tls && received[0].recipients() == ["user@anything.test"]);
    assert_eq!(wait_for_status(&stagepost, "a.inner.test"), "4.7.4");
    assert_eq!((relay.count(), plain.count()), (1, 1));
}
