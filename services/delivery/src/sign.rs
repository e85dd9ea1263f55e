//! Signing what leaves: whose keys, and whether the account may send at all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dkim::{BodyHash, SignError, Signer, SigningKey, SigningPool};
use mail::{AccountId, Timestamp, Unready};
use proto::accounts::v1 as accounts;
use proto::accounts::v1::signing_client::SigningClient;
use smtp::address::Domain;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::cache::{Cache, lock};

/// What accounts said is asked again after this time: so long a suspended account's mail may still leave.
const HOLDS: Duration = Duration::from_secs(30);
/// Mail of a domain that isn't ready waits: that it is ready must be known soon.
const UNREADY_HOLDS: Duration = Duration::from_secs(10);
/// What accounts couldn't say is asked again soon.
const FAILURE_HOLDS: Duration = Duration::from_secs(2);
const CACHED_MAX: usize = 50_000;

/// What accounts says of an author domain of an account.
#[derive(Clone, Debug)]
pub(crate) struct Author {
    pub(crate) standing: Standing,
    /// What the domain lacks, if it isn't ready to send; while accounts gives no answer, as it said last.
    pub(crate) unready: Option<Arc<Unready>>,
}

/// Whether an author domain of an account may send, and with which keys.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// With these keys, at least one.
    Keys(Arc<[Signer]>),
    /// The account doesn't have the domain, or the domain has no active key.
    NoKeys(Arc<str>),
    /// The domain isn't ready to send, and a key is to be active once it is.
    KeyToCome(Arc<str>),
    /// The account is suspended, with its reason.
    Suspended(Arc<str>),
    /// Accounts gave no usable answer.
    Unknown(Arc<str>),
}

/// Asks accounts and signs.
pub(crate) struct Signatures {
    client: SigningClient<runtime::rpc::Client>,
    answer_within: Duration,
    authors: Cache<(AccountId, Domain), Author>,
    /// What accounts said last of those that weren't ready.
    unready: Mutex<HashMap<(AccountId, Domain), Arc<Unready>>>,
    pool: SigningPool,
}

impl Signatures {
    pub(crate) fn new(
        client: SigningClient<runtime::rpc::Client>,
        answer_within: Duration,
        threads: usize,
    ) -> std::io::Result<Self> {
        let pool = SigningPool::new(threads)?;
        let authors = Cache::new(CACHED_MAX);
        Ok(Self { client, answer_within, authors, unready: Mutex::default(), pool })
    }

    pub(crate) async fn author(&self, account: &AccountId, domain: &Domain) -> Author {
        let key = (account.clone(), domain.clone());
        let ask = || async {
            let author = self.remembered(&key, self.ask(account, domain).await);
            let holds = match author {
                Author { standing: Standing::Unknown(_), .. } => FAILURE_HOLDS,
                Author { unready: Some(_), .. } => UNREADY_HOLDS,
                Author { unready: None, .. } => HOLDS,
            };
            (author, Instant::now() + holds)
        };
        self.authors.value(&key, ask).await
    }

    /// Notes what a domain lacks, or adds it to an answer that says nothing of it.
    fn remembered(&self, key: &(AccountId, Domain), author: Author) -> Author {
        let mut known = lock(&self.unready);
        match (&author.standing, &author.unready) {
            (Standing::Unknown(_) | Standing::Suspended(_), _) => {
                return Author { unready: known.get(key).cloned(), ..author };
            }
            (_, Some(unready)) if known.len() < CACHED_MAX || known.contains_key(key) => {
                known.insert(key.clone(), Arc::clone(unready));
            }
            (_, Some(_)) => {}
            (_, None) => drop(known.remove(key)),
        }
        author
    }

