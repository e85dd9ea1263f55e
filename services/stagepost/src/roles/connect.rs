//! What roles connect to, and how they are reached.

use std::sync::Arc;
use std::time::Duration;

use limits::Counters;
use limits::local::Local;
use limits::redis::Redis;
use runtime::metrics::Registry;
use runtime::rpc::{self, Listener, Token};
use runtime::tls::{ClientTls, ServerTls};
use spool::jetstream::{JetStream, OpenError};
use tokio_util::sync::CancellationToken;

use super::Services;
use crate::cli::Failure;
use crate::site::Process;

/// How long NATS may take to be there when a process starts; a cluster may come up in any order.
const NATS_PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(1);

fn wrong(error: impl std::fmt::Display) -> Failure {
    Failure::Configuration(error.to_string())
}

/// The token that services show each other.
pub(super) fn token(services: &Services, process: &Process) -> Result<Token, Failure> {
    let path = services.grpc_token_file.clone().unwrap_or_else(|| crate::serve::token_path(&process.state));
    Token::load(&path).map_err(|error| wrong(format!("{error}; name it with --grpc-token-file")))
}

/// A client of accounts, which a role must be told the place of.
pub(super) fn accounts(services: &Services, process: &Process, own: &Token) -> Result<rpc::Client, Failure> {
    let Some(server) = &process.accounts_server else {
        return Err(wrong(
            "where are the accounts? Name their service with --accounts-server http://host:port",
        ));
    };
    let token = match &process.accounts_token_file {
        Some(path) => Token::load(path).map_err(wrong)?,
        None => own.clone(),
    };
    let identity = services.grpc_certificate.as_deref().zip(services.grpc_key.as_deref());
    let tls = ClientTls::load(services.grpc_ca.as_deref(), identity).map_err(wrong)?;
    Ok(rpc::connect_tls(server, &token, &tls))
}

/// Listens for calls, with TLS when there is a certificate.
pub(super) async fn listen(services: &Services) -> Result<Listener, Failure> {
    let address = services.grpc_listen;
    let listener = Listener::bind_tcp(address).await;
    let listener =
        listener.map_err(|error| wrong(format!("can't listen on {address} (--grpc-listen): {error}")))?;
    match (&services.grpc_certificate, &services.grpc_key) {
        (Some(certificate), Some(key)) => {
            let tls = ServerTls::load_for_services(certificate, key, services.grpc_client_ca.as_deref());
            Ok(listener.with_tls(tls.map_err(wrong)?))
        }
        _ => Ok(listener),
    }
}

/// The queue in NATS.
pub(super) async fn queue(
    settings: &spool::jetstream::Settings,
    shutdown: &CancellationToken,
) -> Result<Arc<JetStream>, Failure> {
    patiently(shutdown, || JetStream::open(settings.clone())).await.map(Arc::new)
}

/// Tries until NATS is there, for a while; all else that is wrong stays wrong.
pub(super) async fn patiently<T, F>(
    shutdown: &CancellationToken,
    mut open: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, OpenError>>,
{
    let end = tokio::time::Instant::now() + NATS_PATIENCE;
    loop {
        let error = match open().await {
            Ok(opened) => return Ok(opened),
            Err(error) if error.is_configuration() => return Err(wrong(error)),
            Err(error) => error,
        };
        if tokio::time::Instant::now() >= end || shutdown.is_cancelled() {
            return Err(Failure::Work(error.into()));
        }
        tracing::warn!(%error, "NATS isn't ready; trying again");
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// The counters: in Redis, or of this process alone.
pub(super) async fn counters(
    settings: &super::Redis,
    instance: &str,
    group: &str,
    registry: &mut Registry,
) -> Result<Arc<Counters>, Failure> {
    let super::Redis { redis_url, redis_ca, redis_pods, redis_lease_secs } = settings;
    let Some(url) = redis_url else {
        tracing::warn!(
            "there is no --redis-url: limits, quotas and failed logins are counted by each process for itself"
        );
        return Ok(Arc::new(Counters::Local(Local::in_memory())));
    };
    let authorities = match redis_ca {
        Some(path) => {
            let read = tokio::fs::read(path).await;
            Some(read.map_err(|error| wrong(format!("can't read {} (--redis-ca): {error}", path.display())))?)
        }
        None => None,
    };
    let mut settings = limits::redis::Settings::new(url);
    settings.authorities = authorities;
    instance.clone_into(&mut settings.instance);
    group.clone_into(&mut settings.group);
    settings.pods = *redis_pods;
    settings.lease = Duration::from_secs(*redis_lease_secs);
    let counters = Arc::new(Counters::Redis(Redis::connect(settings).await.map_err(wrong)?));
    show(registry, &counters);
    Ok(counters)
}

/// Whether counters are shared, and how many questions were answered without Redis.
fn show(registry: &mut Registry, counters: &Arc<Counters>) {
    let shared = registry.gauge(
        "limits_shared",
        "1 while limits are counted in Redis, 0 while each process keeps to its share",
    );
    let members = registry.gauge("limits_members", "Processes that share the limits of this role");
    let away = registry.gauge("limits_away_seconds", "How long Redis has been away");
    let answered = registry.gauge_by(
        "limits_answers",
        "Questions answered since the start",
        "by",
        &["redis", "process"],
    );
    let counters = Arc::clone(counters);
    registry.refresh_by(move || {
        let (shared, members, away, answered) =
            (shared.clone(), members.clone(), away.clone(), answered.clone());
        let counters = Arc::clone(&counters);
        async move {
            let Counters::Redis(redis) = &*counters else { return };
            let status = redis.status();
            shared.set(i64::from(status.shared));
            members.set(i64::from(status.members));
            away.set(status.away_for.map_or(0, |away| i64::try_from(away.as_secs()).unwrap_or(i64::MAX)));
            answered.set("redis", status.answered_shared);
            answered.set("process", status.answered_locally);
        }
    });
}
