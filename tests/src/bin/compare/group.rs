//! A peer with all its processes, told apart by a PID namespace of their own, and their end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::deadline::{SOON, until};
use tests::process::Process;

use crate::usage::Part;

/// The processes of a peer.
pub(crate) struct Group {
    /// `unshare`, which ends when the first process of the namespace does, and takes all with it.
    starter: Process,
    namespace: PathBuf,
    first: u32,
}

impl Group {
    /// Starts a shell script as the first process of a new namespace.
    pub(crate) fn start(name: &str, script: &str, log: &Path) -> Self {
        let mut command = Command::new("unshare");
        command.args([
            "--pid",
            "--mount",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
            "bash",
            "-ec",
            script,
        ]);
        let starter = Process::start(name, command, log);
        let children = PathBuf::from(format!("/proc/{0}/task/{0}/children", starter.id()));
        let first: u32 = until("the first process of the peer", SOON, || {
            std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()
        });
        let namespace = std::fs::read_link(format!("/proc/{first}/ns/pid")).unwrap();
        Self { starter, namespace, first }
    }

    pub(crate) fn starter(&mut self) -> &mut Process {
        &mut self.starter
    }

    /// Its processes, each under the name of its program.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = ids.filter(|id: &u32| {
            std::fs::read_link(format!("/proc/{id}/ns/pid")).is_ok_and(|link| link == self.namespace)
        });
        ours.filter_map(Part::of_program).collect()
    }

    /// Ends it: asked first, then made to.
    pub(crate) fn stop(mut self) {
        let id = i32::try_from(self.first).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
            let end = std::time::Instant::now() + Duration::from_secs(20);
            while self.starter.ended().is_none() {
                if std::time::Instant::now() > end {
                    let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
                    self.starter.wait(SOON);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
