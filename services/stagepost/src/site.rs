//! Settings that belong to the process, with those of every service.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use runtime::rpc::Server;
use runtime::telemetry::{Guard, LogFilter, LogFormat, OtlpEndpoint, TraceAddresses, TraceRatio, Traces};
use smtp::address::Domain;

use crate::cli::Failure;

/// Where `stagepost run` keeps its state.
pub(crate) const DEFAULT_STATE: &str = "/var/lib/stagepost";

/// Everything that can be set.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    #[command(flatten)]
    pub(crate) process: Process,
    #[command(flatten)]
    pub(crate) ingress: ingress::Config,
    #[command(flatten)]
    pub(crate) accounts: accounts::Config,
    #[command(flatten)]
    pub(crate) delivery: delivery::Config,
    #[command(flatten)]
    pub(crate) spool: spool::embedded::Config,
}

/// What concerns the whole process.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Process")]
pub(crate) struct Process {
    /// Folder of all state: queue, accounts, keys, the service token and the socket of the commands.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub(crate) state: PathBuf,
    /// Fully qualified name of this host: in greetings, in EHLO, in Received fields and reports. By default the host's own
    /// name, if that is fully qualified.
    #[arg(long, value_name = "NAME")]
    pub(crate) host_name: Option<Domain>,
    /// PEM file with the certificate chain of the SMTP listeners, leaf first; read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// PEM file with the certificate's private key.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The account service that ingress and delivery ask, as unix:/path or http://host:port; by default the one in this
    /// process.
    #[arg(long, value_name = "SERVER")]
    pub(crate) accounts_server: Option<Server>,
    /// Token file for an account service of another process.
    #[arg(long, value_name = "FILE")]
    pub(crate) accounts_token_file: Option<PathBuf>,
    /// Address that serves /livez, /readyz and /metrics by HTTP to whoever can reach it. By default there is none.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin_listen: Option<SocketAddr>,
    /// What is logged: a level (error, warn, info, debug, trace) or directives such as `info,delivery=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub(crate) log: LogFilter,
    /// How log lines look: `text` or `json`.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Collector that gets a trace of each message, by OTLP over gRPC: http://host:port. By default there are no traces.
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) otlp_endpoint: Option<OtlpEndpoint>,
    /// Which part of all traces is kept, from 0 to 1. A message's trace is kept or left out as a whole.
    #[arg(long, value_name = "RATIO", default_value = "1")]
    pub(crate) trace_ratio: TraceRatio,
    /// Tell whole addresses of senders and recipients in traces; else only their domains are in there.
    #[arg(long)]
    pub(crate) trace_addresses: bool,
}

impl Process {
    /// What traces tell of senders and recipients.
    pub(crate) fn trace_addresses(&self) -> TraceAddresses {
        if self.trace_addresses { TraceAddresses::Whole } else { TraceAddresses::DomainsOnly }
    }

    /// Starts logs, and traces under the name of a service.
    pub(crate) fn start_telemetry(&self, service: &'static str) -> Result<Guard, Failure> {
        let traces = self.otlp_endpoint.clone().map(|endpoint| Traces {
            endpoint,
            ratio: self.trace_ratio,
            service,
            version: env!("CARGO_PKG_VERSION"),
        });
        runtime::telemetry::start(self.log_format, self.log.clone(), traces)
            .map_err(|error| Failure::Configuration(error.to_string()))
    }

    /// The host's name as configured, else as the system has it.
    ///
    /// # Errors
    /// One line, when neither gives a fully qualified name.
    pub(crate) fn host_name(&self) -> Result<Domain, String> {
        if let Some(name) = &self.host_name {
            return Ok(name.clone());
        }
        let system = rustix::system::uname().nodename().to_string_lossy().into_owned();
        match system.parse::<Domain>() {
            Ok(name) if system.contains('.') => Ok(name),
            _ => Err(format!(
                "this host is called {system:?}, which other mail servers can't look up: set `host_name` (--host-name) to its \
                 fully qualified name"
            )),
        }
    }
}
