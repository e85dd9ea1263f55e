//! Job ids in 20 octets each, for records that only name jobs.

use bytes::{BufMut, Bytes, BytesMut};
use mail::{JobId, QueueId};
use proto::spool::v1 as wire;

const OCTETS: usize = 20;

pub(super) fn pack(jobs: &[JobId]) -> wire::Jobs {
    wire::Jobs { packed: packed(jobs) }
}

pub(super) fn packed(jobs: &[JobId]) -> Bytes {
    let mut octets = BytesMut::with_capacity(jobs.len() * OCTETS);
    for job in jobs {
        octets.put_u128(job.queue_id.to_bits());
        octets.put_u16(job.number);
        octets.put_u16(job.report.unwrap_or(0));
    }
    octets.freeze()
}

pub(super) fn unpack(octets: &[u8]) -> impl Iterator<Item = JobId> {
    octets.chunks_exact(OCTETS).map(|octets| {
        let number = |at: usize| octets[at..].first_chunk().copied().map_or(0, u16::from_be_bytes);
        let bits = octets.first_chunk().copied().map_or(0, u128::from_be_bytes);
        let report = Some(number(18)).filter(|report| *report > 0);
        JobId { queue_id: QueueId::from_bits(bits), number: number(16), report }
    })
}
