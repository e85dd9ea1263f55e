//! Finding the hosts of a domain (RFC 5321 section 5.1).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::digest::{SHA256, digest};
use runtime::networks::{Reach, Verdict};
use runtime::random_u32;
use smtp::address::Domain;

use super::lookup::{Exchange, Family, Lookup, LookupError, Mx};
use super::{Hosts, RouteError, RouteHost};
use crate::config::AddressFamily;

/// Hosts whose addresses are asked for: with the MX question that is 17 queries.
const HOSTS_ASKED_MAX: usize = 8;
/// With so many usable hosts, worse preferences aren't looked at.
const HOSTS_WANTED: usize = 3;
/// Most octets of a destination's name but for the mark of what was left out: it is in events, reasons and keys of Redis.
const DESTINATION_OCTETS_MAX: usize = 200;

/// What finding needs.
pub(super) struct Finder<'a> {
    pub(super) lookup: &'a dyn Lookup,
    pub(super) reach: &'a Reach,
    pub(super) family: AddressFamily,
    pub(super) host_name: &'a Domain,
}

/// What was learned of one exchange.
enum Learned {
    Usable(Vec<IpAddr>, Instant),
    /// It is this host.
    Ours,
    /// It has addresses, all of which are refused.
    Refused,
    Missing,
    Unknown(String),
}

impl Finder<'_> {
    /// The hosts of a recipient domain.
    pub(super) async fn of_domain(&self, domain: &Domain) -> Result<Hosts, RouteError> {
        match self.lookup.mx(domain).await {
            Ok(answer) => {
                let exchanges = usable(answer.records, domain)?;
                self.of_exchanges(domain, exchanges, answer.valid_until).await
            }
            Err(LookupError::NoDomain) => {
                Err(RouteError::permanent((5, 1, 2), format!("the domain {domain} does not exist")))
            }
            // Without MX the domain itself is the host.
            Err(LookupError::NoRecords) => self.of_host(domain).await,
            // So it may be here; but that nothing else is known is no reason to give up.
            Err(cause @ LookupError::Unfounded) => self.of_host(domain).await.map_err(|error| {
                let reason = format!("looking up the MX of {domain} failed: {cause}; and {error}");
                if error.is_permanent() { RouteError::temporary((4, 4, 3), reason) } else { error }
            }),
            Err(LookupError::Failed(cause)) => Err(RouteError::temporary(
                (4, 4, 3),
                format!("looking up the MX of {domain} failed: {cause}"),
            )),
        }
    }

    /// One host, by its own addresses: an implicit MX.
    pub(super) async fn of_host(&self, host: &Domain) -> Result<Hosts, RouteError> {
        match self.learn(host).await {
            Learned::Usable(addresses, valid_until) => {
                let hosts = vec![RouteHost { name: host.as_str().into(), preference: 0, addresses }];
                Ok(Hosts { destination: host.as_str().into(), hosts, valid_until })
            }
            Learned::Ours => Err(loops(host)),
            Learned::Refused => Err(refused(host)),
            Learned::Missing => Err(RouteError::permanent(
                (5, 4, 4),
                format!("the domain {host} has neither mail servers nor an address"),
            )),
            Learned::Unknown(cause) => Err(RouteError::temporary(
                (4, 4, 3),
                format!("looking up the addresses of {host} failed: {cause}"),
            )),
        }
    }

    /// The hosts behind MX records, best preference first.
    async fn of_exchanges(
        &self,
        domain: &Domain,
        mut exchanges: Vec<(u16, Domain)>,
        mx_valid_until: Instant,
    ) -> Result<Hosts, RouteError> {
        let destination = destination(&exchanges);
        // Equal ones in random order, so that no host of many is never asked for.
        exchanges.sort_by_cached_key(|(preference, _)| (*preference, random_u32()));

        let mut hosts: Vec<RouteHost> = Vec::new();
        let mut valid_until = mx_valid_until;
        let (mut unknown, mut refusals, mut ours) = (None, 0, None);
        for (preference, name) in exchanges.into_iter().take(HOSTS_ASKED_MAX) {
            let enough = hosts.len() >= HOSTS_WANTED;
            if enough && hosts.last().is_some_and(|last| last.preference < preference) {
                break;
            }
            match self.learn(&name).await {
                Learned::Usable(addresses, until) => {
                    valid_until = valid_until.min(until);
                    hosts.push(RouteHost { name: name.as_str().into(), preference, addresses });
                }
                Learned::Ours => {
                    // Ourselves and everything that isn't better would only come back (RFC 5321 section 5.1).
                    hosts.retain(|host| host.preference < preference);
                    ours = Some(name);
                    break;
                }
                Learned::Refused => refusals += 1,
                Learned::Missing => {}
                Learned::Unknown(cause) => unknown = Some(format!("{name}: {cause}")),
            }
        }
        if !hosts.is_empty() {
            return Ok(Hosts { destination, hosts, valid_until });
        }
        Err(match (ours, unknown) {
            (_, Some(cause)) => RouteError::temporary(
                (4, 4, 3),
                format!("looking up the addresses of the MX hosts of {domain} failed: {cause}"),
            ),
            (Some(_), None) => loops(domain),
            (None, None) if refusals > 0 => refused(domain),
            (None, None) => {
                RouteError::permanent((5, 4, 4), format!("none of the MX hosts of {domain} has an address"))
            }
        })
    }

    /// The addresses of a name with the time until which they hold, of whatever network.
    pub(super) async fn addresses(&self, name: &Domain) -> Result<(Vec<IpAddr>, Instant), LookupError> {
        let of = |family, wanted: bool| async move {
            if wanted { Some(self.lookup.addresses(name, family).await) } else { None }
        };
        let (v6, v4) = tokio::join!(
            of(Family::Ipv6, self.family != AddressFamily::Ipv4),
            of(Family::Ipv4, self.family != AddressFamily::Ipv6)
        );
        let mut found: Option<(Vec<IpAddr>, Instant)> = None;
        let mut failure = LookupError::NoRecords;
        for answer in [v6, v4].into_iter().flatten() {
            match answer {
                Ok(answer) => {
                    let (addresses, until) = found.get_or_insert((Vec::new(), answer.valid_until));
                    addresses.extend(answer.records);
                    *until = answer.valid_until.min(*until);
                }
                Err(LookupError::NoDomain | LookupError::NoRecords) => {}
                // Nothing is known of one family: without the other that is no reason to give up.
                Err(error) => failure = error,
            }
        }
        found.ok_or(failure)
    }

    async fn learn(&self, host: &Domain) -> Learned {
        if host == self.host_name {
            return Learned::Ours;
        }
        match self.addresses(host).await {
            Ok((addresses, until)) => self.judge(addresses, until),
            Err(LookupError::NoDomain | LookupError::NoRecords) => Learned::Missing,
            Err(error) => Learned::Unknown(error.to_string()),
        }
    }

    fn judge(&self, mut addresses: Vec<IpAddr>, until: Instant) -> Learned {
        let mut ours = false;
        addresses.retain(|ip| match self.reach.verdict(*ip) {
            Verdict::Allowed => true,
            Verdict::Refused => false,
            Verdict::Ours => {
                ours = true;
                false
            }
        });
        match (ours, addresses.is_empty()) {
            (true, _) => Learned::Ours,
            (false, true) => Learned::Refused,
            (false, false) => Learned::Usable(addresses, until),
        }
    }
}

