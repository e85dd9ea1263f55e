//! Which server gets the mail (RFC 5321 section 5.1): MX records good and bad, hosts that don't answer, and what DNS doesn't say.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tests::address::{self, MX_PORT};
use tests::deadline::{SOON, until, until_true};
use tests::dns::{Dns, Fault, Name, RData, RecordType};
use tests::lab::Lab;
use tests::ledger::failed_recipients;
use tests::message;
use tests::mx::{Answer, Mx, Received, Step};
use tests::report;
use tests::stagepost::Stagepost;

const FROM: &str = "hello@sender.test";

fn send(stagepost: &Stagepost, domains: &[&str]) {
    let mut client = stagepost.login();
    for domain in domains {
        let octets = message::text(FROM, "user@d1.test", domain, "Hello.");
        assert_eq!(client.submit(FROM, &[&format!("user@{domain}")], &octets).code, 250);
    }
}

/// The status in the report on mail to this domain; nothing when there is no report.
fn status(reports: &[Received], domain: &str) -> Option<String> {
    let about = format!("user@{domain}");
    let report = reports.iter().find(|report| failed_recipients(&report.octets).contains(&about))?;
    Some(report::read(report).of_one("status").to_owned())
}

/// The status of what waits for this domain.
fn waiting(stagepost: &Stagepost, domain: &str) -> Option<String> {
    let about = format!("user@{domain}");
    let queue = stagepost.queue();
    let job = queue.iter().find(|job| job["state"] == "waiting" && job["to"][0] == about.as_str())?;
    Some(job["last"][0]["status"].as_str()?.to_owned())
}

fn deferred(stagepost: &Stagepost) -> usize {
    stagepost.log().matches("disposition=\"deferred\"").count()
}

/// Domains whose DNS can't be asked, each in its way; all have a server that would take mail.
fn with_faulty_dns(lab: &Lab) -> Vec<(&'static str, Mx)> {
    let faults = [
        ("servfail.test", Fault::ServFail),
        ("refused.test", Fault::Refused),
        ("formerr.test", Fault::FormErr),
        ("lame.test", Fault::Referral),
        ("soaless.test", Fault::EmptyWithoutSoa),
        ("silent.test", Fault::Silence),
        ("cut.test", Fault::TruncatedForGood),
    ];
    let of_domain = faults.map(|(domain, fault)| {
        let mx = lab.mx(domain);
        lab.dns.fault(domain, fault);
        (domain, mx)
    });
    let hosts = [
        ("hostservfail.test", Fault::ServFail),
        ("hostrefused.test", Fault::Refused),
        ("hostsilent.test", Fault::Silence),
    ];
    let of_host = hosts.map(|(domain, fault)| {
        let mx = lab.mx(domain);
        lab.dns.fault(&format!("mx.{domain}"), fault);
        (domain, mx)
    });
    of_domain.into_iter().chain(of_host).collect()
}

#[test]
fn a_failed_look_up_is_tried_again_and_heals() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    let faulty = with_faulty_dns(&lab);
    // The MX itself can't be asked for, and the domain has no address: that says nothing of the MX.
    lab.dns.txt("onlymx.test", "v=spf1 -all");
    lab.dns.fault_of("onlymx.test", RecordType::MX, Fault::EmptyWithoutSoa);
    let stagepost = lab
        .stagepost()
        .set("delivery.resolver_timeout_secs", 1_i64)
        .set("delivery.retry_waits_secs", vec![2_i64])
        .start();
    let mut domains: Vec<&str> = faulty.iter().map(|(domain, _)| *domain).collect();
    domains.push("onlymx.test");
    send(&stagepost, &domains);
    for domain in &domains {
        let status = until(&format!("a failed look-up for {domain}"), SOON, || waiting(&stagepost, domain));
        assert_eq!(status, "4.4.3", "{domain}");
    }
    assert!(faulty.iter().all(|(_, mx)| mx.connections() == 0));
    for domain in &domains {
        lab.dns.heal(domain);
        lab.dns.heal(&format!("mx.{domain}"));
    }
    let late = lab.mx("onlymx.test");
    for mx in faulty.iter().map(|(_, mx)| mx).chain([&late]) {
        mx.wait_for_within(1, SOON * 2);
    }
    stagepost.wait_until_idle(SOON);
    assert_eq!(reports.count(), 0);
}

