//! Objects that an owner outside keeps in step with its own.
//!
//! ```text
//! put(origin, digest, what) --> made | changed | left alone
//! sync(all origins)         --> removed: what isn't named;  differing: what must be put
//! ```
//!
//! An origin stands for one object of the owner's, whatever that is called. So an object whose name somebody else took is
//! told so, and taking one away never takes another's.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dkim::SigningKey;
use runtime::clock::now_millis;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::domains::{check_free, check_key_count, parse_name};
use super::{ChangeError, Office, check_name, check_owner, failed, find_account};
use crate::book::{Book, Kept as _, seal_name};
use crate::model::{
    Account, Credential, CredentialLimit, Domain, Key, KeyAlgorithm, KeyState, Later, Origin, Owner, Plan,
    Proof, Unready,
};
use crate::seal::Seal;
use crate::secret::{random_text, to_hex};
use crate::store::Change;

const ORIGIN_OCTETS_MAX: usize = 128;
const SELECTOR_OCTETS_MAX: usize = 63;
const COUNTED_AS_OCTETS_MAX: usize = 64;
const UNREADY_OCTETS_MAX: usize = 1024;
/// Below what a store takes in one change.
const REMOVED_AT_ONCE: usize = 400;

/// An account as its owner wants it.
#[derive(Clone, Debug)]
pub(crate) struct PutAccount {
    pub(crate) name: String,
    pub(crate) plan: Plan,
    pub(crate) recipients_per_day: Option<u64>,
    pub(crate) suspended: Option<String>,
}

/// A credential as its owner wants it.
#[derive(Clone, Debug)]
pub(crate) struct PutCredential {
    pub(crate) account: String,
    pub(crate) username: String,
    pub(crate) secret_sha256: Vec<u8>,
    pub(crate) description: String,
    pub(crate) sender_domains: Vec<String>,
    pub(crate) limit: Option<CredentialLimit>,
}

/// A domain as its owner wants it.
pub(crate) struct PutDomain {
    pub(crate) account: String,
    pub(crate) name: String,
    pub(crate) subdomains: bool,
    pub(crate) keys: Vec<PutKey>,
    pub(crate) unready: Option<Unready>,
}

/// A signing key that its owner made.
pub(crate) struct PutKey {
    pub(crate) selector: String,
    pub(crate) algorithm: KeyAlgorithm,
    pub(crate) state: KeyState,
    pub(crate) pkcs8_der: Zeroizing<Vec<u8>>,
}

/// What a sync found and did.
#[derive(Debug, Default)]
pub(crate) struct Synced {
    /// Origins of which nothing is stored, or something with another digest.
    pub(crate) differing: Vec<String>,
    pub(crate) removed: Vec<String>,
    /// With why.
    pub(crate) kept: Vec<String>,
}

impl Office {
    pub(crate) async fn put_account(
        &self,
        put: PutAccount,
        origin: Origin,
        by: Owner,
    ) -> Result<Account, ChangeError> {
        check_name("an account's name", &put.name)?;
        check_origin(&origin)?;
        self.decide(|book| {
            let held = book.account(&put.name);
            if let Some(held) = held {
                check_owner("account", &held.name, held.managed_by, by)?;
                check_same("account", &held.name, &held.origin, &origin)?;
                if held.origin == origin {
                    return Ok((Vec::new(), held.clone()));
                }
            }
            let account = Account {
                id: held.map_or_else(|| format!("acc-{}", random_text(16)), |held| held.id.clone()),
                name: put.name.clone(),
                plan: put.plan,
                recipients_per_day: put.recipients_per_day,
                suspended: put.suspended.clone(),
                origin: origin.clone(),
                managed_by: by,
                revision: held.map_or(1, |held| held.revision + 1),
                created_at_ms: held.map_or_else(now_millis, |held| held.created_at_ms),
                later: held.map(|held| held.later.clone()).unwrap_or_default(),
            };
            Ok((vec![account.put()], account))
        })
        .await
    }

