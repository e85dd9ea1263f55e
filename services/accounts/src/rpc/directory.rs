//! What ingress asks.

use std::sync::Arc;

use proto::accounts::v1 as wire;
use proto::accounts::v1::directory_server::Directory as Service;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{account_key, missing, wire_unready};
use crate::book::{Book, Kept as _};
use crate::login::Login;
use crate::model::{Credential, CredentialLimit, Domain};
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
        let verified = self.login.verify(&username, password).await;
        let book = self.office.book();
        let refused = || Status::unauthenticated("user name and password don't fit");
        // A user name stands in its credential only.
        let of_credential = |key: &str| key.starts_with(Credential::PREFIX);
        let credential = verified.ok_or_else(|| missing(&book, of_credential, refused()))?;
        let of_account = |key: &str| key == account_key(&credential.account_id);
        let profile = profile(&book, &credential.account_id, Some(&credential));
        let profile = profile.ok_or_else(|| missing(&book, of_account, refused()))?;
        Ok(Response::new(wire::AuthenticateResponse {
            profile: Some(profile),
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
        let held = book.credentials.get(&credential_id).filter(|held| held.account_id == account_id);
        // Mail from an administrator has no credential.
        if held.is_none() && !credential_id.is_empty() {
            let key = format!("{}/{credential_id}", Credential::PREFIX);
            return Err(missing(
                &book,
                |other| other == key,
                Status::not_found("the credential was revoked"),
            ));
        }
        let profile = profile(&book, &account_id, held);
        let key = account_key(&account_id);
        let deleted = || missing(&book, |other| other == key, Status::not_found("the account was deleted"));
        let profile = profile.ok_or_else(deleted)?;
        Ok(Response::new(wire::AuthorizeResponse { profile: Some(profile) }))
    }
}

fn profile(book: &Book, account_id: &str, credential: Option<&Credential>) -> Option<wire::Profile> {
    let account = book.accounts.get(account_id)?;
    let wanted = credential.map_or(&[][..], |credential| &credential.sender_domains);
    Some(wire::Profile {
        account_id: account.id.clone(),
        name: account.name.clone(),
        suspended: account.suspended.is_some(),
        suspended_reason: account.suspended.clone().unwrap_or_default(),
        recipients_per_day: account.quota(),
        domains: sender_domains(book, account_id, wanted),
        revision: account.revision,
        credential_limit: credential.and_then(|credential| credential.limit.as_ref()).map(limit),
    })
}

fn limit(limit: &CredentialLimit) -> wire::CredentialLimit {
    let CredentialLimit { recipients_per_day, counted_as, later: _ } = limit.clone();
    wire::CredentialLimit { recipients_per_day, counted_as }
}

/// The account's domains, or those of `wanted` that are its own or below one that stands for its subdomains.
fn sender_domains(book: &Book, account_id: &str, wanted: &[String]) -> Vec<wire::SenderDomain> {
    let sender = |name: &str, domain: &Domain| wire::SenderDomain {
        name: name.into(),
        subdomains: domain.subdomains,
        unready: domain.unready.as_ref().map(wire_unready),
    };
    if wanted.is_empty() {
        return book.domains_of(account_id).map(|domain| sender(&domain.name, domain)).collect();
    }
    let own = wanted.iter().filter_map(|name| {
        let responsible = book.responsible(&name.parse().ok()?)?;
        (responsible.account_id == account_id).then(|| sender(name, responsible))
    });
    own.collect()
}
