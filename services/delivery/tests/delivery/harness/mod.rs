//! Delivery over a real store, towards servers that a test scripts.

pub(crate) mod accounts;
pub(crate) mod mx;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser as _;
use delivery::{AttemptReport, Config, Observer, Parts};
use dkim::BodyHasher;
use limits::local::Local;
use mail::{
    AccountId, BodyKind, Job, Message, QueueId, Recipient, RecipientResult, ReturnContent, Timestamp,
    TlsRequirement, WhileUnready,
};
use proto::accounts::v1::signing_client::SigningClient;
use runtime::rpc::{self, Listener, Token};
use smtp::address::{Address, ReversePath, Utf8};
use spool::embedded::{Embedded, Folders, Settings};
use spool::{Content, Entry, EventError, NewJob, NewMessage, Origin, Query, Spool};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use accounts::Accounts;
use mx::Mx;

/// Nothing in a test takes longer, unless it never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    delivery: Config,
}

/// What the observer was told of a recipient.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) queue_id: QueueId,
    pub(crate) result: RecipientResult,
    pub(crate) tls: bool,
}

impl Told {
    /// `disposition status`, as `bounced 5.1.1`.
    pub(crate) fn short(&self) -> String {
        format!("{} {}", self.result.disposition.as_str(), self.result.status)
    }
}

struct Listening {
    told: UnboundedSender<Told>,
    events_lost: Arc<AtomicUsize>,
}

impl Observer for Listening {
    fn attempt(&self, report: &AttemptReport<'_>) {
        for result in report.results {
            let queue_id = report.job.message.queue_id;
            let _ = self.told.send(Told { queue_id, result: result.clone(), tls: report.tls.is_some() });
        }
    }

    fn waits(&self, _: &Job, _: Duration, _: &str) {}

    fn events_lost(&self, events: usize, _: &EventError) {
        self.events_lost.fetch_add(events, Ordering::SeqCst);
    }
}

/// A running delivery.
pub(crate) struct Site<S: Spool = Embedded> {
    pub(crate) spool: Arc<S>,
    pub(crate) accounts: Arc<Accounts>,
    told: UnboundedReceiver<Told>,
    events_lost: Arc<AtomicUsize>,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), delivery::Error>>,
    folder: TempDir,
}

pub(crate) fn open(folder: &TempDir) -> Embedded {
    let settings = Settings { segment_octets: 16 << 20, reserve_octets: 1 << 20, ..Settings::default() };
    Embedded::open(&Folders::within(folder.path()), settings, || Timestamp(runtime::clock::now_millis()))
        .unwrap()
}

impl Site {
    /// Routes `d1.test` to the first server, `d2.test` to the second and so on, and `sender.test` to the last one too.
    pub(crate) async fn start(servers: &[&Mx], flags: &[&str]) -> Self {
        Self::start_while(WhileUnready::Refuse, servers, flags).await
    }

    /// As [`Site::start`], with this setting for domains that aren't ready.
    pub(crate) async fn start_while(while_unready: WhileUnready, servers: &[&Mx], flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spool = open(&folder);
        Self::over_while(while_unready, spool, folder, servers, flags).await
    }
}

impl<S: Spool> Site<S> {
    pub(crate) async fn over(spool: S, folder: TempDir, servers: &[&Mx], flags: &[&str]) -> Self {
        Self::over_while(WhileUnready::Refuse, spool, folder, servers, flags).await
    }

    async fn over_while(
        while_unready: WhileUnready,
        spool: S,
        folder: TempDir,
        servers: &[&Mx],
        flags: &[&str],
    ) -> Self {
        let mut routes: Vec<String> = servers
            .iter()
            .enumerate()
            .map(|(place, server)| format!("d{}.test={}", place + 1, server.address))
            .collect();
        routes.extend(servers.last().map(|last| format!("sender.test={}", last.address)));
        let routes = routes.join(",");
        let quick = ["delivery", "--delivery-retry-waits-secs", "1", "--delivery-port", "1"];
        let mut line: Vec<&str> = quick.to_vec();
        if !routes.is_empty() {
            line.extend(["--delivery-routes", &routes]);
        }
        line.extend(flags);
        let config = Flags::parse_from(line).delivery;

        let accounts = Accounts::new();
        let token = Token::load_or_make(&folder.path().join("token")).unwrap();
        let socket = folder.path().join("socket");
        let listener = Listener::bind_unix(&socket).await.unwrap();
        let shutdown = CancellationToken::new();
        let server = rpc::Server::Unix(socket);
        let client = rpc::connect(&server, &token);
        let routes = Arc::clone(&accounts).routes();
        let serving = shutdown.clone();
        tokio::spawn(async move { rpc::serve(listener, routes, &token, serving).await });

        let (tell, told) = unbounded_channel();
        let events_lost = Arc::new(AtomicUsize::new(0));
        let spool = Arc::new(spool);
        let parts = Parts {
            metrics: delivery::Metrics::default(),
            trace_addresses: runtime::telemetry::TraceAddresses::DomainsOnly,
            spool: Arc::clone(&spool),
            limits: Arc::new(Local::in_memory()),
            signing: SigningClient::new(client),
            observer: Arc::new(Listening { told: tell, events_lost: Arc::clone(&events_lost) }),
            host_name: "out.sender.test".parse().unwrap(),
            while_unready,
        };
        let running = tokio::spawn(delivery::run(config, parts, shutdown.clone()));
        Self { spool, accounts, told, events_lost, shutdown, running, folder }
    }

