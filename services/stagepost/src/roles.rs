//! The services as processes of their own, any number of each, which meet in NATS and Redis.
//!
//! ```text
//! ingress --gRPC--> accounts <--gRPC-- delivery
//!    |                 |                  |
//!    '---- NATS: queue, events, accounts--'      Redis: limits, quotas, failed logins
//! ```

mod accounts;
mod connect;
mod delivery;
mod ingress;
mod operator;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command};
use runtime::admin::Health;
use runtime::metrics::Registry;
use runtime::telemetry::Guard;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::Failure;
use crate::site::Process;

pub(crate) use accounts::run as accounts;
pub(crate) use delivery::run as delivery;
pub(crate) use ingress::run as ingress;
pub(crate) use operator::run as operator;

/// What differs from the defaults of `run`.
const DEFAULTS: [(&str, &str); 2] = [("admin-listen", "0.0.0.0:8080"), ("log-format", "json")];

/// Everything that a role can be told. The schema is one for all roles, so that they can share a file.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    #[command(flatten)]
    process: Process,
    #[command(flatten)]
    services: Services,
    #[command(flatten)]
    ingress: ::ingress::Config,
    #[command(flatten)]
    accounts: ::accounts::Config,
    #[command(flatten)]
    delivery: ::delivery::Config,
    #[command(flatten)]
    nats: spool::jetstream::Config,
    #[command(flatten)]
    redis: Redis,
    #[command(flatten)]
    operator: ::operator::Config,
}

/// How services call each other.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Services")]
struct Services {
    /// Name of this Stagepost in NATS and Redis: those of another name don't see its mail.
    #[arg(long, value_name = "NAME", default_value = "stagepost")]
    instance: String,
    /// Address on which accounts and delivery take calls of services and commands.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8081")]
    grpc_listen: SocketAddr,
    /// File with the service token: one line of 16 or more visible characters, the same for all services. By default `token` in
    /// the state folder.
    #[arg(long, value_name = "FILE")]
    grpc_token_file: Option<PathBuf>,
    /// PEM file with the certificate chain of this service, shown to callers and to called services; read again when it changes.
    #[arg(long, value_name = "FILE", requires = "grpc_key")]
    grpc_certificate: Option<PathBuf>,
    /// PEM file with the key of `--grpc-certificate`.
    #[arg(long, value_name = "FILE", requires = "grpc_certificate")]
    grpc_key: Option<PathBuf>,
    /// PEM file with the authorities that called services' certificates are signed by (https://).
    #[arg(long, value_name = "FILE")]
    grpc_ca: Option<PathBuf>,
    /// PEM file with the authorities of callers: with it, callers must show a certificate too.
    #[arg(long, value_name = "FILE", requires = "grpc_certificate")]
    grpc_client_ca: Option<PathBuf>,
}

/// Where limits are shared.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Redis")]
struct Redis {
    /// Redis or Valkey that counts for all processes: redis://[user][:password@]host[:port][/database], or rediss:// for TLS.
    /// Without it each process counts for itself.
    #[arg(long, value_name = "URL", hide_env_values = true)]
    redis_url: Option<String>,
    /// PEM file with the authorities that the certificate of a rediss:// server is signed by.
    #[arg(long, value_name = "FILE")]
    redis_ca: Option<PathBuf>,
    /// Processes of this role, as long as Redis hasn't told how many there are: while it is away, each keeps to its share.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    redis_pods: u32,
    /// How long a connection counts towards its site's limit when its process is lost. After Redis was started, or forgot what it
    /// knew, no connection is opened for as long. All processes must have the same.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(3..=600))]
    redis_lease_secs: u64,
}

/// The schema with the defaults of roles. What a role doesn't read isn't in its help; in the file and the environment, which
/// roles share, it may stand.
pub(crate) fn with_defaults(command: Command) -> Command {
    let read = READ.iter().find(|(name, _)| *name == command.get_name()).map_or(&[][..], |(_, read)| read);
    command.mut_args(|arg| {
        let long = arg.get_long().unwrap_or_default().to_owned();
        let arg = match DEFAULTS.iter().find(|(name, _)| *name == long) {
            Some((_, value)) => arg.default_value(*value),
            None => arg,
        };
        let services =
            ["ingress-", "accounts-", "delivery-", "grpc-", "redis-", "tls-", "operator-", "nats-"];
        let of_service = services.into_iter().any(|prefix| long.starts_with(prefix));
        let shown = !of_service || read.iter().any(|prefix| long.starts_with(prefix));
        arg.hide(!shown || long == "state")
    })
}

/// Which flags each role reads of those that not all do.
const READ: [(&str, &[&str]); 4] = [
    (
        "ingress",
        &[
            "ingress-",
            "accounts-server",
            "accounts-token",
            "delivery-lifetime",
            "grpc-token",
            "grpc-ca",
            "grpc-certificate",
            "grpc-key",
            "redis-",
            "tls-",
            "nats-",
        ],
    ),
    ("accounts", &["accounts-sealing", "accounts-spf", "grpc-", "nats-"]),
    (
        "operator",
        &[
            "operator-",
            "redis-",
            "accounts-server",
            "accounts-token",
            "grpc-token",
            "grpc-ca",
            "grpc-certificate",
            "grpc-key",
        ],
    ),
    (
        "delivery",
        &[
            "delivery-",
            "accounts-server",
            "accounts-token",
            "ingress-size",
            "ingress-recipients",
            "ingress-unready",
            "grpc-",
            "redis-",
            "nats-",
        ],
    ),
];

/// What every role has: logs, signals, its HTTP port.
struct Base {
    _telemetry: Guard,
    shutdown: CancellationToken,
    admin: Option<TcpListener>,
}

impl Base {
    async fn start(process: &Process, service: &'static str) -> Result<Self, Failure> {
        let telemetry = process.start_telemetry(service)?;
        let shutdown =
            runtime::signals::shutdown_token().context("can't listen to signals").map_err(Failure::Work)?;
        let admin = crate::admin::bind(process.admin_listen).await.map_err(Failure::Configuration)?;
        Ok(Self { _telemetry: telemetry, shutdown, admin })
    }

    /// Shows health and metrics until the process ends.
    fn show(
        &mut self,
        tasks: &mut JoinSet<()>,
        health: Health,
        registry: Registry,
        ending: CancellationToken,
    ) {
        if let Some(listener) = self.admin.take() {
            tasks.spawn(runtime::admin::serve(listener, health, registry, ending));
        }
    }
}
