//! `check_host()` (RFC 7208 section 4).

use std::future::Future;
use std::pin::Pin;

use super::addresses;
use super::macros::{MacroString, Place, Values};
use super::record::{Directive, Mechanism, Qualifier, Record, is_spf};
use super::{Client, Outcome, Verdict};
use crate::dns::lookup::{Found, Lookup, LookupError};
use crate::dns::name::Name;

/// Terms that look something up (section 4.6.4).
const LOOKUPS_MAX: u32 = 10;
/// Look-ups that find nothing.
const VOID_LOOKUPS_MAX: u32 = 2;
/// MX records of a term, and PTR records of a client, whose addresses are looked up.
const HOSTS_MAX: usize = 10;

/// Whether a client may send for the domain of its MAIL FROM, or of its HELO where that is empty.
pub async fn check_host(lookup: &impl Lookup, client: &Client<'_>) -> Outcome {
    let (local_part, domain) = client.mail_from.rsplit_once('@').unwrap_or(("", client.mail_from));
    let domain = if domain.is_empty() { client.helo } else { domain };
    let local_part = if local_part.is_empty() { "postmaster" } else { local_part };
    let mut check = Check {
        lookup,
        client: Client { address: client.address.to_canonical(), ..*client },
        local_part,
        sender_domain: domain,
        lookups: 0,
        void_lookups: 0,
    };
    let ended = match domain.parse::<Name>() {
        Ok(name) if name.parent().is_some() && !domain.starts_with('[') => check.domain(name).await,
        _ => Err(Stop(Verdict::None, format!("\"{}\" is no domain name", domain.escape_default()))),
    };
    let (verdict, reason, explanation) = match ended {
        Ok(end) => {
            let explanation = match &end.explanation {
                Some((at, domain)) if end.verdict == Verdict::Fail => check.explanation(at, domain).await,
                _ => None,
            };
            (end.verdict, end.reason, explanation)
        }
        Err(Stop(verdict, reason)) => (verdict, reason, None),
    };
    Outcome { verdict, reason, explanation, lookups: check.lookups }
}

/// How the evaluation of a record ended.
struct End {
    verdict: Verdict,
    reason: String,
    /// Where to look for what the domain says about a failure, and the domain that says so.
    explanation: Option<(MacroString, Name)>,
}

/// Ends all evaluation.
struct Stop(Verdict, String);

/// One check, with what it may still look up.
struct Check<'a, L> {
    lookup: &'a L,
    client: Client<'a>,
    local_part: &'a str,
    sender_domain: &'a str,
    lookups: u32,
    void_lookups: u32,
}

type Evaluated<'a> = Pin<Box<dyn Future<Output = Result<End, Stop>> + Send + 'a>>;

