//! aiosmtpd, a receiver in Python; the only one of the real servers that shows the octets as they came.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::address::{self, MX_PORT};
use crate::deadline::{SOON, until};
use crate::lab::Lab;
use crate::process::Process;
use crate::smtp::Client;

/// A receiver that runs.
pub struct Aiosmtpd {
    address: SocketAddr,
    _process: Process,
    folder: PathBuf,
}

impl Aiosmtpd {
    /// One that is the MX of `domain`.
    pub fn receiver(lab: &Lab, domain: &str) -> Self {
        let host = format!("mx.{domain}");
        lab.dns.mx(domain, &[(10, &host)]);
        let address = lab.publish(&host);
        let folder = lab.subfolder(&format!("aiosmtpd-{domain}"));
        let mut command = Command::new(address::cache().join("python/bin/python3"));
        command.arg(address::tests_folder().join("clients/python/aiosmtpd_receive.py"));
        command.args([address.to_string(), MX_PORT.to_string()]).arg(&folder);
        let mut process =
            Process::start("aiosmtpd", command, &lab.folder().join(format!("aiosmtpd-{domain}.log")));
        process.wait_ready(|| {
            let greeting =
                Client::try_connect((address, MX_PORT).into()).and_then(|mut client| client.try_reply());
            greeting.is_ok_and(|reply| reply.code == 220)
        });
        Self { address: (address, MX_PORT).into(), _process: process, folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was received, in order, as it came.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        let whole = (1..).take_while(|count| self.folder.join(format!("{count}.json")).exists());
        whole
            .map(|count| std::fs::read(self.folder.join(format!("{count}.eml"))).expect("it was written"))
            .collect()
    }

    /// Waits until there are at least `count` messages.
    pub fn wait_for(&self, count: usize) -> Vec<Vec<u8>> {
        self.wait_for_within(count, SOON)
    }

    /// [`Aiosmtpd::wait_for`] with a deadline of one's own.
    pub fn wait_for_within(&self, count: usize, within: Duration) -> Vec<Vec<u8>> {
        until(&format!("{count} messages at aiosmtpd"), within, || {
            Some(self.messages()).filter(|all| all.len() >= count)
        })
    }
}
