//! What is kept. Fields that a reader doesn't know stay with what it changes, those that it misses have defaults.

use dkim::Algorithm;
use serde::{Deserialize, Serialize};

/// Fields that a later version wrote.
pub(crate) type Later = serde_json::Map<String, serde_json::Value>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Owner {
    CommandLine,
    Operator,
}

impl Owner {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::CommandLine => "the command line",
            Self::Operator => "the operator",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Plan {
    /// 100 recipients a UTC day.
    Free,
    Unlimited,
}

impl Plan {
    pub(crate) const ALL: [Self; 2] = [Self::Free, Self::Unlimited];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Unlimited => "unlimited",
        }
    }

    pub(crate) fn recipients_per_day(self) -> Option<u64> {
        match self {
            Self::Free => Some(100),
            Self::Unlimited => None,
        }
    }
}

/// What an owner outside says of an object that it keeps here; both empty for what is managed here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The owner's id of it.
    pub(crate) origin: String,
    /// Of all that the owner said.
    pub(crate) digest: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) plan: Plan,
    #[serde(default)]
    pub(crate) recipients_per_day: Option<u64>,
    /// Why, when it is suspended.
    #[serde(default)]
    pub(crate) suspended: Option<String>,
    #[serde(default)]
    pub(crate) origin: Origin,
    pub(crate) managed_by: Owner,
    pub(crate) revision: u64,
    pub(crate) created_at_ms: u64,
    #[serde(flatten)]
    pub(crate) later: Later,
}

impl Account {
    pub(crate) fn quota(&self) -> Option<u64> {
        self.recipients_per_day.or_else(|| self.plan.recipients_per_day())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credential {
    pub(crate) id: String,
    pub(crate) account_id: String,
    pub(crate) username: String,
    pub(crate) description: String,
    pub(crate) proof: Proof,
    /// Domains that may be sent from; all of the account's when empty.
    #[serde(default)]
    pub(crate) sender_domains: Vec<String>,
    /// Beside the account's quota.
    #[serde(default)]
    pub(crate) limit: Option<CredentialLimit>,
    #[serde(default)]
    pub(crate) origin: Origin,
    pub(crate) managed_by: Owner,
    pub(crate) revision: u64,
    pub(crate) created_at_ms: u64,
    #[serde(flatten)]
    pub(crate) later: Later,
}

/// How much may be sent with a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CredentialLimit {
    pub(crate) recipients_per_day: u64,
    /// Credentials of an account that name the same are counted together.
    pub(crate) counted_as: String,
    #[serde(flatten)]
    pub(crate) later: Later,
}

/// What a password is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Proof {
    /// SHA-256 of a secret that we made, in hexadecimal.
    Secret(String),
    /// argon2id of a chosen password, as a PHC string.
    Password(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Domain {
    pub(crate) id: String,
    pub(crate) account_id: String,
    /// A-label, lower case.
    pub(crate) name: String,
    pub(crate) subdomains: bool,
    pub(crate) keys: Vec<Key>,
    /// Why its mail shouldn't leave, where whoever manages it says so.
    #[serde(default)]
    pub(crate) unready: Option<Unready>,
    #[serde(default)]
    pub(crate) origin: Origin,
    pub(crate) managed_by: Owner,
    pub(crate) revision: u64,
    pub(crate) created_at_ms: u64,
    #[serde(flatten)]
    pub(crate) later: Later,
}

/// What a domain lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unready {
    /// One line for people.
    pub(crate) reason: String,
    /// What tells more of it.
    pub(crate) object: String,
    pub(crate) since_ms: u64,
    #[serde(flatten)]
    pub(crate) later: Later,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) selector: String,
    pub(crate) algorithm: KeyAlgorithm,
    pub(crate) state: KeyState,
    /// PKCS#8, sealed, in hexadecimal.
    pub(crate) sealed: String,
    /// The value of its DNS record.
    pub(crate) record: String,
    pub(crate) created_at_ms: u64,
    pub(crate) state_since_ms: u64,
    #[serde(flatten)]
    pub(crate) later: Later,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeyAlgorithm {
    Rsa,
    Ed25519,
}

impl From<KeyAlgorithm> for Algorithm {
    fn from(algorithm: KeyAlgorithm) -> Self {
        match algorithm {
            KeyAlgorithm::Rsa => Self::RsaSha256,
            KeyAlgorithm::Ed25519 => Self::Ed25519Sha256,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeyState {
    Published,
    Active,
    Retired,
}
