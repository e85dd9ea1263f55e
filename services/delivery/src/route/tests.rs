//! Routing against a table instead of DNS.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::lookup::{Answer, Exchange, Family, Found, LookupError, Mx};
use super::*;
use crate::cache::lock;

/// A zone: what isn't in it is NXDOMAIN.
#[derive(Default)]
struct Zone {
    mx: HashMap<String, Result<Vec<Mx>, LookupError>>,
    addresses: HashMap<String, Result<Vec<IpAddr>, LookupError>>,
    queries: AtomicU32,
}

type Shared = Arc<Mutex<Zone>>;

impl Lookup for Shared {
    fn mx(&self, name: &Domain) -> Found<Mx> {
        let zone = lock(self);
        zone.queries.fetch_add(1, Ordering::Relaxed);
        let known = zone.addresses.contains_key(name.as_str());
        let missing = if known { LookupError::NoRecords } else { LookupError::NoDomain };
        answer(zone.mx.get(name.as_str()).cloned().unwrap_or(Err(missing)))
    }

    fn addresses(&self, name: &Domain, family: Family) -> Found<IpAddr> {
        let zone = lock(self);
        zone.queries.fetch_add(1, Ordering::Relaxed);
        let found = zone.addresses.get(name.as_str()).cloned().unwrap_or(Err(LookupError::NoDomain));
        answer(found.and_then(|all| {
            let wanted = |ip: &IpAddr| ip.is_ipv4() == (family == Family::Ipv4);
            let some: Vec<IpAddr> = all.into_iter().filter(wanted).collect();
            if some.is_empty() { Err(LookupError::NoRecords) } else { Ok(some) }
        }))
    }
}

fn answer<T: Send + 'static>(records: Result<Vec<T>, LookupError>) -> Found<T> {
    let valid_until = Instant::now() + Duration::from_secs(60);
    Box::pin(async move { records.map(|records| Answer { records, valid_until }) })
}

fn failed() -> LookupError {
    LookupError::Failed(String::from("SERVFAIL"))
}

impl Zone {
    fn mx(&mut self, name: &str, records: &[(u16, &str)]) {
        let records = records.iter().map(|(preference, host)| {
            let exchange = match *host {
                "." => Exchange::Null,
                host => host.parse().map_or_else(|_| Exchange::Unusable(host.to_owned()), Exchange::Host),
            };
            Mx { preference: *preference, exchange }
        });
        self.mx.insert(name.to_owned(), Ok(records.collect()));
    }

    fn host(&mut self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        self.addresses.insert(name.to_owned(), Ok(addresses));
    }
}

fn settings() -> RouterSettings {
    RouterSettings {
        reach: Reach::default(),
        family: AddressFamily::Both,
        host_name: "out.sender.test".parse().unwrap(),
        port: 25,
        statics: Vec::new(),
        tls: TlsPolicy::Opportunistic,
        tls_sites: Vec::new(),
        providers: Arc::new(Providers::shipped().unwrap()),
    }
}

fn router(zone: &Shared, settings: RouterSettings) -> Router {
    Router::new(Box::new(Arc::clone(zone)), settings)
}

async fn route(zone: Zone, host: &str) -> Result<Arc<Route>, (String, String)> {
    let zone = Arc::new(Mutex::new(zone));
    let found = router(&zone, settings()).route(&Host::parse(host).unwrap()).await;
    let queries = lock(&zone).queries.load(Ordering::Relaxed);
    assert!(queries <= 20, "{queries} queries for one message");
    found.map_err(|error| (error.status.to_string(), error.reason.clone()))
}

async fn status(zone: Zone, host: &str) -> String {
    route(zone, host).await.map_or_else(|(status, _)| status, |route| format!("{:?}", route.hosts))
}

fn names(route: &Route) -> Vec<&str> {
    route.hosts.iter().map(|host| &*host.name).collect()
}

