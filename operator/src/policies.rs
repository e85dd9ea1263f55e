//! MTA-STS policies, fetched from the web (RFC 8461 section 3.3).
//!
//! Who publishes a domain names the host that is asked: so it is asked at public addresses only, its certificate must be good, no
//! redirect is followed, and what it sends has an end.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use runtime::networks::{Reach, Verdict};
use runtime::tls::ClientTls;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::dns::lookup::{Found, Lookup};
use crate::dns::mta_sts::{Fetch, FetchError, POLICY_OCTETS_MAX};
use crate::dns::name::Name;
use crate::dns::resolver::Resolver;

const HTTPS_PORT: u16 = 443;
const PATH: &str = "/.well-known/mta-sts.txt";
/// For all of it, from the look-up to the last octet.
const FETCH_MAX: Duration = Duration::from_secs(10);
/// A host isn't asked more often, however often its domain is looked at.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
const REMEMBERED_MAX: usize = 1000;

type Fetched = Result<Vec<u8>, FetchError>;

/// The way to policies, and what was fetched a moment ago.
pub(crate) struct Policies {
    tls: ClientTls,
    reach: Reach,
    remembered: Mutex<HashMap<Name, (Instant, Fetched)>>,
}

impl Policies {
    pub(crate) fn new(tls: ClientTls, reach: Reach) -> Self {
        Self { tls, reach, remembered: Mutex::default() }
    }

    /// Finds hosts through this resolver.
    pub(crate) fn through<'a>(&'a self, resolver: &'a Resolver) -> Through<'a> {
        Through { policies: self, resolver }
    }

    fn known(&self, host: &Name) -> Option<Fetched> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, fetched) = remembered.get(host)?;
        (at.elapsed() < REMEMBERED_FOR).then(|| fetched.clone())
    }

    fn remember(&self, host: &Name, fetched: &Fetched) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, (at, _)| at.elapsed() < REMEMBERED_FOR);
        }
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(host.clone(), (Instant::now(), fetched.clone()));
        }
    }

    async fn fetch(&self, host: &Name, address: IpAddr) -> Fetched {
        let failed =
            |what: &str, error: &dyn std::fmt::Display| FetchError::Failed(format!("{what}: {error}"));
        let server = ServerName::try_from(host.as_str().to_owned())
            .map_err(|error| failed("its name can't be in a certificate", &error))?;
        let socket = TcpStream::connect(SocketAddr::new(address, HTTPS_PORT))
            .await
            .map_err(|error| failed(&format!("{address} takes no connection"), &error))?;
        let secured = self
            .tls
            .connector()
            .connect(server, socket)
            .await
            .map_err(|error| failed("TLS can't be begun", &error))?;
        let broken = |error: hyper::Error| failed("the server speaks no good HTTP", &error);
        let (mut sender, connection) =
            http1::handshake::<_, Empty<Bytes>>(TokioIo::new(secured)).await.map_err(broken)?;
        let request = Request::get(PATH)
            .header(HOST, host.as_str())
            .header(USER_AGENT, "stagepost")
            .body(Empty::new())
            .map_err(|error| failed("it can't be asked for", &error))?;
        // It ends with the exchange.
        let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), POLICY_OCTETS_MAX).collect().await;
        Ok(body.map_err(|error| failed("the policy can't be read", &error))?.to_bytes().to_vec())
    }
}

/// [`Policies`] with a resolver.
pub(crate) struct Through<'a> {
    policies: &'a Policies,
    resolver: &'a Resolver,
}

impl Through<'_> {
    async fn fetch(&self, host: &Name) -> Fetched {
        let (ipv6, ipv4) = tokio::join!(self.resolver.ipv6(host), self.resolver.ipv4(host));
        let failure = |found: &Found<_>| found.as_ref().err().map(ToString::to_string);
        let why = ipv4.as_ref().err().map(ToString::to_string).or_else(|| failure(&ipv6));
        let ipv4 = ipv4.into_iter().flat_map(|answer| answer.records).map(IpAddr::V4);
        let addresses: Vec<IpAddr> =
            ipv4.chain(ipv6.into_iter().flat_map(|answer| answer.records).map(IpAddr::V6)).collect();
        let mut outcome = Err(FetchError::Failed(match (addresses.is_empty(), why) {
            (true, Some(why)) => format!("{host} has no address: {why}"),
            _ => format!("{host} has no address that may be connected to"),
        }));
        for address in addresses {
            if self.policies.reach.verdict(address) != Verdict::Allowed {
                continue;
            }
            outcome = self.policies.fetch(host, address).await;
            if !matches!(outcome, Err(FetchError::Failed(_))) {
                break;
            }
        }
        outcome
    }
}

impl Fetch for Through<'_> {
    async fn policy(&self, host: &Name) -> Fetched {
        if let Some(fetched) = self.policies.known(host) {
            return fetched;
        }
        let fetched = timeout(FETCH_MAX, self.fetch(host)).await.unwrap_or_else(|_| {
            Err(FetchError::Failed(format!("there is no policy within {} s", FETCH_MAX.as_secs())))
        });
        self.policies.remember(host, &fetched);
        fetched
    }
}