#[test]
fn a_domain_that_does_not_exist_fails_at_once() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    lab.dns.txt("nothing.test", "neither MX nor address");
    let stagepost = lab.stagepost().start();
    send(&stagepost, &["absent.test", "nothing.test"]);
    let received = reports.wait_for(2);
    stagepost.wait_until_idle(SOON);
    assert_eq!(status(&received, "absent.test").as_deref(), Some("5.1.2"));
    assert_eq!(status(&received, "nothing.test").as_deref(), Some("5.4.4"));
    assert_eq!((reports.count(), deferred(&stagepost)), (2, 0));
}

#[test]
fn one_host_that_cannot_be_looked_up_does_not_hide_the_others() {
    let lab = Lab::new();
    for (domain, fault) in
        [("d1.test", Fault::ServFail), ("d2.test", Fault::Refused), ("d3.test", Fault::Silence)]
    {
        let (bad, good) = (format!("bad.{domain}"), format!("good.{domain}"));
        lab.dns.mx(domain, &[(10, &bad), (20, &good)]);
        lab.publish(&bad);
        lab.dns.fault(&bad, fault);
        let mx = lab.mx_host(&good);
        let stagepost = lab.stagepost().set("delivery.resolver_timeout_secs", 1_i64).start();
        send(&stagepost, &[domain]);
        mx.wait_for(1);
        assert_eq!(deferred(&stagepost), 0, "{domain}");
    }
}

#[test]
fn an_answer_too_long_for_udp_is_asked_for_by_tcp() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    lab.dns.fault_of("d1.test", RecordType::MX, Fault::Truncated);
    let stagepost = lab.stagepost().start();
    send(&stagepost, &["d1.test"]);
    mx.wait_for(1);
    assert!(lab.dns.log().iter().any(|query| query.tcp && query.name == "d1.test"));
    assert_eq!(deferred(&stagepost), 0);
}

#[test]
fn without_mx_the_domain_itself_is_the_server() {
    let lab = Lab::new();
    let mx = lab.mx_host("d1.test");
    let stagepost = lab.stagepost().start();
    send(&stagepost, &["d1.test"]);
    mx.wait_for(1);
    // Never a name of a search list.
    assert!(lab.dns.log().iter().all(|query| !query.name.starts_with("d1.test.")), "{:?}", lab.dns.log());
}

#[test]
fn a_domain_with_a_null_mx_takes_no_mail() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    lab.dns.null_mx("d1.test");
    let at_its_address = lab.mx_host("d1.test");
    // An error of whoever published it: the other MX is real.
    let root = RData::MX(hickory_mx(0, "."));
    lab.dns.replace("d2.test", RecordType::MX, vec![root, RData::MX(hickory_mx(10, "mx.d2.test."))]);
    let real = lab.mx_host("mx.d2.test");
    let stagepost = lab.stagepost().start();
    send(&stagepost, &["d1.test", "d2.test"]);
    real.wait_for(1);
    let received = reports.wait_for(1);
    stagepost.wait_until_idle(SOON);
    assert_eq!(status(&received, "d1.test").as_deref(), Some("5.1.10"));
    assert_eq!((reports.count(), at_its_address.connections(), deferred(&stagepost)), (1, 0, 0));
    assert_eq!(lab.dns.queries(""), 0, "the root was asked for");
}

fn hickory_mx(preference: u16, host: &str) -> hickory_proto::rr::rdata::MX {
    hickory_proto::rr::rdata::MX::new(preference, Name::from_ascii(host).unwrap())
}

#[test]
fn a_report_to_a_domain_with_a_null_mx_ends_there() {
    let lab = Lab::new();
    lab.dns.null_mx("sender.test");
    let stagepost = lab.stagepost().start();
    send(&stagepost, &["absent.test"]);
    stagepost.wait_until_idle(SOON);
    let log = stagepost.log();
    assert_eq!(log.matches("sender is told").count(), 1, "{log}");
    assert_eq!(log.matches("disposition=\"bounced\"").count(), 2, "{log}");
}

/// Queries so far for names at or below a domain.
fn queries_below(dns: &Dns, domain: &str) -> usize {
    let below = format!(".{domain}");
    dns.log().iter().filter(|query| query.name == domain || query.name.ends_with(&below)).count()
}

