//! Look-ups at the servers of a zone themselves.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::DnsExchange;
use hickory_resolver::net::{DnsHandle as _, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{RData, RecordType};

use super::authority::{Authority, Sighting, Zone};
use super::lookup::{Answer, Found, Lookup as _, LookupError, Text};
use super::name::Name;
use super::resolver::{Resolver, from_the_wire, on_the_wire, picked, text};

/// The port of DNS servers.
const DNS_PORT: u16 = 53;
/// Names that a chain of aliases may have, over all servers.
const ALIASES_MAX: usize = 8;
/// Servers of a zone that are asked; no zone of sense has more.
const SERVERS_MAX: usize = 16;

/// The servers of any zone. Which they are is asked of a resolver; what they have is asked of them, without recursion.
#[derive(Clone)]
pub struct Servers {
    resolver: Resolver,
    timeout: Duration,
    port: u16,
}

impl Servers {
    /// Finds servers through `resolver`; each try at one of them may take `timeout`.
    #[must_use]
    pub const fn new(resolver: Resolver, timeout: Duration) -> Self {
        Self { resolver, timeout, port: DNS_PORT }
    }

    /// Asks them at another port than 53.
    #[must_use]
    pub fn at_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// What one server has at its first address that answers.
    async fn sighting(&self, server: &Name, name: &Name) -> Said {
        let mut failure = None;
        for family in [Family::Ipv4, Family::Ipv6] {
            let addresses = match self.addresses_of(server, family).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            for address in addresses {
                match self.ask(address, name).await {
                    Said::Has(Err(LookupError::Failed(why)), _) => {
                        failure = Some(LookupError::Failed(format!("{address}: {why}")));
                    }
                    said => return said,
                }
            }
        }
        failure.map_or(Said::Nowhere, |failure| Said::Has(Err(failure), None))
    }

    async fn addresses_of(&self, server: &Name, family: Family) -> Result<Vec<IpAddr>, LookupError> {
        let found = match family {
            Family::Ipv4 => self.resolver.ipv4(server).await.map(|answer| addresses(&answer)),
            Family::Ipv6 => self.resolver.ipv6(server).await.map(|answer| addresses(&answer)),
        };
        match found {
            Err(error) if error.is_absence() => Ok(Vec::new()),
            found => found,
        }
    }

    async fn ask(&self, address: IpAddr, name: &Name) -> Said {
        let server = SocketAddr::new(address, self.port);
        let response = match on_the_wire(name) {
            Ok(wire) => self.query(server, Query::query(wire, RecordType::TXT)).await,
            Err(error) => return Said::Has(Err(error), None),
        };
        match response {
            Ok(response) => match said(name, &response) {
                Said::Has(found, _) => Said::Has(found, Some(address)),
                other => other,
            },
            Err(error) => Said::Has(Err(LookupError::Failed(error.to_string())), Some(address)),
        }
    }

    /// Over UDP, then over TCP where that is cut off.
    async fn query(&self, server: SocketAddr, query: Query) -> Result<DnsResponse, NetError> {
        let provider = TokioRuntimeProvider::default();
        let udp =
            UdpClientStream::builder(server, provider.clone()).with_timeout(Some(self.timeout)).exchange();
        let response = first(&udp, query.clone()).await?;
        if !response.metadata.truncation {
            return Ok(response);
        }
        let tcp = TcpClientStream::exchange(server, None, self.timeout, None, provider).await?;
        first(&tcp, query).await
    }
}

#[derive(Clone, Copy)]
enum Family {
    Ipv4,
    Ipv6,
}

fn addresses<T: Copy + Into<IpAddr>>(answer: &Answer<T>) -> Vec<IpAddr> {
    answer.records.iter().map(|address| (*address).into()).collect()
}

/// What a server says about a name, and at which of its addresses.
enum Said {
    Has(Found<Text>, Option<IpAddr>),
    Alias(Name),
    /// DNS says that the server has no address.
    Nowhere,
}

async fn first(exchange: &DnsExchange<TokioRuntimeProvider>, query: Query) -> Result<DnsResponse, NetError> {
    let mut options = DnsRequestOptions::default();
    options.recursion_desired = false;
    exchange.lookup(query, options).next().await.unwrap_or(Err(NetError::Timeout))
}

/// Only an authority's word counts: a server that isn't one for the zone would give what it remembers, or a referral.
fn said(name: &Name, response: &DnsResponse) -> Said {
    let failed = |why: String| Said::Has(Err(LookupError::Failed(why)), None);
    let code = response.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return failed(format!("the server answers {code}"));
    }
    if !response.metadata.authoritative {
        return failed("the server is no authority for the zone".to_owned());
    }
    let alias = response.answers.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if from_the_wire(&record.name).as_ref() == Some(name) => {
            from_the_wire(&target.0)
        }
        _ => None,
    });
    if let Some(target) = alias {
        return Said::Alias(target);
    }
    if code == ResponseCode::NXDomain {
        return Said::Has(Err(LookupError::NoDomain), None);
    }
    if response.answers.is_empty() {
        return Said::Has(Err(LookupError::NoRecords), None);
    }
    Said::Has(picked(name, &response.answers, RecordType::TXT, text), None)
}

