//! Names and next hops as they are written in settings.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use mail::TlsRequirement;
use smtp::address::{Domain, Host};

/// Which recipient hosts a setting is about: `example.com`, `.example.com` for all below it, an address literal, or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// All.
    Any,
    /// This one.
    Host(Host),
    /// All domains below this one.
    Below(Domain),
}

/// A setting about recipient hosts can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {wrong}")]
pub struct ParseSettingError {
    text: String,
    wrong: &'static str,
}

impl ParseSettingError {
    pub(crate) fn new(text: &str, wrong: &'static str) -> Self {
        Self { text: text.to_owned(), wrong }
    }
}

impl FromStr for Pattern {
    type Err = ParseSettingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |_| ParseSettingError::new(text, "expected a domain, .domain for all below it, or *");
        match text.strip_prefix('.') {
            _ if text == "*" => Ok(Self::Any),
            Some(parent) => parent.parse().map(Self::Below).map_err(wrong),
            None => Host::parse(text).map(Self::Host).map_err(wrong),
        }
    }
}

impl Pattern {
    /// Whether it is about `host`.
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Host(wanted), host) => wanted == host,
            (Self::Below(parent), Host::Domain(domain)) => domain != parent && domain.is_at_or_below(parent),
            (Self::Below(_), Host::Literal(_)) => false,
        }
    }
}

/// A level of TLS as settings name it: `opportunistic`, `encrypt` or `verify`.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsPolicy {
    /// TLS where it is offered, with any certificate, else in the clear (RFC 7435).
    Opportunistic,
    /// TLS with any certificate, or the mail waits.
    Encrypt,
    /// TLS with a certificate for the host that is signed by a known authority, or the mail waits.
    Verify,
}

impl From<TlsPolicy> for TlsRequirement {
    fn from(policy: TlsPolicy) -> Self {
        match policy {
            TlsPolicy::Opportunistic => Self::Opportunistic,
            TlsPolicy::Encrypt => Self::Encrypt,
            TlsPolicy::Verify => Self::Verify,
        }
    }
}

impl FromStr for TlsPolicy {
    type Err = ParseSettingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "opportunistic" => Ok(Self::Opportunistic),
            "encrypt" => Ok(Self::Encrypt),
            "verify" => Ok(Self::Verify),
            _ => Err(ParseSettingError::new(text, "expected opportunistic, encrypt or verify")),
        }
    }
}

/// The TLS that some recipient hosts need, or all whose mail a provider takes: `example.com=verify`, `google=encrypt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSite {
    /// Which.
    pub pattern: Pattern,
    /// What they need.
    pub policy: TlsPolicy,
}

impl TlsSite {
    /// Whether it is about `host`, whose mail is taken by `provider`.
    pub(crate) fn is_about(&self, host: &Host, provider: Option<&str>) -> bool {
        let named = match &self.pattern {
            Pattern::Host(Host::Domain(name)) => Some(name.as_str()),
            _ => None,
        };
        self.pattern.matches(host) || (named.is_some() && named == provider)
    }
}

impl FromStr for TlsSite {
    type Err = ParseSettingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pattern, policy) =
            text.split_once('=').ok_or_else(|| ParseSettingError::new(text, "expected DOMAIN=POLICY"))?;
        Ok(Self { pattern: pattern.parse()?, policy: policy.parse()? })
    }
}

/// A next hop that is set instead of found: `example.com=mx.internal:2525`, `*=smarthost.example:587/verify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    /// For which recipient hosts.
    pub pattern: Pattern,
    /// Where to.
    pub next_hop: NextHop,
    /// The TLS that it needs, where set.
    pub tls: Option<TlsPolicy>,
}

/// A host and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// A name that is looked up as it is (no MX), or an address.
    pub host: Host,
    /// The port.
    pub port: u16,
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Domain(domain) => write!(f, "{domain}:{}", self.port),
            Host::Literal(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Literal(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

impl FromStr for StaticRoute {
    type Err = ParseSettingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || ParseSettingError::new(text, "expected DOMAIN=HOST:PORT or DOMAIN=HOST:PORT/TLS-POLICY");
        let (pattern, target) = text.split_once('=').ok_or_else(wrong)?;
        let (target, tls) = match target.split_once('/') {
            Some((target, policy)) => (target, Some(policy.parse()?)),
            None => (target, None),
        };
        let (host, port) = target.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let address = host.trim_start_matches('[').trim_end_matches(']').parse();
        let host = match address {
            Ok(ip) => Host::Literal(ip),
            Err(_) => host.parse().map(Host::Domain).map_err(|_| wrong())?,
        };
        Ok(Self { pattern: pattern.parse()?, next_hop: NextHop { host, port }, tls })
    }
}

/// What may go to a site: `SITE=RATE:BURST:CONNECTIONS` or `SITE=RATE:BURST:CONNECTIONS:MESSAGES`, as `mx.example.com=0.5:1:2`.
///
/// RATE is messages a second (0: no limit), BURST messages at once after a pause, CONNECTIONS connections at a time (0: the
/// default), MESSAGES those after which a connection is closed (0: the default). SITE is a named provider, the names of all MX
/// hosts, sorted and joined by `+`, or a static route's host and port.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteLimit {
    /// Which site.
    pub site: String,
    /// What holds.
    pub limits: limits::SiteLimits,
    /// A connection is closed after so many messages; 0 is the default.
    pub messages_per_connection: u32,
}

