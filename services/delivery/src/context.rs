//! What all parts of delivery share.

use std::sync::Arc;
use std::time::Duration;

use limits::Limits;
use mail::{Timestamp, WhileUnready};
use runtime::telemetry::TraceAddresses;
use smtp::address::{Domain, Host};
use spool::Spool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::approach::Means;
use crate::config::{Mode, Sign, Timeouts};
use crate::isolation::Failures;
use crate::metrics::Metrics;
use crate::observer::Observer;
use crate::pool::Pools;
use crate::route::Router;
use crate::sandbox::Sandbox;
use crate::sign::Signatures;
use crate::sites::Sites;
use crate::suspension::Suspensions;
use crate::tls::ClientTls;

pub(crate) struct Context<S: Spool, L: Limits> {
    pub(crate) spool: Arc<S>,
    pub(crate) limits: Arc<L>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) metrics: Metrics,
    pub(crate) trace_addresses: TraceAddresses,
    pub(crate) host_name: Domain,
    /// The same, as EHLO wants it.
    pub(crate) name: Host,
    pub(crate) mode: Mode,
    /// Where mail goes that doesn't go to its recipients.
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) while_unready: WhileUnready,
    pub(crate) sign: Sign,
    pub(crate) router: Router,
    pub(crate) tls: ClientTls,
    pub(crate) timeouts: Timeouts,
    pub(crate) sites: Sites,
    /// An open connection waits so long for its next job.
    pub(crate) idle: Duration,
    pub(crate) signatures: Signatures,
    pub(crate) failures: Failures,
    pub(crate) pools: Pools<S::Lease>,
    pub(crate) suspensions: Suspensions,
    /// Whole messages that may be in memory at a time, to be converted or given back.
    pub(crate) whole_messages: Semaphore,
    pub(crate) tasks: TaskTracker,
    /// No new transaction begins.
    pub(crate) stopping: CancellationToken,
    /// Everything ends where it stands.
    pub(crate) aborting: CancellationToken,
}

impl<S: Spool, L: Limits> Context<S, L> {
    /// Runs `work` beside everything else, until it ends or all is aborted.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let aborting = self.aborting.clone();
        // What a job's work holds is large: from here on only where it is changes hands.
        let work = Box::pin(work);
        self.tasks.spawn(async move {
            aborting.run_until_cancelled(work).await;
        });
    }

    pub(crate) fn means(&self) -> Means<'_> {
        Means { tls: &self.tls, timeouts: &self.timeouts, name: &self.name, metrics: &self.metrics }
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp(runtime::clock::now_millis())
}

/// `wait` after now.
pub(crate) fn in_time(wait: Duration) -> Timestamp {
    now().plus_millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}
