//! What the process shows of itself over HTTP: whether it is ready, and what it counts.

use std::net::SocketAddr;
use std::sync::Arc;

use proto::accounts::v1::AccountStateRequest;
use proto::accounts::v1::signing_client::SigningClient;
use runtime::admin::{Check, Health};
use runtime::rpc;
use spool::jetstream::JetStream;
use spool::{AcceptError, Spool};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// Binds the address of `--admin-listen`, or says in one line what is in the way.
pub(crate) async fn bind(address: Option<SocketAddr>) -> Result<Option<TcpListener>, String> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    bound.map(Some).map_err(|error| format!("can't listen on {address} (--admin-listen): {error}"))
}

/// Ready means: mail would be taken, and who may send could be asked.
pub(crate) fn health<S: Spool>(spool: Arc<S>, accounts: rpc::Client, stopping: CancellationToken) -> Health {
    let stopping = Check::new("process", move || {
        let stopping = stopping.is_cancelled();
        async move { if stopping { Err("it is stopping".into()) } else { Ok(()) } }
    });
    let spool = Check::new("spool", move || {
        let room = spool.room_for(0);
        async move {
            match room {
                // A full store still tells each client so, and has mail to deliver.
                Ok(()) | Err(AcceptError::Full(_)) => Ok(()),
                Err(error @ AcceptError::Unavailable(_)) => Err(error.to_string()),
            }
        }
    });
    let accounts = Check::new("accounts", move || {
        let mut accounts = SigningClient::new(accounts.clone());
        async move {
            // Nobody has this id; that it isn't known is the answer of a service that answers.
            match accounts.account_state(AccountStateRequest { account_id: String::from("-") }).await {
                Err(status) if status.code() != Code::NotFound => Err(status.message().to_owned()),
                Ok(_) | Err(_) => Ok(()),
            }
        }
    });
    Health::default().with(stopping).with(spool).with(accounts)
}

/// Whether NATS can be reached.
pub(crate) fn nats(spool: Arc<JetStream>) -> Check {
    Check::new("nats", move || {
        let reachable = spool.ready();
        async move { reachable }
    })
}
