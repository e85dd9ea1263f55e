//! Puts the services together in one process, starts them all or none, and ends them in order.

use std::future::Future;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use accounts::Accounts;
use anyhow::{Context as _, Result, bail};
use limits::local::Local;
use proto::accounts::v1::administration_client::AdministrationClient;
use proto::accounts::v1::directory_client::DirectoryClient;
use proto::accounts::v1::signing_client::SigningClient;
use runtime::metrics::Registry;
use runtime::rpc::{self, Listener, Token};
use runtime::tls::ServerTls;
use spool::Spool as _;
use spool::embedded::{Embedded, Folders};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::admin;
use crate::cli::Failure;
use crate::site::{Process, Settings};

/// The socket of the commands.
pub(crate) fn socket_path(state: &Path) -> PathBuf {
    state.join("stagepost.sock")
}

/// The service token's file.
pub(crate) fn token_path(state: &Path) -> PathBuf {
    state.join("token")
}

/// Runs a future on a runtime of its own.
pub(crate) fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("can't start the runtime").map_err(Failure::Work)?;
    let result = runtime.block_on(work);
    // A blocking call that hangs, such as a look-up by the system, must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

/// `stagepost run`.
pub(crate) async fn run(settings: Settings) -> Result<(), Failure> {
    let _guard = settings.process.start_telemetry("stagepost")?;
    let shutdown =
        runtime::signals::shutdown_token().context("can't listen to signals").map_err(Failure::Work)?;
    let watch = Watch {
        ingress: Arc::new(ingress::LogObserver),
        delivery: Arc::new(delivery::LogObserver),
        auth: ingress::AuthPolicy::TlsOnly,
    };
    let site = Site::open(settings, watch).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "stagepost runs");
    site.serve(shutdown).await.map_err(Failure::Work)
}

/// Who watches, and who may log in without TLS.
pub(crate) struct Watch {
    pub(crate) ingress: Arc<dyn ingress::Observer>,
    pub(crate) delivery: Arc<dyn delivery::Observer>,
    pub(crate) auth: ingress::AuthPolicy,
}

/// All that a process needs, opened and bound, with nothing started.
pub(crate) struct Site {
    settings: Settings,
    watch: Watch,
    host_name: smtp::address::Domain,
    tls: Option<ServerTls>,
    spool: Arc<Embedded>,
    limits: Arc<Local>,
    accounts: Accounts,
    token: Token,
    socket: Listener,
    admin: Option<TcpListener>,
    listeners: ingress::Listeners,
}

impl Site {
    /// Opens and binds everything, or says in one line what is in the way.
    pub(crate) async fn open(settings: Settings, watch: Watch) -> Result<Self, Failure> {
        let wrong = |error: String| Failure::Configuration(error);
        let process = &settings.process;
        let host_name = process.host_name().map_err(wrong)?;
        let tls = server_tls(process)?;
        settings.delivery.check().map_err(|error| wrong(error.to_string()))?;
        let listeners =
            ingress::bind(&settings.ingress, tls.clone()).map_err(|error| wrong(error.to_string()))?;
        let admin = admin::bind(process.admin_listen).await.map_err(wrong)?;
        make_state(&process.state)?;
        let token =
            Token::load_or_make(&token_path(&process.state)).map_err(|error| wrong(error.to_string()))?;
        let path = socket_path(&process.state);
        let socket = Listener::bind_unix(&path).await.map_err(|error| {
            let state = process.state.display();
            wrong(match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    format!("another Stagepost runs with state in {state}; stop it or choose another --state")
                }
                _ => format!("can't listen on {}: {error}", path.display()),
            })
        })?;
        let (spool, accounts, limits) = open_stores(&settings, host_name.clone()).await?;
        Ok(Self {
            watch,
            host_name,
            tls,
            spool: Arc::new(spool),
            limits: Arc::new(limits),
            accounts,
            token,
            socket,
            admin,
            listeners,
            settings,
        })
    }

    /// The accounts of this process.
    pub(crate) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Runs until `shutdown` or until a service fails.
    pub(crate) async fn serve(self, shutdown: CancellationToken) -> Result<()> {
        let ends =
            Ends { ingress: shutdown, delivery: CancellationToken::new(), calls: CancellationToken::new() };
        let spool = Arc::clone(&self.spool);
        let tasks = self.start(&ends)?;
        let result = ends.follow(tasks).await;
        spool.close().await;
        result
    }

    fn start(self, ends: &Ends) -> Result<JoinSet<Ended>> {
        let Self {
            settings,
            watch,
            host_name,
            tls,
            spool,
            limits,
            accounts,
            token,
            socket,
            admin,
            listeners,
        } = self;
        let Settings { process, ingress, accounts: _, delivery, spool: _ } = settings;
        let own = rpc::connect(&rpc::Server::Unix(socket_path(&process.state)), &token);
        let client = accounts_client(&process, &token)?.unwrap_or_else(|| own.clone());
        let mut registry = Registry::default();
        let ingress_parts = ingress::Parts {
            spool: Arc::clone(&spool),
            limits: Arc::clone(&limits),
            directory: DirectoryClient::new(client.clone()),
            observer: watch.ingress,
            metrics: ingress::Metrics::register(&mut registry),
            trace_addresses: process.trace_addresses(),
            host_name: host_name.clone(),
            security: watch.auth,
            lifetime_secs: delivery.lifetime_secs(),
        };
        let delivery_parts = delivery::Parts {
            spool: Arc::clone(&spool),
            limits,
            signing: SigningClient::new(client.clone()),
            observer: watch.delivery,
            metrics: delivery::Metrics::register(&mut registry),
            trace_addresses: process.trace_addresses(),
            host_name,
            while_unready: ingress.while_unready(),
        };
        let send = ingress::send_routes(&ingress, &ingress_parts, AdministrationClient::new(own));
        delivery::show_queue(&mut registry, Arc::clone(&spool));
        let health = admin::health(Arc::clone(&spool), client, ends.ingress.clone());
        let Ends { ingress: shutdown, delivery: deliver, calls } = ends.clone();
        let routes = merged([accounts.routes(), delivery::admin_routes(spool, calls.clone()), send]);
        let mut tasks = JoinSet::new();
        if let Some(tls) = tls {
            tasks.spawn(keep_tls(tls, shutdown.clone()));
        }
        if let Some(listener) = admin {
            let shutdown = calls.clone();
            tasks.spawn(async move {
                runtime::admin::serve(listener, health, registry, shutdown).await;
                (Service::Admin, Ok(()))
            });
        }
        tasks.spawn(async move {
            let ended = rpc::serve(socket, routes, &token, calls).await;
            (Service::Calls, ended.context("the service socket failed"))
        });
        tasks.spawn(async move {
            let ended = delivery::run(delivery, delivery_parts, deliver).await;
            (Service::Delivery, ended.context("delivery failed"))
        });
        tasks.spawn(async move {
            ingress::run(ingress, ingress_parts, listeners, shutdown).await;
            (Service::Ingress, Ok(()))
        });
        Ok(tasks)
    }
}

