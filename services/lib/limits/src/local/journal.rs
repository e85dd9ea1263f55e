//! The file that remembers quota use over a restart: lines `day account count checksum`, the last one of an account
//! holds. One thread writes it; what is asked for meanwhile goes out with one sync.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::quota::{Use, Uses};

/// The file is written anew when it is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How often reservations far above use are brought down.
const SETTLE_EVERY: Duration = Duration::from_secs(5);
/// How many requests share a sync at most.
const BATCH_MAX: usize = 4096;

/// The file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't {attempt} the record of quota use {path}")]
pub struct OpenError {
    attempt: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The writing thread's handle. Dropped, it writes what was really used and ends the thread.
pub(super) struct Journal {
    requests: Option<mpsc::Sender<Request>>,
    alive: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

enum Request {
    Reserve { account: Arc<str>, day: u64, count: u64 },
    Settle { done: oneshot::Sender<()> },
}

impl Journal {
    /// Reads the file into `uses` and starts the thread. `reserved` rings after each write.
    pub(super) fn open(path: &Path, uses: &Arc<Uses>, reserved: Arc<Notify>) -> Result<Self, OpenError> {
        let failed =
            |attempt: &'static str| move |source| OpenError { attempt, path: path.to_owned(), source };
        let content = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
        .map_err(failed("read"))?;
        let (days, damaged) = parse(&content);
        if damaged > 0 {
            tracing::warn!(path = %path.display(), lines = damaged, "skipped damaged lines of the record of quota use");
        }
        for (account, (day, count)) in days {
            let account: Arc<str> = Arc::from(account);
            uses.lock(&*account).entries.insert(Arc::clone(&account), Use::restored(day, count));
        }
        let mut writer =
            Writer { path: path.to_owned(), file: None, bytes: 0, day: 0, uses: Arc::clone(uses) };
        writer.rewrite().map_err(failed("write"))?;
        let (requests, received) = mpsc::channel();
        let alive = Arc::new(AtomicBool::new(true));
        let thread = thread::Builder::new()
            .name("quota-journal".into())
            .spawn({
                let guard = Alive { alive: Arc::clone(&alive), reserved: Arc::clone(&reserved) };
                move || {
                    writer.run(&received, &reserved);
                    drop(guard);
                }
            })
            .map_err(failed("start a thread for"))?;
        Ok(Self { requests: Some(requests), alive, thread: Some(thread) })
    }

    /// Asks that `count` be written; says whether it will be.
    pub(super) fn reserve(&self, account: Arc<str>, day: u64, count: u64) -> bool {
        let request = Request::Reserve { account, day, count };
        self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok()) && self.is_alive()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Writes what was really used.
    pub(super) async fn settle(&self) {
        let (done, written) = oneshot::channel();
        if let Some(requests) = &self.requests
            && requests.send(Request::Settle { done }).is_ok()
        {
            // The thread is gone when it doesn't answer; then nothing is left to wait for.
            let _ = written.await;
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by it; there is nobody to tell here.
            let _ = thread.join();
        }
    }
}

/// Says, even when the thread panics, that nobody need wait for it any more.
struct Alive {
    alive: Arc<AtomicBool>,
    reserved: Arc<Notify>,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::Release);
        self.reserved.notify_waiters();
    }
}

/// Which reservations are brought down to what was used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settling {
    None,
    FarAbove,
    All,
}

/// The thread's own.
struct Writer {
    path: PathBuf,
    /// None after a failure, until the file could be written anew.
    file: Option<File>,
    bytes: u64,
    day: u64,
    uses: Arc<Uses>,
}

impl Writer {
    fn run(&mut self, requests: &mpsc::Receiver<Request>, reserved: &Notify) {
        let mut failing = false;
        let mut settled_at = Instant::now();
        loop {
            let mut batch = Vec::new();
            let ended = match requests.recv_timeout(SETTLE_EVERY) {
                Ok(request) => {
                    batch.push(request);
                    batch.extend(requests.try_iter().take(BATCH_MAX));
                    false
                }
                Err(mpsc::RecvTimeoutError::Timeout) => false,
                Err(mpsc::RecvTimeoutError::Disconnected) => true,
            };
            let asked = ended || batch.iter().any(|request| matches!(request, Request::Settle { .. }));
            // Not after each write: what was just reserved is for somebody who hasn't yet come to take it.
            let due = settled_at.elapsed() >= SETTLE_EVERY;
            if due {
                settled_at = Instant::now();
            }
            let settling = match (asked, due) {
                (true, _) => Settling::All,
                (false, true) => Settling::FarAbove,
                (false, false) => Settling::None,
            };
            let result = self.write(&batch, settling);
            if let Err(error) = &result
                && !failing
            {
                // Mail goes on: until the file can be written again, only a restart would forget today's use.
                tracing::error!(path = %self.path.display(), %error, "can't record quota use");
            }
            failing = result.is_err();
            reserved.notify_waiters();
            for request in batch {
                if let Request::Settle { done } = request {
                    let _ = done.send(());
                }
            }
            if ended {
                return;
            }
        }
    }

