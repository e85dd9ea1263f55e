//! Which files there are, and how far each may be read.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mail::Timestamp;
use tokio::sync::watch;

use super::frame::Magic;
use crate::embedded::OpenError;
use crate::embedded::disk::Disk;

/// How far the clock may have been set back while a file was written.
const CLOCK_MILLIS: u64 = 300_000;

/// What the writer and the readers share.
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    /// By the instant at which they were begun, in milliseconds: no two are begun at the same.
    list: Mutex<BTreeMap<u64, LogFile>>,
    /// Is told when more can be read, and that the log is closed.
    progress: watch::Sender<Progress>,
}

/// Whether the log may still grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Open,
    Closed,
}

#[derive(Clone, Debug)]
pub(super) struct LogFile {
    pub(super) name: String,
    pub(super) magic: Magic,
    /// Octets that may be read.
    pub(super) octets: u64,
    /// When it was last written, as far as that is known.
    pub(super) written: Timestamp,
    /// Its damage was told.
    warned: bool,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// When its file was begun.
    pub(super) start: u64,
    pub(super) offset: u64,
}

impl Place {
    /// Whatever comes after this file.
    pub(super) fn after(start: u64) -> Self {
        Self { start: start.saturating_add(1), offset: 0 }
    }
}

/// The name of a file that was begun at `start`.
fn name(start: u64, magic: Magic) -> String {
    format!("events-{start:016}-{:016x}.log", u64::from_be_bytes(magic.0))
}

fn parse(name: &str) -> Option<(u64, Magic)> {
    let (start, magic) = name.strip_prefix("events-")?.strip_suffix(".log")?.split_once('-')?;
    let magic = u64::from_str_radix(magic, 16).ok().filter(|_| magic.len() == 16)?;
    Some((start.parse().ok()?, Magic(magic.to_be_bytes())))
}

impl Files {
    pub(super) fn open(disk: Arc<dyn Disk>, now: Timestamp) -> Result<Self, OpenError> {
        let unreadable = |name: &str, source| OpenError::Read { path: disk.path(name), source };
        let mut list = BTreeMap::new();
        for name in disk.list().map_err(|source| unreadable("", source))? {
            let Some((start, magic)) = parse(&name) else { continue };
            let octets = disk.open(&name).and_then(|file| file.octets());
            let octets = octets.map_err(|source| unreadable(&name, source))?;
            list.insert(start, LogFile { name, magic, octets, written: now, warned: false });
        }
        let starts: Vec<u64> = list.keys().copied().collect();
        for pair in starts.windows(2) {
            list.entry(pair[0]).and_modify(|file| file.written = Timestamp(pair[1]));
        }
        let (progress, _) = watch::channel(Progress::Open);
        Ok(Self { disk, list: Mutex::new(list), progress })
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<u64, LogFile>> {
        // It is changed by code that doesn't panic halfway.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file that is begun now, later than all others, and when: it is among the others once something of it may be read.
    pub(super) fn begin(&self, now: Timestamp) -> (u64, LogFile) {
        let start = self.list().last_key_value().map_or(now.0, |(last, _)| now.0.max(last + 1));
        let magic = Magic::new();
        (start, LogFile { name: name(start, magic), magic, octets: 0, written: now, warned: false })
    }

    /// More of a file may be read.
    pub(super) fn grown(&self, start: u64, about: &LogFile, octets: u64, now: Timestamp) {
        {
            let mut list = self.list();
            let file = list.entry(start).or_insert_with(|| about.clone());
            file.octets = octets;
            file.written = now;
        }
        self.progress.send_replace(Progress::Open);
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.progress.send_replace(Progress::Closed);
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The file in which there is something to read from this place on, and the place in it.
    pub(super) fn from(&self, place: Place) -> Option<(Place, LogFile)> {
        let list = self.list();
        list.range(place.start..).find_map(|(start, file)| {
            let offset = if *start == place.start { place.offset } else { 0 };
            (offset < file.octets).then(|| (Place { start: *start, offset }, file.clone()))
        })
    }

    /// Where the log ends.
    pub(super) fn end(&self) -> Place {
        let list = self.list();
        list.last_key_value().map_or(Place { start: 0, offset: 0 }, |(start, file)| Place {
            start: *start,
            offset: file.octets,
        })
    }

    /// The beginning of the first file that can hold what happened at `since` or later: events are written after they happen.
    pub(super) fn since(&self, since: Timestamp) -> Place {
        let list = self.list();
        let starts: Vec<u64> = list.keys().copied().collect();
        let ended_before = |pair: &&[u64]| pair[1].saturating_add(CLOCK_MILLIS) <= since.0;
        let start = starts.windows(2).take_while(ended_before).last().map_or(0, |pair| pair[1]);
        Place { start, offset: 0 }
    }

    /// Removes files of an earlier age than `oldest`, and the oldest ones while there are more octets than `octets_max`, but
    /// never the one begun at `open`.
    ///
    /// # Errors
    /// When one can't be removed; it is tried again the next time.
    pub(super) fn retain(&self, oldest: Timestamp, octets_max: u64, open: Option<u64>) -> io::Result<()> {
        let mut gone = Vec::new();
        {
            let list = self.list();
            let mut octets: u64 = list.values().map(|file| file.octets).sum();
            for (start, file) in list.iter().filter(|(start, _)| Some(**start) != open) {
                if file.written < oldest || octets > octets_max {
                    octets -= file.octets;
                    gone.push((*start, file.name.clone()));
                }
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        for (start, name) in gone {
            match self.disk.remove(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => drop(self.list().remove(&start)),
            }
        }
        self.disk.sync_directory()
    }

    /// Whether this file's damage is told for the first time.
    pub(super) fn first_warning(&self, start: u64) -> bool {
        self.list().get_mut(&start).is_some_and(|file| !std::mem::replace(&mut file.warned, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_when_the_file_was_begun_and_its_magic() {
        let magic = Magic(*b"\x00\xf5sample");
        let text = name(1_795_579_643_042, magic);
        assert_eq!(text, "events-0001795579643042-00f573616d706c65.log");
        assert_eq!(parse(&text), Some((1_795_579_643_042, magic)));
        for other in ["lock", "events-1-f5.log", "events-x-00f573616d706c65.log", "0000000001.log"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
