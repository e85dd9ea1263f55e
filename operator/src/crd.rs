//! The objects of group `stagepost.dev`, version `v1alpha1`.
//!
//! Their descriptions are what `kubectl explain` shows, their rules what the API server checks before anything is kept.
//! `spec` is what somebody wants, `status` what the operator saw.
#![allow(unreachable_pub, reason = "the derive of schemas repeats each type inside of a function")]
#![allow(clippy::duplicated_attributes, reason = "columns of an object may be alike")]

mod account;
mod credential;
mod domain;
mod status;

#[cfg(test)]
mod tests;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt as _;

pub use account::{Account, AccountSpec, AccountStatus, Plan, Quotas, Usage};
pub use credential::{
    CredentialLimits, PreviousCredential, SmtpCredential, SmtpCredentialSpec, SmtpCredentialStatus,
};
pub use domain::{
    Dkim, Dmarc, DmarcPolicy, Dns, DnsMode, ExistingSecret, KeyAlgorithm, ReturnPath, SendingDomain,
    SendingDomainSpec, TxtFormat,
};
pub use status::{DnsRecord, DomainKey, DomainKeyState, RecordState, SendingDomainStatus, Unready};

/// The definitions of all objects, in the order in which they refer to one another.
pub fn all() -> [CustomResourceDefinition; 3] {
    let mut definitions = [Account::crd(), SendingDomain::crd(), SmtpCredential::crd()];
    let versions = definitions.iter_mut().flat_map(|definition| &mut definition.spec.versions);
    versions
        .filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
        .for_each(unwrap_lines);
    definitions
}

/// Descriptions are comments of the source, wrapped to its width; kubectl wraps them to its own.
fn unwrap_lines(schema: &mut JSONSchemaProps) {
    if let Some(description) = &mut schema.description {
        let paragraphs: Vec<String> =
            description.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect();
        *description = paragraphs.join("\n\n");
    }
    schema.properties.iter_mut().flatten().for_each(|(_, property)| unwrap_lines(property));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        unwrap_lines(items);
    }
}

/// All definitions as YAML documents, as `kubectl apply -f -` takes them.
///
/// # Errors
/// When a definition has no YAML form, which a test would have shown.
pub fn yaml() -> Result<String, serde_saphyr::ser::Error> {
    let mut text = String::from("# Made by `stagepost crds`.\n");
    for definition in all() {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&definition)?);
    }
    Ok(text)
}
