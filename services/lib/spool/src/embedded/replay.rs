//! What a start reads, and how the index comes out of it.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use mail::{JobId, QueueId, Timestamp};
use prost::Message as _;
use proto::spool::v1 as wire;

use super::disk::{Disk, DiskFile};
use super::frame::{Head, Kind, Magic};
use super::index::{Index, NewJobEntry, Place, Standing};
use super::log::Log;
use super::packed::unpack;
use super::reader::host_of;
use super::segment::{
    START, SegmentHeader, Side, SideWriter, durable_end, is_blank, log_name, log_number, scan, side_name,
    side_number,
};
use super::{OpenError, Settings};

pub(super) struct Replayed {
    pub(super) index: Index,
    pub(super) log: Log,
    /// What was found damaged, one line each.
    pub(super) damage: Vec<String>,
}

/// Reads all segments.
pub(super) fn replay(
    disk: &Arc<dyn Disk>,
    settings: &Settings,
    now: Timestamp,
) -> Result<Replayed, OpenError> {
    let found = Found::list(disk.as_ref())?;
    let mut replay = Replay {
        disk: disk.as_ref(),
        magic: found.magic,
        index: Index::new(settings.lanes, settings.cache_octets),
        damage: found.damage,
        reclaimed: 0,
        closed: None,
    };
    let mut end = (0, 0);
    let mut segments = found.segments.iter().peekable();
    while let Some(segment) = segments.next() {
        let next = segments.peek().filter(|next| next.number == segment.number + 1);
        let known_end = next.and_then(|next| next.header).map(|next| next.previous_end);
        let place = if segments.peek().is_none() { Position::Last } else { Position::Earlier(known_end) };
        end = (segment.number, replay.segment(segment, place)?);
    }
    replay.drop_reclaimed();
    if let Some(first) = found.segments.first() {
        let from = found.oldest.max(replay.reclaimed + 1);
        replay.damage.extend((from..first.number).map(|number| missing(disk.as_ref(), number)));
    }
    replay.suspect(now);
    replay.index.arrange();
    let mut log = Log::new(Arc::clone(disk), found.magic, settings.segment_octets, end.0, end.1);
    log.oldest = replay.index.segments.keys().next().copied().unwrap_or(end.0 + 1);
    // A life of its own from here on, even if nothing is ever written: what the last one said of its end is over. When
    // there is no room for it now, the first record will bring it.
    let _ = log.begin();
    Ok(Replayed { index: replay.index, log, damage: replay.damage })
}

struct FoundSegment {
    number: u32,
    file: Arc<dyn DiskFile>,
    /// None when it is damaged.
    header: Option<SegmentHeader>,
}

struct Found {
    segments: Vec<FoundSegment>,
    magic: Magic,
    /// The first segment that counted when the newest was begun.
    oldest: u32,
    damage: Vec<String>,
}

