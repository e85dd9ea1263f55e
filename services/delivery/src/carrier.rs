//! A connection's life: opened for a job, used for those that follow, closed.

use std::sync::Arc;
use std::time::Instant;

use limits::{Connection as Permission, Limits};
use mail::Hop;
use spool::Spool;
use tracing::Instrument as _;

use crate::approach::{Approach, Failure};
use crate::attempt::{Round, transact};
use crate::connection::Connection;
use crate::context::Context;
use crate::isolation::{Panicked, caught};
use crate::metrics::{Cause, Phase};
use crate::pool::{PATIENCE, Parcel, Place};
use crate::settle::{self, Origin, Outcome};
use crate::spans;

/// Carries jobs until none waits.
pub(crate) async fn carry<S: Spool, L: Limits>(
    context: Arc<Context<S, L>>,
    mut place: Place<S::Lease>,
    first: Parcel<S::Lease>,
) {
    let mut next = Some(first);
    // When the process ends, jobs that wait go back to the spool by being dropped.
    while let Some(parcel) = next.filter(|_| !context.stopping.is_cancelled()) {
        serve(&context, &mut place, parcel).await;
        next = place.next_or_leave();
    }
}

/// One connection after another, as long as jobs come; ends when a connection ends and no job needs another.
async fn serve<S: Spool, L: Limits>(
    context: &Arc<Context<S, L>>,
    place: &mut Place<S::Lease>,
    parcel: Parcel<S::Lease>,
) {
    let Some((mut parcel, _permission)) = permitted(context, place, parcel).await else { return };
    let mut open: Option<Connection> = None;
    let mut approach = None;
    loop {
        let (mut connection, reused) = match open.take() {
            Some(connection) => (connection, true),
            None => {
                let approach =
                    approach.get_or_insert_with(|| Approach::new(&parcel.route, parcel.requirement));
                match connect(context, approach, parcel).await {
                    Some((connection, same)) => {
                        place.answered();
                        parcel = same;
                        (connection, false)
                    }
                    None => return,
                }
            }
        };
        let usable = match deliver(context, &mut connection, &mut parcel).await {
            Delivery::Over { outcome, usable } => {
                place.served();
                let (settling, work) = (Arc::clone(context), parcel.work);
                let span = work.span.clone();
                let settled = async move { settle::finish(&settling, work, outcome).await };
                context.spawn(settled.instrument(span));
                usable
            }
            Delivery::Unsettled(_) if reused => {
                // Servers close connections that they have held long enough; that says nothing of this message.
                approach = None;
                continue;
            }
            Delivery::Unsettled(failure) => {
                let approach =
                    approach.get_or_insert_with(|| Approach::new(&parcel.route, parcel.requirement));
                approach.note(failure);
                if approach.has_more() {
                    continue;
                }
                let failure = approach.failure();
                return give_up(context, parcel, &failure).await;
            }
            Delivery::Lost => return,
            Delivery::Panicked(panicked) => return settle::poisoned(context, parcel.work, panicked).await,
        };
        let spent = connection.served >= context.sites.messages_max(&parcel.route.site)
            || context.stopping.is_cancelled();
        if !usable {
            return;
        }
        if spent {
            return connection.quit().await;
        }
        approach = None;
        parcel = match following(context, place, &mut connection).await {
            Ok(parcel) => parcel,
            Err(Ended::Idle) => return connection.quit().await,
            Err(Ended::Closed) => return,
        };
        open = Some(connection);
    }
}

/// The right to open a connection to the site, or none: then the job waits.
async fn permitted<S: Spool, L: Limits>(
    context: &Context<S, L>,
    place: &Place<S::Lease>,
    parcel: Parcel<S::Lease>,
) -> Option<(Parcel<S::Lease>, L::Connection)> {
    let limits = context.sites.limits(&parcel.route.site);
    loop {
        let wait = match context.limits.connection(&parcel.route.site, limits).await {
            Permission::Granted(permission) => {
                place.tried();
                return Some((parcel, permission));
            }
            Permission::Wait(wait) => wait,
        };
        place.denied(wait);
        if parcel.since.elapsed() + wait > PATIENCE {
            let reason = format!("no connection to {} is free", parcel.route.site);
            postpone(context, parcel, Cause::Connection, wait, reason).await;
            return None;
        }
        tokio::time::sleep(wait).await;
    }
}

/// A job that took a slot and can't use it goes back to the spool.
pub(crate) async fn postpone<S: Spool, L: Limits>(
    context: &Context<S, L>,
    parcel: Parcel<S::Lease>,
    cause: Cause,
    wait: std::time::Duration,
    reason: String,
) {
    if context.sites.limits(&parcel.route.site).messages_per_sec > 0.0 {
        context.limits.return_slot(&parcel.route.site, 1);
    }
    let span = parcel.work.span.clone();
    settle::wait(context, parcel.work, cause, wait, reason, parcel.signature).instrument(span).await;
}

