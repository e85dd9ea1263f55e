//! `stagepost accounts`: who may send, from which domains, how much; kept in NATS.

use std::time::Duration;

use accounts::{Accounts, OpenError};
use anyhow::Context as _;
use runtime::admin::{Check, Health};
use runtime::metrics::Registry;
use runtime::rpc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Base, Settings, connect};
use crate::cli::Failure;

/// How long NATS may take to agree on what is kept there.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(1);

/// Runs until a signal; calls in progress are finished.
pub(crate) async fn run(settings: Settings) -> Result<(), Failure> {
    let Settings { process, services, ingress: _, accounts, delivery: _, nats, redis: _, operator: _ } =
        settings;
    let mut base = Base::start(&process, "stagepost-accounts").await?;
    let host_name = process.host_name().map_err(Failure::Configuration)?;
    let token = connect::token(&services, &process)?;
    let listener = connect::listen(&services).await?;
    let nats = nats.settings(&services.instance);
    let context = connect::patiently(&base.shutdown, || spool::jetstream::context(&nats)).await?;
    let accounts = open(&base.shutdown, || {
        Accounts::open_shared(
            context.clone(),
            &services.instance,
            nats.replicas.into(),
            accounts.settings(&host_name),
        )
    });
    let accounts = accounts.await.context("can't open the accounts in NATS").map_err(Failure::Work)?;

    let mut registry = Registry::default();
    let current = registry
        .gauge("accounts_current", "1 while changes made by other replicas are seen, 0 while NATS is away");
    let asked = accounts.clone();
    registry.refresh_by(move || {
        let (current, accounts) = (current.clone(), asked.clone());
        async move {
            current.set(i64::from(accounts.ready().is_ok()));
        }
    });
    let ending = CancellationToken::new();
    let mut tasks = JoinSet::new();
    base.show(&mut tasks, health(base.shutdown.clone()), registry, ending.clone());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "accounts runs");
    let served = rpc::serve(listener, accounts.routes(), &token, base.shutdown.clone()).await;
    ending.cancel();
    while tasks.join_next().await.is_some() {}
    served.context("the gRPC port failed").map_err(Failure::Work)
}

/// Tries again while NATS, which may have come up a moment ago, can't agree on anything yet.
async fn open<F>(shutdown: &CancellationToken, mut open: impl FnMut() -> F) -> Result<Accounts, OpenError>
where
    F: Future<Output = Result<Accounts, OpenError>>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        match open().await {
            Err(error @ (OpenError::Agreement(_) | OpenError::Store(_)))
                if Instant::now() < end && !shutdown.is_cancelled() =>
            {
                tracing::warn!(%error, "the accounts in NATS aren't ready; trying again");
                tokio::time::sleep(AGAIN).await;
            }
            opened => return opened,
        }
    }
}

/// Who is asked answers from memory: a replica is ready although NATS is away, or none would be when it is.
fn health(stopping: CancellationToken) -> Health {
    Health::default().with(Check::new("process", move || {
        let stopping = stopping.is_cancelled();
        async move { if stopping { Err("it is stopping".into()) } else { Ok(()) } }
    }))
}