impl Found {
    fn list(disk: &dyn Disk) -> Result<Self, OpenError> {
        let directory = disk.path("");
        let names = disk.list().map_err(|source| OpenError::Read { path: directory.clone(), source })?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| log_number(name)).collect();
        numbers.sort_unstable();
        let mut segments = Vec::with_capacity(numbers.len());
        for number in &numbers {
            segments
                .push(FoundSegment::open(disk, *number).map_err(|source| read_error(disk, *number, source))?);
        }
        let newest = numbers.last().copied().unwrap_or_default();
        let mut damage = Vec::new();
        for (orphan, number) in names.iter().filter_map(|name| Some((name, side_number(name)?))) {
            // Segments are given up before their side files, but never the newest.
            if number > newest {
                damage.push(missing(disk, number));
            }
            if !numbers.contains(&number) {
                let _ = disk.remove(orphan);
            }
        }
        let mut found = Self { segments, magic: Magic::new(), oldest: 0, damage };
        let magic = found.magic();
        if let Some(magic) = magic {
            found.magic = magic;
        }
        found.drop_unborn(disk)?;
        if let Some(first) = found.segments.first().filter(|_| magic.is_none()) {
            return Err(OpenError::Unreadable { directory, first: disk.path(&log_name(first.number)) });
        }
        found.drop_leftovers(disk);
        found.note_damage(disk);
        Ok(found)
    }

    fn magic(&self) -> Option<Magic> {
        let header = self.segments.iter().find_map(|segment| segment.header);
        let guess = |segment: &FoundSegment| SegmentHeader::guess_magic(segment.file.as_ref()).ok().flatten();
        header.map(|header| header.magic).or_else(|| self.segments.iter().find_map(guess))
    }

    /// A last segment without a header and with nothing after it was being made when everything stopped.
    fn drop_unborn(&mut self, disk: &dyn Disk) -> Result<(), OpenError> {
        while let Some(last) = self.segments.last().filter(|last| last.header.is_none()) {
            let number = last.number;
            if !is_blank(last.file.as_ref()).map_err(|source| read_error(disk, number, source))? {
                break;
            }
            self.segments.pop();
            let _ = disk.remove(&log_name(number));
        }
        Ok(())
    }

    /// Segments that were given up, but whose files came back.
    fn drop_leftovers(&mut self, disk: &dyn Disk) {
        let headers = self.segments.iter().filter_map(|segment| segment.header);
        let oldest = headers.map(|header| header.oldest).max().unwrap_or_default();
        self.oldest = oldest;
        self.segments.retain(|segment| {
            if segment.number < oldest {
                let _ = disk.remove(&log_name(segment.number));
                let _ = disk.remove(&side_name(segment.number));
            }
            segment.number >= oldest
        });
    }

    fn note_damage(&mut self, disk: &dyn Disk) {
        for pair in self.segments.windows(2) {
            self.damage.extend((pair[0].number + 1..pair[1].number).map(|number| missing(disk, number)));
        }
        for segment in self.segments.iter().filter(|segment| segment.header.is_none()) {
            let path = disk.path(&log_name(segment.number));
            self.damage
                .push(format!("{}: the header is damaged; records are read all the same", path.display()));
        }
    }
}

impl FoundSegment {
    fn open(disk: &dyn Disk, number: u32) -> io::Result<Self> {
        let file = disk.open(&log_name(number))?;
        let header = SegmentHeader::read(file.as_ref())?.filter(|header| header.number == number);
        Ok(Self { number, file, header })
    }
}

fn missing(disk: &dyn Disk, number: u32) -> String {
    format!("{} is missing", disk.path(&log_name(number)).display())
}

fn cut_short(disk: &dyn Disk, number: u32, end: u64, until: u64) -> String {
    format!("{} ends at octet {end}, not {until}", disk.path(&log_name(number)).display())
}

fn read_error(disk: &dyn Disk, number: u32, source: io::Error) -> OpenError {
    OpenError::Read { path: disk.path(&log_name(number)), source }
}

enum Position {
    /// With the end that its successor names.
    Earlier(Option<u64>),
    Last,
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    magic: Magic,
    index: Index,
    damage: Vec<String>,
    /// Segments up to this one have nothing left that counts.
    reclaimed: u32,
    /// The jobs that the last life had leased, when its last record says so.
    closed: Option<Bytes>,
}

