//! Everything about ingress that can be set.

use std::net::SocketAddr;
use std::time::Duration;

use mail::WhileUnready;
use smtp::address::Domain;
use smtp::server::{self, AuthOffer, StartTls};

use crate::admission::Caps;

/// The flags of ingress. Defaults suit a host of its own with a few thousand clients.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Ingress")]
pub struct Config {
    /// Addresses that speak SMTP and offer STARTTLS where there is a certificate.
    #[arg(long, value_delimiter = ',', default_value = "0.0.0.0:2525", value_name = "ADDRESS")]
    pub ingress_listen: Vec<SocketAddr>,
    /// Addresses that speak TLS from the first octet (RFC 8314). They need a certificate.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub ingress_listen_tls: Vec<SocketAddr>,
    /// Most octets of a message, as EHLO announces them.
    #[arg(long, default_value_t = 36_700_160, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1024..=1 << 31))]
    pub ingress_size_bytes_max: u64,
    /// Most octets of a message's header section.
    #[arg(long, default_value_t = 524_288, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1024..=1 << 24))]
    pub ingress_header_bytes_max: u32,
    /// A message with more Received fields than this is taken for a loop and refused (RFC 5321 section 6.3).
    #[arg(long, default_value_t = 100, value_name = "FIELDS")]
    pub ingress_received_max: u32,
    /// Most recipients of a message.
    #[arg(long, default_value_t = 1000, value_name = "RECIPIENTS", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub ingress_recipients_max: u16,
    /// Most connections at a time; never more than three quarters of the file descriptors that the process may have.
    #[arg(long, default_value_t = 10_000, value_name = "CONNECTIONS")]
    pub ingress_connections_max: u32,
    /// Most connections at a time of one client: an IPv4 address or an IPv6 /64 network.
    #[arg(long, default_value_t = 2500, value_name = "CONNECTIONS")]
    pub ingress_connections_per_client_max: u32,
    /// Most connections at a time that are not logged in.
    #[arg(long, default_value_t = 2000, value_name = "CONNECTIONS")]
    pub ingress_unauthenticated_max: u32,
    /// A client has this long to complete each command.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub ingress_command_timeout_secs: u64,
    /// A client has this long in all to log in.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub ingress_login_timeout_secs: u64,
    /// A client has this long for a TLS handshake.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub ingress_tls_timeout_secs: u64,
    /// A client has this long for a whole message from DATA on, and what `--ingress-data-bytes-per-sec-min` adds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub ingress_message_timeout_secs: u64,
    /// For each so many octets received, a message may take one second longer.
    #[arg(long, default_value_t = 500, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub ingress_data_bytes_per_sec_min: u64,
    /// A session ends after so many bad commands.
    #[arg(long, default_value_t = 20, value_name = "ERRORS", value_parser = clap::value_parser!(u32).range(1..))]
    pub ingress_errors_max: u32,
    /// A session ends after so many refused logins.
    #[arg(long, default_value_t = 3, value_name = "FAILURES", value_parser = clap::value_parser!(u32).range(1..))]
    pub ingress_login_failures_max: u32,
    /// A session ends after so many messages, so that connections spread over hosts anew; 0 means never.
    #[arg(long, default_value_t = 0, value_name = "MESSAGES")]
    pub ingress_messages_max: u64,
    /// Accounts has this long to answer; after it a login is answered 454.
    #[arg(long, default_value_t = 4, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    pub ingress_accounts_timeout_secs: u64,
    /// What accounts said about an account is asked again when it is older than this.
    #[arg(long, default_value_t = 15, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub ingress_profile_refresh_secs: u64,
    /// While accounts is away, sessions go on with what it said, until it is older than this.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub ingress_profile_age_secs_max: u64,
    /// Most octets of messages in memory at a time, over all sessions; over it messages wait, then are answered 452.
    #[arg(long, default_value_t = 268_435_456, value_name = "BYTES")]
    pub ingress_memory_bytes_max: u64,
    /// A message waits this long for memory.
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    pub ingress_memory_wait_secs: u64,
    /// When the process is told to end, it goes on to take connections and mail for this long, so that whoever spreads connections
    /// over processes can learn from `/readyz` that it stops.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub ingress_linger_secs: u64,
    /// When the process ends, messages that are being received have this long to be finished.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub ingress_drain_secs: u64,
    /// Whether recipients at address literals, such as `user@[192.0.2.1]`, are taken.
    #[arg(long, value_enum, default_value_t = Literals::Refuse, value_name = "POLICY")]
    pub ingress_literals: Literals,
    /// What becomes of mail from a domain that isn't ready to send, as the operator says of one whose records in DNS aren't as they
    /// should be. Delivery reads it too, for what is queued.
    #[arg(long, value_enum, default_value_t = UnreadyPolicy::Refuse, value_name = "POLICY")]
    pub ingress_unready: UnreadyPolicy,
    /// With `--ingress-unready allow`, a domain may go on for so long after it stopped being ready, or was made.
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    pub ingress_unready_grace_secs: u64,
}

