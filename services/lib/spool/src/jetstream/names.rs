//! What streams, subjects and consumers are called.
//!
//! ```text
//! <instance>-MAIL-<k>    <instance>.mail.<k>.<lane>.<queue id>.<job>
//! <instance>-RETRY-<k>   <instance>.{sched,due,held}.<k>.<lane>.<queue id>.<job>
//! <instance>-BODY-<k>    <instance>.body.<k>.<queue id>.<chunk>
//! <instance>-EVENTS      <instance>.event.<shard>
//! <instance>-DEAD        <instance>.dead.<k>.<queue id>.<job>, <instance>.dead.foreign.<stream>.<sequence>
//! ```
//!
//! `k` is the partition: all of a message is in one.

use std::fmt;
use std::str::FromStr;

use mail::{AccountId, JobId, QueueId};

/// Stands where a lane would.
const VOID: &str = "void";

/// Where in the two streams of jobs a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Accepted and never settled.
    Mail,
    /// Waits for its time.
    Sched,
    /// Waited, and can be leased.
    Due,
    /// Held until released.
    Held,
}

impl Kind {
    pub(super) const RETRIES: [Self; 3] = [Self::Sched, Self::Due, Self::Held];

    fn token(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::Sched => "sched",
            Self::Due => "due",
            Self::Held => "held",
        }
    }
}

/// A share of the accounts. An account that submits much at a time is moved to its lane's busy side, so that those who share
/// the lane with it don't queue behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Lane {
    pub(super) number: u16,
    pub(super) side: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Side {
    Calm,
    Busy,
}

impl Lane {
    /// The lane of an account.
    pub(super) fn of(account: &AccountId, lanes: u16, side: Side) -> Self {
        let number = crc32fast::hash(account.as_str().as_bytes()) % u32::from(lanes.max(1));
        Self { number: u16::try_from(number).unwrap_or_default(), side }
    }

    /// Both sides of so many lanes.
    pub(super) fn all(lanes: u16) -> impl Iterator<Item = Self> {
        (0..lanes).flat_map(|number| [Side::Calm, Side::Busy].map(|side| Self { number, side }))
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.side {
            Side::Calm => write!(f, "{}", self.number),
            Side::Busy => write!(f, "{}b", self.number),
        }
    }
}

impl FromStr for Lane {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_suffix('b') {
            Some(number) => Ok(Self { number: number.parse()?, side: Side::Busy }),
            None => Ok(Self { number: text.parse()?, side: Side::Calm }),
        }
    }
}

/// A job's place as its subject tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) kind: Kind,
    pub(super) partition: u16,
    pub(super) lane: Lane,
    pub(super) job: JobId,
}

/// The names of one instance.
#[derive(Clone, Debug)]
pub(super) struct Names {
    instance: String,
}

impl Names {
    pub(super) fn new(instance: &str) -> Self {
        Self { instance: instance.to_owned() }
    }

    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    pub(super) fn mail(&self, partition: u16) -> String {
        format!("{}-MAIL-{partition}", self.instance)
    }

    pub(super) fn retry(&self, partition: u16) -> String {
        format!("{}-RETRY-{partition}", self.instance)
    }

    pub(super) fn body(&self, partition: u16) -> String {
        format!("{}-BODY-{partition}", self.instance)
    }

    pub(super) fn dead(&self) -> String {
        format!("{}-DEAD", self.instance)
    }

    /// Where a record of a kind is that only keeps what was to be stored from being stored; no consumer takes it.
    pub(super) fn void(&self, kind: Kind, partition: u16, queue_id: QueueId) -> String {
        let kind = if kind == Kind::Mail { Kind::Mail } else { Kind::Due };
        format!("{}.{}.{partition}.{VOID}.{queue_id}", self.instance, kind.token())
    }

    /// Whether a subject is such a one.
    pub(super) fn is_void(&self, subject: &str) -> bool {
        subject.split('.').nth(3) == Some(VOID)
    }

    /// Everything among the dead letters.
    pub(super) fn all_dead(&self) -> String {
        format!("{}.dead.>", self.instance)
    }

    /// The dead letters of a job.
    pub(super) fn dead_job(&self, partition: u16, job: JobId) -> String {
        format!("{}.dead.{partition}.{job}", self.instance)
    }

    /// The dead letters of a message.
    pub(super) fn dead_message(&self, partition: u16, queue_id: QueueId) -> String {
        format!("{}.dead.{partition}.{queue_id}.*", self.instance)
    }

    /// The dead letter of a record whose subject names no job.
    pub(super) fn dead_foreign(&self, stream: &str, sequence: u64) -> String {
        format!("{}.dead.foreign.{stream}.{sequence}", self.instance)
    }

    pub(super) fn events(&self) -> String {
        format!("{}-EVENTS", self.instance)
    }

    /// A shard of the events, or `*`.
    pub(super) fn event(&self, shard: &str) -> String {
        format!("{}.event.{shard}", self.instance)
    }

    /// The stream of a kind of record.
    pub(super) fn stream(&self, kind: Kind, partition: u16) -> String {
        match kind {
            Kind::Mail => self.mail(partition),
            Kind::Sched | Kind::Due | Kind::Held => self.retry(partition),
        }
    }

    /// The partition that a stream of mail holds, if it is one of ours.
    pub(super) fn partition_of(&self, stream: &str) -> Option<u16> {
        stream.strip_prefix(&self.instance)?.strip_prefix("-MAIL-")?.parse().ok()
    }

