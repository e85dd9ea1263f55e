//! Getting to a server of a route: hosts in order of preference, their addresses, TLS as demanded.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mail::{RemoteReply, TlsRequirement};
use smtp::address::Host;
use smtp::reply::{EnhancedCode, Reply};
use tracing::Instrument as _;

use crate::config::Timeouts;
use crate::connection::{Connection, OpenError};
use crate::metrics::Metrics;
use crate::route::{Route, RouteHost};
use crate::spans;
use crate::tls::{Certificate, ClientTls};

/// Addresses that are connected to in one attempt.
const ADDRESSES_MAX: u32 = 5;
/// Addresses of a host and family that are tried before the next host: a host of many dead ones mustn't hide the others.
const ADDRESSES_BEFORE_NEXT_HOST: usize = 2;
/// Servers that are talked to in one attempt.
const SESSIONS_MAX: u32 = 2;

/// What an approach needs of its surroundings.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) tls: &'a ClientTls,
    pub(crate) timeouts: &'a Timeouts,
    /// What we call ourselves.
    pub(crate) name: &'a Host,
    pub(crate) metrics: &'a Metrics,
}

/// Why no server of the route could be talked to, or why the talk brought nothing.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Class 5 for good, class 4 for now.
    pub(crate) status: EnhancedCode,
    pub(crate) remote: Option<RemoteReply>,
    pub(crate) reason: String,
}

impl Failure {
    pub(crate) fn new(status: (u8, u16, u16), reason: String) -> Self {
        Self { status: status.into(), remote: None, reason }
    }

    /// What a server said to us as such, with its own code where it fits the reply's class.
    pub(crate) fn of_reply(host: &str, reply: Reply) -> Self {
        let status = status_of(&reply, (0, 0));
        let reason = format!("{host} said: {reply}");
        Self { status, remote: Some(RemoteReply { host: Some(host.to_owned()), reply }), reason }
    }

    pub(crate) fn is_permanent(&self) -> bool {
        self.status.class == 5
    }
}

/// The first digit of the reply decides (RFC 5321 section 4.2.1); the enhanced code counts where it says the same.
pub(crate) fn status_of(reply: &Reply, (subject, detail): (u16, u16)) -> EnhancedCode {
    let class = match reply.code() / 100 {
        2 => 2,
        5 => 5,
        _ => 4,
    };
    match reply.enhanced() {
        Some(enhanced) if enhanced.class == class => enhanced,
        _ => EnhancedCode::new(class, subject, detail),
    }
}

struct Candidate {
    host: Arc<str>,
    address: IpAddr,
}

/// The servers that are left to try in one attempt.
pub(crate) struct Approach {
    candidates: VecDeque<Candidate>,
    port: u16,
    requirement: TlsRequirement,
    addresses_left: u32,
    sessions_left: u32,
    failure: Option<Failure>,
    /// All that was tried so far refused for good.
    all_permanent: bool,
    /// Some server answered, whatever it said.
    pub(crate) answered: bool,
}

impl Approach {
    pub(crate) fn new(route: &Route, requirement: TlsRequirement) -> Self {
        let mut hosts: Vec<_> = route.hosts.iter().collect();
        // Equal ones in another order each time: that spreads mail over them.
        hosts.sort_by_cached_key(|host| {
            (host.preference, if route.hosts.len() > 1 { runtime::random_u32() } else { 0 })
        });
        Self {
            candidates: candidates(&hosts),
            port: route.port,
            requirement,
            addresses_left: ADDRESSES_MAX,
            sessions_left: SESSIONS_MAX,
            failure: None,
            all_permanent: true,
            answered: false,
        }
    }

    /// A connection to the next server that talks to us, or why there is none.
    pub(crate) async fn connect(&mut self, means: Means<'_>) -> Result<Connection, Failure> {
        while self.addresses_left > 0 && self.sessions_left > 0 {
            let Some(candidate) = self.candidates.pop_front() else { break };
            self.addresses_left -= 1;
            let Candidate { host, address } = candidate;
            match self.open(SocketAddr::new(address, self.port), &host, means).await {
                Ok(connection) => {
                    self.sessions_left -= 1;
                    self.answered = true;
                    return Ok(connection);
                }
                Err(Refusal::NoRoute(failure)) => {
                    // As of IPv6 where there is none; it costs nothing and says nothing of the server.
                    self.addresses_left += 1;
                    self.note(failure);
                }
                Err(Refusal::Unreachable(failure)) => self.note(failure),
                Err(Refusal::Host(failure)) => {
                    self.sessions_left -= 1;
                    self.answered = true;
                    // The host as a whole was heard: its other addresses wouldn't say otherwise.
                    self.candidates.retain(|other| other.host != host);
                    self.note(failure);
                }
            }
        }
        Err(self.failure())
    }

    /// Whether [`Approach::connect`] has something left to try.
    pub(crate) fn has_more(&self) -> bool {
        self.addresses_left > 0 && self.sessions_left > 0 && !self.candidates.is_empty()
    }

    /// Takes note of what went wrong on a connection that [`Approach::connect`] gave.
    pub(crate) fn note(&mut self, failure: Failure) {
        self.all_permanent &= failure.is_permanent();
        // What can pass tells more about what is to come than what can't.
        let keep = self.failure.as_ref().is_some_and(|known| !known.is_permanent() && failure.is_permanent());
        if !keep {
            self.failure = Some(failure);
        }
    }

