//! Changes of sending domains and their keys.

use std::sync::Arc;

use dkim::SigningKey;
use runtime::clock::now_millis;
use smtp::address::Domain as Name;
use tokio::task::spawn_blocking;

use super::{ChangeError, Office, check_owner, check_revision, failed, find_account};
use crate::book::{Book, Kept as _, seal_name};
use crate::model::{Domain, Key, KeyAlgorithm, KeyState, Later, Origin, Owner};
use crate::seal::Seal;
use crate::secret::random_text;

const DOMAIN_KEYS_MAX: usize = 16;

/// What is changed of a domain.
#[derive(Clone, Debug, Default)]
pub(crate) struct DomainChange {
    pub(crate) subdomains: Option<bool>,
    pub(crate) add_keys: Vec<KeyAlgorithm>,
    pub(crate) key_states: Vec<(String, KeyState)>,
    pub(crate) revision: Option<u64>,
}

impl Office {
    /// Makes the domain with keys that sign at once: there is no older key that could, and mail is refused until the domain is there.
    pub(crate) async fn create_domain(
        &self,
        account: &str,
        name: &str,
        subdomains: bool,
        algorithms: Vec<KeyAlgorithm>,
        managed_by: Owner,
    ) -> Result<Domain, ChangeError> {
        let name = parse_name(name)?;
        let algorithms =
            if algorithms.is_empty() { vec![KeyAlgorithm::Rsa, KeyAlgorithm::Ed25519] } else { algorithms };
        check_key_count(algorithms.len())?;
        let keys = self.make_keys(&name, algorithms, KeyState::Active).await?;
        let domain = Domain {
            id: format!("dom-{}", random_text(16)),
            account_id: String::new(),
            name: name.as_str().into(),
            subdomains,
            keys,
            unready: None,
            origin: Origin::default(),
            managed_by,
            revision: 1,
            created_at_ms: now_millis(),
            later: Later::new(),
        };
        self.decide(|book| {
            let account_id = find_account(book, account)?.id.clone();
            check_free(book, &name, subdomains, &account_id)?;
            if book.domains.contains_key(name.as_str()) {
                return Err(ChangeError::Exists(format!("the domain {name} is registered already")));
            }
            let domain = Domain { account_id, ..domain.clone() };
            Ok((vec![domain.put()], domain))
        })
        .await
    }

    pub(crate) async fn update_domain(
        &self,
        name: &str,
        change: DomainChange,
        by: Owner,
    ) -> Result<Domain, ChangeError> {
        let name = parse_name(name)?;
        let DomainChange { subdomains, add_keys, key_states, revision } = change;
        check_key_count(add_keys.len())?;
        let made = self.make_keys(&name, add_keys, KeyState::Published).await?;
        self.decide(|book| {
            let mut domain = find_domain(book, &name)?.clone();
            check_owner("domain", &domain.name, domain.managed_by, by)?;
            check_revision(&domain.name, domain.revision, revision)?;
            if let Some(subdomains) = subdomains {
                check_free(book, &name, subdomains, &domain.account_id)?;
                domain.subdomains = subdomains;
            }
            domain.keys.extend(made.iter().cloned());
            check_key_count(domain.keys.len())?;
            set_states(&mut domain, &key_states)?;
            domain.revision += 1;
            Ok((vec![domain.put()], domain))
        })
        .await
    }

    pub(crate) async fn delete_domain(&self, name: &str, by: Owner) -> Result<(), ChangeError> {
        let name = parse_name(name)?;
        self.decide(|book| {
            let domain = find_domain(book, &name)?;
            check_owner("domain", &domain.name, domain.managed_by, by)?;
            Ok((vec![domain.remove()], ()))
        })
        .await
    }

    pub(crate) fn domain(&self, name: &Name) -> Result<Domain, ChangeError> {
        find_domain(&self.book(), name).cloned()
    }

