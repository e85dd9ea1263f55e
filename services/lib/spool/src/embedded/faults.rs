//! A directory in memory that remembers every operation, forgets what wasn't synced, and fails when told to.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::disk::{Disk, DiskFile};

/// Octets that a device writes whole or not at all.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Operation {
    Create(usize, String),
    Remove(String),
    SyncDirectory,
    Write(usize, u64, Vec<u8>),
    Truncate(usize, u64),
    Sync(usize),
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug)]
pub(super) enum Crash {
    /// The process is killed: the kernel still has everything.
    Kill,
    /// The power goes: some of it, chosen by this number, and the last sector of a write perhaps without the first.
    Power(u64),
}

#[derive(Clone, Default)]
struct State {
    operations: Vec<Operation>,
    names: BTreeMap<String, usize>,
    files: Vec<Vec<u8>>,
    allocated: Vec<u64>,
    /// The directory before all operations.
    base: Option<Box<Self>>,
    capacity: u64,
    /// How many of the next syncs fail.
    failing_syncs: u32,
    /// How many of the next writes fail.
    failing_writes: u32,
    /// How long a sync takes.
    sync_takes: Duration,
}

#[derive(Clone)]
pub(super) struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

impl MemoryDisk {
    pub(super) fn new() -> Self {
        let state = State { capacity: u64::MAX / 4, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// How many operations there were.
    pub(super) fn operations(&self) -> usize {
        self.state().operations.len()
    }

    pub(super) fn set_capacity(&self, octets: u64) {
        self.state().capacity = octets;
    }

    pub(super) fn fail_syncs(&self, count: u32) {
        self.state().failing_syncs = count;
    }

    /// Makes syncs slow, so that requests gather meanwhile.
    pub(super) fn slow_down(&self, sync_takes: Duration) {
        self.state().sync_takes = sync_takes;
    }

    pub(super) fn fail_writes(&self, count: u32) {
        self.state().failing_writes = count;
    }

    /// The files, for damaging them.
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let file = state.names[name];
        change(&mut state.files[file]);
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// The directory as a crash after the first `count` operations leaves it.
    pub(super) fn after(&self, count: usize, crash: Crash) -> Self {
        let state = self.state();
        let operations = &state.operations[..count];
        let mut kept = state.base.as_deref().cloned().unwrap_or_default();
        kept.capacity = state.capacity;
        kept.sync_takes = state.sync_takes;
        let last_of = |wanted: &dyn Fn(&Operation) -> bool| operations.iter().rposition(wanted);
        let directory_synced = last_of(&|operation| matches!(operation, Operation::SyncDirectory));
        let mut synced = HashMap::new();
        for (place, operation) in operations.iter().enumerate() {
            if let Operation::Sync(file) = operation {
                synced.insert(*file, place);
            }
        }
        let mut dice = Dice::new(crash);
        for (place, operation) in operations.iter().enumerate() {
            let durable = match operation {
                Operation::Write(file, ..) | Operation::Truncate(file, _) => synced.get(file).copied(),
                _ => directory_synced,
            };
            let fate = if durable.is_some_and(|synced| place < synced) { Fate::Kept } else { dice.roll() };
            kept.replay(operation, fate);
        }
        kept.base = Some(Box::new(kept.clone()));
        Self { state: Arc::new(Mutex::new(kept)) }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Kept,
    Lost,
    /// Only the later half of the sectors.
    Torn,
}

struct Dice(Option<u64>);

impl Dice {
    fn new(crash: Crash) -> Self {
        match crash {
            Crash::Kill => Self(None),
            Crash::Power(seed) => Self(Some(seed | 1)),
        }
    }

    fn roll(&mut self) -> Fate {
        let Some(seed) = &mut self.0 else {
            return Fate::Kept;
        };
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        match *seed >> 61 {
            0..=2 => Fate::Kept,
            3..=5 => Fate::Lost,
            _ => Fate::Torn,
        }
    }
}

impl State {
    fn replay(&mut self, operation: &Operation, fate: Fate) {
        match operation {
            Operation::Create(file, name) => {
                // The file itself is always there, so that numbers stay the same; its name may be lost.
                assert_eq!(*file, self.files.len());
                self.files.push(Vec::new());
                self.allocated.push(0);
                if fate != Fate::Lost {
                    self.names.insert(name.clone(), *file);
                }
            }
            Operation::Remove(name) if fate != Fate::Lost => drop(self.names.remove(name)),
            Operation::Write(file, offset, octets) if fate != Fate::Lost => {
                let skip = if fate == Fate::Torn { octets.len() / SECTOR / 2 * SECTOR } else { 0 };
                self.put(*file, usize::try_from(*offset).unwrap() + skip, &octets[skip..]);
            }
            Operation::Truncate(file, octets) if fate == Fate::Kept => {
                self.files[*file].resize(usize::try_from(*octets).unwrap(), 0);
            }
            _ => {}
        }
    }

    fn put(&mut self, file: usize, offset: usize, octets: &[u8]) {
        let content = &mut self.files[file];
        let end = offset + octets.len();
        content.resize(content.len().max(end), 0);
        content[offset..end].copy_from_slice(octets);
    }

    fn used(&self) -> u64 {
        let size = |file: &usize| (self.files[*file].len() as u64).max(self.allocated[*file]);
        self.names.values().map(size).sum()
    }

    fn room(&self, file: usize, end: u64) -> io::Result<()> {
        let has = (self.files[file].len() as u64).max(self.allocated[file]);
        if end > has && self.used() + (end - has) > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let number = state.files.len();
        state.files.push(Vec::new());
        state.allocated.push(0);
        state.names.insert(name.to_owned(), number);
        state.operations.push(Operation::Create(number, name.to_owned()));
        Ok(Arc::new(MemoryFile { disk: self.clone(), number }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let number = self.state().names.get(name).copied();
        let number = number.ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), number }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.operations.push(Operation::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.state().operations.push(Operation::SyncDirectory);
        Ok(())
    }

    fn free_octets(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.saturating_sub(state.used()))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/memory").join(name)
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    number: usize,
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let content = &state.files[self.number];
        let from = usize::try_from(offset).unwrap().min(content.len());
        let count = buffer.len().min(content.len() - from);
        buffer[..count].copy_from_slice(&content[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, pieces: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let octets: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let mut state = self.disk.state();
        let fails = state.failing_writes > 0;
        let room = state.room(self.number, offset + octets.len() as u64);
        // A write that fails may have been done in part.
        let done = if fails || room.is_err() { octets.len() / 2 } else { octets.len() };
        let done = if room.is_err() { 0 } else { done };
        state.put(self.number, usize::try_from(offset).unwrap(), &octets[..done]);
        state.operations.push(Operation::Write(self.number, offset, octets[..done].to_vec()));
        room?;
        if fails {
            state.failing_writes -= 1;
            return Err(io::Error::other("the write failed"));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            return Err(io::Error::other("the sync failed"));
        }
        state.operations.push(Operation::Sync(self.number));
        let takes = state.sync_takes;
        drop(state);
        std::thread::sleep(takes);
        Ok(())
    }

    fn truncate(&self, octets: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.files[self.number].resize(usize::try_from(octets).unwrap(), 0);
        let number = self.number;
        state.allocated[number] = octets;
        state.operations.push(Operation::Truncate(number, octets));
        Ok(())
    }

    fn allocate(&self, octets: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.room(self.number, octets)?;
        // Room that was taken reads as zeros.
        state.allocated[self.number] = octets;
        let size = usize::try_from(octets).unwrap().max(state.files[self.number].len());
        state.files[self.number].resize(size, 0);
        state.operations.push(Operation::Truncate(self.number, octets));
        Ok(())
    }

    fn octets(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.number].len() as u64)
    }
}
