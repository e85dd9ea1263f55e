//! Everything that is kept, in memory, with the ways by which it is found.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use smtp::address::Domain as Name;

use crate::OpenError;
use crate::model::{Account, Credential, Domain, Key, Proof};
use crate::seal::Seal;
use crate::store::{Change, Store};

/// Something that is kept under a key of its own.
pub(crate) trait Kept: Serialize + DeserializeOwned + Clone {
    const PREFIX: &'static str;

    /// What tells it from others of its kind.
    fn identity(&self) -> &str;

    fn key(&self) -> String {
        format!("{}/{}", Self::PREFIX, self.identity())
    }

    fn octets(&self) -> Vec<u8> {
        // Types of text, numbers and lists always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The change that brings `new` in place of `old`.
    fn change(old: Option<&Self>, new: Option<&Self>) -> Change {
        let key = old.or(new).map(Self::key).unwrap_or_default();
        Change { key, expected: old.map(Self::octets), new: new.map(Self::octets) }
    }
}

impl Kept for Account {
    const PREFIX: &'static str = "account";

    fn identity(&self) -> &str {
        &self.id
    }
}

impl Kept for Credential {
    const PREFIX: &'static str = "credential";

    fn identity(&self) -> &str {
        &self.id
    }
}

impl Kept for Domain {
    const PREFIX: &'static str = "domain";

    fn identity(&self) -> &str {
        &self.name
    }
}

/// The name under which a key is sealed.
pub(crate) fn seal_name(domain: &str, key: &Key) -> String {
    format!("{} of {domain}", key.selector)
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    /// By id.
    pub(crate) accounts: BTreeMap<String, Account>,
    /// By id.
    pub(crate) credentials: BTreeMap<String, Credential>,
    /// By name.
    pub(crate) domains: BTreeMap<String, Domain>,
    account_names: HashMap<String, String>,
    usernames: HashMap<String, String>,
    /// Fingerprints of secrets that we made.
    secrets: HashMap<String, String>,
}

impl Book {
    /// Reads everything, and unseals every key once so that a wrong sealing key is noticed now and not at the first message.
    pub(crate) fn load(store: &impl Store, seal: &Seal, path: &Path) -> Result<Self, OpenError> {
        let mut book = Self::default();
        for (key, value) in store.all()? {
            let failed = |cause: String| OpenError::Entry { path: path.into(), key: key.clone(), cause };
            let kind = key.split('/').next().unwrap_or_default();
            match kind {
                Account::PREFIX => book.put_account(read(&value).map_err(failed)?),
                Credential::PREFIX => book.put_credential(read(&value).map_err(failed)?),
                Domain::PREFIX => {
                    let domain: Domain = read(&value).map_err(failed)?;
                    for key in &domain.keys {
                        seal.unseal(&seal_name(&domain.name, key), &key.sealed)?;
                    }
                    book.put_domain(domain);
                }
                // A later version may keep more.
                _ => tracing::warn!(key, "an entry of an unknown kind is left alone"),
            }
        }
        Ok(book)
    }

    pub(crate) fn put_account(&mut self, account: Account) {
        self.account_names.insert(account.name.clone(), account.id.clone());
        self.accounts.insert(account.id.clone(), account);
    }

    pub(crate) fn put_credential(&mut self, credential: Credential) {
        self.usernames.insert(credential.username.clone(), credential.id.clone());
        if let Proof::Secret(fingerprint) = &credential.proof {
            self.secrets.insert(fingerprint.clone(), credential.id.clone());
        }
        self.credentials.insert(credential.id.clone(), credential);
    }

    pub(crate) fn put_domain(&mut self, domain: Domain) {
        self.domains.insert(domain.name.clone(), domain);
    }

    pub(crate) fn remove_account(&mut self, account: &Account) {
        self.account_names.remove(&account.name);
        self.accounts.remove(&account.id);
    }

    pub(crate) fn remove_credential(&mut self, credential: &Credential) {
        self.usernames.remove(&credential.username);
        if let Proof::Secret(fingerprint) = &credential.proof {
            self.secrets.remove(fingerprint);
        }
        self.credentials.remove(&credential.id);
    }

    pub(crate) fn remove_domain(&mut self, name: &str) {
        self.domains.remove(name);
    }

    /// By id or name.
    pub(crate) fn account(&self, id_or_name: &str) -> Option<&Account> {
        let by_name = || self.accounts.get(self.account_names.get(id_or_name)?);
        self.accounts.get(id_or_name).or_else(by_name)
    }

    /// By id or user name.
    pub(crate) fn credential(&self, id_or_username: &str) -> Option<&Credential> {
        self.credentials.get(id_or_username).or_else(|| self.credential_of_user(id_or_username))
    }

    pub(crate) fn credential_of_user(&self, username: &str) -> Option<&Credential> {
        self.credentials.get(self.usernames.get(username)?)
    }

    pub(crate) fn credential_of_secret(&self, fingerprint: &str) -> Option<&Credential> {
        self.credentials.get(self.secrets.get(fingerprint)?)
    }

    pub(crate) fn credentials_of(&self, account_id: &str) -> impl Iterator<Item = &Credential> {
        self.credentials.values().filter(move |credential| credential.account_id == account_id)
    }

    pub(crate) fn domains_of(&self, account_id: &str) -> impl Iterator<Item = &Domain> {
        self.domains.values().filter(move |domain| domain.account_id == account_id)
    }

    /// The registered domain that is responsible for a name: the name itself, or the nearest above it that has `subdomains`.
    pub(crate) fn responsible(&self, name: &Name) -> Option<&Domain> {
        let mut at = Some(name.clone());
        while let Some(current) = at {
            match self.domains.get(current.as_str()) {
                Some(domain) if current == *name || domain.subdomains => return Some(domain),
                _ => at = current.parent(),
            }
        }
        None
    }
}

fn read<T: DeserializeOwned>(octets: &[u8]) -> Result<T, String> {
    serde_json::from_slice(octets).map_err(|error| error.to_string())
}
