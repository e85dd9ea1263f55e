//! Postfix.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::address::MX_PORT;
use crate::deadline::{SOON, until};
use crate::lab::Lab;
use crate::peers::{as_sent, give, maildir};
use crate::process::Process;
use crate::smtp::Client;

/// Settings for a Postfix that receives for a domain.
pub struct PostfixSetup {
    folder: PathBuf,
    domain: String,
    address: Ipv4Addr,
    main: String,
}

/// A Postfix that runs. Every recipient of its domain is delivered into one Maildir.
pub struct Postfix {
    address: SocketAddr,
    process: Process,
    mail: PathBuf,
    folder: PathBuf,
}

impl Postfix {
    /// One that is the MX of `domain`, with TLS where it is offered.
    pub fn receiver(lab: &Lab, domain: &str) -> PostfixSetup {
        let host = format!("mx.{domain}");
        lab.dns.mx(domain, &[(10, &host)]);
        let address = lab.publish(&host);
        let folder = lab.subfolder(&format!("postfix-{domain}"));
        let (certificate, key) = lab.authority.issue(&[&host]).write(&folder, "postfix");
        let main = format!(
            "smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n",
            certificate.display(),
            key.display()
        );
        PostfixSetup { folder, domain: domain.into(), address, main }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was delivered, in order, without the fields that Postfix put on top.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        let delivered = maildir(&self.mail.join("inbox"));
        delivered
            .iter()
            .map(|octets| as_sent(octets, &["return-path", "x-original-to", "delivered-to"]))
            .collect()
    }

    /// Waits until there are at least `count` messages.
    pub fn wait_for(&self, count: usize) -> Vec<Vec<u8>> {
        self.wait_for_within(count, SOON)
    }

    /// [`Postfix::wait_for`] with a deadline of one's own.
    pub fn wait_for_within(&self, count: usize, within: Duration) -> Vec<Vec<u8>> {
        until(&format!("{count} messages at Postfix"), within, || {
            Some(self.messages()).filter(|all| all.len() >= count)
        })
    }

    /// Its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default() + &self.process.log()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- Postfix's log\n{}", self.log());
        }
        // Its parts lead process groups of their own, so the master must end them itself.
        self.process.terminate(SOON);
    }
}

impl PostfixSetup {
    /// Adds lines to main.cf.
    #[must_use]
    pub fn set(mut self, lines: &str) -> Self {
        self.main.push_str(lines);
        self.main.push('\n');
        self
    }

    /// Starts it and waits until it greets.
    pub fn start(self) -> Postfix {
        let Self { folder, domain, address, main } = self;
        for part in ["etc", "queue", "data", "mail"] {
            std::fs::create_dir_all(folder.join(part)).expect("a folder can be made");
        }
        give(&folder.join("data"), "postfix");
        give(&folder.join("mail"), "nobody");
        std::fs::write(folder.join("etc/main.cf"), main_cf(&folder.display().to_string(), &domain) + &main)
            .expect("a file can be written");
        std::fs::write(folder.join("etc/master.cf"), format!("{address}:{MX_PORT}{MASTER}"))
            .expect("a file can be written");
        let mut command = Command::new("/usr/sbin/postfix");
        command.arg("-c").arg(folder.join("etc")).arg("start-fg");
        let mut process = Process::start("postfix", command, &folder.join("output"));
        process.wait_ready(|| {
            let greeting =
                Client::try_connect((address, MX_PORT).into()).and_then(|mut client| client.try_reply());
            greeting.is_ok_and(|reply| reply.code == 220)
        });
        Postfix { address: (address, MX_PORT).into(), process, mail: folder.join("mail"), folder }
    }
}

fn main_cf(folder: &str, domain: &str) -> String {
    let (uid, gid) = super::ids_of("nobody");
    format!(
        "compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file_prefixes = {folder}
maillog_file = {folder}/log
# The address itself is in master.cf: here Postfix takes only those that an interface is configured with.
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.{domain}
mydestination =
alias_maps =
local_recipient_maps =
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_auth_destination, reject
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:inbox/
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_mailbox_limit = 0
message_size_limit = 60000000
smtpd_client_connection_count_limit = 0
"
    )
}

/// Only what receives and delivers to Maildirs; nothing that could send. The listening address stands before it.
const MASTER: &str = " inet n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
proxymap  unix  - - n - - proxymap
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
";
