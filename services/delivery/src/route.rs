//! Where a recipient host's mail goes.
//!
//! ```text
//! host --settings--> static route
//!      --literal---> that address
//!      --DNS-------> MX hosts and their addresses (module `mx`), less ourselves and internal networks (`runtime::networks`)
//! ```

mod lookup;
mod mx;
mod providers;
mod statics;
#[cfg(test)]
pub(crate) mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::TlsRequirement;
use runtime::networks::{Reach, Verdict};
use smtp::address::{Domain, Host};
use smtp::reply::EnhancedCode;

pub(crate) use lookup::{Dns, Lookup};
pub(crate) use providers::Providers;
pub use providers::ProvidersError;
pub use statics::{
    NextHop, ParseSettingError, Pattern, SiteLimit, SiteRetryWaits, StaticRoute, TlsPolicy, TlsSite,
};

use crate::cache::Cache;
use crate::config::AddressFamily;
use mx::Finder;

const CACHED_ROUTES_MAX: usize = 100_000;
/// Bounds of how long a route is used, whatever DNS says.
const HOLDS_MIN: Duration = Duration::from_secs(5);
const HOLDS_MAX: Duration = Duration::from_secs(3600);
const REFUSAL_HOLDS: Duration = Duration::from_secs(60);
const FAILURE_HOLDS: Duration = Duration::from_secs(15);

/// The way to a destination.
#[derive(Debug)]
pub(crate) struct Route {
    /// Whose limits hold: a provider, or the destination itself.
    pub(crate) site: Arc<str>,
    /// What shares connections: the MX hosts of whichever domains name the same ones, or a static next hop.
    pub(crate) destination: Arc<str>,
    /// Best first; never empty, and none without an address.
    pub(crate) hosts: Vec<RouteHost>,
    pub(crate) port: u16,
    /// What the settings ask for.
    pub(crate) tls: TlsRequirement,
}

/// One host of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteHost {
    /// Its name, or its address as text.
    pub(crate) name: Arc<str>,
    pub(crate) preference: u16,
    /// IPv6 before IPv4.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Hosts as they were found.
struct Hosts {
    destination: Arc<str>,
    hosts: Vec<RouteHost>,
    valid_until: Instant,
}

/// Why there is no way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct RouteError {
    /// Class 5 for good, class 4 for now.
    pub(crate) status: EnhancedCode,
    pub(crate) reason: String,
}

impl RouteError {
    fn permanent(status: (u8, u16, u16), reason: String) -> Self {
        Self { status: status.into(), reason }
    }

    fn temporary(status: (u8, u16, u16), reason: String) -> Self {
        Self { status: status.into(), reason }
    }

    fn is_permanent(&self) -> bool {
        self.status.class == 5
    }
}

/// What routing is set to.
pub(crate) struct RouterSettings {
    pub(crate) reach: Reach,
    pub(crate) family: AddressFamily,
    /// Our own name: an MX of this name is ourselves.
    pub(crate) host_name: Domain,
    pub(crate) port: u16,
    pub(crate) statics: Vec<StaticRoute>,
    pub(crate) tls: TlsPolicy,
    pub(crate) tls_sites: Vec<TlsSite>,
    pub(crate) providers: Arc<Providers>,
}

/// Finds routes and keeps them as long as DNS allows.
pub(crate) struct Router {
    lookup: Box<dyn Lookup>,
    settings: RouterSettings,
    cache: Cache<Host, Result<Arc<Route>, Arc<RouteError>>>,
}

impl Router {
    pub(crate) fn new(lookup: Box<dyn Lookup>, settings: RouterSettings) -> Self {
        Self { lookup, settings, cache: Cache::new(CACHED_ROUTES_MAX) }
    }

    /// The route to a recipient host.
    pub(crate) async fn route(&self, host: &Host) -> Result<Arc<Route>, Arc<RouteError>> {
        self.cache.value(host, || self.make(host)).await
    }

