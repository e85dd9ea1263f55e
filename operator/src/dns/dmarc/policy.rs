//! Whether a domain has the policy that it should have, and a return path that passes by it.

use super::record::{Alignment, Policy, Record as DmarcRecord};
use super::walk::{Walk, walk};
use crate::dns::lookup::{Lookup, LookupError, Text};
use crate::dns::name::{Name, NameError};
use crate::dns::report::{Finding, Purpose, Record, RecordType};

/// Looks at the policy that holds for a domain.
///
/// # Errors
/// [`NameError`] when there can't be a record of the domain.
pub async fn check(domain: &Name, at_least: Policy, lookup: &impl Lookup) -> Result<Record, NameError> {
    let name = domain.below("_dmarc")?;
    let expected = format!("v=DMARC1; p={at_least}");
    let (observed, finding) = match walk(lookup, domain).await {
        Ok(walked) => judge(&name, &expected, at_least, &walked),
        Err(error) => (Vec::new(), Finding::unknown(error.to_string())),
    };
    let record_type = RecordType::Txt;
    Ok(Record { record_type, name, expected, purpose: Purpose::Dmarc, required: true, observed, finding })
}

fn judge(name: &Name, expected: &str, at_least: Policy, walked: &Walk) -> (Vec<String>, Finding) {
    let publish = format!("publish TXT \"{expected}\" at {name}");
    let unusable = walked.unusable.iter().map(Text::shown);
    match walked.unusable.as_slice() {
        [] => {}
        [one] => {
            let why = DmarcRecord::parse(one).err().map_or_else(String::new, |error| format!(": {error}"));
            let reason = format!("the record of {name} is invalid{why}; {publish} instead");
            return (unusable.collect(), Finding::mismatch(reason));
        }
        several => {
            let reason =
                format!("{name} has {} DMARC records, so that receivers use none; leave one", several.len());
            return (unusable.collect(), Finding::mismatch(reason));
        }
    }
    let Some((at, record)) = walked.applied() else {
        let reason = format!("neither {name} nor a domain above it has a DMARC record; {publish}");
        return (Vec::new(), Finding::missing(reason));
    };
    let inherited = *at != walked.domain;
    let said = if inherited { record.subdomain_policy.unwrap_or(record.policy) } else { record.policy };
    let policy = if record.testing { said.milder() } else { said };
    let whose = if inherited { format!("by the record of _dmarc.{at}") } else { format!("by {name}") };
    let testing = if record.testing { format!(" ({said}, made milder by t=y)") } else { String::new() };
    let finding = if policy < at_least {
        let reason = format!("the policy {whose} is {policy}{testing}, and should be {at_least}; {publish}");
        Finding::mismatch(reason)
    } else {
        Finding::found(format!("the policy {whose} is {policy}{testing}"))
    };
    (vec![format!("p={policy} ({whose})")], finding)
}

/// Whether mail whose `From` is of `domain` passes DMARC by SPF, with this return path.
pub async fn alignment(domain: &Name, return_path: &Name, lookup: &impl Lookup) -> Finding {
    match aligned(domain, return_path, lookup).await {
        Ok(finding) => finding,
        Err(error) => Finding::unknown(error.to_string()),
    }
}

async fn aligned(domain: &Name, return_path: &Name, lookup: &impl Lookup) -> Result<Finding, LookupError> {
    if domain == return_path {
        return Ok(Finding::found(format!("the return path is of {domain} itself")));
    }
    let walked = walk(lookup, domain).await?;
    if walked.applied().is_some_and(|(_, record)| record.spf_alignment == Alignment::Strict) {
        let reason = format!(
            "the DMARC record says aspf=s, so that a return path of {return_path} doesn't count for {domain}; \
             take the aspf=s out, or let the return path be of {domain}"
        );
        return Ok(Finding::mismatch(reason));
    }
    let of_domain = walked.organizational_domain();
    let of_return_path = walk(lookup, return_path).await?.organizational_domain();
    if of_domain == of_return_path {
        return Ok(Finding::found(format!("{return_path} and {domain} are both of {of_domain}")));
    }
    let publish = match common(domain, return_path) {
        Some(common) => format!("publish a DMARC record at _dmarc.{common}, which is above both"),
        None => format!("take a return path below {domain}"),
    };
    let reason = format!(
        "{return_path} is of {of_return_path}, {domain} of {of_domain}: the return path doesn't count for DMARC; {publish}"
    );
    Ok(Finding::mismatch(reason))
}