    /// Generating an RSA key takes a good part of a second.
    async fn make_keys(
        &self,
        domain: &Name,
        algorithms: Vec<KeyAlgorithm>,
        state: KeyState,
    ) -> Result<Vec<Key>, ChangeError> {
        let (domain, seal) = (domain.clone(), Arc::clone(&self.seal));
        let make = move || {
            algorithms.into_iter().map(|algorithm| make_key(&domain, algorithm, state, &seal)).collect()
        };
        spawn_blocking(make).await.map_err(failed)?
    }
}

fn find_domain<'a>(book: &'a Book, name: &Name) -> Result<&'a Domain, ChangeError> {
    let found = book.domains.get(name.as_str());
    found.ok_or_else(|| {
        let text = format!(
            "the domain {name} isn't registered; add it with `stagepost domain add {name} --account ACCOUNT`"
        );
        ChangeError::NotFound(text)
    })
}

/// Changes the states of keys, as long as one signs then.
fn set_states(domain: &mut Domain, states: &[(String, KeyState)]) -> Result<(), ChangeError> {
    let name = domain.name.clone();
    for (selector, state) in states {
        let key = domain.keys.iter_mut().find(|key| key.selector == *selector);
        let key =
            key.ok_or_else(|| ChangeError::NotFound(format!("{name} has no key with selector {selector}")))?;
        if key.state != *state {
            (key.state, key.state_since_ms) = (*state, now_millis());
        }
    }
    if domain.keys.iter().any(|key| key.state == KeyState::Active) {
        return Ok(());
    }
    let text = format!(
        "{name} would have no active key, and its mail couldn't be signed; activate another key first"
    );
    Err(ChangeError::Invalid(text))
}

fn make_key(
    domain: &Name,
    algorithm: KeyAlgorithm,
    state: KeyState,
    seal: &Seal,
) -> Result<Key, ChangeError> {
    let pair = SigningKey::generate(algorithm.into()).map_err(failed)?;
    let kind = match algorithm {
        KeyAlgorithm::Rsa => "rsa",
        KeyAlgorithm::Ed25519 => "ed25519",
    };
    // Never used before, so that no resolver remembers another key under it.
    let selector = format!("sp-{}-{kind}", random_text(8));
    let now = now_millis();
    let mut key = Key {
        selector,
        algorithm,
        state,
        sealed: String::new(),
        record: pair.public_record(),
        created_at_ms: now,
        state_since_ms: now,
        later: Later::new(),
    };
    let der = pair.to_pkcs8_der().map_err(failed)?;
    key.sealed = seal.seal(&seal_name(domain.as_str(), &key), &der).map_err(failed)?;
    Ok(key)
}

pub(crate) fn parse_name(text: &str) -> Result<Name, ChangeError> {
    text.trim_end_matches('.')
        .parse()
        .map_err(|error| ChangeError::Invalid(format!("{text:?} is no domain name: {error}")))
}

pub(super) fn check_key_count(count: usize) -> Result<(), ChangeError> {
    if count <= DOMAIN_KEYS_MAX {
        return Ok(());
    }
    Err(ChangeError::Invalid(format!("a domain has at most {DOMAIN_KEYS_MAX} keys")))
}

/// No account may send for names of another's domain: neither below one that stands for its subdomains, nor the other way round.
pub(super) fn check_free(
    book: &Book,
    name: &Name,
    subdomains: bool,
    account_id: &str,
) -> Result<(), ChangeError> {
    let others = book.domains.values().filter(|domain| domain.account_id != account_id);
    for other in others {
        let Ok(registered) = other.name.parse::<Name>() else { continue };
        // Whether the name itself is taken depends on who asks for it.
        if registered == *name {
            continue;
        }
        let below = other.subdomains && name.is_at_or_below(&registered);
        let above = subdomains && registered.is_at_or_below(name);
        if below || above {
            let text = format!("the domain {registered} is registered for another account");
            return Err(ChangeError::Exists(text));
        }
    }
    Ok(())
}
