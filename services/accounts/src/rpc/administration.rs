//! What people and the operator ask.

use std::sync::Arc;

use proto::accounts::v1 as wire;
use proto::accounts::v1::administration_server::Administration as Service;
use tonic::{Request, Response, Status};

use super::{algorithm, key_state, owned, owner, plan, wire_algorithm, wire_owner, wire_time, wire_unready};
use crate::model::{Account, Credential, Domain, Key, KeyState};
use crate::office::domains::{DomainChange, parse_name};
use crate::office::owned::Synced;
use crate::office::{AccountChange, NewCredential, Office};
use crate::records;

pub(super) struct Administration {
    pub(super) office: Arc<Office>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Service for Administration {
    async fn create_account(&self, request: Request<wire::CreateAccountRequest>) -> Answer<wire::Account> {
        let wire::CreateAccountRequest { name, plan: wanted, recipients_per_day, managed_by } =
            request.into_inner();
        let plan = plan(if wanted.is_empty() { "free" } else { &wanted })?;
        let made = self.office.create_account(&name, plan, recipients_per_day, owner(managed_by)?).await?;
        Ok(Response::new(wire_account(&made)))
    }

    async fn get_account(&self, request: Request<wire::GetAccountRequest>) -> Answer<wire::Account> {
        Ok(Response::new(wire_account(&self.office.account(&request.into_inner().account)?)))
    }

    async fn list_accounts(
        &self,
        _: Request<wire::ListAccountsRequest>,
    ) -> Answer<wire::ListAccountsResponse> {
        let book = self.office.book();
        let mut accounts: Vec<wire::Account> = book.accounts.values().map(wire_account).collect();
        accounts.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Response::new(wire::ListAccountsResponse { accounts }))
    }

    async fn update_account(&self, request: Request<wire::UpdateAccountRequest>) -> Answer<wire::Account> {
        let wire::UpdateAccountRequest {
            account,
            plan: wanted,
            recipients_per_day,
            clear_recipients_per_day,
            suspended,
            suspended_reason,
            revision,
            managed_by,
        } = request.into_inner();
        let reason =
            || suspended_reason.clone().unwrap_or_else(|| String::from("suspended by the administrator"));
        let change = AccountChange {
            plan: wanted.as_deref().map(plan).transpose()?,
            quota: if clear_recipients_per_day { Some(None) } else { recipients_per_day.map(Some) },
            suspended: suspended.map(|suspended| suspended.then(reason)),
            revision,
        };
        let changed = self.office.update_account(&account, change, owner(managed_by)?).await?;
        Ok(Response::new(wire_account(&changed)))
    }

    async fn delete_account(
        &self,
        request: Request<wire::DeleteAccountRequest>,
    ) -> Answer<wire::DeleteAccountResponse> {
        let wire::DeleteAccountRequest { account, managed_by } = request.into_inner();
        self.office.delete_account(&account, owner(managed_by)?).await?;
        Ok(Response::new(wire::DeleteAccountResponse {}))
    }

    async fn create_credential(
        &self,
        request: Request<wire::CreateCredentialRequest>,
    ) -> Answer<wire::CreateCredentialResponse> {
        let wire::CreateCredentialRequest { account, username, password, description, managed_by } =
            request.into_inner();
        let new = NewCredential { account, username, password: password.to_vec(), description };
        let (credential, secret) = self.office.create_credential(new, owner(managed_by)?).await?;
        let credential = Some(wire_credential(&credential));
        Ok(Response::new(wire::CreateCredentialResponse { credential, secret: secret.unwrap_or_default() }))
    }

    async fn list_credentials(
        &self,
        request: Request<wire::ListCredentialsRequest>,
    ) -> Answer<wire::ListCredentialsResponse> {
        let account = self.office.account(&request.into_inner().account)?;
        let book = self.office.book();
        let credentials = book.credentials_of(&account.id).map(wire_credential).collect();
        Ok(Response::new(wire::ListCredentialsResponse { credentials }))
    }

    async fn revoke_credential(
        &self,
        request: Request<wire::RevokeCredentialRequest>,
    ) -> Answer<wire::RevokeCredentialResponse> {
        let wire::RevokeCredentialRequest { credential, managed_by } = request.into_inner();
        self.office.revoke_credential(&credential, owner(managed_by)?).await?;
        Ok(Response::new(wire::RevokeCredentialResponse {}))
    }

    async fn create_domain(&self, request: Request<wire::CreateDomainRequest>) -> Answer<wire::Domain> {
        let wire::CreateDomainRequest { account, name, subdomains, algorithms, managed_by } =
            request.into_inner();
        let algorithms = algorithms.into_iter().map(algorithm).collect::<Result<Vec<_>, _>>()?;
        let made =
            self.office.create_domain(&account, &name, subdomains, algorithms, owner(managed_by)?).await?;
        Ok(Response::new(self.wire_domain(&made)))
    }

    async fn get_domain(&self, request: Request<wire::GetDomainRequest>) -> Answer<wire::Domain> {
        let name = parse_name(&request.into_inner().name)?;
        Ok(Response::new(self.wire_domain(&self.office.domain(&name)?)))
    }

