//! Signing what leaves: whose keys, and whether the account may send at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dkim::{BodyHash, SignError, Signer, SigningKey, SigningPool};
use mail::AccountId;
use proto::accounts::v1 as accounts;
use proto::accounts::v1::signing_client::SigningClient;
use smtp::address::Domain;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::cache::Cache;

/// What accounts said is asked again after this time: so long a suspended account's mail may still leave.
const HOLDS: Duration = Duration::from_secs(30);
/// What accounts couldn't say is asked again soon.
const FAILURE_HOLDS: Duration = Duration::from_secs(2);
const CACHED_MAX: usize = 50_000;

/// Whether an author domain of an account may send, and with which keys.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// With these keys, at least one.
    Keys(Arc<[Signer]>),
    /// The account doesn't have the domain, or the domain has no active key.
    NoKeys(Arc<str>),
    /// The account is suspended, with its reason.
    Suspended(Arc<str>),
    /// Accounts gave no usable answer.
    Unknown(Arc<str>),
}

/// Asks accounts and signs.
pub(crate) struct Signatures {
    client: SigningClient<runtime::rpc::Client>,
    answer_within: Duration,
    standings: Cache<(AccountId, Domain), Standing>,
    pool: SigningPool,
}

impl Signatures {
    pub(crate) fn new(
        client: SigningClient<runtime::rpc::Client>,
        answer_within: Duration,
        threads: usize,
    ) -> std::io::Result<Self> {
        let pool = SigningPool::new(threads)?;
        Ok(Self { client, answer_within, standings: Cache::new(CACHED_MAX), pool })
    }

    pub(crate) async fn standing(&self, account: &AccountId, domain: &Domain) -> Standing {
        let key = (account.clone(), domain.clone());
        let ask = || async {
            let standing = self.ask(account, domain).await;
            let holds = if matches!(standing, Standing::Unknown(_)) { FAILURE_HOLDS } else { HOLDS };
            (standing, Instant::now() + holds)
        };
        self.standings.value(&key, ask).await
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
        self.standings.forget(|(known, _)| known == account);
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

    async fn ask(&self, account: &AccountId, domain: &Domain) -> Standing {
        match self.suspension(account).await {
            Ok(Some(reason)) => return Standing::Suspended(reason.into()),
            Ok(None) => {}
            Err(status) => return unknown(&status),
        }
        let request = accounts::SigningKeysRequest {
            account_id: account.as_str().to_owned(),
            domain: domain.as_str().to_owned(),
        };
        let mut client = self.client.clone();
        match timeout(self.answer_within, client.signing_keys(request)).await {
            Ok(Ok(answer)) => read(answer.into_inner()),
            Ok(Err(status)) if matches!(status.code(), Code::NotFound | Code::PermissionDenied) => {
                Standing::NoKeys(format!("no signing key for {domain}: {}", status.message()).into())
            }
            Ok(Err(status)) => unknown(&status),
            Err(_) => Standing::Unknown("accounts gave no answer in time".into()),
        }
    }
}

fn unknown(status: &Status) -> Standing {
    Standing::Unknown(format!("accounts gave no answer: {}", status.message()).into())
}

fn read(answer: accounts::SigningKeysResponse) -> Standing {
    let accounts::SigningKeysResponse { domain, keys } = answer;
    let signers: Result<Arc<[Signer]>, String> = keys.into_iter().map(|key| signer(&domain, key)).collect();
    match signers {
        Ok(signers) if signers.is_empty() => {
            Standing::NoKeys(format!("the domain {domain} has no active signing key").into())
        }
        Ok(signers) => Standing::Keys(signers),
        Err(cause) => Standing::Unknown(cause.into()),
    }
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
