//! What processes of one instance ask each other: which jobs they have, and to hold or drop some of them.
//!
//! Each says every two seconds that it is there. An order stands for a while after it was given, so that no job that it names
//! slips through to a worker while the streams are being searched for the others.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Client, SubscribeError, Subscriber};
use futures_util::StreamExt as _;
use mail::{Job, JobId};
use serde_json::{Value, json};
use smtp::address::Host;

use super::Core;
use super::lease::JetStreamLease;
use super::leases::Mark;
use super::names::Names;
use super::ready::Fetched;
use super::setup::Layout;
use crate::{Lease as _, Selection};

const GREETING: Duration = Duration::from_secs(2);
/// Who said nothing for so long is gone.
const GONE: Duration = Duration::from_secs(7);
/// How long others may take to answer.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long an order stands.
const STANDS: Duration = Duration::from_secs(5);

/// What is to become of jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// They are held.
    Hold(String),
    /// They go.
    Remove,
    /// They go, unless somebody has them already.
    Retract,
}

impl Order {
    /// What it means for jobs that are leased.
    fn mark(&self) -> Option<Mark> {
        match self {
            Self::Hold(reason) => Some(Mark::Hold(reason.clone())),
            Self::Remove => Some(Mark::Removed),
            Self::Retract => None,
        }
    }
}

