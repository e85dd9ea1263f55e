//! Load: submits numbered messages over many sessions as fast as they are taken, and prints one line of JSON.
//!
//! Message n goes to `r<n>@d<n mod domains>.test`, so that the sink can tell what is missing and what came twice. Each step
//! waits for its reply, as most mail libraries do; `--pipelining` sends MAIL, RCPT and DATA together (RFC 2920).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark's program ends with a panic when it can't go on"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use clap::Parser;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tests::smtp::{Client, stuffed};

#[derive(Parser)]
struct Arguments {
    /// Where to submit.
    #[arg(long)]
    target: SocketAddr,
    /// Sessions at a time.
    #[arg(long, default_value_t = 50)]
    sessions: u32,
    /// Messages in all.
    #[arg(long)]
    messages: u64,
    /// Octets of each message.
    #[arg(long, default_value_t = 4096)]
    octets: usize,
    /// Recipient domains.
    #[arg(long, default_value_t = 10)]
    domains: u64,
    /// The first message's number.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// A connection for each message.
    #[arg(long)]
    connection_per_message: bool,
    /// Sends MAIL, RCPT and DATA together.
    #[arg(long)]
    pipelining: bool,
    /// Logs in with AUTH PLAIN.
    #[arg(long, requires = "password")]
    user: Option<String>,
    /// The password.
    #[arg(long)]
    password: Option<String>,
    /// Uses STARTTLS and trusts the authority in this PEM file.
    #[arg(long)]
    authority: Option<PathBuf>,
}

const FROM: &str = "hello@example.com";

struct Work {
    arguments: Arguments,
    tls: Option<Arc<ClientConfig>>,
    next: AtomicU64,
    accepted: AtomicU64,
    latencies: Mutex<Vec<u32>>,
    errors: Mutex<Vec<String>>,
}

fn main() {
    let arguments = Arguments::parse();
    let tls = arguments.authority.as_ref().map(|path| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(path).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(config.with_root_certificates(roots).with_no_client_auth())
    });
    let sessions = arguments.sessions;
    let (next, accepted) = (AtomicU64::new(arguments.first), AtomicU64::new(0));
    let work = Work { arguments, tls, next, accepted, latencies: Mutex::default(), errors: Mutex::default() };
    let began = SystemTime::now();
    let clock = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..sessions {
            scope.spawn(|| session(&work));
        }
    });
    let seconds = clock.elapsed().as_secs_f64();
    let accepted = work.accepted.load(Ordering::Relaxed);
    let mut latencies = work.latencies.into_inner().unwrap();
    latencies.sort_unstable();
    let share = |part: f64| {
        let place = ((latencies.len() as f64 * part).ceil() as usize).clamp(1, latencies.len().max(1)) - 1;
        latencies.get(place).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
    };
    let errors = work.errors.into_inner().unwrap();
    let report = json!({
        "accepted": accepted,
        "seconds": seconds,
        "accepted_per_s": accepted as f64 / seconds,
        "began_unix": began.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64(),
        "p50_ms": share(0.50),
        "p95_ms": share(0.95),
        "p99_ms": share(0.99),
        "max_ms": share(1.0),
        "errors": errors.len(),
        "first_error": errors.first(),
    });
    println!("{report}");
}

/// Takes messages until there are none left. An error ends a connection, and a few in a row the session.
fn session(work: &Work) {
    let mut latencies = Vec::new();
    let mut failures = 0;
    let mut connection = None;
    while failures < 3 {
        let number = work.next.fetch_add(1, Ordering::Relaxed);
        if number >= work.arguments.first + work.arguments.messages {
            break;
        }
        match send(work, &mut connection, number) {
            Ok(micros) => {
                latencies.push(micros);
                work.accepted.fetch_add(1, Ordering::Relaxed);
                failures = 0;
            }
            Err(error) => {
                work.errors.lock().unwrap().push(error.to_string());
                connection = None;
                failures += 1;
            }
        }
    }
    if let Some(mut client) = connection {
        let _ = client.try_send(b"QUIT\r\n").and_then(|()| client.try_reply());
    }
    work.latencies.lock().unwrap().extend(latencies);
}

fn open(work: &Work) -> std::io::Result<Client> {
    let arguments = &work.arguments;
    let mut client = Client::try_connect(arguments.target)?;
    wanted(client.try_reply()?, 220)?;
    step(&mut client, "EHLO load.test", 250)?;
    if let Some(tls) = &work.tls {
        step(&mut client, "STARTTLS", 220)?;
        client.try_handshake(tls, tests::stagepost::HOST)?;
        step(&mut client, "EHLO load.test", 250)?;
    }
    if let (Some(user), Some(password)) = (&arguments.user, &arguments.password) {
        wanted(client.auth_plain(user, password), 235)?;
    }
    Ok(client)
}

fn wanted(reply: tests::smtp::Reply, code: u16) -> std::io::Result<()> {
    if reply.code == code { Ok(()) } else { Err(std::io::Error::other(format!("{reply:?}"))) }
}

fn step(client: &mut Client, line: &str, code: u16) -> std::io::Result<()> {
    client.try_send(format!("{line}\r\n").as_bytes())?;
    wanted(client.try_reply()?, code)
}

/// Sends one message; the microseconds between the final dot and its reply.
fn send(work: &Work, connection: &mut Option<Client>, number: u64) -> std::io::Result<u32> {
    let mut client = match connection.take() {
        Some(client) => client,
        None => open(work)?,
    };
    let to = format!("r{number}@d{}.test", number % work.arguments.domains);
    let message = tests::message::sized(FROM, &to, &format!("load-{number}"), work.arguments.octets);
    if work.arguments.pipelining {
        client.try_send(format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{to}>\r\nDATA\r\n").as_bytes())?;
        for code in [250, 250, 354] {
            wanted(client.try_reply()?, code)?;
        }
    } else {
        step(&mut client, &format!("MAIL FROM:<{FROM}>"), 250)?;
        step(&mut client, &format!("RCPT TO:<{to}>"), 250)?;
        step(&mut client, "DATA", 354)?;
    }
    client.try_send(&stuffed(&message))?;
    let clock = Instant::now();
    wanted(client.try_reply()?, 250)?;
    let micros = u32::try_from(clock.elapsed().as_micros()).unwrap_or(u32::MAX);
    if work.arguments.connection_per_message {
        client.try_send(b"QUIT\r\n")?;
        wanted(client.try_reply()?, 221)?;
    } else {
        *connection = Some(client);
    }
    Ok(micros)
}
