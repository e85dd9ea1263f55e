//! What a sending domain should have, and all of it looked at.

use std::time::SystemTime;

use futures_util::future::{join_all, join3, join4, join5};
use smtp::address::Domain;

use super::dkim::Key;
use super::dmarc::record::Policy;
use super::lookup::Lookup;
use super::mta_sts::Fetch;
use super::name::{Name, NameError};
use super::report::{Record, Report};
use super::spf::Sender;
use super::{dkim, dmarc, mta_sts, return_path, reverse, spf, tls_rpt};

/// What a sending domain should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectations {
    /// The domain of the `From` field.
    pub domain: Domain,
    /// Its keys that sign, or are to.
    pub keys: Vec<Key>,
    /// The domain of MAIL FROM.
    pub return_path: Domain,
    /// The hosts that take reports for the return path; empty when they are none of ours.
    pub report_hosts: Vec<Name>,
    /// The hosts that send.
    pub senders: Vec<Sender>,
    /// The SPF term that lets all of them send, such as `include:spf.example.net`.
    pub spf_term: String,
    /// What the domain's policy should at least be.
    pub policy_at_least: Policy,
}

/// Looks at all records of a sending domain at once. Required ones come first, those that are about the domain before
/// those that are about our hosts.
///
/// # Errors
/// [`NameError`] when the domain is so long, or a selector such, that there can't be records of it.
pub async fn check(
    expectations: &Expectations,
    lookup: &impl Lookup,
    fetch: &impl Fetch,
    now: SystemTime,
) -> Result<Report, NameError> {
    let Expectations { domain, keys, return_path, report_hosts, senders, spf_term, policy_at_least } =
        expectations;
    let (domain, return_path) = (Name::from(domain), Name::from(return_path));
    let of_keys = join_all(keys.iter().map(|key| dkim::check(&domain, key, lookup)));
    let of_domain = join5(
        spf::check(&return_path, senders, spf_term, lookup, now),
        return_path::check(&return_path, report_hosts, lookup),
        dmarc::check(&domain, *policy_at_least, lookup),
        mta_sts::check(&domain, lookup, fetch),
        tls_rpt::check(&domain, lookup),
    );
    let of_senders = join_all(senders.iter().map(|sender| {
        join3(
            reverse::check_pointer(sender, lookup),
            reverse::check_ehlo(sender, lookup),
            spf::check_ehlo(sender, lookup, now),
        )
    }));
    let alignment = dmarc::alignment(&domain, &return_path, lookup);
    let (of_keys, of_domain, of_senders, return_path_alignment) =
        join4(of_keys, of_domain, of_senders, alignment).await;

    let mut records = of_keys.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (spf, return_path, dmarc, mta_sts, tls_rpt) = of_domain;
    records.extend([spf, return_path, dmarc?]);
    let mut optional = Vec::new();
    for (pointer, ehlo, spf) in of_senders {
        records.extend([pointer, ehlo]);
        optional.push(spf);
    }
    records.extend(optional);
    records.extend([mta_sts?, tls_rpt?]);
    let records = records.into_iter().map(Record::clipped).collect();
    Ok(Report { checked_at: now, records, return_path_alignment: return_path_alignment.clipped() })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::dns::memory::{Memory, name};
    use crate::dns::mta_sts::FetchError;
    use crate::dns::report::{Purpose, State};

    const KEY: &str = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    struct Nothing;

    impl Fetch for Nothing {
        async fn policy(&self, _: &Name) -> Result<Vec<u8>, FetchError> {
            Err(FetchError::Status(404))
        }
    }

    fn expectations() -> Expectations {
        Expectations {
            domain: "example.com".parse().unwrap(),
            keys: vec![Key::from_record("s1", KEY).unwrap()],
            return_path: "bounces.example.com".parse().unwrap(),
            report_hosts: vec![name("in.example.net")],
            senders: vec![Sender { address: "192.0.2.1".parse().unwrap(), ehlo: name("out.example.net") }],
            spf_term: "include:spf.example.net".into(),
            policy_at_least: Policy::None,
        }
    }

    fn published() -> Memory {
        Memory::default()
            .txt("s1._domainkey.example.com", KEY)
            .txt("bounces.example.com", "v=spf1 include:spf.example.net -all")
            .txt("spf.example.net", "v=spf1 ip4:192.0.2.1 -all")
            .mx("bounces.example.com", 10, "in.example.net")
            .address("in.example.net", "192.0.2.9")
            .txt("_dmarc.example.com", "v=DMARC1; p=none")
            .ptr("192.0.2.1", "out.example.net")
            .address("out.example.net", "192.0.2.1")
    }

    async fn report(dns: &Memory) -> Report {
        check(&expectations(), dns, &Nothing, UNIX_EPOCH).await.unwrap()
    }

    #[tokio::test]
    async fn a_check_can_be_a_task_of_its_own() {
        let task = tokio::spawn(async { report(&published()).await });
        assert!(task.await.unwrap().is_complete());
    }

    #[tokio::test]
    async fn a_domain_with_all_that_is_required_is_complete() {
        let report = report(&published()).await;
        assert!(report.is_complete(), "{report:#?}");
        assert_eq!(report.first_wanting(), None);
        assert_eq!(report.return_path_alignment.state, State::Found);
        let optional: Vec<_> = report.records.iter().filter(|record| !record.required).collect();
        assert!(optional.iter().all(|record| record.finding.state == State::Missing), "{optional:#?}");
        let purposes: Vec<&Purpose> = optional.iter().map(|record| &record.purpose).collect();
        assert_eq!(purposes, [&Purpose::SpfOfReports, &Purpose::MtaSts, &Purpose::TlsReports]);
    }

    #[tokio::test]
    async fn a_domain_with_nothing_is_told_all_that_it_wants() {
        let report = report(&Memory::default()).await;
        assert!(!report.is_complete());
        for record in report.records.iter().filter(|record| record.required) {
            assert_eq!(record.finding.state, State::Missing, "{record:#?}");
            assert!(record.finding.reason.contains(&record.expected), "{record:#?}");
            assert!(record.finding.reason.contains(&record.record_type.to_string()), "{record:#?}");
        }
        assert_eq!(report.first_wanting().unwrap().name, name("s1._domainkey.example.com"));
    }

    #[tokio::test]
    async fn what_others_publish_is_shown_in_part() {
        let long = format!("v=spf1 {} -all", "x".repeat(60_000));
        let mut dns = published().txt("s1._domainkey.example.com", &"y".repeat(60_000));
        for _ in 0..100 {
            dns = dns.txt("out.example.net", &long);
        }
        let shown = format!("{:?}", report(&dns).await);
        assert!(shown.len() < 60_000, "{}", shown.len());
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_before_what_is_unknown() {
        let dns = published().failing("s1._domainkey.example.com").mx("bounces.example.com", 20, "x.example");
        let wrong = report(&dns).await;
        assert_eq!(wrong.first_wanting().unwrap().purpose, Purpose::ReturnPath);
        let report = report(&published().failing("_dmarc.example.com")).await;
        assert_eq!(report.first_wanting().unwrap().finding.state, State::Unknown);
        assert_eq!(report.return_path_alignment.state, State::Unknown);
        assert!(!report.is_complete());
    }
}
