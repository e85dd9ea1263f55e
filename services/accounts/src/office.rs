//! Changes: each is checked against the book, written by compare-and-set, and only then seen.

pub(crate) mod domains;
pub(crate) mod owned;

use std::sync::Arc;
use std::time::Duration;

use runtime::clock::now_millis;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::OpenError;
use crate::book::{Book, Kept as _, SEALING, seal_name};
use crate::mirror::{Mirror, Standing};
use crate::model::{Account, Credential, Key, Later, Origin, Owner, Plan, Proof};
use crate::seal::Seal;
use crate::secret::{fingerprint, hash_password, new_secret, random_text};
use crate::store::{Change, Position, Store, StoreError};

const NAME_OCTETS_MAX: usize = 64;
const PASSWORD_OCTETS_MAX: usize = 1024;
/// How long a change is decided anew while other replicas are quicker.
const DECIDING_MAX: Duration = Duration::from_secs(10);
/// How long what another replica changed may take until it is in the book.
const CATCHING_UP_MAX: Duration = Duration::from_secs(2);

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
    /// Nothing can be changed now.
    #[error("{0}")]
    Unavailable(String),
    /// The store or a key can't be used.
    #[error("{0}")]
    Failed(String),
}

impl From<StoreError> for ChangeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict => Self::Conflict(error.to_string()),
            StoreError::Away(_) | StoreError::Unanswered(_) => Self::Unavailable(error.to_string()),
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

/// What a credential is made with.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewCredential {
    pub(crate) account: String,
    pub(crate) username: String,
    pub(crate) password: Vec<u8>,
    pub(crate) description: String,
}

pub(crate) struct Office {
    mirror: Arc<Mirror>,
    store: Arc<dyn Store>,
    seal: Arc<Seal>,
    /// One change at a time in this process; others are told by the position that a change was decided on.
    changing: Arc<Mutex<()>>,
    pub(crate) spf: String,
}

impl Office {
    pub(crate) fn new(mirror: Arc<Mirror>, store: Arc<dyn Store>, seal: Seal, spf: String) -> Self {
        Self { mirror, store, seal: Arc::new(seal), changing: Arc::default(), spf }
    }

    /// Everything as it is now.
    pub(crate) fn book(&self) -> Arc<Book> {
        self.mirror.view().0
    }

