//! What can be set.

use std::path::PathBuf;
use std::time::Duration;

/// The flags of a queue in JetStream.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "NATS")]
pub struct Config {
    /// NATS servers, separated by commas: `nats://host:4222` or `tls://host:4222`.
    #[arg(long, value_name = "URLS", default_value = "nats://127.0.0.1:4222")]
    pub nats_url: String,
    /// File with credentials (a JWT and its seed) for NATS.
    #[arg(long, value_name = "FILE")]
    pub nats_credentials: Option<PathBuf>,
    /// User name at NATS; with `--nats-password-file`.
    #[arg(long, value_name = "NAME", requires = "nats_password_file")]
    pub nats_user: Option<String>,
    /// File with the password of `--nats-user`; white space around it doesn't count.
    #[arg(long, value_name = "FILE", requires = "nats_user")]
    pub nats_password_file: Option<PathBuf>,
    /// File with the certificates of authorities that NATS's own is signed by.
    #[arg(long, value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// File with a client certificate for NATS; with `--nats-key`.
    #[arg(long, value_name = "FILE", requires = "nats_key")]
    pub nats_certificate: Option<PathBuf>,
    /// File with the key of `--nats-certificate`.
    #[arg(long, value_name = "FILE", requires = "nats_certificate")]
    pub nats_key: Option<PathBuf>,
    /// Monitoring ports of the NATS servers, separated by commas, as `http://host:8222`: they are asked whether the servers
    /// write each message to disk before they answer (`sync_interval: always`).
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub nats_monitor: Vec<String>,
    /// Start although it isn't known that NATS has each message on disk before it answers: a power failure may then lose mail
    /// that was accepted within the last `sync_interval`, two minutes by default.
    #[arg(long)]
    pub nats_unsafe_sync: bool,
    /// Copies that NATS keeps of each record: 3, or 1 on a single server.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub nats_replicas: u8,
    /// Partitions that new mail is spread over; those that exist are served whatever their number. A server without replicas
    /// writes the records of different partitions at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub nats_partitions: u16,
    /// Lanes that accounts are spread over.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub nats_lanes: u16,
    /// Octets that the queue may take in NATS; 0 for as many as NATS has.
    #[arg(long, default_value_t = 0)]
    pub nats_bytes_max: u64,
    /// Hours that events are kept.
    #[arg(long, default_value_t = 168, value_parser = clap::value_parser!(u64).range(1..))]
    pub nats_events_hours_max: u64,
    /// Octets of events that are kept, 0 for as many as come within their hours. NATS sets them aside, and must have them.
    #[arg(long, default_value_t = 1 << 30)]
    pub nats_events_bytes_max: u64,
    /// Seconds after which a job is taken from a worker that gives no sign of life.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(30..))]
    pub nats_lease_secs: u64,
}

/// How to reach NATS.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Servers, separated by commas.
    pub url: String,
    /// File with credentials.
    pub credentials: Option<PathBuf>,
    /// User name, and the file with its password.
    pub user: Option<(String, PathBuf)>,
    /// File with authorities.
    pub ca: Option<PathBuf>,
    /// Files with a client certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// What is known of how NATS writes to disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Ask these monitoring ports.
    Ask(Vec<String>),
    /// Whoever runs it takes what may be lost.
    Unknown,
}

/// The same in the store's terms.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Prefix of all names: two instances on one NATS don't see each other.
    pub instance: String,
    /// Where NATS is.
    pub connection: Connection,
    /// Whether it writes before it answers.
    pub durability: Durability,
    /// Copies of each record.
    pub replicas: u8,
    /// Partitions of new mail, at least 1.
    pub partitions: u16,
    /// Lanes of new mail, at least 1.
    pub lanes: u16,
    /// Octets at most, 0 for what NATS has.
    pub octets_max: u64,
    /// How long events are kept.
    pub events_age: Duration,
    /// How many octets of them, 0 for no limit.
    pub events_octets: u64,
    /// How long a lease lasts without a touch.
    pub lease: Duration,
}

impl Config {
    /// The settings of an instance.
    pub fn settings(&self, instance: &str) -> Settings {
        let Self {
            nats_url,
            nats_credentials,
            nats_user,
            nats_password_file,
            nats_ca,
            nats_certificate,
            nats_key,
            nats_monitor,
            nats_unsafe_sync,
            nats_replicas,
            nats_partitions,
            nats_lanes,
            nats_bytes_max,
            nats_events_hours_max,
            nats_events_bytes_max,
            nats_lease_secs,
        } = self.clone();
        Settings {
            instance: instance.to_owned(),
            connection: Connection {
                url: nats_url,
                credentials: nats_credentials,
                user: nats_user.zip(nats_password_file),
                ca: nats_ca,
                certificate: nats_certificate.zip(nats_key),
            },
            durability: if nats_unsafe_sync { Durability::Unknown } else { Durability::Ask(nats_monitor) },
            replicas: nats_replicas,
            partitions: nats_partitions,
            lanes: nats_lanes,
            octets_max: nats_bytes_max,
            events_age: Duration::from_secs(3_600 * nats_events_hours_max),
            events_octets: nats_events_bytes_max,
            lease: Duration::from_secs(nats_lease_secs),
        }
    }
}
