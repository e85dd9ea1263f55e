//! `Account`: who sends, and how much.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who sends mail, and how much of it. Credentials and sending domains of the same namespace name the account that they
/// belong to.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "stagepost.dev",
    version = "v1alpha1",
    kind = "Account",
    namespaced,
    status = "AccountStatus",
    derive = "PartialEq",
    category = "mail",
    shortname = "mailacc",
    doc = "Who sends mail, and how much of it. Credentials and sending domains of the same namespace name the account that they belong to.",
    printcolumn(
        name = "Account",
        type_ = "string",
        json_path = ".status.name",
        description = "Name at Stagepost"
    ),
    printcolumn(name = "Plan", type_ = "string", json_path = ".spec.plan"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspended"),
    printcolumn(name = "Today", type_ = "integer", json_path = ".status.usage.recipientsToday"),
    printcolumn(name = "Domains", type_ = "integer", json_path = ".status.usage.domains", priority = 1),
    printcolumn(
        name = "Credentials",
        type_ = "integer",
        json_path = ".status.usage.credentials",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[cfg_attr(test, kube(cel))]
#[x_kube(validation = Rule::new("has(self.name) == has(oldSelf.name)").message("an account can't be renamed; make another Account"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccountSpec {
    /// Name of the account at Stagepost, where there is one of a name. By default the name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9._@+-]+$')").message("a name has letters, digits and . _ - + @"),
        validation = Rule::new("self == oldSelf").message("an account can't be renamed; make another Account")
    )]
    pub name: Option<String>,
    /// Which plan's quota holds: `free` (100 recipients a UTC day) or `unlimited`.
    #[serde(default)]
    pub plan: Plan,
    /// Quotas of this account in place of the plan's.
    #[serde(default)]
    pub quotas: Quotas,
    /// Refuse new mail and hold what is queued.
    #[serde(default)]
    pub suspended: bool,
    /// Why it is suspended; senders read it in the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = Rule::new("self.matches('^[ -~]+$')").message("a reason is one line of visible ASCII characters"))]
    pub suspended_reason: Option<String>,
}

/// A plan, with its quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Plan {
    /// 100 recipients a UTC day.
    #[default]
    Free,
    /// No quota.
    Unlimited,
}

impl Plan {
    /// Its name at accounts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Unlimited => "unlimited",
        }
    }
}

/// How much an account may send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quotas {
    /// Recipients a UTC day. Without it the plan's quota holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000), extend("format" = "int64"))]
    pub recipients_per_day: Option<u64>,
}

/// What is known of the account.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the account is known to Stagepost as it is wanted here.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Name of the account at Stagepost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Id of the account at Stagepost, as events and logs have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// What belongs to the account, and what was sent for it.
    #[serde(default)]
    pub usage: Usage,
}

/// What belongs to an account, and what was sent for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// SendingDomain objects that name it.
    #[serde(default)]
    #[schemars(extend("format" = "int32"))]
    pub domains: u32,
    /// SmtpCredential objects that name it.
    #[serde(default)]
    #[schemars(extend("format" = "int32"))]
    pub credentials: u32,
    /// Recipients that were taken for it this UTC day, as of the last minute or so. Only where the operator knows the Redis
    /// server in which they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub recipients_today: Option<u64>,
}
