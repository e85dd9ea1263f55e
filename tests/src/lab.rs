//! What a test stands on: a folder, a DNS server, a certificate authority.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::address;
use crate::certs::Authority;
use crate::dns::Dns;
use crate::mx::Mx;
use crate::stagepost::Setup;

/// One per test; all that it holds ends with it.
pub struct Lab {
    folder: TempDir,
    /// Where Stagepost and the other servers ask.
    pub dns: Dns,
    /// Who signs their certificates.
    pub authority: Authority,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// A new lab.
    pub fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// One whose folder is made in this one.
    pub fn below(folder: &Path) -> Self {
        let folder =
            TempDir::with_prefix_in("stagepost-test-", folder).expect("a temporary folder can be made");
        // Servers that give up root must get at their folders below.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))
            .expect("the folder is ours");
        Self { folder, dns: Dns::start(), authority: Authority::new() }
    }

    /// The lab's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A folder in it, made.
    pub fn subfolder(&self, name: &str) -> PathBuf {
        let path = self.folder().join(name);
        std::fs::create_dir_all(&path).expect("a folder can be made");
        path
    }

    /// A scripted receiver for `domain`, whose MX record names it as `mx.<domain>`.
    pub fn mx(&self, domain: &str) -> Mx {
        let host = format!("mx.{domain}");
        self.dns.mx(domain, &[(10, &host)]);
        self.mx_host(&host)
    }

    /// A scripted receiver of that host name, with an A record; no MX record names it.
    pub fn mx_host(&self, host: &str) -> Mx {
        let address = self.publish(host);
        Mx::start(host, address)
    }

    /// A fresh address with an A record for `host`; nobody listens there.
    pub fn publish(&self, host: &str) -> Ipv4Addr {
        let address = address::fresh();
        self.dns.a(host, address);
        address
    }

    /// A Stagepost to be set up and started.
    pub fn stagepost(&self) -> Setup<'_> {
        Setup::new(self)
    }
}
