//! Segment files, and the side files that spare a start from reading content.
//!
//! ```text
//! 0000000007.log   "spoolseg" | version u32 | number u32 | oldest u32 | previous end u64 | magic 8 | crc u32 | records ...
//! 0000000007.idx   "spoolidx" | number u32 | (place u32, head of the record there) ... | 0xffffffff | end u64 | crc u32
//! ```
//!
//! A segment counts up to the end that its successor names: what was written there but never known to be durable is
//! never read. Side files are not synced: one that doesn't check out is as good as none.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::disk::{Disk, DiskFile, read_exact_at};
use super::frame::{BLOCK_OCTETS, HEADER_OCTETS, Head, Header, Kind, Magic};

/// Octets before a segment's first record.
pub(super) const START: u64 = 40;
const VERSION: u32 = 1;
const SIDE_START: usize = 12;
const SIDE_FOOT: usize = 16;

pub(super) fn log_name(number: u32) -> String {
    format!("{number:010}.log")
}

pub(super) fn side_name(number: u32) -> String {
    format!("{number:010}.idx")
}

/// The number of a segment of this name.
pub(super) fn log_number(name: &str) -> Option<u32> {
    name.strip_suffix(".log").filter(|digits| digits.len() == 10).and_then(|digits| digits.parse().ok())
}

/// The number of a side file of this name.
pub(super) fn side_number(name: &str) -> Option<u32> {
    name.strip_suffix(".idx").filter(|digits| digits.len() == 10).and_then(|digits| digits.parse().ok())
}

/// What a segment begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: u32,
    /// The first segment that counted when this one was begun.
    pub(super) oldest: u32,
    /// Where the segment before this one ends; 0 when there is none.
    pub(super) previous_end: u64,
    pub(super) magic: Magic,
}

impl SegmentHeader {
    pub(super) fn to_octets(self) -> [u8; START as usize] {
        let mut octets = [0; START as usize];
        octets[..8].copy_from_slice(b"spoolseg");
        octets[8..12].copy_from_slice(&VERSION.to_le_bytes());
        octets[12..16].copy_from_slice(&self.number.to_le_bytes());
        octets[16..20].copy_from_slice(&self.oldest.to_le_bytes());
        octets[20..28].copy_from_slice(&self.previous_end.to_le_bytes());
        octets[28..36].copy_from_slice(&self.magic.0);
        let crc = crc32fast::hash(&octets[..36]);
        octets[36..].copy_from_slice(&crc.to_le_bytes());
        octets
    }

    pub(super) fn read(file: &dyn DiskFile) -> io::Result<Option<Self>> {
        let mut octets = [0; START as usize];
        if file.read_at(&mut octets, 0)? < octets.len() {
            return Ok(None);
        }
        let fields = || -> Option<Self> {
            let number = |place: usize| octets[place..].first_chunk().copied().map(u32::from_le_bytes);
            let sound = octets[..8] == *b"spoolseg"
                && number(8)? == VERSION
                && crc32fast::hash(&octets[..36]) == number(36)?;
            sound.then_some(Self {
                number: number(12)?,
                oldest: number(16)?,
                previous_end: u64::from_le_bytes(*octets[20..].first_chunk()?),
                magic: Magic(*octets[28..].first_chunk()?),
            })
        };
        Ok(fields())
    }

    /// The magic as the first record has it, where the header is damaged.
    pub(super) fn guess_magic(file: &dyn DiskFile) -> io::Result<Option<Magic>> {
        let mut octets = [0; HEADER_OCTETS];
        if file.read_at(&mut octets, START)? < octets.len() {
            return Ok(None);
        }
        let magic = octets.first_chunk().copied().map(Magic);
        Ok(magic.filter(|magic| Header::parse(*magic, &octets).is_some()))
    }
}

/// Whether nothing was ever written after the header.
pub(super) fn is_blank(file: &dyn DiskFile) -> io::Result<bool> {
    let mut octets = vec![0; WINDOW_OCTETS];
    let mut at = START;
    loop {
        let count = file.read_at(&mut octets, at)?;
        if octets[..count].iter().any(|octet| *octet != 0) {
            return Ok(false);
        }
        if count < octets.len() {
            return Ok(true);
        }
        at += count as u64;
    }
}

