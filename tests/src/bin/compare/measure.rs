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

use crate::peer::{Peer, Running};
use crate::stream_costs::{Counted, Syncs};
use crate::usage::{self, Part, Seconds};

/// The first of the sinks' addresses.
pub(crate) const FIRST_SINK: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
const SINK_CONTROL: ([u8; 4], u16) = ([127, 0, 0, 1], 9925);
const WARM_UP: u64 = 300;
const WARM_UP_PATIENCE: Duration = Duration::from_secs(90);
/// How long deliveries take to be recorded after the sink has them, and repeated ones to come.
const SETTLING: Duration = Duration::from_millis(500);
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

impl Signing {
    /// As Stagepost's settings have it.
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Self::Rsa => "always",
            Self::None => "never",
        }
    }
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

    pub(crate) fn run(&self, peer: &Peer, case: Case, rep: u32) -> Value {
        let folder = self.folder.join(peer.kind.name());
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let sink = Sink::start(&folder, self.domains);
        let running = peer.start(&folder, case.signing());

        let warm_up = self.load(&running, case, WARM_UP, 0);
        // A Redis that was just started lets no connection be opened for half a minute.
        let warm = sink.wait_for(&warm_up["accepted"], WARM_UP_PATIENCE, WARM_UP_PATIENCE);
        assert!(warm, "{} of the warm-up's {WARM_UP} messages came: {warm_up}", sink.ask("stats")["unique"]);
        // What is written after a delivery isn't of the load.
        std::thread::sleep(SETTLING);
        sink.ask("reset");
        let messages = (case.messages() * self.scale).round() as u64;
        let measured = self.measure(&folder, &sink, &running, || self.load(&running, case, messages, FIRST));
        let traces = running.jaeger.as_ref().map(|jaeger| jaeger.traces().len());
        running.stop();
        let Measured { load, sink, used, resident_max, nats, complete } = measured;
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
            "cpu_s_per_1000": rounded(used.total * 1000.0 / delivered.max(1.0), 3),
            "cpu_by_process": used.by_process,
            "cpu_by_thread": used.by_thread,
            "cpu_beside": used.beside,
            "nats": nats,
            "traces": traces,
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

    fn load(&self, peer: &Running, case: Case, messages: u64, first: u64) -> Value {
        let mut command = beside("load");
        command.arg("--target").arg(peer.target.to_string());
        for (name, value) in [
            ("--messages", messages),
            ("--first", first),
            ("--sessions", u64::from(self.sessions)),
            ("--octets", u64::from(case.octets())),
            ("--domains", u64::from(self.domains)),
        ] {
            command.arg(name).arg(value.to_string());
        }
        command.args(&peer.login);
        if case == Case::Connections {
            command.arg("--connection-per-message");
        }
        if self.pipelining {
            command.arg("--pipelining");
        }
        json_of(command)
    }

    fn measure(&self, folder: &Path, sink: &Sink, peer: &Running, load: impl FnOnce() -> Value) -> Measured {
        let (done, resident_max) = (AtomicBool::new(false), AtomicU64::new(0));
        let nats = peer.nats();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    resident_max.fetch_max(usage::resident(&peer.parts()), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(250));
                }
            });
            let syncs = nats.and_then(|nats| Syncs::count(nats.process(0).id(), folder.join("syncs")));
            let counted = nats.map(Counted::now);
            let before = Used::now(sink, peer);
            let load = load();
            let complete =
                sink.wait_for(&load["accepted"], Duration::from_secs(150), Duration::from_secs(30));
            let after = Used::now(sink, peer);
            done.store(true, Ordering::Relaxed);
            // What comes late now came twice; and the last of the queue and of the events is written.
            std::thread::sleep(SETTLING);
            let stats = sink.ask("stats");
            let count = stats["unique"].as_f64().unwrap();
            let syncs = syncs.and_then(Syncs::end);
            let nats =
                nats.zip(counted).map(|(nats, before)| Counted::now(nats).for_each(&before, syncs, count));
            Measured {
                load,
                sink: stats,
                used: after.since(&before, count),
                resident_max: resident_max.load(Ordering::Relaxed),
                nats,
                complete,
            }
        })
    }
}

struct Measured {
    load: Value,
    sink: Value,
    used: Used,
    resident_max: u64,
    /// What NATS did for each message, where there is one.
    nats: Option<Value>,
    complete: bool,
}

/// CPU seconds of a peer and of what runs beside it.
struct Used {
    total: f64,
    by_process: Seconds,
    by_thread: Seconds,
    beside: Seconds,
}

impl Used {
    fn now(sink: &Sink, peer: &Running) -> Self {
        let parts = peer.parts();
        let by_process = usage::by_process(&parts);
        let part = |name: &str, process: &Process| Part { name: name.to_owned(), id: process.id() };
        let mut others = vec![part("sink", &sink.process)];
        others.extend(peer.jaeger.as_ref().map(|jaeger| part("jaeger", jaeger.process())));
        let mut beside = usage::by_process(&others);
        beside.insert("load".to_owned(), usage::of_children());
        Self { total: by_process.values().sum(), by_process, by_thread: usage::by_thread(&parts), beside }
    }

    /// What was used since: in all, and of each part for 1,000 of `count`.
    fn since(&self, before: &Self, count: f64) -> Self {
        let rates = |after: &Seconds, before: &Seconds| usage::for_each_1000(before, after, count);
        Self {
            total: self.total - before.total,
            by_process: rates(&self.by_process, &before.by_process),
            by_thread: rates(&self.by_thread, &before.by_thread),
            beside: rates(&self.beside, &before.beside),
        }
    }
}

pub(crate) fn rounded(value: f64, places: i32) -> f64 {
    let factor = 10_f64.powi(places);
    (value * factor).round() / factor
}

struct Sink {
    process: Process,
    control: TcpStream,
}

impl Sink {
    fn start(folder: &Path, addresses: u32) -> Self {
        let mut command = beside("sink");
        command.arg("--address").arg(FIRST_SINK.to_string()).arg("--addresses").arg(addresses.to_string());
        let process = Process::start("sink", command, &folder.join("sink.log"));
        let control = until("the sink", SOON, || TcpStream::connect(SocketAddr::from(SINK_CONTROL)).ok());
        Self { process, control }
    }

    fn ask(&self, question: &str) -> Value {
        writeln!(&mut &self.control, "{question}").unwrap();
        let mut line = String::new();
        // One line comes for each question, so nothing of the next can be read along.
        BufReader::new(&self.control).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Waits until so many different recipients have been served; gives up when none is for as long as a pause may be.
    fn wait_for(&self, wanted: &Value, within: Duration, pause: Duration) -> bool {
        let wanted = wanted.as_u64().unwrap();
        let end = Instant::now() + within;
        let (mut last, mut since) = (0, Instant::now());
        while Instant::now() < end && since.elapsed() < pause {
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
