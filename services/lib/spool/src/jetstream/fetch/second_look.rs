//! A second look at jobs that may have been with somebody before: whether their settlement was begun, or done, already.

use mail::JobId;

use crate::jetstream::Core;
use crate::jetstream::api::ApiError;
use crate::jetstream::job::{Place, Record};
use crate::jetstream::names::{Kind, Spot};
use crate::jetstream::ready::Fetched;

/// Makes certain that the job is the latest that there is of it, and the only one; false when it isn't.
pub(super) async fn look_twice(
    core: &Core,
    fetched: &Fetched,
    suspect: bool,
    precedes: bool,
) -> Result<bool, ApiError> {
    let Fetched { record, spot, place, .. } = fetched;
    if precedes && let Some(Place { stream, sequence }) = &record.predecessor {
        core.api.delete(stream, *sequence).await?;
    }
    if !suspect {
        return Ok(true);
    }
    let retry = core.names.retry(spot.partition);
    let latest = core.api.last(&retry, &core.names.of_job(spot.partition, record.job.id)).await?;
    let is_successor = |sequence: u64| spot.kind == Kind::Mail || sequence > place.sequence;
    let mut settled =
        latest.is_some_and(|stored| stored.sequence != place.sequence && is_successor(stored.sequence));
    if !settled && record.job.id.report.is_none() {
        settled = reported(core, &retry, fetched).await?;
    }
    if settled {
        tracing::info!(job = %record.job.id, "a job was settled before and comes again; its rest is removed");
        core.api.delete(&place.stream, place.sequence).await?;
    }
    Ok(!settled)
}

/// Whether the settlement that this job lacks has made its report already.
async fn reported(core: &Core, retry: &str, fetched: &Fetched) -> Result<bool, ApiError> {
    let Fetched { record, spot, place, .. } = fetched;
    let id = JobId { report: Some(record.reports + 1), ..record.job.id };
    let Some(stored) = core.api.last(retry, &core.names.of_job(spot.partition, id)).await? else {
        return Ok(false);
    };
    let report = core.names.parse(&stored.subject).map(|spot: Spot| Record::decode(spot, stored.payload));
    Ok(matches!(report, Some(Ok(report)) if report.predecessor.as_ref() == Some(place)))
}
