//! The store of all replicas: a bucket of NATS JetStream.
//!
//! ```text
//! change --publish, if nothing follows `seen`--> stream KV_<instance>-accounts --watch--> events, in the stream's order
//! ```
//!
//! A position is a sequence number of the stream. The stream has the form of a key-value bucket, so that `nats kv` shows it.

mod keys;
mod watch;

use std::fmt::Display;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::connection::State;
use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
    NATS_EXPECTED_LAST_SEQUENCE, NATS_MESSAGE_TTL,
};
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{
    CreateStreamErrorKind, GetStreamErrorKind, PublishAckFuture, PublishError, PublishErrorKind,
};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use bytes::Bytes;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::{Instant, sleep, timeout};

use super::{Change, Position, Store, StoreError};
use crate::secret::random_text;
use watch::Watch;

/// How long NATS may take to be ready at the start: a cluster that has just come up has no leader yet.
const OPENING_MAX: Duration = Duration::from_secs(30);
const OPENING_PAUSE: Duration = Duration::from_millis(500);
/// What an atomic batch of JetStream can hold (ADR-50).
const CHANGES_MAX: usize = 1000;
/// How long the mark of a removed key is kept; seconds, because NATS takes no days. A watch that was away for a good part of it
/// reads everything anew.
const REMOVED_KEPT: &str = "604800s";
const EVENTS_WAITING_MAX: usize = 256;

/// The header that says what happened to a key, and its value for a removed one (ADR-8).
const OPERATION: &str = "KV-Operation";
const OPERATION_REMOVED: &str = "DEL";

/// What the store tells whoever follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All that it holds as of a position; what was known before counts no longer.
    Whole(Vec<Change>, Position),
    /// A change, and the position after it.
    Changed(Change, Position),
    /// Nothing of interest up to a position.
    Seen(Position),
    /// Whether everything up to now was told, else why not.
    Standing(Result<(), String>),
}

/// A bucket in NATS.
pub struct Shared {
    context: Context,
    bucket: Bucket,
    link: channel::Receiver<Result<(), String>>,
}

/// The names of a bucket.
#[derive(Clone, Debug)]
struct Bucket {
    stream: String,
    /// Before each key in a subject.
    prefix: String,
}

impl Shared {
    /// Makes the bucket, or updates how it is kept, and follows it from the first event, which is [`Event::Whole`]. What it tells
    /// must be received, and no longer is when the receiver is dropped.
    ///
    /// # Errors
    /// When the bucket can't be made or read within 30 s.
    pub async fn open(
        context: Context,
        instance: &str,
        replicas: usize,
    ) -> Result<(Self, mpsc::Receiver<Event>), StoreError> {
        let bucket = Bucket::of(instance)?;
        bucket.ensure(&context, replicas).await?;
        let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
        let (link, standing) = channel::channel(Err("it hasn't answered yet".into()));
        tokio::spawn(Watch::new(context.clone(), bucket.clone(), sender, link).run());
        let mut shared = Self { context, bucket, link: standing };
        let connected =
            timeout(OPENING_MAX, shared.link.wait_for(Result::is_ok)).await.is_ok_and(|link| link.is_ok());
        if !connected {
            let cause = shared.link.borrow().clone().err().unwrap_or_default();
            return Err(shared.bucket.failed("read", cause));
        }
        Ok((shared, receiver))
    }

    /// Publishes the changes, the last of them (which commits the batch) so that it is answered.
    async fn publish(&self, seen: Position, changes: &[Change]) -> Result<PublishAckFuture, PublishError> {
        let batch = random_text(22);
        let Some((last, others)) = changes.split_last() else {
            return Err(PublishError::new(PublishErrorKind::Other));
        };
        let mut place = 0;
        let mut headers = |change: &Change| {
            place += 1;
            let mut headers = HeaderMap::new();
            if place == 1 {
                // It holds for the whole batch.
                headers.insert(NATS_EXPECTED_LAST_SEQUENCE, seen.to_string());
            }
            if !others.is_empty() {
                headers.insert(NATS_BATCH_ID, batch.as_str());
                headers.insert(NATS_BATCH_SEQUENCE, place.to_string());
            }
            if change.value.is_none() {
                headers.insert(OPERATION, OPERATION_REMOVED);
                headers.insert(NATS_MESSAGE_TTL, REMOVED_KEPT);
            }
            headers
        };
        for change in others {
            let (subject, payload) = (self.bucket.subject(&change.key), payload(change));
            let sent = self.context.client().publish_with_headers(subject, headers(change), payload).await;
            sent.map_err(|error| PublishError::with_source(PublishErrorKind::BrokenPipe, error))?;
        }
        let mut headers = headers(last);
        if !others.is_empty() {
            headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        }
        let message = PublishMessage::build().headers(headers).payload(payload(last));
        self.context.send_publish(self.bucket.subject(&last.key), message).await
    }
}

fn payload(change: &Change) -> Bytes {
    change.value.clone().unwrap_or_default().into()
}

