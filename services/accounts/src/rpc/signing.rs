//! What delivery asks.

use std::sync::Arc;

use proto::accounts::v1 as wire;
use proto::accounts::v1::signing_server::Signing as Service;
use tonic::{Request, Response, Status};

use super::{account_key, missing, wire_algorithm, wire_unready};
use crate::book::Kept as _;
use crate::model::{Domain, KeyState};
use crate::office::Office;
use crate::office::domains::parse_name;

pub(super) struct Signing {
    pub(super) office: Arc<Office>,
}

#[tonic::async_trait]
impl Service for Signing {
    async fn signing_keys(
        &self,
        request: Request<wire::SigningKeysRequest>,
    ) -> Result<Response<wire::SigningKeysResponse>, Status> {
        let wire::SigningKeysRequest { account_id, domain } = request.into_inner();
        let name = parse_name(&domain)?;
        let book = self.office.book();
        let responsible = book.responsible(&name);
        let may_be = |key: &str| {
            let registered = key.strip_prefix(Domain::PREFIX).and_then(|rest| rest.strip_prefix('/'));
            let registered = registered.and_then(|registered| registered.parse().ok());
            registered.is_some_and(|registered| name.is_at_or_below(&registered))
        };
        let unknown = || Status::not_found(format!("the domain {name} isn't registered"));
        let responsible = responsible.ok_or_else(|| missing(&book, may_be, unknown()))?;
        if responsible.account_id != account_id {
            return Err(Status::permission_denied(format!("the domain {name} belongs to another account")));
        }
        let active = responsible.keys.iter().filter(|key| key.state == KeyState::Active);
        let mut keys = Vec::new();
        for key in active {
            keys.push(wire::PrivateKey {
                selector: key.selector.clone(),
                algorithm: wire_algorithm(key.algorithm),
                pkcs8_der: self.office.unseal(&responsible.name, key)?.to_vec().into(),
            });
        }
        Ok(Response::new(wire::SigningKeysResponse {
            domain: responsible.name.clone(),
            keys,
            unready: responsible.unready.as_ref().map(wire_unready),
        }))
    }

    async fn account_state(
        &self,
        request: Request<wire::AccountStateRequest>,
    ) -> Result<Response<wire::AccountStateResponse>, Status> {
        let account_id = request.into_inner().account_id;
        let book = self.office.book();
        let account = book.accounts.get(&account_id);
        let key = account_key(&account_id);
        let deleted = || missing(&book, |other| other == key, Status::not_found("the account was deleted"));
        let account = account.ok_or_else(deleted)?;
        Ok(Response::new(wire::AccountStateResponse {
            suspended: account.suspended.is_some(),
            suspended_reason: account.suspended.clone().unwrap_or_default(),
        }))
    }
}
