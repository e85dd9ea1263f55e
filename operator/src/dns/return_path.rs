//! Where reports on undelivered mail go.

use std::net::IpAddr;

use super::lookup::{Lookup, LookupError, Mx};
use super::name::Name;
use super::report::{Finding, Purpose, Record, RecordType};

/// Looks at the MX records of a return path's domain. `hosts` are those that take reports; when there are none, any host does
/// that has an address: many receivers refuse mail whose return path leads nowhere.
pub async fn check(return_path: &Name, hosts: &[Name], lookup: &impl Lookup) -> Record {
    let expected = hosts.first().map_or_else(String::new, |host| format!("10 {host}"));
    let found = lookup.exchanges(return_path).await;
    let exchanges = found.as_ref().map(|answer| answer.records.as_slice()).unwrap_or_default();
    let observed = exchanges.iter().map(shown).collect();
    let finding = match &found {
        Ok(answer) => judge(return_path, hosts, &answer.records, lookup).await,
        Err(error) if hosts.is_empty() && error.is_absence() => without_mx(return_path, lookup).await,
        Err(error) => Finding::without_answer(error, RecordType::Mx, return_path, &expected),
    };
    let (record_type, name, purpose) = (RecordType::Mx, return_path.clone(), Purpose::ReturnPath);
    Record { record_type, name, expected, purpose, required: true, observed, finding }
}

fn shown(mx: &Mx) -> String {
    let exchange = mx.exchange.as_ref().map_or_else(|| ".".to_owned(), Name::to_string);
    format!("{} {exchange}", mx.preference)
}

fn publish(return_path: &Name, hosts: &[Name]) -> String {
    match hosts.first() {
        Some(host) => format!("publish MX \"10 {host}\" at {return_path}"),
        None => format!("publish MX at {return_path} with the host that takes its mail"),
    }
}

async fn judge(return_path: &Name, hosts: &[Name], exchanges: &[Mx], lookup: &impl Lookup) -> Finding {
    let publish = publish(return_path, hosts);
    let there: Vec<&Name> = exchanges.iter().filter_map(|mx| mx.exchange.as_ref()).collect();
    if there.is_empty() {
        let reason = format!("{return_path} says that it takes no mail (a null MX); {publish} instead");
        return Finding::mismatch(reason);
    }
    if !hosts.is_empty()
        && let Some(other) = there.iter().find(|host| !hosts.contains(host))
    {
        let reason =
            format!("reports to {return_path} go to {other}, which doesn't take them; {publish} alone");
        return Finding::mismatch(reason);
    }
    let mut failure = None;
    for host in &there {
        match addresses(host, lookup).await {
            Ok(addresses) if addresses.is_empty() => {
                let reason =
                    format!("{host}, the MX host of {return_path}, has no A or AAAA record; publish one");
                return Finding::mismatch(reason);
            }
            Ok(_) => {}
            Err(why) => {
                failure = failure.or(Some(format!("the addresses of {host} can't be looked up: {why}")))
            }
        }
    }
    match failure {
        Some(why) => Finding::unknown(why),
        None => Finding::found(format!("reports to {return_path} go to {}", listed(&there))),
    }
}

/// Without MX records the domain itself is the host (RFC 5321 section 5.1).
async fn without_mx(return_path: &Name, lookup: &impl Lookup) -> Finding {
    match addresses(return_path, lookup).await {
        Ok(found) if found.is_empty() => {
            let publish = publish(return_path, &[]);
            let reason = format!("{return_path} has no MX, A or AAAA record; {publish}");
            Finding::missing(reason)
        }
        Ok(_) => {
            Finding::found(format!("{return_path} has no MX record, and takes reports at its own address"))
        }
        Err(why) => Finding::unknown(format!("the addresses of {return_path} can't be looked up: {why}")),
    }
}

/// The addresses of a host; an empty list only when it is known that there are none.
pub(super) async fn addresses(host: &Name, lookup: &impl Lookup) -> Result<Vec<IpAddr>, String> {
    let mut addresses = Vec::new();
    let mut failure = None;
    let ipv4 = lookup.ipv4(host).await.map(|answer| answer.records.into_iter().map(IpAddr::from).collect());
    let ipv6 = lookup.ipv6(host).await.map(|answer| answer.records.into_iter().map(IpAddr::from).collect());
    for found in [ipv4, ipv6] {
        let found: Result<Vec<IpAddr>, LookupError> = found;
        match found {
            Ok(found) => addresses.extend(found),
            Err(LookupError::Failed(why)) => failure = Some(why),
            Err(_) => {}
        }
    }
    match failure {
        Some(why) if addresses.is_empty() => Err(why),
        _ => Ok(addresses),
    }
}

fn listed(names: &[&Name]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::memory::{Memory, name};
    use crate::dns::report::State;

    const AT: &str = "bounces.example.com";

    async fn looked(dns: &Memory, hosts: &[&str]) -> (State, String) {
        let hosts: Vec<Name> = hosts.iter().map(|host| name(host)).collect();
        let finding = check(&name(AT), &hosts, dns).await.finding;
        (finding.state, finding.reason)
    }

    #[tokio::test]
    async fn reports_must_reach_a_host_that_takes_them() {
        let ours = || Memory::default().mx(AT, 10, "in.example.net");
        let there = || ours().address("in.example.net", "192.0.2.1");
        for (dns, state, word) in [
            (there(), State::Found, "go to in.example.net."),
            (
                ours(),
                State::Mismatch,
                "in.example.net., the MX host of bounces.example.com., has no A or AAAA",
            ),
            (ours().failing("in.example.net"), State::Unknown, "timed out"),
            (there().mx(AT, 20, "other.example"), State::Mismatch, "go to other.example., which"),
            (Memory::default().mx(AT, 0, "."), State::Mismatch, "a null MX"),
            (Memory::default(), State::Missing, "publish MX \"10 in.example.net.\""),
            (Memory::default().address(AT, "192.0.2.1"), State::Missing, "has no MX record"),
            (Memory::default().failing(AT), State::Unknown, "timed out"),
        ] {
            let (found, reason) = looked(&dns, &["in.example.net"]).await;
            assert!(found == state && reason.contains(word), "{found} {reason}");
        }
    }

    #[tokio::test]
    async fn any_host_does_where_none_is_ours() {
        let elsewhere =
            Memory::default().mx(AT, 10, "mx.example.org").address("mx.example.org", "2001:db8::1");
        assert_eq!(looked(&elsewhere, &[]).await.0, State::Found);
        assert_eq!(looked(&Memory::default().address(AT, "192.0.2.1"), &[]).await.0, State::Found);
        assert_eq!(looked(&Memory::default(), &[]).await.0, State::Missing);
        assert_eq!(looked(&Memory::default().failing(AT), &[]).await.0, State::Unknown);
    }
}
