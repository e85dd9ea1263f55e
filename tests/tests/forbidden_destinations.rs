//! Where mail never goes: to ourselves, to internal networks, and in circles.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use hickory_proto::rr::rdata::{A, AAAA};
use tests::address::{self, MX_PORT};
use tests::deadline::SOON;
use tests::dns::{RData, RecordType};
use tests::lab::Lab;
use tests::ledger::failed_recipients;
use tests::message::{self, values};
use tests::mx::{Answer, Mx, Step};
use tests::report;
use tests::smtp::Client;
use tests::stagepost::{HOST, PASSWORD, Setup, Stagepost, USER};

const FROM: &str = "hello@sender.test";

/// Without leave to go to loopback; reports have a route of their own.
fn strict<'lab>(lab: &'lab Lab, reports: &Mx) -> Setup<'lab> {
    lab.stagepost()
        .unset("delivery.allowed_networks")
        .set("delivery.routes", vec![format!("sender.test={}", reports.address())])
}

/// A receiver that only a static route leads to.
fn off_dns() -> Mx {
    Mx::start("reports.test", address::fresh())
}

fn send(client: &mut Client, recipient: &str) {
    let octets = message::text(FROM, "user@d1.test", "forbidden", "Hello.");
    assert_eq!(client.submit(FROM, &[recipient], &octets).code, 250, "{recipient}");
}

/// Waits for a report on each recipient and gives the status; nothing is left in the queue.
fn statuses(stagepost: &Stagepost, reports: &Mx, recipients: &[String]) -> Vec<String> {
    let received = reports.wait_for(recipients.len());
    stagepost.wait_until_idle(SOON);
    assert_eq!(reports.count(), recipients.len());
    let status = |recipient: &String| {
        let report = received.iter().find(|report| failed_recipients(&report.octets).contains(recipient));
        report::read(report.unwrap_or_else(|| panic!("no report on {recipient}"))).of_one("status").to_owned()
    };
    recipients.iter().map(status).collect()
}

/// Receivers at the loopback addresses that this host has before any test adds one; they must stay alone.
fn local() -> [Mx; 2] {
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        .map(|address| Mx::start_on("localhost", (address, MX_PORT).into()))
}

/// Addresses that lead back to this host, and those of networks that mail doesn't go to. None of them has a route in the
/// tests' network: had a connection been tried, the mail would wait for its next attempt.
const OURS: [&str; 6] = ["127.0.0.1", "127.8.8.8", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"];
const INTERNAL: [&str; 12] = [
    "10.96.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.1.2.3",
    "224.0.0.1",
    "255.255.255.255",
    "::ffff:10.96.0.1",
    "fe80::1",
    "fd00::1",
    "8.8.4.4",
];

fn publish(lab: &Lab, host: &str, address: &str) {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => lab.dns.replace(host, RecordType::A, vec![RData::A(A(v4))]),
        IpAddr::V6(v6) => lab.dns.replace(host, RecordType::AAAA, vec![RData::AAAA(AAAA(v6))]),
    }
}

#[test]
fn names_that_lead_inside_are_not_followed() {
    let lab = Lab::new();
    let (reports, local) = (off_dns(), local());
    // 8.8.4.4 stands for what the site refuses on its own.
    let stagepost =
        strict(&lab, &reports).set("delivery.refused_networks", vec!["8.8.4.0/24".to_owned()]).start();
    let mut client = stagepost.login();
    let mut recipients = Vec::new();
    for (number, address) in OURS.iter().chain(&INTERNAL).enumerate() {
        let (by_mx, by_address) = (format!("m{number}.test"), format!("a{number}.test"));
        lab.dns.mx(&by_mx, &[(10, &format!("mx.{by_mx}"))]);
        publish(&lab, &format!("mx.{by_mx}"), address);
        publish(&lab, &by_address, address);
        recipients.extend([format!("user@{by_mx}"), format!("user@{by_address}")]);
    }
    lab.dns.mx("localhost.test", &[(10, "localhost")]);
    lab.dns.a("localhost", Ipv4Addr::LOCALHOST);
    recipients.push("user@localhost.test".to_owned());
    for recipient in &recipients {
        send(&mut client, recipient);
    }
    let statuses = statuses(&stagepost, &reports, &recipients);
    for (number, status) in statuses.iter().enumerate() {
        let ours = number / 2 < OURS.len() || number == recipients.len() - 1;
        assert_eq!(status, if ours { "5.4.6" } else { "5.4.4" }, "{}", recipients[number]);
    }
    assert_eq!(local.each_ref().map(Mx::connections), [0, 0]);
    assert!(!stagepost.log().contains("disposition=\"deferred\""));
}