    /// The reason of an account's suspension, if it is suspended. An account that is gone isn't.
    pub(crate) async fn suspension(&self, account: &AccountId) -> Result<Option<String>, Status> {
        let request = accounts::AccountStateRequest { account_id: account.as_str().to_owned() };
        let mut client = self.client.clone();
        match timeout(self.answer_within, client.account_state(request)).await {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                Ok(answer.suspended.then_some(answer.suspended_reason))
            }
            Ok(Err(status)) if status.code() == Code::NotFound => Ok(None),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    /// An account's standing is asked for anew.
    pub(crate) fn forget(&self, account: &AccountId) {
        self.authors.forget(|(known, _)| known == account);
    }

    /// The signature fields for a header section, CRLF ended.
    pub(crate) async fn sign(
        &self,
        signers: Arc<[Signer]>,
        header: Bytes,
        body_hash: BodyHash,
        timestamp_secs: u64,
    ) -> Result<Arc<str>, SignError> {
        let (answer, signed) = oneshot::channel();
        let job = dkim::pool::Job { signers, header, body_hash, timestamp: timestamp_secs };
        self.pool.submit(job, move |fields| {
            // Nobody waits any more when the process ends.
            let _ = answer.send(fields);
        });
        let fields = signed.await.unwrap_or(Err(SignError::Panicked))?;
        // Signature fields are made of ASCII.
        Ok(String::from_utf8_lossy(&fields).into())
    }

    async fn ask(&self, account: &AccountId, domain: &Domain) -> Author {
        match self.suspension(account).await {
            Ok(Some(reason)) => return Standing::Suspended(reason.into()).into(),
            Ok(None) => {}
            Err(status) => return unknown(&status).into(),
        }
        let request = accounts::SigningKeysRequest {
            account_id: account.as_str().to_owned(),
            domain: domain.as_str().to_owned(),
        };
        let mut client = self.client.clone();
        match timeout(self.answer_within, client.signing_keys(request)).await {
            Ok(Ok(answer)) => read(answer.into_inner(), domain),
            Ok(Err(status)) if matches!(status.code(), Code::NotFound | Code::PermissionDenied) => {
                Standing::NoKeys(format!("no signing key for {domain}: {}", status.message()).into()).into()
            }
            Ok(Err(status)) => unknown(&status).into(),
            Err(_) => Standing::Unknown("accounts gave no answer in time".into()).into(),
        }
    }
}

impl From<Standing> for Author {
    fn from(standing: Standing) -> Self {
        Self { standing, unready: None }
    }
}

fn unknown(status: &Status) -> Standing {
    Standing::Unknown(format!("accounts gave no answer: {}", status.message()).into())
}

fn read(answer: accounts::SigningKeysResponse, author: &Domain) -> Author {
    let accounts::SigningKeysResponse { domain, keys, unready } = answer;
    let unready = unready.map(|accounts::Unready { reason, object, since_ms }| {
        let since = Timestamp(u64::try_from(since_ms).unwrap_or_default());
        Arc::new(Unready::new(&reason, &object, since))
    });
    let signers: Result<Arc<[Signer]>, String> = keys.into_iter().map(|key| signer(&domain, key)).collect();
    let standing = match (signers, &unready) {
        (Ok(signers), Some(unready)) if signers.is_empty() => {
            Standing::KeyToCome(unready.describe(author).into())
        }
        (Ok(signers), None) if signers.is_empty() => {
            Standing::NoKeys(format!("the domain {domain} has no active signing key").into())
        }
        (Ok(signers), _) => Standing::Keys(signers),
        (Err(cause), _) => Standing::Unknown(cause.into()),
    };
    Author { standing, unready }
}

fn signer(domain: &str, key: accounts::PrivateKey) -> Result<Signer, String> {
    let algorithm = match key.algorithm() {
        accounts::Algorithm::RsaSha256 => dkim::Algorithm::RsaSha256,
        accounts::Algorithm::Ed25519Sha256 => dkim::Algorithm::Ed25519Sha256,
        accounts::Algorithm::Unspecified => {
            return Err(format!("the key {} of {domain} is of an unknown kind", key.selector));
        }
    };
    let wrong = |cause: String| format!("the key {} of {domain} can't be used: {cause}", key.selector);
    let signing_key =
        SigningKey::from_pkcs8_der(algorithm, &key.pkcs8_der).map_err(|error| wrong(error.to_string()))?;
    Signer::new(domain, &key.selector, Arc::new(signing_key)).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use runtime::rpc::{self, Server, Token};

    use super::*;

    #[tokio::test]
    async fn what_a_domain_lacked_is_remembered_while_accounts_gives_no_answer() {
        let folder = tempfile::tempdir().unwrap();
        let token = Token::load_or_make(&folder.path().join("token")).unwrap();
        let nobody = rpc::connect(&Server::Unix(folder.path().join("nobody")), &token);
        let signatures = Signatures::new(SigningClient::new(nobody), Duration::from_millis(200), 1).unwrap();
        let account = AccountId::new("a1").unwrap();
        let (lacking, other): (Domain, Domain) =
            ("lacking.test".parse().unwrap(), "other.test".parse().unwrap());
        let key = (account.clone(), lacking.clone());
        let unready = Some(Arc::new(Unready::new("a record is missing", "", Timestamp(7))));
        let author = Author { standing: Standing::KeyToCome("".into()), unready: unready.clone() };
        assert_eq!(signatures.remembered(&key, author).unready, unready);
        let asked = signatures.author(&account, &lacking).await;
        assert!(matches!(asked.standing, Standing::Unknown(_)), "{asked:?}");
        assert_eq!(asked.unready, unready);
        assert_eq!(signatures.author(&account, &other).await.unready, None);
        // It is forgotten once accounts says that the domain lacks nothing.
        signatures.remembered(&key, Standing::NoKeys("".into()).into());
        assert_eq!(signatures.remembered(&key, Standing::Unknown("".into()).into()).unready, None);
    }
}
