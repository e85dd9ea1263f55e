//! Questions to DNS, and what counts as an answer.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup as Looked;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData};
use smtp::address::Domain;

/// What was found, and how long it holds.
#[derive(Clone, Debug)]
pub(crate) struct Answer<T> {
    pub(crate) records: Vec<T>,
    pub(crate) valid_until: Instant,
}

/// One MX record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mx {
    pub(crate) preference: u16,
    pub(crate) exchange: Exchange,
}

/// The host of an MX record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exchange {
    /// `.`: the domain takes no mail (RFC 7505).
    Null,
    /// A host.
    Host(Domain),
    /// No host name, such as an address in text.
    Unusable(String),
}

/// The kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    /// NXDOMAIN: the name doesn't exist.
    #[error("the name does not exist")]
    NoDomain,
    /// The name exists and has no such record, as an authority says (RFC 2308 section 2.2).
    #[error("it has no such record")]
    NoRecords,
    /// An empty answer for which no authority stands, as lame servers give.
    #[error("the answer is empty and names no authority")]
    Unfounded,
    /// SERVFAIL, REFUSED, a timeout and all else: nothing is known.
    #[error("{0}")]
    Failed(String),
}

pub(crate) type Found<T> = Pin<Box<dyn Future<Output = Result<Answer<T>, LookupError>> + Send>>;

/// DNS as routing needs it. Names are asked as fully qualified ones; CNAMEs are followed.
pub(crate) trait Lookup: Send + Sync + 'static {
    fn mx(&self, name: &Domain) -> Found<Mx>;
    fn addresses(&self, name: &Domain, family: Family) -> Found<IpAddr>;
}

/// The system's or the configured resolvers.
pub(crate) struct Dns(TokioResolver);

impl Dns {
    /// Asks `resolvers`, or those of the system when there are none.
    pub(crate) fn new(resolvers: &[SocketAddr], timeout: Duration) -> Result<Self, NetError> {
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
    // Routes are cached as a whole; here it is hosts that several domains share. A failure must not outlive its repair.
    options.positive_max_ttl = Some(Duration::from_secs(3600));
    options.negative_max_ttl = Some(Duration::from_secs(60));
}

impl Lookup for Dns {
    fn mx(&self, name: &Domain) -> Found<Mx> {
        let (resolver, name) = (self.0.clone(), qualified(name));
        Box::pin(async move {
            let looked = resolver.mx_lookup(name?).await.map_err(|error| failure(&error))?;
            answer(&looked, |data| match data {
                RData::MX(mx) => Some(Mx { preference: mx.preference, exchange: exchange(&mx.exchange) }),
                _ => None,
            })
        })
    }

    fn addresses(&self, name: &Domain, family: Family) -> Found<IpAddr> {
        let (resolver, name) = (self.0.clone(), qualified(name));
        Box::pin(async move {
            let looked = match family {
                Family::Ipv4 => resolver.ipv4_lookup(name?).await,
                Family::Ipv6 => resolver.ipv6_lookup(name?).await,
            };
            answer(&looked.map_err(|error| failure(&error))?, |data| match data {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
                _ => None,
            })
        })
    }
}

/// With the final dot, so that no search list is tried.
fn qualified(name: &Domain) -> Result<Name, LookupError> {
    Name::from_ascii(format!("{name}.")).map_err(|error| LookupError::Failed(error.to_string()))
}

fn exchange(name: &Name) -> Exchange {
    if name.is_root() {
        return Exchange::Null;
    }
    let text = name.to_ascii();
    match text.trim_end_matches('.').parse() {
        Ok(domain) => Exchange::Host(domain),
        Err(_) => Exchange::Unusable(text),
    }
}

fn answer<T>(looked: &Looked, read: impl Fn(&RData) -> Option<T>) -> Result<Answer<T>, LookupError> {
    let records: Vec<T> = looked.answers().iter().filter_map(|record| read(&record.data)).collect();
    if records.is_empty() {
        // A chain of CNAMEs that ends nowhere.
        return Err(LookupError::Unfounded);
    }
    Ok(Answer { records, valid_until: looked.valid_until() })
}

fn failure(error: &NetError) -> LookupError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
            LookupError::NoDomain
        }
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.soa.is_some() => LookupError::NoRecords,
        NetError::Dns(DnsError::NoRecordsFound(_)) => LookupError::Unfounded,
        error => LookupError::Failed(error.to_string()),
    }
}
