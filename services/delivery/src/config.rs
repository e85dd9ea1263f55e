//! Everything about delivery that can be set.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use mail::{RetrySchedule, RetryScheduleError};
use runtime::networks::Network;

use crate::route::{Providers, ProvidersError, SiteLimit, SiteRetryWaits, StaticRoute, TlsPolicy, TlsSite};
use crate::sites::{Sites, UnknownSite};

/// The flags of delivery. Defaults suit a host that sends for some organisations.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Delivery")]
pub struct Config {
    /// Whether mail goes to the recipients' servers, or into a folder where developers look at it.
    #[arg(long, value_enum, default_value_t = Mode::Mx, value_name = "MODE")]
    pub delivery_mode: Mode,
    /// The Maildir that signed messages are written to in mode `sandbox`, and with `--ingress-unready sandbox` those of domains that
    /// aren't ready.
    #[arg(long, value_name = "FOLDER")]
    pub delivery_sandbox: Option<PathBuf>,
    /// Most jobs in work at a time.
    #[arg(long, default_value_t = 1000, value_name = "JOBS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub delivery_jobs_max: u32,
    /// Most connections at a time to a site, where `--delivery-site-limits` doesn't say otherwise.
    #[arg(long, default_value_t = 20, value_name = "CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub delivery_connections_max: u32,
    /// A connection is closed after so many messages.
    #[arg(long, default_value_t = 200, value_name = "MESSAGES", value_parser = clap::value_parser!(u32).range(1..))]
    pub delivery_connection_messages_max: u32,
    /// A connection that waits for its next message is closed after so many seconds.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=300))]
    pub delivery_connection_idle_secs: u64,
    /// Limits of sites, as SITE=RATE:BURST:CONNECTIONS or SITE=RATE:BURST:CONNECTIONS:MESSAGES: messages a second (0: no limit),
    /// messages at once after a pause, connections at a time (0: the default), messages after which a connection is closed (0:
    /// the default). SITE is the name of a provider, as `google`; or the names of a domain's MX hosts, sorted and joined by `+`, as
    /// `mx1.example.com+mx2.example.com`; or a static route's HOST:PORT; events show it. Providers, their names and their
    /// defaults are in `services/delivery/src/route/providers.toml`.
    #[arg(long, value_delimiter = ',', value_name = "LIMIT")]
    pub delivery_site_limits: Vec<SiteLimit>,
    /// Next hops that are set instead of found by MX, as DOMAIN=HOST:PORT or DOMAIN=HOST:PORT/TLS-POLICY; DOMAIN may be
    /// `.example.com` for all below it, or `*`. The first that fits counts.
    #[arg(long, value_delimiter = ',', value_name = "ROUTE")]
    pub delivery_routes: Vec<StaticRoute>,
    /// The port of recipients' servers that are found by MX.
    #[arg(long, default_value_t = 25, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub delivery_port: u16,
    /// DNS resolvers to ask, as ADDRESS:PORT; by default those of the system.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub delivery_resolvers: Vec<SocketAddr>,
    /// A resolver has this long to answer each query; it is asked twice.
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    pub delivery_resolver_timeout_secs: u64,
    /// Which kinds of addresses are looked up and connected to.
    #[arg(long, value_enum, default_value_t = AddressFamily::Both, value_name = "FAMILY")]
    pub delivery_address_family: AddressFamily,
    /// Addresses that lead back to this service, as those of a load balancer; the interfaces' own are known.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub delivery_own_addresses: Vec<IpAddr>,
    /// Networks that mail is never sent to, beside loopback, private, link-local and other special ones.
    #[arg(long, value_delimiter = ',', value_name = "NETWORK")]
    pub delivery_refused_networks: Vec<Network>,
    /// Networks that mail may be sent to although they are special or refused. Static routes need no allowance.
    #[arg(long, value_delimiter = ',', value_name = "NETWORK")]
    pub delivery_allowed_networks: Vec<Network>,
    /// The TLS that recipients' servers need; a message may ask for more.
    #[arg(long, value_enum, default_value_t = TlsPolicy::Opportunistic, value_name = "POLICY")]
    pub delivery_tls: TlsPolicy,
    /// The TLS that the servers of some recipient domains need, as DOMAIN=POLICY; DOMAIN as in `--delivery-routes`, or the
    /// name of a provider. The first that fits counts.
    #[arg(long, value_delimiter = ',', value_name = "SITE")]
    pub delivery_tls_sites: Vec<TlsSite>,
    /// A PEM file of authorities whose certificates count as verified, beside the well-known ones.
    #[arg(long, value_name = "FILE")]
    pub delivery_ca_file: Option<PathBuf>,
    /// Which mail is signed.
    #[arg(long, value_enum, default_value_t = Sign::Always, value_name = "WHEN")]
    pub delivery_sign: Sign,
    /// Threads that sign; 0 means one for each core.
    #[arg(long, default_value_t = 0, value_name = "THREADS", value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub delivery_signing_threads: u16,
    /// Accounts has this long to say with which keys to sign.
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    pub delivery_accounts_timeout_secs: u64,
    /// Seconds to wait after the first, the second, ... failed attempt; the last repeats.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "300,600,1200,2400,4800,7200,10800",
        value_name = "SECONDS"
    )]
    pub delivery_retry_waits_secs: Vec<u64>,
    /// Seconds to wait after failed attempts at some sites instead, as SITE=SECONDS:SECONDS; SITE as in
    /// `--delivery-site-limits`.
    #[arg(long, value_delimiter = ',', value_name = "WAITS")]
    pub delivery_site_retry_waits_secs: Vec<SiteRetryWaits>,
    /// A message that couldn't be delivered for so many seconds goes back to its sender.
    #[arg(long, default_value_t = 259_200, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub delivery_lifetime_secs: u64,
    /// A server has this long to take a connection.
    #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub delivery_connect_timeout_secs: u64,
    /// A server has this long for its greeting (RFC 5321 section 4.5.3.2.1).
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub delivery_greeting_timeout_secs: u64,
    /// A server has this long for a TLS handshake.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub delivery_tls_timeout_secs: u64,
    /// A server has this long to answer EHLO, MAIL and RCPT (sections 4.5.3.2.2 and 4.5.3.2.3).
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub delivery_command_timeout_secs: u64,
    /// A server has this long to answer DATA (section 4.5.3.2.4).
    #[arg(long, default_value_t = 120, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub delivery_data_timeout_secs: u64,
    /// A server has this long to take each block of a message (section 4.5.3.2.5).
    #[arg(long, default_value_t = 180, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub delivery_block_timeout_secs: u64,
    /// A server has this long to answer the final dot (section 4.5.3.2.6).
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub delivery_final_timeout_secs: u64,
    /// When the process ends, conversations have this long to come to their end.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub delivery_drain_secs: u64,
}

