//! How a record lies in a segment.
//!
//! ```text
//!   0 magic 8 | kind 1 | version 1 | 0 0 | meta octets u32 | content octets u64 | subject 16 | crc of these 40
//!  44 crc of checksums and meta
//!  48 checksums: one crc of every 256 KiB of content | meta (protobuf) | content
//! ```
//!
//! Numbers are little end first. The subject is the queue id of the message that the record is about, or 0. Content has
//! its own checksums, so that envelopes are read without it and 30 MB of it are checked piece by piece. After damage the
//! next record is found by the magic, which is chance and a store's own: no sender can put a record into a message.

use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::{Bytes, BytesMut};

/// Octets before the checksums.
pub(super) const HEADER_OCTETS: usize = 48;
/// Octets of content that share a checksum; also the largest piece that a lease gives.
pub(super) const BLOCK_OCTETS: u64 = 256 * 1024;
/// A record is smaller than this, so that places within a segment fit 32 bits.
pub(super) const RECORD_OCTETS_MAX: u64 = 1 << 30;
/// A header that claims more meta than this is taken for chance octets. 1,000 jobs of 100 recipients take some 30 MiB.
const META_OCTETS_MAX: u32 = 256 << 20;

const VERSION: u8 = 1;

/// What the records of one store begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Magic(pub(super) [u8; 8]);

impl Magic {
    pub(super) fn new() -> Self {
        Self(RandomState::new().build_hasher().finish().to_le_bytes())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message as it was accepted.
    Accepted = 1,
    /// A message as it stood when its older records were given up.
    Kept = 2,
    /// One settlement of one job.
    Change = 3,
    /// Jobs that ended.
    Gone = 4,
    /// Jobs that are held or released.
    Mark = 5,
    /// All before this record was durable when it was written.
    Synced = 6,
    /// Older segments no longer count.
    Reclaimed = 7,
    /// The store was closed in order; names the jobs that somebody had held before.
    Closed = 8,
}

impl Kind {
    fn from_octet(octet: u8) -> Option<Self> {
        Some(match octet {
            1 => Self::Accepted,
            2 => Self::Kept,
            3 => Self::Change,
            4 => Self::Gone,
            5 => Self::Mark,
            6 => Self::Synced,
            7 => Self::Reclaimed,
            8 => Self::Closed,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) meta_octets: u32,
    pub(super) content_octets: u64,
    pub(super) subject: u128,
    head_crc: u32,
}

impl Header {
    /// The header that these octets begin with, if they are one.
    pub(super) fn parse(magic: Magic, octets: &[u8]) -> Option<Self> {
        let octets = octets.first_chunk::<HEADER_OCTETS>()?;
        if octets[..8] != magic.0
            || octets[9] != VERSION
            || crc32fast::hash(&octets[..40]) != u32_at(octets, 40)
        {
            return None;
        }
        let header = Self {
            kind: Kind::from_octet(octets[8])?,
            meta_octets: u32_at(octets, 12),
            content_octets: u64::from(u32_at(octets, 16)) | u64::from(u32_at(octets, 20)) << 32,
            subject: octets[24..40].iter().rev().fold(0, |sum, octet| sum << 8 | u128::from(*octet)),
            head_crc: u32_at(octets, 44),
        };
        let plausible = header.meta_octets <= META_OCTETS_MAX && header.content_octets < RECORD_OCTETS_MAX;
        plausible.then_some(header)
    }

    fn checksums_octets(&self) -> usize {
        4 * checksums(self.content_octets)
    }

    /// Octets before the content.
    pub(super) fn head_octets(&self) -> usize {
        HEADER_OCTETS + self.checksums_octets() + self.meta_octets as usize
    }

    pub(super) fn record_octets(&self) -> u64 {
        self.head_octets() as u64 + self.content_octets
    }
}

/// The part of a record before its content, checked.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) header: Header,
    octets: Bytes,
}

impl Head {
    /// The head that these octets begin with, if they are one.
    pub(super) fn parse(magic: Magic, octets: &Bytes) -> Option<Self> {
        let header = Header::parse(magic, octets)?;
        let octets = octets.get(..header.head_octets()).map(|head| octets.slice_ref(head))?;
        (crc32fast::hash(&octets[HEADER_OCTETS..]) == header.head_crc).then_some(Self { header, octets })
    }

    pub(super) fn octets(&self) -> &Bytes {
        &self.octets
    }

    pub(super) fn meta(&self) -> Bytes {
        self.octets.slice(HEADER_OCTETS + self.header.checksums_octets()..)
    }

    pub(super) fn checksums(&self) -> Vec<u32> {
        let table = &self.octets[HEADER_OCTETS..HEADER_OCTETS + self.header.checksums_octets()];
        table.chunks_exact(4).map(|octets| u32_at(octets, 0)).collect()
    }

    /// Whether `block` is the `number`-th block of the content.
    pub(super) fn is_block(&self, number: u64, block: &[u8]) -> bool {
        let place = HEADER_OCTETS + 4 * usize::try_from(number).unwrap_or(usize::MAX / 8);
        number < checksums(self.header.content_octets) as u64
            && u32_at(&self.octets, place) == crc32fast::hash(block)
    }
}

/// A record ready to be written.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// Octets before the content.
    pub(super) head_octets: usize,
    /// The head, and the content too where it is one block at most: most records are one piece.
    first: Bytes,
    rest: Vec<Bytes>,
}

impl Frame {
    /// A record without content.
    pub(super) fn new(magic: Magic, kind: Kind, subject: u128, meta: &impl prost::Message) -> Self {
        Self::with_content(magic, kind, subject, meta, &[], &[])
    }

