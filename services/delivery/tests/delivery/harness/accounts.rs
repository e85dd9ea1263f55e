//! Accounts, as far as delivery asks.

use std::sync::{Arc, Mutex};

use dkim::{Algorithm, SigningKey};
use proto::accounts::v1 as wire;
use proto::accounts::v1::signing_server::{Signing, SigningServer};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// How the account stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Good,
    Suspended,
    /// The domain has no key.
    Keyless,
    /// Its keys don't sign yet.
    KeyToCome,
    /// Accounts is out of order.
    Away,
}

pub(crate) struct Accounts {
    pub(crate) standing: Mutex<Standing>,
    unready: Mutex<Option<wire::Unready>>,
    key: Vec<u8>,
}

impl Accounts {
    pub(crate) fn new() -> Arc<Self> {
        let key = SigningKey::generate(Algorithm::Ed25519Sha256).unwrap().to_pkcs8_der().unwrap().to_vec();
        Arc::new(Self { standing: Mutex::new(Standing::Good), unready: Mutex::default(), key })
    }

    pub(crate) fn set(&self, standing: Standing) {
        *self.standing.lock().unwrap() = standing;
    }

    /// The domain lacks a record, since so many seconds.
    pub(crate) fn set_unready(&self, secs: u64) {
        let since_ms = i64::try_from(runtime::clock::now_millis() - secs * 1000).unwrap();
        let (reason, object) = ("TXT _dmarc.sender.test is missing".into(), "SendingDomain a/b".into());
        *self.unready.lock().unwrap() = Some(wire::Unready { reason, object, since_ms });
    }

    pub(crate) fn set_ready(&self) {
        *self.unready.lock().unwrap() = None;
    }

    pub(crate) fn routes(self: Arc<Self>) -> Routes {
        Routes::new(SigningServer::from_arc(self))
    }
}

#[tonic::async_trait]
impl Signing for Accounts {
    async fn signing_keys(
        &self,
        request: Request<wire::SigningKeysRequest>,
    ) -> Result<Response<wire::SigningKeysResponse>, Status> {
        let domain = request.into_inner().domain;
        let standing = *self.standing.lock().unwrap();
        let unready = self.unready.lock().unwrap().clone();
        match standing {
            Standing::Good | Standing::Suspended => {
                let key = wire::PrivateKey {
                    selector: String::from("s1"),
                    algorithm: wire::Algorithm::Ed25519Sha256.into(),
                    pkcs8_der: self.key.clone().into(),
                };
                Ok(Response::new(wire::SigningKeysResponse { domain, keys: vec![key], unready }))
            }
            Standing::KeyToCome => {
                Ok(Response::new(wire::SigningKeysResponse { domain, keys: Vec::new(), unready }))
            }
            Standing::Keyless => Err(Status::not_found("no such domain")),
            Standing::Away => Err(Status::unavailable("away")),
        }
    }

    async fn account_state(
        &self,
        _: Request<wire::AccountStateRequest>,
    ) -> Result<Response<wire::AccountStateResponse>, Status> {
        let suspended = match *self.standing.lock().unwrap() {
            Standing::Away => return Err(Status::unavailable("away")),
            standing => standing == Standing::Suspended,
        };
        let suspended_reason = if suspended { String::from("unpaid") } else { String::new() };
        Ok(Response::new(wire::AccountStateResponse { suspended, suspended_reason }))
    }
}
