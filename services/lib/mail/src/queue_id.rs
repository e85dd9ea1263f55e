//! Queue ids and job ids: our names for a message and for its parts.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;

use crate::Timestamp;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A message's name inside Stagepost: a ULID, 48 bits of milliseconds and 80 of chance, 26 characters.
///
/// It is ours; the Message-ID field is the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(u128);

/// The text is not 26 characters of Crockford's base 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a queue id: expected 26 characters of 0-9 and A-Z without I, L, O, U, then, for a job, a dot and a number"
)]
pub struct ParseQueueIdError;

impl QueueId {
    /// A queue id for a message accepted at `now`; `random` comes from a secure generator.
    pub fn new(now: Timestamp, random: [u8; 10]) -> Self {
        let chance = random.iter().fold(0u128, |sum, octet| (sum << 8) | u128::from(*octet));
        Self((u128::from(now.0 & 0xffff_ffff_ffff) << 80) | chance)
    }

    /// The queue id of the report that a job gives rise to: the same for the same job, so that a repeated
    /// report is seen as one. It keeps the time of the message it reports on.
    pub fn derived_from(job: JobId) -> Self {
        let hash = digest::digest(&digest::SHA256, job.to_string().as_bytes());
        let mut random = [0; 10];
        random.copy_from_slice(&hash.as_ref()[..10]);
        Self::new(job.queue_id.time(), random)
    }

    /// When the message was accepted.
    pub fn time(self) -> Timestamp {
        Timestamp(u64::try_from(self.0 >> 80).unwrap_or(u64::MAX))
    }

    /// The 128 bits, for stores.
    pub fn to_bits(self) -> u128 {
        self.0
    }

    /// The queue id of these 128 bits.
    pub fn from_bits(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 26];
        for (place, octet) in text.iter_mut().enumerate() {
            let digit = (self.0 >> (5 * (25 - place))) & 31;
            *octet = ALPHABET[digit as usize];
        }
        f.pad(str::from_utf8(&text).unwrap_or_default())
    }
}

impl FromStr for QueueId {
    type Err = ParseQueueIdError;

    fn from_str(text: &str) -> Result<Self, ParseQueueIdError> {
        if text.len() != 26 || text.as_bytes()[0] > b'7' {
            return Err(ParseQueueIdError);
        }
        text.bytes()
            .try_fold(0u128, |sum, octet| {
                let digit = ALPHABET.iter().position(|known| *known == octet.to_ascii_uppercase());
                Ok((sum << 5) | digit.ok_or(ParseQueueIdError)? as u128)
            })
            .map(Self)
    }
}

/// A unit of queue work: a message's recipients at one domain, or a report on them.
///
/// Written `<queue id>.<number>` for a delivery and `<queue id>.<number>-<attempt>` for the report on what
/// that attempt settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    /// The message.
    pub queue_id: QueueId,
    /// Which of its jobs, counted from 0.
    pub number: u16,
    /// For a report: the report's number, unique within the job, counted from 1.
    pub report: Option<u16>,
}

impl JobId {
    /// The `number`-th delivery of a message.
    pub fn delivery(queue_id: QueueId, number: u16) -> Self {
        Self { queue_id, number, report: None }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.queue_id, self.number)?;
        match self.report {
            Some(report) => write!(f, "-{report}"),
            None => Ok(()),
        }
    }
}

impl FromStr for JobId {
    type Err = ParseQueueIdError;

    fn from_str(text: &str) -> Result<Self, ParseQueueIdError> {
        let (queue_id, rest) = text.split_once('.').ok_or(ParseQueueIdError)?;
        let (number, report) = match rest.split_once('-') {
            Some((number, report)) => (number, Some(report.parse().map_err(|_| ParseQueueIdError)?)),
            None => (rest, None),
        };
        let number = number.parse().map_err(|_| ParseQueueIdError)?;
        Ok(Self { queue_id: queue_id.parse()?, number, report })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_queue_id_is_a_ulid_that_tells_its_time() {
        let id = QueueId::new(Timestamp(1_469_918_176_385), [0xff; 10]);
        assert_eq!(id.to_string(), "01ARYZ6S41ZZZZZZZZZZZZZZZZ");
        assert_eq!(id.time(), Timestamp(1_469_918_176_385));
    }

    #[test]
    fn a_report_on_the_same_job_has_the_same_queue_id() {
        let queue_id = QueueId::new(Timestamp(1_000), [7; 10]);
        let job = JobId { queue_id, number: 2, report: Some(1) };
        assert_eq!(QueueId::derived_from(job), QueueId::derived_from(job));
        assert_ne!(QueueId::derived_from(job), QueueId::derived_from(JobId { report: Some(2), ..job }));
    }

    #[test]
    fn what_is_no_queue_id_is_refused() {
        for text in
            ["", "01ARYZ6S41", "81ARYZ6S41ZZZZZZZZZZZZZZZZ", "01ARYZ6S41ZZZZZZZZZZZZZZZU", "éééééééééééééé"]
        {
            assert_eq!(text.parse::<QueueId>(), Err(ParseQueueIdError), "{text}");
        }
        assert!("01ARYZ6S41ZZZZZZZZZZZZZZZZ.x".parse::<JobId>().is_err());
        assert!("01ARYZ6S41ZZZZZZZZZZZZZZZZ".parse::<JobId>().is_err());
    }

    proptest! {
        #[test]
        fn ids_survive_their_text(millis in 0u64..1 << 48, random: [u8; 10], number: u16, report: Option<u16>) {
            let queue_id = QueueId::new(Timestamp(millis), random);
            let job = JobId { queue_id, number, report };
            prop_assert_eq!(queue_id.to_string().parse::<QueueId>().unwrap(), queue_id);
            prop_assert_eq!(job.to_string().parse::<JobId>().unwrap(), job);
        }
    }
}
