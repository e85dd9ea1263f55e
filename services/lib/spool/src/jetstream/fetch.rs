//! Fetching jobs: one task pulls from the consumers of all lanes, looks twice at what may have been with somebody before, and
//! makes the rest ready.

mod arrival;
mod second_look;
mod source;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::{Message, StatusCode, SubscribeError, Subscriber};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::task::JoinSet;

use self::arrival::{Arrival, Delivered, delivered, read};
use self::second_look::look_twice;
use self::source::{Source, WINDOW_MAX};
use super::dead::{self, Strays};
use super::job::Record;
use super::names::{Kind, Lane, Names};
use super::ready::Fetched;
use super::setup::{self, Differing, Layout};
use super::{Core, Later};

/// Octets of jobs asked for at a time.
const OCTETS_MAX: u32 = 4 << 20;
/// Jobs that may be ready before no more are asked for.
const READY_MAX: usize = 512;
/// So long after somebody wanted jobs, they are fetched ahead.
const WANTED: Duration = Duration::from_secs(2);
/// Nobody has wanted jobs yet.
pub(super) const NEVER_WANTED: u64 = u64::MAX;
/// How long the server keeps a request.
const EXPIRES: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_secs(1);
/// How often new partitions and lanes are looked for, which other processes tell of as well, and records that no lane takes.
const DISCOVER: Duration = Duration::from_secs(10);

struct Fetcher {
    core: Arc<Core>,
    sources: Vec<Source>,
    /// Where a stream's consumer stands among the sources.
    places: HashMap<(String, String), usize>,
    inbox: Inbox,
    looking: JoinSet<()>,
    layout: Layout,
    /// The task that looks for new partitions and lanes.
    discovering: JoinSet<Option<Layout>>,
    discovered_at: Instant,
    /// Whether nobody answered for a consumer: it may have been deleted.
    missing: bool,
    strays: Arc<Mutex<Strays>>,
}

/// Where fetched jobs come in.
pub(super) struct Inbox {
    prefix: String,
    messages: Subscriber,
}

pub(super) async fn inbox(core: &Core) -> Result<Inbox, SubscribeError> {
    let client = core.api.client();
    let prefix = client.new_inbox();
    let messages = client.subscribe(format!("{prefix}.*.*")).await?;
    Ok(Inbox { prefix, messages })
}

/// Fetches until the store ends.
pub(super) async fn run(core: Arc<Core>, layout: Layout, inbox: Inbox) {
    let mut fetcher = Fetcher {
        core: Arc::clone(&core),
        sources: Vec::new(),
        places: HashMap::new(),
        inbox,
        looking: JoinSet::new(),
        layout: Layout::default(),
        discovering: JoinSet::new(),
        discovered_at: Instant::now(),
        missing: false,
        strays: Arc::default(),
    };
    fetcher.extend(layout);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            message = fetcher.inbox.messages.next() => match message {
                Some(message) => fetcher.take(message).await,
                None => return,
            },
            () = core.wanted.notified() => fetcher.ask_all().await,
            () = core.link.renewed.notified() => {
                fetcher.sources.iter_mut().for_each(|source| source.asked_at = None);
                fetcher.ask_all().await;
            }
            () = core.news.notified() => fetcher.discover(),
            Some(found) = fetcher.discovering.join_next() => {
                if let Ok(Some(layout)) = found {
                    fetcher.extend(layout);
                    fetcher.ask_all().await;
                }
            }
            _ = tick.tick() => fetcher.tick().await,
        }
        while fetcher.looking.try_join_next().is_some() {}
    }
}

impl Fetcher {
    /// Adds what isn't served yet.
    fn extend(&mut self, layout: Layout) {
        for partition in &layout.partitions {
            for lane in Lane::all(layout.lanes) {
                for kind in [Kind::Due, Kind::Mail] {
                    let known = |source: &Source| {
                        (source.kind, source.partition, source.lane) == (kind, *partition, lane)
                    };
                    if !self.sources.iter().any(known) {
                        let name = (self.core.names.stream(kind, *partition), Names::consumer(kind, lane));
                        self.places.insert(name, self.sources.len());
                        self.sources.push(Source::new(&self.core.names, kind, *partition, lane));
                    }
                }
            }
        }
        *self.core.layout.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = layout.clone();
        self.layout = layout;
    }

    /// Whether more jobs are wanted than are there.
    fn wants(&self) -> bool {
        let asked_at = self.core.wanted_at.load(Ordering::Relaxed);
        // Who only accepts mail must not keep it from those who deliver it.
        let wanted = asked_at != NEVER_WANTED
            && Duration::from_millis(self.core.link.elapsed().saturating_sub(asked_at)) < WANTED;
        wanted && !self.core.is_closed() && self.core.ready().len() < READY_MAX
    }

    async fn ask_all(&mut self) {
        // This runs for each lease, and there are hundreds of sources.
        if !self.wants() {
            return;
        }
        for place in 0..self.sources.len() {
            if self.sources[place].asked_at.is_none() {
                self.ask(place).await;
            }
        }
    }

