//! What delivery counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::{Job, RecipientResult};
use runtime::metrics::{Counter, CounterBy, DurationsBy, Gauge, Lasting, Registry};
use spool::Spool;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// What the queue said is shown again for so long.
const QUEUE_HOLDS: Duration = Duration::from_secs(2);
/// A queue that doesn't answer must not keep the other metrics from being shown.
const QUEUE_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// A part of an attempt that takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Finding the hosts.
    Route,
    /// Signing.
    Sign,
    /// Opening a connection, TLS included.
    Connect,
    /// One transaction.
    Deliver,
}

impl Phase {
    const ALL: [&str; 4] =
        [Self::Route.as_str(), Self::Sign.as_str(), Self::Connect.as_str(), Self::Deliver.as_str()];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Sign => "sign",
            Self::Connect => "connect",
            Self::Deliver => "deliver",
        }
    }
}

/// What a job waits for when no attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It isn't to be sent sooner.
    NotBefore,
    /// The site's rate.
    Rate,
    /// A connection to the site.
    Connection,
    /// Those that wait for the destination already.
    Crowd,
    /// A signing key that can be used.
    Key,
    /// The author's domain, to be ready to send.
    Domain,
    /// An answer of accounts.
    Accounts,
    /// Room for a report.
    Report,
    /// Processing it failed.
    Failure,
}

impl Cause {
    const ALL: [&str; 9] = [
        Self::NotBefore.as_str(),
        Self::Rate.as_str(),
        Self::Connection.as_str(),
        Self::Crowd.as_str(),
        Self::Key.as_str(),
        Self::Domain.as_str(),
        Self::Accounts.as_str(),
        Self::Report.as_str(),
        Self::Failure.as_str(),
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NotBefore => "not_before",
            Self::Rate => "rate",
            Self::Connection => "connection",
            Self::Crowd => "crowd",
            Self::Key => "key",
            Self::Domain => "domain",
            Self::Accounts => "accounts",
            Self::Report => "report",
            Self::Failure => "failure",
        }
    }
}

/// Counters and gauges of delivery; those of one process are shared by its clones.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    attempts: CounterBy,
    redelivered: Counter,
    phases: DurationsBy,
    jobs_in_work: Gauge,
    connections_open: Gauge,
    waits: CounterBy,
}

impl Metrics {
    /// Metrics that the registry shows. The default ones are shown nowhere.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            attempts: registry.counter_by(
                "delivery_attempts",
                "Results of attempts, one for each recipient",
                "disposition",
                &["delivered", "deferred", "bounced", "expired", "dropped"],
            ),
            redelivered: registry.counter(
                "delivery_jobs_redelivered",
                "Jobs that somebody else may have held before, so that a duplicate is possible",
            ),
            phases: registry.durations_by(
                "delivery_phase_seconds",
                "How long the parts of attempts took",
                "phase",
                &Phase::ALL,
            ),
            jobs_in_work: registry.gauge("delivery_jobs_in_work", "Jobs that are leased and not yet settled"),
            connections_open: registry
                .gauge("delivery_connections_open", "Connections to recipients' servers that are open"),
            waits: registry.counter_by(
                "delivery_waits",
                "Times that a job went back to the queue without an attempt, by what it waits for",
                "cause",
                &Cause::ALL,
            ),
        }
    }

    /// A job was leased; it is in work until this is dropped.
    pub(crate) fn leased(&self, job: &Job) -> Lasting {
        if job.redelivered {
            self.redelivered.inc();
        }
        Lasting::begin(&self.jobs_in_work)
    }

    /// A connection is open until this is dropped.
    pub(crate) fn connection(&self) -> Lasting {
        Lasting::begin(&self.connections_open)
    }

    pub(crate) fn attempted(&self, results: &[RecipientResult]) {
        for result in results {
            self.attempts.add(result.disposition.as_str(), 1);
        }
    }

    pub(crate) fn took(&self, phase: Phase, time: Duration) {
        self.phases.observe(phase.as_str(), time);
    }

    pub(crate) fn waits(&self, cause: Cause) {
        self.waits.add(cause.as_str(), 1);
    }
}

/// Shows how many jobs are queued in which state, what can't be read, and what the store takes on disk.
pub fn show_queue<S: Spool>(registry: &mut Registry, spool: Arc<S>) {
    let states = ["ready", "leased", "waiting", "held"];
    let jobs = registry.gauge_by("spool_jobs", "Jobs in the queue", "state", &states);
    let disk = registry.gauge("spool_disk_bytes", "Octets of the store on disk");
    let dead = registry.gauge("spool_dead_letters", "Records that can't be read and were put aside");
    let asked_at = Arc::new(Mutex::new(None::<Instant>));
    registry.refresh_by(move || {
        let (jobs, disk, dead) = (jobs.clone(), disk.clone(), dead.clone());
        let asked_at = Arc::clone(&asked_at);
        let spool = Arc::clone(&spool);
        async move {
            let mut asked_at = asked_at.lock().await;
            if asked_at.is_some_and(|at| at.elapsed() < QUEUE_HOLDS) {
                return;
            }
            let Ok(summary) = timeout(QUEUE_ANSWERS_WITHIN, spool.summary(0)).await else {
                return tracing::warn!("the queue doesn't say how much waits; its metrics are old");
            };
            let counts = [summary.ready, summary.leased, summary.waiting, summary.held];
            states.into_iter().zip(counts).for_each(|(state, count)| jobs.set(state, count));
            disk.set(i64::try_from(summary.disk_octets).unwrap_or(i64::MAX));
            dead.set(i64::try_from(summary.dead_letters).unwrap_or(i64::MAX));
            *asked_at = Some(Instant::now());
        }
    });
}
