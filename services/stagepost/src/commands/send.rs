//! `stagepost send`.

use std::collections::HashSet;
use std::time::Duration;

use clap::Args;
use mail::EventKind;
use proto::admin::v1::events_client::EventsClient;
use proto::admin::v1::send_client::SendClient;
use proto::admin::v1::{FollowRequest, SubmitRequest};
use runtime::rpc::Client;
use tokio::time::timeout;
use tonic::Status;

use super::events::in_one_line;
use super::view::{View, record, text};

#[derive(Args, Debug)]
pub(crate) struct Command {
    /// Account that sends, by name or id.
    #[arg(long, default_value = "demo")]
    account: String,
    /// Sender, of a domain of the account.
    #[arg(long)]
    from: String,
    /// Recipients.
    #[arg(long, required = true, value_delimiter = ',')]
    to: Vec<String>,
    /// Subject field.
    #[arg(long, default_value = "A test mail from Stagepost")]
    subject: String,
    /// Text of the body.
    #[arg(long, default_value = "This is a test mail, sent with `stagepost send`.")]
    text: String,
    /// Wait so many seconds until the mail has ended for every recipient; all else than delivered is a failure.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

impl Command {
    pub(crate) async fn run(self, client: Client) -> Result<View, Status> {
        let Self { account, from, to, subject, text: body, wait } = self;
        let recipients = to.iter().collect::<HashSet<_>>().len();
        let request = SubmitRequest { account, from, to, subject, text: body };
        let queued = SendClient::new(client.clone()).submit(request).await?.into_inner();
        if let Some(secs) = wait {
            let delivered = delivered(EventsClient::new(client), &queued.queue_id, recipients);
            let late = || {
                let id = &queued.queue_id;
                Status::deadline_exceeded(format!(
                    "{id} hasn't ended within {secs} s; `stagepost explain {id}` says why"
                ))
            };
            timeout(Duration::from_secs(secs), delivered).await.map_err(|_| late())??;
        }
        Ok(View::one(record([
            ("queue_id", text(&queued.queue_id)),
            ("message_id", text(&queued.message_id)),
        ])))
    }
}

/// How far back events are read, so that those are seen that were faster than the question.
const WITHIN_SECS: u64 = 60;

/// Waits until a message has been delivered to all of its recipients.
///
/// # Errors
/// When it ended otherwise for one of them.
async fn delivered(
    mut events: EventsClient<Client>,
    queue_id: &str,
    recipients: usize,
) -> Result<(), Status> {
    let kinds = EventKind::ALL.into_iter().filter(|kind| kind.is_final());
    let request = FollowRequest {
        within_secs: Some(WITHIN_SECS),
        kinds: kinds.map(|kind| kind.to_string()).collect(),
        ..Default::default()
    };
    let mut batches = events.follow(request).await?.into_inner();
    let mut ended = HashSet::new();
    while let Some(batch) = batches.message().await? {
        let batch =
            spool::events::batch_from_wire(batch).map_err(|error| Status::internal(error.to_string()))?;
        for event in batch.into_iter().filter(|event| event.message.queue_id.to_string() == queue_id) {
            if event.kind != EventKind::Delivered {
                let (recipient, kind) = (&event.recipient, event.kind);
                return Err(Status::aborted(format!("{recipient}: {kind}: {}", in_one_line(&event.reason))));
            }
            ended.insert(event.recipient.to_string());
        }
        if ended.len() == recipients {
            return Ok(());
        }
    }
    Err(Status::unavailable("the server stopped telling of events"))
}