    /// Whether the book is what the store holds, now and when that changes.
    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.mirror.standing()
    }

    pub(crate) fn unseal(&self, domain: &str, key: &Key) -> Result<zeroize::Zeroizing<Vec<u8>>, ChangeError> {
        self.seal
            .unseal(&seal_name(domain, key), &key.sealed)
            .map_err(|error| ChangeError::Failed(error.to_string()))
    }

    /// Makes sure that all who share the store seal with the same key: the first keeps a sign of it there.
    pub(crate) async fn agree_on_seal(&self) -> Result<(), OpenError> {
        let sealed = self.seal.sealed_check()?;
        let decision = |book: &Book| match &book.sealing {
            Some(kept) => Ok((Vec::new(), self.seal.check(kept))),
            None => {
                let value = Some(sealed.clone().into_bytes());
                Ok((vec![Change { key: SEALING.into(), value }], Ok(())))
            }
        };
        Ok(self.decide(decision).await.map_err(OpenError::Agreement)??)
    }

    /// Decides on the book, writes, then shows. When somebody was quicker, nothing was written, and what changes are made is
    /// decided again on what the book says then.
    async fn decide<T>(
        &self,
        decision: impl Fn(&Book) -> Result<(Vec<Change>, T), ChangeError>,
    ) -> Result<T, ChangeError> {
        let deadline = Instant::now() + DECIDING_MAX;
        loop {
            let turn = Arc::clone(&self.changing).lock_owned().await;
            let (book, seen) = self.mirror.view();
            let (changes, answer) = decision(&book)?;
            // A name that is given may be taken there already.
            if let Some((key, cause)) = book.unreadable.first_key_value().filter(|_| !changes.is_empty()) {
                let cause = format!("nothing can be changed: the entry {key} can't be read: {cause}");
                return Err(ChangeError::Unavailable(cause));
            }
            drop(book);
            match self.commit(turn, seen, changes).await? {
                Err(StoreError::Conflict) if Instant::now() < deadline => {
                    self.mirror.beyond(seen, CATCHING_UP_MAX).await;
                }
                result => return Ok(result.map(|()| answer)?),
            }
        }
    }

    /// Goes on when the caller has given up: what is written is shown.
    async fn commit(
        &self,
        turn: OwnedMutexGuard<()>,
        seen: Position,
        changes: Vec<Change>,
    ) -> Result<Result<(), StoreError>, ChangeError> {
        let (store, mirror) = (Arc::clone(&self.store), Arc::clone(&self.mirror));
        let work = async move {
            let position = store.change(seen, &changes).await?;
            mirror.apply(&changes, position);
            drop(turn);
            Ok(())
        };
        tokio::spawn(work).await.map_err(failed)
    }

    pub(crate) async fn create_account(
        &self,
        name: &str,
        plan: Plan,
        quota: Option<u64>,
        managed_by: Owner,
    ) -> Result<Account, ChangeError> {
        check_name("an account's name", name)?;
        let account = Account {
            id: format!("acc-{}", random_text(16)),
            name: name.into(),
            plan,
            recipients_per_day: quota,
            suspended: None,
            origin: Origin::default(),
            managed_by,
            revision: 1,
            created_at_ms: now_millis(),
            later: Later::new(),
        };
        self.decide(|book| {
            if book.account(name).is_some() {
                return Err(ChangeError::Exists(format!("there is an account {name} already")));
            }
            Ok((vec![account.put()], account.clone()))
        })
        .await
    }

    pub(crate) async fn update_account(
        &self,
        account: &str,
        change: AccountChange,
        by: Owner,
    ) -> Result<Account, ChangeError> {
        let AccountChange { plan, quota, suspended, revision } = change;
        self.decide(|book| {
            let mut account = find_account(book, account)?.clone();
            check_owner("account", &account.name, account.managed_by, by)?;
            check_revision(&account.name, account.revision, revision)?;
            account.plan = plan.unwrap_or(account.plan);
            account.recipients_per_day = quota.unwrap_or(account.recipients_per_day);
            account.suspended = suspended.clone().unwrap_or(account.suspended);
            account.revision += 1;
            Ok((vec![account.put()], account))
        })
        .await
    }

    /// Removes the account with all that is its own, unless another owner manages a part of it.
    pub(crate) async fn delete_account(&self, account: &str, by: Owner) -> Result<(), ChangeError> {
        self.decide(|book| {
            let account = find_account(book, account)?;
            check_owner("account", &account.name, account.managed_by, by)?;
            let mut changes = vec![account.remove()];
            for credential in book.credentials_of(&account.id) {
                check_owner("credential", &credential.username, credential.managed_by, by)?;
                changes.push(credential.remove());
            }
            for domain in book.domains_of(&account.id) {
                check_owner("domain", &domain.name, domain.managed_by, by)?;
                changes.push(domain.remove());
            }
            Ok((changes, ()))
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
        let mut credential = Credential {
            id: format!("cred-{}", random_text(16)),
            account_id: String::new(),
            username,
            description,
            proof,
            sender_domains: Vec::new(),
            limit: None,
            origin: Origin::default(),
            managed_by,
            revision: 1,
            created_at_ms: now_millis(),
            later: Later::new(),
        };
        credential.account_id = self
            .decide(|book| {
                let account_id = find_account(book, &account)?.id.clone();
                let username = &credential.username;
                if book.credential_of_user(username).is_some() {
                    let text = format!("there is a credential with user name {username} already");
                    return Err(ChangeError::Exists(text));
                }
                let kept = Credential { account_id: account_id.clone(), ..credential.clone() };
                Ok((vec![kept.put()], account_id))
            })
            .await?;
        Ok((credential, secret))
    }

    pub(crate) async fn revoke_credential(&self, credential: &str, by: Owner) -> Result<(), ChangeError> {
        self.decide(|book| {
            let found = book.credential(credential);
            let credential =
                found.ok_or_else(|| ChangeError::NotFound(format!("there is no credential {credential}")))?;
            check_owner("credential", &credential.username, credential.managed_by, by)?;
            Ok((vec![credential.remove()], ()))
        })
        .await
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
        find_account(&self.book(), id_or_name).cloned()
    }
}

fn find_account<'a>(book: &'a Book, id_or_name: &str) -> Result<&'a Account, ChangeError> {
    let found = book.account(id_or_name);
    found.ok_or_else(|| ChangeError::NotFound(format!("there is no account {id_or_name}")))
}

fn failed(error: impl ToString) -> ChangeError {
    ChangeError::Failed(error.to_string())
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
