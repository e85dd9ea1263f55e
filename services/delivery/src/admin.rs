//! The queue and the log of events for administrators: gRPC `stagepost.admin.v1` over a [`Spool`].

mod dead;
mod explain;
mod follow;
mod removal;

use std::fmt::Display;
use std::sync::Arc;

use mail::{AccountId, JobId, JobKind, QueueId, Recipient, Timestamp};
use proto::admin::v1 as admin;
use proto::admin::v1::events_server::EventsServer;
use proto::admin::v1::queue_server::{Queue, QueueServer};
use smtp::address::Host;
use spool::{ContentError, Entry, EntryState, Query, Selection, SettleError, Spool, StateName};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

const LISTED_DEFAULT: usize = 100;
const LISTED_MAX: usize = 1000;

/// The services `Queue` and `Events`, to be served with others. Whoever follows events is let go at `ending`.
pub fn admin_routes<S: Spool>(spool: Arc<S>, ending: CancellationToken) -> Routes {
    let events = follow::Events::new(Arc::clone(&spool), ending);
    Routes::new(QueueServer::new(Administration { spool })).add_service(EventsServer::new(events))
}

struct Administration<S> {
    spool: Arc<S>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl<S: Spool> Queue for Administration<S> {
    async fn list(&self, request: Request<admin::ListRequest>) -> Answer<admin::ListResponse> {
        let entries =
            self.spool.look(query(&request.into_inner())?).await.map_err(|error| unreadable(&error))?;
        Ok(Response::new(admin::ListResponse { jobs: entries.iter().map(queued_job).collect() }))
    }

    async fn summary(&self, request: Request<admin::SummaryRequest>) -> Answer<admin::SummaryResponse> {
        let hosts_max = request.into_inner().hosts_max as usize;
        let summary = self.spool.summary(hosts_max.min(LISTED_MAX)).await;
        let hosts = summary.hosts.into_iter().map(|(host, jobs)| admin::HostCount { host, jobs });
        Ok(Response::new(admin::SummaryResponse {
            ready: summary.ready,
            leased: summary.leased,
            waiting: summary.waiting,
            held: summary.held,
            disk_octets: summary.disk_octets,
            hosts: hosts.collect(),
            damage: summary.damage,
            dead_letters: summary.dead_letters,
        }))
    }

    async fn show(&self, request: Request<admin::ShowRequest>) -> Answer<admin::ShowResponse> {
        let admin::ShowRequest { queue_id, header } = request.into_inner();
        let queue_id: QueueId = queue_id.parse().map_err(invalid)?;
        let entries = self.entries(queue_id).await?;
        if entries.is_empty() {
            return Err(nothing(&queue_id));
        }
        let jobs = entries.iter().map(queued_job).collect();
        let header = match header {
            true => {
                self.spool.header(queue_id).await.map_err(|error| unreadable(&error))?.unwrap_or_default()
            }
            false => bytes::Bytes::new(),
        };
        Ok(Response::new(admin::ShowResponse { jobs, header }))
    }

    async fn retry(&self, request: Request<admin::SelectRequest>) -> Answer<admin::ChangeResponse> {
        let id = request.into_inner().id;
        let selection = selection(&id)?;
        match self.spool.release(selection.clone()).await {
            // What is ready or in work already is tried without our doing.
            Ok(0) if self.is_queued(&selection).await? => {
                Ok(Response::new(admin::ChangeResponse { jobs: 0 }))
            }
            released => changed(&id, released),
        }
    }

    async fn hold(&self, request: Request<admin::HoldRequest>) -> Answer<admin::ChangeResponse> {
        let admin::HoldRequest { id, reason } = request.into_inner();
        let reason = if reason.is_empty() { "held by an administrator".to_owned() } else { reason };
        changed(&id, self.spool.hold(selection(&id)?, reason).await)
    }

    async fn remove(&self, request: Request<admin::RemoveRequest>) -> Answer<admin::ChangeResponse> {
        let admin::RemoveRequest { id, reason } = request.into_inner();
        let reason = if reason.is_empty() { "removed by an administrator".to_owned() } else { reason };
        changed(&id, removal::remove(&*self.spool, selection(&id)?, &reason).await?)
    }

    async fn list_dead(&self, request: Request<admin::ListDeadRequest>) -> Answer<admin::ListDeadResponse> {
        dead::list(&*self.spool, request.into_inner()).await.map(Response::new)
    }

    async fn revive_dead(
        &self,
        request: Request<admin::ReviveDeadRequest>,
    ) -> Answer<admin::ReviveDeadResponse> {
        dead::revive(&*self.spool, request.into_inner()).await.map(Response::new)
    }
}

impl<S: Spool> Administration<S> {
    /// What is queued of a message.
    async fn entries(&self, queue_id: QueueId) -> Result<Vec<Entry>, Status> {
        entries(&*self.spool, queue_id).await
    }

