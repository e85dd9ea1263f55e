//! What is known of a sending domain.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::domain::KeyAlgorithm;

/// What is known of a sending domain.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SendingDomainStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` sums up KeyReady, DKIMPublished, SPFAligned, DMARCPublished, ReturnPathReady and Claimed; MTASTSReady and
    /// TLSRPTReady are for information.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The DNS records that the domain needs, and what is there.
    #[serde(default)]
    pub records: Vec<DnsRecord>,
    /// Its DKIM keys, the oldest first.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["selector".into()]))]
    #[serde(default)]
    pub keys: Vec<DomainKey>,
    /// Selectors of the keys that sign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_selectors: Option<String>,
    /// When the keys are replaced next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_rotation: Option<Time>,
    /// The rotation that was asked for last and has begun: a value of an annotation `stagepost.dev/rotate` or
    /// `stagepost.dev/rotate-emergency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_begun: Option<String>,
    /// When DNS was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<Time>,
    /// What accounts is told that the domain lacks; absent when its mail may leave. A look-up that fails changes nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unready: Option<Unready>,
}

/// Why mail from a domain isn't to leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unready {
    /// What is missing, for those whose mail is put off.
    pub reason: String,
    /// Since when the domain isn't ready.
    pub since: Time,
}

/// A DNS record that a domain needs, and what is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DnsRecord {
    /// `TXT`, `MX`, `CNAME`, `A` or `PTR`.
    pub r#type: String,
    /// Its name, without a final dot.
    pub name: String,
    /// Its value, a TXT record's as one text.
    pub value: String,
    /// What it is for.
    pub purpose: String,
    /// The condition that it counts for.
    pub condition: String,
    /// Whether the domain is Ready only with it.
    pub required: bool,
    /// What DNS says now, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    /// How that compares.
    pub state: RecordState,
    /// What that means, and what to do where something is wrong.
    #[serde(default)]
    pub message: String,
    /// When DNS said so last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<Time>,
    /// Since when DNS has said otherwise, which counts only after a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubted_since: Option<Time>,
}

impl SendingDomainStatus {
    /// Whether a record that was there is being looked for again.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.records.iter().any(|record| record.doubted_since.is_some())
    }
}

/// How what DNS says compares with what should be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecordState {
    /// It is there.
    Found,
    /// There is no such record.
    Missing,
    /// There is another one.
    Mismatch,
    /// DNS wasn't asked yet, or didn't answer.
    #[default]
    Unknown,
}

/// A DKIM key of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainKey {
    /// The selector under which it is published.
    pub selector: String,
    /// Its kind.
    pub algorithm: KeyAlgorithm,
    /// What it does.
    pub state: DomainKeyState,
    /// The Secret that holds it.
    pub secret_name: String,
    /// The Secret is somebody else's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// Others may know it: it goes as soon as another signs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaked: bool,
    /// When it was decided to make it.
    pub created_at: Time,
    /// Since when its record has been seen at all of the zone's servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Time>,
    /// Since when it signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_at: Option<Time>,
    /// Since when it signs no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<Time>,
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DomainKeyState {
    /// It is being made.
    Generating,
    /// Its record should be there, and isn't seen everywhere yet.
    Publishing,
    /// Its record is seen everywhere; older answers of resolvers are waited out.
    Published,
    /// It signs.
    Active,
    /// It signs no more; its record stays until what it signed has left the queues.
    Retired,
}
