//! Leases jobs and brings each to where its attempt is made.
//!
//! ```text
//! lease --report-----------------------------------------> module `report`
//!       --account suspended------------------------------> held
//!       --simulated or sandbox---------------------------> settled here
//!       --route--sign--slot of the site------------------> pool of the destination --> module `carrier`
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use dkim::{BodyHash, SignError};
use limits::{Limits, Slot, Urgency};
use mail::{Disposition, Hop, JobKind};
use smtp::address::Host;
use spool::{Lease as _, Spool};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

use crate::approach::Failure;
use crate::attempt::unreadable;
use crate::config::Sign;
use crate::context::{Context, now};
use crate::isolation::caught;
use crate::metrics::{Cause, Phase};
use crate::pool::{Parcel, Submitted};
use crate::settle::{self, Origin, Outcome, log_unrecorded};
use crate::sign::Standing;
use crate::work::Work;
use crate::{carrier, events, report, simulator, spans};

/// Jobs that are leased with one call.
const BATCH: u32 = 128;
/// When there is no key, or no room for a report, somebody must do something: the job comes back after this time.
const WAIT_FOR_PEOPLE: Duration = Duration::from_secs(60);
/// When accounts gave no answer, which a restart explains.
const WAIT_FOR_ACCOUNTS: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// Leases jobs until `stopping`; at most `jobs_max` are in work.
pub(crate) async fn lease_all<S: Spool, L: Limits>(context: Arc<Context<S, L>>, jobs_max: u32) {
    let room = Arc::new(Semaphore::new(jobs_max as usize));
    let stopping = context.stopping.clone();
    loop {
        let leasing = async {
            let mut permits = Arc::clone(&room).acquire_owned().await.ok()?;
            let more = u32::try_from(room.available_permits()).unwrap_or(u32::MAX).min(BATCH - 1);
            if let Ok(others) = Arc::clone(&room).try_acquire_many_owned(more) {
                permits.merge(others);
            }
            Some((context.spool.lease(permits.num_permits()).await, permits))
        };
        let Some(Some((leases, mut permits))) = stopping.run_until_cancelled(leasing).await else { return };
        for lease in leases {
            let Some(permit) = permits.split(1) else { break };
            let span = spans::process(lease.job(), context.trace_addresses);
            let work = Work::new(lease, permit, &context.metrics, span.clone());
            context.spawn(process(Arc::clone(&context), work).instrument(span));
        }
    }
}

/// Looks after the pools until `stopping`.
pub(crate) async fn sweep_pools<S: Spool, L: Limits>(context: Arc<Context<S, L>>) {
    let stopping = context.stopping.clone();
    while stopping.run_until_cancelled(tokio::time::sleep(SWEEP_EVERY)).await.is_some() {
        for submitted in context.pools.sweep() {
            let context = Arc::clone(&context);
            context.clone().spawn(async move { place(&context, submitted).await });
        }
    }
}

async fn process<S: Spool, L: Limits>(context: Arc<Context<S, L>>, mut work: Work<S::Lease>) {
    if let JobKind::Report { .. } = work.job().kind {
        return match caught(work.kept(report::send(&context, &work))).await {
            Ok(Ok(report::Sent::Over)) => {
                let id = work.job().id;
                log_unrecorded(id, work.lease.done(Vec::new()).await);
            }
            Ok(Ok(report::Sent::Later(reason))) => {
                settle::wait(&context, work, Cause::Report, WAIT_FOR_PEOPLE, reason, None).await
            }
            Ok(Err(lost)) => tracing::info!(job = %work.job().id, %lost, "a report was lost"),
            Err(panicked) => settle::poisoned(&context, work, panicked).await,
        };
    }
    events::note_accepted(&context, work.job());
    let prepared = caught(work.kept(prepare(&context, &work))).await;
    let decision = match prepared {
        Ok(Ok(decision)) => decision,
        Ok(Err(lost)) => return tracing::info!(job = %work.job().id, %lost, "a job was lost"),
        Err(panicked) => return settle::poisoned(&context, work, panicked).await,
    };
    match decision {
        Decision::Hold(reason) => {
            context.suspensions.add(&work.job().message.account);
            events::keep_noted(&context, work.job()).await;
            let id = work.job().id;
            log_unrecorded(id, work.lease.hold(reason).await);
        }
        Decision::Wait(cause, wait, reason, signature) => {
            settle::wait(&context, work, cause, wait, reason, signature).await
        }
        Decision::Over(outcome) => settle::finish(&context, work, outcome).await,
        Decision::Kept { outcome, signing, writing } => {
            work.times.sign = signing;
            work.times.deliver = writing;
            settle::finish(&context, work, outcome).await;
        }
        Decision::Go(ready) => {
            let Ready { route, requirement, signature, routing, signing } = ready;
            work.times.route = routing;
            work.times.sign = signing;
            let connections_max = context.sites.limits(&route.site).connections;
            let parcel = Parcel { work, route, requirement, signature, since: Instant::now() };
            let submitted = context.pools.submit(parcel, connections_max);
            place(&context, submitted).await;
        }
    }
}

