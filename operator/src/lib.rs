//! Sending domains, credentials and accounts as Kubernetes objects.
//!
//! ```text
//! objects --watch--> reconcile: dereference -> validate -> decide -> apply -> status
//!                        |            |                      |
//!                      Lease      DNS, as receivers      Secrets, DNSEndpoints; accounts told by gRPC
//!                      (leader)   see it (dns)
//! ```
//!
//! What is decided is decided by pure functions ([`crd`] in, objects and states out), from what was seen; what is done can be
//! done twice. So a crash between any two steps costs a repetition.
//!
//! There are no finalizers: Secrets and DNSEndpoints go with the object that owns them, and accounts is told what there is,
//! in full, so that it removes what has no object any more, whoever was away when that went. A namespace can be deleted in any
//! order, also while no operator runs.
//!
//! [`crd`] has the objects' types, from which `stagepost crds` prints what a cluster must be told of them. [`dns`] judges the
//! DNS of a sending domain as receivers do, and knows nothing of Kubernetes.

mod account;
mod claim;
mod condition;
mod config;
mod context;
pub mod crd;
mod credential;
pub mod dns;
mod domain;
mod keymaker;
mod leader;
mod metrics;
mod policies;
mod secrets;
mod told;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use kube::runtime::controller::Action;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt as _};
use limits::Counters;
use proto::accounts::v1::administration_client::AdministrationClient;
use runtime::tls::{ClientTls, TlsError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::{Config, Sends};
pub use metrics::Metrics;

use crate::context::{Context, Failure, Failures};
use crate::crd::{Account, SendingDomain, SmtpCredential};
use crate::keymaker::KeyMaker;
use crate::leader::{Election, Leading};
use crate::policies::Policies;
use crate::told::{Said, Told};
use crate::watch::{Kind, Managed};

/// How often accounts is told everything.
const SYNC_EVERY: Duration = Duration::from_secs(60);
/// After a sync that failed.
const SYNC_AGAIN: Duration = Duration::from_secs(3);
/// A connection to the API server without a word for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(55);
/// How often in a row it is told again quickly.
const SYNC_QUICK_MAX: u32 = 20;
/// Objects that are being worked on have so long when the work ends.
const GRACE: Duration = Duration::from_secs(8);

/// What the operator works with.
pub struct Parts {
    /// The account service.
    pub accounts: runtime::rpc::Client,
    /// Where recipients are counted, if that is known.
    pub counters: Option<Arc<Counters>>,
    /// Where it counts.
    pub metrics: Metrics,
    /// Name of this Stagepost, and of its Lease.
    pub instance: String,
}

/// The operator can't work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no cluster.
    #[error("there is no Kubernetes here (neither KUBECONFIG nor a service account): {0}")]
    NoCluster(String),
    /// The client can't be made.
    #[error("can't make a client of the API server: {0}")]
    Client(kube::Error),
    /// What SPF records should say isn't known.
    #[error(
        "what lets our hosts send? Name them with --operator-senders, and if they are not one, a term of SPF with --operator-spf"
    )]
    NoSenders,
    /// Authorities can't be trusted.
    #[error("--operator-ca-file can't be used: {0}")]
    Authorities(#[from] TlsError),
    /// Threads can't be started.
    #[error("can't start threads that make keys: {0}")]
    Threads(std::io::Error),
}

/// Waits for the Lease, works while it lasts, waits again; until `shutdown`, when the Lease is given back.
///
/// # Errors
/// When it can't even begin. What goes wrong later is logged, counted and repeated.
pub async fn run(config: Config, parts: Parts, shutdown: CancellationToken) -> Result<(), RunError> {
    config.spf_term().ok_or(RunError::NoSenders)?;
    let mut kubernetes =
        kube::Config::infer().await.map_err(|error| RunError::NoCluster(error.to_string()))?;
    kubernetes.read_timeout = Some(SILENCE_MAX);
    let own = config.operator_lease_namespace.clone();
    let namespace = own.unwrap_or_else(|| kubernetes.default_namespace.clone());
    let client = Client::try_from(kubernetes).map_err(RunError::Client)?;
    let identity = config.operator_identity.clone().unwrap_or_else(|| {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "stagepost-operator".into());
        format!("{host}-{}", random_text(6))
    });
    let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    let lasts = Duration::from_secs(config.operator_lease_secs.into());
    let mut election = Election::new(leases, format!("{}-operator", parts.instance), identity.clone(), lasts);
    while election.win(&shutdown).await {
        tracing::info!(identity, "this operator holds the Lease");
        parts.metrics.leading.set(1);
        let end = shutdown.child_token();
        let work = work(&config, &parts, client.clone(), election.leading(), &identity, end.clone())?;
        let working = tokio::spawn(work);
        election.keep(&end).await;
        end.cancel();
        if !shutdown.is_cancelled() {
            tracing::warn!(identity, "the Lease is lost; all work stops");
        }
        // Stopped before anybody else begins: what doesn't end in time is cut off.
        let stop = working.abort_handle();
        if tokio::time::timeout(GRACE, working).await.is_err() {
            stop.abort();
        }
        parts.metrics.leading.set(0);
        election.release().await;
    }
    Ok(())
}

