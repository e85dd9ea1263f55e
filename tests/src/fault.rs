//! Trouble with the disk: one that fills up, one whose syncs fail or are slow, and one that loses what wasn't synced.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::process::Process;

/// A file system of a few megabytes, mounted for the time of a test. Needs root.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `path`, which is made.
    pub fn mount(path: &Path, octets: u64) -> Self {
        std::fs::create_dir_all(path).expect("a folder can be made");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={octets},mode=0755"), "tmpfs"]).arg(path);
        let output = command.output().expect("mount can be started");
        assert!(
            output.status.success(),
            "can't mount a small disk: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Octets of it that are taken.
    pub fn taken(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.path).expect("it is mounted");
        (found.f_blocks - found.f_bfree) * found.f_frsize
    }

    /// Fills what is free with a file.
    pub fn fill(&self) -> Ballast {
        use std::io::Write as _;
        let path = self.path.join("ballast");
        let mut file = std::fs::File::create(&path).expect("a file can be made");
        let mut piece = 1 << 16;
        while piece > 0 {
            if file.write(&vec![0; piece]).is_err() {
                piece /= 2;
            }
        }
        Ballast { path }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since what still runs may have files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// What takes the room away; dropped it is free again.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A file system in a file, whose power can be cut: what wasn't synced is gone then. Needs root.
///
/// What is written to the file system stays in the system's memory until somebody syncs it, and only then is in the file: for
/// minutes, as it is mounted. So a copy of the file is what a disk would hold after the power came back.
#[derive(Debug)]
pub struct LossyDisk {
    path: PathBuf,
    image: PathBuf,
    cuts: usize,
}

impl LossyDisk {
    /// Mounts an empty one of so many octets at `path`, which is made; it is kept in files beside.
    pub fn mount(path: &Path, octets: u64) -> Self {
        std::fs::create_dir_all(path).expect("a folder can be made");
        let disk = Self { path: path.into(), image: path.with_extension("image-0"), cuts: 0 };
        let file = std::fs::File::create(&disk.image).expect("a file can be made");
        file.set_len(octets).expect("a file can be enlarged");
        succeed(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image));
        disk.attach();
        disk
    }

    fn attach(&self) {
        // No file's sync writes what belongs to others, and nothing is written for want of anything else to do.
        let options = "loop,data=writeback,commit=600";
        succeed(Command::new("mount").args(["-o", options]).arg(&self.image).arg(&self.path));
    }

    fn detach(&self) {
        // Lazily, since what still runs may have files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }

    /// The power goes and comes back. Whoever used it must be gone by kill -9, which syncs nothing.
    pub fn cut(&mut self) {
        self.cuts += 1;
        let after = self.path.with_extension(format!("image-{}", self.cuts));
        succeed(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&after));
        self.detach();
        self.image = after;
        self.attach();
    }
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        self.detach();
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("can't start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Gives a running process trouble with every fsync, fdatasync and the like until it is dropped. It attaches with strace, so
/// that calls are caught however the process makes them.
#[derive(Debug)]
pub struct SyncTrouble {
    strace: Process,
}

impl SyncTrouble {
    /// Each call fails with EIO.
    pub fn failing(process: &Process, log: &Path) -> Self {
        Self::attach(process, log, "error=EIO")
    }

    /// Each call begins so much later.
    pub fn slow(process: &Process, log: &Path, by: Duration) -> Self {
        Self::attach(process, log, &format!("delay_enter={}", by.as_micros()))
    }

    fn attach(process: &Process, log: &Path, what: &str) -> Self {
        const CALLS: &str = "fsync,fdatasync,msync,sync_file_range,syncfs";
        let (trace, inject) = (format!("trace={CALLS}"), format!("inject={CALLS}:{what}"));
        Self { strace: attach(process, log, &["-e", &trace, "-e", &inject]) }
    }

    /// How many calls had it so far.
    pub fn count(&self) -> usize {
        let log = self.strace.log();
        log.matches("(INJECTED)").count() + log.matches("(DELAYED)").count()
    }
}

impl Drop for SyncTrouble {
    fn drop(&mut self) {
        // Interrupted, strace lets the process go on as it was.
        self.strace.signal(Signal::INT);
        self.strace.wait(crate::deadline::SOON);
    }
}

/// Writes down what a running process writes and syncs, with the names of the files and connections, until it is dropped.
#[derive(Debug)]
pub struct Calls {
    strace: Process,
}

impl Calls {
    /// Into `calls`, a line a call: the thread, the time in seconds of Unix time, the call, how long it took (`strace -f -ttt -y -T`).
    pub fn watch(process: &Process, calls: &Path) -> Self {
        let calls_text = calls.to_str().expect("our paths are text");
        let trace = "trace=write,writev,pwrite64,fsync,fdatasync";
        let options = ["-ttt", "-y", "-T", "-s", "4096", "-e", trace, "-o", calls_text];
        Self { strace: attach(process, &calls.with_extension("strace"), &options) }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.strace.signal(Signal::INT);
        self.strace.wait(crate::deadline::SOON);
    }
}

/// Has strace follow all threads of a process.
fn attach(process: &Process, log: &Path, options: &[&str]) -> Process {
    let mut command = Command::new("strace");
    command.arg("-f").args(options).args(["-p", &process.id().to_string()]);
    let mut strace = Process::start("strace", command, log);
    let threads =
        std::fs::read_dir(format!("/proc/{}/task", process.id())).expect("the process runs").count();
    let log = log.to_owned();
    strace.wait_ready(|| {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        // It says `Process N attached with M threads` once it holds them all.
        log.contains("attached") && (threads == 1 || log.contains("threads"))
    });
    strace
}