#[test]
fn an_inside_address_beside_a_good_one_is_passed_over() {
    let lab = Lab::new();
    let reports = off_dns();
    let good = lab.mx_host("good.d1.test");
    lab.dns.mx("d1.test", &[(10, "inside.d1.test"), (20, "good.d1.test")]);
    publish(&lab, "inside.d1.test", "10.96.0.1");
    let good_address = good.address().ip();
    let stagepost =
        strict(&lab, &reports).set("delivery.allowed_networks", vec![format!("{good_address}/32")]).start();
    send(&mut stagepost.login(), "user@d1.test");
    good.wait_for(1);
    stagepost.wait_until_idle(SOON);
    assert_eq!(reports.count(), 0);
}

#[test]
fn address_literals_are_refused_at_rcpt_unless_set_otherwise() {
    let lab = Lab::new();
    let (reports, well_formed) = (
        off_dns(),
        [
            "[127.0.0.1]",
            "[IPv6:::1]",
            "[10.96.0.1]",
            "[169.254.169.254]",
            "[IPv6:::ffff:127.0.0.1]",
            "[8.8.8.8]",
        ],
    );
    let malformed = ["[999.1.1.1]", "[127.0.0.1", "[IPv6:zz]", "[]", "[127.1]", "[::1]", "[IPv6:127.0.0.1]"];
    let stagepost = strict(&lab, &reports).start();
    let mut client = stagepost.login();
    client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
    for literal in well_formed {
        let reply = client.command(&format!("RCPT TO:<u@{literal}>"));
        assert_eq!((reply.code, reply.enhanced()), (550, Some("5.1.2")), "{literal}: {reply:?}");
    }
    for literal in malformed {
        let reply = client.command(&format!("RCPT TO:<u@{literal}>"));
        assert_eq!((reply.code, reply.enhanced()), (501, Some("5.1.3")), "{literal}: {reply:?}");
    }
}

#[test]
fn allowed_address_literals_lead_nowhere_inside_either() {
    let lab = Lab::new();
    let reports = off_dns();
    let server = Mx::start("literal.test", address::fresh());
    let allowed = format!("{}/32", server.address().ip());
    let stagepost = strict(&lab, &reports)
        .set("ingress.literals", "allow")
        .set("delivery.allowed_networks", vec![allowed])
        .start();
    let mut client = stagepost.login();
    let literals = [
        "[127.0.0.1]",
        "[IPv6:::1]",
        "[10.96.0.1]",
        "[169.254.169.254]",
        "[IPv6:::ffff:127.0.0.1]",
        "[0.0.0.0]",
    ];
    for literal in literals {
        send(&mut client, &format!("u@{literal}"));
    }
    let good = format!("u@[{}]", server.address().ip());
    send(&mut client, &good);
    let received = reports.wait_for(literals.len());
    stagepost.wait_until_idle(SOON);
    assert_eq!(reports.count(), literals.len());
    for message in &received {
        let report = report::read(message);
        assert!(["5.4.4", "5.4.6"].contains(&report.of_one("status")), "{report:#?}");
    }
    assert_eq!(server.wait_for(1)[0].recipients(), [good.as_str()]);
    assert!(!stagepost.log().contains("disposition=\"deferred\""));
}

