//! A real server of zones: Debian's Knot, which answers for what it has and for nothing else.
//!
//! ```no_run
//! use tests::knot::Knot;
//! let folder = tempfile::tempdir().expect("a temporary folder can be made");
//! let mut knot = Knot::start(folder.path(), &[("example.test", "www A 192.0.2.1\n")]);
//! knot.serve("example.test", "www A 192.0.2.2\n");     // from the next query on
//! let knot = Knot::start_open(folder.path(), &[], &["example.test"]);     // empty, and others fill it
//! println!("{:?}", knot.records("example.test"));
//! ```

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use rustix::process::Signal;

use crate::address;
use crate::process::{Process, run};

/// For how many seconds resolvers may remember that a name of these zones isn't there.
pub const NEGATIVE_TTL_SECS: u32 = 77;
/// That of zones that others fill: they come to see soon what is new.
const OPEN_NEGATIVE_TTL_SECS: u32 = 5;
/// Who has this key (RFC 8945, HMAC-SHA256) may change and copy open zones.
pub const KEY_NAME: &str = "updates.test";
/// The key, in base64.
pub const KEY: &str = "YSBrZXkgb2YgdGhlIHRlc3RzIGFuZCBub2JvZHkgZWxzZQ==";

/// A server of its own, at port [`address::DNS_PORT`] of a fresh loopback address; it ends when this is dropped.
#[derive(Debug)]
pub struct Knot {
    process: Process,
    folder: PathBuf,
    address: Ipv4Addr,
}

impl Knot {
    /// One that serves these zones from `folder`: the name of each, and its records but SOA and NS in the form of a zone
    /// file. All of them name `ns1` and `ns2` of `servers.test` as their servers.
    pub fn start(folder: &Path, zones: &[(&str, &str)]) -> Self {
        Self::start_open(folder, zones, &[])
    }

    /// One that also has the zones `open`, which are empty at first and take updates (RFC 2136) from who has [`KEY`].
    pub fn start_open(folder: &Path, zones: &[(&str, &str)], open: &[&str]) -> Self {
        let address = address::fresh();
        let mut listed = String::new();
        for (zone, records) in zones {
            write_zone(folder, zone, records, NEGATIVE_TTL_SECS);
            listed
                .push_str(&format!("  - domain: {zone}\n    file: {}\n", zone_file(folder, zone).display()));
        }
        for zone in open {
            write_zone(folder, zone, "", OPEN_NEGATIVE_TTL_SECS);
            listed.push_str(&format!(
                "  - domain: {zone}\n    file: {}\n    acl: updates\n    journal-content: changes\n    zonefile-sync: -1\n",
                zone_file(folder, zone).display()
            ));
        }
        let (here, port) = (folder.display(), address::DNS_PORT);
        let configuration = format!(
            "server:\n    rundir: {here}\n    pidfile: knot.pid\n    listen: {address}@{port}\n    \
             udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1\n\
             log:\n  - target: stderr\n    any: info\n\
             database:\n    storage: {here}\n\
             key:\n  - id: {KEY_NAME}\n    algorithm: hmac-sha256\n    secret: {KEY}\n\
             acl:\n  - id: updates\n    key: {KEY_NAME}\n    action: [update, transfer]\n\
             template:\n  - id: default\n    zonefile-load: whole\n    journal-content: none\n\
             zone:\n{listed}"
        );
        let file = configuration_file(folder);
        std::fs::write(&file, configuration).expect("the configuration can be written");
        let mut command = Command::new("knotd");
        command.arg("--config").arg(&file);
        let process = Process::start("knot", command, &folder.join("knot.log"));
        let mut knot = Self { process, folder: folder.to_owned(), address };
        let names = zones.iter().map(|(zone, _)| zone).chain(open);
        knot.process.wait_ready(|| names.clone().all(|zone| serial(address, zone).is_some()));
        knot
    }

    /// Where it listens, at port [`address::DNS_PORT`].
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Replaces the records of one of its zones.
    pub fn serve(&mut self, zone: &str, records: &str) {
        let before = serial(self.address, zone);
        write_zone(&self.folder, zone, records, NEGATIVE_TTL_SECS);
        self.process.signal(Signal::HUP);
        let address = self.address;
        self.process.wait_ready(|| serial(address, zone).is_some_and(|now| Some(now) != before));
    }

    /// The records of one of its zones but SOA and NS, each as `name ttl type data`, in the order of the names.
    pub fn records(&self, zone: &str) -> Vec<String> {
        let mut command = Command::new("knotc");
        command.arg("--config").arg(configuration_file(&self.folder)).args(["zone-read", zone]);
        let output = run(command, b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let records = printed.lines().filter_map(|line| Some(line.split_once("] ")?.1.to_owned()));
        let served = |record: &String| !matches!(record.split(' ').nth(2), Some("SOA" | "NS"));
        records.filter(served).collect()
    }

    /// It has nothing of one of its zones any more, and answers SERVFAIL for it until it is served anew.
    pub fn expire(&mut self, zone: &str) {
        let mut command = Command::new("knotc");
        command.arg("--config").arg(configuration_file(&self.folder));
        command.args(["--force", "zone-purge", zone, "+expire"]);
        let output = run(command, b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let address = self.address;
        self.process.wait_ready(|| serial(address, zone).is_none());
    }

    /// It answers nobody.
    pub fn stop(&self) {
        self.process.signal(Signal::STOP);
    }

    /// It goes on where it was stopped.
    pub fn go_on(&self) {
        self.process.signal(Signal::CONT);
    }
}

fn configuration_file(folder: &Path) -> PathBuf {
    folder.join("knot.conf")
}

fn zone_file(folder: &Path, zone: &str) -> PathBuf {
    folder.join(format!("{zone}.zone"))
}

/// The serial number counts the writings of the file, so that the server takes each.
fn write_zone(folder: &Path, zone: &str, records: &str, negative_ttl_secs: u32) {
    let file = zone_file(folder, zone);
    let before = std::fs::read_to_string(&file).unwrap_or_default();
    let serial: u32 =
        before.lines().next().and_then(|line| line.strip_prefix("; ")?.parse().ok()).unwrap_or(0);
    let serial = serial + 1;
    let text = format!(
        "; {serial}\n$ORIGIN {zone}.\n$TTL 300\n\
         @ SOA ns1.servers.test. hostmaster.servers.test. {serial} 3600 600 86400 {negative_ttl_secs}\n\
         @ NS ns1.servers.test.\n@ NS ns2.servers.test.\n{records}"
    );
    std::fs::write(file, text).expect("a zone file can be written");
}

/// What the server says is a zone's serial number, if it says something.
fn serial(address: Ipv4Addr, zone: &str) -> Option<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(format!("{zone}.")).ok()?, RecordType::SOA));
    socket.send_to(&message.to_vec().ok()?, SocketAddr::from((address, address::DNS_PORT))).ok()?;
    let mut buffer = [0; 4096];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    let answer = Message::from_vec(&buffer[..length]).ok()?;
    match &answer.answers.first()?.data {
        hickory_proto::rr::RData::SOA(soa) => Some(soa.serial),
        _ => None,
    }
}
