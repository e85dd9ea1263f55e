//! `stagepost delivery`: brings mail from NATS to the recipients' servers, and answers questions about the queue.

use std::sync::Arc;

use anyhow::Context as _;
use proto::accounts::v1::administration_client::AdministrationClient;
use proto::accounts::v1::directory_client::DirectoryClient;
use proto::accounts::v1::signing_client::SigningClient;
use runtime::metrics::Registry;
use runtime::rpc;
use spool::Spool as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Base, Settings, connect};
use crate::cli::Failure;
use crate::serve::merged;

/// Runs until a signal: conversations then have `--delivery-drain-secs` to end, and what wasn't begun is another worker's.
pub(crate) async fn run(settings: Settings) -> Result<(), Failure> {
    let Settings { process, services, ingress, accounts: _, delivery, nats, redis, operator: _ } = settings;
    let mut base = Base::start(&process, "stagepost-delivery").await?;
    let host_name = process.host_name().map_err(Failure::Configuration)?;
    delivery.check().map_err(|error| Failure::Configuration(error.to_string()))?;
    let token = connect::token(&services, &process)?;
    let listener = connect::listen(&services).await?;
    let accounts = connect::accounts(&services, &process, &token)?;
    let mut registry = Registry::default();
    let counters = connect::counters(&redis, &services.instance, "delivery", &mut registry).await?;
    let spool = connect::queue(&nats.settings(&services.instance), &base.shutdown).await?;

    let parts = delivery::Parts {
        spool: Arc::clone(&spool),
        limits: Arc::clone(&counters),
        signing: SigningClient::new(accounts.clone()),
        observer: Arc::new(delivery::LogObserver),
        metrics: delivery::Metrics::register(&mut registry),
        trace_addresses: process.trace_addresses(),
        host_name: host_name.clone(),
        while_unready: ingress.while_unready(),
    };
    // What an administrator sends goes the same way as what is submitted.
    let submission = ingress::Parts {
        spool: Arc::clone(&spool),
        limits: Arc::clone(&counters),
        directory: DirectoryClient::new(accounts.clone()),
        observer: Arc::new(ingress::LogObserver),
        metrics: ingress::Metrics::default(),
        trace_addresses: process.trace_addresses(),
        host_name,
        security: ingress::AuthPolicy::TlsOnly,
        lifetime_secs: delivery.lifetime_secs(),
    };
    let send = ingress::send_routes(&ingress, &submission, AdministrationClient::new(accounts.clone()));
    delivery::show_queue(&mut registry, Arc::clone(&spool));

    let ending = CancellationToken::new();
    let routes = merged([delivery::admin_routes(Arc::clone(&spool), ending.clone()), send]);
    let mut tasks = JoinSet::new();
    let health = crate::admin::health(Arc::clone(&spool), accounts, base.shutdown.clone());
    let health = health.with(crate::admin::nats(Arc::clone(&spool)));
    base.show(&mut tasks, health, registry, ending.clone());
    let calls = ending.clone();
    tasks.spawn(async move {
        if let Err(error) = rpc::serve(listener, routes, &token, calls).await {
            tracing::error!(%error, "the gRPC port failed");
        }
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "delivery runs");
    let ended = ::delivery::run(delivery, parts, base.shutdown.clone()).await;
    ending.cancel();
    spool.close().await;
    counters.close().await;
    while tasks.join_next().await.is_some() {}
    ended.context("delivery failed").map_err(Failure::Work)
}