    /// Asks a source for jobs, unless it was asked already.
    async fn ask(&mut self, place: usize) {
        if !self.wants() {
            return;
        }
        let now = Instant::now();
        let source = &mut self.sources[place];
        if source.asked_at.is_some() || source.not_before.is_some_and(|at| now < at) {
            return;
        }
        source.turn += 1;
        source.asked_at = Some(now);
        source.outstanding = source.window;
        let mut body = json!({ "batch": source.window, "max_bytes": OCTETS_MAX });
        if source.primed {
            body["expires"] = json!(EXPIRES.as_nanos() as u64);
        } else {
            // The first answer comes at once, so that it is known when all lanes were looked at.
            body["no_wait"] = json!(true);
        }
        let reply = format!("{}.{place}.{}", self.inbox.prefix, source.turn);
        let sent =
            self.core.api.client().publish_with_reply(source.subject.clone(), reply, body.to_string().into());
        if let Err(error) = sent.await {
            tracing::debug!(%error, "can't ask for jobs");
            self.sources[place].asked_at = None;
        }
    }

    async fn take(&mut self, message: Message) {
        if let Some(status) = message.status {
            let Some((place, turn)) = answered(&message.subject) else { return };
            let Some(source) = self.sources.get_mut(place) else { return };
            if source.turn == turn && status != StatusCode::IDLE_HEARTBEAT {
                self.missing |= status == StatusCode::NO_RESPONDERS;
                source.end(status);
                self.prime();
                self.ask(place).await;
            }
            return;
        }
        let Some(ack) = message.reply.as_ref().map(ToString::to_string) else { return };
        let Some(delivered) = delivered(&ack) else { return };
        if let Some(place) = self.places.get(&(delivered.stream.clone(), delivered.consumer.clone())).copied()
        {
            let source = &mut self.sources[place];
            source.outstanding = source.outstanding.saturating_sub(1);
            if source.outstanding == 0 {
                source.window = (source.window * 2).min(WINDOW_MAX);
                source.asked_at = None;
                source.primed = true;
                self.prime();
                self.ask(place).await;
            }
        }
        self.sort(message, ack, delivered);
    }

    /// Tells who waits for the first round.
    fn prime(&self) {
        if !*self.core.primed.borrow() && self.sources.iter().all(|source| source.primed) {
            self.core.primed.send_replace(true);
        }
    }

    /// Makes a job ready, now or after a second look.
    fn sort(&mut self, message: Message, ack: String, delivered: Delivered) {
        let Some(Arrival { fetched, suspect }) = read(&self.core, message, ack, delivered) else { return };
        let recent = |record: &Record| {
            let longest = self.core.peers.longest_lease_ms();
            self.core.now().millis_since(record.written_at) < 4 * longest
        };
        let precedes = fetched.record.predecessor.is_some() && recent(&fetched.record);
        let ordered = self.core.standing.order(&fetched.record.job);
        if !suspect && !precedes && ordered.is_none() {
            self.core.make_ready(fetched);
            return;
        }
        let core = Arc::clone(&self.core);
        core.looking.fetch_add(1, Ordering::SeqCst);
        self.looking.spawn(async move {
            let ack = fetched.ack.clone();
            match look_twice(&core, &fetched, suspect, precedes).await {
                Ok(true) => match ordered {
                    Some(order) => super::control::carry_out(&core, fetched, order).await,
                    None => core.make_ready(fetched),
                },
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, job = %fetched.record.job.id, "can't look at a job a second time");
                    core.later(Later::GiveBack { ack });
                }
            }
            core.looking.fetch_sub(1, Ordering::SeqCst);
        });
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        for source in &mut self.sources {
            // An answer that was lost on the way never comes.
            if source.asked_at.is_some_and(|at| now.duration_since(at) > EXPIRES + 5 * TICK) {
                source.asked_at = None;
            }
        }
        // What is left of the lease must last until the first touch of whoever leases it then.
        let quarter = Duration::from_millis(self.core.peers.shortest_lease_ms() / 4);
        let stale = now.checked_sub(quarter).map(|than| self.core.ready().take_older(than));
        for fetched in stale.into_iter().flatten() {
            self.core.later(Later::GiveBack { ack: fetched.ack });
        }
        if now.duration_since(self.discovered_at) > DISCOVER {
            self.discover();
        }
        self.ask_all().await;
    }

    /// Looks for partitions and lanes that others made, beside everything else.
    fn discover(&mut self) {
        if !self.discovering.is_empty() || self.core.is_closed() {
            return;
        }
        self.discovered_at = Instant::now();
        let missing = std::mem::take(&mut self.missing);
        let (core, known, strays) = (Arc::clone(&self.core), self.layout.clone(), Arc::clone(&self.strays));
        self.discovering.spawn(async move {
            let (client, names, settings) = (core.api.client(), &core.names, &core.settings);
            let mut found = setup::discover(client, names, settings).await;
            if missing || dead::is_missing(&core).await || found.as_ref().is_ok_and(|found| *found != known) {
                found = setup::prepare(client, names, settings, core.bound, Differing::Leave).await;
            }
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(%error, "can't look for new partitions");
                    return None;
                }
            };
            if let Err(error) = dead::look_for_strays(&core, &found, &strays).await {
                tracing::debug!(%error, "can't look for records that no lane takes");
            }
            (found != known).then_some(found)
        });
    }
}

fn answered(subject: &str) -> Option<(usize, u64)> {
    let mut tokens = subject.rsplit('.');
    let turn = tokens.next()?.parse().ok()?;
    Some((tokens.next()?.parse().ok()?, turn))
}

impl Core {
    fn make_ready(&self, fetched: Fetched) {
        self.ready().push(fetched);
        self.arrived.notify_waiters();
    }
}
