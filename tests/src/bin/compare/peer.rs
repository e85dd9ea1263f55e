//! The mail systems that are measured. Each takes mail on loopback and signs for example.com with an RSA key of 2048 bits,
//! where it shall sign.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::certs::Authority;
use tests::jaeger::Jaeger;
use tests::nats::Nats;
use tests::smtp::Client;
use tests::stagepost::{HOST, program};

use crate::distributed::Distributed;
use crate::group::Group;
use crate::measure::{FIRST_SINK, Signing};
use crate::postfix::postfix;
use crate::usage::Part;

/// Where peers of one host take mail.
pub(crate) const PORT: u16 = 2525;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The release build as one process.
    Stagepost,
    /// The release build as services of their own, with nats-server and Redis. Clients log in under TLS, since a role takes no
    /// password without it.
    Distributed,
    /// Debian's Postfix with OpenDKIM as milter.
    Postfix,
    /// Nothing between load and sink.
    None,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stagepost => "stagepost",
            Self::Distributed => "distributed",
            Self::Postfix => "postfix",
            Self::None => "none",
        }
    }

    fn is_stagepost(self) -> bool {
        matches!(self, Self::Stagepost | Self::Distributed)
    }
}

/// Whether clients log in under TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    Clear,
    Tls,
}

/// Whom to measure, and how it is set up.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    /// Of many hosts.
    delivery_processes: usize,
    /// Which part of all messages is traced; 0 for none, and then there is no Jaeger.
    trace_ratio: f64,
    /// Of the one process.
    login: Login,
}

impl Peer {
    /// Each kind in each set-up that makes a difference to it.
    pub(crate) fn all(kinds: &[Kind], processes: &[usize], trace_ratios: &[f64], login: Login) -> Vec<Self> {
        let mut peers = Vec::new();
        for kind in kinds {
            let processes = if *kind == Kind::Distributed { processes } else { &[1] };
            let trace_ratios = if kind.is_stagepost() { trace_ratios } else { &[0.0] };
            for delivery_processes in processes.iter().copied() {
                for trace_ratio in trace_ratios.iter().copied() {
                    peers.push(Self { kind: *kind, delivery_processes, trace_ratio, login });
                }
            }
        }
        peers
    }

    /// What it is called in tables.
    pub(crate) fn name(&self) -> String {
        let mut name = self.kind.name().to_owned();
        if self.delivery_processes > 1 {
            name += &format!(" x{}", self.delivery_processes);
        }
        if self.trace_ratio > 0.0 {
            name += &format!(" traced {}%", self.trace_ratio * 100.0);
        }
        name
    }

    /// Starts it with its state in `folder`, and waits until it greets.
    pub(crate) fn start(&self, folder: &Path, signing: Signing) -> Running {
        let jaeger = (self.trace_ratio > 0.0).then(|| Jaeger::start_in(folder));
        let traces =
            jaeger.as_ref().map(|jaeger| Traces { endpoint: jaeger.endpoint(), ratio: self.trace_ratio });
        let (system, target, login) = match self.kind {
            Kind::None => (System::None, (FIRST_SINK, 25).into(), Vec::new()),
            Kind::Postfix => (System::Group(greeting(postfix(folder, signing))), local(), Vec::new()),
            Kind::Stagepost => {
                let (group, login) = stagepost(folder, signing, self.login, traces);
                (System::Group(group), local(), login)
            }
            Kind::Distributed => {
                let distributed = Distributed::start(folder, self.delivery_processes, signing, traces);
                let (target, login) = (distributed.submission(), distributed.login());
                (System::Distributed(Box::new(distributed)), target, login)
            }
        };
        Running { system, target, login, jaeger }
    }
}

/// Where traces go.
pub(crate) struct Traces {
    pub(crate) endpoint: String,
    pub(crate) ratio: f64,
}

/// A peer that runs.
pub(crate) struct Running {
    system: System,
    /// Where it takes mail.
    pub(crate) target: SocketAddr,
    /// Arguments for the load, so that it is let in.
    pub(crate) login: Vec<String>,
    /// Runs beside it.
    pub(crate) jaeger: Option<Jaeger>,
}

enum System {
    Group(Group),
    Distributed(Box<Distributed>),
    None,
}

impl Running {
    /// Its processes.
    pub(crate) fn parts(&self) -> Vec<Part> {
        match &self.system {
            System::Group(group) => group.parts(),
            System::Distributed(distributed) => distributed.parts(),
            System::None => Vec::new(),
        }
    }

    /// Its NATS, if it has one.
    pub(crate) fn nats(&self) -> Option<&Nats> {
        match &self.system {
            System::Distributed(distributed) => Some(distributed.nats()),
            System::Group(_) | System::None => None,
        }
    }

    /// Ends it.
    pub(crate) fn stop(self) {
        if let System::Group(group) = self.system {
            group.stop();
        }
    }
}

fn local() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT).into()
}

/// Waits until it greets.
fn greeting(mut group: Group) -> Group {
    group.starter().wait_ready(|| {
        let greeting = Client::try_connect(local()).and_then(|mut client| client.try_reply());
        greeting.is_ok_and(|reply| reply.code == 220)
    });
    group
}

/// `dev` takes passwords without TLS from loopback, as Postfix takes mail; delivery is the real one. Arguments for the load too.
fn stagepost(folder: &Path, signing: Signing, login: Login, traces: Option<Traces>) -> (Group, Vec<String>) {
    let mut arguments = format!("--delivery-sign {}", signing.setting());
    let mut load = ["--user", "demo", "--password", "demo"].map(str::to_owned).to_vec();
    if login == Login::Tls {
        let authority = Authority::new();
        let (certificate, key) = authority.issue(&[HOST]).write(folder, "tls");
        let trusted = folder.join("authority.pem");
        std::fs::write(&trusted, authority.pem()).unwrap();
        load.extend(["--authority".to_owned(), trusted.display().to_string()]);
        arguments += &format!(" --tls-certificate {} --tls-key {}", certificate.display(), key.display());
    }
    if let Some(Traces { endpoint, ratio }) = traces {
        arguments += &format!(" --otlp-endpoint {endpoint} --trace-ratio {ratio}");
    }
    let script = format!(
        "exec {program} dev --deliver mx --state {state} --ingress-listen 127.0.0.1:{PORT} --delivery-resolvers 127.0.0.1:53 \
         --delivery-allowed-networks 127.0.0.0/8 --delivery-tls opportunistic {arguments}",
        program = program().display(),
        state = folder.join("state").display(),
    );
    let group = greeting(Group::start("stagepost", &script, &folder.join("log")));
    retire_other_keys(|arguments| ask(&folder.join("state"), arguments));
    (group, load)
}

/// Runs a command of the one process.
fn ask(state: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(program());
    command.args(arguments).args(["--output", "json", "--state"]).arg(state);
    let output = command.output().unwrap();
    assert!(output.status.success(), "stagepost {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Leaves the RSA key alone active, as the other peer has no other.
pub(crate) fn retire_other_keys(ask: impl Fn(&[&str]) -> Value) {
    let domain = ask(&["domain", "show", "example.com"]);
    for key in domain["keys"].as_array().unwrap().iter().filter(|key| key["algorithm"] != "rsa-sha256") {
        ask(&["domain", "set-key", "example.com", key["selector"].as_str().unwrap(), "retired"]);
    }
}