    /// Everything of a kind in a partition.
    pub(super) fn all(&self, kind: Kind, partition: u16) -> String {
        format!("{}.{}.{partition}.>", self.instance, kind.token())
    }

    /// A kind's records of one lane.
    pub(super) fn lane(&self, kind: Kind, partition: u16, lane: Lane) -> String {
        format!("{}.{}.{partition}.{lane}.>", self.instance, kind.token())
    }

    /// The durable consumer of a lane.
    pub(super) fn consumer(kind: Kind, lane: Lane) -> String {
        format!("{}-{lane}", kind.token())
    }

    pub(super) fn subject(&self, spot: Spot) -> String {
        let Spot { kind, partition, lane, job } = spot;
        format!("{}.{}.{partition}.{lane}.{job}", self.instance, kind.token())
    }

    /// All records of a message in either stream of jobs.
    pub(super) fn of_message(&self, partition: u16, queue_id: QueueId) -> String {
        format!("{}.*.{partition}.*.{queue_id}.*", self.instance)
    }

    /// All records of a job in either stream.
    pub(super) fn of_job(&self, partition: u16, job: JobId) -> String {
        format!("{}.*.{partition}.*.{job}", self.instance)
    }

    /// All chunks of all contents in a partition.
    pub(super) fn chunks(&self, partition: u16) -> String {
        format!("{}.body.{partition}.>", self.instance)
    }

    pub(super) fn chunks_of(&self, partition: u16, queue_id: QueueId) -> String {
        format!("{}.body.{partition}.{queue_id}.*", self.instance)
    }

    pub(super) fn chunk(&self, partition: u16, queue_id: QueueId, number: u64) -> String {
        format!("{}.body.{partition}.{queue_id}.{number}", self.instance)
    }

    /// Where processes of this instance ask each other.
    pub(super) fn control(&self) -> String {
        format!("{}.control", self.instance)
    }

    /// What a job's subject says; none when it isn't one of ours.
    pub(super) fn parse(&self, subject: &str) -> Option<Spot> {
        let rest = subject.strip_prefix(&self.instance)?.strip_prefix('.')?;
        let mut tokens = rest.splitn(4, '.');
        let kind = match tokens.next()? {
            "mail" => Kind::Mail,
            "sched" => Kind::Sched,
            "due" => Kind::Due,
            "held" => Kind::Held,
            _ => return None,
        };
        let partition = tokens.next()?.parse().ok()?;
        let lane = tokens.next()?.parse().ok()?;
        Some(Spot { kind, partition, lane, job: tokens.next()?.parse().ok()? })
    }
}

/// The partition of a message.
pub(super) fn partition(queue_id: QueueId, partitions: u16) -> u16 {
    let hash = crc32fast::hash(&queue_id.to_bits().to_be_bytes()) % u32::from(partitions.max(1));
    u16::try_from(hash).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use mail::Timestamp;

    use super::*;

    #[test]
    fn a_subject_tells_a_jobs_place() {
        let names = Names::new("stage.post");
        let queue_id = QueueId::new(Timestamp(1_000), [7; 10]);
        for kind in [Kind::Mail, Kind::Sched, Kind::Due, Kind::Held] {
            for job in
                [JobId::delivery(queue_id, 3), JobId { report: Some(2), ..JobId::delivery(queue_id, 3) }]
            {
                for side in [Side::Calm, Side::Busy] {
                    let spot = Spot { kind, partition: 7, lane: Lane { number: 31, side }, job };
                    assert_eq!(names.parse(&names.subject(spot)), Some(spot));
                }
            }
        }
        for text in
            ["other.mail.1.2.X", "stage.post.mail.1", "stage.post.body.1.2.3", "stage.post.mail.1.2.3.4"]
        {
            assert_eq!(names.parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_only_keeps_others_away_is_known() {
        let names = Names::new("a");
        let queue_id = QueueId::new(Timestamp(1_000), [7; 10]);
        for kind in [Kind::Mail, Kind::Sched, Kind::Due] {
            let void = names.void(kind, 3, queue_id);
            assert!(names.is_void(&void) && names.parse(&void).is_none(), "{void}");
        }
        let spot = Spot {
            kind: Kind::Mail,
            partition: 3,
            lane: Lane { number: 1, side: Side::Calm },
            job: JobId::delivery(queue_id, 0),
        };
        assert!(!names.is_void(&names.subject(spot)));
    }

    #[test]
    fn a_stream_tells_its_partition() {
        let names = Names::new("a");
        assert_eq!(names.partition_of(&names.mail(12)), Some(12));
        assert_eq!(names.partition_of(&names.retry(12)), None);
        assert_eq!(names.partition_of("ab-MAIL-1"), None);
    }

    #[test]
    fn messages_and_accounts_are_spread() {
        let mut partitions = [0; 8];
        for number in 0..8_000_u32 {
            let mut chance = [0; 10];
            chance[..4].copy_from_slice(&number.to_be_bytes());
            partitions[usize::from(partition(QueueId::new(Timestamp(5), chance), 8))] += 1;
        }
        assert!(partitions.iter().all(|count| (800..1_200).contains(count)), "{partitions:?}");
        let lane = |name: &str| Lane::of(&AccountId::new(name).unwrap(), 32, Side::Calm).number;
        assert!(
            (0..200)
                .map(|number| lane(&format!("account{number}")))
                .collect::<std::collections::HashSet<_>>()
                .len()
                > 25
        );
    }
}
