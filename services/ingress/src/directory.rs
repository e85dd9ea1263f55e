//! What accounts says about who may send, kept for a while.
//!
//! ```text
//! AUTH --Authenticate--> Member --profile--> young: as it is
//!                                            older: as it is, asked again in the background
//!                                            old:   asked again first; accounts away: as it was, for a while
//! ```
//!
//! All sessions of a credential share one cell, so accounts is asked once whatever their number.

mod profile;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use mail::AccountId;
use proto::accounts::v1::directory_client::DirectoryClient;
use proto::accounts::v1::{AuthenticateRequest, AuthorizeRequest};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Status};
use tracing::{Instrument as _, Span};
use zeroize::Zeroizing;

pub(crate) use profile::{OwnLimit, Profile};

use crate::config::DirectoryTimes;
use crate::spans;

/// After accounts failed to answer for a credential, it is left alone for this long.
const PAUSE: Duration = Duration::from_secs(3);

/// Asks accounts.
pub(crate) struct Directory {
    client: DirectoryClient<runtime::rpc::Client>,
    times: DirectoryTimes,
    cells: Mutex<HashMap<Key, Weak<Cell>>>,
    refreshes: TaskTracker,
}

type Key = (AccountId, String);

/// Why a login came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("user name and password don't fit")]
    Wrong,
    #[error("accounts can't tell whether user name and password fit: {0}")]
    Unavailable(String),
}

/// Why it isn't known what an account may do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("the account or the credential is gone")]
    Gone,
    #[error("accounts can't tell what the account may do: {0}")]
    Unavailable(String),
}

/// Who logged in.
#[derive(Clone)]
pub(crate) struct Member(Arc<Cell>);

struct Cell {
    key: Key,
    state: Mutex<State>,
    refreshed: Notify,
}

struct State {
    known: Known,
    asked_at: Instant,
    refresh: Refresh,
}

#[derive(Clone)]
enum Known {
    Profile(Arc<Profile>),
    Gone,
}

enum Refresh {
    Idle,
    Running,
    Failed { at: Instant, cause: String },
}

/// What a session does about the age of a profile.
enum Step {
    Use(Arc<Profile>),
    Await { old: Arc<Profile>, age: Duration },
}

impl Directory {
    pub(crate) fn new(client: DirectoryClient<runtime::rpc::Client>, times: DirectoryTimes) -> Arc<Self> {
        Arc::new(Self { client, times, cells: Mutex::default(), refreshes: TaskTracker::new() })
    }

    /// Whether the password is the user's; accounts decides, within the deadline.
    pub(crate) async fn authenticate(
        &self,
        username: String,
        password: Zeroizing<Vec<u8>>,
        client: IpAddr,
    ) -> Result<Member, LoginError> {
        let asked_at = Instant::now();
        // Wiped when the last holder is done with it.
        let password = Bytes::from_owner(password);
        let request = AuthenticateRequest { username, password, client_address: client.to_string() };
        let mut directory = self.client.clone();
        let answer = self.within(request, async |request| directory.authenticate(request).await).await;
        let answer = answer.map_err(|status| match status.code() {
            Code::Unauthenticated => LoginError::Wrong,
            _ => LoginError::Unavailable(describe(&status)),
        })?;
        let profile = answer.profile.filter(|profile| profile.account_id == answer.account_id);
        let profile = profile.and_then(Profile::from_wire);
        let profile = profile.ok_or_else(|| LoginError::Unavailable("the answer makes no sense".into()))?;
        Ok(self.member((profile.account.clone(), answer.credential_id), profile, asked_at))
    }

    /// What the member's account may do now.
    pub(crate) async fn profile(self: &Arc<Self>, member: &Member) -> Result<Arc<Profile>, ProfileError> {
        let cell = &member.0;
        let refreshed = cell.refreshed.notified();
        let mut refreshed = std::pin::pin!(refreshed);
        refreshed.as_mut().enable();
        let (old, age) = match self.look(cell)? {
            Step::Use(profile) => {
                Span::current().record("cached", true);
                return Ok(profile);
            }
            Step::Await { old, age } => (old, age),
        };
        Span::current().record("cached", false);
        // A refresh ends by its own deadline; this one is for a runtime that is shutting down.
        let _ = timeout(self.times.answer + PAUSE, refreshed).await;
        let state = cell.lock();
        match (&state.known, &state.refresh) {
            (Known::Gone, _) => Err(ProfileError::Gone),
            (Known::Profile(profile), Refresh::Idle) => Ok(Arc::clone(profile)),
            _ if age < self.times.age_max => Ok(old),
            (_, Refresh::Failed { cause, .. }) => Err(ProfileError::Unavailable(cause.clone())),
            (_, Refresh::Running) => Err(ProfileError::Unavailable("no answer yet".into())),
        }
    }

