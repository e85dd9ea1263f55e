//! `stagepost domain`.

use clap::{Subcommand, ValueEnum};
use proto::accounts::v1::administration_client::AdministrationClient;
use proto::accounts::v1::{
    Algorithm, CreateDomainRequest, DeleteDomainRequest, Domain, GetDomainRequest, KeyChange, KeyState,
    ListDomainsRequest, ManagedBy, Unready, UpdateDomainRequest,
};
use runtime::rpc::Client;
use serde_json::Value;
use tonic::{Code, Status};

use super::view::{self, Record, View, instant, record, text};

/// A kind of DKIM key.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KeyKind {
    /// RSA with 2048 bits, which every receiver verifies.
    Rsa,
    /// Ed25519 (RFC 8463), which some receivers verify.
    Ed25519,
}

impl From<KeyKind> for Algorithm {
    fn from(kind: KeyKind) -> Self {
        match kind {
            KeyKind::Rsa => Self::RsaSha256,
            KeyKind::Ed25519 => Self::Ed25519Sha256,
        }
    }
}

/// What a key does.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    /// Its record is out; it doesn't sign yet.
    Published,
    /// It signs.
    Active,
    /// It signs no more; keep its record for as long as mail is queued.
    Retired,
}

impl From<State> for KeyState {
    fn from(state: State) -> Self {
        match state {
            State::Published => Self::Published,
            State::Active => Self::Active,
            State::Retired => Self::Retired,
        }
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Register a sending domain, make its DKIM keys and print the DNS records to publish.
    Add {
        /// The domain of From: addresses.
        domain: String,
        /// Account, by name or id.
        #[arg(long)]
        account: String,
        /// Names below the domain may send too.
        #[arg(long)]
        subdomains: bool,
        /// Kinds of keys to make.
        #[arg(long, value_enum, value_delimiter = ',', default_values_t = [KeyKind::Rsa, KeyKind::Ed25519])]
        keys: Vec<KeyKind>,
        /// Leave a domain that is registered as it is, and show it.
        #[arg(long)]
        if_missing: bool,
    },
    /// List sending domains.
    List {
        /// Only this account's.
        #[arg(long, default_value = "")]
        account: String,
    },
    /// Show a domain, its keys and the DNS records to publish.
    Show {
        /// The domain.
        domain: String,
    },
    /// Change whether names below the domain may send.
    Set {
        /// The domain.
        domain: String,
        /// Names below the domain may send too.
        #[arg(long)]
        subdomains: bool,
    },
    /// Make one more key, which signs once it is made active.
    AddKey {
        /// The domain.
        domain: String,
        /// Kind of the key.
        #[arg(value_enum)]
        kind: KeyKind,
    },
    /// Change what a key does.
    SetKey {
        /// The domain.
        domain: String,
        /// The key's selector.
        selector: String,
        /// Its new state.
        #[arg(value_enum)]
        new_state: State,
    },
    /// Forget a domain and its keys: mail from it is refused.
    Remove {
        /// The domain.
        domain: String,
    },
}

impl Command {
    pub(crate) async fn run(self, client: Client) -> Result<View, Status> {
        let mut client = AdministrationClient::new(client);
        let managed_by = ManagedBy::CommandLine.into();
        match self {
            Self::Add { domain: name, account, subdomains, keys, if_missing } => {
                let algorithms = keys.into_iter().map(|kind| Algorithm::from(kind).into()).collect();
                let existing = GetDomainRequest { name: name.clone() };
                let request = CreateDomainRequest { account, name, subdomains, algorithms, managed_by };
                match client.create_domain(request).await {
                    Err(status) if if_missing && status.code() == Code::AlreadyExists => {
                        client.get_domain(existing).await.map(one)
                    }
                    made => made.map(one),
                }
            }
            Self::List { account } => {
                let found = client.list_domains(ListDomainsRequest { account }).await?.into_inner().domains;
                Ok(View::List {
                    columns: &["name", "account_id", "subdomains", "ready", "keys", "created", "unready"],
                    records: found.into_iter().map(facts).collect(),
                    empty: "There is no sending domain; register one with `stagepost domain add DOMAIN --account ACCOUNT`.",
                })
            }
            Self::Show { domain } => client.get_domain(GetDomainRequest { name: domain }).await.map(one),
            Self::Set { domain, subdomains } => {
                let request = UpdateDomainRequest {
                    name: domain,
                    subdomains: Some(subdomains),
                    managed_by,
                    ..Default::default()
                };
                client.update_domain(request).await.map(one)
            }
            Self::AddKey { domain, kind } => {
                let add_keys = vec![Algorithm::from(kind).into()];
                let request =
                    UpdateDomainRequest { name: domain, add_keys, managed_by, ..Default::default() };
                client.update_domain(request).await.map(one)
            }
            Self::SetKey { domain, selector, new_state } => {
                let key_changes = vec![KeyChange { selector, state: KeyState::from(new_state).into() }];
                let request =
                    UpdateDomainRequest { name: domain, key_changes, managed_by, ..Default::default() };
                client.update_domain(request).await.map(one)
            }
            Self::Remove { domain } => {
                client.delete_domain(DeleteDomainRequest { name: domain.clone(), managed_by }).await?;
                Ok(View::one(record([("removed", text(&domain))])))
            }
        }
    }
}

fn one(response: tonic::Response<Domain>) -> View {
    let domain = response.into_inner();
    let mut shown = facts(domain.clone());
    shown.remove("records");
    let mut publish = view::facts(&shown) + "\nPublish in DNS:\n";
    for entry in &domain.records {
        let need = if entry.required { "required" } else { "recommended" };
        let value = zone_file_value(&entry.r#type, &entry.value);
        publish.push_str(&format!(
            "\n; {} ({need})\n{}. IN {} {value}\n",
            entry.purpose, entry.name, entry.r#type
        ));
    }
    View::Told { record: facts(domain), text: publish }
}

/// A record's value as a zone file has it: a TXT value in quoted strings of at most 255 octets (RFC 1035 section 3.3).
fn zone_file_value(kind: &str, value: &str) -> String {
    if kind != "TXT" {
        return value.to_owned();
    }
    let strings: Vec<String> = dkim::txt_chunks(value)
        .iter()
        .map(|chunk| format!("\"{}\"", chunk.replace('\\', "\\\\").replace('"', "\\\"")))
        .collect();
    strings.join(" ")
}

fn facts(domain: Domain) -> Record {
    let keys = domain.keys.iter().map(|key| {
        let state = match KeyState::try_from(key.state) {
            Ok(KeyState::Published) => "published",
            Ok(KeyState::Active) => "active",
            Ok(KeyState::Retired) => "retired",
            Ok(KeyState::Unspecified) | Err(_) => "unknown",
        };
        let algorithm = match Algorithm::try_from(key.algorithm) {
            Ok(Algorithm::RsaSha256) => "rsa-sha256",
            Ok(Algorithm::Ed25519Sha256) => "ed25519-sha256",
            Ok(Algorithm::Unspecified) | Err(_) => "unknown",
        };
        Value::Object(record([
            ("selector", text(&key.selector)),
            ("algorithm", text(algorithm)),
            ("state", text(state)),
        ]))
    });
    let records = domain.records.iter().map(|entry| {
        Value::Object(record([
            ("type", text(&entry.r#type)),
            ("name", text(&entry.name)),
            ("value", text(&entry.value)),
            ("purpose", text(&entry.purpose)),
            ("required", Value::Bool(entry.required)),
        ]))
    });
    record([
        ("name", text(&domain.name)),
        ("id", text(&domain.id)),
        ("account_id", text(&domain.account_id)),
        ("subdomains", Value::Bool(domain.subdomains)),
        ("keys", Value::Array(keys.collect())),
        ("managed_by", text(super::owner(domain.managed_by))),
        ("created", instant(domain.created_at_ms)),
        ("ready", Value::Bool(domain.unready.is_none())),
        ("unready", domain.unready.as_ref().map_or(Value::Null, unready)),
        ("records", Value::Array(records.collect())),
    ])
}

/// What a domain lacks.
fn unready(said: &Unready) -> Value {
    let since = mail::Timestamp(u64::try_from(said.since_ms).unwrap_or_default());
    let unready = mail::Unready::new(&said.reason, &said.object, since);
    Value::Object(record([
        ("reason", text(unready.reason())),
        ("object", text(unready.object())),
        ("since", instant(said.since_ms)),
    ]))
}
