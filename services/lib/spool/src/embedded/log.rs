//! The segments as one log that only grows: append makes durable, or leaves nothing behind.

use std::io::{self, IoSlice};
use std::sync::Arc;

use prost::bytes::Bytes;
use proto::spool::v1 as wire;

use super::disk::{Disk, DiskFile};
use super::frame::{Frame, Kind, Magic};
use super::index::Place;
use super::segment::{START, SegmentHeader, SideWriter, log_name, side_name};

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub(super) enum AppendError {
    #[error("no room for {path}: {source}")]
    Full { path: String, source: io::Error },
    #[error("write {path}: {source}")]
    Failed { path: String, source: io::Error },
}

pub(super) struct Log {
    disk: Arc<dyn Disk>,
    pub(super) magic: Magic,
    segment_octets: u64,
    current: Option<Open>,
    /// The segment begun last, or 0.
    last: u32,
    last_end: u64,
    pub(super) oldest: u32,
}

/// The segment that is written.
struct Open {
    file: Arc<dyn DiskFile>,
    side: SideWriter,
}

impl Log {
    /// Goes on after segment `last`, which ends at `last_end`.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        magic: Magic,
        segment_octets: u64,
        last: u32,
        last_end: u64,
    ) -> Self {
        Self { disk, magic, segment_octets, current: None, last, last_end, oldest: 1 }
    }

    /// The segment begun last and where it ends.
    pub(super) fn end(&self) -> (u32, u64) {
        (self.last, self.last_end)
    }

    /// Octets that were taken ahead and not yet written.
    pub(super) fn ahead(&self) -> u64 {
        if self.current.is_some() { self.segment_octets.saturating_sub(self.last_end) } else { 0 }
    }

    /// Begins the next segment unless one is open.
    pub(super) fn begin(&mut self) -> Result<(), AppendError> {
        if self.current.is_some() {
            return Ok(());
        }
        let number = self.last + 1;
        let name = log_name(number);
        match self.create(number, &name) {
            Ok(open) => {
                self.current = Some(open);
                self.last = number;
                self.last_end = START;
                Ok(())
            }
            Err(error) => {
                // The next attempt makes it anew, whatever is left of it.
                let _ = self.disk.remove(&name);
                Err(self.error(number, error))
            }
        }
    }

    fn create(&self, number: u32, name: &str) -> io::Result<Open> {
        let file = self.disk.create(name)?;
        file.allocate(self.segment_octets)?;
        let oldest = self.oldest.min(number);
        let header = SegmentHeader { number, oldest, previous_end: self.last_end, magic: self.magic };
        file.write_at(&mut [IoSlice::new(&header.to_octets())], 0)?;
        file.sync()?;
        self.disk.sync_directory()?;
        Ok(Open { file, side: SideWriter::create(self.disk.as_ref(), number) })
    }

    /// Writes the records and waits until they are durable; says where each is.
    pub(super) fn append(&mut self, frames: &[&Frame]) -> Result<Vec<Place>, AppendError> {
        if self.last_end >= self.segment_octets {
            self.seal();
        }
        self.begin()?;
        let number = self.last;
        let Some(open) = &mut self.current else {
            return Ok(Vec::new());
        };
        let synced = Frame::new(self.magic, Kind::Synced, 0, &wire::Jobs { packed: Bytes::new() });
        let all = std::iter::once(&synced).chain(frames.iter().copied());
        let mut pieces: Vec<IoSlice<'_>> =
            all.flat_map(Frame::pieces).filter(|piece| !piece.is_empty()).map(IoSlice::new).collect();
        let written = open.file.write_at(&mut pieces, self.last_end);
        match written.and_then(|()| open.file.sync()) {
            Ok(()) => {}
            Err(error) => {
                let error = self.error(number, error);
                self.roll_back();
                return Err(error);
            }
        }
        let mut at = self.last_end + synced.octets();
        let mut places = Vec::with_capacity(frames.len());
        for frame in frames {
            let place = Place { segment: number, offset: u32::try_from(at).unwrap_or(u32::MAX) };
            open.side.add(place.offset, frame.head());
            places.push(place);
            at += frame.octets();
        }
        self.last_end = at;
        Ok(places)
    }

    /// After a failure nobody knows what the file holds beyond its durable end, and what a failed sync left in memory
    /// passes for written. So that part is cut off and the segment is left alone; its successor names the end, in case
    /// the cut fails too.
    fn roll_back(&mut self) {
        self.seal();
    }

    /// Ends the segment that is written: its unused room is given back.
    pub(super) fn seal(&mut self) {
        if let Some(open) = self.current.take() {
            open.side.finish(self.last_end);
            // What lies beyond the end doesn't count, cut off or not.
            let _ = open.file.truncate(self.last_end);
        }
    }

    /// Removes the oldest segment. What was still needed of it has been written elsewhere, durably.
    pub(super) fn unlink(&self, number: u32) -> io::Result<()> {
        self.disk.remove(&log_name(number))?;
        let _ = self.disk.remove(&side_name(number));
        self.disk.sync_directory()
    }

    fn error(&self, number: u32, source: io::Error) -> AppendError {
        let path = self.disk.path(&log_name(number)).display().to_string();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::Full { path, source },
            _ => AppendError::Failed { path, source },
        }
    }
}
