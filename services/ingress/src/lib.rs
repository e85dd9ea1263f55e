//! Takes mail from applications: SMTP with AUTH, checked against the account, on disk before the 250.
//!
//! ```text
//!  listener --connection--> conversation --Question--> gate --> accounts (gRPC): who is this, what may they send
//!  (admission: caps)            |  wire: deadlines      '----> limits: failed logins, quota
//!                               v
//!                             intake: header read, body hashed, kept in pieces (budget: memory)
//!                               |
//!                               v
//!                           acceptance: Received, Date, Message-ID; jobs by recipient host --> Spool::accept --> 250
//!
//!  administrator --gRPC Send--> send: composes a plain message --> the same gate, the same acceptance
//! ```
//!
//! The protocol is `smtp`'s, the header `mail`'s; this crate is the shell around them and the policy between. It doesn't sign,
//! doesn't look anything up in DNS, doesn't parse MIME, and never delivers: what it accepted is the spool's.

mod acceptance;
mod admission;
mod budget;
mod config;
mod conversation;
mod directory;
mod gate;
mod intake;
mod listener;
mod metrics;
mod observer;
mod send;
mod spans;
mod stream;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use limits::Limits;
use proto::accounts::v1::directory_client::DirectoryClient;
use runtime::telemetry::TraceAddresses;
use runtime::tls::ServerTls;
use smtp::address::Domain;
use smtp::server::{AuthOffer, StartTls};
use spool::Spool;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::{AuthPolicy, Config, Literals, UnreadyPolicy};
pub use metrics::Metrics;
pub use observer::{Accepted, LogObserver, Observer, Refused, Stage};
pub use send::send_routes;

use crate::admission::Admission;
use crate::config::Settings;
use crate::gate::Gate;
use crate::listener::{Doors, Opening};

/// Connections that may wait to be accepted on each port.
const BACKLOG: u32 = 4096;

/// What ingress needs from others.
pub struct Parts<S, L> {
    /// Where mail is kept.
    pub spool: Arc<S>,
    /// Failed logins and quotas.
    pub limits: Arc<L>,
    /// Accounts.
    pub directory: DirectoryClient<runtime::rpc::Client>,
    /// Is told what was accepted and refused.
    pub observer: Arc<dyn Observer>,
    /// Where it counts.
    pub metrics: Metrics,
    /// What traces tell of senders and recipients.
    pub trace_addresses: TraceAddresses,
    /// Our name: in the greeting and in Received fields.
    pub host_name: Domain,
    /// Who may log in without TLS.
    pub security: AuthPolicy,
    /// A message that has waited in the queue for so many seconds is given up.
    pub lifetime_secs: u64,
}

impl<S, L> Clone for Parts<S, L> {
    fn clone(&self) -> Self {
        Self {
            spool: Arc::clone(&self.spool),
            limits: Arc::clone(&self.limits),
            directory: self.directory.clone(),
            observer: Arc::clone(&self.observer),
            metrics: self.metrics.clone(),
            trace_addresses: self.trace_addresses,
            host_name: self.host_name.clone(),
            security: self.security,
            lifetime_secs: self.lifetime_secs,
        }
    }
}

/// Why ports can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refuses.
    #[error("can't listen on {address} ({setting}): {source}")]
    Address {
        /// Which setting names it.
        setting: &'static str,
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A port for implicit TLS without a certificate.
    #[error("--ingress-listen-tls needs a certificate and its key; give both, or leave the setting empty")]
    NoCertificate,
    /// A message of the announced size would never find room.
    #[error(
        "--ingress-memory-bytes-max is {memory}, less than a message may have: --ingress-size-bytes-max is {size}"
    )]
    Memory {
        /// Octets of memory.
        memory: u64,
        /// Octets of a message.
        size: u64,
    },
}

/// Ports that are bound and not yet served.
#[derive(Debug)]
pub struct Listeners {
    smtp: Vec<TcpListener>,
    tls: Vec<TcpListener>,
    certificate: Option<ServerTls>,
}

impl Listeners {
    /// Where SMTP is spoken.
    pub fn smtp_addresses(&self) -> Vec<SocketAddr> {
        self.smtp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Where TLS is spoken from the first octet.
    pub fn tls_addresses(&self) -> Vec<SocketAddr> {
        self.tls.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }
}

/// Binds all ports, within a tokio runtime, before anything is started. Without a certificate there is neither STARTTLS nor
/// implicit TLS.
///
/// # Errors
/// When a port can't be had, naming it and its setting, or when settings contradict each other.
pub fn bind(config: &Config, certificate: Option<ServerTls>) -> Result<Listeners, BindError> {
    if !config.ingress_listen_tls.is_empty() && certificate.is_none() {
        return Err(BindError::NoCertificate);
    }
    let (memory, size) = (config.ingress_memory_bytes_max, config.ingress_size_bytes_max);
    if memory < size {
        return Err(BindError::Memory { memory, size });
    }
    let all = |addresses: &[SocketAddr], setting| {
        let bind = |address: &SocketAddr| {
            listen(*address).map_err(|source| BindError::Address { setting, address: *address, source })
        };
        addresses.iter().map(bind).collect::<Result<Vec<_>, _>>()
    };
    Ok(Listeners {
        smtp: all(&config.ingress_listen, "--ingress-listen")?,
        tls: all(&config.ingress_listen_tls, "--ingress-listen-tls")?,
        certificate,
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves the listeners until `shutdown`, and `--ingress-linger-secs` more: then none is accepted, sessions between commands are
/// closed with 421, messages that are being received have `--ingress-drain-secs` to be finished.
pub async fn run<S: Spool, L: Limits>(
    config: Config,
    parts: Parts<S, L>,
    listeners: Listeners,
    shutdown: CancellationToken,
) {
    let starttls = if listeners.certificate.is_some() { StartTls::Offered } else { StartTls::NotOffered };
    let settings = Settings::new(&config, &parts.host_name, starttls);
    let distant = Arc::new(settings.smtp.clone());
    let nearby = match parts.security {
        AuthPolicy::TlsOnly => Arc::clone(&distant),
        AuthPolicy::LoopbackToo => {
            Arc::new(smtp::server::Settings { auth: AuthOffer::Always, ..settings.smtp.clone() })
        }
    };
    let gate = Gate::new(&settings, parts);
    let doors = Arc::new(Doors {
        gate: Arc::clone(&gate),
        tls: listeners.certificate,
        times: settings.times,
        messages_max: settings.messages_max,
        admission: Admission::new(settings.caps.within_descriptors()),
        distant,
        nearby,
    });
    let mut ports = JoinSet::new();
    let (closing, linger) = (CancellationToken::new(), settings.times.linger);
    let close = closing.clone();
    ports.spawn(async move {
        shutdown.cancelled().await;
        tokio::time::sleep(linger).await;
        close.cancel();
    });
    let openings = listeners.smtp.into_iter().map(|listener| (listener, Opening::Smtp));
    for (listener, opening) in
        openings.chain(listeners.tls.into_iter().map(|listener| (listener, Opening::Tls)))
    {
        ports.spawn(listener::serve(Arc::clone(&doors), listener, opening, closing.clone()));
    }
    while ports.join_next().await.is_some() {}
    gate.directory.close().await;
}