    pub(crate) async fn put_credential(
        &self,
        put: PutCredential,
        origin: Origin,
        by: Owner,
    ) -> Result<Credential, ChangeError> {
        check_name("a user name", &put.username)?;
        check_origin(&origin)?;
        if put.username.eq_ignore_ascii_case("apikey") {
            let text = "the user name `apikey` stands for every secret; choose another";
            return Err(ChangeError::Invalid(text.into()));
        }
        if put.secret_sha256.len() != 32 {
            return Err(ChangeError::Invalid("a SHA-256 has 32 octets".into()));
        }
        if let Some(limit) = &put.limit {
            let name = &limit.counted_as;
            if !(1..=COUNTED_AS_OCTETS_MAX).contains(&name.len())
                || !name.bytes().all(|octet| octet.is_ascii_graphic())
            {
                let text =
                    format!("what a limit is counted as has 1 to {COUNTED_AS_OCTETS_MAX} visible characters");
                return Err(ChangeError::Invalid(text));
            }
        }
        let named = put.sender_domains.iter().map(|name| Ok(parse_name(name)?.to_string()));
        let sender_domains = named.collect::<Result<Vec<_>, ChangeError>>()?;
        let fingerprint = to_hex(&put.secret_sha256);
        self.decide(|book| {
            let account_id = find_account(book, &put.account)?.id.clone();
            let held = book.credential_of_user(&put.username);
            if let Some(held) = held {
                check_owner("credential", &held.username, held.managed_by, by)?;
                check_same("credential", &held.username, &held.origin, &origin)?;
                if held.origin == origin && held.account_id == account_id {
                    return Ok((Vec::new(), held.clone()));
                }
            }
            let of_secret = book.credential_of_secret(&fingerprint);
            if of_secret.is_some_and(|other| Some(&other.id) != held.map(|held| &held.id)) {
                return Err(ChangeError::Exists("another credential has this secret".into()));
            }
            let credential = Credential {
                id: held.map_or_else(|| format!("cred-{}", random_text(16)), |held| held.id.clone()),
                account_id,
                username: put.username.clone(),
                description: put.description.clone(),
                proof: Proof::Secret(fingerprint.clone()),
                sender_domains: sender_domains.clone(),
                limit: put.limit.clone(),
                origin: origin.clone(),
                managed_by: by,
                revision: held.map_or(1, |held| held.revision + 1),
                created_at_ms: held.map_or_else(now_millis, |held| held.created_at_ms),
                later: held.map(|held| held.later.clone()).unwrap_or_default(),
            };
            Ok((vec![credential.put()], credential))
        })
        .await
    }

    pub(crate) async fn put_domain(
        &self,
        put: PutDomain,
        origin: Origin,
        by: Owner,
    ) -> Result<Domain, ChangeError> {
        check_origin(&origin)?;
        let PutDomain { account, name, subdomains, keys, unready } = put;
        let name = parse_name(&name)?;
        check_key_count(keys.len())?;
        unready.as_ref().map(check_unready).transpose()?;
        if unready.is_none() && !keys.iter().any(|key| key.state == KeyState::Active) {
            let text =
                format!("{name} is said to be ready and has no active key: its mail couldn't be signed");
            return Err(ChangeError::Invalid(text));
        }
        let (domain_name, seal) = (name.to_string(), Arc::clone(&self.seal));
        let sealed = move || keys.into_iter().map(|key| sealed_key(&domain_name, key, &seal)).collect();
        let keys: Result<Vec<Key>, ChangeError> = spawn_blocking(sealed).await.map_err(failed)?;
        let keys = keys?;
        self.decide(|book| {
            let account_id = find_account(book, &account)?.id.clone();
            let held = book.domains.get(name.as_str());
            if let Some(held) = held {
                check_owner("domain", &held.name, held.managed_by, by)?;
                check_same("domain", &held.name, &held.origin, &origin)?;
                if held.origin == origin && held.account_id == account_id {
                    return Ok((Vec::new(), held.clone()));
                }
            }
            check_free(book, &name, subdomains, &account_id)?;
            let domain = Domain {
                id: held.map_or_else(|| format!("dom-{}", random_text(16)), |held| held.id.clone()),
                account_id,
                name: name.to_string(),
                subdomains,
                keys: keys.iter().map(|key| with_history(key, held)).collect(),
                unready: unready.as_ref().map(|unready| with_earlier(unready, held)),
                origin: origin.clone(),
                managed_by: by,
                revision: held.map_or(1, |held| held.revision + 1),
                created_at_ms: held.map_or_else(now_millis, |held| held.created_at_ms),
                later: held.map(|held| held.later.clone()).unwrap_or_default(),
            };
            Ok((vec![domain.put()], domain))
        })
        .await
    }

