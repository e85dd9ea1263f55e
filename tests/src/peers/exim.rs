//! Exim, Debian's, unpacked by `tests/install`.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::address::{self, MX_PORT};
use crate::deadline::{SOON, until};
use crate::lab::Lab;
use crate::peers::{as_sent, give, ids_of, maildir};
use crate::process::Process;
use crate::smtp::Client;

const OWNER: &str = "Debian-exim";

/// An Exim that runs. Every recipient is delivered into one Maildir.
pub struct Exim {
    address: SocketAddr,
    process: Process,
    folder: PathBuf,
}

impl Exim {
    /// One that is the MX of `domain`, with TLS where it is offered.
    pub fn receiver(lab: &Lab, domain: &str) -> Self {
        let host = format!("mx.{domain}");
        lab.dns.mx(domain, &[(10, &host)]);
        let address = lab.publish(&host);
        let folder = lab.subfolder(&format!("exim-{domain}"));
        for part in ["spool", "log", "mail"] {
            std::fs::create_dir_all(folder.join(part)).expect("a folder can be made");
        }
        // A copy, since its user may not look into the folder that the cache is in.
        let binary = folder.join("exim");
        std::fs::copy(address::cache().join("exim/usr/sbin/exim4"), &binary)
            .expect("Exim is there: run tests/install");
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).expect("the file is ours");
        let (certificate, key) = lab.authority.issue(&[&host]).write(&folder, "exim");
        let folder_text = folder.display().to_string();
        let configuration = format!(
            "exim_path = {binary}
exim_user = {OWNER}
exim_group = {OWNER}
spool_directory = {folder_text}/spool
log_file_path = {folder_text}/log/%slog
pid_file_path = {folder_text}/spool/exim.pid
notifier_socket =
primary_hostname = {host}
local_interfaces = {address}
daemon_smtp_ports = {MX_PORT}
# Nothing needs root: it runs as its own user from the start.
deliver_drop_privilege = true
never_users =
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts = *
tls_certificate = {certificate}
tls_privatekey = {key}
smtputf8_advertise_hosts = *
message_size_limit = 60M
# Every message is delivered at once, however many came before it on the connection.
smtp_accept_queue_per_connection = 0
acl_smtp_rcpt = take
acl_smtp_data = take
begin acl
take:
  accept
begin routers
all:
  driver = accept
  transport = folder
begin transports
folder:
  driver = appendfile
  directory = {folder_text}/mail
  maildir_format
  create_directory
",
            binary = binary.display(),
            certificate = certificate.display(),
            key = key.display(),
        );
        std::fs::write(folder.join("exim.conf"), configuration).expect("a file can be written");
        give(&folder, OWNER);
        let (uid, gid) = ids_of(OWNER);
        let mut command = Command::new(&binary);
        command.arg("-C").arg(folder.join("exim.conf")).args(["-bdf", "-q1m"]).uid(uid).gid(gid);
        let mut process = Process::start("exim", command, &folder.join("output"));
        process.wait_ready(|| {
            let greeting =
                Client::try_connect((address, MX_PORT).into()).and_then(|mut client| client.try_reply());
            greeting.is_ok_and(|reply| reply.code == 220)
        });
        Self { address: (address, MX_PORT).into(), process, folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was delivered, in order, without the fields that Exim put on top.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        let delivered = maildir(&self.folder.join("mail"));
        delivered
            .iter()
            .map(|octets| as_sent(octets, &["return-path", "envelope-to", "delivery-date"]))
            .collect()
    }

    /// Waits until there are at least `count` messages.
    pub fn wait_for(&self, count: usize) -> Vec<Vec<u8>> {
        self.wait_for_within(count, SOON)
    }

    /// [`Exim::wait_for`] with a deadline of one's own.
    pub fn wait_for_within(&self, count: usize, within: Duration) -> Vec<Vec<u8>> {
        until(&format!("{count} messages at Exim"), within, || {
            Some(self.messages()).filter(|all| all.len() >= count)
        })
    }

    /// Its log.
    pub fn log(&self) -> String {
        let logs = ["mainlog", "rejectlog", "paniclog"].map(|name| self.folder.join("log").join(name));
        let logs = logs.iter().map(|path| std::fs::read_to_string(path).unwrap_or_default());
        logs.collect::<String>() + &self.process.log()
    }
}

impl Drop for Exim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- Exim's log\n{}", self.log());
        }
    }
}
