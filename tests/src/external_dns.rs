//! external-dns (`tests/external-dns`), which publishes what DNSEndpoint objects say in zones of Knot.

use std::process::Command;

use crate::address::DNS_PORT;
use crate::knot::{KEY, KEY_NAME, Knot};
use crate::kubernetes::{Cluster, built};
use crate::lab::Lab;
use crate::process::Process;

/// How its notes on who owns a record are named: apart from what they are about, and within its zone also when that is the
/// zone's own name.
const NOTES: &str = "%{record_type}-owner.";

/// A running one; dropped, it is killed.
pub struct ExternalDns {
    /// Its process.
    pub process: Process,
}

impl ExternalDns {
    /// One that looks after these zones of `knot`, which must be open. The cluster comes to know DNSEndpoint objects.
    pub fn start(lab: &Lab, cluster: &Cluster, knot: &Knot, zones: &[&str]) -> Self {
        cluster.define_endpoints();
        let mut command = Command::new(built("external-dns"));
        command
            .arg(format!("--kubeconfig={}", cluster.kubeconfig().display()))
            .args(["--source=crd", "--provider=rfc2136", "--policy=sync", "--interval=1s"])
            .args(["A", "AAAA", "CNAME", "TXT", "MX"].map(|kind| format!("--managed-record-types={kind}")))
            .args(["--registry=txt", "--txt-owner-id=tests"])
            .arg(format!("--txt-prefix={NOTES}"))
            .arg(format!("--rfc2136-host={}", knot.address()))
            .arg(format!("--rfc2136-port={DNS_PORT}"))
            .args(["--rfc2136-axfr", "--rfc2136-tsig-secret-alg=hmac-sha256"])
            .arg(format!("--rfc2136-tsig-keyname={KEY_NAME}"))
            .arg(format!("--rfc2136-tsig-secret={KEY}"));
        for zone in zones {
            command.args([format!("--rfc2136-zone={zone}"), format!("--domain-filter={zone}")]);
        }
        let log = lab.subfolder("external-dns").join("external-dns.log");
        Self { process: Process::start("external-dns", command, &log) }
    }
}