impl<L: Lookup> Check<'_, L> {
    /// Evaluates a domain's record. [`Verdict::None`] when there is none.
    fn domain(&mut self, domain: Name) -> Evaluated<'_> {
        Box::pin(async move {
            let record = self.record(&domain).await?;
            for directive in &record.directives {
                if self.matches(directive, &domain).await? {
                    let verdict = match directive.qualifier {
                        Qualifier::Pass => Verdict::Pass,
                        Qualifier::Fail => Verdict::Fail,
                        Qualifier::SoftFail => Verdict::SoftFail,
                        Qualifier::Neutral => Verdict::Neutral,
                    };
                    let reason = format!("{} of {domain} matches", directive.text);
                    let explanation = record.explanation.map(|at| (at, domain));
                    return Ok(End { verdict, reason, explanation });
                }
            }
            let Some(redirect) = &record.redirect else {
                let reason = format!("nothing in the record of {domain} matches");
                return Ok(End { verdict: Verdict::Neutral, reason, explanation: None });
            };
            self.count("redirect")?;
            let target = self.target(Some(redirect), &domain).await;
            let Some(target) = target else {
                return Err(Stop(
                    Verdict::PermError,
                    format!("redirect= of {domain} leads to no domain name"),
                ));
            };
            match self.domain(target.clone()).await {
                Err(Stop(Verdict::None, _)) => {
                    let reason = format!("redirect= of {domain} leads to {target}, which has no SPF record");
                    Err(Stop(Verdict::PermError, reason))
                }
                ended => ended,
            }
        })
    }

    /// The one record of a domain (section 4.5).
    async fn record(&self, domain: &Name) -> Result<Record, Stop> {
        let texts = match self.lookup.text(domain).await {
            Ok(answer) => answer.records,
            Err(LookupError::Failed(why)) => {
                return Err(Stop(Verdict::TempError, format!("TXT of {domain}: {why}")));
            }
            Err(_) => Vec::new(),
        };
        let mut records = texts.iter().filter(|text| is_spf(text));
        match (records.next(), records.next()) {
            (None, _) => Err(Stop(Verdict::None, format!("{domain} has no SPF record"))),
            (Some(record), None) => Record::parse(record).map_err(|error| {
                Stop(Verdict::PermError, format!("the SPF record of {domain} is invalid: {error}"))
            }),
            (Some(_), Some(_)) => {
                Err(Stop(Verdict::PermError, format!("{domain} has more than one SPF record")))
            }
        }
    }

    async fn matches(&mut self, directive: &Directive, domain: &Name) -> Result<bool, Stop> {
        let target = match &directive.mechanism {
            Mechanism::All => return Ok(true),
            Mechanism::Ip4(network, prefix) => {
                return Ok(addresses::within(self.client.address, (*network).into(), *prefix));
            }
            Mechanism::Ip6(network, prefix) => {
                return Ok(addresses::within(self.client.address, (*network).into(), *prefix));
            }
            Mechanism::Include(target) | Mechanism::Exists(target) => Some(target),
            Mechanism::A(target, _) | Mechanism::Mx(target, _) | Mechanism::Ptr(target) => target.as_ref(),
        };
        self.count(&directive.text)?;
        let target = self.target(target, domain).await;
        // What no query can be made for doesn't exist (section 4.8).
        let Some(target) = target else {
            return match directive.mechanism {
                Mechanism::Include(_) => {
                    let reason = format!("{} of {domain} leads to no domain name", directive.text);
                    Err(Stop(Verdict::PermError, reason))
                }
                _ => Ok(false),
            };
        };
        match &directive.mechanism {
            Mechanism::Include(_) => self.include(directive, target, domain).await,
            Mechanism::A(_, prefixes) => {
                let found = self.lookup.addresses_like(&target, self.client.address).await;
                let found = self.needed("address", &target, found)?;
                Ok(addresses::any_within(self.client.address, &found, *prefixes))
            }
            Mechanism::Mx(_, prefixes) => {
                let found = self.lookup.exchanges(&target).await;
                let found = self.needed("MX", &target, found)?;
                // Receivers try the hosts in any order, so that one too many can spoil the record whichever matches.
                if found.len() > HOSTS_MAX {
                    let reason = format!("{target} has more than {HOSTS_MAX} MX records");
                    return Err(Stop(Verdict::PermError, reason));
                }
                for host in found.into_iter().filter_map(|mx| mx.exchange) {
                    let found = self.lookup.addresses_like(&host, self.client.address).await;
                    let found = self.needed("address", &host, found)?;
                    if addresses::any_within(self.client.address, &found, *prefixes) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Mechanism::Exists(_) => {
                let found = self.lookup.ipv4(&target).await;
                Ok(!self.needed("A", &target, found)?.is_empty())
            }
            Mechanism::Ptr(_) => {
                let names = self.validated_names().await;
                // A client without a name is the client's doing, and still counts (section 4.6.4).
                if names.is_none() {
                    self.count_void(&directive.text)?;
                }
                Ok(names.into_iter().flatten().any(|name| name.is_at_or_below(&target)))
            }
            Mechanism::All | Mechanism::Ip4(..) | Mechanism::Ip6(..) => Ok(false),
        }
    }

    async fn include(&mut self, directive: &Directive, target: Name, domain: &Name) -> Result<bool, Stop> {
        match self.domain(target.clone()).await {
            Ok(end) => Ok(end.verdict == Verdict::Pass),
            Err(Stop(Verdict::None, _)) => {
                let reason = format!("{} of {domain}: {target} has no SPF record", directive.text);
                Err(Stop(Verdict::PermError, reason))
            }
            Err(stop) => Err(stop),
        }
    }

    /// Takes one term from those that may look something up.
    fn count(&mut self, term: &str) -> Result<(), Stop> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX {
            let reason = format!("it takes more than {LOOKUPS_MAX} look-ups; {term} is one too many");
            return Err(Stop(Verdict::PermError, reason));
        }
        Ok(())
    }

    fn count_void(&mut self, what: &str) -> Result<(), Stop> {
        self.void_lookups += 1;
        if self.void_lookups > VOID_LOOKUPS_MAX {
            let reason = format!("more than {VOID_LOOKUPS_MAX} look-ups find nothing; the last was {what}");
            return Err(Stop(Verdict::PermError, reason));
        }
        Ok(())
    }

    /// What a mechanism looked up; nothing is a void look-up.
    fn needed<T>(&mut self, kind: &str, name: &Name, found: Found<T>) -> Result<Vec<T>, Stop> {
        match found {
            Ok(answer) => Ok(answer.records),
            Err(LookupError::Failed(why)) => {
                Err(Stop(Verdict::TempError, format!("{kind} of {name}: {why}")))
            }
            Err(_) => self.count_void(&format!("{kind} of {name}")).map(|()| Vec::new()),
        }
    }

    /// The name that a term is about; nothing when no query can be made for it.
    async fn target(&self, target: Option<&MacroString>, domain: &Name) -> Option<Name> {
        let Some(target) = target else { return Some(domain.clone()) };
        let validated = self.validated_name(target, domain).await;
        target.expand_name(&self.values(domain, validated.as_ref()))
    }

    fn values<'b>(&'b self, domain: &'b Name, validated: Option<&'b Name>) -> Values<'b> {
        Values {
            address: self.client.address,
            local_part: self.local_part,
            sender_domain: self.sender_domain,
            domain: domain.as_str(),
            helo: self.client.helo,
            receiver: self.client.receiver,
            validated_name: validated.map(Name::as_str),
            now: self.client.now,
        }
    }

    /// What `%{p}` stands for, where a string has it: the domain itself, else a name below it, else any (section 7.3).
    async fn validated_name(&self, string: &MacroString, domain: &Name) -> Option<Name> {
        if !string.needs_validated_name() {
            return None;
        }
        let names = self.validated_names().await?;
        let best = names.iter().find(|name| *name == domain);
        let best = best.or_else(|| names.iter().find(|name| name.is_at_or_below(domain)));
        best.or_else(|| names.first()).cloned()
    }

    /// The names of the client that lead back to it (section 5.5); an error is as good as no name. Nothing when it is known to
    /// have none at all.
    async fn validated_names(&self) -> Option<Vec<Name>> {
        let pointers = match self.lookup.pointers(&Name::of_address(self.client.address)).await {
            Ok(answer) => answer.records,
            Err(LookupError::Failed(_)) => return Some(Vec::new()),
            Err(_) => return None,
        };
        let mut names = Vec::new();
        for name in pointers.into_iter().take(HOSTS_MAX) {
            let found = self.lookup.addresses_like(&name, self.client.address).await;
            if found.is_ok_and(|answer| answer.records.contains(&self.client.address)) {
                names.push(name);
            }
        }
        Some(names)
    }

    /// The domain's own words about a failure (section 6.2). Whatever is wrong with them, the failure stands.
    async fn explanation(&self, at: &MacroString, domain: &Name) -> Option<String> {
        let name = self.target(Some(at), domain).await?;
        let answer = self.lookup.text(&name).await.ok()?;
        let [text] = answer.records.as_slice() else { return None };
        let text = std::str::from_utf8(&text.0).ok()?;
        let string = MacroString::parse(text, Place::Explanation).ok()?;
        let validated = self.validated_name(&string, domain).await;
        Some(string.expand(&self.values(domain, validated.as_ref())))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::dns::memory::Memory;

    async fn outcome(dns: &Memory, address: &str) -> Outcome {
        let client = Client {
            address: address.parse().unwrap(),
            helo: "mail.example.org",
            mail_from: "bounces@example.org",
            receiver: "mx.example.net",
            now: UNIX_EPOCH,
        };
        check_host(dns, &client).await
    }

    #[tokio::test]
    async fn the_reason_names_the_term_and_its_record() {
        let dns = Memory::default()
            .txt("example.org", "v=spf1 include:spf.example.net -all")
            .txt("spf.example.net", "v=spf1 ip4:192.0.2.0/28 ~all");
        let passed = outcome(&dns, "192.0.2.7").await;
        assert_eq!(
            (passed.verdict, passed.reason.as_str(), passed.lookups),
            (Verdict::Pass, "include:spf.example.net of example.org. matches", 1)
        );
        let failed = outcome(&dns, "192.0.2.70").await;
        assert_eq!((failed.verdict, failed.reason.as_str()), (Verdict::Fail, "-all of example.org. matches"));
    }

    #[tokio::test]
    async fn a_failed_look_up_is_no_absence() {
        let dns = Memory::default().failing("example.org");
        let error = outcome(&dns, "192.0.2.7").await;
        assert_eq!(
            (error.verdict, error.reason.as_str()),
            (Verdict::TempError, "TXT of example.org.: it timed out")
        );
        assert_eq!(outcome(&Memory::default(), "192.0.2.7").await.verdict, Verdict::None);
    }

    #[tokio::test]
    async fn an_ipv6_client_of_ipv4_hosts_costs_void_look_ups() {
        let dns = Memory::default()
            .txt(
                "example.org",
                "v=spf1 a:a.example.net a:b.example.net a:c.example.net ip6:2001:db8::/32 -all",
            )
            .address("a.example.net", "192.0.2.1")
            .address("b.example.net", "192.0.2.2")
            .address("c.example.net", "192.0.2.3");
        assert_eq!(outcome(&dns, "192.0.2.3").await.verdict, Verdict::Pass);
        let void = outcome(&dns, "2001:db8::1").await;
        assert_eq!(
            (void.verdict, void.reason.as_str()),
            (Verdict::PermError, "more than 2 look-ups find nothing; the last was address of c.example.net.")
        );
    }

    #[tokio::test]
    async fn hosts_are_found_through_aliases_and_names_that_lead_back() {
        let dns = Memory::default()
            .cname("example.org", "example.net")
            .txt("example.net", "v=spf1 mx:in.example.net ptr:example.com -all")
            .mx("in.example.net", 10, "mx.example.net")
            .address("mx.example.net", "192.0.2.1")
            .ptr("192.0.2.2", "host.example.com")
            .ptr("192.0.2.3", "host.example.com")
            .address("host.example.com", "192.0.2.2");
        assert_eq!(outcome(&dns, "192.0.2.1").await.verdict, Verdict::Pass);
        assert_eq!(outcome(&dns, "192.0.2.2").await.verdict, Verdict::Pass);
        assert_eq!(outcome(&dns, "192.0.2.3").await.verdict, Verdict::Fail);
    }

    #[tokio::test]
    async fn the_null_sender_is_judged_by_helo() {
        let dns = Memory::default().txt("mail.example.org", "v=spf1 ip4:192.0.2.7 -all");
        let client = Client {
            address: "192.0.2.7".parse().unwrap(),
            helo: "mail.example.org",
            mail_from: "",
            receiver: "mx.example.net",
            now: UNIX_EPOCH,
        };
        assert_eq!(check_host(&dns, &client).await.verdict, Verdict::Pass);
    }
}
