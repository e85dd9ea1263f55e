//! Brings queued mail to its recipients' servers, or tells its sender why not.
//!
//! ```text
//! Spool --lease--> dispatch --route: MX, static--> sign --> slot --> pool of the destination
//!   ^                 |                                                   |
//!   |                 |--simulator, sandbox--.                         carrier: one connection, many jobs
//!   |                 '--report: DSN---------|                            |  approach: hosts, TLS
//!   |                                        v                            v  attempt: one transaction
//!   '---events; done, retry, hold, report- settle <------------------ results per recipient
//! ```
//!
//! The protocol is `smtp`'s, signatures are `dkim`'s, reports `mail`'s, counting `limits`'s; this crate is the order in
//! which they are asked and the shell around sockets and DNS. It keeps nothing of its own that a restart may not forget:
//! what has to last is in the spool. It never changes a message but by putting signatures on top, or by converting it for a
//! server that takes no 8-bit mail and then signing it anew. It doesn't decide who may send, and it doesn't read replies'
//! texts: the first digit decides.

mod admin;
mod approach;
mod attempt;
mod cache;
mod carrier;
mod config;
mod connection;
mod context;
mod convert;
mod dispatch;
mod events;
mod isolation;
mod metrics;
mod observer;
mod pool;
mod report;
mod route;
mod sandbox;
mod settle;
mod sign;
mod simulator;
mod sites;
mod spans;
mod stream;
mod suspension;
mod tls;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use limits::Limits;
use mail::WhileUnready;
use proto::accounts::v1::signing_client::SigningClient;
use runtime::networks::Reach;
use runtime::telemetry::TraceAddresses;
use smtp::address::{Domain, Host};
use spool::Spool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use admin::admin_routes;
pub use config::{AddressFamily, Config, ConfigError, Mode, Sign};
pub use metrics::{Metrics, show_queue};
pub use observer::{AttemptReport, LogObserver, Observer};
pub use route::{
    NextHop, ParseSettingError, Pattern, ProvidersError, SiteLimit, SiteRetryWaits, StaticRoute, TlsPolicy,
    TlsSite,
};
pub use sites::UnknownSite;
pub use tls::TlsError;

use crate::config::Timeouts;
use crate::context::Context;
use crate::isolation::Failures;
use crate::pool::Pools;
use crate::route::{Dns, Router, RouterSettings};
use crate::sandbox::Sandbox;
use crate::sign::Signatures;
use crate::suspension::Suspensions;
use crate::tls::ClientTls;

/// Messages that may be in memory as a whole at a time.
const WHOLE_MESSAGES_MAX: usize = 4;

/// What delivery needs from others.
pub struct Parts<S, L> {
    /// Where mail waits.
    pub spool: Arc<S>,
    /// What may go where at which pace.
    pub limits: Arc<L>,
    /// Accounts: whose keys sign.
    pub signing: SigningClient<runtime::rpc::Client>,
    /// Is told what was tried and what came of it.
    pub observer: Arc<dyn Observer>,
    /// Where it counts.
    pub metrics: Metrics,
    /// What traces tell of senders and recipients.
    pub trace_addresses: TraceAddresses,
    /// Our name: in EHLO and in reports.
    pub host_name: Domain,
    /// What becomes of mail from domains that aren't ready to send.
    pub while_unready: WhileUnready,
}

/// Why delivery can't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No resolver can be asked.
    #[error("can't set up the DNS resolver: {0}")]
    Resolver(String),
    /// The sandbox can't be made.
    #[error("can't make the sandbox {path} (--delivery-sandbox): {source}")]
    Sandbox {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The signing threads can't be started.
    #[error("can't start the threads that sign: {0}")]
    Threads(std::io::Error),
}

/// Delivers until `shutdown`: then no job is begun, conversations have `--delivery-drain-secs` to end, and what has not ended
/// by then is broken off; what wasn't begun is ready again in the queue.
///
/// # Errors
/// When the configuration can't be followed; nothing has been delivered then.
pub async fn run<S: Spool, L: Limits>(
    config: Config,
    parts: Parts<S, L>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    config.check()?;
    let jobs_max = config.delivery_jobs_max;
    let drain = Duration::from_secs(config.delivery_drain_secs);
    let context = Arc::new(context(config, parts, shutdown.clone())?);
    context.spawn(dispatch::lease_all(Arc::clone(&context), jobs_max));
    context.spawn(dispatch::sweep_pools(Arc::clone(&context)));
    context.spawn(suspension::watch(Arc::clone(&context)));

    shutdown.cancelled().await;
    context.tasks.close();
    if tokio::time::timeout(drain, context.tasks.wait()).await.is_err() {
        tracing::warn!(conversations = context.tasks.len(), "breaking off conversations");
        context.aborting.cancel();
        context.tasks.wait().await;
    }
    Ok(())
}

