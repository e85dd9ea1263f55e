//! Follows a bucket: everything once, then each change, in the stream's order and without a gap.
//!
//! A session reads from behind what was seen. It ends with any doubt (the connection was made anew, a message is missing, the
//! server forgot the consumer), and the next one goes on from there: of each key the stream keeps the last value, so nothing is
//! missed. The leader is asked every second how far the stream is, which shows whether it answers, too.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Info, RawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, Message};
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::{Bucket, Event, OPERATION, whole};
use crate::store::{Change, Position};

const AUDIT_EVERY: Duration = Duration::from_secs(1);
const ANSWER_MAX: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);
const HEARTBEAT: Duration = Duration::from_secs(5);
const REQUEST_EXPIRES: Duration = Duration::from_secs(30);
/// When the server forgets a consumer that nobody asks any more.
const CONSUMER_KEPT: Duration = Duration::from_secs(60);
/// A watch that was away for longer reads everything anew: marks of removed keys may be gone.
const RESUMED_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// How long a leader may be behind what was seen before it is believed: a new one catches up first.
const BEHIND_MAX: Duration = Duration::from_secs(10);

/// Why a session ended.
enum End {
    /// In doubt; the next one begins at once.
    Doubt(&'static str),
    /// NATS doesn't answer.
    Away(String),
    /// Nobody listens any more.
    Unheard,
}

pub(super) struct Watch {
    context: Context,
    bucket: Bucket,
    events: mpsc::Sender<Event>,
    link: channel::Sender<Result<(), String>>,
    seen: Position,
    /// Where the stream was when the leader was last asked.
    target: Position,
    /// What was seen at the session's last audit.
    audited: Option<Position>,
    /// Everything, while it is read for the first time or anew.
    whole: Option<BTreeMap<String, Option<Vec<u8>>>>,
    /// When the stream was made that was seen, in nanoseconds: another of the same name begins anew.
    origin: Option<i128>,
    current_at: Instant,
    behind_since: Option<Instant>,
}

impl Watch {
    pub(super) fn new(
        context: Context,
        bucket: Bucket,
        events: mpsc::Sender<Event>,
        link: channel::Sender<Result<(), String>>,
    ) -> Self {
        Self {
            context,
            bucket,
            events,
            link,
            seen: 0,
            target: 0,
            audited: None,
            whole: None,
            origin: None,
            current_at: Instant::now(),
            behind_since: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match self.session().await {
                End::Doubt(cause) => {
                    tracing::debug!(stream = self.bucket.stream, cause, "watching accounts anew");
                }
                End::Away(cause) => {
                    if self.link.borrow().is_ok() {
                        tracing::warn!(
                            cause,
                            "NATS is away: accounts answers from memory, nothing can be changed"
                        );
                    }
                    if self.tell_standing(Err(cause)).await.is_err() {
                        return;
                    }
                }
                End::Unheard => return,
            }
            sleep(PAUSE).await;
        }
    }

