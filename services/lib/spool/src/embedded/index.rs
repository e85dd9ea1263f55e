//! What is queued, in memory: who waits where, and where on disk the rest of it is.
//!
//! A million jobs must fit beside everything else, so that a message and its job take some 150 octets here; envelopes and
//! content stay on disk. [`Order`] says who is next, the heaps when waits and leases end; `standing` moves jobs between them.

mod cache;
mod interner;
mod order;
mod slab;
mod standing;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

use mail::{JobId, QueueId, Timestamp};

use cache::Cache;
pub(super) use cache::Cached;
use interner::Interner;
use order::Order;
use slab::Slab;

pub(super) const NONE: u32 = u32::MAX;
/// Room that is kept for what becomes of a job: a retry's record of one recipient with a remote's reply and a signature.
const JOB_OWED: u64 = 2 * 1024;

/// Where a record begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

impl Place {
    const NOWHERE: Self = Self { segment: 0, offset: 0 };
}

impl Default for MessageEntry {
    fn default() -> Self {
        Self {
            id: QueueId::from_bits(0),
            place: Place::NOWHERE,
            octets: 0,
            head_octets: 0,
            account: NONE,
            first_job: NONE,
        }
    }
}

/// A job together with the use that is made of it; no longer valid once somebody else has leased it or it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) job: u32,
    pub(super) generation: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    #[default]
    Ready,
    Waiting,
    Held,
    Leased,
    /// What became of it is being written: it neither lapses nor is leased.
    Settling,
}

#[derive(Clone, Debug)]
pub(super) struct MessageEntry {
    pub(super) id: QueueId,
    pub(super) place: Place,
    pub(super) octets: u32,
    pub(super) head_octets: u32,
    account: u32,
    first_job: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct JobEntry {
    /// When it is due, while it waits; when its lease ends, while it is leased.
    pub(super) at: Timestamp,
    pub(super) message: u32,
    sibling: u32,
    /// Its neighbours in the list of those who are ready.
    next: u32,
    previous: u32,
    host: u32,
    /// Why it is held; 0 when it isn't.
    hold: u32,
    pub(super) generation: u32,
    /// The record with its latest state; nowhere while the message's own record says it all.
    state: Place,
    state_octets: u32,
    pub(super) number: u16,
    /// 0 for a delivery.
    pub(super) report: u16,
    /// How many reports it has brought forth.
    pub(super) reports: u16,
    pub(super) standing: Standing,
    fresh: bool,
    pub(super) redelivered: bool,
    /// Its lease was dropped while a change was being written.
    pub(super) dropped: bool,
}

impl JobEntry {
    pub(super) fn state(&self) -> Option<Place> {
        (self.state != Place::NOWHERE).then_some(self.state)
    }

    pub(super) fn report(&self) -> Option<u16> {
        (self.report > 0).then_some(self.report)
    }

    pub(super) fn is_held(&self) -> bool {
        self.hold > 0
    }
}

/// What is to be known of a job for reading it.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) claim: Claim,
    pub(super) id: JobId,
    pub(super) place: Place,
    pub(super) octets: u32,
    pub(super) head_octets: u32,
    pub(super) state: Option<Place>,
    pub(super) reports: u16,
    pub(super) redelivered: bool,
    pub(super) standing: Standing,
    pub(super) at: Timestamp,
    pub(super) hold: Option<Arc<str>>,
    pub(super) cached: Option<Arc<Cached>>,
}

/// A segment's octets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SegmentUse {
    pub(super) end: u64,
    /// Of records that are still needed.
    pub(super) live: u64,
}

pub(super) struct Index {
    messages: Slab<MessageEntry>,
    jobs: Slab<JobEntry>,
    by_id: BTreeMap<QueueId, u32>,
    accounts: Interner,
    hosts: Interner,
    reasons: Interner,
    order: Order,
    waits: BinaryHeap<Reverse<(Timestamp, u32, u32)>>,
    leases: BinaryHeap<Reverse<(Timestamp, u32, u32)>>,
    /// By the queue id of the DSN that a queued report will become: whether that was accepted before.
    answered: HashMap<QueueId, bool>,
    pub(super) segments: BTreeMap<u32, SegmentUse>,
    pub(super) cache: Cache,
    counts: [u64; 5],
    owed: u64,
    generation: u32,
    /// Until all records are read, nobody is put into any order.
    arranged: bool,
}

/// A job of a message that is put in.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewJobEntry<'a> {
    pub(super) number: u16,
    pub(super) report: u16,
    pub(super) reports: u16,
    pub(super) host: &'a str,
    pub(super) due: Option<Timestamp>,
}

impl Index {
    pub(super) fn new(lanes: u16, cache_octets: u64) -> Self {
        let mut reasons = Interner::default();
        // Number 0 says that there is none.
        reasons.take("");
        Self {
            messages: Slab::default(),
            jobs: Slab::default(),
            by_id: BTreeMap::new(),
            accounts: Interner::default(),
            hosts: Interner::default(),
            reasons,
            order: Order::new(lanes),
            waits: BinaryHeap::new(),
            leases: BinaryHeap::new(),
            answered: HashMap::new(),
            segments: BTreeMap::new(),
            cache: Cache::new(cache_octets),
            counts: [0; 5],
            owed: 0,
            generation: 0,
            arranged: false,
        }
    }