    /// Removes what is of an origin; an account with all that is its own.
    pub(crate) async fn withdraw(&self, origin: &str, by: Owner) -> Result<(), ChangeError> {
        if origin.is_empty() {
            return Err(ChangeError::Invalid("what is managed here has no origin".into()));
        }
        self.decide(|book| {
            let mut changes = Vec::new();
            let is = |held: &Origin, managed_by: Owner| held.origin == origin && managed_by == by;
            let accounts = book.accounts.values();
            for account in accounts.filter(|account| is(&account.origin, account.managed_by)) {
                for credential in book.credentials_of(&account.id) {
                    check_owner("credential", &credential.username, credential.managed_by, by)?;
                    changes.push(credential.remove());
                }
                for domain in book.domains_of(&account.id) {
                    check_owner("domain", &domain.name, domain.managed_by, by)?;
                    changes.push(domain.remove());
                }
                changes.push(account.remove());
            }
            let credentials = book.credentials.values().filter(|held| is(&held.origin, held.managed_by));
            changes.extend(credentials.map(crate::book::Kept::remove));
            let domains = book.domains.values().filter(|held| is(&held.origin, held.managed_by));
            changes.extend(domains.map(crate::book::Kept::remove));
            Ok((changes, ()))
        })
        .await
    }

    /// Removes what `by` manages and doesn't name.
    pub(crate) async fn sync(&self, origins: Vec<Origin>, by: Owner) -> Result<Synced, ChangeError> {
        if by == Owner::CommandLine {
            let text =
                "only an owner outside can tell all that it manages; the command line has no such list";
            return Err(ChangeError::Invalid(text.into()));
        }
        let named: HashSet<&str> = origins.iter().map(|origin| origin.origin.as_str()).collect();
        let mut synced = Synced::default();
        loop {
            let (removed, kept) = self.decide(|book| Ok(outlived(book, &named, by))).await?;
            synced.kept = kept;
            if removed.is_empty() {
                break;
            }
            synced.removed.extend(removed);
        }
        let book = self.book();
        let stored: HashMap<&str, &str> = origins_of(&book, by).collect();
        let differs = |origin: &&Origin| stored.get(origin.origin.as_str()) != Some(&origin.digest.as_str());
        synced.differing = origins.iter().filter(differs).map(|origin| origin.origin.clone()).collect();
        Ok(synced)
    }
}

/// Origin and digest of everything that `by` manages.
fn origins_of(book: &Book, by: Owner) -> impl Iterator<Item = (&str, &str)> {
    let accounts = book.accounts.values().map(|held| (&held.origin, held.managed_by));
    let credentials = book.credentials.values().map(|held| (&held.origin, held.managed_by));
    let domains = book.domains.values().map(|held| (&held.origin, held.managed_by));
    let all = accounts.chain(credentials).chain(domains);
    all.filter(move |(_, managed_by)| *managed_by == by)
        .map(|(held, _)| (held.origin.as_str(), held.digest.as_str()))
}

type Outlived = (Vec<Change>, (Vec<String>, Vec<String>));