/// Follows up on what a pool decided.
async fn place<S: Spool, L: Limits>(context: &Arc<Context<S, L>>, submitted: Submitted<S::Lease>) {
    match submitted {
        Submitted::Queued => {}
        Submitted::Open(place, first) => {
            context.spawn(carrier::carry(Arc::clone(context), place, first));
        }
        Submitted::Later(wait, parcel) => {
            let reason = format!("more mail waits for {} than it takes", parcel.route.destination);
            carrier::postpone(context, parcel, Cause::Crowd, wait, reason).await;
        }
    }
}

/// A job that may be handed to a connection.
struct Ready {
    route: Arc<crate::route::Route>,
    requirement: mail::TlsRequirement,
    signature: Option<Arc<str>>,
    routing: Duration,
    signing: Duration,
}

enum Decision {
    Hold(String),
    /// No attempt is made now.
    Wait(Cause, Duration, String, Option<Arc<str>>),
    Over(Outcome),
    /// It is in the sandbox.
    Kept {
        outcome: Outcome,
        signing: Duration,
        writing: Duration,
    },
    Go(Ready),
}

/// All that comes before a connection is used.
async fn prepare<S: Spool, L: Limits>(context: &Context<S, L>, work: &Work<S::Lease>) -> Decision {
    let message = &work.job().message;
    if let Some(not_before) = message.not_before.filter(|not_before| *not_before > now()) {
        let wait = Duration::from_millis(not_before.millis_since(now()));
        return Decision::Wait(Cause::NotBefore, wait, String::from("it is not to be sent sooner"), None);
    }
    let Some(host) = work.job().destination() else {
        return Decision::Over(here(Vec::new()));
    };
    let standing = context.signatures.standing(&message.account, &message.author_domain).await;
    if let Standing::Suspended(reason) = &standing {
        return Decision::Hold(crate::suspension::hold_reason(reason));
    }
    if simulator::is_simulated(host) {
        let at = now();
        return Decision::Over(here(work.recipients.iter().map(|it| simulator::result(it, at)).collect()));
    }
    if context.sandbox.is_some() {
        let started = Instant::now();
        return match sign(context, work, standing).await {
            Ok(signature) => keep(context, work, host, signature, started.elapsed()).await,
            Err(decision) => decision,
        };
    }
    ready(context, work, host, standing).await.unwrap_or_else(|decision| decision)
}

fn here(results: Vec<mail::RecipientResult>) -> Outcome {
    Outcome { results, origin: Origin::Here, signature: None, hop: Hop::default() }
}

/// Route, signature and slot; or what is to be done instead.
async fn ready<S: Spool, L: Limits>(
    context: &Context<S, L>,
    work: &Work<S::Lease>,
    host: &Host,
    standing: Standing,
) -> Result<Decision, Decision> {
    let started = Instant::now();
    let span = spans::route(host);
    let routed = context.router.route(host).instrument(span.clone()).await;
    spans::routed(&span, &routed);
    let routing = started.elapsed();
    context.metrics.took(Phase::Route, routing);
    let route = routed.map_err(|error| {
        let failure = Failure { status: error.status, remote: None, reason: error.reason.clone() };
        Decision::Over(Outcome::failed(&work.recipients, &failure, work.job().signature.clone()))
    })?;
    let signature = sign(context, work, standing).await?;
    let signing = started.elapsed() - routing;
    let limits = context.sites.limits(&route.site);
    if limits.messages_per_sec > 0.0 {
        let urgency = if work.job().deferred.is_some() { Urgency::Due } else { Urgency::Fresh };
        if let Slot::Wait(wait) = context.limits.slot(&route.site, limits, 1, urgency).await {
            let reason = format!("{} takes {} messages a second", route.site, limits.messages_per_sec);
            return Err(Decision::Wait(Cause::Rate, wait, reason, signature));
        }
    }
    let requirement = work.job().message.tls.max(route.tls);
    Ok(Decision::Go(Ready { route, requirement, signature, routing, signing }))
}