    // Messages and jobs.

    /// Puts a message in that isn't there; its jobs follow.
    pub(super) fn insert_message(
        &mut self,
        id: QueueId,
        place: Place,
        octets: u64,
        head_octets: usize,
        account: &str,
    ) -> u32 {
        let account = self.accounts.take(account);
        let octets = u32::try_from(octets).unwrap_or(u32::MAX);
        let head_octets = u32::try_from(head_octets).unwrap_or(u32::MAX);
        let entry = MessageEntry { id, place, octets, head_octets, account, first_job: NONE };
        self.owed += u64::from(head_octets);
        self.add_live(place.segment, octets);
        let slot = self.messages.insert(entry);
        self.by_id.insert(id, slot);
        if let Some(answered) = self.answered.get_mut(&id) {
            *answered = true;
        }
        slot
    }

    pub(super) fn insert_job(&mut self, message: u32, new: NewJobEntry<'_>) -> u32 {
        let host = self.hosts.take(new.host);
        let sibling = self.messages[message].first_job;
        let generation = self.next_generation();
        let job = self.jobs.insert(JobEntry {
            at: new.due.unwrap_or_default(),
            message,
            sibling,
            next: NONE,
            previous: NONE,
            host,
            hold: 0,
            generation,
            state: Place::NOWHERE,
            state_octets: 0,
            number: new.number,
            report: new.report,
            reports: new.reports,
            standing: Standing::Settling,
            fresh: new.due.is_none() && new.report == 0,
            redelivered: false,
            dropped: false,
        });
        self.counts[Standing::Settling as usize] += 1;
        self.owed += JOB_OWED;
        self.messages[message].first_job = job;
        if new.report > 0 {
            self.answered.entry(QueueId::derived_from(self.job_id(job))).or_default();
        }
        let standing = if new.due.is_some() { Standing::Waiting } else { Standing::Ready };
        self.stand(job, standing);
        job
    }

    /// Takes a job out, and its message with the last one.
    pub(super) fn remove_job(&mut self, job: u32) {
        self.leave(job);
        self.set_hold(job, None);
        self.give_up_state(job);
        let entry = self.jobs[job].clone();
        if entry.report > 0 {
            self.answered.remove(&QueueId::derived_from(self.job_id(job)));
        }
        self.counts[entry.standing as usize] -= 1;
        self.hosts.give_back(entry.host);
        self.owed -= JOB_OWED;
        self.jobs.remove(job);
        let message = entry.message;
        if self.messages[message].first_job == job {
            self.messages[message].first_job = entry.sibling;
        } else {
            let mut before = self.messages[message].first_job;
            while self.jobs[before].sibling != job {
                before = self.jobs[before].sibling;
            }
            self.jobs[before].sibling = entry.sibling;
        }
        if self.messages[message].first_job == NONE {
            self.remove_message(message);
        }
    }

    fn remove_message(&mut self, message: u32) {
        let entry = self.messages[message].clone();
        self.take_live(entry.place.segment, entry.octets);
        self.owed -= u64::from(entry.head_octets);
        self.by_id.remove(&entry.id);
        self.accounts.give_back(entry.account);
        self.cache.remove(message);
        self.messages.remove(message);
    }

    /// Takes a message out with all its jobs.
    pub(super) fn remove_whole(&mut self, message: u32) {
        for job in self.jobs_of(message) {
            self.remove_job(job);
        }
    }

