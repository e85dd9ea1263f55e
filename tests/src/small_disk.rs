//! A disk that is soon full: a file system in memory, in the mount namespace of the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; it goes when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// One of so many octets at this folder, which is made.
    ///
    /// # Panics
    /// Where it may not be mounted: `tests/run` runs tests where it may.
    pub fn mount(at: &Path, octets: u64) -> Self {
        std::fs::create_dir_all(at).expect("a folder can be made");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={octets}"), "tmpfs"]).arg(at);
        let mounted = command.status().expect("`mount` can be run");
        assert!(mounted.success(), "a file system in memory can't be mounted; see tests/run");
        Self { at: at.to_owned() }
    }

    /// Octets that are taken.
    pub fn taken(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.at).expect("it is mounted");
        (found.f_blocks - found.f_bfree) * found.f_frsize
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has files there keeps them until it ends.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}