/// Where mail goes.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To the recipients' servers.
    Mx,
    /// Into a Maildir.
    Sandbox,
}

/// Which addresses are used.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    /// IPv6 first, then IPv4.
    Both,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// When mail is signed.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Always: without a key, mail waits.
    Always,
    /// When the domain has keys.
    WhenKeys,
    /// Never; for sites whose next hop signs.
    Never,
}

/// Settings that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A sandbox without a place.
    #[error("--delivery-mode sandbox needs a folder to write to; give --delivery-sandbox")]
    NoSandbox,
    /// The waits or the lifetime make no sense.
    #[error("--delivery-retry-waits-secs and --delivery-lifetime-secs: {0}")]
    Schedule(#[from] RetryScheduleError),
    /// The waits of a site make no sense.
    #[error("--delivery-site-retry-waits-secs: {site}: {source}")]
    SiteSchedule {
        /// Which.
        site: String,
        /// What is wrong.
        source: RetryScheduleError,
    },
    /// Limits or waits are for a site that can't be.
    #[error(transparent)]
    UnknownSite(#[from] UnknownSite),
    /// The providers that come with the program can't be used.
    #[error(transparent)]
    Providers(#[from] ProvidersError),
}

impl Config {
    /// Whether the settings fit each other.
    ///
    /// # Errors
    /// Says which don't.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.sites()?;
        if self.delivery_mode == Mode::Sandbox && self.delivery_sandbox.is_none() {
            return Err(ConfigError::NoSandbox);
        }
        Ok(())
    }

    /// Seconds that a message is tried.
    pub fn lifetime_secs(&self) -> u64 {
        self.delivery_lifetime_secs
    }

    /// What holds towards sites.
    pub(crate) fn sites(&self) -> Result<Sites, ConfigError> {
        let providers = Providers::shipped()?;
        let lifetime_secs = self.delivery_lifetime_secs;
        let schedule = RetrySchedule::new(self.delivery_retry_waits_secs.clone(), lifetime_secs)?;
        let mut sites = Sites::new(
            providers,
            self.delivery_connections_max,
            self.delivery_connection_messages_max,
            schedule,
        );
        for limit in &self.delivery_site_limits {
            sites.set_limit(limit)?;
        }
        for SiteRetryWaits { site, waits_secs } in &self.delivery_site_retry_waits_secs {
            let schedule = RetrySchedule::new(waits_secs.clone(), lifetime_secs)
                .map_err(|source| ConfigError::SiteSchedule { site: site.clone(), source })?;
            sites.set_schedule(site, schedule)?;
        }
        Ok(sites)
    }
}

/// How long a server may take for each step (RFC 5321 section 4.5.3.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) greeting: Duration,
    pub(crate) tls: Duration,
    pub(crate) command: Duration,
    pub(crate) data: Duration,
    pub(crate) block: Duration,
    pub(crate) reply_to_message: Duration,
}