/// The signature that the job carries, or a new one; without a key nothing leaves, unless the settings say so.
async fn sign<S: Spool, L: Limits>(
    context: &Context<S, L>,
    work: &Work<S::Lease>,
    standing: Standing,
) -> Result<Option<Arc<str>>, Decision> {
    if let Some(signature) = &work.job().signature {
        return Ok(Some(Arc::clone(signature)));
    }
    let signers = match standing {
        Standing::Keys(_) if context.sign == Sign::Never => return Ok(None),
        Standing::Keys(signers) => signers,
        Standing::NoKeys(_) if context.sign != Sign::Always => return Ok(None),
        Standing::NoKeys(reason) | Standing::Suspended(reason) => {
            return Err(Decision::Wait(Cause::Key, WAIT_FOR_PEOPLE, reason.to_string(), None));
        }
        Standing::Unknown(reason) => {
            return Err(Decision::Wait(Cause::Accounts, WAIT_FOR_ACCOUNTS, reason.to_string(), None));
        }
    };
    let failed = |failure: &Failure| Decision::Over(Outcome::failed(&work.recipients, failure, None));
    let header = work.header().await.map_err(|error| failed(&unreadable(&error)))?;
    let body_hash = BodyHash::from_bytes(work.job().message.body_hash);
    let started = Instant::now();
    let signing = context.signatures.sign(signers, header, body_hash, now().secs());
    let signed = signing.instrument(spans::sign(work.job())).await;
    context.metrics.took(Phase::Sign, started.elapsed());
    match signed {
        Ok(signature) => Ok(Some(signature)),
        Err(error @ SignError::Key { .. }) => {
            Err(Decision::Wait(Cause::Key, WAIT_FOR_PEOPLE, error.to_string(), None))
        }
        #[allow(
            clippy::panic,
            reason = "the job is isolated: it is counted and given up like one that panics here"
        )]
        Err(error @ SignError::Panicked) => panic!("{error}"),
        Err(error) => Err(failed(&Failure::new((5, 6, 0), error.to_string()))),
    }
}

/// Writes the message into the sandbox.
async fn keep<S: Spool, L: Limits>(
    context: &Context<S, L>,
    work: &Work<S::Lease>,
    host: &Host,
    signature: Option<Arc<str>>,
    signing: Duration,
) -> Decision {
    let started = Instant::now();
    let (Some(sandbox), job) = (context.sandbox.clone(), work.job()) else {
        return Decision::Over(here(Vec::new()));
    };
    // Never closed while anybody works.
    let _room = context.whole_messages.acquire().await;
    let content = match work.content().await {
        Ok(content) => content,
        Err(error) => {
            return Decision::Over(Outcome::failed(&work.recipients, &unreadable(&error), signature));
        }
    };
    let (id, message, recipients) = (job.id, Arc::clone(&job.message), work.recipients.clone());
    let fields = signature.clone();
    let writing = tokio::task::spawn_blocking(move || {
        let fields = fields.as_deref().unwrap_or_default();
        sandbox.write(id, &message, &recipients, fields, &content)
    });
    match writing.await.map_err(std::io::Error::other).flatten() {
        Ok(place) => {
            let reason = format!("for the servers of {host}, kept as {}", place.display());
            let at = now();
            let delivered = Disposition::Delivered { relayed: false };
            let status = (2, 0, 0).into();
            let result = |it| settle::result(it, delivered, status, None, reason.clone(), at);
            let outcome = here(work.recipients.iter().map(result).collect());
            Decision::Kept { outcome, signing, writing: started.elapsed() }
        }
        Err(error) => {
            let failure = Failure::new((4, 3, 0), format!("can't write to the sandbox: {error}"));
            Decision::Over(Outcome::failed(&work.recipients, &failure, signature))
        }
    }
}
