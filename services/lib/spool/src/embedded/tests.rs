//! Crashes, damage and want of room, on a disk in memory.

mod crash;
mod damage;
mod failing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use mail::{
    AccountId, BodyKind, Disposition, Job, JobId, JobKind, Message, QueueId, Recipient, RecipientResult,
    Timestamp, TlsRequirement,
};
use smtp::address::{Address, ReversePath, Utf8};
use smtp::reply::EnhancedCode;

use super::faults::MemoryDisk;
use super::{Embedded, EventSettings, Settings};
use crate::{Content, Entry, EntryState, Lease, NewJob, NewMessage, Origin, Query, Spool};

/// Small enough that segments end and are reclaimed all the time.
const SETTINGS: Settings = Settings {
    segment_octets: 4_096,
    octets_max: 0,
    reserve_octets: 8_192,
    dead_octets_max: 4_096,
    cache_octets: 16_384,
    lanes: 2,
    lease_secs: 90,
    events: EventSettings { file_octets: 4_096, octets_max: 65_536, age_max_secs: 86_400 },
};

#[derive(Clone)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_000_000)))
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn advance(&self, millis: u64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

fn open(disk: &MemoryDisk, clock: &Clock) -> Embedded {
    open_with(disk, clock, SETTINGS)
}

fn open_with(disk: &MemoryDisk, clock: &Clock, settings: Settings) -> Embedded {
    let clock = clock.clone();
    let events = Arc::new(MemoryDisk::new());
    Embedded::on(Arc::new(disk.clone()), events, settings, Arc::new(move || clock.now())).unwrap()
}

/// The number of a message is in its id, its content follows from it.
fn message(number: u64, jobs: u16, octets: usize) -> NewMessage {
    let mut chance = [0; 10];
    chance[2..].copy_from_slice(&number.to_be_bytes());
    let sender = ReversePath::Mailbox(Address::parse("sender@sender.example", Utf8::Refused).unwrap());
    let content = content(number, octets);
    let message = Message {
        queue_id: QueueId::new(Timestamp(1), chance),
        account: AccountId::new(if number.is_multiple_of(3) { "a" } else { "b" }).unwrap(),
        original_reverse_path: sender.clone(),
        reverse_path: sender,
        author_domain: "sender.example".parse().unwrap(),
        ret: None,
        envid: None,
        body_kind: BodyKind::SevenBit,
        smtputf8: false,
        message_id: "<1@sender.example>".into(),
        header_octets: 0,
        octets: content.len() as u64,
        body_hash: [0; 32],
        tls: TlsRequirement::Opportunistic,
        tags: Vec::new(),
        metadata: Vec::new(),
        egress_pool: None,
        accepted_at: Timestamp(1),
        not_before: None,
        expires_at: Timestamp(u64::MAX),
        trace_context: None,
    };
    let recipient = |text: String| Recipient::new(Address::parse(&text, Utf8::Refused).unwrap());
    let job = |number| NewJob {
        recipients: ["x", "y"].map(|local| recipient(format!("{local}@host{number}.example"))).into(),
    };
    NewMessage {
        origin: Origin::Submission,
        message,
        jobs: (0..jobs).map(job).collect(),
        content: Content { pieces: vec![content] },
    }
}

fn content(number: u64, octets: usize) -> Bytes {
    let octet = |place: usize| (number as usize).wrapping_mul(31).wrapping_add(place) as u8;
    (0..octets).map(octet).collect::<Vec<u8>>().into()
}

fn failure(recipient: &Recipient) -> RecipientResult {
    RecipientResult {
        recipient: recipient.clone(),
        disposition: Disposition::Bounced,
        status: EnhancedCode::new(5, 1, 1),
        remote: None,
        reason: "no such user".into(),
        at: Timestamp(2),
    }
}

fn recipients(job: &Job) -> Vec<Recipient> {
    match &job.kind {
        JobKind::Delivery { recipients } => recipients.clone(),
        JobKind::Report { .. } => Vec::new(),
    }
}

/// All that is queued.
async fn entries(spool: &Embedded) -> BTreeMap<JobId, Entry> {
    let query = Query { limit: usize::MAX, ..Query::default() };
    spool.look(query).await.unwrap().into_iter().map(|entry| (entry.job.id, entry)).collect()
}

/// All content is what it was, as far as it is ready.
async fn check_content(spool: &Embedded) {
    let ready = entries(spool).await.into_values().filter(|entry| entry.state == EntryState::Ready).count();
    let mut leases = Vec::new();
    while leases.len() < ready {
        leases.extend(spool.lease(64).await);
    }
    for lease in leases {
        let octets = lease.job().message.octets as usize;
        let number = lease.job().id.queue_id.to_bits() as u64;
        let mut read = Vec::new();
        while read.len() < octets {
            read.extend_from_slice(&lease.content(read.len() as u64).await.unwrap());
        }
        assert!(read == content(number, octets), "the content of {} has changed", lease.job().id);
    }
}
