//! Look-ups through a resolver.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name as WireName, RData, Record, RecordType};

use super::lookup::{Answer, Found, Lookup, LookupError, Mx, Text};
use super::name::Name;

/// The configured resolvers, or the system's. Nothing is remembered between look-ups: who asks again wants to know whether
/// something has changed.
#[derive(Clone)]
pub struct Resolver(TokioResolver);

impl Resolver {
    /// Asks `resolvers`, or those of the system when there are none; each try may take `timeout`, and there are two.
    ///
    /// # Errors
    /// [`NetError`] when the system's configuration can't be read.
    pub fn new(resolvers: &[SocketAddr], timeout: Duration) -> Result<Self, NetError> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = if resolvers.is_empty() {
            TokioResolver::builder(provider)?
        } else {
            let servers = resolvers.iter().map(name_server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, provider)
        };
        set(builder.options_mut(), timeout);
        Ok(Self(builder.build()?))
    }

    /// Records of a name with those of `kind` picked out; the aliases that were followed stand in their order.
    pub(super) async fn ask<T>(
        &self,
        name: &Name,
        kind: RecordType,
        pick: impl Fn(&RData) -> Option<T>,
    ) -> Found<T> {
        let looked = self.0.lookup(on_the_wire(name)?, kind).await.map_err(|error| failure(&error))?;
        picked(name, looked.answers(), kind, pick)
    }
}

/// What an answer has for a name, itself or through aliases within the answer. Nothing is no absence here: an
/// authority would have said so.
pub(super) fn picked<T>(
    name: &Name,
    records: &[Record],
    kind: RecordType,
    pick: impl Fn(&RData) -> Option<T>,
) -> Found<T> {
    let mut owner = name.clone();
    let mut aliases = Vec::new();
    let mut ttl_secs = u32::MAX;
    loop {
        let here = |record: &&Record| from_the_wire(&record.name).is_some_and(|name| name == owner);
        let wanted = records.iter().filter(here).filter(|record| record.record_type() == kind);
        let found: Vec<&Record> = wanted.collect();
        if !found.is_empty() {
            ttl_secs = found.iter().map(|record| record.ttl).fold(ttl_secs, u32::min);
            let records: Vec<T> = found.iter().filter_map(|record| pick(&record.data)).collect();
            if records.is_empty() {
                return Err(LookupError::Failed("the answer holds something that can't be read".to_owned()));
            }
            return Ok(Answer { records, aliases, ttl_secs });
        }
        let alias = records.iter().filter(here).find_map(|record| match &record.data {
            RData::CNAME(target) => Some((from_the_wire(&target.0)?, record.ttl)),
            _ => None,
        });
        let Some((target, ttl)) = alias.filter(|(target, _)| !aliases.contains(target)) else {
            return Err(LookupError::Failed("the answer leads nowhere and names no authority".to_owned()));
        };
        ttl_secs = ttl_secs.min(ttl);
        aliases.push(target.clone());
        owner = target;
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

fn set(options: &mut ResolverOpts, timeout: Duration) {
    options.timeout = timeout;
    options.attempts = 2;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    options.preserve_intermediates = true;
}

/// With the final dot, so that no search list is tried.
pub(super) fn on_the_wire(name: &Name) -> Result<WireName, LookupError> {
    let mut wire = WireName::from_labels(name.labels().map(str::as_bytes))
        .map_err(|error| LookupError::Failed(error.to_string()))?;
    wire.set_fqdn(true);
    Ok(wire)
}

/// None for the root, and for what isn't text.
pub(super) fn from_the_wire(name: &WireName) -> Option<Name> {
    let labels: Option<Vec<&str>> = name.iter().map(|label| std::str::from_utf8(label).ok()).collect();
    // A dot within a label would be taken for one between two.
    let labels = labels.filter(|labels| labels.iter().all(|label| !label.contains('.')))?;
    labels.join(".").parse().ok()
}

fn failure(error: &NetError) -> LookupError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
            LookupError::NoDomain
        }
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.soa.is_some() => LookupError::NoRecords,
        NetError::Dns(DnsError::NoRecordsFound(_)) => {
            LookupError::Failed("the answer is empty and names no authority".to_owned())
        }
        error => LookupError::Failed(error.to_string()),
    }
}

pub(super) fn text(data: &RData) -> Option<Text> {
    match data {
        RData::TXT(text) => Some(Text(text.txt_data.concat())),
        _ => None,
    }
}

impl Lookup for Resolver {
    async fn text(&self, name: &Name) -> Found<Text> {
        self.ask(name, RecordType::TXT, text).await
    }

    async fn exchanges(&self, name: &Name) -> Found<Mx> {
        let mut answer = self
            .ask(name, RecordType::MX, |data| match data {
                RData::MX(mx) => {
                    Some(Mx { preference: mx.preference, exchange: from_the_wire(&mx.exchange) })
                }
                _ => None,
            })
            .await?;
        answer.records.sort_by_key(|mx| mx.preference);
        Ok(answer)
    }

    async fn ipv4(&self, name: &Name) -> Found<Ipv4Addr> {
        self.ask(name, RecordType::A, |data| match data {
            RData::A(address) => Some(address.0),
            _ => None,
        })
        .await
    }

    async fn ipv6(&self, name: &Name) -> Found<Ipv6Addr> {
        self.ask(name, RecordType::AAAA, |data| match data {
            RData::AAAA(address) => Some(address.0),
            _ => None,
        })
        .await
    }

    async fn pointers(&self, name: &Name) -> Found<Name> {
        self.ask(name, RecordType::PTR, |data| match data {
            RData::PTR(host) => from_the_wire(&host.0),
            _ => None,
        })
        .await
    }

    async fn alias(&self, name: &Name) -> Found<Name> {
        self.ask(name, RecordType::CNAME, |data| match data {
            RData::CNAME(target) => from_the_wire(&target.0),
            _ => None,
        })
        .await
    }
}
