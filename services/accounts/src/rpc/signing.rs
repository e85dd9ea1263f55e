//! What delivery asks.

use std::sync::Arc;

use proto::accounts::v1 as wire;
use proto::accounts::v1::signing_server::Signing as Service;
use tonic::{Request, Response, Status};

use super::wire_algorithm;
use crate::model::KeyState;
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
        let responsible =
            responsible.ok_or_else(|| Status::not_found(format!("the domain {name} isn't registered")))?;
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
        Ok(Response::new(wire::SigningKeysResponse { domain: responsible.name.clone(), keys }))
    }

    async fn account_state(
        &self,
        request: Request<wire::AccountStateRequest>,
    ) -> Result<Response<wire::AccountStateResponse>, Status> {
        let account_id = request.into_inner().account_id;
        let book = self.office.book();
        let account = book.accounts.get(&account_id);
        let account = account.ok_or_else(|| Status::not_found("the account was deleted"))?;
        Ok(Response::new(wire::AccountStateResponse {
            suspended: account.suspended.is_some(),
            suspended_reason: account.suspended.clone().unwrap_or_default(),
        }))
    }
}
