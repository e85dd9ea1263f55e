//! Changes: each is checked against the book, written by compare-and-set, and only then seen.

use std::sync::{Arc, PoisonError, RwLock};

use dkim::SigningKey;
use runtime::clock::now_millis;
use smtp::address::Domain as Name;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::book::{Book, Kept, seal_name};
use crate::model::{Account, Credential, Domain, Key, KeyAlgorithm, KeyState, Owner, Plan, Proof};
use crate::seal::Seal;
use crate::secret::{fingerprint, hash_password, new_secret, random_text};
use crate::store::{Change, Store, StoreError};

const NAME_OCTETS_MAX: usize = 64;
const PASSWORD_OCTETS_MAX: usize = 1024;
const DOMAIN_KEYS_MAX: usize = 16;

/// Why a change isn't made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// There is one already.
    #[error("{0}")]
    Exists(String),
    /// Another owner manages it.
    #[error("{0}")]
    NotOwner(String),
    /// Somebody was quicker.
    #[error("{0}")]
    Conflict(String),
    /// The store or a key can't be used.
    #[error("{0}")]
    Failed(String),
}

impl From<StoreError> for ChangeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(_) => Self::Conflict(error.to_string()),
            StoreError::Failed { .. } => Self::Failed(error.to_string()),
        }
    }
}

/// What is changed of an account.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccountChange {
    pub(crate) plan: Option<Plan>,
    pub(crate) quota: Option<Option<u64>>,
    /// `Some(None)` resumes, `Some(Some(reason))` suspends.
    pub(crate) suspended: Option<Option<String>>,
    pub(crate) revision: Option<u64>,
}

/// What is changed of a domain.
#[derive(Clone, Debug, Default)]
pub(crate) struct DomainChange {
    pub(crate) subdomains: Option<bool>,
    pub(crate) add_keys: Vec<KeyAlgorithm>,
    pub(crate) key_states: Vec<(String, KeyState)>,
    pub(crate) revision: Option<u64>,
}

/// What a credential is made with.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewCredential {
    pub(crate) account: String,
    pub(crate) username: String,
    pub(crate) password: Vec<u8>,
    pub(crate) description: String,
}

pub(crate) struct Office {
    book: RwLock<Arc<Book>>,
    store: Arc<dyn Store>,
    seal: Arc<Seal>,
    /// One change at a time in this process; others are told by compare-and-set.
    changing: Mutex<()>,
    pub(crate) spf: String,
}

impl Office {
    pub(crate) fn new(book: Book, store: Arc<dyn Store>, seal: Seal, spf: String) -> Self {
        Self { book: RwLock::new(Arc::new(book)), store, seal: Arc::new(seal), changing: Mutex::new(()), spf }
    }