/// The records that name a host. Only a null MX: the domain takes no mail (RFC 7505 section 3); beside others it is a
/// mistake, and the others count.
fn usable(records: Vec<Mx>, domain: &Domain) -> Result<Vec<(u16, Domain)>, RouteError> {
    let only_null = records.iter().all(|record| record.exchange == Exchange::Null);
    let mut odd = None;
    let mut exchanges = Vec::with_capacity(records.len());
    for record in records {
        match record.exchange {
            Exchange::Host(name) => exchanges.push((record.preference, name)),
            Exchange::Unusable(text) => odd = Some(text),
            Exchange::Null => {}
        }
    }
    if only_null {
        return Err(RouteError::permanent(
            (5, 1, 10),
            format!("the domain {domain} takes no mail (null MX)"),
        ));
    }
    match (exchanges.is_empty(), odd) {
        (true, Some(text)) => {
            Err(RouteError::permanent((5, 4, 4), format!("the MX of {domain} is no host name: {text}")))
        }
        _ => Ok(exchanges),
    }
}

/// The set of MX hosts as one name, the same for all domains that name the same hosts, whatever their preferences: sorted, and
/// joined by a sign that is in no host name and doesn't part lists in settings. Of a set with a long name are left the first hosts
/// and a mark that tells it from all others.
fn destination(exchanges: &[(u16, Domain)]) -> Arc<str> {
    let mut names: Vec<&str> = exchanges.iter().map(|(_, name)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let whole = names.join("+");
    if whole.len() <= DESTINATION_OCTETS_MAX {
        return whole.into();
    }
    let mut short = String::new();
    let mut left = names.len();
    while let Some(name) = names.get(names.len() - left)
        && short.len() + name.len() < DESTINATION_OCTETS_MAX
    {
        short.push_str(name);
        short.push('+');
        left -= 1;
    }
    let _ = write!(short, "and-{left}-more-");
    for octet in &digest(&SHA256, whole.as_bytes()).as_ref()[..16] {
        let _ = write!(short, "{octet:02x}");
    }
    short.into()
}

fn loops(domain: &Domain) -> RouteError {
    RouteError::permanent((5, 4, 6), format!("mail for {domain} would come back to this host"))
}

fn refused(domain: &Domain) -> RouteError {
    RouteError::permanent(
        (5, 4, 4),
        format!("the mail servers of {domain} have only addresses that mail is never sent to"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<T: AsRef<str>>(hosts: &[(u16, T)]) -> String {
        let exchanges: Vec<(u16, Domain)> =
            hosts.iter().map(|(preference, host)| (*preference, host.as_ref().parse().unwrap())).collect();
        destination(&exchanges).to_string()
    }

    #[test]
    fn a_destination_is_its_hosts_in_whatever_order_and_preference() {
        assert_eq!(of(&[(10, "b.test"), (20, "A.test"), (30, "b.test")]), "a.test+b.test");
        assert_eq!(of(&[(0, "a.test"), (0, "b.test")]), "a.test+b.test");
        assert_eq!(of(&[(0, "a.test")]), "a.test");
    }

    #[test]
    fn the_name_of_many_hosts_is_bounded_and_still_theirs_alone() {
        let hosts = |range: std::ops::Range<u32>| {
            let hosts: Vec<_> = range.map(|number| (10, format!("mx{number:03}.d1.test"))).collect();
            of(&hosts)
        };
        let (some, more) = (hosts(0..100), hosts(0..101));
        assert!(some.starts_with("mx000.d1.test+mx001.d1.test+"), "{some}");
        assert!(some.contains("+and-86-more-"), "{some}");
        assert!(some.len() < 300, "{} octets", some.len());
        assert_ne!(some, more);
        assert_eq!(some, hosts(0..100));
        // The first host alone is too long to be shown beside the mark.
        let label = "a".repeat(63);
        let long =
            [(1, format!("{label}.{label}.{label}.test")), (1, format!("b.{label}.{label}.{label}.test"))];
        assert!(of(&long).len() < 300);
        assert_eq!(of(&long[..1]), long[0].1);
    }
}
