//! The few requests of JetStream's API that a queue needs, as the server takes them (nats.io reference, "JetStream wire API").
//!
//! Headers of schedules, batches and expectations are set by hand, since the client has no builder for them.

use std::time::Duration;

use async_nats::{Client, HeaderMap, HeaderName, HeaderValue, Message, Request, RequestErrorKind};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use mail::Timestamp;
use serde_json::{Value, json};

/// How long the server may take for anything but what is told otherwise.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Records in a batch at most; the server takes a thousand.
const BATCH_MAX: usize = 1_000;
/// Subjects asked for at once.
const MULTI_MAX: usize = 256;

const WRONG_LAST_SEQUENCE: u64 = 10_071;
const KNOWN_IN_BATCH: u64 = 10_201;
const NO_MESSAGE: u64 = 10_037;
const NO_STREAM: u64 = 10_059;
const NO_SEQUENCE: u64 = 10_043;
const NOT_DELETED: u64 = 10_057;
/// The server's words for a record that is gone, and for one that was never there.
const GONE: [&str; 3] = ["no message found", "deleted message", "stream store EOF"];
/// Maximum messages, bytes or resources exceeded, insufficient storage, in their variants.
const FULL: [u64; 5] = [10_002, 10_023, 10_028, 10_047, 10_077];

/// A request that didn't do what it was for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// The server said no.
    #[error("the server refused: {description} ({code})")]
    Refused { code: u64, description: String },
    /// There was no answer: what was asked for may have been done.
    #[error("no answer from NATS: {0}")]
    Unanswered(String),
}

impl ApiError {
    /// There is no room.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if FULL.contains(code))
    }

    /// There is no such stream.
    pub(super) fn is_without_stream(&self) -> bool {
        matches!(self, Self::Refused { code: NO_STREAM, .. })
    }

    /// A record of a batch has an id that the server knows.
    pub(super) fn is_known(&self) -> bool {
        matches!(self, Self::Refused { code: KNOWN_IN_BATCH, .. })
    }

    /// A record is there already, or another one than was expected.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code: WRONG_LAST_SEQUENCE, .. })
    }
}

/// What to publish.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Outgoing {
    pub(super) fn new(subject: String, payload: Bytes) -> Self {
        Self { subject, headers: HeaderMap::new(), payload }
    }

    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Only if the last record of this subject has this sequence; 0 for none.
    pub(super) fn after(self, sequence: u64) -> Self {
        self.with("Nats-Expected-Last-Subject-Sequence", &sequence.to_string())
    }
}

/// What the server says to a record that it was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    pub(super) sequence: u64,
    /// Whether a record of its id was there before.
    pub(super) known: bool,
}

/// A record as the server keeps it.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) subject: String,
    pub(super) sequence: u64,
    pub(super) stored_at: Timestamp,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Stored {
    /// What a header says.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }
}

/// From where on to read.
#[derive(Clone, Copy, Debug)]
pub(super) enum After {
    /// The record after this one.
    Sequence(u64),
    /// What was stored at this instant or later.
    Time(Timestamp),
}

/// The server.
#[derive(Clone, Debug)]
pub(super) struct Api {
    client: Client,
}

impl Api {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a request and waits for what the server says to it.
    pub(super) async fn ask(
        &self,
        subject: String,
        request: Request,
        patience: Duration,
    ) -> Result<Message, ApiError> {
        let answer = self.client.send_request(subject, request.timeout(Some(patience))).await;
        answer.map_err(|error| {
            ApiError::Unanswered(match error.kind() {
                RequestErrorKind::TimedOut => format!("none within {} s", patience.as_secs()),
                RequestErrorKind::NoResponders => "JetStream isn't there".to_owned(),
                _ => error.to_string(),
            })
        })
    }

    /// A request of the API below `$JS.API.`, in JSON.
    pub(super) async fn call(&self, subject: &str, body: &Value) -> Result<Value, ApiError> {
        let payload = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let answer =
            self.ask(format!("$JS.API.{subject}"), Request::new().payload(payload), PATIENCE).await?;
        checked(&answer.payload)
    }

    /// Stores one record; gives its sequence.
    pub(super) async fn publish(&self, outgoing: Outgoing, patience: Duration) -> Result<u64, ApiError> {
        self.publish_once(outgoing, patience).await.map(|stored| stored.sequence)
    }

    /// The same, and says whether the server knew the record by its `Nats-Msg-Id`, and didn't store it again.
    pub(super) async fn publish_once(
        &self,
        outgoing: Outgoing,
        patience: Duration,
    ) -> Result<Acknowledged, ApiError> {
        let Outgoing { subject, headers, payload } = outgoing;
        let request = Request::new().headers(headers).payload(payload);
        let told = subject.clone();
        let answer = self.ask(subject, request, patience).await?;
        let answer = checked(&answer.payload)?;
        let sequence = answer["seq"].as_u64();
        let sequence =
            sequence.ok_or_else(|| ApiError::Unanswered("an answer without a sequence".to_owned()))?;
        tracing::debug!(subject = told, sequence, "a record is stored");
        Ok(Acknowledged { sequence, known: answer["duplicate"].as_bool().unwrap_or_default() })
    }

