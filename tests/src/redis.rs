//! A real Redis or Valkey server, which shared limits are kept in.
//!
//! ```no_run
//! use tests::redis::{Kind, Memory, RedisServer};
//! let folder = tempfile::tempdir().expect("a temporary folder can be made");
//! let mut server = RedisServer::start(folder.path(), Kind::Redis, Memory::Kept);
//! let url = server.url();
//! server.kill();                                    // SIGKILL
//! server.start_again();                             // the same port, and what was kept on disk
//! ```

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::address;
use crate::deadline::SOON;
use crate::process::Process;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's `redis-server`.
    Redis,
    /// `valkey-server`, which `tests/install` puts into the cache.
    Valkey,
}

/// Whether the server remembers over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Each change is on disk before it is answered.
    Kept,
    /// Changes are written when the disk lets it, and synced once a second: a kill may forget the last ones.
    KeptEachSecond,
    /// A restart forgets everything.
    Lost,
}

/// A server of its own; it ends when this is dropped.
#[derive(Debug)]
pub struct RedisServer {
    process: Process,
    folder: PathBuf,
    address: SocketAddr,
    kind: Kind,
    memory: Memory,
    options: Vec<String>,
}

impl RedisServer {
    /// One that keeps what it knows in `folder`, or forgets it.
    pub fn start(folder: &Path, kind: Kind, memory: Memory) -> Self {
        Self::start_at(address::fresh(), folder, kind, memory, &[])
    }

    /// One at an address, with more of the server's own options.
    pub fn start_at(at: Ipv4Addr, folder: &Path, kind: Kind, memory: Memory, options: &[String]) -> Self {
        let address = SocketAddr::from((at, free_port()));
        let options = options.to_vec();
        let process = launch(folder, address, kind, memory, &options);
        Self { process, folder: folder.to_owned(), address, kind, memory, options }
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it where it was, with what it kept.
    pub fn start_again(&mut self) {
        self.process = launch(&self.folder, self.address, self.kind, self.memory, &self.options);
    }

    /// It answers nobody, and its connections stay.
    pub fn stop(&self) {
        self.process.signal(Signal::STOP);
    }

    /// It goes on where it was stopped.
    pub fn go_on(&self) {
        self.process.signal(Signal::CONT);
    }

    /// One command of the server's inline form, and the raw answer to it.
    pub fn command(&self, line: &str) -> String {
        inline(self.address, line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }
}

fn launch(folder: &Path, address: SocketAddr, kind: Kind, memory: Memory, options: &[String]) -> Process {
    let program = match kind {
        Kind::Redis => PathBuf::from("redis-server"),
        Kind::Valkey => address::cache().join("valkey-server"),
    };
    let mut command = Command::new(program);
    command.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.args(["--daemonize", "no", "--save", "", "--protected-mode", "no", "--dir"]).arg(folder);
    match memory {
        Memory::Kept => command.args(["--appendonly", "yes", "--appendfsync", "always"]),
        Memory::KeptEachSecond => command.args(["--appendonly", "yes", "--appendfsync", "everysec"]),
        Memory::Lost => command.args(["--appendonly", "no"]),
    };
    command.args(options);
    let mut process = Process::start("redis", command, &folder.join("redis.log"));
    process.wait_ready(|| inline(address, "PING").is_ok_and(|answer| answer.starts_with("+PONG")));
    process
}

/// Plain TCP, so that it isn't Stagepost's client that judges; a server with a password or TLS only answers something else.
fn inline(address: SocketAddr, line: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(SOON))?;
    connection.write_all(format!("{line}\r\nQUIT\r\n").as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A port on which nobody listens now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("a listener has an address").port()
}
