//! How events lie in a file.
//!
//! ```text
//! magic 8 | octets of the payload u32 | crc of these and the payload u32 | payload (protobuf `Batch`)
//! ```
//!
//! Numbers are little end first. After damage the next frame is found by the magic, which is chance and the file's own (its
//! name has it): nobody can put a frame into what a server replies.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};

/// Octets before the payload.
const HEADER_OCTETS: usize = 16;
/// What claims more is taken for chance octets.
const PAYLOAD_OCTETS_MAX: usize = 16 << 20;

/// What the frames of one file begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Magic(pub(super) [u8; 8]);

impl Magic {
    pub(super) fn new() -> Self {
        Self(RandomState::new().build_hasher().finish().to_be_bytes())
    }
}

/// A frame but for its magic, which its file decides; none when the payload is too large.
pub(super) fn seal(payload: &[u8]) -> Option<Bytes> {
    let octets = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_OCTETS_MAX)?;
    let mut frame = BytesMut::with_capacity(8 + payload.len());
    frame.put_u32_le(octets);
    frame.put_u32_le(crc(octets.to_le_bytes(), payload));
    frame.put_slice(payload);
    Some(frame.freeze())
}

fn crc(octets: [u8; 4], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&octets);
    crc.update(payload);
    crc.finalize()
}

/// Whether octets follow those at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Follows,
    Nothing,
}

/// What some octets hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Where the payloads are.
    pub(super) payloads: Vec<Range<usize>>,
    /// What belongs to no frame.
    pub(super) gaps: Vec<Range<usize>>,
    /// Octets that are done with; the others begin a frame that isn't whole.
    pub(super) done: usize,
    /// How many octets that frame has.
    pub(super) wanted: usize,
}

enum Start {
    Frame(usize),
    Wants(usize),
    Nothing,
}

fn start(magic: Magic, octets: &[u8]) -> Start {
    let Some(header) = octets.first_chunk::<HEADER_OCTETS>() else { return Start::Wants(HEADER_OCTETS) };
    let [a, b, c, d] = [header[8], header[9], header[10], header[11]];
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if header[..8] != magic.0 || length > PAYLOAD_OCTETS_MAX {
        return Start::Nothing;
    }
    let end = HEADER_OCTETS + length;
    let Some(payload) = octets.get(HEADER_OCTETS..end) else { return Start::Wants(end) };
    let stored = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    if crc([a, b, c, d], payload) == stored { Start::Frame(end) } else { Start::Nothing }
}

/// Finds the frames in octets that begin with one, unless they are damaged.
pub(super) fn scan(magic: Magic, octets: &[u8], rest: Rest) -> Scanned {
    let mut scanned = Scanned::default();
    while scanned.done < octets.len() {
        let from = scanned.done;
        match start(magic, &octets[from..]) {
            Start::Frame(length) => {
                scanned.payloads.push(from + HEADER_OCTETS..from + length);
                scanned.done += length;
                continue;
            }
            Start::Wants(wanted) if rest == Rest::Follows => {
                scanned.wanted = wanted;
                return scanned;
            }
            Start::Wants(_) | Start::Nothing => {}
        }
        let next = octets[from + 1..].windows(8).position(|some| some == magic.0);
        let to = match (next, rest) {
            (Some(place), _) => from + 1 + place,
            (None, Rest::Nothing) => octets.len(),
            // The magic may be cut.
            (None, Rest::Follows) => octets.len().saturating_sub(7).max(from + 1),
        };
        scanned.gaps.push(from..to);
        scanned.done = to;
        if next.is_none() {
            break;
        }
    }
    scanned
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAGIC: Magic = Magic(*b"\xf5example");

    fn frames(payloads: &[Vec<u8>]) -> Vec<u8> {
        payloads.iter().flat_map(|payload| [&MAGIC.0[..], &seal(payload).unwrap()].concat()).collect()
    }

    /// What is found in octets that come in pieces of `step`, as a reader takes them.
    fn read(octets: &[u8], step: usize) -> (Vec<Vec<u8>>, usize) {
        let (mut found, mut lost, mut from, mut size) = (Vec::new(), 0, 0, step);
        while from < octets.len() {
            let to = octets.len().min(from + size);
            let rest = if to < octets.len() { Rest::Follows } else { Rest::Nothing };
            let scanned = scan(MAGIC, &octets[from..to], rest);
            found.extend(scanned.payloads.into_iter().map(|range| octets[from..to][range].to_vec()));
            lost += scanned.gaps.iter().map(Range::len).sum::<usize>();
            assert!(scanned.done > 0 || scanned.wanted > to - from, "it doesn't get on");
            from += scanned.done;
            size = step.max(scanned.wanted);
        }
        (found, lost)
    }

    #[test]
    fn a_payload_that_no_reader_would_take_is_not_sealed() {
        assert!(seal(&vec![0; PAYLOAD_OCTETS_MAX]).is_some());
        assert!(seal(&vec![0; PAYLOAD_OCTETS_MAX + 1]).is_none());
    }

    proptest! {
        #[test]
        fn frames_are_read_whatever_the_cut(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..8),
            step in 1usize..200,
        ) {
            prop_assert_eq!(read(&frames(&payloads), step), (payloads, 0));
        }

        #[test]
        fn a_changed_octet_costs_one_frame(
            payloads in proptest::collection::vec(proptest::collection::vec(0u8..128, 0..80), 1..8),
            place: prop::sample::Index,
            change in 1u8..,
            step in 1usize..200,
        ) {
            let mut octets = frames(&payloads);
            let place = place.index(octets.len());
            octets[place] ^= change;
            let mut end = 0;
            let hit = payloads.iter().position(|payload| {
                end += HEADER_OCTETS + payload.len();
                place < end
            }).unwrap();
            let lost = HEADER_OCTETS + payloads[hit].len();
            let mut left = payloads;
            left.remove(hit);
            prop_assert_eq!(read(&octets, step), (left, lost));
        }

        #[test]
        fn chance_octets_neither_stop_it_nor_are_taken_for_a_frame(octets: Vec<u8>, step in 1usize..50) {
            let followed = [&octets[..], &frames(&[b"here".to_vec()])].concat();
            prop_assert_eq!(read(&followed, step), (vec![b"here".to_vec()], octets.len()));
        }
    }
}
