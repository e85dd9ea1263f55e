//! Where reports on the encryption of mail *to* the domain go (TLS-RPT, RFC 8460). What a domain sends doesn't depend on it.

use super::lookup::{Lookup, LookupError, Text};
use super::name::{Name, NameError};
use super::report::{Finding, Purpose, Record, RecordType};
use super::tags::Tags;

/// Where reports go, by a record (section 3); nothing when the text isn't one.
#[must_use]
pub fn addresses(text: &Text) -> Option<Vec<String>> {
    let tags = Tags::parse(text).ok().filter(|tags| tags.begins_with("v", "TLSRPTv1"))?;
    let addresses: Vec<String> =
        tags.value("rua")?.split(',').map(|address| address.trim().to_owned()).collect();
    let good = |address: &String| {
        let (scheme, rest) = address.split_once(':').unwrap_or_default();
        !rest.is_empty() && ["mailto", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
    };
    addresses.iter().all(good).then_some(addresses)
}

/// Looks at a domain's record.
///
/// # Errors
/// [`NameError`] when there can't be a record of the domain.
pub async fn check(domain: &Name, lookup: &impl Lookup) -> Result<Record, NameError> {
    let name = domain.below("_smtp._tls")?;
    let expected = format!("v=TLSRPTv1; rua=mailto:tls-reports@{}", domain.as_str());
    let found = lookup.text(&name).await;
    let texts = found.as_ref().map(|answer| answer.records.as_slice()).unwrap_or_default();
    let read: Vec<Vec<String>> = texts.iter().filter_map(addresses).collect();
    let observed = texts.iter().map(Text::shown).collect();
    let finding = match (&found, read.as_slice()) {
        (Err(LookupError::Failed(why)), _) => {
            Finding::unknown(format!("TXT of {name} can't be looked up: {why}"))
        }
        (Err(_), _) => Finding::missing(format!("{domain} has no TLS-RPT record, which it needn't have")),
        (Ok(_), [one]) => Finding::found(format!("reports go to {}", one.join(", "))),
        (Ok(_), _) => {
            let reason =
                format!("{name} hasn't exactly one record with v=TLSRPTv1 and a rua= of mailto: or https:");
            Finding::mismatch(reason)
        }
    };
    let (record_type, purpose) = (RecordType::Txt, Purpose::TlsReports);
    Ok(Record { record_type, name, expected, purpose, required: false, observed, finding })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::memory::{Memory, name};
    use crate::dns::report::State;

    #[tokio::test]
    async fn a_record_names_addresses() {
        let with = |text: &str| Memory::default().txt("_smtp._tls.example.com", text);
        for (dns, state) in [
            (Memory::default(), State::Missing),
            (Memory::default().failing("_smtp._tls.example.com"), State::Unknown),
            (with("v=TLSRPTv1;rua=mailto:a@example.com,https://example.com/r"), State::Found),
            (with("v=TLSRPTv1;rua=a@example.com"), State::Mismatch),
            (with("v=TLSRPTv1"), State::Mismatch),
            (with("rua=mailto:a@example.com"), State::Mismatch),
            (
                with("v=TLSRPTv1;rua=mailto:a@b.test")
                    .txt("_smtp._tls.example.com", "v=TLSRPTv1;rua=mailto:c@b.test"),
                State::Mismatch,
            ),
        ] {
            let finding = check(&name("example.com"), &dns).await.unwrap().finding;
            assert_eq!(finding.state, state, "{}", finding.reason);
        }
    }
}