/// Goes through the records of a segment up to `until`, or the file's end; gives the ranges in which there is none.
pub(super) fn scan(
    file: &dyn DiskFile,
    magic: Magic,
    until: u64,
    visit: &mut dyn FnMut(u32, &Head),
) -> io::Result<Vec<Range<u64>>> {
    let until = until.min(file.octets()?);
    let mut window = Window { file, octets: Bytes::new(), start: 0, until };
    let mut bad = Vec::new();
    let mut at = START;
    while at < until {
        if let Some(head) = window.head(magic, at)? {
            visit(place(at), &head);
            at += head.header.record_octets();
            continue;
        }
        let from = at;
        at = window.next(magic, at + 1)?;
        bad.push(from..at);
    }
    Ok(bad)
}

/// Where the segment that was written last ends: after the last record that was whole before the first that wasn't,
/// counted from the last that says that all before it was durable.
pub(super) fn durable_end(file: &dyn DiskFile, magic: Magic) -> io::Result<u64> {
    let mut end = START;
    let mut failure = None;
    scan(file, magic, u64::MAX, &mut |place, head| {
        let place = u64::from(place);
        let synced = head.header.kind == Kind::Synced;
        let follows = place == end && failure.is_none();
        let whole = synced
            || follows
                && content_is_whole(file, place, head).unwrap_or_else(|error| {
                    failure = Some(error);
                    false
                });
        if whole {
            end = place + head.header.record_octets();
        }
    })?;
    match failure {
        Some(error) => Err(error),
        None => Ok(end),
    }
}

fn content_is_whole(file: &dyn DiskFile, place: u64, head: &Head) -> io::Result<bool> {
    let start = place + head.header.head_octets() as u64;
    let mut block = Vec::new();
    let mut offset = 0;
    while offset < head.header.content_octets {
        let octets = BLOCK_OCTETS.min(head.header.content_octets - offset);
        block.resize(usize::try_from(octets).unwrap_or_default(), 0);
        let whole = file.read_at(&mut block, start + offset)? == block.len();
        if !whole || !head.is_block(offset / BLOCK_OCTETS, &block) {
            return Ok(false);
        }
        offset += octets;
    }
    Ok(true)
}

/// A sliding view of a file, so that small records cost no call each.
struct Window<'a> {
    file: &'a dyn DiskFile,
    octets: Bytes,
    start: u64,
    until: u64,
}

const WINDOW_OCTETS: usize = 1 << 20;

impl Window<'_> {
    /// At least `octets` from `at` on, or what there is.
    fn view(&mut self, at: u64, octets: usize) -> io::Result<Bytes> {
        let wanted = octets.min(usize::try_from(self.until.saturating_sub(at)).unwrap_or(usize::MAX));
        let held = at >= self.start && at + wanted as u64 <= self.start + self.octets.len() as u64;
        if !held {
            let room = wanted.max(WINDOW_OCTETS).min(usize::try_from(self.until - at).unwrap_or(usize::MAX));
            let mut buffer = BytesMut::zeroed(room);
            let count = self.file.read_at(&mut buffer, at)?;
            buffer.truncate(count);
            self.octets = buffer.freeze();
            self.start = at;
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX).min(self.octets.len());
        Ok(self.octets.slice(from..))
    }

    fn head(&mut self, magic: Magic, at: u64) -> io::Result<Option<Head>> {
        let view = self.view(at, HEADER_OCTETS)?;
        let Some(header) = Header::parse(magic, &view) else {
            return Ok(None);
        };
        if at + header.record_octets() > self.until {
            return Ok(None);
        }
        let view = self.view(at, header.head_octets())?;
        Ok(Head::parse(magic, &view))
    }

    /// The place of the next record at or after `at`, or the end.
    fn next(&mut self, magic: Magic, mut at: u64) -> io::Result<u64> {
        while at < self.until {
            let view = self.view(at, WINDOW_OCTETS)?;
            match view.windows(8).position(|octets| octets == magic.0) {
                Some(place) => {
                    at += place as u64;
                    if self.head(magic, at)?.is_some() {
                        return Ok(at);
                    }
                    at += 1;
                }
                None if view.len() < 8 => break,
                None => at += view.len() as u64 - 7,
            }
        }
        Ok(self.until)
    }
}