#[test]
fn bad_mx_records_do_not_hide_a_good_one() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    lab.dns
        .mx("d1.test", &[(5, "gone.d1.test"), (10, "192.0.2.1"), (12, "alone.d1.test"), (20, "mx.d1.test")]);
    lab.dns.txt("alone.d1.test", "no address");
    let good1 = lab.mx_host("mx.d1.test");
    // A chain of twelve aliases, and a circle of them.
    lab.dns.mx("d2.test", &[(5, "a0.d2.test"), (10, "loop.d2.test"), (20, "mx.d2.test")]);
    for number in 0..12 {
        lab.dns.cname(&format!("a{number}.d2.test"), &format!("a{}.d2.test", number + 1));
    }
    lab.dns.cname("loop.d2.test", "pool.d2.test");
    lab.dns.cname("pool.d2.test", "loop.d2.test");
    let good2 = lab.mx_host("mx.d2.test");
    // An alias of the good host is followed.
    lab.dns.mx("d3.test", &[(10, "alias.d3.test")]);
    lab.dns.cname("alias.d3.test", "mx.d3.test");
    let good3 = lab.mx_host("mx.d3.test");
    let stagepost = lab.stagepost().start();
    send(&stagepost, &["d1.test", "d2.test", "d3.test"]);
    for mx in [&good1, &good2, &good3] {
        mx.wait_for(1);
    }
    stagepost.wait_until_idle(SOON);
    assert_eq!((reports.count(), deferred(&stagepost)), (0, 0));
    for domain in ["d1.test", "d2.test", "d3.test"] {
        let queries = queries_below(&lab.dns, domain);
        assert!((1..=20).contains(&queries), "{queries} queries for {domain}");
    }
}

#[test]
fn a_domain_with_bad_mx_records_only_fails() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    lab.dns.mx("d1.test", &[(10, "gone.d1.test"), (20, "gone2.d1.test")]);
    lab.dns.mx("d2.test", &[(10, "192.0.2.1")]);
    // More hosts than are ever asked for.
    let many: Vec<String> = (0..40).map(|number| format!("gone{number}.d3.test")).collect();
    lab.dns.mx("d3.test", &many.iter().map(|host| (10, host.as_str())).collect::<Vec<_>>());
    // The domain's own address doesn't count where there are MX records.
    let at_its_address = lab.mx_host("d1.test");
    let stagepost = lab.stagepost().start();
    send(&stagepost, &["d1.test", "d2.test", "d3.test"]);
    let received = reports.wait_for(3);
    stagepost.wait_until_idle(SOON);
    for domain in ["d1.test", "d2.test", "d3.test"] {
        assert_eq!(status(&received, domain).as_deref(), Some("5.4.4"), "{domain}");
        let queries = queries_below(&lab.dns, domain);
        assert!((1..=20).contains(&queries), "{queries} queries for {domain}");
    }
    assert_eq!((reports.count(), at_its_address.connections()), (3, 0));
}

/// An address where connections are neither taken nor refused: its queue of them is full.
struct BlackHole {
    address: Ipv4Addr,
    _listener: TcpListener,
    _held: Vec<TcpStream>,
}

impl BlackHole {
    fn new() -> Self {
        let address = address::fresh();
        let listener = TcpListener::bind((address, MX_PORT)).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut held = Vec::new();
        let to = SocketAddr::from((address, MX_PORT));
        while let Ok(connection) = TcpStream::connect_timeout(&to, Duration::from_millis(300)) {
            held.push(connection);
            assert!(held.len() < 1000, "the queue doesn't fill up");
        }
        Self { address, _listener: listener, _held: held }
    }
}

#[test]
fn a_host_that_cannot_be_reached_leaves_the_mail_to_the_next() {
    let lab = Lab::new();
    // Nobody listens; nobody answers; the host doesn't greet; the host refuses all mail.
    let hole = BlackHole::new();
    lab.dns.a("hole.test", hole.address);
    lab.publish("closed.test");
    let (mute, refusing) = (lab.mx_host("mute.test"), lab.mx_host("refusing.test"));
    mute.script(|_| Answer::Silence);
    refusing.script(|step| match step {
        Step::Connect { .. } => Answer::reply("554 5.3.2 no mail here"),
        _ => Answer::Usual,
    });
    let domains = [
        ("d1.test", "closed.test"),
        ("d2.test", "hole.test"),
        ("d3.test", "mute.test"),
        ("d4.test", "refusing.test"),
    ];
    let good: Vec<Mx> = domains
        .iter()
        .map(|(domain, first)| {
            let second = format!("mx.{domain}");
            lab.dns.mx(domain, &[(10, first), (20, &second)]);
            lab.mx_host(&second)
        })
        .collect();
    let stagepost = lab
        .stagepost()
        .set("delivery.connect_timeout_secs", 1_i64)
        .set("delivery.greeting_timeout_secs", 1_i64)
        .start();
    send(&stagepost, &domains.map(|(domain, _)| domain));
    for mx in &good {
        mx.wait_for(1);
    }
    stagepost.wait_until_idle(SOON);
    assert_eq!(deferred(&stagepost), 0);
}