/// All work of the holder of the Lease.
fn work(
    config: &Config,
    parts: &Parts,
    client: Client,
    leading: Leading,
    identity: &str,
    end: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + 'static, RunError> {
    let (accounts, domains, credentials) = (Kind::new(), Kind::new(), Kind::new());
    let tls = ClientTls::load_for_web(config.operator_ca_file.as_deref())?;
    let reporter = Reporter { controller: context::MANAGER.into(), instance: Some(identity.to_owned()) };
    let context = Arc::new(Context {
        client: client.clone(),
        settings: config.settings(),
        leading,
        told: Told::new(AdministrationClient::new(parts.accounts.clone())),
        accounts: accounts.store.clone(),
        domains: domains.store.clone(),
        credentials: credentials.store.clone(),
        keys: KeyMaker::start().map_err(RunError::Threads)?,
        counters: parts.counters.clone(),
        look: domain::look::Dns::new(Policies::new(tls, config.reach())),
        recorder: Recorder::new(client, reporter),
        metrics: parts.metrics.clone(),
        failures: Failures::default(),
    });
    let nudges = Nudges {
        whole: [accounts.whole.clone(), domains.whole.clone(), credentials.whole.clone()],
        accounts: accounts.nudge.clone(),
        domains: domains.nudge.clone(),
        credentials: credentials.nudge.clone(),
    };
    Ok(async move {
        let (left, leaving) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(accounts.run(Arc::clone(&context), left.clone(), end.clone()));
        tasks.spawn(domains.run(Arc::clone(&context), left.clone(), end.clone()));
        tasks.spawn(credentials.run(Arc::clone(&context), left, end.clone()));
        tasks.spawn(async move {
            end.run_until_cancelled(keep_in_step(&context, nudges, leaving)).await;
        });
        while tasks.join_next().await.is_some() {}
    })
}

/// The ways to have an object looked at.
struct Nudges {
    /// Cancelled once all objects of a kind are known.
    whole: [CancellationToken; 3],
    accounts: mpsc::UnboundedSender<ObjectRef<context::Guarded<Account>>>,
    domains: mpsc::UnboundedSender<ObjectRef<context::Guarded<SendingDomain>>>,
    credentials: mpsc::UnboundedSender<ObjectRef<context::Guarded<SmtpCredential>>>,
}

/// Tells accounts everything, again and again: that removes what has no object any more, and finds what accounts lost. What
/// was deleted a moment ago is taken back at once.
async fn keep_in_step(context: &Context, nudges: Nudges, mut leaving: mpsc::UnboundedReceiver<Vec<String>>) {
    // A set that isn't whole would remove what it misses.
    for whole in &nudges.whole {
        whole.cancelled().await;
    }
    let mut pause = Duration::ZERO;
    let mut again = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {
                // What can't be told is looked at a few times quickly, then now and then.
                let whole = sync(context, &nudges).await;
                again = if whole { 0 } else { again + 1 };
                pause = if (1..=SYNC_QUICK_MAX).contains(&again) { SYNC_AGAIN } else { SYNC_EVERY };
                count(context);
            }
            gone = leaving.recv() => {
                let Some(origins) = gone else { return };
                for origin in origins {
                    if let Err(error) = context.told.withdraw(&origin).await {
                        tracing::warn!(%error, "accounts isn't told of a deletion; the next sync tells it");
                        pause = SYNC_AGAIN;
                    }
                }
            }
        }
    }
}

