//! The part of accounts' administration that the send service asks.

use std::sync::Arc;

use proto::accounts::v1::administration_server::Administration;
use proto::accounts::v1::*;
use tonic::{Request, Response, Status};

use super::accounts::Accounts;

pub(crate) struct Service(pub(crate) Arc<Accounts>);

type Answer<T> = Result<Response<T>, Status>;

fn not_asked<T>() -> Answer<T> {
    Err(Status::unimplemented("not asked by ingress"))
}

#[tonic::async_trait]
impl Administration for Service {
    async fn get_account(&self, request: Request<GetAccountRequest>) -> Answer<Account> {
        let name = request.into_inner().account;
        let profile = self.0.profile().filter(|profile| profile.name == name || profile.account_id == name);
        let profile = profile.ok_or_else(|| Status::not_found(format!("there is no account {name:?}")))?;
        Ok(Response::new(Account {
            id: profile.account_id,
            name: profile.name,
            suspended: profile.suspended,
            suspended_reason: profile.suspended_reason,
            effective_recipients_per_day: profile.recipients_per_day,
            ..Account::default()
        }))
    }

    async fn list_domains(&self, request: Request<ListDomainsRequest>) -> Answer<ListDomainsResponse> {
        let profile = self.0.profile().filter(|profile| profile.account_id == request.get_ref().account);
        let profile = profile.ok_or_else(|| Status::not_found("there is no such account"))?;
        let domain = |SenderDomain { name, subdomains, unready }| Domain {
            name,
            subdomains,
            unready,
            ..Domain::default()
        };
        Ok(Response::new(ListDomainsResponse { domains: profile.domains.into_iter().map(domain).collect() }))
    }

    async fn create_account(&self, _: Request<CreateAccountRequest>) -> Answer<Account> {
        not_asked()
    }

    async fn list_accounts(&self, _: Request<ListAccountsRequest>) -> Answer<ListAccountsResponse> {
        not_asked()
    }

    async fn update_account(&self, _: Request<UpdateAccountRequest>) -> Answer<Account> {
        not_asked()
    }

    async fn delete_account(&self, _: Request<DeleteAccountRequest>) -> Answer<DeleteAccountResponse> {
        not_asked()
    }

    async fn create_credential(
        &self,
        _: Request<CreateCredentialRequest>,
    ) -> Answer<CreateCredentialResponse> {
        not_asked()
    }

    async fn list_credentials(&self, _: Request<ListCredentialsRequest>) -> Answer<ListCredentialsResponse> {
        not_asked()
    }

    async fn revoke_credential(
        &self,
        _: Request<RevokeCredentialRequest>,
    ) -> Answer<RevokeCredentialResponse> {
        not_asked()
    }

    async fn create_domain(&self, _: Request<CreateDomainRequest>) -> Answer<Domain> {
        not_asked()
    }

    async fn get_domain(&self, _: Request<GetDomainRequest>) -> Answer<Domain> {
        not_asked()
    }

    async fn update_domain(&self, _: Request<UpdateDomainRequest>) -> Answer<Domain> {
        not_asked()
    }

    async fn delete_domain(&self, _: Request<DeleteDomainRequest>) -> Answer<DeleteDomainResponse> {
        not_asked()
    }

    async fn put_account(&self, _: Request<PutAccountRequest>) -> Answer<Account> {
        not_asked()
    }

    async fn put_credential(&self, _: Request<PutCredentialRequest>) -> Answer<Credential> {
        not_asked()
    }

    async fn put_domain(&self, _: Request<PutDomainRequest>) -> Answer<Domain> {
        not_asked()
    }

    async fn withdraw(&self, _: Request<WithdrawRequest>) -> Answer<WithdrawResponse> {
        not_asked()
    }

    async fn sync(&self, _: Request<SyncRequest>) -> Answer<SyncResponse> {
        not_asked()
    }
}