    /// Ends when no refresh runs any more.
    pub(crate) async fn close(&self) {
        self.refreshes.close();
        self.refreshes.wait().await;
    }

    fn look(self: &Arc<Self>, cell: &Arc<Cell>) -> Result<Step, ProfileError> {
        let mut state = cell.lock();
        let Known::Profile(profile) = &state.known else { return Err(ProfileError::Gone) };
        let (profile, now) = (Arc::clone(profile), Instant::now());
        let age = now.saturating_duration_since(state.asked_at);
        if age < self.times.refresh {
            return Ok(Step::Use(profile));
        }
        match &state.refresh {
            Refresh::Failed { at, .. }
                if now.saturating_duration_since(*at) < PAUSE && age < self.times.age_max =>
            {
                return Ok(Step::Use(profile));
            }
            Refresh::Failed { .. } | Refresh::Idle => {
                state.refresh = Refresh::Running;
                let refresh = Arc::clone(self).refresh(Arc::clone(cell));
                self.refreshes.spawn(refresh.instrument(spans::refresh()));
            }
            Refresh::Running => {}
        }
        // Half as old again as wanted is still well within what is promised for a suspension, and nobody has to wait.
        let bearable = age < self.times.refresh + self.times.refresh / 2;
        Ok(if bearable { Step::Use(profile) } else { Step::Await { old: profile, age } })
    }

    async fn refresh(self: Arc<Self>, cell: Arc<Cell>) {
        let asked_at = Instant::now();
        let (account, credential) = &cell.key;
        let answer = self.authorize(account.to_string(), credential.clone()).await;
        let mut state = cell.lock();
        state.refresh = Refresh::Idle;
        match answer {
            Ok(profile) if profile.account == *account => {
                (state.known, state.asked_at) = (Known::Profile(Arc::new(profile)), asked_at);
            }
            Err(ProfileError::Gone) => state.known = Known::Gone,
            other => {
                let cause = match other {
                    Err(ProfileError::Unavailable(cause)) => cause,
                    _ => String::from("the answer is about another account"),
                };
                tracing::warn!(%account, %cause, "accounts gave no answer; going on with what it said before");
                state.refresh = Refresh::Failed { at: Instant::now(), cause };
            }
        }
        drop(state);
        cell.refreshed.notify_waiters();
    }

    async fn authorize(&self, account_id: String, credential_id: String) -> Result<Profile, ProfileError> {
        let request = AuthorizeRequest { account_id, credential_id };
        let mut directory = self.client.clone();
        let answer = self.within(request, async |request| directory.authorize(request).await).await;
        let answer = answer.map_err(|status| match status.code() {
            Code::NotFound => ProfileError::Gone,
            _ => ProfileError::Unavailable(describe(&status)),
        })?;
        let profile = answer.profile.and_then(Profile::from_wire);
        profile.ok_or_else(|| ProfileError::Unavailable("the answer makes no sense".into()))
    }

    async fn within<Q, A>(
        &self,
        request: Q,
        call: impl AsyncFnOnce(Request<Q>) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, Status> {
        let mut request = Request::new(request);
        request.set_timeout(self.times.answer);
        match timeout(self.times.answer, call(request)).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    /// The cell of a credential, shared with its other sessions.
    fn member(&self, key: Key, profile: Profile, asked_at: Instant) -> Member {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let known = Known::Profile(Arc::new(profile));
        if let Some(cell) = cells.get(&key).and_then(Weak::upgrade) {
            let mut state = cell.lock();
            if state.asked_at <= asked_at {
                (state.known, state.asked_at) = (known, asked_at);
            }
            drop(state);
            return Member(cell);
        }
        if cells.len() == cells.capacity() {
            cells.retain(|_, cell| cell.strong_count() > 0);
        }
        let state = Mutex::new(State { known, asked_at, refresh: Refresh::Idle });
        let cell = Arc::new(Cell { key: key.clone(), state, refreshed: Notify::new() });
        cells.insert(key, Arc::downgrade(&cell));
        Member(cell)
    }
}

impl Member {
    /// The account's id.
    pub(crate) fn account(&self) -> &AccountId {
        &self.0.key.0
    }
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(status: &Status) -> String {
    let message = status.message();
    if message.is_empty() { status.code().to_string() } else { message.to_owned() }
}