    /// Everything as it is now.
    pub(crate) fn book(&self) -> Arc<Book> {
        Arc::clone(&self.book.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn unseal(&self, domain: &str, key: &Key) -> Result<zeroize::Zeroizing<Vec<u8>>, ChangeError> {
        self.seal
            .unseal(&seal_name(domain, key), &key.sealed)
            .map_err(|error| ChangeError::Failed(error.to_string()))
    }

    /// Writes, then shows.
    async fn commit(&self, changes: Vec<Change>, show: impl FnOnce(&mut Book)) -> Result<(), ChangeError> {
        let store = Arc::clone(&self.store);
        spawn_blocking(move || store.change(&changes)).await.map_err(failed)??;
        let mut book = Book::clone(&self.book());
        show(&mut book);
        *self.book.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(book);
        Ok(())
    }

    pub(crate) async fn create_account(
        &self,
        name: &str,
        plan: Plan,
        quota: Option<u64>,
        managed_by: Owner,
    ) -> Result<Account, ChangeError> {
        check_name("an account's name", name)?;
        let _turn = self.changing.lock().await;
        if self.book().account(name).is_some() {
            return Err(ChangeError::Exists(format!("there is an account {name} already")));
        }
        let account = Account {
            id: format!("acc-{}", random_text(16)),
            name: name.into(),
            plan,
            recipients_per_day: quota,
            suspended: None,
            managed_by,
            revision: 1,
            created_at_ms: now_millis(),
        };
        let changes = vec![Kept::change(None, Some(&account))];
        self.commit(changes, |book| book.put_account(account.clone())).await?;
        Ok(account)
    }

    pub(crate) async fn update_account(
        &self,
        account: &str,
        change: AccountChange,
        by: Owner,
    ) -> Result<Account, ChangeError> {
        let _turn = self.changing.lock().await;
        let old = self.account(account)?;
        check_owner("account", &old.name, old.managed_by, by)?;
        check_revision(&old.name, old.revision, change.revision)?;
        let mut new = old.clone();
        let AccountChange { plan, quota, suspended, revision: _ } = change;
        new.plan = plan.unwrap_or(new.plan);
        new.recipients_per_day = quota.unwrap_or(new.recipients_per_day);
        new.suspended = suspended.unwrap_or(new.suspended);
        new.revision += 1;
        let changes = vec![Kept::change(Some(&old), Some(&new))];
        self.commit(changes, |book| book.put_account(new.clone())).await?;
        Ok(new)
    }

    /// Removes the account with all that is its own, unless another owner manages a part of it.
    pub(crate) async fn delete_account(&self, account: &str, by: Owner) -> Result<(), ChangeError> {
        let _turn = self.changing.lock().await;
        let book = self.book();
        let account = self.account(account)?;
        check_owner("account", &account.name, account.managed_by, by)?;
        let credentials: Vec<Credential> = book.credentials_of(&account.id).cloned().collect();
        let domains: Vec<Domain> = book.domains_of(&account.id).cloned().collect();
        for credential in &credentials {
            check_owner("credential", &credential.username, credential.managed_by, by)?;
        }
        for domain in &domains {
            check_owner("domain", &domain.name, domain.managed_by, by)?;
        }
        let mut changes = vec![Kept::change(Some(&account), None)];
        changes.extend(credentials.iter().map(|credential| Kept::change(Some(credential), None)));
        changes.extend(domains.iter().map(|domain| Kept::change(Some(domain), None)));
        self.commit(changes, |book| {
            credentials.iter().for_each(|credential| book.remove_credential(credential));
            domains.iter().for_each(|domain| book.remove_domain(&domain.name));
            book.remove_account(&account);
        })
        .await
    }

    /// The credential, and the secret when one was made.
    pub(crate) async fn create_credential(
        &self,
        new: NewCredential,
        managed_by: Owner,
    ) -> Result<(Credential, Option<String>), ChangeError> {
        let NewCredential { account, username, password, description } = new;
        let username = if username.is_empty() { format!("user-{}", random_text(8)) } else { username };
        check_name("a user name", &username)?;
        if username.eq_ignore_ascii_case("apikey") {
            let text = "the user name `apikey` stands for every secret; choose another";
            return Err(ChangeError::Invalid(text.into()));
        }
        if password.len() > PASSWORD_OCTETS_MAX {
            return Err(ChangeError::Invalid(format!("a password has at most {PASSWORD_OCTETS_MAX} octets")));
        }
        let (proof, secret) = if password.is_empty() {
            let secret = new_secret();
            (Proof::Secret(fingerprint(secret.as_bytes())), Some(secret))
        } else {
            let hash = spawn_blocking(move || hash_password(&password)).await.map_err(failed)?;
            (Proof::Password(hash.map_err(ChangeError::Failed)?), None)
        };
        let _turn = self.changing.lock().await;
        let account = self.account(&account)?;
        if self.book().credential_of_user(&username).is_some() {
            return Err(ChangeError::Exists(format!(
                "there is a credential with user name {username} already"
            )));
        }
        let credential = Credential {
            id: format!("cred-{}", random_text(16)),
            account_id: account.id,
            username,
            description,
            proof,
            managed_by,
            revision: 1,
            created_at_ms: now_millis(),
        };
        let changes = vec![Kept::change(None, Some(&credential))];
        self.commit(changes, |book| book.put_credential(credential.clone())).await?;
        Ok((credential, secret))
    }

    pub(crate) async fn revoke_credential(&self, credential: &str, by: Owner) -> Result<(), ChangeError> {
        let _turn = self.changing.lock().await;
        let found = self.book().credential(credential).cloned();
        let credential =
            found.ok_or_else(|| ChangeError::NotFound(format!("there is no credential {credential}")))?;
        check_owner("credential", &credential.username, credential.managed_by, by)?;
        let changes = vec![Kept::change(Some(&credential), None)];
        self.commit(changes, |book| book.remove_credential(&credential)).await
    }

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
        let _turn = self.changing.lock().await;
        let account = self.account(account)?;
        check_free(&self.book(), &name, subdomains, &account.id)?;
        if self.book().domains.contains_key(name.as_str()) {
            return Err(ChangeError::Exists(format!("the domain {name} is registered already")));
        }
        let domain = Domain {
            id: format!("dom-{}", random_text(16)),
            account_id: account.id,
            name: name.as_str().into(),
            subdomains,
            keys,
            managed_by,
            revision: 1,
            created_at_ms: now_millis(),
        };
        let changes = vec![Kept::change(None, Some(&domain))];
        self.commit(changes, |book| book.put_domain(domain.clone())).await?;
        Ok(domain)
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
        let _turn = self.changing.lock().await;
        let old = self.domain(&name)?;
        check_owner("domain", &old.name, old.managed_by, by)?;
        check_revision(&old.name, old.revision, revision)?;
        let mut new = old.clone();
        if let Some(subdomains) = subdomains {
            check_free(&self.book(), &name, subdomains, &old.account_id)?;
            new.subdomains = subdomains;
        }
        new.keys.extend(made);
        check_key_count(new.keys.len())?;
        for (selector, state) in key_states {
            let key = new.keys.iter_mut().find(|key| key.selector == selector);
            let key = key.ok_or_else(|| {
                ChangeError::NotFound(format!("{name} has no key with selector {selector}"))
            })?;
            if key.state != state {
                (key.state, key.state_since_ms) = (state, now_millis());
            }
        }
        if !new.keys.iter().any(|key| key.state == KeyState::Active) {
            let text = format!(
                "{name} would have no active key, and its mail couldn't be signed; activate another key first"
            );
            return Err(ChangeError::Invalid(text));
        }
        new.revision += 1;
        let changes = vec![Kept::change(Some(&old), Some(&new))];
        self.commit(changes, |book| book.put_domain(new.clone())).await?;
        Ok(new)
    }

    pub(crate) async fn delete_domain(&self, name: &str, by: Owner) -> Result<(), ChangeError> {
        let name = parse_name(name)?;
        let _turn = self.changing.lock().await;
        let domain = self.domain(&name)?;
        check_owner("domain", &domain.name, domain.managed_by, by)?;
        let changes = vec![Kept::change(Some(&domain), None)];
        self.commit(changes, |book| book.remove_domain(&domain.name)).await
    }

    pub(crate) async fn ensure_demo(
        &self,
        account: &str,
        user: &str,
        password: &str,
        domain: &str,
    ) -> Result<(), ChangeError> {
        let (book, owner) = (self.book(), Owner::CommandLine);
        if book.account(account).is_none() {
            self.create_account(account, Plan::Unlimited, None, owner).await?;
        }
        if book.credential_of_user(user).is_none() {
            let (account, username) = (account.to_owned(), user.to_owned());
            let password = password.as_bytes().to_vec();
            let new = NewCredential { account, username, password, description: String::new() };
            self.create_credential(new, owner).await?;
        }
        if !book.domains.contains_key(domain) {
            self.create_domain(account, domain, false, Vec::new(), owner).await?;
        }
        Ok(())
    }

    pub(crate) fn account(&self, id_or_name: &str) -> Result<Account, ChangeError> {
        let found = self.book().account(id_or_name).cloned();
        found.ok_or_else(|| ChangeError::NotFound(format!("there is no account {id_or_name}")))
    }

    pub(crate) fn domain(&self, name: &Name) -> Result<Domain, ChangeError> {
        let found = self.book().domains.get(name.as_str()).cloned();
        found.ok_or_else(|| {
            let text = format!("the domain {name} isn't registered; add it with `stagepost domain add {name} --account ACCOUNT`");
            ChangeError::NotFound(text)
        })
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
    };
    let der = pair.to_pkcs8_der().map_err(failed)?;
    key.sealed = seal.seal(&seal_name(domain.as_str(), &key), &der).map_err(failed)?;
    Ok(key)
}

fn failed(error: impl ToString) -> ChangeError {
    ChangeError::Failed(error.to_string())
}

pub(crate) fn parse_name(text: &str) -> Result<Name, ChangeError> {
    text.trim_end_matches('.')
        .parse()
        .map_err(|error| ChangeError::Invalid(format!("{text:?} is no domain name: {error}")))
}

fn check_name(what: &str, name: &str) -> Result<(), ChangeError> {
    let allowed = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.@+".contains(&octet);
    if (1..=NAME_OCTETS_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(ChangeError::Invalid(format!(
        "{what} has 1 to {NAME_OCTETS_MAX} letters, digits or . _ - + @, not {name:?}"
    )))
}

fn check_owner(what: &str, name: &str, owner: Owner, by: Owner) -> Result<(), ChangeError> {
    if owner == by {
        return Ok(());
    }
    let text = format!("the {what} {name} is managed by {}: change it there", owner.as_str());
    Err(ChangeError::NotOwner(text))
}

fn check_revision(name: &str, stored: u64, wanted: Option<u64>) -> Result<(), ChangeError> {
    match wanted {
        Some(wanted) if wanted != stored => Err(ChangeError::Conflict(format!(
            "{name} is at revision {stored}, not {wanted}; look at it again"
        ))),
        _ => Ok(()),
    }
}

fn check_key_count(count: usize) -> Result<(), ChangeError> {
    if count <= DOMAIN_KEYS_MAX {
        return Ok(());
    }
    Err(ChangeError::Invalid(format!("a domain has at most {DOMAIN_KEYS_MAX} keys")))
}

/// No account may send for names of another's domain: neither below one that stands for its subdomains, nor the other way round.
fn check_free(book: &Book, name: &Name, subdomains: bool, account_id: &str) -> Result<(), ChangeError> {
    let others = book.domains.values().filter(|domain| domain.account_id != account_id);
    for other in others {
        let Ok(registered) = other.name.parse::<Name>() else { continue };
        let below = other.subdomains && name.is_at_or_below(&registered);
        let above = subdomains && registered.is_at_or_below(name);
        if below || above || registered == *name {
            let text = format!("the domain {registered} is registered for another account");
            return Err(ChangeError::Exists(text));
        }
    }
    Ok(())
}
