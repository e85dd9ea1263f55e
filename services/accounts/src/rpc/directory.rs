//! What ingress asks.

use std::sync::Arc;

use proto::accounts::v1 as wire;
use proto::accounts::v1::directory_server::Directory as Service;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use crate::book::Book;
use crate::login::Login;
use crate::office::Office;

pub(super) struct Directory {
    pub(super) office: Arc<Office>,
    pub(super) login: Arc<Login>,
}

#[tonic::async_trait]
impl Service for Directory {
    async fn authenticate(
        &self,
        request: Request<wire::AuthenticateRequest>,
    ) -> Result<Response<wire::AuthenticateResponse>, Status> {
        let wire::AuthenticateRequest { username, password, client_address: _ } = request.into_inner();
        let password = Zeroizing::new(password.to_vec());
        let refused = || Status::unauthenticated("user name and password don't fit");
        let credential = self.login.verify(&username, password).await.ok_or_else(refused)?;
        let book = self.office.book();
        Ok(Response::new(wire::AuthenticateResponse {
            profile: Some(profile(&book, &credential.account_id).ok_or_else(refused)?),
            account_id: credential.account_id,
            credential_id: credential.id,
        }))
    }

    async fn authorize(
        &self,
        request: Request<wire::AuthorizeRequest>,
    ) -> Result<Response<wire::AuthorizeResponse>, Status> {
        let wire::AuthorizeRequest { account_id, credential_id } = request.into_inner();
        let book = self.office.book();
        let held = book.credentials.get(&credential_id).is_some_and(|held| held.account_id == account_id);
        // Mail from an administrator has no credential.
        if !held && !credential_id.is_empty() {
            return Err(Status::not_found("the credential was revoked"));
        }
        let profile = profile(&book, &account_id);
        let profile = profile.ok_or_else(|| Status::not_found("the account was deleted"))?;
        Ok(Response::new(wire::AuthorizeResponse { profile: Some(profile) }))
    }
}

fn profile(book: &Book, account_id: &str) -> Option<wire::Profile> {
    let account = book.accounts.get(account_id)?;
    let domains = book.domains_of(account_id);
    Some(wire::Profile {
        account_id: account.id.clone(),
        name: account.name.clone(),
        suspended: account.suspended.is_some(),
        suspended_reason: account.suspended.clone().unwrap_or_default(),
        recipients_per_day: account.quota(),
        domains: domains
            .map(|domain| wire::SenderDomain { name: domain.name.clone(), subdomains: domain.subdomains })
            .collect(),
        revision: account.revision,
    })
}