    async fn session(&mut self) -> End {
        match self.follow().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible, End> {
        self.check_connected()?;
        let connects = self.connects();
        let stream = self.context.get_stream_no_info(&self.bucket.stream).await;
        let stream = stream.map_err(|error| End::Away(whole(&error)))?;
        let info = self.info().await?;
        self.begin(&info)?;
        let consumer = self.consumer().await?;
        let messages = consumer.stream().heartbeat(HEARTBEAT).expires(REQUEST_EXPIRES).messages().await;
        let mut messages = messages.map_err(|error| End::Away(whole(&error)))?;
        let mut ticks = interval(AUDIT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut delivered = 0;
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(Ok(message)) => {
                        delivered += 1;
                        self.take(&message, delivered).await?;
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%error, "the consumer of accounts ended");
                        return Err(End::Doubt("the consumer ended"));
                    }
                    None => return Err(End::Doubt("the consumer is gone")),
                },
                _ = ticks.tick() => {
                    if self.events.is_closed() {
                        return Err(End::Unheard);
                    }
                    self.check_connected()?;
                    if self.connects() != connects {
                        return Err(End::Doubt("the connection was made anew"));
                    }
                    self.audit(&stream).await?;
                }
            }
        }
    }

    fn check_connected(&self) -> Result<(), End> {
        match self.context.client().connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err(End::Away("there is no connection".into())),
        }
    }

    fn connects(&self) -> u64 {
        self.context.client().statistics().connects.load(Ordering::Relaxed)
    }

    async fn info(&self) -> Result<Info, End> {
        let asked = timeout(ANSWER_MAX, self.context.get_stream(&self.bucket.stream)).await;
        let stream = asked.map_err(|_| End::Away("the stream's leader doesn't answer".into()))?;
        Ok(stream.map_err(|error| End::Away(whole(&error)))?.cached_info().clone())
    }

    async fn consumer(&self) -> Result<PullConsumer, End> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.seen + 1 },
            ack_policy: AckPolicy::None,
            inactive_threshold: CONSUMER_KEPT,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let making = self.context.create_consumer_on_stream(config, &self.bucket.stream);
        let made = timeout(ANSWER_MAX, making).await;
        let made = made.map_err(|_| End::Away("a consumer isn't made in time".into()))?;
        made.map_err(|error| End::Away(whole(&error)))
    }

    /// Goes on from what was seen, or begins anew when that may not be enough.
    fn begin(&mut self, info: &Info) -> Result<(), End> {
        let (origin, last) = (info.created.unix_timestamp_nanos(), info.state.last_sequence);
        let other = self.origin != Some(origin);
        if last >= self.seen {
            self.behind_since = None;
        } else if !other && self.behind_since.get_or_insert_with(Instant::now).elapsed() < BEHIND_MAX {
            return Err(End::Away("the stream's leader is behind what was seen".into()));
        }
        if other || last < self.seen || self.current_at.elapsed() > RESUMED_WITHIN {
            self.seen = 0;
            self.whole = Some(BTreeMap::new());
        }
        self.origin = Some(origin);
        self.behind_since = None;
        (self.target, self.audited) = (last, None);
        Ok(())
    }

    async fn take(&mut self, message: &Message, delivered: u64) -> Result<(), End> {
        let info = message.info().map_err(|_| End::Doubt("a message without its place"))?;
        if info.consumer_sequence != delivered {
            return Err(End::Doubt("a message is missing"));
        }
        let position = info.stream_sequence;
        self.seen = position;
        let removed = message.headers.as_ref().is_some_and(|headers| {
            let operation = headers.get(OPERATION).map(|value| value.as_str());
            operation.is_some_and(|operation| operation != "PUT")
                || headers.get("Nats-Marker-Reason").is_some()
        });
        let value = (!removed).then(|| message.payload.to_vec());
        match (self.bucket.key(&message.subject), &mut self.whole) {
            (Some(key), Some(whole)) => {
                whole.insert(key, value);
            }
            (Some(key), None) => self.tell(Event::Changed(Change { key, value }, position)).await?,
            (None, _) => {
                tracing::warn!(subject = %message.subject, "a subject that is no key is left alone");
                self.tell(Event::Seen(position)).await?;
            }
        }
        if self.seen >= self.target { self.current().await } else { Ok(()) }
    }

    /// Asks the leader how far the stream is.
    async fn audit(&mut self, stream: &Stream<()>) -> Result<(), End> {
        let info = self.info().await?;
        let last = info.state.last_sequence;
        if self.origin != Some(info.created.unix_timestamp_nanos()) || last < self.seen {
            return Err(End::Doubt("the stream isn't the one that was seen"));
        }
        let stands_still = self.audited == Some(self.seen) && self.target == last;
        (self.audited, self.target) = (Some(self.seen), last);
        if last == self.seen {
            return self.current().await;
        }
        if !stands_still {
            return Ok(());
        }
        // Nothing came for a second. Either nothing is there, because the last message was one that expires, or it was lost.
        let next =
            stream.raw_message_builder().sequence(self.seen + 1).next_by_subject(self.bucket.subjects());
        match timeout(ANSWER_MAX, next.send()).await {
            Ok(Err(error)) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => {
                self.seen = last;
                if self.whole.is_none() {
                    self.tell(Event::Seen(last)).await?;
                }
                self.current().await
            }
            Ok(Ok(_)) => Err(End::Doubt("a change wasn't delivered")),
            Ok(Err(error)) => Err(End::Away(whole(&error))),
            Err(_) => Err(End::Away("the stream's leader doesn't answer".into())),
        }
    }

    /// Everything up to now was seen.
    async fn current(&mut self) -> Result<(), End> {
        if let Some(whole) = self.whole.take() {
            let held = whole.into_iter().filter(|(_, value)| value.is_some());
            let changes = held.map(|(key, value)| Change { key, value }).collect();
            self.tell(Event::Whole(changes, self.seen)).await?;
        }
        self.current_at = Instant::now();
        self.tell_standing(Ok(())).await
    }

    async fn tell_standing(&self, standing: Result<(), String>) -> Result<(), End> {
        if *self.link.borrow() == standing {
            return Ok(());
        }
        if standing.is_ok() {
            tracing::info!(stream = self.bucket.stream, position = self.seen, "following accounts in NATS");
        }
        self.tell(Event::Standing(standing.clone())).await?;
        self.link.send_modify(|link| *link = standing);
        Ok(())
    }

    async fn tell(&self, event: Event) -> Result<(), End> {
        self.events.send(event).await.map_err(|_| End::Unheard)
    }
}
