//! What an account may do.

use mail::{AccountId, Timestamp, Unready};
use proto::accounts::v1 as wire;
use smtp::address::Domain;

/// An account's profile, checked once when it arrives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) account: AccountId,
    /// Why, when it may not send.
    pub(crate) suspended: Option<String>,
    /// None: without limit.
    pub(crate) recipients_per_day: Option<u64>,
    /// What holds for the credential beside that.
    pub(crate) own_limit: Option<OwnLimit>,
    domains: Vec<SenderDomain>,
}

/// How much may be sent with a credential.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OwnLimit {
    /// Whose recipients are counted: no account's name has a `/`.
    pub(crate) counted_as: String,
    pub(crate) recipients_per_day: u64,
}

/// A domain that mail may come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SenderDomain {
    name: Domain,
    below: Below,
    /// What it lacks, if it isn't ready to send.
    pub(crate) unready: Option<Unready>,
}

#[derive(Debug, PartialEq, Eq)]
enum Below {
    Included,
    Excluded,
}

impl Profile {
    /// The profile, unless it names no account. A domain that is none is left out: nothing can be sent from it.
    pub(crate) fn from_wire(wire: wire::Profile) -> Option<Self> {
        let account = AccountId::new(&wire.account_id)?;
        let suspended = wire.suspended.then_some(wire.suspended_reason);
        let domains = wire.domains.into_iter().filter_map(|domain| {
            let below = if domain.subdomains { Below::Included } else { Below::Excluded };
            Some(SenderDomain {
                name: domain.name.parse().ok()?,
                below,
                unready: domain.unready.map(unready),
            })
        });
        let recipients_per_day = wire.recipients_per_day;
        let own_limit = wire.credential_limit.map(|limit| OwnLimit {
            counted_as: format!("{account}/{}", limit.counted_as),
            recipients_per_day: limit.recipients_per_day,
        });
        Some(Self { account, suspended, recipients_per_day, own_limit, domains: domains.collect() })
    }

    /// The profile that accounts would give to a login of this account with these domains.
    pub(crate) fn of_account(account: wire::Account, domains: Vec<wire::Domain>) -> Option<Self> {
        let domain = |domain: wire::Domain| wire::SenderDomain {
            name: domain.name,
            subdomains: domain.subdomains,
            unready: domain.unready,
        };
        Self::from_wire(wire::Profile {
            account_id: account.id,
            name: account.name,
            suspended: account.suspended,
            suspended_reason: account.suspended_reason,
            recipients_per_day: account.effective_recipients_per_day,
            domains: domains.into_iter().map(domain).collect(),
            revision: account.revision,
            // Who administers sends without a credential.
            credential_limit: None,
        })
    }

    /// By which of the account's domains mail may come from this one: itself, or the nearest above it; none if it may not.
    pub(crate) fn sender(&self, domain: &Domain) -> Option<&SenderDomain> {
        let covers = |own: &&SenderDomain| match own.below {
            Below::Included => domain.is_at_or_below(&own.name),
            Below::Excluded => *domain == own.name,
        };
        self.domains.iter().filter(covers).max_by_key(|own| own.name.as_str().len())
    }
}

fn unready(wire: wire::Unready) -> Unready {
    let since = u64::try_from(wire.since_ms).unwrap_or_default();
    Unready::new(&wire.reason, &wire.object, Timestamp(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(domains: &[(&str, bool)]) -> Profile {
        let domains = domains.iter().map(|(name, subdomains)| wire::SenderDomain {
            name: (*name).into(),
            subdomains: *subdomains,
            unready: name.starts_with("new.").then(|| wire::Unready {
                reason: "a record is missing".into(),
                object: "SendingDomain a/b".into(),
                since_ms: 7,
            }),
        });
        Profile::from_wire(wire::Profile {
            account_id: "a1".into(),
            domains: domains.collect(),
            ..wire::Profile::default()
        })
        .unwrap()
    }

    #[test]
    fn mail_comes_from_a_domain_exactly_or_below_it_where_that_is_allowed() {
        let profile = profile(&[("exact.test", false), ("wide.test", true), ("not a domain", true)]);
        for (domain, allowed) in [
            ("exact.test", true),
            ("EXACT.test", true),
            ("below.exact.test", false),
            ("wide.test", true),
            ("a.b.wide.test", true),
            ("notwide.test", false),
            ("test", false),
        ] {
            assert_eq!(profile.sender(&domain.parse().unwrap()).is_some(), allowed, "{domain}");
        }
    }

    #[test]
    fn a_domain_is_as_ready_as_the_nearest_that_it_may_send_by() {
        let profile = profile(&[
            ("new.wide.test", true),
            ("wide.test", true),
            ("new.test", true),
            ("old.new.test", true),
        ]);
        for (domain, since) in [
            ("wide.test", None),
            ("new.wide.test", Some(Timestamp(7))),
            ("a.new.wide.test", Some(Timestamp(7))),
            ("anew.wide.test", None),
            ("new.test", Some(Timestamp(7))),
            ("a.old.new.test", None),
        ] {
            let own = profile.sender(&domain.parse().unwrap()).unwrap();
            assert_eq!(own.unready.as_ref().map(Unready::since), since, "{domain}");
        }
    }

    #[test]
    fn a_profile_without_an_account_is_none() {
        assert_eq!(Profile::from_wire(wire::Profile::default()), None);
    }
}
