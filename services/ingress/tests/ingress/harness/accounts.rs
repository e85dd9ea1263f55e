//! Accounts, as a server of which each answer can be chosen.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use proto::accounts::v1::administration_server::AdministrationServer;
use proto::accounts::v1::directory_server::{Directory, DirectoryServer};
use proto::accounts::v1::{
    AuthenticateRequest, AuthenticateResponse, AuthorizeRequest, AuthorizeResponse, Profile, SenderDomain,
};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::administration;

/// How accounts behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// No answer ever.
    Hanging,
    /// Answers that make no sense.
    Empty,
    Unimplemented,
}

pub(crate) struct Accounts {
    pub(crate) mood: Mutex<Mood>,
    pub(crate) profile: Mutex<Option<Profile>>,
    pub(crate) logins: AtomicU32,
    pub(crate) questions: AtomicU32,
}

impl Default for Accounts {
    fn default() -> Self {
        let domain = |name: &str, subdomains| SenderDomain { name: name.into(), subdomains, unready: None };
        let profile = Profile {
            account_id: "a1".into(),
            name: "first".into(),
            domains: vec![domain("sender.test", false), domain("wide.test", true)],
            ..Profile::default()
        };
        Self {
            mood: Mutex::new(Mood::Well),
            profile: Mutex::new(Some(profile)),
            logins: AtomicU32::new(0),
            questions: AtomicU32::new(0),
        }
    }
}

impl Accounts {
    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Profile)) {
        change(self.profile.lock().unwrap().as_mut().unwrap());
    }

    /// The account and its credentials are gone.
    pub(crate) fn remove(&self) {
        *self.profile.lock().unwrap() = None;
    }

    pub(super) fn profile(&self) -> Option<Profile> {
        self.profile.lock().unwrap().clone()
    }

    /// Whether it answers as it should; if so, on with the answer.
    async fn behave(&self) -> Result<Mood, Status> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Hanging => std::future::pending().await,
            Mood::Unimplemented => Err(Status::unimplemented("no such method")),
            Mood::Well | Mood::Empty => Ok(mood),
        }
    }
}

struct Service(Arc<Accounts>);

#[tonic::async_trait]
impl Directory for Service {
    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        self.0.logins.fetch_add(1, Ordering::SeqCst);
        if self.0.behave().await? == Mood::Empty {
            return Ok(Response::new(AuthenticateResponse::default()));
        }
        let request = request.into_inner();
        let right = request.username == "user" && &*request.password == b"secret";
        let profile = self.0.profile().filter(|_| right);
        let profile = profile.ok_or_else(|| Status::unauthenticated("wrong"))?;
        Ok(Response::new(AuthenticateResponse {
            account_id: profile.account_id.clone(),
            credential_id: "c1".into(),
            profile: Some(profile),
        }))
    }

    async fn authorize(
        &self,
        request: Request<AuthorizeRequest>,
    ) -> Result<Response<AuthorizeResponse>, Status> {
        self.0.questions.fetch_add(1, Ordering::SeqCst);
        if self.0.behave().await? == Mood::Empty {
            return Ok(Response::new(AuthorizeResponse::default()));
        }
        let request = request.into_inner();
        assert_eq!((&*request.account_id, &*request.credential_id), ("a1", "c1"));
        let profile = self.0.profile().ok_or_else(|| Status::not_found("gone"))?;
        Ok(Response::new(AuthorizeResponse { profile: Some(profile) }))
    }
}

pub(crate) fn routes(accounts: &Arc<Accounts>) -> Routes {
    let administration = AdministrationServer::new(administration::Service(Arc::clone(accounts)));
    Routes::new(DirectoryServer::new(Service(Arc::clone(accounts)))).add_service(administration)
}
