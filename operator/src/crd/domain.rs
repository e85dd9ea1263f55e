//! `SendingDomain`: a domain that mail is sent from, with its keys and what must be published for it.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::SendingDomainStatus;

/// A domain that mail is sent from. The operator makes its DKIM keys, says which DNS records to publish, watches them, and
/// replaces keys in time.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "stagepost.dev",
    version = "v1alpha1",
    kind = "SendingDomain",
    namespaced,
    status = "SendingDomainStatus",
    derive = "PartialEq",
    category = "mail",
    shortname = "sd",
    shortname = "sdom",
    doc = "A domain that mail is sent from. The operator makes its DKIM keys, says in `status.records` which DNS records to publish, watches them, and replaces keys in time. Annotate it with `stagepost.dev/rotate=ANYTHING-NEW` for new keys, or with `stagepost.dev/rotate-emergency=ANYTHING-NEW` when a key has leaked.",
    printcolumn(name = "Domain", type_ = "string", json_path = ".spec.domain"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Account", type_ = "string", json_path = ".spec.account"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Selector", type_ = "string", json_path = ".status.activeSelectors", priority = 1),
    printcolumn(
        name = "Rotation",
        type_ = "string",
        format = "date-time",
        json_path = ".status.nextRotation",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[cfg_attr(test, kube(cel))]
#[x_kube(
    validation = Rule::new("!has(self.returnPath) || self.returnPath.domain == self.domain || self.returnPath.domain.endsWith('.' + self.domain)")
        .message("returnPath.domain must be the domain or a name below it, or SPF isn't aligned").field_path(".returnPath.domain"),
    validation = Rule::new("self.dns.mode != 'ExternalDNS' || !has(self.dkim.cnameZone) || self.domain != self.dkim.cnameZone")
        .message("dkim.cnameZone must be another zone than the domain").field_path(".dkim.cnameZone")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SendingDomainSpec {
    /// The domain of From: addresses, in lower case; other alphabets as `xn--` labels.
    #[schemars(length(min = 3, max = 200))]
    #[x_kube(
        validation = Rule::new("self.matches('^([a-z0-9]([a-z0-9-]*[a-z0-9])?[.])+[a-z0-9]([a-z0-9-]*[a-z0-9])?$')")
            .message("a domain has two labels or more of lower case letters, digits and hyphens, such as example.com; write other alphabets as xn--"),
        validation = Rule::new("self.split('.').all(label, label.size() <= 63)").message("a label of a domain has at most 63 characters"),
        validation = Rule::new("self == oldSelf").message("the domain can't be changed; make another SendingDomain")
    )]
    pub domain: String,
    /// Name of the Account object, in this namespace, that may send from it.
    #[schemars(length(min = 1, max = 253))]
    pub account: String,
    /// Names below the domain may be sent from too.
    #[serde(default)]
    pub subdomains: bool,
    /// How mail is signed (RFC 6376).
    #[serde(default)]
    pub dkim: Dkim,
    /// Where bounces go, if that is a name of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_path: Option<ReturnPath>,
    /// Which DMARC policy (RFC 9989) is expected.
    #[serde(default)]
    pub dmarc: Dmarc,
    /// How records are published and looked up.
    #[serde(default)]
    pub dns: Dns,
}

/// How mail is signed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.existingSecret) || !has(self.cnameZone)")
        .message("a key of your own (existingSecret) is published by you: leave cnameZone away"),
    validation = Rule::new("has(self.cnameZone) == has(oldSelf.cnameZone)").message("cnameZone can't be set or removed later; make another SendingDomain")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dkim {
    /// One key is made for each: `RSA-2048`, which every receiver verifies, and `Ed25519` (RFC 8463), which some do.
    #[serde(default = "all_algorithms")]
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.exists(name, name == 'RSA-2048')")
            .message("RSA-2048 must be among the algorithms: many receivers can't verify Ed25519 alone")
    )]
    pub algorithms: Vec<KeyAlgorithm>,
    /// A key of your own in place of generated ones. It isn't rotated: name another Secret and selector to replace it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing_secret: Option<ExistingSecret>,
    /// Days after which generated keys are replaced; 0 for never.
    #[serde(default = "rotation_days")]
    #[schemars(range(min = 0, max = 3650), extend("format" = "int32"))]
    #[x_kube(validation = Rule::new("self == 0 || self >= 14").message("rotate after 14 days or more: the key before must have retired by then"))]
    pub rotation_days: u32,
    /// A zone of yours in which keys are published; the domain itself then has CNAME records into it that never change, and
    /// two selectors take turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 120))]
    #[x_kube(
        validation = Rule::new("self.matches('^([a-z0-9_]([a-z0-9_-]*[a-z0-9])?[.])+[a-z0-9-]*[a-z0-9]$')")
            .message("a zone is a lower case name of two labels or more, such as dkim.example.net"),
        validation = Rule::new("self == oldSelf").message("cnameZone can't be changed while CNAME records point there")
    )]
    pub cname_zone: Option<String>,
}

