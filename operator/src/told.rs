//! What accounts has been told, and telling it.
//!
//! Everything has an origin, the id of the object that it is of, and a digest of what is said of it. What accounts was told
//! already isn't told again; what it lost is found by a sync.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use proto::accounts::v1::administration_client::AdministrationClient;
use proto::accounts::v1::{
    self as wire, ManagedBy, PutAccountRequest, PutCredentialRequest, PutDomainRequest, SyncRequest,
    WithdrawRequest,
};
use tokio::sync::RwLock;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

/// A call that takes longer has failed.
const CALL_MAX: Duration = Duration::from_secs(10);
const OPERATOR: i32 = ManagedBy::Operator as i32;

/// Why accounts doesn't have it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TellError {
    /// It won't help to say it again.
    #[error("{0}")]
    Refused(String),
    /// The account isn't known, yet.
    #[error("{0}")]
    NoAccount(String),
    /// It may be there or not.
    #[error("accounts doesn't answer: {0}")]
    Away(String),
}

impl From<Status> for TellError {
    fn from(status: Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::NoAccount(text),
            Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition => Self::Refused(text),
            _ => Self::Away(if text.is_empty() { status.code().to_string() } else { text }),
        }
    }
}

/// What is said of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) origin: String,
    pub(crate) digest: String,
}

impl Said {
    /// With the digest of parts in their order.
    pub(crate) fn of(origin: impl Into<String>, parts: &[&str]) -> Self {
        let mut text = String::new();
        for part in parts {
            text.push_str(&part.len().to_string());
            text.push(':');
            text.push_str(part);
        }
        Self { origin: origin.into(), digest: hex(digest(&SHA256, text.as_bytes()).as_ref()) }
    }

    fn wire(&self) -> Option<wire::Origin> {
        Some(wire::Origin { origin: self.origin.clone(), digest: self.digest.clone() })
    }
}

pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Accounts, and what it was told.
pub(crate) struct Told {
    client: AdministrationClient<runtime::rpc::Client>,
    /// By origin.
    known: Mutex<HashMap<String, Known>>,
    /// A sync is alone: what is told while one runs could be removed by it.
    gate: RwLock<()>,
}

struct Known {
    digest: String,
    told_at: Instant,
}

/// What was told a moment ago may not be in the objects that this process has seen.
const YOUNG: Duration = Duration::from_secs(30);

impl Told {
    pub(crate) fn new(client: AdministrationClient<runtime::rpc::Client>) -> Self {
        Self { client, known: Mutex::default(), gate: RwLock::default() }
    }

    pub(crate) fn has(&self, said: &Said) -> bool {
        self.known().get(&said.origin).is_some_and(|known| known.digest == said.digest)
    }

    pub(crate) async fn account(
        &self,
        said: &Said,
        request: PutAccountRequest,
    ) -> Result<wire::Account, TellError> {
        let _turn = self.gate.read().await;
        let request = PutAccountRequest { managed_by: OPERATOR, origin: said.wire(), ..request };
        let put = self.client.clone().put_account(within(request)).await?.into_inner();
        self.note(said);
        Ok(put)
    }

    pub(crate) async fn credential(
        &self,
        said: &Said,
        request: PutCredentialRequest,
    ) -> Result<(), TellError> {
        let _turn = self.gate.read().await;
        let request = PutCredentialRequest { managed_by: OPERATOR, origin: said.wire(), ..request };
        self.client.clone().put_credential(within(request)).await?;
        self.note(said);
        Ok(())
    }

    pub(crate) async fn domain(&self, said: &Said, request: PutDomainRequest) -> Result<(), TellError> {
        let _turn = self.gate.read().await;
        let request = PutDomainRequest { managed_by: OPERATOR, origin: said.wire(), ..request };
        self.client.clone().put_domain(within(request)).await?;
        self.note(said);
        Ok(())
    }

    /// Takes back what was told of an origin.
    pub(crate) async fn withdraw(&self, origin: &str) -> Result<(), TellError> {
        self.known().remove(origin);
        let request = WithdrawRequest { managed_by: OPERATOR, origin: origin.into() };
        self.client.clone().withdraw(within(request)).await?;
        Ok(())
    }

    /// Tells everything that `list` says there is; the origins that must be told (again).
    pub(crate) async fn sync(
        &self,
        list: impl FnOnce() -> Vec<Said> + Send,
    ) -> Result<Vec<String>, TellError> {
        let _alone = self.gate.write().await;
        let mut all = list();
        let listed: HashSet<String> = all.iter().map(|said| said.origin.clone()).collect();
        let young: Vec<Said> = self
            .known()
            .iter()
            .filter(|(origin, known)| known.told_at.elapsed() < YOUNG && !listed.contains(*origin))
            .map(|(origin, known)| Said { origin: origin.clone(), digest: known.digest.clone() })
            .collect();
        all.extend(young);
        let origins = all.iter().filter_map(Said::wire).collect();
        let request = SyncRequest { managed_by: OPERATOR, origins };
        let answer = self.client.clone().sync(within(request)).await?.into_inner();
        for what in &answer.removed {
            tracing::info!(what, "accounts had something that has no object any more; it is removed");
        }
        for what in &answer.kept {
            tracing::warn!(what, "accounts keeps something that has no object any more");
        }
        let differing: HashSet<&String> = answer.differing.iter().collect();
        let mut known = self.known();
        let times: HashMap<String, Instant> =
            known.drain().map(|(origin, known)| (origin, known.told_at)).collect();
        for Said { origin, digest } in all.into_iter().filter(|said| !differing.contains(&said.origin)) {
            let long_ago = || Instant::now().checked_sub(YOUNG).unwrap_or_else(Instant::now);
            let told_at = times.get(&origin).copied().unwrap_or_else(long_ago);
            known.insert(origin, Known { digest, told_at });
        }
        drop(known);
        Ok(answer.differing)
    }

    fn note(&self, said: &Said) {
        let known = Known { digest: said.digest.clone(), told_at: Instant::now() };
        self.known().insert(said.origin.clone(), known);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn within<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_MAX);
    request
}
