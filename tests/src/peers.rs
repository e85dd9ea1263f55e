//! Real mail servers as receivers: each in the foreground, on a fresh loopback address, all its state in the lab's folder.
//!
//! ```no_run
//! use tests::{lab::Lab, peers::Postfix};
//! let lab = Lab::new();
//! let postfix = Postfix::receiver(&lab, "d1.test").start();      // publishes MX and A
//! // ... send to user@d1.test ...
//! let octets = &postfix.wait_for(1)[0];                          // CRLF, without what Postfix itself put on top
//! ```

mod aiosmtpd;
mod exim;
mod postfix;
mod postgrey;

use std::path::Path;
use std::process::Command;

pub use aiosmtpd::Aiosmtpd;
pub use exim::Exim;
pub use postfix::{Postfix, PostfixSetup};
pub use postgrey::Postgrey;

use crate::message;

/// A user's and group's number.
fn ids_of(user: &str) -> (u32, u32) {
    let passwd = std::fs::read_to_string("/etc/passwd").expect("the system has users");
    let line = passwd.lines().find(|line| line.split(':').next() == Some(user));
    let line = line.unwrap_or_else(|| panic!("there is no user {user}: run tests/install"));
    let numbers: Vec<u32> =
        line.split(':').skip(2).take(2).filter_map(|number| number.parse().ok()).collect();
    (numbers[0], numbers[1])
}

/// Gives a folder and all in it to a user.
fn give(folder: &Path, user: &str) {
    let (uid, gid) = ids_of(user);
    let status = Command::new("chown").arg("-R").arg(format!("{uid}:{gid}")).arg(folder).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "can't give {} to {user}; are we root?",
        folder.display()
    );
}

/// The messages of a Maildir in the order of their delivery, CRLF restored.
fn maildir(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder.join("new")).into_iter().flatten().flatten();
    let mut files: Vec<_> =
        entries.map(|entry| (entry.metadata().and_then(|m| m.modified()).ok(), entry.path())).collect();
    files.sort();
    files
        .iter()
        .map(|(_, path)| message::with_crlf(&std::fs::read(path).expect("a delivered message can be read")))
        .collect()
}

/// The message without the fields that the receiving server put on top: these names, up to and with its own Received.
fn as_sent(octets: &[u8], on_top: &[&str]) -> Vec<u8> {
    let mut skipped = 0;
    for field in message::fields(octets) {
        let name = message::field_name(&field);
        if name != "received" && !on_top.contains(&name.as_str()) {
            break;
        }
        skipped += field.len() + 2;
        if name == "received" {
            break;
        }
    }
    octets[skipped..].to_vec()
}