    async fn list_domains(
        &self,
        request: Request<wire::ListDomainsRequest>,
    ) -> Answer<wire::ListDomainsResponse> {
        let wanted = request.into_inner().account;
        let wanted = if wanted.is_empty() { None } else { Some(self.office.account(&wanted)?.id) };
        let book = self.office.book();
        let domains = book.domains.values();
        let domains = domains.filter(|domain| wanted.as_ref().is_none_or(|id| *id == domain.account_id));
        Ok(Response::new(wire::ListDomainsResponse {
            domains: domains.map(|domain| self.wire_domain(domain)).collect(),
        }))
    }

    async fn update_domain(&self, request: Request<wire::UpdateDomainRequest>) -> Answer<wire::Domain> {
        let wire::UpdateDomainRequest { name, subdomains, add_keys, key_changes, revision, managed_by } =
            request.into_inner();
        let states = key_changes.into_iter().map(|change| Ok((change.selector, key_state(change.state)?)));
        let change = DomainChange {
            subdomains,
            add_keys: add_keys.into_iter().map(algorithm).collect::<Result<_, _>>()?,
            key_states: states.collect::<Result<_, Status>>()?,
            revision,
        };
        let changed = self.office.update_domain(&name, change, owner(managed_by)?).await?;
        Ok(Response::new(self.wire_domain(&changed)))
    }

    async fn delete_domain(
        &self,
        request: Request<wire::DeleteDomainRequest>,
    ) -> Answer<wire::DeleteDomainResponse> {
        let wire::DeleteDomainRequest { name, managed_by } = request.into_inner();
        self.office.delete_domain(&name, owner(managed_by)?).await?;
        Ok(Response::new(wire::DeleteDomainResponse {}))
    }

    async fn put_account(&self, request: Request<wire::PutAccountRequest>) -> Answer<wire::Account> {
        let (put, origin, by) = owned::account(request.into_inner())?;
        Ok(Response::new(wire_account(&self.office.put_account(put, origin, by).await?)))
    }

    async fn put_credential(&self, request: Request<wire::PutCredentialRequest>) -> Answer<wire::Credential> {
        let (put, origin, by) = owned::credential(request.into_inner())?;
        Ok(Response::new(wire_credential(&self.office.put_credential(put, origin, by).await?)))
    }

    async fn put_domain(&self, request: Request<wire::PutDomainRequest>) -> Answer<wire::Domain> {
        let (put, origin, by) = owned::domain(request.into_inner())?;
        Ok(Response::new(self.wire_domain(&self.office.put_domain(put, origin, by).await?)))
    }

    async fn withdraw(&self, request: Request<wire::WithdrawRequest>) -> Answer<wire::WithdrawResponse> {
        let wire::WithdrawRequest { managed_by, origin } = request.into_inner();
        self.office.withdraw(&origin, owner(managed_by)?).await?;
        Ok(Response::new(wire::WithdrawResponse {}))
    }

    async fn sync(&self, request: Request<wire::SyncRequest>) -> Answer<wire::SyncResponse> {
        let wire::SyncRequest { managed_by, origins } = request.into_inner();
        let origins = origins.into_iter().map(owned::origin).collect();
        let Synced { differing, removed, kept } = self.office.sync(origins, owner(managed_by)?).await?;
        Ok(Response::new(wire::SyncResponse { differing, removed, kept }))
    }
}

impl Administration {
    fn wire_domain(&self, domain: &Domain) -> wire::Domain {
        wire::Domain {
            id: domain.id.clone(),
            account_id: domain.account_id.clone(),
            name: domain.name.clone(),
            subdomains: domain.subdomains,
            keys: domain.keys.iter().map(wire_key).collect(),
            managed_by: wire_owner(domain.managed_by),
            revision: domain.revision,
            created_at_ms: wire_time(domain.created_at_ms),
            records: records::of(domain, &self.office.spf),
            unready: domain.unready.as_ref().map(wire_unready),
        }
    }
}

fn wire_account(account: &Account) -> wire::Account {
    wire::Account {
        id: account.id.clone(),
        name: account.name.clone(),
        plan: account.plan.as_str().into(),
        recipients_per_day: account.recipients_per_day,
        suspended: account.suspended.is_some(),
        suspended_reason: account.suspended.clone().unwrap_or_default(),
        managed_by: wire_owner(account.managed_by),
        revision: account.revision,
        created_at_ms: wire_time(account.created_at_ms),
        effective_recipients_per_day: account.quota(),
    }
}

fn wire_credential(credential: &Credential) -> wire::Credential {
    wire::Credential {
        id: credential.id.clone(),
        account_id: credential.account_id.clone(),
        username: credential.username.clone(),
        description: credential.description.clone(),
        managed_by: wire_owner(credential.managed_by),
        revision: credential.revision,
        created_at_ms: wire_time(credential.created_at_ms),
    }
}

fn wire_key(key: &Key) -> wire::Key {
    let state = match key.state {
        KeyState::Published => wire::KeyState::Published,
        KeyState::Active => wire::KeyState::Active,
        KeyState::Retired => wire::KeyState::Retired,
    };
    wire::Key {
        selector: key.selector.clone(),
        algorithm: wire_algorithm(key.algorithm),
        state: state.into(),
        created_at_ms: wire_time(key.created_at_ms),
        state_since_ms: wire_time(key.state_since_ms),
    }
}