    /// What it all comes to. For good only when every host said so.
    pub(crate) fn failure(&self) -> Failure {
        let mut failure = self
            .failure
            .clone()
            .unwrap_or_else(|| Failure::new((4, 4, 1), String::from("no server was tried")));
        if !self.candidates.is_empty() {
            failure.reason = format!(
                "{}; {} more addresses are left for a later attempt",
                failure.reason,
                self.candidates.len()
            );
        }
        if failure.is_permanent() && !(self.all_permanent && self.candidates.is_empty()) {
            failure.status.class = 4;
        }
        failure
    }

    async fn open(
        &self,
        address: SocketAddr,
        host: &Arc<str>,
        means: Means<'_>,
    ) -> Result<Connection, Refusal> {
        let connection = reach(address, host, means).await.map_err(|error| refusal(host, address, error))?;
        let required = self.requirement > TlsRequirement::Opportunistic;
        if !connection.capabilities().starttls {
            return if required { Err(no_tls(host, "it doesn't offer STARTTLS")) } else { Ok(connection) };
        }
        if !required && means.tls.is_broken(host) {
            return Ok(connection);
        }
        let certificate = match self.requirement {
            TlsRequirement::Verify => Certificate::Verified,
            TlsRequirement::Opportunistic | TlsRequirement::Encrypt => Certificate::Any,
        };
        match encrypt(connection, certificate, means).await {
            Ok((_, Some(reply))) if required => Err(no_tls(host, &format!("it refused STARTTLS: {reply}"))),
            Ok((connection, _)) => Ok(connection),
            Err(OpenError::Refused(reply)) => Err(Refusal::Host(Failure::of_reply(host, reply))),
            Err(error) if required => Err(Refusal::Host(Failure::new(
                (4, 7, 5),
                format!("{host} must be spoken to under TLS: {error}"),
            ))),
            Err(error) => {
                // The connection is in no known state; a new one goes without (RFC 7435 section 4).
                tracing::debug!(host = &**host, %error, "TLS failed, going on in the clear");
                means.tls.mark_broken(host);
                reach(address, host, means).await.map_err(|error| refusal(host, address, error))
            }
        }
    }
}

async fn reach(address: SocketAddr, host: &Arc<str>, means: Means<'_>) -> Result<Connection, OpenError> {
    let span = spans::connect(host, address);
    let opened = Connection::open(address, Arc::clone(host), means).instrument(span.clone()).await;
    opened.inspect_err(|error| spans::not_opened(&span, error))
}

async fn encrypt(
    connection: Connection,
    certificate: Certificate,
    means: Means<'_>,
) -> Result<(Connection, Option<Reply>), OpenError> {
    let span = spans::tls(&connection);
    let connector = means.tls.connector(certificate);
    match connection.start_tls(connector, means.timeouts).instrument(span.clone()).await {
        Ok((connection, refusal)) => {
            spans::encrypted(&span, &connection, refusal.as_ref());
            Ok((connection, refusal))
        }
        Err(error) => {
            spans::not_opened(&span, &error);
            Err(error)
        }
    }
}

/// The addresses of hosts in the order in which they are tried.
fn candidates(hosts: &[&RouteHost]) -> VecDeque<Candidate> {
    let (mut first, mut rest) = (VecDeque::new(), Vec::new());
    for host in hosts {
        let mut seen = [0, 0];
        for address in &host.addresses {
            let candidate = Candidate { host: Arc::clone(&host.name), address: *address };
            let seen = &mut seen[usize::from(address.is_ipv4())];
            *seen += 1;
            if *seen <= ADDRESSES_BEFORE_NEXT_HOST {
                first.push_back(candidate)
            } else {
                rest.push(candidate)
            }
        }
    }
    first.extend(rest);
    first
}

/// How a candidate failed.
enum Refusal {
    /// Our own network leads there not at all.
    NoRoute(Failure),
    /// Nobody answered at the address.
    Unreachable(Failure),
    /// The host answered, and it was no use.
    Host(Failure),
}

fn refusal(host: &str, address: SocketAddr, error: OpenError) -> Refusal {
    let failure = |status| Failure::new(status, format!("{host} [{}]: {error}", address.ip()));
    match error {
        OpenError::Refused(reply) => Refusal::Host(Failure::of_reply(host, reply)),
        OpenError::Unreachable(ref cause) if leads_nowhere(cause) => Refusal::NoRoute(failure((4, 4, 1))),
        OpenError::Unreachable(_) | OpenError::NoAnswer(_) => Refusal::Unreachable(failure((4, 4, 1))),
        OpenError::Broken(_) => Refusal::Unreachable(failure((4, 4, 2))),
        OpenError::Handshake(_) => Refusal::Host(failure((4, 7, 5))),
    }
}

fn leads_nowhere(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    )
}

fn no_tls(host: &str, why: &str) -> Refusal {
    Refusal::Host(Failure::new((4, 7, 4), format!("{host} must be spoken to under TLS: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_addresses_of_a_host_do_not_hide_the_next_host() {
        let host = |name: &str, preference, addresses: &[&str]| RouteHost {
            name: name.into(),
            preference,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        let hosts = [
            host("one", 10, &["2001:4860::1", "8.8.8.1", "8.8.8.2", "8.8.8.3"]),
            host("two", 20, &["8.8.4.1", "8.8.4.2", "8.8.4.3"]),
        ];
        let order = candidates(&hosts.iter().collect::<Vec<_>>());
        let order: Vec<String> = order.iter().map(|candidate| candidate.address.to_string()).collect();
        let expected = ["2001:4860::1", "8.8.8.1", "8.8.8.2", "8.8.4.1", "8.8.4.2", "8.8.8.3", "8.8.4.3"];
        assert_eq!(order, expected);
    }
}
