//! The two ways in which the operator looks at DNS: through a resolver, and at each server of a zone.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::time::Duration;

use hickory_proto::rr::rdata::{NS, SOA, TXT};
use operator::dns::authority::Authority as _;
use operator::dns::lookup::{Found, Lookup as _, LookupError, Text};
use operator::dns::name::Name;
use operator::dns::resolver::Resolver;
use operator::dns::servers::Servers;
use tempfile::TempDir;
use tests::address::DNS_PORT;
use tests::dns::{Dns, Fault, RData};
use tests::knot::{Knot, NEGATIVE_TTL_SECS};

/// Far more than an answer takes, and little enough for a test that waits for none.
const TIMEOUT: Duration = Duration::from_secs(5);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn text(text: &str) -> Text {
    Text(text.into())
}

fn resolver(dns: &Dns) -> Resolver {
    Resolver::new(&[dns.address()], TIMEOUT).unwrap()
}

fn failed<T>(found: &Found<T>) -> bool {
    matches!(found, Err(LookupError::Failed(_)))
}

#[tokio::test]
async fn a_resolver_tells_absence_from_failure() {
    let dns = Dns::start();
    let resolver = resolver(&dns);
    dns.a("there.test", [192, 0, 2, 1].into());
    assert_eq!(resolver.text(&name("nowhere.test")).await, Err(LookupError::NoDomain));
    assert_eq!(resolver.text(&name("there.test")).await, Err(LookupError::NoRecords));
    // As SPF macros make them.
    assert_eq!(resolver.text(&name("a b%:/\u{e4}.nowhere.test")).await, Err(LookupError::NoDomain));
    assert_eq!(
        resolver.ipv4(&name("there.test")).await.unwrap().records,
        ["192.0.2.1".parse::<std::net::Ipv4Addr>().unwrap()]
    );
    for fault in [
        Fault::ServFail,
        Fault::Refused,
        Fault::FormErr,
        Fault::Silence,
        Fault::EmptyWithoutSoa,
        Fault::Referral,
        Fault::TruncatedForGood,
    ] {
        dns.fault("there.test", fault);
        let found = resolver.text(&name("there.test")).await;
        assert!(failed(&found), "{fault:?}: {found:?}");
    }
    dns.heal("there.test");
    dns.txt("there.test", "now");
    dns.fault("there.test", Fault::Truncated);
    assert_eq!(resolver.text(&name("there.test")).await.unwrap().records, [text("now")]);
    assert!(dns.log().iter().all(|query| query.name.ends_with(".test")), "{:?}", dns.log());
}

#[tokio::test]
async fn a_resolver_follows_aliases_and_joins_strings() {
    let dns = Dns::start();
    let resolver = resolver(&dns);
    let long = "x".repeat(700);
    dns.cname("a.test", "B.test");
    dns.cname("b.test", "c.example");
    dns.txt("c.example", &long);
    let answer = resolver.text(&name("a.test")).await.unwrap();
    assert_eq!(answer.aliases, [name("b.test"), name("c.example")]);
    assert_eq!(answer.records, [text(&long)]);
    assert_eq!(resolver.alias(&name("a.test")).await.unwrap().records, [name("b.test")]);

    dns.cname("nowhere.test", "not.there.example");
    assert_eq!(resolver.text(&name("nowhere.test")).await, Err(LookupError::NoDomain));
    dns.cname("circle.test", "circle.test");
    assert!(failed(&resolver.text(&name("circle.test")).await));

    // Nothing is remembered.
    dns.txt("c.example", "short");
    assert_eq!(resolver.text(&name("a.test")).await.unwrap().records, [text("short")]);

    dns.mx("m.test", &[(20, "second.test"), (10, "first.test")]);
    let exchanges = resolver.exchanges(&name("m.test")).await.unwrap().records;
    let hosts: Vec<Name> = exchanges.into_iter().filter_map(|mx| mx.exchange).collect();
    assert_eq!(hosts, [name("first.test"), name("second.test")]);
    dns.null_mx("null.test");
    assert_eq!(resolver.exchanges(&name("null.test")).await.unwrap().records[0].exchange, None);
}

/// Two servers for `zones` each, and a resolver that knows where they are and what is in the zones that `resolved` names.
struct World {
    dns: Dns,
    servers: [Knot; 2],
    _folder: TempDir,
}

impl World {
    fn start(first: &[(&str, &str)], second: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dns = Dns::start();
        let mut number = 0;
        let servers = [first, second].map(|zones| {
            number += 1;
            let server = format!("ns{number}.servers.test");
            let here = folder.path().join(&server);
            std::fs::create_dir(&here).unwrap();
            let knot = Knot::start(&here, zones);
            dns.a(&server, knot.address());
            knot
        });
        let world = Self { dns, servers, _folder: folder };
        first.iter().for_each(|(zone, _)| world.delegate(zone));
        world
    }

    fn delegate(&self, zone: &str) {
        let wire = |name: &str| tests::dns::Name::from_ascii(format!("{name}.")).unwrap();
        for server in ["ns1.servers.test", "ns2.servers.test"] {
            self.dns.add(zone, RData::NS(NS(wire(server))));
        }
        let soa = SOA::new(
            wire("ns1.servers.test"),
            wire("hostmaster.test"),
            1,
            3600,
            600,
            86400,
            NEGATIVE_TTL_SECS,
        );
        self.dns.ttl(300);
        self.dns.add(zone, RData::SOA(soa));
    }

