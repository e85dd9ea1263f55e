//! A store in memory that says what it is told to say.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use mail::{Event, Job, JobId, QueueId, Recipient, RecipientResult};
use spool::{
    AcceptError, ContentError, Entry, EventError, EventLog, EventQuery, EventReader, Lease, NewMessage,
    Query, Retry, Selection, SettleError, Spool, Summary,
};
use tokio::sync::Notify;

#[derive(Default)]
pub(crate) struct Store {
    messages: Mutex<Vec<NewMessage>>,
    /// What `accept` says when set.
    pub(crate) refusal: Mutex<Option<AcceptError>>,
    /// What `room_for` says when set.
    pub(crate) no_room: Mutex<Option<AcceptError>>,
    /// Accepts take until this is rung.
    pub(crate) slow: AtomicBool,
    pub(crate) go_on: Notify,
}

impl Store {
    pub(crate) fn messages(&self) -> Vec<NewMessage> {
        self.messages.lock().unwrap().clone()
    }

    /// The only message there is.
    pub(crate) fn message(&self) -> NewMessage {
        let messages = self.messages();
        assert_eq!(messages.len(), 1);
        messages.into_iter().next().unwrap()
    }
}

/// A message's octets as one.
pub(crate) fn content(message: &NewMessage) -> Vec<u8> {
    message.content.pieces.concat()
}

impl Spool for Store {
    type Lease = NoLease;
    type Events = NoEvents;

    fn events(&self) -> &NoEvents {
        &NoEvents
    }

    async fn accept(&self, message: NewMessage) -> Result<(), AcceptError> {
        if self.slow.load(Ordering::SeqCst) {
            self.go_on.notified().await;
        }
        if let Some(refusal) = self.refusal.lock().unwrap().clone() {
            return Err(refusal);
        }
        self.messages.lock().unwrap().push(message);
        Ok(())
    }

    fn room_for(&self, _: u64) -> Result<(), AcceptError> {
        self.no_room.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    async fn lease(&self, _: usize) -> Vec<NoLease> {
        std::future::pending().await
    }

    async fn look(&self, _: Query) -> Result<Vec<Entry>, ContentError> {
        Ok(Vec::new())
    }

    async fn header(&self, _: QueueId) -> Result<Option<Bytes>, ContentError> {
        Ok(None)
    }

    async fn summary(&self, _: usize) -> Summary {
        Summary::default()
    }

    async fn release(&self, _: Selection) -> Result<usize, SettleError> {
        Ok(0)
    }

    async fn hold(&self, _: Selection, _: String) -> Result<usize, SettleError> {
        Ok(0)
    }

    async fn remove(&self, _: Selection) -> Result<Vec<JobId>, SettleError> {
        Ok(Vec::new())
    }

    async fn close(&self) {}
}

/// Ingress leases nothing.
pub(crate) enum NoLease {}

impl Lease for NoLease {
    fn job(&self) -> &Job {
        match *self {}
    }

    async fn content(&self, _: u64) -> Result<Bytes, ContentError> {
        match *self {}
    }

    async fn touch(&self) -> Result<(), SettleError> {
        match *self {}
    }

    async fn narrow(&mut self, _: Vec<Recipient>, _: Vec<RecipientResult>) -> Result<(), SettleError> {
        match *self {}
    }

    async fn done(self, _: Vec<RecipientResult>) -> Result<(), SettleError> {
        match self {}
    }

    async fn retry(self, _: Retry, _: Vec<RecipientResult>) -> Result<(), SettleError> {
        match self {}
    }

    async fn hold(self, _: String) -> Result<(), SettleError> {
        match self {}
    }
}

/// Nor does it write events.
pub(crate) struct NoEvents;

impl EventLog for NoEvents {
    type Reader = Self;

    async fn append(&self, _: Vec<Event>) -> Result<(), EventError> {
        Err(EventError::Closed)
    }

    fn note(&self, _: Vec<Event>) {}

    async fn read(&self, _: EventQuery) -> Result<Self, EventError> {
        Err(EventError::Closed)
    }
}

impl EventReader for NoEvents {
    async fn next(&mut self) -> Result<Option<Vec<Event>>, EventError> {
        Ok(None)
    }
}