#[allow(clippy::too_many_lines, reason = "a line for each flag, and one for where it goes")]
fn context<S: Spool, L: Limits>(
    config: Config,
    parts: Parts<S, L>,
    stopping: CancellationToken,
) -> Result<Context<S, L>, Error> {
    let sites = config.sites()?;
    let Config {
        delivery_mode,
        delivery_sandbox,
        delivery_jobs_max,
        delivery_connections_max: _,
        delivery_connection_messages_max: _,
        delivery_connection_idle_secs,
        delivery_site_limits: _,
        delivery_routes,
        delivery_port,
        delivery_resolvers,
        delivery_resolver_timeout_secs,
        delivery_address_family,
        delivery_own_addresses,
        delivery_refused_networks,
        delivery_allowed_networks,
        delivery_tls,
        delivery_tls_sites,
        delivery_ca_file,
        delivery_sign,
        delivery_signing_threads,
        delivery_accounts_timeout_secs,
        delivery_retry_waits_secs: _,
        delivery_site_retry_waits_secs: _,
        delivery_lifetime_secs: _,
        delivery_connect_timeout_secs,
        delivery_greeting_timeout_secs,
        delivery_tls_timeout_secs,
        delivery_command_timeout_secs,
        delivery_data_timeout_secs,
        delivery_block_timeout_secs,
        delivery_final_timeout_secs,
        delivery_drain_secs: _,
    } = config;
    let Parts { spool, limits, signing, observer, metrics, trace_addresses, host_name, while_unready } =
        parts;
    let secs = Duration::from_secs;
    let dns = Dns::new(&delivery_resolvers, secs(delivery_resolver_timeout_secs))
        .map_err(|error| Error::Resolver(error.to_string()))?;
    let router = RouterSettings {
        reach: Reach {
            refused: delivery_refused_networks,
            allowed: delivery_allowed_networks,
            own: delivery_own_addresses,
        },
        family: delivery_address_family,
        host_name: host_name.clone(),
        port: delivery_port,
        statics: delivery_routes,
        tls: delivery_tls,
        tls_sites: delivery_tls_sites,
        providers: sites.providers(),
    };
    let threads = match delivery_signing_threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => usize::from(threads),
    };
    let queue_max = (delivery_jobs_max / 4).max(1) as usize;
    Ok(Context {
        spool,
        limits,
        observer,
        metrics,
        trace_addresses,
        name: Host::Domain(host_name.clone()),
        host_name,
        mode: delivery_mode,
        sandbox: sandbox(delivery_mode, while_unready, delivery_sandbox)?,
        while_unready,
        sign: delivery_sign,
        router: Router::new(Box::new(dns), router),
        tls: ClientTls::new(delivery_ca_file.as_deref())?,
        timeouts: Timeouts {
            connect: secs(delivery_connect_timeout_secs),
            greeting: secs(delivery_greeting_timeout_secs),
            tls: secs(delivery_tls_timeout_secs),
            command: secs(delivery_command_timeout_secs),
            data: secs(delivery_data_timeout_secs),
            block: secs(delivery_block_timeout_secs),
            reply_to_message: secs(delivery_final_timeout_secs),
        },
        sites,
        idle: secs(delivery_connection_idle_secs),
        signatures: Signatures::new(signing, secs(delivery_accounts_timeout_secs), threads)
            .map_err(Error::Threads)?,
        failures: Failures::default(),
        pools: Pools::new(queue_max),
        suspensions: Suspensions::default(),
        whole_messages: Semaphore::new(WHOLE_MESSAGES_MAX),
        tasks: TaskTracker::new(),
        stopping,
        aborting: CancellationToken::new(),
    })
}

/// The sandbox, where there is one and something may go there.
fn sandbox(
    mode: Mode,
    while_unready: WhileUnready,
    folder: Option<PathBuf>,
) -> Result<Option<Sandbox>, Error> {
    let used = mode == Mode::Sandbox || while_unready == WhileUnready::Sandbox;
    let Some(path) = folder.filter(|_| used) else { return Ok(None) };
    match Sandbox::open(&path) {
        Ok(sandbox) => Ok(Some(sandbox)),
        Err(source) => Err(Error::Sandbox { path, source }),
    }
}