impl Replay<'_> {
    /// Reads one segment; says where it ends.
    fn segment(&mut self, segment: &FoundSegment, position: Position) -> Result<u64, OpenError> {
        let number = segment.number;
        let file = segment.file.as_ref();
        let failed = |source| read_error(self.disk, number, source);
        self.closed = None;
        let known_end = match position {
            Position::Earlier(known_end) => known_end,
            Position::Last => {
                let end = durable_end(file, self.magic).map_err(failed)?;
                // What lies beyond was never said to be kept.
                file.truncate(end).map_err(failed)?;
                Some(end)
            }
        };
        let side = Side::read(self.disk, number, self.magic);
        // A side file that is whole was written when its segment was.
        if let (Some(side), Some(end)) = (&side, known_end)
            && end < side.end
        {
            self.damage.push(cut_short(self.disk, number, end, side.end));
        }
        let end = match side.filter(|side| known_end.is_none_or(|end| end == side.end)) {
            Some(side) => {
                side.visit(&mut |offset, head| self.record(Place { segment: number, offset }, head));
                side.end
            }
            None => self.scan(number, file, known_end)?,
        };
        self.index.segments.entry(number).or_default().end = end;
        Ok(end)
    }

    /// Reads a segment itself, and makes its side file.
    fn scan(&mut self, number: u32, file: &dyn DiskFile, known_end: Option<u64>) -> Result<u64, OpenError> {
        let disk = self.disk;
        let failed = |source| read_error(disk, number, source);
        let octets = file.octets().map_err(failed)?;
        let until = known_end.unwrap_or(octets);
        let mut side = SideWriter::create(disk, number);
        let bad = scan(file, self.magic, until, &mut |offset, head| {
            side.add(offset, head.octets());
            self.record(Place { segment: number, offset }, head);
        })
        .map_err(failed)?;
        let path = disk.path(&log_name(number));
        // Where nobody knows the end, the file's unused room is no damage.
        for bad in bad.iter().filter(|bad| known_end.is_some() || bad.end < until) {
            let octets = bad.end - bad.start;
            self.damage.push(format!(
                "{} at octet {}: {octets} octets are damaged",
                path.display(),
                bad.start
            ));
        }
        if octets < until {
            self.damage.push(cut_short(disk, number, octets, until));
        }
        let end = match bad.last() {
            Some(bad) if known_end.is_none() && bad.end == until => bad.start,
            _ => until,
        };
        side.finish(end.max(START));
        Ok(end.max(START))
    }

    fn record(&mut self, place: Place, head: &Head) {
        if head.header.kind != Kind::Synced {
            self.closed = None;
        }
        let read = match head.header.kind {
            Kind::Synced => Ok(()),
            Kind::Accepted => {
                wire::Accepted::decode(head.meta()).map(|record| self.accepted(place, head, &record))
            }
            Kind::Kept => wire::Kept::decode(head.meta()).map(|record| self.kept(place, head, &record)),
            Kind::Change => wire::Change::decode(head.meta()).map(|record| self.change(place, head, &record)),
            Kind::Gone => wire::Jobs::decode(head.meta()).map(|record| self.gone(&record)),
            Kind::Mark => wire::Mark::decode(head.meta()).map(|record| self.mark(&record)),
            Kind::Reclaimed => wire::Reclaimed::decode(head.meta())
                .map(|record| self.reclaimed = self.reclaimed.max(record.up_to)),
            Kind::Closed => wire::Jobs::decode(head.meta()).map(|record| self.closed = Some(record.packed)),
        };
        if let Err(error) = read {
            let path = self.disk.path(&log_name(place.segment));
            self.damage.push(format!("{} at octet {}: {error}", path.display(), place.offset));
        }
    }

    fn message(&mut self, place: Place, head: &Head, message: Option<&wire::Message>) -> u32 {
        let id = QueueId::from_bits(head.header.subject);
        let account = message.map_or("", |message| &message.account_id);
        let octets = head.header.record_octets();
        self.index.insert_message(id, place, octets, head.octets().len(), account)
    }

    fn accepted(&mut self, place: Place, head: &Head, record: &wire::Accepted) {
        if self.index.find_message(QueueId::from_bits(head.header.subject)).is_some()
            || record.jobs.is_empty()
        {
            return;
        }
        let message = self.message(place, head, record.message.as_ref());
        let due = record.message.as_ref().and_then(|message| message.not_before_ms).map(Timestamp);
        for (group, number) in record.jobs.iter().zip(0..) {
            let host = host_of(&group.recipients);
            self.index.insert_job(message, NewJobEntry { number, report: 0, reports: 0, host, due });
        }
    }

    fn kept(&mut self, place: Place, head: &Head, record: &wire::Kept) {
        if let Some(message) = self.index.find_message(QueueId::from_bits(head.header.subject)) {
            self.index.remove_whole(message);
        }
        if record.states.is_empty() {
            return;
        }
        let message = self.message(place, head, record.message.as_ref());
        for state in &record.states {
            let job = self.index.insert_job(message, entry_of(state));
            if state.answered {
                self.index.set_answered(job);
            }
            if let Some(reason) = &state.hold {
                self.index.set_hold(job, Some(reason));
                self.index.stand(job, Standing::Held);
            }
        }
    }

    fn change(&mut self, place: Place, head: &Head, record: &wire::Change) {
        let queue_id = QueueId::from_bits(head.header.subject);
        let Some(message) = self.index.find_message(queue_id) else {
            return;
        };
        let octets = head.header.record_octets() / record.states.len().max(1) as u64;
        for state in &record.states {
            let id = job_id(queue_id, state.number, state.report);
            let job = match self.index.find_job(id) {
                Some(job) => job,
                // A delivery that isn't there has ended.
                None if id.report.is_none() => continue,
                None => self.index.insert_job(message, entry_of(state)),
            };
            self.index.set_state(job, place, octets);
            self.index.job_mut(job).reports = u16::try_from(state.reports).unwrap_or(u16::MAX);
            match state.due_at_ms {
                Some(due) => self.index.make_wait(job, Timestamp(due)),
                None if state.report.is_some() => {}
                None => self.index.make_ready(job),
            }
        }
        for gone in &record.gone {
            if let Some(job) = self.index.find_job(job_id(queue_id, gone.number, gone.report)) {
                self.index.remove_job(job);
            }
        }
    }

    fn gone(&mut self, record: &wire::Jobs) {
        for id in unpack(&record.packed) {
            if let Some(job) = self.index.find_job(id) {
                self.index.remove_job(job);
            }
        }
    }

    fn mark(&mut self, record: &wire::Mark) {
        for id in unpack(&record.packed) {
            let Some(job) = self.index.find_job(id) else {
                continue;
            };
            self.index.set_hold(job, record.hold.as_deref());
            self.index.make_ready(job);
        }
    }

    /// Everything that counts has been copied out of these; their files only weren't removed any more.
    fn drop_reclaimed(&mut self) {
        let leftovers: Vec<u32> =
            self.index.segments.range(..=self.reclaimed).map(|(number, _)| *number).collect();
        for number in leftovers {
            let mut messages = Vec::new();
            self.index.collect_messages(number, 0..u32::MAX, &mut messages);
            for message in messages {
                self.index.remove_whole(message);
            }
            self.index.segments.remove(&number);
            let _ = self.disk.remove(&log_name(number));
            let _ = self.disk.remove(&side_name(number));
        }
    }

    /// Somebody may have held a job when everything stopped, unless it waited or the last life ended in order.
    fn suspect(&mut self, now: Timestamp) {
        let known: Option<HashSet<JobId>> = self.closed.take().map(|packed| unpack(&packed).collect());
        let messages: Vec<u32> =
            self.index.messages_from(std::ops::Bound::Unbounded).map(|(_, message)| message).collect();
        for message in messages {
            for job in self.index.jobs_of(message) {
                let entry = self.index.job(job);
                let waits = entry.standing == Standing::Waiting && entry.at > now;
                let suspect = match &known {
                    Some(known) => !known.is_empty() && known.contains(&self.index.job_id(job)),
                    None => !waits,
                };
                self.index.job_mut(job).redelivered = suspect;
            }
        }
    }
}

fn entry_of(state: &wire::State) -> NewJobEntry<'_> {
    let number = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    NewJobEntry {
        number: number(state.number),
        report: state.report.map_or(0, number),
        reports: number(state.reports),
        host: &state.host,
        due: state.due_at_ms.map(Timestamp),
    }
}

fn job_id(queue_id: QueueId, number: u32, report: Option<u32>) -> JobId {
    let narrow = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    JobId { queue_id, number: narrow(number), report: report.map(narrow) }
}