#[tonic::async_trait]
impl Store for Shared {
    async fn change(&self, seen: Position, changes: &[Change]) -> Result<Position, StoreError> {
        if changes.is_empty() {
            return Ok(seen);
        }
        if changes.len() > CHANGES_MAX {
            let cause = format!(
                "{} changes at once, and {CHANGES_MAX} can be made; remove parts first",
                changes.len()
            );
            return Err(self.bucket.failed("write", cause));
        }
        // What is published without a connection waits in the client and is made when nobody expects it any more.
        if self.context.client().connection_state() != State::Connected {
            return Err(StoreError::Away("there is no connection".into()));
        }
        if let Err(cause) = &*self.link.borrow() {
            return Err(StoreError::Away(cause.clone()));
        }
        let answered = match self.publish(seen, changes).await {
            Ok(answer) => answer.await,
            Err(error) => Err(error),
        };
        answered.map(|answer| answer.sequence).map_err(|error| match error.kind() {
            PublishErrorKind::WrongLastSequence => StoreError::Conflict,
            PublishErrorKind::StreamNotFound => StoreError::Away("nobody answers for the stream".into()),
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
                StoreError::Unanswered(error.to_string())
            }
            _ => self.bucket.failed("write", whole(&error)),
        })
    }
}

impl Bucket {
    fn of(instance: &str) -> Result<Self, StoreError> {
        let allowed = |octet: u8| octet.is_ascii_alphanumeric() || b"-_".contains(&octet);
        let name = format!("{instance}-accounts");
        let bucket = Self { stream: format!("KV_{name}"), prefix: format!("$KV.{name}.") };
        if instance.is_empty() || !instance.bytes().all(allowed) {
            let cause = format!("an instance's name has letters, digits, - and _, not {instance:?}");
            return Err(bucket.failed("open", cause));
        }
        Ok(bucket)
    }

    fn subject(&self, key: &str) -> String {
        format!("{}{}", self.prefix, keys::encode(key))
    }

    fn key(&self, subject: &str) -> Option<String> {
        keys::decode(subject.strip_prefix(&self.prefix)?)
    }

    /// Everything of the bucket.
    fn subjects(&self) -> String {
        format!("{}>", self.prefix)
    }

    fn failed(&self, attempt: &'static str, cause: impl Into<String>) -> StoreError {
        StoreError::Failed {
            attempt,
            place: format!("the stream {} in NATS", self.stream),
            cause: cause.into(),
        }
    }

    /// Makes the stream or brings it up to date; never makes it anew. What else an administrator set stays.
    async fn ensure(&self, context: &Context, replicas: usize) -> Result<(), StoreError> {
        let deadline = Instant::now() + OPENING_MAX;
        loop {
            match self.try_ensure(context, replicas).await {
                Ok(config) if config.allow_atomic_publish && config.allow_message_ttl => return Ok(()),
                Ok(_) => return Err(self.failed("open", "this NATS is too old: 2.15.2 or later is needed")),
                Err(Trouble::Passing(cause)) if Instant::now() < deadline => {
                    tracing::info!(stream = self.stream, cause, "waiting for NATS");
                    sleep(OPENING_PAUSE).await;
                }
                Err(Trouble::Passing(cause) | Trouble::Lasting(cause)) => {
                    return Err(self.failed("open", cause));
                }
            }
        }
    }

    async fn try_ensure(&self, context: &Context, replicas: usize) -> Result<Config, Trouble> {
        let kept = match context.get_stream(&self.stream).await {
            Ok(stream) => Some(stream.cached_info().config.clone()),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(cause) if cause.code() == 404 => None,
                GetStreamErrorKind::JetStream(cause) => return Err(Trouble::of(&cause)),
                _ => return Err(Trouble::Passing(whole(&error))),
            },
        };
        let wanted = self.config(kept.clone().unwrap_or_default(), replicas);
        let made = match kept {
            Some(kept) if kept == wanted => return Ok(kept),
            Some(_) => context.update_stream(&wanted).await.map(|info| info.config),
            None => context.create_stream(&wanted).await.map(|stream| stream.cached_info().config.clone()),
        };
        made.map_err(|error| match error.kind() {
            CreateStreamErrorKind::JetStream(cause) => Trouble::of(&cause),
            _ => Trouble::Passing(whole(&error)),
        })
    }

    fn config(&self, mut kept: Config, replicas: usize) -> Config {
        if !kept.subjects.contains(&self.subjects()) {
            kept.subjects.push(self.subjects());
        }
        Config {
            name: self.stream.clone(),
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            storage: StorageType::File,
            num_replicas: replicas,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            allow_message_ttl: true,
            allow_atomic_publish: true,
            ..kept
        }
    }
}

/// Why the stream isn't there yet.
enum Trouble {
    /// It may be there soon.
    Passing(String),
    Lasting(String),
}

impl Trouble {
    fn of(error: &async_nats::jetstream::Error) -> Self {
        use async_nats::jetstream::ErrorCode;
        // No peers: a cluster that forms; the name exists: another replica made it at this moment.
        let soon = [ErrorCode::CLUSTER_NO_PEERS, ErrorCode::STREAM_NAME_EXIST].contains(&error.error_code());
        // One server alone never replicates, and says so as if it were its fault.
        let never = error.error_code() == ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED;
        if soon || error.code() >= 500 && !never {
            Self::Passing(error.to_string())
        } else {
            Self::Lasting(error.to_string())
        }
    }
}

/// An error with what caused it: the client's errors say little without.
fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), join)
}

fn join(text: String, cause: impl Display) -> String {
    let cause = cause.to_string();
    if text.contains(&cause) { text } else { format!("{text}: {cause}") }
}
