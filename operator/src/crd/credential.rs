//! `SmtpCredential`: how an application logs in.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an application logs in to send mail. The operator makes a Secret with `host`, `port`, `username`, `password` and
/// `uri`.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "stagepost.dev",
    version = "v1alpha1",
    kind = "SmtpCredential",
    namespaced,
    status = "SmtpCredentialStatus",
    derive = "PartialEq",
    category = "mail",
    shortname = "smtpcred",
    doc = "How an application logs in to send mail. The operator makes a Secret with `host`, `port`, `username`, `password` and `uri`, ready for an application's environment. Annotate it with `stagepost.dev/rotate=ANYTHING-NEW` for a new password.",
    printcolumn(name = "Account", type_ = "string", json_path = ".spec.account"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.secretName"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "User", type_ = "string", json_path = ".status.username", priority = 1),
    printcolumn(name = "Domains", type_ = "string", json_path = ".spec.senderDomains", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[cfg_attr(test, kube(cel))]
#[x_kube(validation = Rule::new("has(self.secretName) == has(oldSelf.secretName)").message("the Secret can't be renamed; make another SmtpCredential"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SmtpCredentialSpec {
    /// Name of the Account object, in this namespace, that mail is sent for.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a credential's account can't be changed; make another SmtpCredential"))]
    pub account: String,
    /// Domains that may stand in MAIL FROM and From:, each a domain of the account or a name below one that stands for its
    /// subdomains. Empty means all domains of the account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(name, name.matches('^([a-z0-9_]([a-z0-9_-]*[a-z0-9])?[.])+[a-z0-9-]*[a-z0-9]$'))")
            .message("a sender domain is a lower case name of two labels or more, such as news.example.com; write other alphabets as xn--")
    )]
    pub sender_domains: Vec<String>,
    /// Name of the Secret. By default the name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 240))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the Secret can't be renamed; make another SmtpCredential"))]
    pub secret_name: Option<String>,
    /// How much may be sent with it, beside what holds for the account.
    #[serde(default)]
    pub limits: CredentialLimits,
    /// For how many minutes after a rotation the password before is taken too, so that applications can pick up the new one.
    #[serde(default = "grace_minutes")]
    #[schemars(range(min = 0, max = 10_080), extend("format" = "int32"))]
    pub rotation_grace_minutes: u32,
}

/// How much may be sent with a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialLimits {
    /// Recipients a UTC day, over a rotation too. Without it the account's quota alone holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000), extend("format" = "int64"))]
    pub recipients_per_day: Option<u64>,
}

fn grace_minutes() -> u32 {
    60
}

/// What is known of the credential.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SmtpCredentialStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the Secret is there and its password is taken.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Name of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// User name in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Since when the Secret has this password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<Time>,
    /// The rotation that was asked for last and is done: a value of the annotation `stagepost.dev/rotate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_done: Option<String>,
    /// The login before the last rotation, while it is taken still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousCredential>,
}

/// A login that is taken still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviousCredential {
    /// Its user name.
    pub username: String,
    /// When it is revoked.
    pub revoked_at: Time,
}
