//! What the operator can be told.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use runtime::networks::{Network, Reach};

use crate::dns::name::Name;
use crate::dns::spf::Sender;

/// The flags of the operator.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Operator")]
pub struct Config {
    /// Namespace whose objects are looked after; by default those of all namespaces.
    #[arg(long, value_name = "NAMESPACE")]
    pub operator_namespace: Option<String>,
    /// Namespace of the Lease by which one of several operators is chosen; by default the one that this process runs in.
    #[arg(long, value_name = "NAMESPACE")]
    pub operator_lease_namespace: Option<String>,
    /// Name by which this process is known in the Lease, no other's; by default the host's with random letters.
    #[arg(long, value_name = "NAME")]
    pub operator_identity: Option<String>,
    /// Seconds after which another operator may take the Lease over from one that doesn't renew it.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(3..=600))]
    pub operator_lease_secs: u16,
    /// Host that applications submit mail to, as Secrets of credentials name it.
    #[arg(long, value_name = "NAME", default_value = "stagepost")]
    pub operator_smtp_host: String,
    /// Port that applications submit mail to; 465 means TLS from the first octet.
    #[arg(long, value_name = "PORT", default_value_t = 587)]
    pub operator_smtp_port: u16,
    /// Hosts that mail is sent from, each as the address that it connects from and the name that it says in EHLO:
    /// `192.0.2.1=out.example.net`. SPF must permit them.
    #[arg(long, value_name = "ADDRESS=NAME", value_delimiter = ',')]
    pub operator_senders: Vec<Sends>,
    /// Term of SPF that lets all of them send, such as `include:_spf.example.net`; for one host it can be left out.
    #[arg(long, value_name = "TERM")]
    pub operator_spf: Option<String>,
    /// Hosts that take reports on undelivered mail, to which MX records of return paths must point.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub operator_report_hosts: Vec<Name>,
    /// Resolvers that DNS is looked up through; by default the system's.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub operator_resolvers: Vec<SocketAddr>,
    /// Port at which zones' own servers are asked.
    #[arg(long, value_name = "PORT", default_value_t = 53)]
    pub operator_dns_port: u16,
    /// Networks from which MTA-STS policies may be fetched although they are loopback, private or reserved.
    #[arg(long, value_delimiter = ',', value_name = "NETWORK")]
    pub operator_allowed_networks: Vec<Network>,
    /// PEM file with authorities that are trusted beside the web's where policies are fetched.
    #[arg(long, value_name = "FILE")]
    pub operator_ca_file: Option<PathBuf>,
    /// Seconds between looks at the DNS of a domain that is Ready, give or take a tenth.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub operator_check_secs: u64,
    /// Seconds between looks at the DNS of a domain that isn't Ready; longer where it hasn't been for long, and where there are
    /// hundreds of such domains.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub operator_check_quick_secs: u64,
    /// Seconds for which what DNS said last holds when it doesn't answer. A server of a zone that didn't answer for half of it
    /// isn't waited for any more while others of the zone answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub operator_hold_secs: u64,
    /// Seconds for which a record that was there must be missing or another, whenever it is looked for, until that counts.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub operator_doubt_secs: u64,
    /// Seconds for which a DKIM key's record stays after it signed last: the longest that mail may be queued, and a week.
    #[arg(long, value_name = "SECONDS", default_value_t = 1_036_800)]
    pub operator_retire_secs: u64,
    /// Objects of a kind that are worked on at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub operator_concurrency: u16,
}

/// A host that mail is sent from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sends(Sender);

impl FromStr for Sends {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, ehlo) =
            text.split_once('=').ok_or("expected ADDRESS=NAME, as 192.0.2.1=out.example.net")?;
        let address: IpAddr = address.parse().map_err(|_| format!("{address} is no IP address"))?;
        let ehlo: Name = ehlo.parse().map_err(|error| format!("{ehlo:?} is no name: {error}"))?;
        Ok(Self(Sender { address, ehlo }))
    }
}

/// The configuration as the operator wants it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) namespace: Option<String>,
    pub(crate) smtp_host: String,
    pub(crate) smtp_port: u16,
    pub(crate) resolvers: Vec<SocketAddr>,
    pub(crate) dns_port: u16,
    pub(crate) senders: Vec<Sender>,
    pub(crate) spf_term: String,
    pub(crate) report_hosts: Vec<Name>,
    pub(crate) check: Duration,
    pub(crate) check_quick: Duration,
    pub(crate) hold_secs: i64,
    pub(crate) doubt_secs: i64,
    pub(crate) retire_secs: i64,
    pub(crate) concurrency: u16,
}

impl Config {
    pub(crate) fn settings(&self) -> Settings {
        let secs = |secs: u64| i64::try_from(secs).unwrap_or(i64::MAX);
        Settings {
            namespace: self.operator_namespace.clone(),
            smtp_host: self.operator_smtp_host.clone(),
            smtp_port: self.operator_smtp_port,
            resolvers: self.operator_resolvers.clone(),
            dns_port: self.operator_dns_port,
            senders: self.operator_senders.iter().map(|Sends(sender)| sender.clone()).collect(),
            spf_term: self.spf_term().unwrap_or_default(),
            report_hosts: self.operator_report_hosts.clone(),
            check: Duration::from_secs(self.operator_check_secs),
            check_quick: Duration::from_secs(self.operator_check_quick_secs),
            hold_secs: secs(self.operator_hold_secs),
            doubt_secs: secs(self.operator_doubt_secs),
            retire_secs: secs(self.operator_retire_secs),
            concurrency: self.operator_concurrency,
        }
    }

    /// Where policies may be fetched from.
    pub(crate) fn reach(&self) -> Reach {
        Reach { allowed: self.operator_allowed_networks.clone(), ..Reach::default() }
    }

    /// The term of SPF; none when it has to be named.
    pub(crate) fn spf_term(&self) -> Option<String> {
        if self.operator_spf.is_some() {
            return self.operator_spf.clone();
        }
        match self.operator_senders.as_slice() {
            [Sends(Sender { address: IpAddr::V4(address), .. })] => Some(format!("ip4:{address}")),
            [Sends(Sender { address: IpAddr::V6(address), .. })] => Some(format!("ip6:{address}")),
            _ => None,
        }
    }
}