#[test]
fn ourselves_and_all_that_is_no_better_are_left_out() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    // By our name, by an address that was named as ours, and by an alias of ours.
    let (named, addressed) = (lab.mx_host(HOST), lab.mx_host("balancer.test"));
    lab.dns.cname("alias.test", "balancer.test");
    let hosts = ["d1.test", "d2.test", "d3.test"].map(|domain| lab.mx_host(&format!("mx.{domain}")));
    lab.dns.mx("d1.test", &[(5, "mx.d1.test"), (10, HOST)]);
    lab.dns.mx("d2.test", &[(5, HOST), (10, "mx.d2.test")]);
    lab.dns.mx("d3.test", &[(10, "alias.test"), (10, "mx.d3.test"), (20, "mx.d1.test")]);
    lab.dns.mx("d4.test", &[(10, "balancer.test")]);
    let own = vec![addressed.address().ip().to_string()];
    let stagepost = lab.stagepost().set("delivery.own_addresses", own).start();
    let mut client = stagepost.login();
    for number in 1..=4 {
        send(&mut client, &format!("user@d{number}.test"));
    }
    hosts[0].wait_for(1);
    let failed = ["d2.test", "d3.test", "d4.test"].map(|domain| format!("user@{domain}"));
    assert_eq!(statuses(&stagepost, &reports, &failed), ["5.4.6"; 3]);
    assert_eq!(hosts.each_ref().map(Mx::count), [1, 0, 0]);
    assert_eq!((named.connections(), addressed.connections()), (0, 0));
}

/// A message with so many Received fields, of different forms.
fn travelled(hops: usize) -> Vec<u8> {
    let names = ["Received", "received", "RECEIVED"];
    let fields: String = (0..hops)
        .map(|hop| {
            let name = names[hop % names.len()];
            format!("{name}: from a{hop}.test\r\n\tby b{hop}.test; Wed, 25 Nov 2026 12:00:00 +0000\r\n")
        })
        .collect();
    [fields.into_bytes(), message::text(FROM, "user@d1.test", "travelled", "Hello.")].concat()
}

#[test]
fn a_message_of_more_than_100_hops_is_refused() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    for (hops, code, enhanced) in
        [(101, 554, "5.4.6"), (30, 250, "2.0.0"), (100, 250, "2.0.0"), (500, 554, "5.4.6")]
    {
        let reply = client.submit(FROM, &["user@d1.test"], &travelled(hops));
        assert_eq!((reply.code, reply.enhanced()), (code, Some(enhanced)), "{hops}: {reply:?}");
    }
    let received = mx.wait_for(2);
    let mut hops: Vec<usize> =
        received.iter().map(|message| values(&message.octets, "Received").len()).collect();
    hops.sort_unstable();
    // Exactly one is ours (RFC 5321 section 4.4).
    assert_eq!(hops, [31, 101]);
}

#[test]
fn a_loop_ends_in_one_report() {
    let lab = Lab::new();
    let (relay, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    let stagepost = lab.stagepost().set("ingress.received_max", 10_i64).start();
    // A relay that gives all mail back, and passes on what it is answered.
    let (address, tls) = (stagepost.submission(), Arc::clone(stagepost.tls()));
    let client: OnceLock<std::sync::Mutex<Client>> = OnceLock::new();
    relay.script(move |step| {
        let Step::Dot { message, .. } = step else { return Answer::Usual };
        let client = client.get_or_init(|| {
            let mut client = Client::connect(address);
            client.start_tls(&tls, HOST);
            assert_eq!(client.auth_plain(USER, PASSWORD).code, 235);
            client.into()
        });
        let reply =
            client.lock().unwrap().submit(message.reverse_path(), &message.recipients(), &message.octets);
        Answer::Reply(format!("{} {}", reply.code, reply.text()))
    });
    send(&mut stagepost.login(), "user@d1.test");
    let received = reports.wait_for(1);
    stagepost.wait_until_idle(SOON);
    // Ten times round, and once more to be refused.
    assert_eq!((relay.count(), relay.commands_of("DATA").len(), reports.count()), (10, 11, 1));
    assert_eq!(report::read(&received[0]).of_one("status"), "5.4.6");
}