/// Whether accounts knows everything.
async fn sync(context: &Context, nudges: &Nudges) -> bool {
    if context.leading.check().is_err() {
        return false;
    }
    let differing = match context.told.sync(|| everything(context)).await {
        Ok(differing) => differing,
        Err(error) => {
            tracing::warn!(%error, "accounts can't be told everything; trying again");
            return false;
        }
    };
    // Nobody listens any more when all ends.
    let wanted = |uid: Option<String>| {
        uid.is_some_and(|uid| differing.iter().any(|origin| origin.split('/').next() == Some(uid.as_str())))
    };
    for object in context.accounts.state().iter().filter(|object| wanted(object.uid())) {
        let _ = nudges.accounts.send(ObjectRef::from_obj(&**object));
    }
    for object in context.domains.state().iter().filter(|object| wanted(object.uid())) {
        let _ = nudges.domains.send(ObjectRef::from_obj(&**object));
    }
    for object in context.credentials.state().iter().filter(|object| wanted(object.uid())) {
        let _ = nudges.credentials.send(ObjectRef::from_obj(&**object));
    }
    differing.is_empty()
}

/// All that accounts should know.
fn everything(context: &Context) -> Vec<Said> {
    let accounts = context.accounts.state();
    let accounts = accounts.iter().filter_map(|object| object.0.as_ref().ok());
    let mut all: Vec<Said> = accounts.filter_map(|object| Some(account::said(object)?.0)).collect();
    let domains = context.domains.state();
    let domains = domains.iter().filter_map(|object| object.0.as_ref().ok());
    all.extend(domains.filter_map(|object| domain::said(object, context)));
    let credentials = context.credentials.state();
    let credentials = credentials.iter().filter_map(|object| object.0.as_ref().ok());
    all.extend(credentials.flat_map(|object| credential::said(object, context)));
    all
}

/// Brings the gauges up to date.
fn count(context: &Context) {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let domains = context.domains.state();
    let readable: Vec<&SendingDomain> = domains.iter().filter_map(|object| object.0.as_ref().ok()).collect();
    context.metrics.domains.set("all", number(domains.len()));
    context.metrics.domains.set("unreadable", number(domains.len() - readable.len()));
    let mut holds: HashMap<&str, u64> = HashMap::new();
    let mut next = None;
    for status in readable.iter().filter_map(|domain| domain.status.as_ref()) {
        for condition in status.conditions.iter().filter(|condition| condition.status == "True") {
            *holds.entry(condition.type_.as_str()).or_default() += 1;
        }
        let at = status.next_rotation.as_ref().map(|at| at.0.as_second());
        next = match (next, at) {
            (Some(held), Some(at)) => Some(std::cmp::min::<i64>(held, at)),
            (held, at) => held.or(at),
        };
    }
    for condition in metrics::CONDITIONS {
        context.metrics.domains_true.set(condition, holds.get(condition).copied().unwrap_or_default());
    }
    let now = k8s_openapi::jiff::Timestamp::now().as_second();
    context.metrics.rotation_days.set(next.map_or(-1, |at| (at - now).max(0) / 86_400));
}

impl Managed for Account {
    const KIND: &'static str = "Account";

    fn origins(&self) -> Vec<String> {
        self.uid().into_iter().collect()
    }

    async fn reconcile(&self, context: &Context) -> Result<Action, Failure> {
        account::reconcile(self, context).await
    }
}

impl Managed for SendingDomain {
    const KIND: &'static str = "SendingDomain";

    fn origins(&self) -> Vec<String> {
        self.uid().into_iter().collect()
    }

    async fn reconcile(&self, context: &Context) -> Result<Action, Failure> {
        domain::reconcile(self, context).await
    }
}

impl Managed for SmtpCredential {
    const KIND: &'static str = "SmtpCredential";

    fn origins(&self) -> Vec<String> {
        credential::origins(self)
    }

    async fn reconcile(&self, context: &Context) -> Result<Action, Failure> {
        credential::reconcile(self, context).await
    }
}

/// Letters and digits that can't be taken for one another, and that may stand in any name; 5 random bits each.
fn random_text(length: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let letter = || {
        let [octet] = runtime::random::<1>();
        char::from(ALPHABET[usize::from(octet & 31)])
    };
    (0..length).map(|_| letter()).collect()
}
