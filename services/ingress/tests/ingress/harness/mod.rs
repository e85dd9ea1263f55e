//! A real listener with a store in memory, and accounts as a server of which each answer can be chosen.

pub(crate) mod accounts;
mod administration;
pub(crate) mod client;
pub(crate) mod store;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use ingress::{AuthPolicy, Config, LogObserver, Parts};
use limits::local::Local;
use proto::accounts::v1::administration_client::AdministrationClient;
use proto::accounts::v1::directory_client::DirectoryClient;
use runtime::rpc::{self, Token};
use runtime::tls::ServerTls;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::accounts::Accounts;
use self::client::Client;
use self::store::Store;

/// Nothing here takes so long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    ingress: Config,
}

/// The flags' configuration, with ports of the system's choice.
pub(crate) fn config(flags: &[&str]) -> Config {
    let ports = ["test", "--ingress-listen", "127.0.0.1:0"];
    Flags::parse_from(ports.iter().chain(flags)).ingress
}

/// An ingress that serves.
pub(crate) struct Site {
    pub(crate) store: Arc<Store>,
    pub(crate) limits: Arc<Local>,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) address: SocketAddr,
    pub(crate) tls_address: Option<SocketAddr>,
    pub(crate) parts: Parts<Store, Local>,
    pub(crate) token: Token,
    pub(crate) rpc_client: rpc::Client,
    /// Trusts the site's certificate.
    pub(crate) roots: rustls::RootCertStore,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
    accounts_server: CancellationToken,
    folder: TempDir,
}

impl Site {
    /// Logins in the clear are taken, as `dev` has it.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, AuthPolicy::LoopbackToo).await
    }

    pub(crate) async fn start_with(flags: &[&str], security: AuthPolicy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = Token::load_or_make(&folder.path().join("token")).unwrap();
        let socket = folder.path().join("accounts.sock");
        let rpc_client = rpc::connect(&rpc::Server::Unix(socket), &token);
        let (tls, roots) = certificate(&folder);
        let accounts = Arc::new(Accounts::default());
        let (store, limits) = (Arc::new(Store::default()), Arc::new(Local::in_memory()));
        let parts = Parts {
            metrics: ingress::Metrics::default(),
            trace_addresses: runtime::telemetry::TraceAddresses::DomainsOnly,
            spool: Arc::clone(&store),
            limits: Arc::clone(&limits),
            directory: DirectoryClient::new(rpc_client.clone()),
            observer: Arc::new(LogObserver),
            host_name: "mail.sender.test".parse().unwrap(),
            security,
            lifetime_secs: 3600,
        };
        let config = config(flags);
        let listeners = ingress::bind(&config, Some(tls)).unwrap();
        let address = listeners.smtp_addresses()[0];
        let tls_address = listeners.tls_addresses().first().copied();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(ingress::run(config, parts.clone(), listeners, shutdown.clone()));
        let accounts_server = CancellationToken::new();
        let mut site = Self {
            store,
            limits,
            accounts,
            address,
            tls_address,
            parts,
            token,
            rpc_client,
            roots,
            shutdown,
            served,
            accounts_server,
            folder,
        };
        site.start_accounts().await;
        site
    }

    pub(crate) async fn start_accounts(&mut self) {
        let listener = rpc::Listener::bind_unix(&self.folder.path().join("accounts.sock")).await.unwrap();
        let routes = accounts::routes(&self.accounts);
        self.accounts_server = CancellationToken::new();
        let (token, shutdown) = (self.token.clone(), self.accounts_server.clone());
        tokio::spawn(async move { rpc::serve(listener, routes, &token, shutdown).await });
    }

    /// Accounts goes away as a killed process does: its socket too.
    pub(crate) async fn stop_accounts(&self) {
        self.accounts_server.cancel();
        let socket = self.folder.path().join("accounts.sock");
        until("accounts is gone", || !socket.exists()).await;
    }

    /// A client of the send service.
    pub(crate) async fn serve_send(&self) -> rpc::Client {
        let path = self.folder.path().join("send.sock");
        let listener = rpc::Listener::bind_unix(&path).await.unwrap();
        let accounts = AdministrationClient::new(self.rpc_client.clone());
        let routes = ingress::send_routes(&config(&[]), &self.parts, accounts);
        let (token, shutdown) = (self.token.clone(), self.shutdown.clone());
        tokio::spawn(async move { rpc::serve(listener, routes, &token, shutdown).await });
        rpc::connect(&rpc::Server::Unix(path), &self.token)
    }

    /// A client that has said EHLO.
    pub(crate) async fn client(&self) -> Client {
        let mut client = Client::connect(self.address).await;
        client.play("S: 220 mail.sender.test ESMTP\nC: EHLO client.test\nS: 250").await;
        client
    }

    /// A client that has logged in.
    pub(crate) async fn member(&self) -> Client {
        let mut client = self.client().await;
        client.login().await;
        client
    }

    /// The process begins to end.
    pub(crate) fn begin_to_end(&self) {
        self.shutdown.cancel();
    }

    /// The process has ended.
    pub(crate) async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.served).await.expect("ends in time").unwrap();
    }
}

fn certificate(folder: &TempDir) -> (ServerTls, rustls::RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["mail.sender.test".into()]).unwrap();
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (ServerTls::load(&chain, &key).unwrap(), roots)
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never came: {what}"));
}