/// Whether a selection means a job.
pub(super) fn means(which: &Selection, job: &Job) -> bool {
    match which {
        Selection::Job(id) => job.id == *id,
        Selection::Message(queue_id) => job.id.queue_id == *queue_id,
        Selection::Account(account) => job.message.account == *account,
        Selection::Host(host) => job.destination() == Some(host),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Orders that were given lately.
#[derive(Default)]
pub(super) struct Standing {
    orders: Mutex<Vec<(Selection, Order, Instant)>>,
}

impl Standing {
    fn give(&self, which: Selection, order: Order) {
        let mut orders = lock(&self.orders);
        orders.retain(|(_, _, at)| at.elapsed() < STANDS);
        orders.push((which, order, Instant::now()));
    }

    fn forget_holds(&self) {
        lock(&self.orders).retain(|(_, order, _)| !matches!(order, Order::Hold(_)));
    }

    /// What was ordered for a job.
    pub(super) fn order(&self, job: &Job) -> Option<Order> {
        let orders = lock(&self.orders);
        let mut standing = orders.iter().rev().filter(|(_, _, at)| at.elapsed() < STANDS);
        standing.find(|(which, _, _)| means(which, job)).map(|(_, order, _)| order.clone())
    }
}

/// The other processes of the instance.
pub(super) struct Peers {
    own: String,
    seen: Mutex<HashMap<String, Peer>>,
    /// How long leases last at least and at most, in milliseconds. Consumers have the time of whoever started last, so that
    /// what any process was ever set to counts.
    shortest_ms: AtomicU64,
    longest_ms: AtomicU64,
}

#[derive(Clone, Copy)]
struct Peer {
    at: Instant,
    leased: u64,
    parked: u64,
}

impl Peers {
    pub(super) fn new(lease: Duration) -> Self {
        let (shortest_ms, longest_ms) = (AtomicU64::new(millis(lease)), AtomicU64::new(millis(lease)));
        Self { own: nuid(), seen: Mutex::default(), shortest_ms, longest_ms }
    }

    /// Another process leases for so long.
    fn leases_for(&self, lease_ms: u64) {
        self.shortest_ms.fetch_min(lease_ms, Ordering::SeqCst);
        self.longest_ms.fetch_max(lease_ms, Ordering::SeqCst);
    }

    /// A lease that wasn't touched for so long may be somebody else's.
    pub(super) fn shortest_lease_ms(&self) -> u64 {
        self.shortest_ms.load(Ordering::SeqCst)
    }

    /// After so long whatever lapsed has come again.
    pub(super) fn longest_lease_ms(&self) -> u64 {
        self.longest_ms.load(Ordering::SeqCst)
    }

    fn saw(&self, from: &str, leased: u64, parked: u64) {
        let mut seen = lock(&self.seen);
        seen.retain(|_, peer| peer.at.elapsed() < GONE);
        seen.insert(from.to_owned(), Peer { at: Instant::now(), leased, parked });
    }

    fn others(&self) -> Vec<Peer> {
        lock(&self.seen).values().filter(|peer| peer.at.elapsed() < GONE).copied().collect()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A name that no other process has.
fn nuid() -> String {
    // The client's own inbox prefix is made of chance.
    let chance = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    format!("{chance:016x}")
}

pub(super) async fn subscribe(core: &Core) -> Result<Subscriber, SubscribeError> {
    core.api.client().subscribe(core.names.control()).await
}

/// Says how long leases last from now on.
pub(super) async fn announce(
    client: &Client,
    names: &Names,
    lease: Duration,
) -> Result<(), async_nats::PublishError> {
    let announcement = json!({ "op": "leases", "lease_ms": millis(lease) });
    client.publish(names.control(), announcement.to_string().into()).await
}

/// Says from time to time that this process is there, and what it has.
pub(super) async fn greet(core: Arc<Core>) {
    loop {
        let (leased, parked) = core.leases.count();
        let Layout { partitions, lanes } = core.layout();
        let greeting = json!({
            "from": core.peers.own,
            "op": "here",
            "leased": leased,
            "parked": parked,
            "partitions": partitions,
            "lanes": lanes,
            "lease_ms": millis(core.settings.lease),
        });
        // While NATS is away nobody hears it, and the next one comes soon.
        let _ = core.api.client().publish(core.names.control(), greeting.to_string().into()).await;
        tokio::time::sleep(GREETING).await;
    }
}

/// Answers the others until the store ends.
pub(super) async fn serve(core: Arc<Core>, mut requests: Subscriber) {
    while let Some(message) = requests.next().await {
        let Ok(request) = serde_json::from_slice::<Value>(&message.payload) else { continue };
        let from = request["from"].as_str().unwrap_or_default();
        if from == core.peers.own {
            continue;
        }
        let count = |field: &str| request[field].as_u64().unwrap_or_default();
        if let Some(lease_ms) = request["lease_ms"].as_u64() {
            core.peers.leases_for(lease_ms);
        }
        if request["op"] == "here" {
            core.peers.saw(from, count("leased"), count("parked"));
            if is_news(&core.layout(), &request) {
                core.news.notify_one();
            }
            continue;
        }
        let Some(answer) = answer(&core, &request).await else { continue };
        if let Some(reply) = message.reply {
            let _ = core.api.client().publish(reply, answer.to_string().into()).await;
        }
    }
}

/// Whether another process knows partitions or lanes that aren't served here.
fn is_news(known: &Layout, greeting: &Value) -> bool {
    let partitions = greeting["partitions"].as_array().map_or(&[][..], Vec::as_slice);
    let partition = |number: &Value| number.as_u64().and_then(|number| u16::try_from(number).ok());
    greeting["lanes"].as_u64().is_some_and(|lanes| lanes > known.lanes.into())
        || partitions.iter().filter_map(partition).any(|number| !known.partitions.contains(&number))
}

/// What this process has to say; none to what it doesn't understand.
async fn answer(core: &Arc<Core>, request: &Value) -> Option<Value> {
    let which = || selection(&request["which"]);
    let jobs = match request["op"].as_str()? {
        "leased" => core.leases.ids(|_| true),
        "hold" => obey(core, which()?, Order::Hold(request["reason"].as_str()?.to_owned())).await,
        "remove" => obey(core, which()?, Order::Remove).await,
        "retract" => obey(core, which()?, Order::Retract).await,
        "release" => {
            release(core, &which()?);
            Vec::new()
        }
        _ => return None,
    };
    Some(json!({ "jobs": jobs.iter().map(ToString::to_string).collect::<Vec<_>>() }))
}

/// Carries out an order here; gives the leased jobs that it is about.
async fn obey(core: &Arc<Core>, which: Selection, order: Order) -> Vec<JobId> {
    core.standing.give(which.clone(), order.clone());
    let leased = match order.mark() {
        Some(mark) => core.leases.mark(&mark, |job| means(&which, job)),
        None => core.leases.ids(|job| means(&which, job)),
    };
    let waiting = core.ready().take_if(|fetched| means(&which, &fetched.record.job));
    for fetched in waiting {
        carry_out(core, fetched, order.clone()).await;
    }
    leased
}

/// What was fetched and not leased is settled as was ordered.
pub(super) async fn carry_out(core: &Arc<Core>, fetched: Fetched, order: Order) {
    match order {
        Order::Hold(reason) => {
            let Some(lease) = JetStreamLease::begin(core, fetched) else { return };
            let id = lease.job().id;
            if let Err(error) = lease.hold(reason).await {
                tracing::warn!(job = %id, %error, "can't hold a job; it comes back when its lease lapses");
            }
        }
        // Whoever gave the order deletes the record.
        Order::Remove | Order::Retract => {}
    }
}

fn release(core: &Core, which: &Selection) {
    core.standing.forget_holds();
    core.leases.unhold(|job| means(which, job));
}

/// Gives an order to all processes; gives the jobs that are leased somewhere.
pub(super) async fn order(core: &Arc<Core>, which: &Selection, order: &Order) -> HashSet<JobId> {
    let mut leased: HashSet<_> = obey(core, which.clone(), order.clone()).await.into_iter().collect();
    let mut request = json!({ "which": written(which) });
    match order {
        Order::Hold(reason) => {
            request["op"] = json!("hold");
            request["reason"] = json!(reason);
        }
        Order::Remove => request["op"] = json!("remove"),
        Order::Retract => request["op"] = json!("retract"),
    }
    leased.extend(ask(core, request).await);
    leased
}

/// Tells all processes that holds no longer stand.
pub(super) async fn forget_holds(core: &Arc<Core>, which: &Selection) {
    release(core, which);
    ask(core, json!({ "op": "release", "which": written(which) })).await;
}

/// The jobs that are leased somewhere.
pub(super) async fn leased(core: &Arc<Core>) -> HashSet<JobId> {
    let mut all: HashSet<_> = core.leases.ids(|_| true).into_iter().collect();
    all.extend(ask(core, json!({ "op": "leased" })).await);
    all
}

/// How many jobs are leased, and of them how many by a record that waits: here now, elsewhere a moment ago.
pub(super) fn counts(core: &Core) -> (u64, u64) {
    let (leased, parked) = core.leases.count();
    let others = core.peers.others();
    (
        leased + others.iter().map(|peer| peer.leased).sum::<u64>(),
        parked + others.iter().map(|peer| peer.parked).sum::<u64>(),
    )
}

/// Asks the others, and waits for those who are known to be there.
async fn ask(core: &Arc<Core>, mut request: Value) -> Vec<JobId> {
    let expected = core.peers.others().len();
    request["from"] = json!(core.peers.own);
    let client = core.api.client();
    let inbox = client.new_inbox();
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return Vec::new() };
    if client.publish_with_reply(core.names.control(), inbox, request.to_string().into()).await.is_err() {
        return Vec::new();
    }
    let mut jobs = Vec::new();
    let gather = async {
        for _ in 0..expected {
            let Some(message) = answers.next().await else { return };
            let answer = serde_json::from_slice::<Value>(&message.payload).unwrap_or_default();
            let ids = answer["jobs"].as_array().map_or(&[][..], Vec::as_slice);
            jobs.extend(ids.iter().filter_map(|id| id.as_str()?.parse::<JobId>().ok()));
        }
    };
    if tokio::time::timeout(PATIENCE, gather).await.is_err() {
        tracing::debug!(expected, "not all processes answered in time");
    }
    jobs
}

fn written(which: &Selection) -> Value {
    match which {
        Selection::Job(id) => json!({ "job": id.to_string() }),
        Selection::Message(queue_id) => json!({ "message": queue_id.to_string() }),
        Selection::Account(account) => json!({ "account": account.as_str() }),
        Selection::Host(host) => json!({ "host": host.to_string() }),
    }
}

fn selection(text: &Value) -> Option<Selection> {
    let (kind, value) = text.as_object()?.iter().next()?;
    let value = value.as_str()?;
    Some(match kind.as_str() {
        "job" => Selection::Job(value.parse().ok()?),
        "message" => Selection::Message(value.parse().ok()?),
        "account" => Selection::Account(mail::AccountId::new(value)?),
        "host" => Selection::Host(Host::parse(value).ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use mail::{QueueId, Timestamp};

    use super::*;

    #[test]
    fn who_serves_more_is_heard() {
        let known = Layout { partitions: [0, 1].into(), lanes: 4 };
        for (greeting, news) in [
            (json!({}), false),
            (json!({ "partitions": [1], "lanes": 4 }), false),
            (json!({ "partitions": [0, 2], "lanes": 1 }), true),
            (json!({ "partitions": [], "lanes": 5 }), true),
        ] {
            assert_eq!(is_news(&known, &greeting), news, "{greeting}");
        }
    }

    #[test]
    fn a_selection_survives_its_text() {
        let queue_id = QueueId::new(Timestamp(1), [1; 10]);
        for which in [
            Selection::Job(JobId { report: Some(1), ..JobId::delivery(queue_id, 2) }),
            Selection::Message(queue_id),
            Selection::Account(mail::AccountId::new("a").unwrap()),
            Selection::Host(Host::parse("[192.0.2.1]").unwrap()),
            Selection::Host(Host::parse("one.example").unwrap()),
        ] {
            assert_eq!(selection(&written(&which)), Some(which));
        }
        assert_eq!(selection(&json!({ "all": "x" })), None);
    }
}
