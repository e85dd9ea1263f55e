//! A job's record in a stream, and what it becomes.

use std::sync::Arc;

use bytes::Bytes;
use mail::{Job, JobId, JobKind, Message, Timestamp};
use prost::Message as _;
use proto::spool::v1 as wire;

use super::names::Spot;
use super::unknown::Unknown;
use crate::record::{
    self, RecordError, message_from_wire, recipients_from_wire, recipients_to_wire, results_from_wire,
    results_to_wire,
};

/// Where the message's content is.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// In the record.
    Inline(Bytes),
    /// In chunks of so many octets.
    Chunks(u32),
}

/// A record that this one replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) stream: String,
    pub(super) sequence: u64,
}

/// All that a stream knows of a job.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) job: Job,
    /// How many reports the job has brought forth.
    pub(super) reports: u16,
    pub(super) due_at: Option<Timestamp>,
    pub(super) hold: Option<String>,
    pub(super) body: Body,
    pub(super) predecessor: Option<Place>,
    pub(super) written_at: Timestamp,
    /// What a later version wrote beside.
    pub(super) unknown: Option<Arc<Unknown>>,
}

/// Octets that are no record, or one that demands what this version doesn't know.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnreadableError {
    #[error("not a record: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error(transparent)]
    Field(#[from] RecordError),
    #[error("the record lacks {0}")]
    Lacks(&'static str),
    #[error("the record is of job {found}, its subject of {expected}")]
    OtherJob { found: JobId, expected: JobId },
}

impl Record {
    /// A job that was never tried.
    pub(super) fn fresh(
        id: JobId,
        message: &Arc<Message>,
        recipients: Vec<mail::Recipient>,
        body: Body,
    ) -> Self {
        let job = Job {
            id,
            message: Arc::clone(message),
            kind: JobKind::Delivery { recipients },
            attempts: 0,
            deferred: None,
            signature: None,
            redelivered: false,
        };
        let written_at = message.accepted_at;
        Self { job, reports: 0, due_at: None, hold: None, body, predecessor: None, written_at, unknown: None }
    }

    pub(super) fn encode(&self) -> Bytes {
        let job = &self.job;
        let mut state = wire::State {
            number: job.id.number.into(),
            report: job.id.report.map(u32::from),
            attempts: job.attempts,
            reason: job.deferred.clone(),
            due_at_ms: self.due_at.map(|at| at.0),
            signature: job.signature.as_deref().map(str::to_owned),
            reports: self.reports.into(),
            hold: self.hold.clone(),
            ..wire::State::default()
        };
        match &job.kind {
            JobKind::Delivery { recipients } => state.recipients = recipients_to_wire(recipients),
            JobKind::Report { results } => state.results = results_to_wire(results),
        }
        let (content, chunk_octets) = match &self.body {
            Body::Inline(octets) => (Some(octets.clone()), 0),
            Body::Chunks(octets) => (None, *octets),
        };
        let predecessor =
            self.predecessor.clone().map(|Place { stream, sequence }| wire::Place { stream, sequence });
        let record = wire::Job {
            message: Some(record::message_to_wire(&job.message)),
            state: Some(state),
            content,
            chunk_octets,
            predecessor,
            written_at_ms: self.written_at.0,
        };
        let octets = record.encode_to_vec();
        match &self.unknown {
            None => octets.into(),
            Some(unknown) => unknown.added_to(&octets).into(),
        }
    }

    /// Reads a record that was found under a subject.
    pub(super) fn decode(spot: Spot, payload: Bytes) -> Result<Self, UnreadableError> {
        let wire::Job { message, state, content, chunk_octets, predecessor, written_at_ms } =
            wire::Job::decode(payload.clone())?;
        let message = message_from_wire(message.ok_or(UnreadableError::Lacks("a message"))?)?;
        let state = state.ok_or(UnreadableError::Lacks("a state"))?;
        let small = |number: u32| u16::try_from(number).map_err(|_| UnreadableError::Lacks("a job's number"));
        let id = JobId {
            queue_id: message.queue_id,
            number: small(state.number)?,
            report: state.report.map(small).transpose()?,
        };
        if id != spot.job {
            return Err(UnreadableError::OtherJob { found: id, expected: spot.job });
        }
        let reports = small(state.reports)?;
        if reports == u16::MAX {
            return Err(UnreadableError::Lacks("a number for its next report"));
        }
        let kind = match id.report {
            None => JobKind::Delivery { recipients: recipients_from_wire(state.recipients)? },
            Some(_) => JobKind::Report { results: results_from_wire(state.results)? },
        };
        let body = match (content, chunk_octets) {
            (Some(octets), _) => Body::Inline(octets),
            (None, 0) => return Err(UnreadableError::Lacks("its content")),
            (None, octets) => Body::Chunks(octets),
        };
        let job = Job {
            id,
            message: Arc::new(message),
            kind,
            attempts: state.attempts,
            deferred: state.reason,
            signature: state.signature.map(Arc::from),
            redelivered: false,
        };
        Ok(Self {
            job,
            reports,
            due_at: state.due_at_ms.map(Timestamp),
            hold: state.hold,
            body,
            predecessor: predecessor.map(|wire::Place { stream, sequence }| Place { stream, sequence }),
            written_at: Timestamp(written_at_ms),
            unknown: Unknown::of(&payload).map(Arc::new),
        })
    }
}