async fn connect<S: Spool, L: Limits>(
    context: &Context<S, L>,
    approach: &mut Approach,
    mut parcel: Parcel<S::Lease>,
) -> Option<(Connection, Parcel<S::Lease>)> {
    let started = Instant::now();
    let span = parcel.work.span.clone();
    let opened = caught(parcel.work.kept(approach.connect(context.means()))).instrument(span).await;
    parcel.work.times.connect = started.elapsed();
    context.metrics.took(Phase::Connect, started.elapsed());
    match opened {
        Ok(Ok(Ok(connection))) => {
            context.limits.answered(&parcel.route.site);
            return Some((connection, parcel));
        }
        Ok(Ok(Err(failure))) => {
            if approach.answered {
                context.limits.answered(&parcel.route.site);
            } else {
                context.limits.unanswered(&parcel.route.site);
            }
            give_up(context, parcel, &failure).await;
        }
        Ok(Err(_)) => tracing::info!(job = %parcel.work.job().id, "a job was lost while connecting"),
        Err(panicked) => settle::poisoned(context, parcel.work, panicked).await,
    }
    None
}

async fn give_up<S: Spool, L: Limits>(context: &Context<S, L>, parcel: Parcel<S::Lease>, failure: &Failure) {
    let outcome = Outcome::failed(&parcel.work.recipients, failure, parcel.signature);
    let outcome = outcome.towards(&parcel.route.site);
    let span = parcel.work.span.clone();
    settle::finish(context, parcel.work, outcome).instrument(span).await;
}

enum Delivery {
    /// All recipients have a result, if only for this attempt.
    Over {
        outcome: Outcome,
        usable: bool,
    },
    /// The conversation ended before it brought results; the job's recipients are those who lack one.
    Unsettled(Failure),
    /// The job is no longer ours.
    Lost,
    Panicked(Panicked),
}

/// The job's transactions on this connection.
async fn deliver<S: Spool, L: Limits>(
    context: &Context<S, L>,
    connection: &mut Connection,
    parcel: &mut Parcel<S::Lease>,
) -> Delivery {
    connection.served += 1;
    loop {
        let started = Instant::now();
        let work = &parcel.work;
        let span = spans::deliver(&work.span, connection);
        let transaction = work.kept(transact(context, connection, work, parcel.signature.as_ref()));
        let ran = caught(transaction).instrument(span.clone()).await;
        parcel.work.times.deliver = started.elapsed();
        context.metrics.took(Phase::Deliver, started.elapsed());
        let round = match ran {
            Ok(Ok(Ok(round))) => round,
            Ok(Ok(Err(_)) | Err(_)) => {
                tracing::info!(job = %parcel.work.job().id, "a job was lost during its transaction");
                return Delivery::Lost;
            }
            Err(panicked) => return Delivery::Panicked(panicked),
        };
        spans::delivered(&span, &round);
        drop(span);
        let Round { results, remaining, unsettled, usable } = round;
        let outcome = Outcome {
            results,
            origin: Origin::NextHop,
            signature: parcel.signature.clone(),
            hop: Hop {
                site: Some(Arc::clone(&parcel.route.site)),
                host: Some(Arc::clone(&connection.host)),
                source: connection.source,
                tls: connection.tls.clone(),
            },
        };
        let (rest, failure) = match unsettled {
            Some((rest, failure)) => (rest, Some(failure)),
            None => (remaining, None),
        };
        if rest.is_empty() {
            return Delivery::Over { outcome, usable };
        }
        let span = parcel.work.span.clone();
        if !outcome.results.is_empty()
            && !settle::narrow(context, &mut parcel.work, rest, outcome).instrument(span).await
        {
            return Delivery::Lost;
        }
        if let Some(failure) = failure {
            return Delivery::Unsettled(failure);
        }
    }
}

/// How an open connection came to its end without a job.
enum Ended {
    Idle,
    Closed,
}

/// The next job for an open connection.
async fn following<S: Spool, L: Limits>(
    context: &Context<S, L>,
    place: &Place<S::Lease>,
    connection: &mut Connection,
) -> Result<Parcel<S::Lease>, Ended> {
    if let Some(parcel) = place.next() {
        return Ok(parcel);
    }
    tokio::select! {
        biased;
        next = place.wait(context.idle) => next.ok_or(Ended::Idle),
        () = context.stopping.cancelled() => Err(Ended::Idle),
        () = connection.disturbed() => Err(Ended::Closed),
    }
}
