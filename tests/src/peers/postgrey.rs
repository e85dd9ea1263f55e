//! Postgrey, a greylisting service for Postfix.

use std::net::SocketAddr;
use std::process::Command;

use crate::address;
use crate::lab::Lab;
use crate::peers::give;
use crate::process::Process;

/// A service that runs.
pub struct Postgrey {
    _process: Process,
    address: SocketAddr,
}

impl Postgrey {
    /// One that puts off every new triple for `delay_secs`.
    pub fn start(lab: &Lab, delay_secs: u32) -> Self {
        let address = SocketAddr::from((address::fresh(), 10023));
        let folder = lab.subfolder("postgrey");
        give(&folder, "postgrey");
        let mut command = Command::new("/usr/sbin/postgrey");
        command.arg(format!("--inet={address}")).arg(format!("--delay={delay_secs}"));
        command
            .arg(format!("--dbdir={}", folder.display()))
            .arg(format!("--pidfile={}/pid", folder.display()));
        command.args(["--user=postgrey", "--group=postgrey", "--lookup-by-host"]);
        let mut process = Process::start("postgrey", command, &lab.folder().join("postgrey.log"));
        process.wait_ready(|| std::net::TcpStream::connect(address).is_ok());
        Self { _process: process, address }
    }

    /// The line for Postfix's main.cf that lets it ask here.
    pub fn main_cf(&self) -> String {
        format!("smtpd_recipient_restrictions = check_policy_service inet:{}", self.address)
    }
}