    /// A record with content, whose blocks have these `checksums`.
    pub(super) fn with_content(
        magic: Magic,
        kind: Kind,
        subject: u128,
        meta: &impl prost::Message,
        checksums: &[u32],
        content: &[Bytes],
    ) -> Self {
        let content_octets: usize = content.iter().map(Bytes::len).sum();
        let meta_octets = meta.encoded_len();
        let head_octets = HEADER_OCTETS + 4 * checksums.len() + meta_octets;
        let joined = if checksums.len() <= 1 { content } else { &[] };
        let room = head_octets + joined.iter().map(Bytes::len).sum::<usize>();
        let mut octets = BytesMut::with_capacity(room);
        octets.extend_from_slice(&magic.0);
        octets.extend_from_slice(&[kind as u8, VERSION, 0, 0]);
        octets.extend_from_slice(&u32::try_from(meta_octets).unwrap_or(u32::MAX).to_le_bytes());
        octets.extend_from_slice(&(content_octets as u64).to_le_bytes());
        octets.extend_from_slice(&subject.to_le_bytes());
        octets.extend_from_slice(&crc32fast::hash(&octets[..40]).to_le_bytes());
        octets.extend_from_slice(&[0; 4]);
        for checksum in checksums {
            octets.extend_from_slice(&checksum.to_le_bytes());
        }
        meta.encode_raw(&mut octets);
        let crc = crc32fast::hash(&octets[HEADER_OCTETS..]);
        octets[44..48].copy_from_slice(&crc.to_le_bytes());
        for piece in joined {
            octets.extend_from_slice(piece);
        }
        let rest = if joined.is_empty() { content.to_vec() } else { Vec::new() };
        Self { head_octets, first: octets.freeze(), rest }
    }

    pub(super) fn octets(&self) -> u64 {
        self.first.len() as u64 + self.rest.iter().map(|piece| piece.len() as u64).sum::<u64>()
    }

    pub(super) fn head(&self) -> &[u8] {
        &self.first[..self.head_octets]
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.first).chain(&self.rest).map(Bytes::as_ref)
    }

    /// The content where it is at most one block; else nothing.
    pub(super) fn content(&self) -> Option<Bytes> {
        self.rest.is_empty().then(|| self.first.slice(self.head_octets..))
    }
}

/// How many checksums content of so many octets has.
pub(super) fn checksums(content_octets: u64) -> usize {
    usize::try_from(content_octets.div_ceil(BLOCK_OCTETS)).unwrap_or(usize::MAX)
}

/// Takes the checksums of content whose pieces are cut anywhere.
#[derive(Default)]
pub(super) struct Checksums {
    done: Vec<u32>,
    open: crc32fast::Hasher,
    open_octets: u64,
}

impl Checksums {
    pub(super) fn add(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let room = usize::try_from(BLOCK_OCTETS - self.open_octets).unwrap_or(usize::MAX);
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.open.update(now);
            self.open_octets += now.len() as u64;
            if self.open_octets == BLOCK_OCTETS {
                self.close_block();
            }
            piece = later;
        }
    }

    pub(super) fn finish(mut self) -> Vec<u32> {
        if self.open_octets > 0 {
            self.close_block();
        }
        self.done
    }

    fn close_block(&mut self) {
        self.done.push(std::mem::take(&mut self.open).finalize());
        self.open_octets = 0;
    }
}

fn u32_at(octets: &[u8], place: usize) -> u32 {
    octets.get(place..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::spool::v1::Jobs;

    use super::*;

    const MAGIC: Magic = Magic(*b"\xf5example");

    fn whole(frame: &Frame) -> Bytes {
        frame.pieces().flatten().copied().collect::<Vec<u8>>().into()
    }

    proptest! {
        #[test]
        fn a_changed_octet_of_a_head_is_seen(place in 0usize..200, change in 1u8.., subject: u128) {
            let frame = Frame::new(MAGIC, Kind::Gone, subject, &Jobs { packed: vec![7; 150].into() });
            let octets = whole(&frame);
            let head = Head::parse(MAGIC, &octets).unwrap();
            prop_assert_eq!((head.header.subject, head.header.record_octets()), (subject, frame.octets()));
            let mut damaged = octets.to_vec();
            // Two octets of the header are reserved; they are covered too.
            let place = place.min(damaged.len() - 1);
            damaged[place] ^= change;
            prop_assert!(Head::parse(MAGIC, &damaged.into()).is_none());
        }

        #[test]
        fn checksums_do_not_depend_on_the_cut(cuts in proptest::collection::vec(0usize..600_000, 0..6)) {
            let content: Vec<u8> = (0..600_000u32).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut sums = Checksums::default();
            let mut from = 0;
            for cut in cuts {
                sums.add(&content[from..cut]);
                from = cut;
            }
            sums.add(&content[from..]);
            let sums = sums.finish();
            let frame = Frame::with_content(
                MAGIC, Kind::Accepted, 1, &Jobs::default(), &sums, &[content.clone().into()],
            );
            let head = Head::parse(MAGIC, &whole(&frame)).unwrap();
            for (number, block) in content.chunks(BLOCK_OCTETS as usize).enumerate() {
                prop_assert!(head.is_block(number as u64, block));
                prop_assert!(!head.is_block(number as u64 + 1, block));
            }
        }
    }
}
