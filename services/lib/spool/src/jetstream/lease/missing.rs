//! What it means that a job's content isn't there.
//!
//! Content goes when the last job of its message has ended. So before a sender is told that mail was damaged, it is asked whether the
//! job has ended: its record is gone then, or was brought back by a worker that was stopped between proving its lease and writing
//! down when the job comes back, while another worker ended it. The events tell of that.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use mail::{JobKind, QueueId, Timestamp};
use smtp::address::Address;

use super::super::api::ApiError;
use super::super::events::JetStreamEventReader;
use super::super::job::Place;
use super::super::leases::{Mark, lock};
use super::super::names::{Kind, Spot};
use super::JetStreamLease;
use crate::{ContentError, EventError, EventQuery, EventReader as _, Follow};

/// Pauses between questions whether the job is anybody's still. A server that was stopped and goes on takes itself for the leader
/// for a moment, and knows what was: so more than one answer is wanted.
const ASKED_AGAIN_AFTER: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(4)];

impl JetStreamLease {
    /// The error for content that isn't there, for a cause.
    pub(super) async fn missing(&self, queue_id: QueueId, cause: String) -> ContentError {
        let ended = match self.is_settled().await {
            Ok(true) => Ok(true),
            Ok(false) => self.came_back().await,
            Err(error) => Err(error.to_string()),
        };
        match ended {
            Ok(false) => ContentError::Damaged { queue_id, cause },
            Ok(true) => {
                *lock(&self.held.mark) = Some(Mark::Removed);
                let cause = "somebody else has settled the job".to_owned();
                ContentError::Unavailable { queue_id, cause }
            }
            Err(cause) => ContentError::Unavailable { queue_id, cause },
        }
    }

    /// Whether the record of the lease is gone.
    async fn is_settled(&self) -> Result<bool, ApiError> {
        let mut answer = Ok(false);
        for pause in ASKED_AGAIN_AFTER {
            tokio::time::sleep(pause).await;
            answer = self.is_gone().await;
            if let Ok(true) = answer {
                break;
            }
        }
        answer
    }

    /// The same, as the leader knows it just now.
    async fn is_gone(&self) -> Result<bool, ApiError> {
        let kind = if self.parked().is_some() { Kind::Sched } else { self.spot.kind };
        let subject = self.core.names.subject(Spot { kind, ..self.spot });
        let Place { stream, sequence } = self.place();
        let found = self.core.api.last(&stream, &subject).await?;
        Ok(found.is_none_or(|stored| stored.sequence != sequence))
    }

    /// Whether each recipient of the job has ended, as the events say; then its record goes.
    async fn came_back(&self) -> Result<bool, String> {
        if !self.has_ended().await.map_err(|error| error.to_string())? {
            return Ok(false);
        }
        let Place { stream, sequence } = self.place();
        self.core.api.delete(&stream, sequence).await.map_err(|error| error.to_string())?;
        tracing::info!(job = %self.id(), stream, sequence, "a job that had ended came back, and is removed");
        Ok(true)
    }

    async fn has_ended(&self) -> Result<bool, EventError> {
        let JobKind::Delivery { recipients } = &self.record.job.kind else { return Ok(false) };
        let mut left: HashSet<&Address> = recipients.iter().map(|recipient| &recipient.address).collect();
        let messages = vec![self.id().queue_id];
        let query = EventQuery { since: Timestamp::default(), messages, follow: Follow::UntilNow };
        let mut reader = JetStreamEventReader::new(Arc::clone(&self.core), query).await?;
        while !left.is_empty()
            && let Some(events) = reader.next().await?
        {
            for event in events.iter().filter(|event| event.job == self.id() && event.kind.is_final()) {
                left.remove(&event.recipient);
            }
        }
        Ok(left.is_empty())
    }
}