    async fn is_queued(&self, selection: &Selection) -> Result<bool, Status> {
        Ok(!selected(&*self.spool, selection).await?.is_empty())
    }
}

async fn entries<S: Spool>(spool: &S, queue_id: QueueId) -> Result<Vec<Entry>, Status> {
    let query = Query { queue_id: Some(queue_id), ..Query::default() };
    spool.look(query).await.map_err(|error| unreadable(&error))
}

/// What is queued of a message, or the one job.
async fn selected<S: Spool>(spool: &S, selection: &Selection) -> Result<Vec<Entry>, Status> {
    Ok(match selection {
        Selection::Message(id) => entries(spool, *id).await?,
        Selection::Job(id) => {
            let mut entries = entries(spool, id.queue_id).await?;
            entries.retain(|entry| entry.job.id == *id);
            entries
        }
        Selection::Account(_) | Selection::Host(_) => Vec::new(),
    })
}

fn query(request: &admin::ListRequest) -> Result<Query, Status> {
    let admin::ListRequest { account_id, host, state, after, limit } = request;
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    let account = given(account_id).map(|id| AccountId::new(&id).ok_or_else(|| invalid("not an account id")));
    let host = given(host).map(|host| Host::parse(&host).map_err(invalid));
    let state = given(state).map(|name| state_of(&name));
    let after = given(after).map(|id| id.parse::<JobId>().map_err(invalid));
    Ok(Query {
        queue_id: None,
        account: account.transpose()?,
        host: host.transpose()?,
        state: state.transpose()?,
        after: after.transpose()?,
        limit: listed(*limit),
    })
}

/// How many are listed when so many are asked for.
fn listed(limit: u32) -> usize {
    match limit as usize {
        0 => LISTED_DEFAULT,
        limit => limit.min(LISTED_MAX),
    }
}

fn state_of(name: &str) -> Result<StateName, Status> {
    match name {
        "ready" => Ok(StateName::Ready),
        "leased" => Ok(StateName::Leased),
        "waiting" => Ok(StateName::Waiting),
        "held" => Ok(StateName::Held),
        _ => Err(invalid(format!("{name:?} is no state: expected ready, leased, waiting or held"))),
    }
}

fn selection(id: &str) -> Result<Selection, Status> {
    if id.contains('.') {
        return id.parse().map(Selection::Job).map_err(invalid);
    }
    id.parse().map(Selection::Message).map_err(invalid)
}

fn changed(id: &str, jobs: Result<usize, SettleError>) -> Answer<admin::ChangeResponse> {
    match jobs {
        Ok(0) => Err(nothing(&id)),
        Ok(jobs) => {
            Ok(Response::new(admin::ChangeResponse { jobs: u32::try_from(jobs).unwrap_or(u32::MAX) }))
        }
        Err(error) => Err(Status::unavailable(error.to_string())),
    }
}

fn queued_job(entry: &Entry) -> admin::QueuedJob {
    let job = &entry.job;
    let message = &job.message;
    let (kind, recipients) = match &job.kind {
        JobKind::Delivery { recipients } => ("delivery", recipients.iter().map(queued_recipient).collect()),
        JobKind::Report { results } => {
            ("report", results.iter().map(|result| queued_recipient(&result.recipient)).collect())
        }
    };
    let (state, due_at) = match &entry.state {
        EntryState::Ready => ("ready", None),
        EntryState::Leased => ("leased", None),
        EntryState::Waiting { until } => ("waiting", Some(*until)),
        EntryState::Held => ("held", None),
    };
    admin::QueuedJob {
        job_id: job.id.to_string(),
        queue_id: message.queue_id.to_string(),
        account_id: message.account.to_string(),
        reverse_path: message.reverse_path.to_string(),
        recipients,
        octets: message.octets,
        state: state.to_owned(),
        reason: job.deferred.clone().unwrap_or_default(),
        due_at_ms: due_at.map_or(0, millis),
        attempts: job.attempts,
        accepted_at_ms: millis(message.accepted_at),
        expires_at_ms: millis(message.expires_at),
        kind: kind.to_owned(),
        message_id: message.message_id.clone(),
    }
}

fn queued_recipient(recipient: &Recipient) -> admin::QueuedRecipient {
    let address = recipient.address.to_string();
    let Some(last) = &recipient.last else {
        return admin::QueuedRecipient { address, ..admin::QueuedRecipient::default() };
    };
    let remote = last.remote.as_ref();
    admin::QueuedRecipient {
        address,
        last_status: last.status.to_string(),
        last_reply: remote.map_or_else(|| last.reason.clone(), |remote| remote.reply.to_string()),
        last_host: remote.and_then(|remote| remote.host.clone()).unwrap_or_default(),
        last_at_ms: millis(last.at),
    }
}

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

fn invalid(error: impl ToString) -> Status {
    Status::invalid_argument(error.to_string())
}

fn nothing(id: &impl Display) -> Status {
    Status::not_found(format!("nothing of {id} is queued"))
}

fn unreadable(error: &ContentError) -> Status {
    match error {
        ContentError::Damaged { .. } => Status::data_loss(error.to_string()),
        ContentError::Unavailable { .. } => Status::unavailable(error.to_string()),
    }
}
