//! `DNSEndpoint` objects of external-dns: the contract between operators by which records are published.
//!
//! One object a selector and one for all else, so that each goes when what it is for goes.

use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::{Resource, ResourceExt as _};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::crd::{Dns, DnsRecord, RecordState, SendingDomain, TxtFormat};
use crate::secrets::MANAGED_BY;

/// A record to publish, in the form in which external-dns wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    dns_name: String,
    record_type: String,
    #[serde(rename = "recordTTL")]
    record_ttl: u32,
    targets: Vec<String>,
}

impl Endpoint {
    pub(crate) fn new(record_type: &str, name: &str, value: &str, dns: &Dns) -> Self {
        let target = match record_type {
            "TXT" => text(value, dns.txt_format),
            _ => value.trim_end_matches('.').to_owned(),
        };
        let (dns_name, record_type) = (name.to_owned(), record_type.to_owned());
        Self { dns_name, record_type, record_ttl: dns.ttl_secs, targets: vec![target] }
    }

    fn is_for(&self, record: &DnsRecord) -> bool {
        self.dns_name == record.name && self.record_type == record.r#type
    }
}

/// What to publish for `records`, where `before` is published. What is found and isn't ours stays somebody else's, so that a
/// policy that holds for all of an organisation isn't made milder by one of ours; what can't be looked up changes nothing.
pub(crate) fn of_records<'a>(
    records: impl Iterator<Item = &'a DnsRecord>,
    before: &[Endpoint],
    dns: &Dns,
) -> Vec<Endpoint> {
    let of_record = |record: &DnsRecord| {
        let ours = before.iter().find(|endpoint| endpoint.is_for(record));
        match record.state {
            RecordState::Unknown => ours.cloned(),
            RecordState::Found if ours.is_none() => None,
            _ => Some(Endpoint::new(&record.r#type, &record.name, &record.value, dns)),
        }
    };
    records.filter_map(of_record).collect()
}

/// What an object publishes.
pub(crate) fn published(object: &DynamicObject) -> Vec<Endpoint> {
    let endpoints = object.data["spec"]["endpoints"].as_array().into_iter().flatten();
    endpoints.filter_map(|endpoint| Endpoint::deserialize(endpoint).ok()).collect()
}

pub(crate) fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("externaldns.k8s.io", "v1alpha1", "DNSEndpoint");
    ApiResource::from_gvk_with_plural(&kind, "dnsendpoints")
}

/// The name of the object that publishes a part of a domain's records.
pub(crate) fn name_of(domain: &SendingDomain, part: &str) -> String {
    let name = domain.name_any();
    let short: String = name.chars().take(180).collect();
    format!("{}-{part}", short.trim_end_matches(['-', '.']))
}

/// The object that publishes `endpoints`.
pub(crate) fn object(domain: &SendingDomain, part: &str, endpoints: &[Endpoint]) -> DynamicObject {
    let mut object = DynamicObject::new(&name_of(domain, part), &resource());
    object.metadata.namespace = domain.namespace();
    object.metadata.owner_references = domain.controller_owner_ref(&()).map(|owner| vec![owner]);
    object.labels_mut().insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    object.data = json!({ "spec": { "endpoints": endpoints } });
    object
}

fn text(value: &str, format: TxtFormat) -> String {
    match format {
        TxtFormat::Plain => value.to_owned(),
        // Also what is short: without quotes a zone file has a comment after a semicolon, and another string after a space.
        TxtFormat::Chunked => {
            let quoted = |chunk: &String| format!("\"{}\"", chunk.replace('\\', "\\\\").replace('"', "\\\""));
            dkim::txt_chunks(value).iter().map(quoted).collect::<Vec<_>>().join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(format: &str) -> SendingDomain {
        let object = json!({
            "apiVersion": "stagepost.dev/v1alpha1", "kind": "SendingDomain",
            "metadata": {"name": "example-com", "namespace": "shop", "uid": "u1"},
            "spec": {"domain": "example.com", "account": "shop", "dns": {"txtFormat": format, "ttlSecs": 60}}
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_text_is_written_as_a_zone_file_has_it_where_that_is_wanted() {
        let long = "x".repeat(300);
        let target = |format: &str, value: &str| {
            let mut endpoint = Endpoint::new("TXT", "a.example.com", value, &domain(format).spec.dns);
            endpoint.targets.pop().unwrap()
        };
        assert_eq!(target("Plain", &long), long);
        assert_eq!(target("Plain", "v=spf1 -all"), "v=spf1 -all");
        let chunked = format!("\"{}\" \"{}\"", "x".repeat(255), "x".repeat(45));
        assert_eq!(target("Chunked", &long), chunked);
        assert_eq!(target("Chunked", "v=DMARC1; p=none"), "\"v=DMARC1; p=none\"");
        assert_eq!(target("Chunked", r#"a"b\c"#), r#""a\"b\\c""#);
    }

    #[test]
    fn what_others_publish_is_left_to_them_and_what_is_not_known_stays() {
        let domain = domain("Plain");
        let dns = &domain.spec.dns;
        let old = Endpoint::new("TXT", "a.example.com", "old", dns);
        let new = Endpoint::new("TXT", "a.example.com", "new", dns);
        let record = |state: &str| -> DnsRecord {
            let record = json!({
                "type": "TXT", "name": "a.example.com", "value": "new", "purpose": "a text", "condition": "SPFAligned",
                "required": true, "state": state, "message": ""
            });
            serde_json::from_value(record).unwrap()
        };
        let nothing: &[Endpoint] = &[];
        for (state, without, with) in [
            ("Missing", Some(&new), Some(&new)),
            ("Mismatch", Some(&new), Some(&new)),
            ("Found", None, Some(&new)),
            ("Unknown", None, Some(&old)),
        ] {
            let record = record(state);
            let given = |before| of_records(std::iter::once(&record), before, dns).pop();
            assert_eq!(given(nothing).as_ref(), without, "{state}");
            let there = published(&object(&domain, "mail", std::slice::from_ref(&old)));
            assert_eq!(given(&there).as_ref(), with, "{state}");
        }
    }

    #[test]
    fn the_object_is_the_domains() {
        let domain = domain("Plain");
        let endpoint = Endpoint::new("MX", "b.example.com", "10 mx.example.net.", &domain.spec.dns);
        let object = object(&domain, "sp1-rsa", &[endpoint]);
        assert_eq!(
            (object.name_any().as_str(), object.namespace().as_deref()),
            ("example-com-sp1-rsa", Some("shop"))
        );
        assert_eq!(object.owner_references()[0].uid, "u1");
        let expected = json!({"dnsName": "b.example.com", "recordType": "MX", "recordTTL": 60, "targets": ["10 mx.example.net"]});
        assert_eq!(object.data["spec"]["endpoints"][0], expected);
    }
}
