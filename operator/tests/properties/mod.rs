//! What must hold for any octets. The fuzz targets and the tests of every day call these same functions.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use operator::dns::lookup::{Answer, Found, Lookup, LookupError, Mx, Text};
use operator::dns::name::Name;
use operator::dns::{dkim, dmarc, mta_sts, spf, tls_rpt};

/// A name is the same after a trip through text, and at or below all that is above it.
pub(crate) fn name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(address) = text.parse() {
        assert_eq!(Name::of_address(address).to_string().parse(), Ok(Name::of_address(address)));
    }
    let Ok(name) = text.parse::<Name>() else { return };
    assert_eq!(name.to_string().parse(), Ok(name.clone()));
    let mut above = name.parent();
    while let Some(parent) = above {
        assert!(name.is_at_or_below(&parent) && !parent.is_at_or_below(&name));
        above = parent.parent();
    }
}

/// Every name of every domain has the same record, at every host a few addresses, none of which is the client's.
struct Everywhere {
    record: Text,
    asked: AtomicUsize,
}

impl Everywhere {
    fn answer<T>(&self, records: Vec<T>) -> Found<T> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(Answer { records, aliases: Vec::new(), ttl_secs: 1 })
    }
}

impl Lookup for Everywhere {
    async fn text(&self, _: &Name) -> Found<Text> {
        self.answer(vec![self.record.clone()])
    }

    async fn exchanges(&self, name: &Name) -> Found<Mx> {
        let mx = |preference| Mx { preference, exchange: Some(name.clone()) };
        self.answer((0..10).map(mx).collect())
    }

    async fn ipv4(&self, _: &Name) -> Found<Ipv4Addr> {
        self.answer(vec![Ipv4Addr::LOCALHOST])
    }

    async fn ipv6(&self, _: &Name) -> Found<Ipv6Addr> {
        self.answer(vec![Ipv6Addr::LOCALHOST])
    }

    async fn pointers(&self, _: &Name) -> Found<Name> {
        self.answer((0..20).map(|host| format!("h{host}.example.org").parse().unwrap()).collect())
    }

    async fn alias(&self, _: &Name) -> Found<Name> {
        Err(LookupError::NoRecords)
    }
}

/// A term is read alike alone and among others; and a check ends after a bounded number of look-ups, whatever records say.
pub(crate) fn spf(data: &[u8]) {
    let text = Text(data.to_vec());
    if !spf::record::is_spf(&text) {
        return;
    }
    let read = spf::record::Record::parse(&text);
    for directive in read.iter().flat_map(|record| &record.directives) {
        let alone = Text(format!("v=spf1 {}", directive.text).into());
        assert_eq!(spf::record::Record::parse(&alone).unwrap().directives, std::slice::from_ref(directive));
    }
    for address in ["192.0.2.1", "2001:db8::1"] {
        let dns = Everywhere { record: text.clone(), asked: AtomicUsize::new(0) };
        let client = spf::Client {
            address: address.parse::<IpAddr>().unwrap(),
            helo: "mail.example.org",
            mail_from: "a-b+c@mail.example.org",
            receiver: "mx.example.net",
            now: UNIX_EPOCH,
        };
        let outcome = spf::check_host(&dns, &client).now_or_never().unwrap();
        assert!(outcome.lookups <= 11, "{outcome:?}");
        // A term asks once, then for ten hosts; `%{p}` in its target for a name and ten hosts; and so for the explanation.
        let asked = dns.asked.into_inner();
        assert!(asked <= 11 * 23 + 25, "{asked} look-ups: {outcome:?}");
        assert!(read.is_ok() || outcome.verdict == spf::Verdict::PermError, "{outcome:?}");
    }
}

/// A key is the same however its record is written.
pub(crate) fn dkim(data: &[u8]) {
    let Ok(read) = dkim::KeyRecord::parse(&Text(data.to_vec())) else { return };
    let again = Text(format!("p={}", STANDARD.encode(&read.public)).into());
    assert_eq!(dkim::KeyRecord::parse(&again).unwrap().public, read.public);
}

/// What isn't known changes nothing.
pub(crate) fn dmarc(data: &[u8]) {
    let text = Text(data.to_vec());
    let Ok(read) = dmarc::record::Record::parse(&text) else { return };
    let more = Text([data, b"; unheardof=1".as_slice()].concat());
    if let Ok(again) = dmarc::record::Record::parse(&more) {
        assert_eq!(again, read);
        assert_eq!(dmarc::record::is_dmarc(&text), dmarc::record::is_dmarc(&more));
    }
}

/// A policy allows the hosts that it names, and a record has an id that is one.
pub(crate) fn mta_sts(data: &[u8]) {
    if let Some(id) = mta_sts::record_id(&Text(data.to_vec())) {
        assert!((1..=32).contains(&id.len()));
    }
    let Ok(policy) = mta_sts::Policy::parse(data) else { return };
    for host in &policy.hosts {
        let host = host.strip_prefix("*.").map_or_else(|| host.clone(), |parent| format!("any.{parent}"));
        // A pattern may be as long as a name, so that nothing goes before it.
        if let Ok(host) = host.parse() {
            assert!(policy.allows(&host), "{host}");
        }
    }
}

/// Reports have somewhere to go.
pub(crate) fn tls_rpt(data: &[u8]) {
    if let Some(addresses) = tls_rpt::addresses(&Text(data.to_vec())) {
        assert!(!addresses.is_empty() && addresses.iter().all(|address| address.contains(':')));
    }
}
