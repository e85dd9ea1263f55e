//! One run: a fresh sink, a fresh peer, a warm-up, the load, and the wait until all is delivered.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::deadline::{SOON, until};
use tests::process::Process;

use crate::group::Group;
use crate::peer::{Kind, PORT};

/// The first of the sinks' addresses.
pub(crate) const FIRST_SINK: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
const SINK_CONTROL: ([u8; 4], u16) = ([127, 0, 0, 1], 9925);
const WARM_UP: u64 = 300;
/// The load's numbers begin above the warm-up's.
const FIRST: u64 = 1000;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Case {
    /// 20,000 messages of 4 KiB, signed.
    #[value(name = "4k")]
    Small,
    /// 5,000 messages of 50 KiB, signed.
    #[value(name = "50k")]
    Large,
    /// 20,000 messages of 4 KiB, not signed.
    #[value(name = "nodkim")]
    Unsigned,
    /// 5,000 messages of 4 KiB, signed, each by a connection of its own.
    #[value(name = "connections")]
    Connections,
}

/// Whether mail is signed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signing {
    Rsa,
    None,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Small => "4k",
            Self::Large => "50k",
            Self::Unsigned => "nodkim",
            Self::Connections => "connections",
        }
    }

    fn messages(self) -> f64 {
        match self {
            Self::Small | Self::Unsigned => 20_000.0,
            Self::Large | Self::Connections => 5_000.0,
        }
    }

    fn octets(self) -> u32 {
        if self == Self::Large { 51_200 } else { 4096 }
    }

    fn signing(self) -> Signing {
        if self == Self::Unsigned { Signing::None } else { Signing::Rsa }
    }
}

/// What holds for all runs.
pub(crate) struct Bench {
    pub(crate) folder: PathBuf,
    pub(crate) sessions: u32,
    pub(crate) scale: f64,
    pub(crate) pipelining: bool,
    pub(crate) domains: u32,
}

/// A program that was built beside this one.
fn beside(name: &str) -> Command {
    Command::new(std::env::current_exe().unwrap().with_file_name(name))
}

fn json_of(mut command: Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

impl Bench {
    /// What the machine can do at most.
    pub(crate) fn machine(&self) -> Value {
        let mut command = beside("machine");
        command.arg("--folder").arg(&self.folder);
        let mut report = json_of(command);
        report["machine"] = json!(true);
        report
    }

    pub(crate) fn run(&self, peer: Kind, case: Case, rep: u32) -> Value {
        let folder = self.folder.join(peer.name());
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let sink = Sink::start(&folder, self.domains);
        let group = peer.start(&folder, case.signing());

        let warm_up = self.load(peer, case, WARM_UP, 0);
        sink.wait_for(&warm_up["accepted"], Duration::from_secs(60));
        sink.ask("reset");
        let messages = (case.messages() * self.scale).round() as u64;
        let measured = self.measure(&sink, group.as_ref(), || self.load(peer, case, messages, FIRST));
        if let Some(group) = group {
            group.stop();
        }
        let Measured { load, sink, cpu, resident_max, complete } = measured;
        let delivered = sink["unique"].as_f64().unwrap();
        let span = sink["last_unix"].as_f64().unwrap() - load["began_unix"].as_f64().unwrap();
        json!({
            "peer": peer.name(),
            "case": case.name(),
            "rep": rep,
            "messages": messages,
            "sessions": self.sessions,
            "pipelining": self.pipelining,
            "accepted": load["accepted"],
            "delivered": delivered,
            "complete": complete,
            "accepted_per_s": rounded(load["accepted_per_s"].as_f64().unwrap(), 1),
            "delivered_per_s": rounded(delivered / span.max(1e-3), 1),
            "cpu_s_per_1000": rounded(cpu * 1000.0 / delivered.max(1.0), 3),
            "resident_max_mb": rounded(resident_max as f64 / 1e6, 1),
            "p50_ms": load["p50_ms"],
            "p95_ms": load["p95_ms"],
            "p99_ms": load["p99_ms"],
            "max_ms": load["max_ms"],
            "lost": load["accepted"].as_f64().unwrap() - delivered,
            "duplicates": sink["duplicates"],
            "unsigned": sink["unsigned"],
            "connections": sink["connections"],
            "connections_at_once": sink["open_max"],
            "errors": load["errors"],
            "first_error": load["first_error"],
        })
    }

    fn load(&self, peer: Kind, case: Case, messages: u64, first: u64) -> Value {
        let target = if peer == Kind::None { (FIRST_SINK, 25) } else { (Ipv4Addr::LOCALHOST, PORT) };
        let mut command = beside("load");
        command.arg("--target").arg(SocketAddr::from(target).to_string());
        for (name, value) in [
            ("--messages", messages),
            ("--first", first),
            ("--sessions", u64::from(self.sessions)),
            ("--octets", u64::from(case.octets())),
            ("--domains", u64::from(self.domains)),
        ] {
            command.arg(name).arg(value.to_string());
        }
        command.args(peer.login());
        if case == Case::Connections {
            command.arg("--connection-per-message");
        }
        if self.pipelining {
            command.arg("--pipelining");
        }
        json_of(command)
    }

    fn measure(&self, sink: &Sink, group: Option<&Group>, load: impl FnOnce() -> Value) -> Measured {
        let (done, resident_max) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            if let Some(group) = group {
                let (done, resident_max) = (&done, &resident_max);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        resident_max.fetch_max(group.resident(), Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(250));
                    }
                });
            }
            let cpu = group.map_or(0.0, Group::cpu);
            let load = load();
            let complete = sink.wait_for(&load["accepted"], Duration::from_secs(150));
            let cpu = group.map_or(0.0, Group::cpu) - cpu;
            done.store(true, Ordering::Relaxed);
            // What comes late now came twice.
            std::thread::sleep(Duration::from_millis(500));
            Measured {
                load,
                sink: sink.ask("stats"),
                cpu,
                resident_max: resident_max.load(Ordering::Relaxed),
                complete,
            }
        })
    }
}

struct Measured {
    load: Value,
    sink: Value,
    cpu: f64,
    resident_max: u64,
    complete: bool,
}

fn rounded(value: f64, places: i32) -> f64 {
    let factor = 10_f64.powi(places);
    (value * factor).round() / factor
}

struct Sink {
    _process: Process,
    control: TcpStream,
}

impl Sink {
    fn start(folder: &Path, addresses: u32) -> Self {
        let mut command = beside("sink");
        command.arg("--address").arg(FIRST_SINK.to_string()).arg("--addresses").arg(addresses.to_string());
        let process = Process::start("sink", command, &folder.join("sink.log"));
        let control = until("the sink", SOON, || TcpStream::connect(SocketAddr::from(SINK_CONTROL)).ok());
        Self { _process: process, control }
    }

    fn ask(&self, question: &str) -> Value {
        writeln!(&mut &self.control, "{question}").unwrap();
        let mut line = String::new();
        // One line comes for each question, so nothing of the next can be read along.
        BufReader::new(&self.control).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Waits until so many different recipients have been served; gives up when none is for half a minute.
    fn wait_for(&self, wanted: &Value, within: Duration) -> bool {
        let wanted = wanted.as_u64().unwrap();
        let end = Instant::now() + within;
        let (mut last, mut since) = (0, Instant::now());
        while Instant::now() < end && since.elapsed() < Duration::from_secs(30) {
            let unique = self.ask("stats")["unique"].as_u64().unwrap();
            if unique >= wanted {
                return true;
            }
            if unique != last {
                (last, since) = (unique, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }
}