#[test]
fn a_domain_whose_hosts_all_refuse_for_good_fails() {
    let lab = Lab::new();
    let reports = lab.mx("sender.test");
    lab.dns.mx("d1.test", &[(10, "one.test"), (20, "two.test")]);
    let hosts = [lab.mx_host("one.test"), lab.mx_host("two.test")];
    for mx in &hosts {
        mx.script(|step| match step {
            Step::Connect { .. } => Answer::reply("554 5.3.2 no mail here"),
            _ => Answer::Usual,
        });
    }
    let stagepost = lab.stagepost().start();
    send(&stagepost, &["d1.test"]);
    let received = reports.wait_for(1);
    stagepost.wait_until_idle(SOON);
    assert_eq!(status(&received, "d1.test").as_deref(), Some("5.3.2"));
    assert_eq!(hosts.each_ref().map(Mx::connections), [1, 1]);
}

#[test]
fn many_dead_addresses_of_the_first_host_do_not_hide_the_second() {
    let lab = Lab::new();
    lab.dns.mx("d1.test", &[(10, "dead.test"), (20, "mx.d1.test")]);
    let dead = (0..8).map(|_| RData::A(hickory_proto::rr::rdata::A(address::fresh()))).collect();
    lab.dns.replace("dead.test", RecordType::A, dead);
    let mx = lab.mx_host("mx.d1.test");
    let stagepost = lab.stagepost().start();
    send(&stagepost, &["d1.test"]);
    mx.wait_for(1);
    stagepost.wait_until_idle(SOON);
}

#[test]
fn the_best_preference_is_used_while_it_works() {
    let lab = Lab::new();
    lab.dns.mx("d1.test", &[(20, "backup.test"), (10, "primary.test"), (30, "last.test")]);
    let (primary, backup, last) =
        (lab.mx_host("primary.test"), lab.mx_host("backup.test"), lab.mx_host("last.test"));
    let stagepost = lab.stagepost().set("delivery.connection_messages_max", 1_i64).start();
    send(&stagepost, &["d1.test"; 20]);
    primary.wait_for(20);
    assert_eq!((backup.connections(), last.connections()), (0, 0));
}

#[test]
fn hosts_of_one_preference_share_the_mail() {
    let lab = Lab::new();
    let names = ["one.test", "two.test", "three.test"];
    lab.dns.mx("d1.test", &names.map(|name| (10, name)));
    let hosts = names.map(|name| lab.mx_host(name));
    let stagepost = lab.stagepost().set("delivery.connection_messages_max", 1_i64).start();
    // That one of three is never chosen in so many choices has a chance of one to ten thousand millions.
    send(&stagepost, &["d1.test"; 60]);
    until_true("60 messages", SOON, || hosts.iter().map(Mx::count).sum::<usize>() == 60);
    assert!(hosts.iter().all(|mx| mx.count() > 0), "{:?}", hosts.each_ref().map(Mx::count));
}

#[test]
fn ipv6_comes_first_and_ipv4_after_it() {
    let lab = Lab::new();
    let here = SocketAddr::from((Ipv6Addr::LOCALHOST, MX_PORT));
    let six = Mx::start_on("six.test", here);
    let four = lab.mx_host("mx.d1.test");
    lab.dns.mx("d1.test", &[(10, "mx.d1.test")]);
    lab.dns.aaaa("mx.d1.test", Ipv6Addr::LOCALHOST);
    // Of the other nobody listens at the IPv6 address, which no interface has.
    lab.dns.mx("d2.test", &[(10, "mx.d2.test")]);
    lab.dns.aaaa("mx.d2.test", "fd00::25".parse().unwrap());
    let fallback = lab.mx_host("mx.d2.test");
    let allowed = ["127.0.0.0/8", "::1/128", "fd00::/8"].map(str::to_owned).to_vec();
    let stagepost = lab
        .stagepost()
        .set("delivery.allowed_networks", allowed)
        .set("delivery.connect_timeout_secs", 2_i64)
        .start();
    send(&stagepost, &["d1.test", "d2.test"]);
    six.wait_for(1);
    fallback.wait_for(1);
    stagepost.wait_until_idle(SOON);
    assert_eq!((four.connections(), deferred(&stagepost)), (0, 0));
}
