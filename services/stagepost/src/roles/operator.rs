//! `stagepost operator`: looks after objects in Kubernetes, and tells accounts of them.

use anyhow::Context as _;
use operator::{Metrics, Parts};
use runtime::admin::{Check, Health};
use runtime::metrics::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Base, Settings, connect};
use crate::cli::Failure;

/// Runs until a signal; then what is being worked on is finished, and the Lease given back.
pub(crate) async fn run(settings: Settings) -> Result<(), Failure> {
    let Settings { process, services, ingress: _, accounts: _, delivery: _, nats: _, redis, operator } =
        settings;
    let mut base = Base::start(&process, "stagepost-operator").await?;
    let token = connect::token(&services, &process)?;
    let accounts = connect::accounts(&services, &process, &token)?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let counters = match redis.redis_url {
        Some(_) => Some(connect::counters(&redis, &services.instance, "operator", &mut registry).await?),
        None => None,
    };
    let ending = CancellationToken::new();
    let mut tasks = JoinSet::new();
    base.show(&mut tasks, health(base.shutdown.clone()), registry, ending.clone());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "operator runs");
    let parts = Parts { accounts, counters, metrics, instance: services.instance.clone() };
    let ended = ::operator::run(operator, parts, base.shutdown.clone()).await;
    ending.cancel();
    while tasks.join_next().await.is_some() {}
    ended.context("the operator failed").map_err(Failure::Work)
}

/// One that waits for the Lease is as ready as the one that has it.
fn health(stopping: CancellationToken) -> Health {
    Health::default().with(Check::new("process", move || {
        let stopping = stopping.is_cancelled();
        async move { if stopping { Err("it is stopping".into()) } else { Ok(()) } }
    }))
}
