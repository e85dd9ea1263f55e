//! nats-server: one, or three as a cluster, each with its own address, monitoring port and folder.
//!
//! They are set up as Stagepost wants them: JetStream on disk, `sync_interval: always`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::address;
use crate::deadline::until_true;
use crate::fault::SmallDisk;
use crate::http;
use crate::process::Process;

/// Where clients connect.
pub const CLIENT_PORT: u16 = 4222;
/// Where the monitoring answers.
pub const MONITOR_PORT: u16 = 8222;
const CLUSTER_PORT: u16 = 6222;
/// How long servers may take until each has all that it needs.
const READY: Duration = Duration::from_secs(60);

/// Running servers; dropped, they are killed.
pub struct Nats {
    nodes: Vec<Node>,
}

struct Node {
    name: String,
    address: Ipv4Addr,
    folder: PathBuf,
    process: Option<Process>,
}

impl Nats {
    /// One server with its state below `folder`.
    pub fn single(folder: &Path) -> Self {
        Self::start(folder, 1, "sync_interval: always")
    }

    /// Three servers that replicate.
    pub fn cluster(folder: &Path) -> Self {
        Self::start(folder, 3, "sync_interval: always")
    }

    /// One server whose store, and nothing else, is on a disk of so many octets; it takes as much of it as NATS does by itself.
    pub fn on_small_disk(folder: &Path, octets: u64) -> (Self, SmallDisk) {
        let disk = SmallDisk::mount(&folder.join("nats-1/store"), octets);
        let most = octets / 4 * 3;
        let nats = Self::start(folder, 1, &format!("sync_interval: always\n  max_file_store: {most}"));
        (nats, disk)
    }

    /// Servers with these lines in their `jetstream` block.
    pub fn start(folder: &Path, count: usize, jetstream: &str) -> Self {
        let mut nodes: Vec<Node> = (1..=count)
            .map(|number| {
                let name = format!("nats-{number}");
                Node { address: address::fresh(), folder: folder.join(&name), name, process: None }
            })
            .collect();
        let routes: Vec<String> =
            nodes.iter().map(|node| format!("nats://{}:{CLUSTER_PORT}", node.address)).collect();
        for node in &nodes {
            std::fs::create_dir_all(&node.folder).expect("a folder can be made");
            std::fs::write(node.configuration(), node.settings(&routes, jetstream))
                .expect("a file can be written");
        }
        nodes.iter_mut().for_each(Node::run);
        let nats = Self { nodes };
        nats.wait_ready();
        nats
    }

    /// What clients connect to: all servers, separated by commas.
    pub fn url(&self) -> String {
        let urls: Vec<String> =
            self.nodes.iter().map(|node| format!("nats://{}:{CLIENT_PORT}", node.address)).collect();
        urls.join(",")
    }

    /// The address of a server, counted from 0.
    pub fn address(&self, place: usize) -> Ipv4Addr {
        self.nodes[place].address
    }

    /// How many servers there are.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The process of a server that runs.
    pub fn process(&self, place: usize) -> &Process {
        self.nodes[place].process.as_ref().expect("the server runs")
    }

    /// The lines that the servers have logged, over all their lives.
    ///
    /// # Panics
    /// When a log can't be read.
    pub fn logs(&self) -> impl Iterator<Item = String> {
        let log = |node: &Node| std::fs::read_to_string(node.folder.join("log")).expect("a log can be read");
        let lines: Vec<String> = self
            .nodes
            .iter()
            .flat_map(|node| log(node).lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        lines.into_iter()
    }

    /// kill -9 of one server.
    pub fn kill(&mut self, place: usize) {
        if let Some(mut process) = self.nodes[place].process.take() {
            process.kill();
        }
    }

    /// kill -9 of all at once.
    pub fn kill_all(&mut self) {
        for node in &self.nodes {
            if let Some(process) = &node.process {
                process.signal(Signal::KILL);
            }
        }
        for place in 0..self.nodes.len() {
            self.kill(place);
        }
    }

    /// Starts again what doesn't run, on the state it had; doesn't wait for it.
    pub fn restart(&mut self) {
        for node in &mut self.nodes {
            if node.process.is_none() {
                node.run();
            }
        }
    }

    /// Waits until every server says that it, and all its streams, are there.
    pub fn wait_ready(&self) {
        for node in self.nodes.iter().filter(|node| node.process.is_some()) {
            until_true(&format!("{} is healthy", node.name), READY, || node.is_healthy());
        }
    }

    /// What the monitoring port of a server answers to a path, if it does.
    pub fn monitor(&self, place: usize, path: &str) -> Option<String> {
        monitored(self.nodes[place].address, path)
    }
}

impl Node {
    fn configuration(&self) -> PathBuf {
        self.folder.join("nats.conf")
    }

    fn settings(&self, routes: &[String], jetstream: &str) -> String {
        let (name, address) = (&self.name, self.address);
        let store = self.folder.join("store");
        let bound = if jetstream.contains("max_file_store") { "" } else { "max_file_store: 20GB" };
        let cluster = match routes {
            [_] => String::new(),
            _ => format!(
                "cluster {{ name: test, listen: \"{address}:{CLUSTER_PORT}\", routes: [{}] }}\n",
                routes.iter().map(|route| format!("\"{route}\"")).collect::<Vec<_>>().join(", ")
            ),
        };
        format!(
            "server_name: {name}\nlisten: \"{address}:{CLIENT_PORT}\"\nhttp: \"{address}:{MONITOR_PORT}\"\n\
             jetstream {{\n  store_dir: \"{}\"\n  {bound}\n  {jetstream}\n}}\n{cluster}",
            store.display()
        )
    }

    fn run(&mut self) {
        let mut command = Command::new(address::cache().join("bin/nats-server"));
        command.arg("--config").arg(self.configuration());
        self.process = Some(Process::start(&self.name, command, &self.folder.join("log")));
    }

    fn is_healthy(&self) -> bool {
        monitored(self.address, "/healthz").is_some_and(|answer| answer.contains("\"ok\""))
    }
}

/// The body of what the monitoring answers with 200.
fn monitored(address: Ipv4Addr, path: &str) -> Option<String> {
    let answer = http::try_ask("GET", SocketAddr::from((address, MONITOR_PORT)), path).ok()?;
    (answer.status == 200).then_some(answer.body)
}