#[tokio::test]
async fn hosts_come_in_order_of_preference_and_share_their_limits_by_their_names() {
    let mut zone = Zone::default();
    zone.mx("d1.test", &[(20, "mx2.d1.test"), (10, "mx1.d1.test")]);
    zone.host("mx1.d1.test", &["8.8.8.8", "2606:4700::1"]);
    zone.host("mx2.d1.test", &["8.8.4.4"]);
    let route = route(zone, "d1.test").await.unwrap();
    assert_eq!(names(&route), ["mx1.d1.test", "mx2.d1.test"]);
    assert_eq!(route.hosts[0].addresses, ["2606:4700::1", "8.8.8.8"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!((&*route.site, &*route.destination), ("mx1.d1.test+mx2.d1.test", "mx1.d1.test+mx2.d1.test"));
}

#[tokio::test]
async fn a_provider_is_one_site_with_a_destination_for_each_set_of_hosts() {
    let mut zone = Zone::default();
    zone.mx("d1.test", &[(0, "d1-test.mail.protection.outlook.com")]);
    zone.host("d1-test.mail.protection.outlook.com", &["8.8.8.8"]);
    let route = route(zone, "d1.test").await.unwrap();
    assert_eq!(
        (&*route.site, &*route.destination),
        ("exchange-online", "d1-test.mail.protection.outlook.com")
    );
}

#[tokio::test]
async fn domains_that_name_the_same_hosts_are_one_site() {
    let zone = Arc::new(Mutex::new(Zone::default()));
    lock(&zone).mx("d1.test", &[(10, "mx1.host.test"), (20, "mx2.host.test")]);
    lock(&zone).mx("d2.test", &[(5, "MX2.host.test"), (5, "mx1.host.test")]);
    lock(&zone).mx("d3.test", &[(10, "mx1.host.test")]);
    lock(&zone).host("mx1.host.test", &["8.8.8.8"]);
    lock(&zone).host("mx2.host.test", &["8.8.4.4"]);
    let router = router(&zone, settings());
    let site = async |host: &str| router.route(&Host::parse(host).unwrap()).await.unwrap().site.clone();
    assert_eq!(&*site("d1.test").await, "mx1.host.test+mx2.host.test");
    assert_eq!(site("d1.test").await, site("d2.test").await);
    assert_eq!(&*site("d3.test").await, "mx1.host.test");
}

#[tokio::test]
async fn the_provider_of_the_best_hosts_is_the_site_and_may_need_tls() {
    let tls_sites = vec!["d1.test=verify".parse().unwrap(), "google=encrypt".parse().unwrap()];
    // The order of equal hosts is random: it must not matter.
    for _ in 0..20 {
        let zone = Arc::new(Mutex::new(Zone::default()));
        let google = "aspmx.l.google.com";
        lock(&zone).mx("d1.test", &[(1, google), (9, "mx.d1.test")]);
        lock(&zone).mx("d2.test", &[(5, "mx.d1.test"), (5, google), (5, "mta5.am0.yahoodns.net")]);
        lock(&zone).mx("d3.test", &[(1, "mx.d1.test"), (9, google)]);
        for host in [google, "mx.d1.test", "mta5.am0.yahoodns.net"] {
            lock(&zone).host(host, &["8.8.8.8"]);
        }
        let router = router(&zone, RouterSettings { tls_sites: tls_sites.clone(), ..settings() });
        for (host, site, tls) in [
            ("d1.test", "google", TlsRequirement::Verify),
            ("d2.test", "google", TlsRequirement::Encrypt),
            ("d3.test", "aspmx.l.google.com+mx.d1.test", TlsRequirement::Opportunistic),
        ] {
            let route = router.route(&Host::parse(host).unwrap()).await.unwrap();
            assert_eq!((&*route.site, route.tls), (site, tls), "{host}");
        }
    }
}

#[tokio::test]
async fn only_an_answer_that_says_so_is_a_permanent_failure() {
    let with = |result| Zone { mx: [(String::from("d1.test"), result)].into(), ..Zone::default() };
    assert_eq!(status(Zone::default(), "d1.test").await, "5.1.2");
    assert_eq!(status(with(Err(failed())), "d1.test").await, "4.4.3");
    let mut unfounded = with(Err(LookupError::Unfounded));
    unfounded.addresses.insert(String::from("d1.test"), Err(LookupError::Unfounded));
    assert_eq!(status(unfounded, "d1.test").await, "4.4.3");
    // Nothing is known of the MX, and the domain is no host itself.
    let mut unfounded = with(Err(LookupError::Unfounded));
    unfounded.addresses.insert(String::from("d1.test"), Err(LookupError::NoRecords));
    assert_eq!(status(unfounded, "d1.test").await, "4.4.3");
    // An MX that is there and whose address can't be looked up.
    let mut zone = Zone::default();
    zone.mx("d1.test", &[(10, "mx.d1.test")]);
    zone.addresses.insert(String::from("mx.d1.test"), Err(failed()));
    assert_eq!(status(zone, "d1.test").await, "4.4.3");
    let mut nowhere = with(Err(LookupError::NoRecords));
    nowhere.addresses.insert(String::from("d1.test"), Err(LookupError::NoRecords));
    assert_eq!(status(nowhere, "d1.test").await, "5.4.4");
}

#[tokio::test]
async fn a_failed_look_up_of_one_mx_does_not_hide_the_others() {
    let mut zone = Zone::default();
    zone.mx("d1.test", &[(10, "mx1.d1.test"), (20, "mx2.d1.test")]);
    zone.addresses.insert(String::from("mx1.d1.test"), Err(failed()));
    zone.host("mx2.d1.test", &["8.8.4.4"]);
    assert_eq!(names(&route(zone, "d1.test").await.unwrap()), ["mx2.d1.test"]);
}

#[tokio::test]
async fn a_domain_without_mx_is_its_own_host() {
    let mut zone = Zone::default();
    zone.host("d1.test", &["8.8.8.8"]);
    assert_eq!(names(&route(zone, "d1.test").await.unwrap()), ["d1.test"]);
}

#[tokio::test]
async fn a_null_mx_takes_no_mail_and_is_ignored_beside_a_real_one() {
    let mut zone = Zone::default();
    zone.mx("d1.test", &[(0, ".")]);
    zone.host("d1.test", &["8.8.8.8"]);
    assert_eq!(status(zone, "d1.test").await, "5.1.10");
    let mut zone = Zone::default();
    zone.mx("d2.test", &[(0, "."), (10, "mx.d2.test")]);
    zone.host("mx.d2.test", &["8.8.8.8"]);
    assert_eq!(names(&route(zone, "d2.test").await.unwrap()), ["mx.d2.test"]);
}

#[tokio::test]
async fn bad_exchanges_are_skipped_and_the_good_one_is_used() {
    let mut zone = Zone::default();
    zone.mx("d1.test", &[(5, "192.0.2.1"), (10, "gone.d1.test"), (20, "mx.d1.test")]);
    zone.host("mx.d1.test", &["8.8.8.8"]);
    assert_eq!(names(&route(zone, "d1.test").await.unwrap()), ["mx.d1.test"]);
    let mut zone = Zone::default();
    zone.mx("d1.test", &[(5, "192.0.2.1")]);
    assert_eq!(status(zone, "d1.test").await, "5.4.4");
    let mut zone = Zone::default();
    zone.mx("d1.test", &[(5, "gone.d1.test")]);
    assert_eq!(status(zone, "d1.test").await, "5.4.4");
}

#[tokio::test]
async fn ourselves_and_everything_no_better_is_dropped() {
    for ours in ["127.0.0.1", "0.0.0.0", "::1"] {
        let mut zone = Zone::default();
        zone.mx("d1.test", &[(10, "mx.d1.test")]);
        zone.host("mx.d1.test", &[ours]);
        assert_eq!(status(zone, "d1.test").await, "5.4.6", "{ours}");
    }
    let mut zone = Zone::default();
    zone.mx("d1.test", &[(5, "other.test"), (10, "out.sender.test"), (20, "backup.test")]);
    zone.host("other.test", &["8.8.8.8"]);
    zone.host("out.sender.test", &["8.8.4.4"]);
    zone.host("backup.test", &["8.8.8.9"]);
    assert_eq!(names(&route(zone, "d1.test").await.unwrap()), ["other.test"]);
    let mut zone = Zone::default();
    zone.mx("d1.test", &[(10, "out.sender.test"), (20, "backup.test")]);
    zone.host("backup.test", &["8.8.8.9"]);
    assert_eq!(status(zone, "d1.test").await, "5.4.6");
}

#[tokio::test]
async fn internal_addresses_are_refused_whoever_names_them() {
    for ip in ["10.96.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fd00::1"] {
        let mut zone = Zone::default();
        zone.mx("d1.test", &[(10, "mx.d1.test")]);
        zone.host("mx.d1.test", &[ip]);
        let (code, reason) = route(zone, "d1.test").await.unwrap_err();
        assert_eq!(code, "5.4.4", "{ip}: {reason}");
    }
    for literal in ["[10.96.0.1]", "[169.254.169.254]", "[IPv6:::ffff:10.0.0.1]"] {
        assert_eq!(status(Zone::default(), literal).await, "5.4.4", "{literal}");
    }
    for literal in ["[127.0.0.1]", "[IPv6:::1]", "[IPv6:::ffff:127.0.0.1]"] {
        assert_eq!(status(Zone::default(), literal).await, "5.4.6", "{literal}");
    }
    assert_eq!(names(&route(Zone::default(), "[8.8.8.8]").await.unwrap()), ["8.8.8.8"]);
}

#[tokio::test]
async fn a_message_never_costs_more_than_twenty_queries() {
    let mut zone = Zone::default();
    let hosts: Vec<String> = (0..60).map(|number| format!("mx{number}.d1.test")).collect();
    zone.mx("d1.test", &hosts.iter().map(|host| (10, host.as_str())).collect::<Vec<_>>());
    assert_eq!(status(zone, "d1.test").await, "5.4.4");
}

#[tokio::test]
async fn a_static_route_comes_before_dns_and_may_lead_into_a_private_network() {
    let zone = Arc::new(Mutex::new(Zone::default()));
    lock(&zone).host("relay.internal.test", &["10.0.0.5"]);
    let router = router(
        &zone,
        RouterSettings {
            statics: vec![
                "d1.test=127.0.0.1:2525".parse().unwrap(),
                "*=relay.internal.test:587/encrypt".parse().unwrap(),
            ],
            tls_sites: vec!["d3.test=verify".parse().unwrap()],
            ..settings()
        },
    );
    let of = async |host: &str| router.route(&Host::parse(host).unwrap()).await.unwrap();
    assert_eq!((&*of("d1.test").await.destination, of("d1.test").await.port), ("127.0.0.1:2525", 2525));
    assert_eq!(&*of("d2.test").await.site, "relay.internal.test:587");
    assert_eq!(of("d2.test").await.tls, TlsRequirement::Encrypt);
    assert_eq!(of("d3.test").await.tls, TlsRequirement::Verify);
    assert_eq!(of("d1.test").await.tls, TlsRequirement::Opportunistic);
}

#[tokio::test]
async fn a_route_is_asked_for_once_while_it_holds() {
    let zone = Arc::new(Mutex::new(Zone::default()));
    lock(&zone).host("d1.test", &["8.8.8.8"]);
    let router = router(&zone, settings());
    for _ in 0..10 {
        router.route(&Host::parse("d1.test").unwrap()).await.unwrap();
    }
    assert_eq!(lock(&zone).queries.load(Ordering::Relaxed), 3);
}