impl Authority for Servers {
    /// Walks up from the name to the first with NS records of its own.
    async fn zone(&self, name: &Name) -> Result<Zone, LookupError> {
        let mut apex = Some(name.clone());
        while let Some(candidate) = apex {
            let found = self
                .resolver
                .ask(&candidate, RecordType::NS, |data| match data {
                    RData::NS(server) => from_the_wire(&server.0),
                    _ => None,
                })
                .await;
            match found {
                // Through an alias it would be the servers of another zone.
                Ok(answer) if answer.aliases.is_empty() => {
                    let negative_ttl_secs = self.negative_ttl_secs(&candidate).await?;
                    let mut servers = answer.records;
                    servers.sort();
                    servers.dedup();
                    servers.truncate(SERVERS_MAX);
                    return Ok(Zone { apex: candidate, servers, negative_ttl_secs });
                }
                // An alias that leads nowhere can't be a zone either, whatever is said of where it leads.
                Err(LookupError::Failed(_)) if self.is_alias(&candidate).await => {}
                Err(LookupError::Failed(why)) => return Err(LookupError::Failed(why)),
                Ok(_) | Err(_) => {}
            }
            apex = candidate.parent();
        }
        Err(LookupError::Failed(format!("{name} is in no zone")))
    }

    async fn everywhere(&self, name: &Name) -> Result<Vec<Sighting>, LookupError> {
        let mut sightings = Vec::new();
        let mut names = vec![name.clone()];
        let mut circle = false;
        let mut next = 0;
        while let Some(current) = names.get(next).cloned() {
            next += 1;
            let zone = self.zone(&current).await?;
            let asked = zone.servers.iter().map(|server| self.sighting(server, &current));
            for (server, said) in zone.servers.iter().zip(join_all(asked).await) {
                match said {
                    Said::Has(found, address) => {
                        sightings.push(Sighting { server: server.clone(), address, found });
                    }
                    Said::Nowhere => {}
                    Said::Alias(target) if names.contains(&target) => circle = true,
                    // Who publishes names decides how many there are: what is asked has an end.
                    Said::Alias(_) if names.len() == ALIASES_MAX => {
                        return Err(LookupError::Failed(format!("{name} leads to too many aliases")));
                    }
                    Said::Alias(target) => names.push(target),
                }
            }
        }
        match (sightings.is_empty(), circle) {
            (true, true) => Err(LookupError::Failed(format!("the aliases of {name} are a circle"))),
            (true, false) => Err(LookupError::Failed("none of them has an address".to_owned())),
            (false, _) => Ok(sightings),
        }
    }
}

impl Servers {
    async fn is_alias(&self, name: &Name) -> bool {
        self.resolver.alias(name).await.is_ok()
    }

    /// The smaller of the SOA record's last field and its own time to live.
    async fn negative_ttl_secs(&self, apex: &Name) -> Result<u32, LookupError> {
        let pick = |data: &RData| match data {
            RData::SOA(soa) => Some(soa.minimum),
            _ => None,
        };
        let answer = self.resolver.ask(apex, RecordType::SOA, pick).await?;
        Ok(answer.records.into_iter().fold(answer.ttl_secs, u32::min))
    }
}