    /// Stores all records or none (ADR-50); all go to one stream.
    pub(super) async fn publish_batch(
        &self,
        id: &str,
        all: Vec<Outgoing>,
        patience: Duration,
    ) -> Result<(), ApiError> {
        let count = all.len();
        if count > BATCH_MAX {
            return Err(ApiError::Refused {
                code: 10_199,
                description: "a batch of over 1,000 records".to_owned(),
            });
        }
        for (place, mut outgoing) in all.into_iter().enumerate() {
            outgoing.headers.insert("Nats-Batch-Id", id);
            outgoing.headers.insert("Nats-Batch-Sequence", (place + 1).to_string());
            if place + 1 == count {
                outgoing.headers.insert("Nats-Batch-Commit", "1");
                return self.publish(outgoing, patience).await.map(drop);
            }
            let Outgoing { subject, headers, payload } = outgoing;
            if place == 0 {
                // The first one is answered, so that a batch that can't begin isn't sent whole.
                let answer =
                    self.ask(subject, Request::new().headers(headers).payload(payload), patience).await?;
                if !answer.payload.is_empty() {
                    checked(&answer.payload)?;
                }
            } else {
                let sent = self.client.publish_with_headers(subject, headers, payload).await;
                sent.map_err(|error| ApiError::Unanswered(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// The last record of a subject, which may have wildcards, as the stream's leader knows it.
    pub(super) async fn last(&self, stream: &str, subject: &str) -> Result<Option<Stored>, ApiError> {
        self.stored(stream, &json!({ "last_by_subj": subject })).await
    }

    /// The record of a sequence, as the stream's leader knows it.
    pub(super) async fn at(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, ApiError> {
        self.stored(stream, &json!({ "seq": sequence })).await
    }

    /// The first record from a sequence on, as the stream's leader knows it.
    pub(super) async fn from(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, ApiError> {
        self.stored(stream, &json!({ "seq": sequence, "next_by_subj": ">" })).await
    }

    async fn stored(&self, stream: &str, which: &Value) -> Result<Option<Stored>, ApiError> {
        let answer = match self.call(&format!("STREAM.MSG.GET.{stream}"), which).await {
            Err(ApiError::Refused { code: NO_MESSAGE | NO_STREAM, .. }) => return Ok(None),
            other => other?,
        };
        let message = &answer["message"];
        let octets = |field: &str| {
            let octets = message[field].as_str().map_or(Ok(Vec::new()), |text| BASE64_STANDARD.decode(text));
            octets.map_err(|error| ApiError::Unanswered(format!("an answer that isn't base64: {error}")))
        };
        Ok(Some(Stored {
            subject: message["subject"].as_str().unwrap_or_default().to_owned(),
            sequence: message["seq"].as_u64().unwrap_or_default(),
            stored_at: timestamp(message["time"].as_str().unwrap_or_default()),
            headers: headers(&octets("hdrs")?),
            payload: octets("data")?.into(),
        }))
    }

    /// The last record of a subject as any replica knows it: cheaper than [`Api::last`], and a replica may lag.
    pub(super) async fn near(&self, stream: &str, subject: &str) -> Result<Option<Stored>, ApiError> {
        let subject = format!("$JS.API.DIRECT.GET.{stream}.{subject}");
        Ok(direct(self.ask(subject, Request::new(), PATIENCE).await?))
    }

    /// The last record of each subject, those that are there, in any order.
    pub(super) async fn near_all(&self, stream: &str, subjects: &[String]) -> Result<Vec<Stored>, ApiError> {
        let mut found = Vec::with_capacity(subjects.len());
        for some in subjects.chunks(MULTI_MAX) {
            let asked = some.iter().map(|subject| self.near(stream, subject));
            found.extend(try_join_all(asked).await?.into_iter().flatten());
        }
        Ok(found)
    }

    /// Up to `most` records of a subject that follow, as any replica knows them (ADR-31).
    pub(super) async fn range(
        &self,
        stream: &str,
        subject: &str,
        after: &After,
        most: u32,
    ) -> Result<Vec<Stored>, ApiError> {
        let mut body = json!({ "next_by_subj": subject, "batch": most });
        match after {
            After::Sequence(sequence) => body["seq"] = json!(sequence + 1),
            After::Time(at) => {
                let at = i64::try_from(at.0).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
                body["start_time"] = json!(at.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string());
            }
        }
        let unanswered = |error: &dyn std::fmt::Display| ApiError::Unanswered(error.to_string());
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| unanswered(&error))?;
        let asked = format!("$JS.API.DIRECT.GET.{stream}");
        let sent = self.client.publish_with_reply(asked, inbox, body.to_string().into()).await;
        sent.map_err(|error| unanswered(&error))?;
        let mut found = Vec::new();
        let gather = async {
            while let Some(answer) = answers.next().await {
                match direct(answer) {
                    Some(stored) => found.push(stored),
                    // The end, or that there is nothing.
                    None => return,
                }
            }
        };
        tokio::time::timeout(PATIENCE, gather).await.map_err(|error| unanswered(&error))?;
        Ok(found)
    }

    /// Deletes a record without erasing its octets on disk; false when it wasn't there.
    pub(super) async fn delete(&self, stream: &str, sequence: u64) -> Result<bool, ApiError> {
        tracing::debug!(stream, sequence, "deletes a record");
        let body = json!({ "seq": sequence, "no_erase": true });
        match self.call(&format!("STREAM.MSG.DELETE.{stream}"), &body).await {
            Ok(_) => Ok(true),
            Err(ApiError::Refused { code: NO_SEQUENCE | NO_MESSAGE | NO_STREAM, .. }) => Ok(false),
            // The same code stands for a disk that fails; only the words tell.
            Err(ApiError::Refused { code: NOT_DELETED, description })
                if GONE.contains(&description.as_str()) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes all records of a subject, which may have wildcards.
    pub(super) async fn purge(&self, stream: &str, subject: &str) -> Result<(), ApiError> {
        self.call(&format!("STREAM.PURGE.{stream}"), &json!({ "filter": subject })).await.map(drop)
    }

    /// How much a stream holds, and its configuration.
    pub(super) async fn info(&self, stream: &str) -> Result<Value, ApiError> {
        self.call(&format!("STREAM.INFO.{stream}"), &Value::Null).await
    }

    /// The subjects of a stream that match a filter.
    pub(super) async fn subjects(&self, stream: &str, filter: &str) -> Result<Vec<String>, ApiError> {
        let mut all = Vec::new();
        loop {
            let body = json!({ "subjects_filter": filter, "offset": all.len() });
            let answer = match self.call(&format!("STREAM.INFO.{stream}"), &body).await {
                Err(ApiError::Refused { code: NO_STREAM, .. }) => return Ok(all),
                other => other?,
            };
            let Some(page) = answer["state"]["subjects"].as_object() else { return Ok(all) };
            let before = all.len();
            all.extend(page.keys().cloned());
            let total = answer["total"].as_u64().unwrap_or_default();
            if all.len() == before || all.len() as u64 >= total {
                return Ok(all);
            }
        }
    }
}

/// The answer's JSON, unless it is an error.
pub(super) fn checked(payload: &[u8]) -> Result<Value, ApiError> {
    let answer: Value = serde_json::from_slice(payload)
        .map_err(|error| ApiError::Unanswered(format!("an answer that isn't JSON: {error}")))?;
    let Some(error) = answer.get("error") else { return Ok(answer) };
    Err(ApiError::Refused {
        code: error["err_code"].as_u64().unwrap_or_default(),
        description: error["description"].as_str().unwrap_or("no reason given").to_owned(),
    })
}

fn direct(answer: Message) -> Option<Stored> {
    if answer.status.is_some() {
        return None;
    }
    let headers = answer.headers.as_ref()?;
    let text = |name: &'static str| headers.get(name).map(|value| value.as_str().to_owned());
    Some(Stored {
        subject: text("Nats-Subject")?,
        sequence: text("Nats-Sequence")?.parse().ok()?,
        stored_at: timestamp(&text("Nats-Time-Stamp")?),
        headers: headers.clone(),
        payload: answer.payload,
    })
}

/// An instant in the server's words; the beginning of time for what isn't one.
fn timestamp(text: &str) -> Timestamp {
    let millis = text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond);
    Timestamp(millis.ok().and_then(|millis| u64::try_from(millis).ok()).unwrap_or(0))
}

/// Headers as they are stored: a line with the protocol's version, then one for each.
fn headers(octets: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let text = String::from_utf8_lossy(octets);
    for (name, value) in text.split("\r\n").skip(1).filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.trim().parse::<HeaderValue>()) {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_headers_are_read() {
        let found = headers(b"NATS/1.0\r\nStagepost-Subject: a.b\r\nStagepost-Cause:  it: is\r\n\r\n");
        let text = |name: &str| found.get(name).map(|value| value.as_str());
        assert_eq!(text("Stagepost-Subject"), Some("a.b"));
        assert_eq!(text("Stagepost-Cause"), Some("it: is"));
        assert!(headers(b"").is_empty());
    }

    #[test]
    fn the_servers_time_is_read() {
        assert_eq!(timestamp("2026-11-25T10:00:00.5Z"), Timestamp(1_795_600_800_500));
        assert_eq!(timestamp("soon"), Timestamp(0));
    }
}
