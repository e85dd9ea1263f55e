//! What is told of an attempt, and that mail doesn't wait for a log that can't be written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mail::{Event, EventKind, JobId, QueueId, Timestamp};
use spool::embedded::{Embedded, EmbeddedEventReader};
use spool::{
    AcceptError, ContentError, Entry, EventError, EventLog, EventQuery, EventReader, Follow, NewMessage,
    Query, Selection, SettleError, Spool, Summary,
};

use crate::harness::mx::{Act, Behaviour, Mx};
use crate::harness::{Letter, Site, open};

/// All events, in the order in which they were written.
async fn told<S: Spool>(spool: &S) -> Vec<Event> {
    let query = EventQuery { since: Timestamp(0), messages: Vec::new(), follow: Follow::UntilNow };
    let mut reader = spool.events().read(query).await.unwrap();
    let mut events = Vec::new();
    while let Some(some) = reader.next().await.unwrap() {
        events.extend(some);
    }
    events
}

fn of_recipient(events: &[Event], recipient: &str) -> Vec<(EventKind, u32)> {
    let its = events.iter().filter(|event| event.recipient.to_string() == recipient);
    its.map(|event| (event.kind, event.attempt)).collect()
}

/// The server takes two recipients a transaction, and puts one off.
#[tokio::test]
async fn each_transaction_of_an_attempt_is_told_with_its_own_way() {
    let accepted = AtomicUsize::new(0);
    let first = Behaviour::usual().tls().script(move |_, command| {
        if command.starts_with("MAIL") {
            accepted.store(0, Ordering::Relaxed);
        }
        if command.contains("busy@") {
            return Act::Say("450 4.2.1 busy\r\n".into());
        }
        if command.starts_with("RCPT") && accepted.fetch_add(1, Ordering::Relaxed) >= 2 {
            return Act::Say("452 4.5.3 too many\r\n".into());
        }
        Act::Usual
    });
    let mx = Mx::start(first).await;
    let site = Site::start(&[&mx], &["--delivery-retry-waits-secs", "600"]).await;
    let letter = Letter::to(&["a@d1.test", "busy@d1.test", "b@d1.test", "c@d1.test", "d@d1.test"]);
    let queue_id = site.submit(letter).await;
    crate::harness::until("only one waits", async || {
        let queued = site.queued().await;
        queued.iter().all(|entry| entry.job.attempts == 1)
    })
    .await;
    let events = told(&*site.spool).await;
    for recipient in ["a@d1.test", "b@d1.test", "c@d1.test", "d@d1.test"] {
        assert_eq!(of_recipient(&events, recipient), [(EventKind::Accepted, 0), (EventKind::Delivered, 1)]);
    }
    assert_eq!(of_recipient(&events, "busy@d1.test"), [(EventKind::Accepted, 0), (EventKind::Deferred, 1)]);
    let due = match site.queued().await.remove(0).state {
        spool::EntryState::Waiting { until } => until,
        other => panic!("{other:?}"),
    };
    for event in events.iter().filter(|event| event.attempt == 1) {
        assert_eq!(event.message.queue_id, queue_id);
        assert_eq!(event.hop.source.map(|source| source.to_string()).as_deref(), Some("127.0.0.1"));
        assert!(event.hop.site.is_some() && event.hop.host.is_some(), "{event:?}");
        assert!(event.hop.tls.as_deref().is_some_and(|tls| tls.starts_with("TLS")), "{event:?}");
        assert_eq!(event.retry_at, (event.kind == EventKind::Deferred).then_some(due));
    }
    site.stop().await;
}

/// A store whose log of events can be broken.
struct Mute {
    inner: Embedded,
    events: MuteEvents,
}

#[derive(Clone)]
struct MuteEvents {
    inner: Embedded,
    broken: Arc<AtomicBool>,
    /// Events that were to be written while it was broken.
    asked: Arc<AtomicUsize>,
}

impl EventLog for MuteEvents {
    type Reader = EmbeddedEventReader;

    async fn append(&self, events: Vec<Event>) -> Result<(), EventError> {
        if self.broken.load(Ordering::SeqCst) {
            self.asked.fetch_add(events.len(), Ordering::SeqCst);
            return Err(EventError::Unavailable("the disk is full".into()));
        }
        self.inner.events().append(events).await
    }

    fn note(&self, events: Vec<Event>) {
        self.inner.events().note(events);
    }

    async fn read(&self, query: EventQuery) -> Result<EmbeddedEventReader, EventError> {
        self.inner.events().read(query).await
    }
}

impl Spool for Mute {
    type Lease = <Embedded as Spool>::Lease;
    type Events = MuteEvents;

    fn events(&self) -> &MuteEvents {
        &self.events
    }

    async fn accept(&self, message: NewMessage) -> Result<(), AcceptError> {
        self.inner.accept(message).await
    }

    fn room_for(&self, octets: u64) -> Result<(), AcceptError> {
        self.inner.room_for(octets)
    }

    async fn lease(&self, max: usize) -> Vec<Self::Lease> {
        self.inner.lease(max).await
    }

    async fn look(&self, query: Query) -> Result<Vec<Entry>, ContentError> {
        self.inner.look(query).await
    }

    async fn header(&self, queue_id: QueueId) -> Result<Option<Bytes>, ContentError> {
        self.inner.header(queue_id).await
    }

    async fn summary(&self, hosts_max: usize) -> Summary {
        self.inner.summary(hosts_max).await
    }

    async fn release(&self, which: Selection) -> Result<usize, SettleError> {
        self.inner.release(which).await
    }

    async fn hold(&self, which: Selection, reason: String) -> Result<usize, SettleError> {
        self.inner.hold(which, reason).await
    }

    async fn remove(&self, which: Selection) -> Result<Vec<JobId>, SettleError> {
        self.inner.remove(which).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[tokio::test]
async fn mail_goes_on_when_events_cannot_be_written_and_what_is_lost_is_counted() {
    let mx = Mx::start(Behaviour::usual()).await;
    let folder = tempfile::tempdir().unwrap();
    let inner = open(&folder);
    let broken = Arc::new(AtomicBool::new(true));
    let events = MuteEvents { inner: inner.clone(), broken: Arc::clone(&broken), asked: Arc::default() };
    let asked = Arc::clone(&events.asked);
    let mut site = Site::over(Mute { inner, events }, folder, &[&mx], &[]).await;
    site.submit(Letter::to(&["u@d1.test", "v@d1.test"])).await;
    assert_eq!(site.told_in_short(2).await, ["delivered 2.0.0"; 2]);
    site.drained().await;
    assert_eq!((asked.load(Ordering::SeqCst), site.events_lost()), (2, 2));
    broken.store(false, Ordering::SeqCst);
    site.submit(Letter::to(&["w@d1.test"])).await;
    tokio::time::timeout(Duration::from_secs(20), site.drained()).await.unwrap();
    let delivered = [(EventKind::Accepted, 0), (EventKind::Delivered, 1)];
    assert_eq!(of_recipient(&told(&*site.spool).await, "w@d1.test"), delivered);
    site.stop().await;
}
