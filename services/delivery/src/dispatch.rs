//! Leases jobs and brings each to where its attempt is made.
//!
//! ```text
//! lease --report-----------------------------------------> module `report`
//!       --account suspended------------------------------> held
//!       --simulated--------------------------------------> settled here
//!       --domain not ready-------------------------------> waits, or settled here
//!       --sandbox----------------------------------------> settled here
//!       --route--sign--slot of the site------------------> pool of the destination --> module `carrier`
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dkim::{BodyHash, SignError};
use limits::{Limits, Slot, Urgency};
use mail::{Disposition, Hop, JobKind, Passage, RecipientResult};
use smtp::address::Host;
use spool::{Lease, Spool};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

use crate::approach::Failure;
use crate::attempt::unreadable;
use crate::config::{Mode, Sign};
use crate::context::{Context, now};
use crate::isolation::caught;
use crate::metrics::{Cause, Phase};
use crate::pool::{Parcel, Submitted};
use crate::sandbox::Sandbox;
use crate::settle::{self, Origin, Outcome, log_unrecorded};
use crate::sign::{Author, Standing};
use crate::work::Work;
use crate::{carrier, events, report, simulator, spans};

/// Jobs that are leased with one call.
const BATCH: u32 = 128;
/// When there is no key, or no room for a report, somebody must do something: the job comes back after this time.
const WAIT_FOR_PEOPLE: Duration = Duration::from_secs(60);
/// When the domain isn't ready: it goes on within a minute after it is, what accounts said being asked again meanwhile.
const WAIT_FOR_DOMAIN: Duration = Duration::from_secs(45);
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
            events::keep_noted(&context, &work).await;
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
    let author = context.signatures.author(&message.account, &message.author_domain).await;
    if let Standing::Suspended(reason) = &author.standing {
        return Decision::Hold(crate::suspension::hold_reason(reason));
    }
    if simulator::is_simulated(host) {
        let at = now();
        return Decision::Over(here(work.recipients.iter().map(|it| simulator::result(it, at)).collect()));
    }
    let Author { standing, unready } = author;
    match context.while_unready.passage(unready.as_deref(), now()) {
        Passage::Free => {}
        Passage::Closed(unready) => {
            let reason = unready.describe(&message.author_domain);
            return Decision::Wait(Cause::Domain, WAIT_FOR_DOMAIN, reason, None);
        }
        Passage::Sandbox(unready) => {
            let reason = unready.describe(&message.author_domain);
            return aside(context, work, standing, reason).await.unwrap_or_else(|decision| decision);
        }
    }
    let decided = match context.mode {
        Mode::Mx => ready(context, work, host, standing).await,
        Mode::Sandbox => sandboxed(context, work, host, standing).await,
    };
    decided.unwrap_or_else(|decision| decision)
}

fn here(results: Vec<RecipientResult>) -> Outcome {
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
        Standing::Keys(_) | Standing::KeyToCome(_) if context.sign == Sign::Never => return Ok(None),
        Standing::Keys(signers) => signers,
        Standing::NoKeys(_) if context.sign != Sign::Always => return Ok(None),
        Standing::NoKeys(reason) | Standing::Suspended(reason) => {
            return Err(Decision::Wait(Cause::Key, WAIT_FOR_PEOPLE, reason.to_string(), None));
        }
        Standing::KeyToCome(reason) => {
            return Err(Decision::Wait(Cause::Key, WAIT_FOR_DOMAIN, reason.to_string(), None));
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

/// What everything comes to in mode `sandbox`: it is there as it would have left.
async fn sandboxed<S: Spool, L: Limits>(
    context: &Context<S, L>,
    work: &Work<S::Lease>,
    host: &Host,
    standing: Standing,
) -> Result<Decision, Decision> {
    let started = Instant::now();
    let signature = sign(context, work, standing).await?;
    let signing = started.elapsed();
    let Some(sandbox) = &context.sandbox else { return Ok(Decision::Over(here(Vec::new()))) };
    let place = keep(context, sandbox, work, signature).await?;
    let reason = format!("for the servers of {host}, kept as {}", place.display());
    let outcome = all(work, Disposition::Delivered { relayed: false }, (2, 0, 0), reason);
    Ok(Decision::Kept { outcome, signing, writing: started.elapsed() - signing })
}

/// What mail of a domain that isn't ready comes to where it is neither to leave nor to wait: in the sandbox, if there is one. Its
/// recipients haven't got it.
async fn aside<S: Spool, L: Limits>(
    context: &Context<S, L>,
    work: &Work<S::Lease>,
    standing: Standing,
    why: String,
) -> Result<Decision, Decision> {
    const STATUS: (u8, u16, u16) = (5, 7, 1);
    let started = Instant::now();
    let Some(sandbox) = &context.sandbox else {
        let reason = format!(
            "{why}; by the setting ingress.unready it is kept from leaving, and delivery.sandbox names no place to keep it"
        );
        return Ok(Decision::Over(all(work, Disposition::Dropped, STATUS, reason)));
    };
    let signature = match (standing, &work.job().signature) {
        // It doesn't leave this machine.
        (Standing::NoKeys(_) | Standing::KeyToCome(_), None) => None,
        (standing, _) => sign(context, work, standing).await?,
    };
    let signing = started.elapsed();
    let place = keep(context, sandbox, work, signature).await?;
    let reason = format!("{why}; by the setting ingress.unready it is kept as {}", place.display());
    let outcome = all(work, Disposition::Dropped, STATUS, reason);
    Ok(Decision::Kept { outcome, signing, writing: started.elapsed() - signing })
}

/// The same for all recipients.
fn all<L: Lease>(
    work: &Work<L>,
    disposition: Disposition,
    status: (u8, u16, u16),
    reason: String,
) -> Outcome {
    let at = now();
    let result = |it| settle::result(it, disposition, status.into(), None, reason.clone(), at);
    here(work.recipients.iter().map(result).collect())
}

/// Writes the message into the sandbox; where it is.
async fn keep<S: Spool, L: Limits>(
    context: &Context<S, L>,
    sandbox: &Sandbox,
    work: &Work<S::Lease>,
    signature: Option<Arc<str>>,
) -> Result<PathBuf, Decision> {
    // Never closed while anybody works.
    let _room = context.whole_messages.acquire().await;
    let failed =
        |failure: &Failure| Decision::Over(Outcome::failed(&work.recipients, failure, signature.clone()));
    let content = work.content().await.map_err(|error| failed(&unreadable(&error)))?;
    let (job, sandbox) = (work.job(), sandbox.clone());
    let (id, message, recipients) = (job.id, Arc::clone(&job.message), work.recipients.clone());
    let fields = signature.clone();
    let writing = tokio::task::spawn_blocking(move || {
        let fields = fields.as_deref().unwrap_or_default();
        sandbox.write(id, &message, &recipients, fields, &content)
    });
    writing
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| failed(&Failure::new((4, 3, 0), format!("can't write to the sandbox: {error}"))))
}