    async fn make(&self, host: &Host) -> (Result<Arc<Route>, Arc<RouteError>>, Instant) {
        let now = Instant::now();
        match self.find(host).await {
            Ok((route, until)) => (Ok(Arc::new(route)), until.clamp(now + HOLDS_MIN, now + HOLDS_MAX)),
            Err(error) => {
                let holds = if error.is_permanent() { REFUSAL_HOLDS } else { FAILURE_HOLDS };
                (Err(Arc::new(error)), now + holds)
            }
        }
    }

    async fn find(&self, host: &Host) -> Result<(Route, Instant), RouteError> {
        let settings = &self.settings;
        if let Some(set) = settings.statics.iter().find(|set| set.pattern.matches(host)) {
            return self.of_static(host, set).await;
        }
        let found = match host {
            Host::Domain(domain) => self.finder().of_domain(domain).await?,
            Host::Literal(ip) => of_literal(*ip, settings.reach.verdict(*ip))?,
        };
        let Hosts { destination, hosts, valid_until } = found;
        let provider = self.provider(&hosts);
        let tls = self.tls_of(host, provider, None);
        let site = provider.unwrap_or(&destination).clone();
        Ok((Route { site, destination, hosts, port: settings.port, tls }, valid_until))
    }

    /// A next hop that the settings name is taken as it is: it may well be in a private network.
    async fn of_static(&self, host: &Host, set: &StaticRoute) -> Result<(Route, Instant), RouteError> {
        let hop = &set.next_hop;
        let (addresses, valid_until) = match &hop.host {
            Host::Literal(ip) => (vec![*ip], Instant::now() + HOLDS_MAX),
            Host::Domain(name) => self.finder().addresses(name).await.map_err(|cause| {
                // A mistake in the settings must not bounce mail.
                RouteError::temporary((4, 4, 4), format!("the static route to {hop} leads nowhere: {cause}"))
            })?,
        };
        let name: Arc<str> = match &hop.host {
            Host::Domain(domain) => domain.as_str().into(),
            Host::Literal(ip) => ip.to_string().into(),
        };
        let destination: Arc<str> = hop.to_string().into();
        let hosts = vec![RouteHost { name, preference: 0, addresses }];
        let tls = self.tls_of(host, None, set.tls);
        Ok((Route { site: destination.clone(), destination, hosts, port: hop.port, tls }, valid_until))
    }

    /// Whose the best hosts are. Equal ones come in random order, so the first by name decides.
    fn provider(&self, hosts: &[RouteHost]) -> Option<&Arc<str>> {
        let best = hosts.first()?.preference;
        let equal = hosts.iter().take_while(|host| host.preference == best);
        let known = equal.filter_map(|host| {
            let provider = self.settings.providers.of_host(&host.name.parse().ok()?)?;
            Some((&host.name, provider))
        });
        known.min().map(|(_, provider)| provider)
    }

    fn tls_of(
        &self,
        host: &Host,
        provider: Option<&Arc<str>>,
        of_route: Option<TlsPolicy>,
    ) -> TlsRequirement {
        let provider = provider.map(AsRef::as_ref);
        let of_site = self.settings.tls_sites.iter().find(|site| site.is_about(host, provider));
        of_site.map(|site| site.policy).or(of_route).unwrap_or(self.settings.tls).into()
    }

    fn finder(&self) -> Finder<'_> {
        let RouterSettings { reach, family, host_name, .. } = &self.settings;
        Finder { lookup: &*self.lookup, reach, family: *family, host_name }
    }
}

fn of_literal(ip: IpAddr, verdict: Verdict) -> Result<Hosts, RouteError> {
    match verdict {
        Verdict::Allowed => {
            let name: Arc<str> = ip.to_string().into();
            let hosts = vec![RouteHost { name: name.clone(), preference: 0, addresses: vec![ip] }];
            Ok(Hosts { destination: name, hosts, valid_until: Instant::now() + HOLDS_MAX })
        }
        Verdict::Ours => {
            Err(RouteError::permanent((5, 4, 6), format!("mail for [{ip}] would come back to this host")))
        }
        Verdict::Refused => {
            Err(RouteError::permanent((5, 4, 4), format!("mail is never sent to the network of {ip}")))
        }
    }
}
