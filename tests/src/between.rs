//! Somebody between an operator and the API, who sees each call, can stop the world between a call and its answer, and can
//! part the two for a while.
//!
//! ```no_run
//! use tests::between::{Between, Moment};
//! use tests::kubernetes::Cluster;
//! use tests::lab::Lab;
//! let lab = Lab::new();
//! let cluster = Cluster::start(&lab);
//! let between = Between::start(&cluster);
//! between.hold_at(3, Moment::BeforeAnswer);       // the third change from now on is made, and nobody is told
//! let mut operator = cluster.operator_with("one", &[], &between.kubeconfig());
//! if between.held().is_some() {
//!     operator.process.kill();
//! }
//! between.let_go();
//! ```

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::address;
use crate::kubernetes::{Cluster, built};
use crate::process::Process;

const PROXY_PORT: u16 = 8001;
const PORT: u16 = 8002;
const TICK: Duration = Duration::from_millis(20);

/// When the world stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The API never hears of the call.
    BeforeCall,
    /// The API did what it was asked for, and who asked never hears of it.
    BeforeAnswer,
}

/// A change that an operator asked for.
#[derive(Clone, Debug)]
pub struct Change {
    /// Method and path.
    pub call: String,
    /// When the operator asked.
    pub at: Instant,
    /// What the API answered, a status of HTTP, whether the operator heard it or not.
    pub answer: Option<u16>,
}

/// Speaks HTTP without TLS on one side and kubectl's proxy on the other; dropped, it ends.
pub struct Between {
    _proxy: Process,
    shared: Arc<Shared>,
    kubeconfig: PathBuf,
    address: Ipv4Addr,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
    /// Connections of an earlier one carry nothing any more.
    epoch: AtomicUsize,
    over: AtomicBool,
}

#[derive(Default)]
struct Seen {
    /// Changes so far.
    changes: Vec<Change>,
    /// The number of the change to stop at.
    stop: Option<(usize, Moment)>,
    /// What was stopped.
    held: Option<String>,
    cut: Cut,
}

/// Whether operator and API are parted.
#[derive(Default)]
enum Cut {
    #[default]
    Whole,
    /// They will be when the operator asks for a change with this in its path.
    Awaited(String),
    /// They are, and that change is the first of those that wait, by its place.
    Parted(usize),
}

/// A connection, as both of its directions know it.
#[derive(Default)]
struct Connection {
    /// The API's answer isn't passed on.
    withhold: AtomicBool,
    /// The place of the change that was passed on and isn't answered.
    unanswered: Mutex<Option<usize>>,
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    /// A change, by its place.
    Changes(usize),
    Stops(Moment, usize),
}