/// The lowest domain above both that isn't a top-level one.
fn common(one: &Name, other: &Name) -> Option<Name> {
    let mut above = Some(one.clone());
    while let Some(candidate) = above {
        if other.is_at_or_below(&candidate) {
            return candidate.parent().is_some().then_some(candidate);
        }
        above = candidate.parent();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::memory::{Memory, name};
    use crate::dns::report::State;

    async fn policy(dns: &Memory, domain: &str, at_least: Policy) -> (State, String) {
        let finding = check(&name(domain), at_least, dns).await.unwrap().finding;
        (finding.state, finding.reason)
    }

    #[tokio::test]
    async fn a_policy_may_be_stricter_and_inherited_but_not_milder() {
        let dns = Memory::default()
            .txt("_dmarc.example.com", "v=DMARC1; p=reject; sp=quarantine")
            .txt("_dmarc.trial.example.com", "v=DMARC1; p=quarantine; t=y");
        assert_eq!(policy(&dns, "example.com", Policy::Quarantine).await.0, State::Found);
        let (state, reason) = policy(&dns, "mail.example.com", Policy::Reject).await;
        assert_eq!(state, State::Mismatch);
        assert_eq!(
            reason,
            "the policy by the record of _dmarc.example.com. is quarantine, and should be reject; \
             publish TXT \"v=DMARC1; p=reject\" at _dmarc.mail.example.com."
        );
        assert_eq!(policy(&dns, "mail.example.com", Policy::Quarantine).await.0, State::Found);
        let (state, reason) = policy(&dns, "trial.example.com", Policy::Quarantine).await;
        assert!(state == State::Mismatch && reason.contains("t=y"), "{reason}");
    }

    #[tokio::test]
    async fn absence_damage_and_failure_are_told_apart() {
        let dns = Memory::default()
            .txt("_dmarc.twice.example", "v=DMARC1; p=none")
            .txt("_dmarc.twice.example", "v=DMARC1; p=none")
            .txt("_dmarc.wrong.example", "v=DMARC1; p=maybe")
            .failing("_dmarc.away.example");
        for (domain, state, word) in [
            (
                "nothing.example",
                State::Missing,
                "publish TXT \"v=DMARC1; p=none\" at _dmarc.nothing.example.",
            ),
            ("twice.example", State::Mismatch, "2 DMARC records"),
            ("wrong.example", State::Mismatch, "p=maybe is no policy"),
            ("away.example", State::Unknown, "it timed out"),
        ] {
            let (found, reason) = policy(&dns, domain, Policy::None).await;
            assert!(found == state && reason.contains(word), "{domain}: {found} {reason}");
        }
    }

    #[tokio::test]
    async fn a_return_path_counts_within_the_organisation() {
        let dns = Memory::default()
            .txt("_dmarc.example.com", "v=DMARC1; p=none")
            .txt("_dmarc.strict.example", "v=DMARC1; p=none; aspf=s")
            .txt("_dmarc.shop.example.net", "v=DMARC1; p=none")
            .failing("_dmarc.away.example");
        for (domain, return_path, state) in [
            ("example.com", "bounces.example.com", State::Found),
            ("shop.example.com", "bounces.example.com", State::Found),
            ("example.com", "example.org", State::Mismatch),
            ("strict.example", "bounces.strict.example", State::Mismatch),
            ("strict.example", "strict.example", State::Found),
            ("shop.example.net", "bounces.example.net", State::Mismatch),
            ("example.com", "away.example", State::Unknown),
        ] {
            let finding = alignment(&name(domain), &name(return_path), &dns).await;
            assert_eq!(finding.state, state, "{domain}, {return_path}: {}", finding.reason);
        }
    }
}
