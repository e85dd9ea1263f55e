//! The DNS records that a sending domain should have.

use proto::accounts::v1::DnsRecord;

use crate::model::{Domain, KeyState};

/// DKIM for every key that signs or may still be looked for, SPF and DMARC as suggestions.
pub(crate) fn of(domain: &Domain, spf: &str) -> Vec<DnsRecord> {
    let name = &domain.name;
    let mut records: Vec<DnsRecord> = domain
        .keys
        .iter()
        .map(|key| {
            let purpose = match key.state {
                KeyState::Published => "DKIM key that will sign (RFC 6376)",
                KeyState::Active => "DKIM key that signs (RFC 6376)",
                KeyState::Retired => {
                    "DKIM key of mail that is still on its way; remove it after the queue's lifetime"
                }
            };
            txt(format!("{}._domainkey.{name}", key.selector), key.record.clone(), purpose, Need::Required)
        })
        .collect();
    let policy = format!("v=spf1 {spf} -all");
    let purpose = "SPF: who may send for the domain (RFC 7208); merge it with the record you have";
    records.push(txt(name.clone(), policy, purpose, Need::Recommended));
    let purpose =
        "DMARC: what receivers do with mail that fails (RFC 7489); begin with none, then quarantine";
    records.push(txt(format!("_dmarc.{name}"), "v=DMARC1; p=none".into(), purpose, Need::Recommended));
    records
}

#[derive(PartialEq, Eq)]
enum Need {
    Required,
    Recommended,
}

fn txt(name: String, value: String, purpose: &str, need: Need) -> DnsRecord {
    DnsRecord { r#type: "TXT".into(), name, value, purpose: purpose.into(), required: need == Need::Required }
}
