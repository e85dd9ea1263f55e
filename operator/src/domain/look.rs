//! What DNS says of a domain: asked for, nothing decided.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;

use crate::crd::{DmarcPolicy, DomainKey, DomainKeyState, SendingDomain};
use crate::dns::authority::{Authority as _, Sighting};
use crate::dns::dkim::{self, Key};
use crate::dns::dmarc::record::Policy;
use crate::dns::name::Name;
use crate::dns::report::{Finding, Purpose, Record, Report, State};
use crate::dns::resolver::Resolver;
use crate::dns::servers::Servers;
use crate::dns::{Expectations, check};
use crate::policies::Policies;
use crate::secrets::KeyMaterial;

use super::Wanted;
use super::silence::Silences;

const TIMEOUT: Duration = Duration::from_secs(3);
/// Resolvers are kept by their addresses; objects may name any.
const RESOLVERS_MAX: usize = 64;

/// The way to DNS, and to what it announces.
pub(crate) struct Dns {
    policies: Policies,
    resolvers: Mutex<HashMap<Vec<SocketAddr>, Resolver>>,
    silences: Silences,
}

/// What was seen.
pub(crate) struct Look {
    pub(crate) report: Report,
    /// Selectors whose record is at all servers of the zone, and what is said of each.
    pub(crate) everywhere: BTreeMap<String, Finding>,
    /// How long resolvers may remember that there was no record, in seconds.
    pub(crate) remembered_secs: BTreeMap<String, i64>,
}

impl Look {
    /// Selectors that no receiver can miss.
    pub(crate) fn seen(&self) -> BTreeSet<String> {
        let found = self.everywhere.iter().filter(|(_, finding)| finding.state == State::Found);
        found.map(|(selector, _)| selector.clone()).collect()
    }
}

/// DNS can't be asked.
#[derive(Debug, thiserror::Error)]
#[error("DNS can't be asked: {0}")]
pub(crate) struct LookError(String);

impl Dns {
    pub(crate) fn new(policies: Policies) -> Self {
        Self { policies, resolvers: Mutex::default(), silences: Silences::default() }
    }

    fn resolver(&self, addresses: &[SocketAddr]) -> Result<Resolver, LookError> {
        let mut held = self.resolvers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = held.get(addresses) {
            return Ok(resolver.clone());
        }
        let made = Resolver::new(addresses, TIMEOUT).map_err(|error| LookError(error.to_string()))?;
        if held.len() >= RESOLVERS_MAX {
            held.clear();
        }
        held.insert(addresses.to_vec(), made.clone());
        Ok(made)
    }

    /// Looks at everything of a domain.
    pub(crate) async fn look(
        &self,
        domain: &SendingDomain,
        wanted: &Wanted,
        keys: &[DomainKey],
        material: &HashMap<String, KeyMaterial>,
        settings: &crate::config::Settings,
    ) -> Result<Look, LookError> {
        let resolver = self.resolver(&resolvers(domain, &settings.resolvers))?;
        let policies = self.policies.through(&resolver);
        let servers = Servers::new(resolver.clone(), TIMEOUT).at_port(settings.dns_port);
        let keys: Vec<Key> = keys
            .iter()
            .filter(|key| key.state != DomainKeyState::Generating)
            .filter_map(|key| {
                let made = Key::from_record(&key.selector, &material.get(&key.selector)?.record).ok()?;
                Some(match wanted.target(&key.selector) {
                    Some(target) => made.behind(target),
                    None => made,
                })
            })
            .collect();
        let expectations = Expectations {
            domain: wanted.domain.clone(),
            keys: keys.clone(),
            return_path: wanted.return_path.clone(),
            report_hosts: if domain.spec.return_path.is_some() {
                settings.report_hosts.clone()
            } else {
                Vec::new()
            },
            senders: settings.senders.clone(),
            spf_term: settings.spf_term.clone(),
            policy_at_least: match domain.spec.dmarc.policy {
                DmarcPolicy::Optional | DmarcPolicy::None => Policy::None,
                DmarcPolicy::Quarantine => Policy::Quarantine,
                DmarcPolicy::Reject => Policy::Reject,
            },
        };
        let name = Name::from(&wanted.domain);
        let wrong = |error: crate::dns::name::NameError| LookError(error.to_string());
        let report = check(&expectations, &resolver, &policies, SystemTime::now());
        let patience = patience(settings.hold_secs);
        let each =
            join_all(keys.iter().map(|key| self.everywhere(&name, key, &resolver, &servers, patience)));
        let (report, each) = tokio::join!(report, each);
        let report = report.map_err(wrong)?;
        let (mut everywhere, mut remembered_secs) = (BTreeMap::new(), BTreeMap::new());
        for (key, (finding, secs)) in keys.iter().zip(each) {
            everywhere.insert(key.selector.clone(), finding);
            remembered_secs.insert(key.selector.clone(), secs);
        }
        Ok(Look { report, everywhere, remembered_secs })
    }

    /// Whether a key is at all servers of its zone, and how long resolvers may remember that it wasn't.
    async fn everywhere(
        &self,
        domain: &Name,
        key: &Key,
        resolver: &Resolver,
        servers: &Servers,
        patience: Duration,
    ) -> (Finding, i64) {
        let now = Instant::now();
        let given_up = |sighting: &Sighting| self.silences.given_up(domain, sighting, patience, now);
        let found = dkim::check_everywhere(domain, key, resolver, servers, given_up).await;
        let finding =
            found.unwrap_or_else(|error| Finding { state: State::Unknown, reason: error.to_string() });
        if finding.state != State::Found {
            return (finding, 0);
        }
        // Of an alias either end may have been missing.
        let ends = [key.name(domain).ok(), key.alias_of.clone()].into_iter().flatten();
        let zones = join_all(ends.map(|end| async move { servers.zone(&end).await.ok() })).await;
        let remembered = zones.into_iter().flatten().map(|zone| i64::from(zone.negative_ttl_secs));
        (finding, remembered.max().unwrap_or_default())
    }
}

/// How long a server that doesn't answer is waited for: less than what DNS said last holds, so that a domain whose other
/// servers answer stays as it is.
fn patience(hold_secs: i64) -> Duration {
    Duration::from_secs(u64::try_from(hold_secs).unwrap_or_default() / 2)
}

/// The resolvers of an object, else those of the operator.
fn resolvers(domain: &SendingDomain, configured: &[SocketAddr]) -> Vec<SocketAddr> {
    let address = |text: &String| {
        text.parse::<SocketAddr>().ok().or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 53)))
    };
    let own: Vec<SocketAddr> = domain.spec.dns.resolvers.iter().filter_map(address).collect();
    if own.is_empty() { configured.to_vec() } else { own }
}

/// The selector that a record is for.
pub(crate) fn selector_of(record: &Record) -> Option<&str> {
    match &record.purpose {
        Purpose::Dkim { selector } => Some(selector),
        _ => None,
    }
}
