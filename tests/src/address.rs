//! Loopback addresses and folders of the cache.
//!
//! Linux answers for all of 127.0.0.0/8, so every server of a test gets an address of its own and listens on a fixed port.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where receivers listen, and so the `delivery.port` of every Stagepost under test.
pub const MX_PORT: u16 = 2500;
/// Where DNS servers listen.
pub const DNS_PORT: u16 = 5300;
/// Where Stagepost takes mail with STARTTLS.
pub const SUBMISSION_PORT: u16 = 2525;
/// Where Stagepost takes mail with TLS from the first octet.
pub const SUBMISSIONS_PORT: u16 = 2465;

static NEXT: AtomicU32 = AtomicU32::new(1);

/// An address that nobody else uses: the process's number picks a /17, a counter the address in it. Another process may have
/// the same /17, so that addresses on which somebody listens are left out.
pub fn fresh() -> Ipv4Addr {
    let block = std::process::id() % 250;
    loop {
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(count < 1 << 15, "a test process used up its loopback addresses");
        let address = Ipv4Addr::from((127 << 24) | ((64 + block / 2) << 16) | ((block % 2) << 15) | count);
        if is_unused(address) {
            return address;
        }
    }
}

fn is_unused(address: Ipv4Addr) -> bool {
    let ports = [MX_PORT, DNS_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT, crate::nats::CLIENT_PORT];
    ports.into_iter().all(|port| TcpListener::bind((address, port)).is_ok())
}

/// Where `tests/install` puts what isn't a Debian package.
pub fn cache() -> PathBuf {
    match std::env::var_os("STAGEPOST_CACHE") {
        Some(path) => path.into(),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/stagepost"),
    }
}

/// The folder of crate `tests`.
pub fn tests_folder() -> PathBuf {
    // Cargo says where the sources are now; they may have been elsewhere when this was compiled.
    std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
}