impl Config {
    /// What becomes of mail from domains that aren't ready.
    pub fn while_unready(&self) -> WhileUnready {
        match self.ingress_unready {
            UnreadyPolicy::Refuse => WhileUnready::Refuse,
            UnreadyPolicy::Sandbox => WhileUnready::Sandbox,
            UnreadyPolicy::Allow => WhileUnready::Allow { grace_secs: self.ingress_unready_grace_secs },
        }
    }
}

/// What becomes of mail from a domain that isn't ready to send.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnreadyPolicy {
    /// 451 4.7.1 with what is missing; what is queued waits.
    Refuse,
    /// It is taken and leaves for nobody: it ends in the Maildir of `--delivery-sandbox`, or nowhere if there is none.
    Sandbox,
    /// It is sent if a key signs, and waits for one else, for `--ingress-unready-grace-secs`; then as `refuse`.
    Allow,
}

/// What becomes of recipients at address literals.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Literals {
    /// They are taken; delivery still refuses loopback, private and link-local addresses.
    Allow,
    /// 550 5.1.2.
    Refuse,
}

/// Who may log in without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthPolicy {
    /// Nobody.
    TlsOnly,
    /// Clients on the loopback interface, for trying things out.
    LoopbackToo,
}

/// The times of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) command: Duration,
    pub(crate) login: Duration,
    pub(crate) tls: Duration,
    pub(crate) message: Duration,
    pub(crate) octets_per_sec_min: u64,
    /// Between the signal to end and the end of accepting.
    pub(crate) linger: Duration,
    pub(crate) drain: Duration,
}

/// The times of the conversation with accounts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DirectoryTimes {
    pub(crate) answer: Duration,
    pub(crate) refresh: Duration,
    pub(crate) age_max: Duration,
}

/// How much memory messages may take, and how long they wait for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) octets_max: u64,
    pub(crate) wait: Duration,
}

/// The configuration as the parts of ingress want it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) caps: Caps,
    pub(crate) times: Times,
    pub(crate) directory: DirectoryTimes,
    pub(crate) memory: Memory,
    pub(crate) header: mail::header::Limits,
    pub(crate) literals: Literals,
    pub(crate) while_unready: WhileUnready,
    pub(crate) messages_max: u64,
    pub(crate) smtp: server::Settings,
}

impl Settings {
    pub(crate) fn new(config: &Config, host_name: &Domain, starttls: StartTls) -> Self {
        let Config {
            ingress_listen: _,
            ingress_listen_tls: _,
            ingress_size_bytes_max,
            ingress_header_bytes_max,
            ingress_received_max,
            ingress_recipients_max,
            ingress_connections_max,
            ingress_connections_per_client_max,
            ingress_unauthenticated_max,
            ingress_command_timeout_secs,
            ingress_login_timeout_secs,
            ingress_tls_timeout_secs,
            ingress_message_timeout_secs,
            ingress_data_bytes_per_sec_min,
            ingress_errors_max,
            ingress_login_failures_max,
            ingress_messages_max,
            ingress_accounts_timeout_secs,
            ingress_profile_refresh_secs,
            ingress_profile_age_secs_max,
            ingress_memory_bytes_max,
            ingress_memory_wait_secs,
            ingress_linger_secs,
            ingress_drain_secs,
            ingress_literals,
            ingress_unready: _,
            ingress_unready_grace_secs: _,
        } = *config;
        Self {
            caps: Caps {
                total: ingress_connections_max,
                per_client: ingress_connections_per_client_max,
                unauthenticated: ingress_unauthenticated_max,
            },
            times: Times {
                command: Duration::from_secs(ingress_command_timeout_secs),
                login: Duration::from_secs(ingress_login_timeout_secs),
                tls: Duration::from_secs(ingress_tls_timeout_secs),
                message: Duration::from_secs(ingress_message_timeout_secs),
                octets_per_sec_min: ingress_data_bytes_per_sec_min,
                linger: Duration::from_secs(ingress_linger_secs),
                drain: Duration::from_secs(ingress_drain_secs),
            },
            directory: DirectoryTimes {
                answer: Duration::from_secs(ingress_accounts_timeout_secs),
                refresh: Duration::from_secs(ingress_profile_refresh_secs),
                age_max: Duration::from_secs(ingress_profile_age_secs_max),
            },
            memory: Memory {
                octets_max: ingress_memory_bytes_max,
                wait: Duration::from_secs(ingress_memory_wait_secs),
            },
            header: mail::header::Limits {
                header_octets_max: ingress_header_bytes_max as usize,
                received_max: ingress_received_max as usize,
            },
            literals: ingress_literals,
            while_unready: config.while_unready(),
            messages_max: ingress_messages_max,
            smtp: server::Settings {
                host_name: host_name.to_string(),
                size_max: ingress_size_bytes_max,
                recipients_max: usize::from(ingress_recipients_max),
                errors_max: ingress_errors_max,
                starttls,
                auth: AuthOffer::UnderTls,
                auth_failures_max: ingress_login_failures_max,
            },
        }
    }
}
