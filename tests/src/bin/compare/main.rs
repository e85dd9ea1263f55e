//! Compare: runs load through one mail system after the other, side by side on the same machine, and prints a table.
//!
//! ```text
//!   load --SMTP--> peer (Stagepost as one process or as on many hosts, or Postfix with OpenDKIM) --MX, DKIM--> sink
//! ```
//!
//! Started by `tests/bench/run`, in a network that has loopback only. Each run has a fresh peer with an empty queue, a
//! warm-up, the load, and waits until all is delivered. Every run's figures are appended to a file, a line of JSON each.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark's program ends with a panic when it can't go on, and prints what it measured"
)]

mod distributed;
mod group;
mod measure;
mod peer;
mod postfix;
mod stream_costs;
mod table;
mod usage;

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use tests::dns::Dns;

use measure::{Bench, Case};
use peer::{Kind, Login, Peer};

#[derive(Parser)]
struct Arguments {
    /// Whom to measure, in this order. `none` is load straight into the sink: what the tools can do at most.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Stagepost, Kind::Postfix])]
    peers: Vec<Kind>,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Case::value_variants().to_vec())]
    cases: Vec<Case>,
    /// Runs of each; the table has their median.
    #[arg(long, default_value_t = 3)]
    reps: u32,
    /// Multiplies the number of messages.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Sessions at a time.
    #[arg(long, default_value_t = 50)]
    sessions: u32,
    /// Clients send MAIL, RCPT and DATA together.
    #[arg(long)]
    pipelining: bool,
    /// How many delivery processes `distributed` has; it is measured with each of these.
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_name = "PROCESSES")]
    delivery_processes: Vec<usize>,
    /// Which part of all messages Stagepost traces, into a Jaeger that runs beside it; it is measured with each of these. 0 is
    /// without Jaeger.
    #[arg(long, value_delimiter = ',', default_values_t = [0.0], value_name = "RATIO")]
    trace_ratios: Vec<f64>,
    /// Clients log in to `stagepost` under TLS, as they must with `distributed`; else in the clear.
    #[arg(long)]
    tls: bool,
    /// Prints where CPU went by threads, too.
    #[arg(long)]
    threads: bool,
    /// Where state is kept while it runs: it should be on the disk that a queue would be on.
    #[arg(long)]
    folder: PathBuf,
    /// The file that figures are appended to; by default `results.jsonl` in the folder.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Doesn't measure the machine itself first.
    #[arg(long)]
    skip_machine: bool,
}

/// Recipient domains, and so sinks.
const DOMAINS: u32 = 10;

fn main() {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.folder).unwrap();
    let out = arguments.out.clone().unwrap_or_else(|| arguments.folder.join("results.jsonl"));
    let mut out = std::fs::File::options().create(true).append(true).open(&out).unwrap();
    let _dns = start_dns();
    let bench = Bench {
        folder: arguments.folder.clone(),
        sessions: arguments.sessions,
        scale: arguments.scale,
        pipelining: arguments.pipelining,
        domains: DOMAINS,
    };
    if !arguments.skip_machine {
        record(&mut out, &bench.machine());
    }
    let login = if arguments.tls { Login::Tls } else { Login::Clear };
    let peers = Peer::all(&arguments.peers, &arguments.delivery_processes, &arguments.trace_ratios, login);
    let mut results = Vec::new();
    for case in &arguments.cases {
        // The peers take turns, so that a machine that slows down slows all of them.
        for rep in 1..=arguments.reps {
            for peer in &peers {
                let result = bench.run(peer, *case, rep);
                record(&mut out, &result);
                results.push(result);
            }
        }
    }
    print!("\n{}", table::medians(&results));
    print!("\nCPU s/1000 by process\n{}", table::parts(&results, "cpu_by_process"));
    print!("\nCPU s/1000 beside\n{}", table::parts(&results, "cpu_beside"));
    if arguments.threads {
        print!("\nCPU s/1000 by thread\n{}", table::parts(&results, "cpu_by_thread"));
    }
    print!("{}", table::nats(&results));
}

fn record(out: &mut std::fs::File, result: &serde_json::Value) {
    println!("{result}");
    writeln!(out, "{result}").unwrap();
}

/// The resolver that /etc/resolv.conf names: an MX and an address for each sink.
fn start_dns() -> Dns {
    let dns = Dns::start_on((Ipv4Addr::LOCALHOST, 53).into());
    for number in 0..DOMAINS {
        let host = format!("mx{number}.test");
        dns.mx(&format!("d{number}.test"), &[(10, &host)]);
        dns.a(&host, Ipv4Addr::from(u32::from(measure::FIRST_SINK) + number));
    }
    dns.a("mta.test", Ipv4Addr::LOCALHOST);
    dns.ttl(3600);
    dns.forget_queries();
    dns
}
