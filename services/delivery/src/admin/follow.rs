//! Events as they come: gRPC `stagepost.admin.v1.Events`.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mail::{AccountId, Event, EventKind};
use proto::admin::v1 as admin;
use proto::admin::v1::events_server;
use proto::events::v1::Batch;
use smtp::address::{Address, Host, Utf8};
use spool::events::batch_to_wire;
use spool::{EventError, EventLog as _, EventQuery, EventReader, Follow, Spool};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Answer, explain, invalid};
use crate::context::now;

/// Ids that a follower's repeats are known by.
const REMEMBERED_MAX: usize = 50_000;
/// Batches that wait for a slow follower; after them it is the log's reader that waits.
const BATCHES_WAITING: usize = 4;

/// The service.
pub(super) struct Events<S> {
    spool: Arc<S>,
    ending: CancellationToken,
}

impl<S> Events<S> {
    pub(super) fn new(spool: Arc<S>, ending: CancellationToken) -> Self {
        Self { spool, ending }
    }
}

/// What a follower gets.
type Batches = Pin<Box<dyn tokio_stream::Stream<Item = Result<Batch, Status>> + Send>>;

#[tonic::async_trait]
impl<S: Spool> events_server::Events for Events<S> {
    type FollowStream = Batches;

    async fn follow(&self, request: Request<admin::FollowRequest>) -> Answer<Batches> {
        let request = request.into_inner();
        let wanted = Wanted::new(&request)?;
        let within = request.within_secs.unwrap_or(0).saturating_mul(1000);
        let follow = if request.until_now { Follow::UntilNow } else { Follow::Forever };
        let since = mail::Timestamp(now().0.saturating_sub(within));
        let query = EventQuery { since, messages: Vec::new(), follow };
        let reader = self.spool.events().read(query).await.map_err(|error| unreadable(&error))?;
        let (batches, received) = mpsc::channel(BATCHES_WAITING);
        tokio::spawn(self.ending.clone().run_until_cancelled_owned(pass_on(reader, wanted, batches)));
        Ok(Response::new(Box::pin(ReceiverStream::new(received))))
    }

    async fn explain(&self, request: Request<admin::ExplainRequest>) -> Answer<admin::ExplainResponse> {
        let admin::ExplainRequest { about, within_secs } = request.into_inner();
        let about = explain::About::parse(&about)?;
        explain::explain(&*self.spool, about, Duration::from_secs(within_secs)).await.map(Response::new)
    }
}

/// Sends what is wanted until the log or the follower ends.
async fn pass_on<R: EventReader>(
    mut reader: R,
    wanted: Wanted,
    batches: mpsc::Sender<Result<Batch, Status>>,
) {
    let mut seen = Seen::default();
    loop {
        let read = tokio::select! {
            read = reader.next() => read,
            () = batches.closed() => return,
        };
        let sent = match read {
            Ok(None) => return,
            Ok(Some(mut events)) => {
                events.retain(|event| wanted.matches(event) && seen.is_new(event));
                if events.is_empty() {
                    continue;
                }
                batches.send(Ok(batch_to_wire(&events))).await
            }
            Err(error) => {
                // It is the last word; a follower that is gone needs none.
                let _ = batches.send(Err(unreadable(&error))).await;
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

pub(super) fn unreadable(error: &EventError) -> Status {
    Status::unavailable(error.to_string())
}

/// Which events a follower wants.
struct Wanted {
    account: Option<AccountId>,
    recipient: Option<Recipients>,
    /// All when there is none.
    kinds: Vec<EventKind>,
}

enum Recipients {
    One(Address),
    At(Host),
}

impl Wanted {
    fn new(request: &admin::FollowRequest) -> Result<Self, Status> {
        let admin::FollowRequest { account_id, recipient, kinds, within_secs: _, until_now: _ } = request;
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let account = given(account_id)
            .map(|id| AccountId::new(&id).ok_or_else(|| invalid("not an account id")))
            .transpose()?;
        let recipient = match given(recipient) {
            None => None,
            Some(text) if text.contains('@') => Some(Recipients::One(address(&text)?)),
            Some(text) => Some(Recipients::At(Host::parse(&text).map_err(invalid)?)),
        };
        let kinds = kinds.iter().map(|kind| kind.parse().map_err(invalid)).collect::<Result<_, _>>()?;
        Ok(Self { account, recipient, kinds })
    }

    fn matches(&self, event: &Event) -> bool {
        let of_account = self.account.as_ref().is_none_or(|account| event.message.account == *account);
        let to_recipient = match &self.recipient {
            None => true,
            Some(Recipients::One(address)) => is_same(address, &event.recipient),
            Some(Recipients::At(host)) => event.recipient.host() == host,
        };
        of_account && to_recipient && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
    }
}

pub(super) fn address(text: &str) -> Result<Address, Status> {
    Address::parse(text, Utf8::Allowed).map_err(invalid)
}

/// Whether people mean the same mailbox: nobody remembers the case in which it was submitted.
pub(super) fn is_same(one: &Address, other: &Address) -> bool {
    one == other || one.to_string().to_lowercase() == other.to_string().to_lowercase()
}

/// The ids of the latest events.
#[derive(Default)]
pub(super) struct Seen {
    ids: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Seen {
    /// Whether it wasn't seen before, or so long ago that it is forgotten.
    pub(super) fn is_new(&mut self, event: &Event) -> bool {
        let id: Arc<str> = event.id().into();
        if !self.ids.insert(Arc::clone(&id)) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}