/// What isn't named any more: the changes that remove it, what that is, and what has to stay. Not more than a store takes at
/// once; parts of an account come before it.
fn outlived(book: &Book, named: &HashSet<&str>, by: Owner) -> Outlived {
    let gone =
        |origin: &Origin, managed_by: Owner| managed_by == by && !named.contains(origin.origin.as_str());
    let (mut changes, mut removed, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    let mut remove = |change: Change, what: String| {
        changes.push(change);
        removed.push(what);
    };
    let leaving: HashSet<&str> = book
        .accounts
        .values()
        .filter(|account| gone(&account.origin, account.managed_by))
        .map(|account| account.id.as_str())
        .collect();
    // What is named and belongs to an account that isn't goes along with that: it is put again once it has another.
    let credentials = book.credentials.values().filter(|held| {
        gone(&held.origin, held.managed_by)
            || held.managed_by == by && leaving.contains(held.account_id.as_str())
    });
    credentials.for_each(|held| remove(held.remove(), format!("credential {}", held.username)));
    let domains = book.domains.values().filter(|held| {
        gone(&held.origin, held.managed_by)
            || held.managed_by == by && leaving.contains(held.account_id.as_str())
    });
    domains.for_each(|held| remove(held.remove(), format!("domain {}", held.name)));
    for account in book.accounts.values().filter(|account| leaving.contains(account.id.as_str())) {
        let others = book.credentials_of(&account.id).any(|held| held.managed_by != by)
            || book.domains_of(&account.id).any(|held| held.managed_by != by);
        if others {
            kept.push(format!("account {}: somebody else manages a part of it", account.name));
        } else {
            remove(account.remove(), format!("account {}", account.name));
        }
    }
    changes.truncate(REMOVED_AT_ONCE);
    removed.truncate(REMOVED_AT_ONCE);
    (changes, (removed, kept))
}

fn check_origin(Origin { origin, digest }: &Origin) -> Result<(), ChangeError> {
    let fits = |text: &str| {
        (1..=ORIGIN_OCTETS_MAX).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic())
    };
    if fits(origin) && fits(digest) {
        return Ok(());
    }
    let text = format!("an origin and a digest have 1 to {ORIGIN_OCTETS_MAX} visible ASCII characters");
    Err(ChangeError::Invalid(text))
}

fn check_same(what: &str, name: &str, held: &Origin, wanted: &Origin) -> Result<(), ChangeError> {
    if held.origin == wanted.origin {
        return Ok(());
    }
    Err(ChangeError::Exists(format!("the {what} {name} is another object's ({})", held.origin)))
}

fn check_unready(Unready { reason, object, .. }: &Unready) -> Result<(), ChangeError> {
    let fits = |text: &str| (1..=UNREADY_OCTETS_MAX).contains(&text.len());
    if fits(reason) && fits(object) {
        return Ok(());
    }
    let text = format!("what a domain lacks, and the object, have 1 to {UNREADY_OCTETS_MAX} octets each");
    Err(ChangeError::Invalid(text))
}

/// A domain that isn't ready already isn't since when it was.
fn with_earlier(unready: &Unready, held: Option<&Domain>) -> Unready {
    let before = held.and_then(|held| held.unready.as_ref());
    let since_ms = before.map_or(unready.since_ms, |before| before.since_ms.min(unready.since_ms));
    let later = before.map(|before| before.later.clone()).unwrap_or_default();
    Unready { since_ms, later, ..unready.clone() }
}

fn sealed_key(domain: &str, put: PutKey, seal: &Seal) -> Result<Key, ChangeError> {
    let PutKey { selector, algorithm, state, pkcs8_der } = put;
    let allowed = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"-.".contains(&octet);
    if !(1..=SELECTOR_OCTETS_MAX).contains(&selector.len()) || !selector.bytes().all(allowed) {
        let text =
            format!("{selector:?} is no selector: it has lower case letters, digits, hyphens and dots");
        return Err(ChangeError::Invalid(text));
    }
    let pair = SigningKey::from_pkcs8_der(algorithm.into(), &pkcs8_der)
        .map_err(|error| ChangeError::Invalid(format!("the key {selector} of {domain}: {error}")))?;
    let now = now_millis();
    let record = pair.public_record();
    let mut key = Key {
        selector,
        algorithm,
        state,
        sealed: String::new(),
        record,
        created_at_ms: now,
        state_since_ms: now,
        later: Later::new(),
    };
    key.sealed = seal.seal(&seal_name(domain, &key), &pkcs8_der).map_err(failed)?;
    Ok(key)
}

/// A key that is there already keeps its times.
fn with_history(key: &Key, held: Option<&Domain>) -> Key {
    let same = |old: &&Key| old.selector == key.selector && old.record == key.record;
    let Some(old) = held.and_then(|held| held.keys.iter().find(same)) else { return key.clone() };
    let state_since_ms = if old.state == key.state { old.state_since_ms } else { key.state_since_ms };
    Key { created_at_ms: old.created_at_ms, state_since_ms, later: old.later.clone(), ..key.clone() }
}