    fn asked(&self) -> Servers {
        Servers::new(resolver(&self.dns), TIMEOUT).at_port(DNS_PORT)
    }

    /// Of each server its name's first label, and what it has.
    async fn everywhere(&self, asked: &str) -> Vec<(String, Result<Vec<Text>, LookupError>)> {
        let sightings = self.asked().everywhere(&name(asked)).await.unwrap();
        let said = sightings.into_iter().map(|sighting| {
            let server = sighting.server.labels().next().unwrap().to_owned();
            (server, sighting.found.map(|answer| answer.records))
        });
        said.collect()
    }
}

fn from(server: &str, found: Result<&str, LookupError>) -> (String, Result<Vec<Text>, LookupError>) {
    (server.to_owned(), found.map(|one| vec![text(one)]))
}

#[tokio::test]
async fn each_server_of_a_zone_is_asked_for_itself() {
    let mut world = World::start(&[("d1.test", "k TXT new\n")], &[("d1.test", "")]);
    // What the resolver has doesn't matter, nor that it has it for the whole name.
    world.dns.add("k.d1.test", RData::TXT(TXT::from_bytes(vec![b"cached"])));
    assert_eq!(
        world.everywhere("k.d1.test").await,
        [from("ns1", Ok("new")), from("ns2", Err(LookupError::NoDomain))]
    );
    world.servers[1].serve("d1.test", "k TXT new\n");
    assert_eq!(world.everywhere("k.d1.test").await, [from("ns1", Ok("new")), from("ns2", Ok("new"))]);
    world.servers[0].serve("d1.test", "k A 192.0.2.1\n");
    assert_eq!(
        world.everywhere("k.d1.test").await,
        [from("ns1", Err(LookupError::NoRecords)), from("ns2", Ok("new"))]
    );
    // Cut off on UDP.
    let long = (0..9).map(|_| format!("\"{}\" ", "y".repeat(250))).collect::<String>();
    world.servers[1].serve("d1.test", &format!("k TXT {long}\n"));
    assert_eq!(world.everywhere("k.d1.test").await[1], from("ns2", Ok(&"y".repeat(2250))));

    let zone = world.asked().zone(&name("k.d1.test")).await.unwrap();
    assert_eq!((zone.apex, zone.negative_ttl_secs), (name("d1.test"), NEGATIVE_TTL_SECS));
    assert_eq!(zone.servers, [name("ns1.servers.test"), name("ns2.servers.test")]);
}

#[tokio::test]
async fn a_server_that_does_not_answer_or_has_not_the_zone_says_nothing() {
    let world = World::start(&[("d1.test", "k TXT new\n")], &[("d2.test", "")]);
    let said = world.everywhere("k.d1.test").await;
    assert_eq!(said[0], from("ns1", Ok("new")));
    assert_eq!(said[1].0, "ns2");
    let Err(LookupError::Failed(why)) = &said[1].1 else { panic!("{said:?}") };
    assert!(why.contains("Refused") || why.contains("refused"), "{why}");

    world.servers[0].stop();
    let said = world.everywhere("k.d1.test").await;
    assert!(said.iter().all(|(_, found)| matches!(found, Err(LookupError::Failed(_)))), "{said:?}");
    world.servers[0].go_on();
    assert_eq!(world.everywhere("k.d1.test").await[0], from("ns1", Ok("new")));

    // Where the servers are can't be found out.
    world.dns.fault("d1.test", Fault::ServFail);
    assert!(matches!(world.asked().everywhere(&name("k.d1.test")).await, Err(LookupError::Failed(_))));
    world.dns.heal("d1.test");
    world.dns.fault("ns1.servers.test", Fault::ServFail);
    let said = world.everywhere("k.d1.test").await;
    assert!(matches!(said[0].1, Err(LookupError::Failed(_))), "{said:?}");
    world.dns.heal("ns1.servers.test");

    // Whom nobody can find isn't asked.
    world.dns.remove("ns2.servers.test");
    assert_eq!(world.everywhere("k.d1.test").await, [from("ns1", Ok("new"))]);
    world.dns.remove("ns1.servers.test");
    assert!(matches!(world.asked().everywhere(&name("k.d1.test")).await, Err(LookupError::Failed(_))));
}

#[tokio::test]
async fn an_alias_is_followed_into_the_zone_that_it_leads_to() {
    let alias = "k CNAME k1.d2.test.\n";
    let zones = [("d1.test", alias), ("d2.test", "k1 TXT new\n")];
    let mut world = World::start(&zones, &[("d1.test", ""), ("d2.test", "k1 TXT old\n")]);
    world.dns.cname("k.d1.test", "k1.d2.test");
    // The second server hasn't the alias; of the other zone both are asked.
    let said = world.everywhere("k.d1.test").await;
    let expected = [from("ns2", Err(LookupError::NoDomain)), from("ns1", Ok("new")), from("ns2", Ok("old"))];
    assert_eq!(said, expected);
    world.servers[1].serve("d1.test", alias);
    world.servers[1].serve("d2.test", "k1 TXT new\n");
    assert_eq!(world.everywhere("k.d1.test").await, [from("ns1", Ok("new")), from("ns2", Ok("new"))]);
    // A circle ends.
    for server in &mut world.servers {
        server.serve("d2.test", "k1 CNAME k.d1.test.\n");
    }
    let circle = world.asked().everywhere(&name("k.d1.test")).await;
    assert_eq!(circle, Err(LookupError::Failed("the aliases of k.d1.test. are a circle".into())));
}
