//! The connection to NATS: how it is made, whether it is up, and whether the server was restarted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::{Notify, watch};

use super::OpenError;
use super::settings::{Connection, Settings};

/// Within it a server that was started anew may hand out jobs again as if for the first time.
const SUSPECT_LEASES: u64 = 2;

/// What is known of the connection.
pub(super) struct Link {
    up: watch::Sender<bool>,
    /// Rung when a connection was made again: what was asked before has been forgotten.
    pub(super) renewed: Notify,
    /// Counts the restarts of a server that keeps leases to itself.
    epoch: AtomicU64,
    /// When the last of them was noticed, in milliseconds of Unix time and of this process.
    restarted_at_ms: AtomicU64,
    begin: Instant,
    /// A quorum keeps leases when one server restarts; a single server may not.
    alone: bool,
    client: OnceLock<Client>,
    /// The server that is known to be there.
    server: Mutex<String>,
}

impl Link {
    fn new(alone: bool) -> Arc<Self> {
        Arc::new(Self {
            up: watch::Sender::new(false),
            renewed: Notify::new(),
            epoch: AtomicU64::new(0),
            restarted_at_ms: AtomicU64::new(unix_millis()),
            begin: Instant::now(),
            alone,
            client: OnceLock::new(),
            server: Mutex::default(),
        })
    }

    fn set_up(&self, up: bool) {
        self.up.send_replace(up);
        if up {
            self.renewed.notify_waiters();
        }
    }

    fn restarted(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.restarted_at_ms.store(unix_millis(), Ordering::SeqCst);
    }

    pub(super) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Whether NATS can be reached, or can be within this time.
    pub(super) async fn wait_connected(&self, within: Duration) -> bool {
        if *self.up.borrow() {
            return true;
        }
        let mut up = self.up.subscribe();
        matches!(tokio::time::timeout(within, up.wait_for(|up| *up)).await, Ok(Ok(_)))
    }

    /// Looks whether the server is another one than before. An answer may come before the event that tells of the connection.
    fn observe(&self) {
        let Some(client) = self.client.get().filter(|_| self.alone) else { return };
        let now = client.server_info().server_id;
        let mut before = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if !before.is_empty() && *before != now {
            tracing::warn!(server = now, "NATS was started anew; what it had handed out is looked at twice");
            self.restarted();
        }
        *before = now;
    }

    /// The count of restarts; a lease of an earlier one may be somebody else's.
    pub(super) fn epoch(&self) -> u64 {
        self.observe();
        self.epoch.load(Ordering::SeqCst)
    }

    /// Whether a record that the server stored at `stored_ms` (Unix time) may have been with somebody before the server, or this
    /// process, started; leases last for up to `lease_ms`.
    pub(super) fn is_suspect(&self, stored_ms: u64, lease_ms: u64) -> bool {
        self.observe();
        let restarted = self.restarted_at_ms.load(Ordering::SeqCst);
        stored_ms <= restarted && unix_millis().saturating_sub(restarted) < SUSPECT_LEASES * lease_ms
    }

    /// Milliseconds since the store was opened, for leases.
    pub(super) fn elapsed(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Connects; afterwards the connection renews itself for ever.
pub(super) async fn connect(settings: &Settings) -> Result<(Client, Arc<Link>), OpenError> {
    let link = Link::new(settings.replicas == 1);
    let told = Arc::clone(&link);
    let options = options(&settings.connection).await?.event_callback(move |event| {
        let told = Arc::clone(&told);
        async move {
            match event {
                Event::Connected => {
                    told.observe();
                    tracing::info!("connected to NATS");
                    told.set_up(true);
                }
                Event::Disconnected => {
                    tracing::warn!("the connection to NATS is lost; trying again");
                    told.set_up(false);
                }
                Event::ServerError(error) => tracing::warn!(%error, "NATS reports an error"),
                Event::ClientError(error) => tracing::debug!(%error, "NATS isn't there yet"),
                other => tracing::debug!(event = %other, "NATS"),
            }
        }
    });
    let servers: Vec<&str> = settings.connection.url.split(',').map(str::trim).collect();
    let client = options.connect(servers).await.map_err(|error| OpenError::Connect {
        url: settings.connection.url.clone(),
        cause: error.to_string(),
    })?;
    // The first event may have come before the client was there to be asked.
    let _ = link.client.set(client.clone());
    link.observe();
    link.set_up(true);
    Ok((client, link))
}

async fn options(connection: &Connection) -> Result<ConnectOptions, OpenError> {
    let mut options = ConnectOptions::new()
        .name("stagepost")
        .connection_timeout(Duration::from_secs(2))
        .ping_interval(Duration::from_secs(2))
        .request_timeout(Some(Duration::from_secs(5)))
        .reconnect_delay_callback(|attempts| Duration::from_millis((50 << attempts.min(5)).min(1_000)))
        .max_reconnects(None);
    if let Some(path) = &connection.credentials {
        let failed = |source| OpenError::File { path: path.clone(), source };
        options = options.credentials_file(path).await.map_err(failed)?;
    }
    if let Some((user, path)) = &connection.user {
        let failed = |source| OpenError::File { path: path.clone(), source };
        let password = tokio::fs::read_to_string(path).await.map_err(failed)?;
        options = options.user_and_password(user.clone(), password.trim().to_owned());
    }
    if let Some(path) = &connection.ca {
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &connection.certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options)
}
