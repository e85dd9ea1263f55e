//! Somebody between an operator and the API, who sees each call, and can stop the world between a call and its answer.
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
use std::time::Duration;

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
    /// Changes so far: method and path of each.
    changes: Vec<String>,
    /// The number of the change to stop at.
    stop: Option<(usize, Moment)>,
    /// What was stopped.
    held: Option<String>,
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    Stops(Moment),
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

    /// All changes that were asked for: method and path of each.
    pub fn changes(&self) -> Vec<String> {
        self.shared.seen().changes.clone()
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
        let withhold = Arc::new(AtomicBool::new(false));
        let (Ok(from), Ok(to)) = (server.try_clone(), client.try_clone()) else { return };
        let (back, withheld) = (Arc::clone(self), Arc::clone(&withhold));
        let answers = std::thread::spawn(move || back.answers(&from, &to, epoch, &withheld));
        self.calls(client, &server, epoch, &withhold);
        end(client, &server);
        answers.join().expect("it doesn't panic");
    }

    fn calls(&self, client: &TcpStream, server: &TcpStream, epoch: usize, withhold: &AtomicBool) {
        let mut octets = [0; 64 * 1024];
        while let Some(read) = self.read(client, epoch, &mut octets) {
            // Who calls waits for the answer before the next call: a call begins with a piece of its own.
            match self.judge(&octets[..read]) {
                Fate::Passes => {}
                Fate::Stops(Moment::BeforeAnswer) => withhold.store(true, Ordering::Relaxed),
                Fate::Stops(Moment::BeforeCall) => return self.wait(),
            }
            let mut server = server;
            if server.write_all(&octets[..read]).is_err() {
                return;
            }
        }
    }

    fn answers(&self, server: &TcpStream, client: &TcpStream, epoch: usize, withhold: &AtomicBool) {
        let mut octets = [0; 64 * 1024];
        while let Some(read) = self.read(server, epoch, &mut octets) {
            if withhold.load(Ordering::Relaxed) {
                {
                    let mut seen = self.seen();
                    let number = seen.stop.map_or(0, |(number, _)| number);
                    seen.held = seen.changes.get(number.wrapping_sub(1)).cloned();
                }
                self.wait();
                break;
            }
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
        seen.changes.push(path.to_owned());
        match seen.stop {
            Some((number, moment)) if seen.changes.len() == number => {
                if moment == Moment::BeforeCall {
                    seen.held = Some(path.to_owned());
                }
                Fate::Stops(moment)
            }
            Some((number, _)) if seen.changes.len() > number => Fate::Stops(Moment::BeforeCall),
            _ => Fate::Passes,
        }
    }

    fn wait(&self) {
        let mut seen = self.seen();
        while seen.stop.is_some() && !self.over.load(Ordering::Relaxed) {
            seen = self.changed.wait_timeout(seen, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn end(one: &TcpStream, other: &TcpStream) {
    // One that has ended already is as good.
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}