    pub(super) fn find_message(&self, id: QueueId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn find_job(&self, id: JobId) -> Option<u32> {
        let message = self.find_message(id.queue_id)?;
        let named = (id.number, id.report.unwrap_or(0));
        let mut job = self.messages[message].first_job;
        while job != NONE && (self.jobs[job].number, self.jobs[job].report) != named {
            job = self.jobs[job].sibling;
        }
        (job != NONE).then_some(job)
    }

    /// Whether this queue id must not be kept a second time.
    pub(super) fn knows(&self, id: QueueId) -> bool {
        self.by_id.contains_key(&id) || self.answered.get(&id).copied().unwrap_or(false)
    }

    pub(super) fn is_answered(&self, job: u32) -> bool {
        self.answered.get(&QueueId::derived_from(self.job_id(job))).copied().unwrap_or(false)
    }

    pub(super) fn set_answered(&mut self, job: u32) {
        if let Some(answered) = self.answered.get_mut(&QueueId::derived_from(self.job_id(job))) {
            *answered = true;
        }
    }

    pub(super) fn message(&self, message: u32) -> &MessageEntry {
        &self.messages[message]
    }

    pub(super) fn job(&self, job: u32) -> &JobEntry {
        &self.jobs[job]
    }

    pub(super) fn job_mut(&mut self, job: u32) -> &mut JobEntry {
        &mut self.jobs[job]
    }

    /// In order of their ids.
    pub(super) fn jobs_of(&self, message: u32) -> Vec<u32> {
        let mut jobs = Vec::new();
        let mut job = self.messages[message].first_job;
        while job != NONE {
            jobs.push(job);
            job = self.jobs[job].sibling;
        }
        jobs.sort_unstable_by_key(|job| (self.jobs[*job].number, self.jobs[*job].report));
        jobs
    }

    pub(super) fn job_id(&self, job: u32) -> JobId {
        let entry = &self.jobs[job];
        JobId { queue_id: self.messages[entry.message].id, number: entry.number, report: entry.report() }
    }

    pub(super) fn host(&self, job: u32) -> &str {
        self.hosts.text(self.jobs[job].host)
    }

    pub(super) fn hold(&self, job: u32) -> Option<Arc<str>> {
        self.jobs[job].is_held().then(|| Arc::clone(self.reasons.text(self.jobs[job].hold)))
    }

    /// The interned number of an account or a host, for comparing many.
    pub(super) fn account_number(&self, account: &str) -> Option<u32> {
        self.accounts.find(account)
    }

    pub(super) fn host_number(&self, host: &str) -> Option<u32> {
        self.hosts.find(host)
    }

    pub(super) fn is_of_account(&self, message: u32, account: u32) -> bool {
        self.messages[message].account == account
    }

    pub(super) fn is_for_host(&self, job: u32, host: u32) -> bool {
        self.jobs[job].host == host
    }

    /// Messages after this id, or from it on.
    pub(super) fn messages_from(&self, id: std::ops::Bound<QueueId>) -> impl Iterator<Item = (QueueId, u32)> {
        self.by_id.range((id, std::ops::Bound::Unbounded)).map(|(id, slot)| (*id, *slot))
    }

    /// Adds those of these messages whose record is in the segment; says whether there are no more.
    pub(super) fn collect_messages(
        &self,
        segment: u32,
        range: std::ops::Range<u32>,
        found: &mut Vec<u32>,
    ) -> bool {
        for message in range {
            match self.messages.find(message) {
                None => return true,
                // A free place is in no segment.
                Some(entry) if entry.place.segment == segment => found.push(message),
                Some(_) => {}
            }
        }
        false
    }

    // Places on disk.

    /// A job's latest state is in this record, of which so many octets are its own.
    pub(super) fn set_state(&mut self, job: u32, place: Place, octets: u64) {
        self.give_up_state(job);
        let octets = u32::try_from(octets).unwrap_or(u32::MAX);
        self.add_live(place.segment, octets);
        let entry = &mut self.jobs[job];
        entry.state = place;
        entry.state_octets = octets;
    }

    /// A job's latest state is in its message's record again.
    pub(super) fn give_up_state(&mut self, job: u32) {
        let (place, octets) = (self.jobs[job].state, self.jobs[job].state_octets);
        if place != Place::NOWHERE {
            self.take_live(place.segment, octets);
            self.jobs[job].state = Place::NOWHERE;
            self.jobs[job].state_octets = 0;
        }
    }

    /// A message's record is another one now.
    pub(super) fn relocate(&mut self, message: u32, place: Place, octets: u64, head_octets: usize) {
        let old = self.messages[message].clone();
        self.take_live(old.place.segment, old.octets);
        let entry = &mut self.messages[message];
        entry.place = place;
        entry.octets = u32::try_from(octets).unwrap_or(u32::MAX);
        entry.head_octets = u32::try_from(head_octets).unwrap_or(u32::MAX);
        let (octets, head_octets) = (entry.octets, entry.head_octets);
        self.owed = self.owed + u64::from(head_octets) - u64::from(old.head_octets);
        self.add_live(place.segment, octets);
    }

    fn add_live(&mut self, segment: u32, octets: u32) {
        self.segments.entry(segment).or_default().live += u64::from(octets);
    }

    fn take_live(&mut self, segment: u32, octets: u32) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.live = segment.live.saturating_sub(octets.into());
        }
    }

    /// Octets of all segments, and those of them that are still needed.
    pub(super) fn octets(&self) -> (u64, u64) {
        let sum = |sum: (u64, u64), segment: &SegmentUse| (sum.0 + segment.end, sum.1 + segment.live);
        self.segments.values().fold((0, 0), sum)
    }

    /// Room that must be left for what becomes of all that is queued.
    pub(super) fn owed(&self) -> u64 {
        self.owed
    }

    // Figures.

    pub(super) fn count(&self, standing: Standing) -> u64 {
        self.counts[standing as usize]
    }

    /// Hosts with their number of jobs, those with most first.
    pub(super) fn busiest_hosts(&self, most: usize) -> Vec<(String, u64)> {
        let mut hosts: Vec<(&str, u32)> = self.hosts.uses().filter(|(host, _)| !host.is_empty()).collect();
        hosts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        hosts.truncate(most);
        hosts.into_iter().map(|(host, jobs)| (host.to_owned(), jobs.into())).collect()
    }
}