/// How the services are told to end. Ingress comes first, so that what it accepts is still delivered or kept, then delivery,
/// then the calls that both make.
#[derive(Clone)]
struct Ends {
    ingress: CancellationToken,
    delivery: CancellationToken,
    calls: CancellationToken,
}

impl Ends {
    async fn follow(self, mut tasks: JoinSet<Ended>) -> Result<()> {
        let mut result = Ok(());
        while let Some(joined) = tasks.join_next().await {
            let (service, ended) = joined.context("a service panicked")?;
            if ended.is_err() && result.is_ok() {
                result = ended;
                self.ingress.cancel();
            }
            match service {
                Service::Ingress => self.delivery.cancel(),
                Service::Delivery => {
                    // Without delivery there is nothing to wait for, whoever ended first.
                    self.ingress.cancel();
                    self.calls.cancel();
                }
                Service::Calls => self.ingress.cancel(),
                Service::Tls | Service::Admin => {}
            }
        }
        result
    }
}

/// A service, and how it ended.
type Ended = (Service, Result<()>);

/// Which task ended.
enum Service {
    Tls,
    Admin,
    Calls,
    Delivery,
    Ingress,
}

/// Takes over certificates that change, until `shutdown`.
async fn keep_tls(tls: ServerTls, shutdown: CancellationToken) -> Ended {
    tls.watch(shutdown).await;
    (Service::Tls, Ok(()))
}

/// A client of an account service elsewhere, where one is named.
fn accounts_client(process: &Process, own: &Token) -> Result<Option<rpc::Client>> {
    let Some(server) = &process.accounts_server else { return Ok(None) };
    let token = match &process.accounts_token_file {
        Some(path) => Token::load(path)?,
        None => own.clone(),
    };
    Ok(Some(rpc::connect(server, &token)))
}

pub(crate) fn merged<const N: usize>(all: [Routes; N]) -> Routes {
    let mut router = Routes::default().into_axum_router();
    for routes in all {
        // The default router has the answer to calls that nobody knows; two of them can't be merged.
        router = router.merge(routes.into_axum_router().reset_fallback());
    }
    Routes::from(router)
}

pub(crate) fn server_tls(process: &Process) -> Result<Option<ServerTls>, Failure> {
    match (&process.tls_certificate, &process.tls_key) {
        (Some(certificate), Some(key)) => ServerTls::load(certificate, key)
            .map(Some)
            .map_err(|error| Failure::Configuration(error.to_string())),
        (None, None) => Ok(None),
        _ => Err(Failure::Configuration(
            "`tls_certificate` and `tls_key` go together: set both or none".into(),
        )),
    }
}

fn make_state(state: &Path) -> Result<(), Failure> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(|error| {
        Failure::Configuration(format!(
            "can't make the state folder {}: {error}; choose another with `state` (--state)",
            state.display()
        ))
    })
}

async fn open_stores(
    settings: &Settings,
    host_name: smtp::address::Domain,
) -> Result<(Embedded, Accounts, Local), Failure> {
    let state = settings.process.state.clone();
    let (spool, accounts) = (settings.spool.clone(), settings.accounts.clone());
    let opened = tokio::task::spawn_blocking(move || -> Result<_> {
        let spool = Embedded::open(&Folders::within(&state), spool.into(), || {
            mail::Timestamp(runtime::clock::now_millis())
        })?;
        let accounts = Accounts::open(&state.join("accounts"), accounts.settings(&host_name))?;
        let limits = Local::open(&state.join("limits"))?;
        Ok((spool, accounts, limits))
    });
    match opened.await {
        Ok(opened) => opened.map_err(Failure::Work),
        Err(panicked) => {
            Err(Failure::Work(anyhow::Error::new(panicked).context("opening the stores failed")))
        }
    }
}

/// Refuses addresses that aren't loopback, for `dev`.
pub(crate) fn only_loopback(settings: &Settings) -> Result<()> {
    let listen = settings.ingress.ingress_listen.iter().chain(&settings.ingress.ingress_listen_tls);
    if let Some(address) = listen.into_iter().find(|address| !address.ip().is_loopback()) {
        bail!(
            "`stagepost dev` has a well-known password and listens on loopback only, not on {address}; use `stagepost run`"
        );
    }
    Ok(())
}