impl Between {
    /// In front of a cluster's API.
    ///
    /// # Panics
    /// When kubectl's proxy doesn't come up.
    pub fn start(cluster: &Cluster) -> Self {
        let address = address::fresh();
        let mut command = Command::new(built("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(cluster.operators_kubeconfig())
            .args(["proxy", "--accept-hosts=.*"])
            .args([format!("--address={address}"), format!("--port={PROXY_PORT}")]);
        let folder = cluster.folder();
        let mut proxy = Process::start("kubectl-proxy", command, &folder.join("proxy.log"));
        proxy.wait_ready(|| TcpStream::connect((address, PROXY_PORT)).is_ok());
        let kubeconfig = folder.join("kubeconfig-between");
        let text = format!(
            "apiVersion: v1\nkind: Config\n\
             clusters: [{{name: test, cluster: {{server: \"http://{address}:{PORT}\"}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test}}}}]\ncurrent-context: test\n"
        );
        std::fs::write(&kubeconfig, text).expect("a file can be written");
        let shared = Arc::new(Shared::default());
        let listener = TcpListener::bind((address, PORT)).expect("the port is free");
        let (accepting, upstream) = (Arc::clone(&shared), SocketAddr::from((address, PROXY_PORT)));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.carry(&client, upstream));
            }
        });
        Self { _proxy: proxy, shared, kubeconfig, address }
    }

    /// The file by which an operator finds this way to the API.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// The `number`th change from now on is stopped, and with it all later ones. Leases and events don't count.
    pub fn hold_at(&self, number: usize, moment: Moment) {
        let mut seen = self.shared.seen();
        seen.held = None;
        seen.stop = Some((seen.changes.len() + number, moment));
    }

    /// What is stopped now.
    pub fn held(&self) -> Option<String> {
        self.shared.seen().held.clone()
    }

    /// What was stopped ends; later calls pass.
    pub fn let_go(&self) {
        let mut seen = self.shared.seen();
        (seen.stop, seen.held) = (None, None);
        self.shared.changed.notify_all();
    }

    /// All changes that were asked for, but for those of Leases and events.
    pub fn changes(&self) -> Vec<Change> {
        self.shared.seen().changes.clone()
    }

    /// Parts operator and API when the operator next asks for a change with `part` in its path: what either sends from this
    /// on arrives only when they are joined again, as over a network that repeats what got lost.
    pub fn part_at(&self, part: &str) {
        self.shared.seen().cut = Cut::Awaited(part.to_owned());
    }

    /// The place of the first change that waits because they are parted.
    pub fn parted_at(&self) -> Option<usize> {
        match self.shared.seen().cut {
            Cut::Parted(place) => Some(place),
            Cut::Whole | Cut::Awaited(_) => None,
        }
    }

    /// What waits arrives, and all is as before.
    pub fn join(&self) {
        self.shared.seen().cut = Cut::Whole;
        self.shared.changed.notify_all();
    }

    /// Connections that there are stay, and nothing passes on them any more, as behind a router that forgot them. New ones work.
    pub fn forget_connections(&self) {
        self.shared.epoch.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        // Wakes the thread that waits for connections; it is no matter whether anything listens any more.
        let _ = TcpStream::connect((self.address, PORT));
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries both directions of a connection until one ends.
    fn carry(self: &Arc<Self>, client: &TcpStream, upstream: SocketAddr) {
        let Ok(server) = TcpStream::connect(upstream) else { return };
        let epoch = self.epoch.load(Ordering::Relaxed);
        let connection = Arc::new(Connection::default());
        let (Ok(from), Ok(to)) = (server.try_clone(), client.try_clone()) else { return };
        let (back, shared) = (Arc::clone(self), Arc::clone(&connection));
        let answers = std::thread::spawn(move || back.answers(&from, &to, epoch, &shared));
        self.calls(client, &server, epoch, &connection);
        // What was passed on is done, even if whoever asked for it is gone.
        while connection.unanswered().is_some()
            && !answers.is_finished()
            && !self.over.load(Ordering::Relaxed)
        {
            std::thread::sleep(TICK);
        }
        end(client, &server);
        answers.join().expect("it doesn't panic");
    }

    fn calls(&self, client: &TcpStream, server: &TcpStream, epoch: usize, connection: &Connection) {
        let mut octets = [0; 64 * 1024];
        while let Some(read) = self.read(client, epoch, &mut octets) {
            // Who calls waits for the answer before the next call: a call begins with a piece of its own.
            match self.judge(&octets[..read]) {
                Fate::Passes => {}
                Fate::Stops(Moment::BeforeCall, _) => return self.wait(),
                Fate::Stops(Moment::BeforeAnswer, place) => {
                    connection.withhold.store(true, Ordering::Relaxed);
                    *connection.unanswered() = Some(place);
                }
                Fate::Changes(place) => *connection.unanswered() = Some(place),
            }
            self.wait_while_parted();
            let mut server = server;
            if server.write_all(&octets[..read]).is_err() {
                return;
            }
        }
    }

    fn answers(&self, server: &TcpStream, client: &TcpStream, epoch: usize, connection: &Connection) {
        let mut octets = [0; 64 * 1024];
        while let Some(read) = self.read(server, epoch, &mut octets) {
            if let (Some(answer), Some(place)) = (status(&octets[..read]), connection.unanswered().take()) {
                self.seen().changes[place].answer = Some(answer);
            }
            if connection.withhold.load(Ordering::Relaxed) {
                {
                    let mut seen = self.seen();
                    let number = seen.stop.map_or(0, |(number, _)| number);
                    seen.held = seen.changes.get(number.wrapping_sub(1)).map(|change| change.call.clone());
                }
                self.wait();
                break;
            }
            self.wait_while_parted();
            let mut client = client;
            if client.write_all(&octets[..read]).is_err() {
                break;
            }
        }
        end(client, server);
    }

    /// The next octets; none at the end.
    fn read(&self, stream: &TcpStream, epoch: usize, octets: &mut [u8]) -> Option<usize> {
        let mut stream = stream;
        let read = stream.read(octets).ok().filter(|read| *read > 0)?;
        while self.epoch.load(Ordering::Relaxed) != epoch && !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
        }
        Some(read)
    }

    fn judge(&self, octets: &[u8]) -> Fate {
        let line = octets.split(|octet| *octet == b'\r').next().unwrap_or_default();
        let Some(call) = std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix(" HTTP/1.1"))
        else {
            return Fate::Passes;
        };
        let changes = ["POST /", "PUT /", "PATCH /", "DELETE /"].iter().any(|start| call.starts_with(start));
        let path = call.split('?').next().unwrap_or_default();
        if !changes || path.contains("/leases") || path.contains("/events") {
            return Fate::Passes;
        }
        let mut seen = self.seen();
        let place = seen.changes.len();
        seen.changes.push(Change { call: path.to_owned(), at: Instant::now(), answer: None });
        if matches!(&seen.cut, Cut::Awaited(part) if path.contains(part)) {
            seen.cut = Cut::Parted(place);
        }
        match seen.stop {
            Some((number, moment)) if seen.changes.len() == number => {
                if moment == Moment::BeforeCall {
                    seen.held = Some(path.to_owned());
                }
                Fate::Stops(moment, place)
            }
            Some((number, _)) if seen.changes.len() > number => Fate::Stops(Moment::BeforeCall, place),
            _ => Fate::Changes(place),
        }
    }

    fn wait(&self) {
        self.wait_while(|seen| seen.stop.is_some());
    }

    fn wait_while_parted(&self) {
        self.wait_while(|seen| matches!(seen.cut, Cut::Parted(_)));
    }

    fn wait_while(&self, holds: impl Fn(&Seen) -> bool) {
        let mut seen = self.seen();
        while holds(&seen) && !self.over.load(Ordering::Relaxed) {
            seen = self.changed.wait_timeout(seen, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Connection {
    fn unanswered(&self) -> MutexGuard<'_, Option<usize>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The status with which an answer begins, if this is the beginning of one.
fn status(octets: &[u8]) -> Option<u16> {
    let line = octets.strip_prefix(b"HTTP/1.1 ")?;
    std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()
}

fn end(one: &TcpStream, other: &TcpStream) {
    // One that has ended already is as good.
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}
