//! The gRPC services; generated types end here.

mod administration;
mod directory;
mod health;
mod owned;
mod signing;

use std::sync::Arc;

use proto::accounts::v1 as wire;
use proto::accounts::v1::administration_server::AdministrationServer;
use proto::accounts::v1::directory_server::DirectoryServer;
use proto::accounts::v1::signing_server::SigningServer;
use tonic::Status;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

use crate::book::{Book, Kept as _};
use crate::login::Login;
use crate::model::{Account, KeyAlgorithm, KeyState, Owner, Plan, Unready};
use crate::office::{ChangeError, Office};

pub(crate) fn routes(office: &Arc<Office>, login: &Arc<Login>) -> Routes {
    let directory = directory::Directory { office: Arc::clone(office), login: Arc::clone(login) };
    Routes::new(DirectoryServer::new(directory))
        .add_service(SigningServer::new(signing::Signing { office: Arc::clone(office) }))
        .add_service(AdministrationServer::new(administration::Administration { office: Arc::clone(office) }))
        .add_service(HealthServer::new(health::Standing { office: Arc::clone(office) }))
}

impl From<ChangeError> for Status {
    fn from(error: ChangeError) -> Self {
        let text = error.to_string();
        match error {
            ChangeError::Invalid(_) => Self::invalid_argument(text),
            ChangeError::NotFound(_) => Self::not_found(text),
            ChangeError::Exists(_) => Self::already_exists(text),
            ChangeError::NotOwner(_) => Self::failed_precondition(text),
            ChangeError::Conflict(_) => Self::aborted(text),
            ChangeError::Unavailable(_) => Self::unavailable(text),
            ChangeError::Failed(_) => Self::internal(text),
        }
    }
}

/// What to answer about something that isn't in the book: that it isn't there, unless an entry that can't be read may be it.
fn missing(book: &Book, may_be: impl Fn(&str) -> bool, answer: Status) -> Status {
    match book.unreadable.iter().find(|(key, _)| may_be(key)) {
        None => answer,
        Some((key, cause)) => Status::unavailable(format!("the entry {key} can't be read: {cause}")),
    }
}

/// Where an account is kept.
fn account_key(id: &str) -> String {
    format!("{}/{id}", Account::PREFIX)
}

/// Whoever doesn't say who manages a thing is taken for the command line.
fn owner(managed_by: i32) -> Result<Owner, Status> {
    match wire::ManagedBy::try_from(managed_by) {
        Ok(wire::ManagedBy::Unspecified | wire::ManagedBy::CommandLine) => Ok(Owner::CommandLine),
        Ok(wire::ManagedBy::Operator) => Ok(Owner::Operator),
        Err(_) => Err(Status::invalid_argument(format!("managed_by {managed_by} is unknown"))),
    }
}

fn plan(name: &str) -> Result<Plan, Status> {
    Plan::ALL.into_iter().find(|plan| plan.as_str() == name).ok_or_else(|| {
        let known: Vec<&str> = Plan::ALL.iter().map(|plan| plan.as_str()).collect();
        Status::invalid_argument(format!("there is no plan {name:?}; plans are {}", known.join(", ")))
    })
}

fn algorithm(number: i32) -> Result<KeyAlgorithm, Status> {
    match wire::Algorithm::try_from(number) {
        Ok(wire::Algorithm::RsaSha256) => Ok(KeyAlgorithm::Rsa),
        Ok(wire::Algorithm::Ed25519Sha256) => Ok(KeyAlgorithm::Ed25519),
        Ok(wire::Algorithm::Unspecified) | Err(_) => {
            Err(Status::invalid_argument(format!("key algorithm {number} is unknown")))
        }
    }
}

fn key_state(number: i32) -> Result<KeyState, Status> {
    match wire::KeyState::try_from(number) {
        Ok(wire::KeyState::Published) => Ok(KeyState::Published),
        Ok(wire::KeyState::Active) => Ok(KeyState::Active),
        Ok(wire::KeyState::Retired) => Ok(KeyState::Retired),
        Ok(wire::KeyState::Unspecified) | Err(_) => {
            Err(Status::invalid_argument(format!("key state {number} is unknown")))
        }
    }
}

fn wire_algorithm(algorithm: KeyAlgorithm) -> i32 {
    match algorithm {
        KeyAlgorithm::Rsa => wire::Algorithm::RsaSha256.into(),
        KeyAlgorithm::Ed25519 => wire::Algorithm::Ed25519Sha256.into(),
    }
}

fn wire_owner(owner: Owner) -> i32 {
    match owner {
        Owner::CommandLine => wire::ManagedBy::CommandLine.into(),
        Owner::Operator => wire::ManagedBy::Operator.into(),
    }
}

fn wire_unready(unready: &Unready) -> wire::Unready {
    let Unready { reason, object, since_ms, later: _ } = unready.clone();
    wire::Unready { reason, object, since_ms: wire_time(since_ms) }
}

fn wire_time(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}