impl FromStr for SiteLimit {
    type Err = ParseSettingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            let expected = "expected SITE=RATE:BURST:CONNECTIONS or SITE=RATE:BURST:CONNECTIONS:MESSAGES, as mx.example.com=2.5:10:4";
            ParseSettingError::new(text, expected)
        };
        let (site, numbers) = text.rsplit_once('=').ok_or_else(wrong)?;
        let mut numbers = numbers.split(':');
        let mut next = || numbers.next().ok_or_else(wrong);
        let messages_per_sec: f64 = next()?.parse().map_err(|_| wrong())?;
        let burst: u32 = next()?.parse().map_err(|_| wrong())?;
        let connections: u32 = next()?.parse().map_err(|_| wrong())?;
        let messages_per_connection = numbers.next().map_or(Ok(0), str::parse).map_err(|_| wrong())?;
        let sensible =
            messages_per_sec.is_finite() && messages_per_sec >= 0.0 && burst > 0 && !site.is_empty();
        if !sensible || numbers.next().is_some() {
            return Err(wrong());
        }
        let limits = limits::SiteLimits { messages_per_sec, burst, connections };
        Ok(Self { site: site.to_ascii_lowercase(), limits, messages_per_connection })
    }
}

/// When mail that a site deferred is tried again: `SITE=SECONDS:SECONDS`, as `mx.example.com=60:600:3600`; SITE as in
/// [`SiteLimit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRetryWaits {
    /// Which site.
    pub site: String,
    /// Seconds to wait after the first, the second, ... failed attempt; the last repeats.
    pub waits_secs: Vec<u64>,
}

impl FromStr for SiteRetryWaits {
    type Err = ParseSettingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || ParseSettingError::new(text, "expected SITE=SECONDS:SECONDS, as mx.example.com=60:600:3600");
        let (site, waits) = text.rsplit_once('=').filter(|(site, _)| !site.is_empty()).ok_or_else(wrong)?;
        let waits = waits.split(':').map(str::parse).collect::<Result<_, _>>();
        Ok(Self { site: site.to_ascii_lowercase(), waits_secs: waits.map_err(|_| wrong())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn a_pattern_is_about_the_hosts_that_it_names() {
        for (pattern, matching, other) in [
            ("*", "d1.test", None),
            ("*", "[192.0.2.1]", None),
            ("d1.test", "D1.test", Some("a.d1.test")),
            (".d1.test", "a.b.d1.test", Some("d1.test")),
            (".d1.test", "a.d1.test", Some("ad1.test")),
            ("[192.0.2.1]", "[192.0.2.1]", Some("[192.0.2.2]")),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            assert!(pattern.matches(&host(matching)), "{pattern:?} {matching}");
            assert!(!other.is_some_and(|other| pattern.matches(&host(other))), "{pattern:?} {other:?}");
        }
    }

    #[test]
    fn a_static_route_names_host_port_and_tls() {
        let route: StaticRoute = "*=Smarthost.test:587/verify".parse().unwrap();
        assert_eq!(
            (route.next_hop.to_string().as_str(), route.tls),
            ("smarthost.test:587", Some(TlsPolicy::Verify))
        );
        let route: StaticRoute = "d1.test=127.0.0.1:2525".parse().unwrap();
        assert_eq!(route.next_hop.host, Host::Literal("127.0.0.1".parse().unwrap()));
        let route: StaticRoute = "d1.test=[::1]:25".parse().unwrap();
        assert_eq!(route.next_hop.to_string(), "[::1]:25");
        for text in
            ["d1.test", "d1.test=mx", "d1.test=mx:0", "d1.test=mx:25/always", "=mx:25", "d1.test=mx:70000"]
        {
            assert!(text.parse::<StaticRoute>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_site_limit_names_rate_burst_and_connections() {
        let limit: SiteLimit = "MX.d1.test=0.5:2:3".parse().unwrap();
        assert_eq!(limit.site, "mx.d1.test");
        assert_eq!(
            (limit.limits.messages_per_sec, limit.limits.burst, limit.limits.connections),
            (0.5, 2, 3)
        );
        assert_eq!(limit.messages_per_connection, 0);
        let limit: SiteLimit = "a.test+b.test=0:1:0:20".parse().unwrap();
        assert_eq!((limit.site.as_str(), limit.messages_per_connection), ("a.test+b.test", 20));
        for text in [
            "mx=1",
            "mx=1:0:1",
            "mx=-1:1:1",
            "mx=inf:1:1",
            "mx=1:1:1:1:1",
            "mx=1:1:1:",
            "mx=1:1:1:-1",
            "=1:1:1",
        ] {
            assert!(text.parse::<SiteLimit>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_sites_retry_waits_are_seconds() {
        let waits: SiteRetryWaits = "Google=60:600:3600".parse().unwrap();
        assert_eq!((waits.site.as_str(), waits.waits_secs), ("google", vec![60, 600, 3600]));
        let waits: SiteRetryWaits = "127.0.0.1:2525=1".parse().unwrap();
        assert_eq!((waits.site.as_str(), waits.waits_secs), ("127.0.0.1:2525", vec![1]));
        for text in ["google", "google=", "google=1:", "google=1:x", "google=-1", "=1"] {
            assert!(text.parse::<SiteRetryWaits>().is_err(), "{text}");
        }
    }

    #[test]
    fn tls_is_set_for_a_domain_or_for_all_that_a_provider_serves() {
        let of = |text: &str, provider| text.parse::<TlsSite>().unwrap().is_about(&host("d1.test"), provider);
        assert!(of("d1.test=verify", None) && of("D1.test=verify", Some("google")));
        assert!(of("Google=verify", Some("google")));
        assert!(!of("google=verify", None) && !of("google=verify", Some("yahoo")));
        assert!(!of(".google=verify", Some("google")));
    }
}
