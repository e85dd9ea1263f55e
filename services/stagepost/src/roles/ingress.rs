//! `stagepost ingress`: takes mail by SMTP and keeps it in NATS.

use std::sync::Arc;

use ingress::{AuthPolicy, LogObserver, Parts};
use proto::accounts::v1::directory_client::DirectoryClient;
use runtime::metrics::Registry;
use spool::Spool as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Base, Settings, connect};
use crate::cli::Failure;
use crate::serve::server_tls;

/// Runs until a signal: sessions then have `--ingress-drain-secs` to end.
pub(crate) async fn run(settings: Settings) -> Result<(), Failure> {
    let Settings { process, services, ingress, accounts: _, delivery, nats, redis, operator: _ } = settings;
    let mut base = Base::start(&process, "stagepost-ingress").await?;
    let host_name = process.host_name().map_err(Failure::Configuration)?;
    let tls = server_tls(&process)?;
    let listeners =
        ingress::bind(&ingress, tls.clone()).map_err(|error| Failure::Configuration(error.to_string()))?;
    let token = connect::token(&services, &process)?;
    let accounts = connect::accounts(&services, &process, &token)?;
    let mut registry = Registry::default();
    let counters = connect::counters(&redis, &services.instance, "ingress", &mut registry).await?;
    let spool = connect::queue(&nats.settings(&services.instance), &base.shutdown).await?;
    let parts = Parts {
        spool: Arc::clone(&spool),
        limits: Arc::clone(&counters),
        directory: DirectoryClient::new(accounts.clone()),
        observer: Arc::new(LogObserver),
        metrics: ingress::Metrics::register(&mut registry),
        trace_addresses: process.trace_addresses(),
        host_name,
        security: AuthPolicy::TlsOnly,
        lifetime_secs: delivery.lifetime_secs(),
    };
    let ending = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let health = crate::admin::health(Arc::clone(&spool), accounts, base.shutdown.clone());
    let health = health.with(crate::admin::nats(Arc::clone(&spool)));
    base.show(&mut tasks, health, registry, ending.clone());
    if let Some(tls) = tls {
        tasks.spawn(tls.watch(ending.clone()));
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ingress runs");
    ingress::run(ingress, parts, listeners, base.shutdown.clone()).await;
    ending.cancel();
    spool.close().await;
    counters.close().await;
    while tasks.join_next().await.is_some() {}
    Ok(())
}
