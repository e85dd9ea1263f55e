//! A peer with all its processes, told apart by a PID namespace of their own: what they use, and their end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::deadline::{SOON, until};
use tests::process::Process;

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

    fn processes(&self) -> Vec<u32> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|id| {
            std::fs::read_link(format!("/proc/{id}/ns/pid")).is_ok_and(|link| link == self.namespace)
        })
        .collect()
    }

    /// CPU seconds, user and system, of all processes and of those that ended before and were waited for.
    pub(crate) fn cpu(&self) -> f64 {
        let ticks: u64 = self.processes().into_iter().map(|id| ticks(id).unwrap_or(0)).sum();
        // Linux counts these in hundredths of a second everywhere.
        ticks as f64 / 100.0
    }

    /// Resident octets that aren't shared, summed over all processes.
    pub(crate) fn resident(&self) -> u64 {
        self.processes().into_iter().filter_map(resident).sum()
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

/// utime, stime, cutime and cstime of /proc/PID/stat.
fn ticks(id: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let fields = stat.rsplit_once(") ")?.1;
    let fields: Vec<&str> = fields.split(' ').collect();
    fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

fn resident(id: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{id}/statm")).ok()?;
    let pages: Vec<u64> = statm.split(' ').filter_map(|field| field.parse().ok()).collect();
    Some((pages.get(1)? - pages.get(2)?) * 4096)
}