    pub(crate) async fn submit(&self, letter: Letter) -> QueueId {
        let new = letter.finish();
        let queue_id = new.message.queue_id;
        self.spool.accept(new).await.unwrap();
        queue_id
    }

    /// The next thing that the observer is told.
    pub(crate) async fn told(&mut self) -> Told {
        let told = tokio::time::timeout(PATIENCE, self.told.recv()).await;
        told.expect("nothing was told").expect("delivery runs")
    }

    /// The next `count` results in short, in order of their texts.
    pub(crate) async fn told_in_short(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.told().await.short());
        }
        all.sort();
        all
    }

    /// How many events could not be written.
    pub(crate) fn events_lost(&self) -> usize {
        self.events_lost.load(Ordering::SeqCst)
    }

    pub(crate) async fn queued(&self) -> Vec<Entry> {
        self.spool.look(Query::default()).await.unwrap()
    }

    /// Waits until nothing is queued any more.
    pub(crate) async fn drained(&self) {
        let empty = async {
            while !self.queued().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, empty).await.expect("the queue drains");
    }

    /// Ends delivery and the store.
    pub(crate) async fn stop(self) {
        let spool = Arc::clone(&self.spool);
        let _folder = self.end().await;
        spool.close().await;
    }

    /// Ends delivery; the store stays open, in the folder that is returned.
    pub(crate) async fn end(self) -> TempDir {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
        self.folder
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never came: {what}"));
}

pub(crate) fn address(text: &str) -> Address {
    Address::parse(text, Utf8::Allowed).unwrap()
}

/// A message to be submitted.
pub(crate) struct Letter {
    pub(crate) message: Message,
    header: Vec<u8>,
    body: Vec<u8>,
    pub(crate) recipients: Vec<Recipient>,
}

impl Letter {
    pub(crate) fn to(recipients: &[&str]) -> Self {
        let now = Timestamp(runtime::clock::now_millis());
        let queue_id = QueueId::new(now, runtime::random());
        let message = Message {
            queue_id,
            account: AccountId::new("a1").unwrap(),
            original_reverse_path: ReversePath::Mailbox(address("boss@sender.test")),
            reverse_path: ReversePath::Mailbox(address("boss@sender.test")),
            author_domain: "sender.test".parse().unwrap(),
            ret: None,
            envid: None,
            body_kind: BodyKind::SevenBit,
            smtputf8: false,
            message_id: format!("<{queue_id}@sender.test>"),
            header_octets: 0,
            octets: 0,
            body_hash: [0; 32],
            tls: TlsRequirement::Opportunistic,
            tags: Vec::new(),
            metadata: Vec::new(),
            egress_pool: None,
            accepted_at: now,
            not_before: None,
            expires_at: now.plus_secs(3600),
            trace_context: None,
        };
        let header =
            format!("From: boss@sender.test\r\nSubject: hello\r\nMessage-ID: <{queue_id}@sender.test>\r\n");
        let recipients = recipients.iter().map(|text| Recipient::new(address(text))).collect();
        Self { message, header: header.into(), body: b"Hello.\r\n".to_vec(), recipients }
    }

    pub(crate) fn header(mut self, fields: &str) -> Self {
        self.header.extend_from_slice(fields.as_bytes());
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        if !self.body.is_ascii() {
            self.message.body_kind = BodyKind::EightBitMime;
        }
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Message)) -> Self {
        change(&mut self.message);
        self
    }

    pub(crate) fn for_each(mut self, change: impl Fn(&mut Recipient)) -> Self {
        self.recipients.iter_mut().for_each(change);
        self
    }

    pub(crate) fn returning(self, ret: ReturnContent) -> Self {
        self.with(|message| message.ret = Some(ret))
    }

    /// The octets as they are stored.
    pub(crate) fn octets(&self) -> Vec<u8> {
        [&*self.header, b"\r\n", &*self.body].concat()
    }

    fn finish(self) -> NewMessage {
        let content = self.octets();
        let Self { mut message, header, body, recipients } = self;
        let mut hasher = BodyHasher::new();
        hasher.update(&body);
        message.header_octets = header.len() as u32;
        message.octets = content.len() as u64;
        message.body_hash = *hasher.finish().as_bytes();
        let jobs = Job::group(recipients, 100).into_iter().map(|recipients| NewJob { recipients }).collect();
        NewMessage {
            origin: Origin::Submission,
            message,
            jobs,
            content: Content { pieces: vec![content.into()] },
        }
    }
}

/// A message as a server saw it, less the signature on top, which has to be there.
pub(crate) fn unsigned(message: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(message);
    assert!(text.starts_with("DKIM-Signature: v=1;"), "unsigned: {text}");
    let mut end = 0;
    for line in text.split_inclusive("\r\n") {
        if end > 0 && !line.starts_with(['\t', ' ']) {
            break;
        }
        end += line.len();
    }
    message[end..].to_vec()
}
