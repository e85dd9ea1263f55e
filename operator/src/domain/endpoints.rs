//! `DNSEndpoint` objects of external-dns: the contract between operators by which records are published.
//!
//! One object a selector and one for all else, so that each goes when what it is for goes.

use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::{Resource, ResourceExt as _};
use serde_json::json;

use crate::crd::{DnsRecord, SendingDomain, TxtFormat};
use crate::secrets::MANAGED_BY;

/// A record to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) record_type: String,
    pub(crate) name: String,
    pub(crate) value: String,
}

impl From<&DnsRecord> for Endpoint {
    fn from(record: &DnsRecord) -> Self {
        let DnsRecord { r#type, name, value, .. } = record;
        Self { record_type: r#type.clone(), name: name.clone(), value: value.clone() }
    }
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

/// The object that publishes `records`.
pub(crate) fn object(domain: &SendingDomain, part: &str, records: &[Endpoint]) -> DynamicObject {
    let dns = &domain.spec.dns;
    let endpoints: Vec<_> = records
        .iter()
        .map(|record| {
            let target = match record.record_type.as_str() {
                "TXT" => text(&record.value, dns.txt_format),
                _ => record.value.trim_end_matches('.').to_owned(),
            };
            json!({
                "dnsName": record.name,
                "recordType": record.record_type,
                "recordTTL": dns.ttl_secs,
                "targets": [target],
            })
        })
        .collect();
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
        TxtFormat::Chunked if value.len() <= 255 => value.to_owned(),
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
    fn a_long_text_is_cut_up_where_that_is_wanted() {
        let long = "x".repeat(300);
        let record = |value: &str| Endpoint {
            record_type: "TXT".into(),
            name: "a.example.com".into(),
            value: value.into(),
        };
        let target = |format: &str, value: &str| {
            let object = object(&domain(format), "mail", &[record(value)]);
            object.data["spec"]["endpoints"][0]["targets"][0].as_str().unwrap().to_owned()
        };
        assert_eq!(target("Plain", &long), long);
        let chunked = format!("\"{}\" \"{}\"", "x".repeat(255), "x".repeat(45));
        assert_eq!(target("Chunked", &long), chunked);
        assert_eq!(target("Chunked", "v=spf1 -all"), "v=spf1 -all");
    }

    #[test]
    fn the_object_is_the_domains() {
        let record = Endpoint {
            record_type: "MX".into(),
            name: "b.example.com".into(),
            value: "10 mx.example.net.".into(),
        };
        let object = object(&domain("Plain"), "sp1-rsa", &[record]);
        assert_eq!(
            (object.name_any().as_str(), object.namespace().as_deref()),
            ("example-com-sp1-rsa", Some("shop"))
        );
        assert_eq!(object.owner_references()[0].uid, "u1");
        let expected = json!({"dnsName": "b.example.com", "recordType": "MX", "recordTTL": 60, "targets": ["10 mx.example.net"]});
        assert_eq!(object.data["spec"]["endpoints"][0], expected);
    }
}