impl Default for Dkim {
    fn default() -> Self {
        Self {
            algorithms: all_algorithms(),
            existing_secret: None,
            rotation_days: rotation_days(),
            cname_zone: None,
        }
    }
}

fn all_algorithms() -> Vec<KeyAlgorithm> {
    vec![KeyAlgorithm::Rsa2048, KeyAlgorithm::Ed25519]
}

fn rotation_days() -> u32 {
    90
}

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum KeyAlgorithm {
    /// RSA with 2048 bits.
    #[serde(rename = "RSA-2048")]
    Rsa2048,
    /// Ed25519.
    Ed25519,
}

/// A Secret that somebody else makes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExistingSecret {
    /// Name of the Secret, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its entry that holds the key: PKCS#8 as PEM, unencrypted, RSA of 2048 bits or more, or Ed25519.
    #[serde(default = "private_pem")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// The selector under which the key is published.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')").message("a selector has lower case letters, digits and hyphens"))]
    pub selector: String,
}

fn private_pem() -> String {
    String::from("private.pem")
}

/// Where bounces go.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReturnPath {
    /// The domain of MAIL FROM: the sending domain or a name below it.
    #[schemars(length(min = 3, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^([a-z0-9]([a-z0-9-]*[a-z0-9])?[.])+[a-z0-9]([a-z0-9-]*[a-z0-9])?$')").message("a return path is a lower case name such as bounces.example.com"))]
    pub domain: String,
}

/// Which DMARC policy is expected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dmarc {
    /// The weakest policy that will do: `none`, `quarantine` or `reject`; `optional` when there need not be any.
    #[serde(default)]
    pub policy: DmarcPolicy,
}

/// A DMARC policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DmarcPolicy {
    /// No record is needed.
    Optional,
    /// Any policy.
    #[default]
    None,
    /// `quarantine` or `reject`.
    Quarantine,
    /// `reject`.
    Reject,
}

/// How records are published and looked up.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dns {
    /// `Manual`: somebody publishes what `status.records` says. `ExternalDNS`: the operator makes DNSEndpoint objects, which
    /// external-dns publishes.
    #[serde(default)]
    pub mode: DnsMode,
    /// Resolvers to look records up through, as `address` or `address:port`. By default those that the operator is
    /// configured with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 2, max = 64)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(r"self.all(server, isIP(server) || server.matches('^([0-9.]+|\\[[0-9a-f:]+\\]):[0-9]{1,5}$'))")
            .message("a resolver is an IP address, or one with a port such as 192.0.2.53:5353 or [2001:db8::53]:5353")
    )]
    pub resolvers: Vec<String>,
    /// How TXT values are written in DNSEndpoint objects: `Chunked`, as a zone file has them, in quoted strings of at most 255
    /// octets, for providers such as Route 53, Google, PowerDNS and RFC 2136; or `Plain` for those that quote and cut up
    /// themselves, such as Azure.
    #[serde(default)]
    pub txt_format: TxtFormat,
    /// TTL of published records, in seconds.
    #[serde(default = "ttl_secs")]
    #[schemars(range(min = 30, max = 86400), extend("format" = "int32"))]
    pub ttl_secs: u32,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            mode: DnsMode::default(),
            resolvers: Vec::new(),
            txt_format: TxtFormat::default(),
            ttl_secs: ttl_secs(),
        }
    }
}

fn ttl_secs() -> u32 {
    300
}

/// Who publishes records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DnsMode {
    /// Somebody, by hand.
    #[default]
    Manual,
    /// external-dns.
    #[serde(rename = "ExternalDNS")]
    ExternalDns,
}

/// How long TXT values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TxtFormat {
    /// As quoted strings of at most 255 octets.
    #[default]
    Chunked,
    /// As one string.
    Plain,
}
