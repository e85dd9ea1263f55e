//! Everything that is kept, in memory, with the ways by which it is found.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde::de::DeserializeOwned;
use smtp::address::Domain as Name;

use crate::model::{Account, Credential, Domain, Key, Proof};
use crate::seal::{Seal, SealError};
use crate::store::Change;

/// Holds a known text, sealed: whoever can't unseal it has another sealing key.
pub(crate) const SEALING: &str = "sealing/check";

/// Something that is kept under a key of its own.
pub(crate) trait Kept: Serialize + DeserializeOwned + Clone {
    const PREFIX: &'static str;

    /// What tells it from others of its kind.
    fn identity(&self) -> &str;

    fn key(&self) -> String {
        format!("{}/{}", Self::PREFIX, self.identity())
    }

    /// The change that keeps it as it is here.
    fn put(&self) -> Change {
        // Types of text, numbers and lists always have a JSON form.
        Change { key: self.key(), value: Some(serde_json::to_vec(self).unwrap_or_default()) }
    }

    /// The change that removes it.
    fn remove(&self) -> Change {
        Change { key: self.key(), value: None }
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
    /// What [`SEALING`] holds.
    pub(crate) sealing: Option<String>,
    /// Keys whose value this version doesn't understand, and why. What was known of them stays.
    pub(crate) unreadable: BTreeMap<String, String>,
}

impl Book {
    /// Takes over what a key holds now, or that it holds nothing.
    pub(crate) fn apply(&mut self, change: &Change) {
        match self.try_apply(change) {
            Ok(()) => drop(self.unreadable.remove(&change.key)),
            Err(cause) => {
                tracing::error!(key = change.key, cause, "an entry can't be read");
                self.unreadable.insert(change.key.clone(), cause);
            }
        }
    }

    fn try_apply(&mut self, change: &Change) -> Result<(), String> {
        let Change { key, value } = change;
        let (kind, identity) = key.split_once('/').unwrap_or((key, ""));
        match (kind, value) {
            (Account::PREFIX, Some(value)) => self.put_account(read(value)?),
            (Account::PREFIX, None) => self.remove_account(identity),
            (Credential::PREFIX, Some(value)) => self.put_credential(read(value)?),
            (Credential::PREFIX, None) => self.remove_credential(identity),
            (Domain::PREFIX, Some(value)) => {
                let domain: Domain = read(value)?;
                self.domains.insert(domain.name.clone(), domain);
            }
            (Domain::PREFIX, None) => {
                self.domains.remove(identity);
            }
            _ if key == SEALING => {
                let text = value.clone().map(String::from_utf8).transpose();
                self.sealing = text.map_err(|error| error.to_string())?;
            }
            // A later version may keep more.
            _ => tracing::warn!(key, "an entry of an unknown kind is left alone"),
        }
        Ok(())
    }

    /// Unseals every key once, so that a wrong sealing key is noticed now and not at the first message.
    pub(crate) fn check_seal(&self, seal: &Seal) -> Result<(), SealError> {
        if let Some(sealed) = &self.sealing {
            seal.check(sealed)?;
        }
        for domain in self.domains.values() {
            for key in &domain.keys {
                seal.unseal(&seal_name(&domain.name, key), &key.sealed)?;
            }
        }
        Ok(())
    }

    fn put_account(&mut self, account: Account) {
        self.remove_account(&account.id);
        self.account_names.insert(account.name.clone(), account.id.clone());
        self.accounts.insert(account.id.clone(), account);
    }

    fn put_credential(&mut self, credential: Credential) {
        self.remove_credential(&credential.id);
        self.usernames.insert(credential.username.clone(), credential.id.clone());
        if let Proof::Secret(fingerprint) = &credential.proof {
            self.secrets.insert(fingerprint.clone(), credential.id.clone());
        }
        self.credentials.insert(credential.id.clone(), credential);
    }

    fn remove_account(&mut self, id: &str) {
        if let Some(account) = self.accounts.remove(id) {
            self.account_names.remove(&account.name);
        }
    }

    fn remove_credential(&mut self, id: &str) {
        let Some(credential) = self.credentials.remove(id) else { return };
        self.usernames.remove(&credential.username);
        if let Proof::Secret(fingerprint) = &credential.proof {
            self.secrets.remove(fingerprint);
        }
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