fn place(at: u64) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// A side file as it grows with its segment.
pub(super) struct SideWriter {
    file: Option<Arc<dyn DiskFile>>,
    pending: Vec<u8>,
    written: u64,
    crc: crc32fast::Hasher,
}

impl SideWriter {
    /// A start can do without side files, so that nothing here is an error.
    pub(super) fn create(disk: &dyn Disk, number: u32) -> Self {
        let mut pending = b"spoolidx".to_vec();
        pending.extend_from_slice(&number.to_le_bytes());
        Self {
            file: disk.create(&side_name(number)).ok(),
            pending,
            written: 0,
            crc: crc32fast::Hasher::new(),
        }
    }

    /// Notes a record that is durable.
    pub(super) fn add(&mut self, place: u32, head: &[u8]) {
        if self.file.is_none() {
            return;
        }
        self.pending.extend_from_slice(&place.to_le_bytes());
        self.pending.extend_from_slice(head);
        if self.pending.len() >= 256 * 1024 {
            self.flush();
        }
    }

    pub(super) fn finish(mut self, end: u64) {
        self.pending.extend_from_slice(&u32::MAX.to_le_bytes());
        self.pending.extend_from_slice(&end.to_le_bytes());
        self.crc.update(&self.pending);
        let crc = self.crc.clone().finalize();
        let mut foot = std::mem::take(&mut self.pending);
        foot.extend_from_slice(&crc.to_le_bytes());
        if let Some(file) = &self.file {
            // One that could not be written is seen by its checksum.
            let _ = file.write_at(&mut [IoSlice::new(&foot)], self.written);
        }
    }

    fn flush(&mut self) {
        self.crc.update(&self.pending);
        let done =
            self.file.as_ref().map(|file| file.write_at(&mut [IoSlice::new(&self.pending)], self.written));
        if !matches!(done, Some(Ok(()))) {
            self.file = None;
        }
        self.written += self.pending.len() as u64;
        self.pending.clear();
    }
}

/// A side file that checks out.
pub(super) struct Side {
    octets: Bytes,
    magic: Magic,
    /// The end of its segment.
    pub(super) end: u64,
}

impl Side {
    pub(super) fn read(disk: &dyn Disk, number: u32, magic: Magic) -> Option<Self> {
        let file = disk.open(&side_name(number)).ok()?;
        let mut octets = BytesMut::zeroed(usize::try_from(file.octets().ok()?).ok()?);
        read_exact_at(file.as_ref(), &mut octets, 0).ok()?;
        let foot = octets.len().checked_sub(SIDE_FOOT).filter(|foot| *foot >= SIDE_START)?;
        let crc = u32::from_le_bytes(*octets.last_chunk()?);
        let end = u64::from_le_bytes(*octets[foot + 4..].first_chunk()?);
        let sound = octets[..8] == *b"spoolidx"
            && octets[8..12] == number.to_le_bytes()
            && octets[foot..foot + 4] == [0xff; 4]
            && crc32fast::hash(&octets[..octets.len() - 4]) == crc;
        octets.truncate(foot);
        sound.then(|| Self { octets: octets.freeze(), magic, end })
    }

    pub(super) fn visit(&self, visit: &mut dyn FnMut(u32, &Head)) {
        let mut rest = self.octets.slice(SIDE_START..);
        while let Some(place) = rest.first_chunk().copied().map(u32::from_le_bytes) {
            let Some(head) = Head::parse(self.magic, &rest.slice(4..)) else {
                return;
            };
            visit(place, &head);
            rest = rest.slice(4 + head.octets().len()..);
        }
    }
}
