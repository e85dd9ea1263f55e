//! Processes that tests start, each with a log file, and ended when the test ends.

use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::deadline::{SOON, until};

/// A running process and its log. It leads a process group of its own, which is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with output and errors into `log`, appended to.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("the log file can be opened");
        let errors = file.try_clone().expect("a descriptor can be duplicated");
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("can't start {name} ({command:?}): {error}"));
        Self { name: name.into(), child, log: log.into() }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// All that it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for an end that something else brings about.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let name = self.name.clone();
        until(&format!("the end of {name}"), within, || self.ended())
    }

    /// Waits until `ready` holds.
    ///
    /// # Panics
    /// When the process ends before, or the deadline passes: with its log.
    pub fn wait_ready(&mut self, mut ready: impl FnMut() -> bool) {
        let name = self.name.clone();
        let end = std::time::Instant::now() + SOON;
        while !ready() {
            if let Some(status) = self.ended() {
                panic!("{name} ended before it was ready ({status}):\n{}", self.log());
            }
            assert!(std::time::Instant::now() < end, "{name} isn't ready after {SOON:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let _ = kill_process(self.pid(), Signal::KILL);
        let status = self.wait(SOON);
        assert!(status.signal().is_some() || status.code().is_some());
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal)
            .unwrap_or_else(|error| panic!("can't signal {}: {error}", self.name));
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(within)
    }

    /// Resident memory in octets.
    pub fn resident(&self) -> u64 {
        memory(self.id(), "VmRSS:")
    }

    /// The most memory that was ever resident, in octets.
    pub fn resident_peak(&self) -> u64 {
        memory(self.id(), "VmHWM:")
    }

    /// Sets the peak back to what is resident now.
    pub fn forget_resident_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.id()), "5").expect("the peak can be set back");
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).map_or(0, Iterator::count)
    }
}

fn memory(id: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux tells resident memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB") * 1024
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the last of {}'s log ({})", self.name, self.log.display());
            for line in tail.into_iter().rev() {
                eprintln!("{line}");
            }
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Runs a command to its end with `input`, and gives its output; a failure is no panic.
pub fn run(mut command: Command, input: &[u8]) -> std::process::Output {
    use std::io::Write as _;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("can't start {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A program that doesn't read all of its input is free to.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("a child can be waited for");
    writer.join().expect("the writer doesn't panic");
    output
}