    /// Writes the batch's reservations, makes them hold, then settles.
    fn write(&mut self, batch: &[Request], settling: Settling) -> io::Result<()> {
        let mut lines = String::new();
        for request in batch {
            if let Request::Reserve { account, day, count } = request {
                self.day = self.day.max(*day);
                line(&mut lines, *day, account, *count);
            }
        }
        let written = self.append(&lines);
        for request in batch {
            if let Request::Reserve { account, day, count } = request
                && let Some(entry) = self.uses.lock(&**account).entries.get_mut(&**account)
            {
                entry.reserved(*day, *count);
            }
        }
        lines.clear();
        if settling == Settling::None {
            return written;
        }
        for mut shard in self.uses.each() {
            for (account, entry) in &mut shard.entries {
                let far = entry.durable > entry.used + 2 * entry.block;
                if (settling == Settling::All || far)
                    && let Some(count) = entry.settled()
                {
                    line(&mut lines, entry.day, account, count);
                }
            }
        }
        written.and_then(|()| self.append(&lines))
    }

    fn append(&mut self, lines: &str) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let written = match &mut self.file {
            Some(file) if self.bytes < FILE_BYTES_MAX => {
                file.write_all(lines.as_bytes()).and_then(|()| file.sync_data())
            }
            _ => return self.rewrite_with(lines),
        };
        self.bytes += lines.len() as u64;
        if written.is_err() {
            self.file = None;
        }
        written
    }

    fn rewrite(&mut self) -> io::Result<()> {
        self.rewrite_with("")
    }

    /// Writes the file anew with what holds of the latest day, and `lines` at its end.
    fn rewrite_with(&mut self, lines: &str) -> io::Result<()> {
        self.file = None;
        let mut content = String::new();
        let latest =
            self.uses.each().flat_map(|shard| shard.entries.values().map(|entry| entry.day).max()).max();
        let latest = latest.unwrap_or_default().max(self.day);
        for shard in self.uses.each() {
            for (account, entry) in shard.entries.iter().filter(|(_, entry)| entry.day == latest) {
                line(&mut content, entry.day, account, entry.durable);
            }
        }
        content.push_str(lines);
        let beside = self.path.with_extension("new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory)?.sync_all()?;
        self.bytes = content.len() as u64;
        self.file = Some(file);
        Ok(())
    }
}

fn line(lines: &mut String, day: u64, account: &str, count: u64) {
    let start = lines.len();
    // Writing to a string can't fail.
    let _ = write!(lines, "{day} {account} {count}");
    let checksum = crc32fast::hash(&lines.as_bytes()[start..]);
    let _ = writeln!(lines, " {checksum:08x}");
}

/// The latest day and count of each account, and how many lines were damaged. A torn last line is one of them.
fn parse(content: &[u8]) -> (HashMap<String, (u64, u64)>, usize) {
    let mut days: HashMap<String, (u64, u64)> = HashMap::new();
    let mut damaged = 0;
    for text in content.split(|octet| *octet == b'\n').filter(|text| !text.is_empty()) {
        match parse_line(text) {
            Some((day, account, count)) if days.get(account).is_none_or(|known| known.0 <= day) => {
                days.insert(account.to_owned(), (day, count));
            }
            Some(_) => {}
            None => damaged += 1,
        }
    }
    (days, damaged)
}

fn parse_line(line: &[u8]) -> Option<(u64, &str, u64)> {
    let (text, checksum) = str::from_utf8(line).ok()?.rsplit_once(' ')?;
    if u32::from_str_radix(checksum, 16).ok()? != crc32fast::hash(text.as_bytes()) {
        return None;
    }
    let (day, rest) = text.split_once(' ')?;
    let (account, count) = rest.rsplit_once(' ')?;
    Some((day.parse().ok()?, account, count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_the_latest_day_holds_and_damage_is_skipped() {
        let mut lines = String::new();
        line(&mut lines, 10, "a", 5);
        line(&mut lines, 11, "a", 3);
        line(&mut lines, 11, "b c", 9);
        line(&mut lines, 11, "a", 2);
        line(&mut lines, 10, "a", 50);
        lines.push_str("11 b c 99 00000000\n11 a 4");
        let (days, damaged) = parse(lines.as_bytes());
        assert_eq!(damaged, 2);
        assert_eq!(days["a"], (11, 2));
        assert_eq!(days["b c"], (11, 9));
    }
}
