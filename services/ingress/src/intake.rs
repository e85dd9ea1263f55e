//! A message on its way in: the header section is read, the body is hashed and kept in pieces.

use std::sync::Arc;

use bytes::Bytes;
use dkim::{BodyHash, BodyHasher};
use mail::header::HeaderReader;
use smtp::reply::Reply;

use crate::budget::{Budget, Reservation};

/// A body is kept in pieces of at most this many octets: no buffer is ever copied to make it larger than that.
const PIECE_OCTETS_MAX: usize = 256 * 1024;
/// What a message is expected to have when it didn't say.
const PIECE_OCTETS_FIRST: usize = 8 * 1024;

/// Takes a message's octets as they are decoded.
pub(crate) struct Intake {
    header: HeaderReader,
    hasher: BodyHasher,
    pieces: Pieces,
    octets: u64,
    reservation: Reservation,
    refused: Option<Reply>,
}

/// A message that is complete.
pub(crate) struct Received {
    pub(crate) header: HeaderReader,
    pub(crate) body_hash: BodyHash,
    /// The empty line that ends the header section, and the body.
    pub(crate) body: Vec<Bytes>,
    /// Pays for the memory until the message is stored.
    pub(crate) reservation: Reservation,
}

impl Intake {
    /// `expected`: how many octets the client announced.
    pub(crate) fn new(limits: mail::header::Limits, budget: &Arc<Budget>, expected: Option<u64>) -> Self {
        let expected = expected.and_then(|octets| usize::try_from(octets).ok()).unwrap_or(PIECE_OCTETS_FIRST);
        Self {
            header: HeaderReader::new(limits),
            hasher: BodyHasher::new(),
            pieces: Pieces::new(expected),
            octets: 0,
            reservation: Reservation::empty(budget),
            refused: None,
        }
    }

    /// More of the message, cut anywhere.
    pub(crate) fn push(&mut self, octets: &[u8]) {
        self.octets += octets.len() as u64;
        if self.refused.is_some() {
            return;
        }
        let body = self.header.push(octets);
        if !body.is_empty() {
            self.hasher.update(body);
            self.pieces.push(body);
        }
    }

    /// Pays for what has come; where there is no memory the rest is read and forgotten, and the message is refused at its end.
    pub(crate) async fn pay(&mut self) {
        if self.refused.is_none() && self.reservation.cover(self.octets).await.is_err() {
            self.refuse(Reply::new(452, (4, 3, 1), "too much mail is arriving just now; try again later"));
        }
    }

    /// Why it is refused, if that is known before its end.
    pub(crate) fn refusal(&self) -> Option<Reply> {
        self.refused.clone()
    }

    /// Octets so far.
    pub(crate) fn octets(&self) -> u64 {
        self.octets
    }

    /// All has come.
    pub(crate) fn finish(self) -> Result<Received, Reply> {
        match self.refused {
            Some(reply) => Err(reply),
            None => Ok(Received {
                header: self.header,
                body_hash: self.hasher.finish(),
                body: self.pieces.finish(),
                reservation: self.reservation,
            }),
        }
    }

    fn refuse(&mut self, reply: Reply) {
        self.refused = Some(reply);
        self.pieces = Pieces::new(0);
    }
}

struct Pieces {
    full: Vec<Bytes>,
    open: Vec<u8>,
}

impl Pieces {
    fn new(expected: usize) -> Self {
        let mut open = Vec::with_capacity(expected.clamp(2, PIECE_OCTETS_MAX));
        open.extend_from_slice(b"\r\n");
        Self { full: Vec::new(), open }
    }

    fn push(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            if self.open.len() == PIECE_OCTETS_MAX {
                let next = Vec::with_capacity(PIECE_OCTETS_MAX);
                self.full.push(std::mem::replace(&mut self.open, next).into());
            }
            let (now, later) = octets.split_at(octets.len().min(PIECE_OCTETS_MAX - self.open.len()));
            let wanted = self.open.len() + now.len();
            if wanted > self.open.capacity() {
                let capacity = wanted.max(2 * self.open.capacity()).min(PIECE_OCTETS_MAX);
                self.open.reserve_exact(capacity - self.open.len());
            }
            self.open.extend_from_slice(now);
            octets = later;
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.full.push(self.open.into());
        self.full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_what_was_pushed_and_are_never_too_large() {
        let octets: Vec<u8> = (0..PIECE_OCTETS_MAX as u32 * 2 + 17).map(|number| number as u8).collect();
        for step in [1, 1000, 65_536, octets.len()] {
            let mut pieces = Pieces::new(100);
            octets.chunks(step).for_each(|chunk| pieces.push(chunk));
            let pieces = pieces.finish();
            assert!(pieces.iter().all(|piece| piece.len() <= PIECE_OCTETS_MAX));
            assert_eq!(pieces.len(), 3);
            let joined = pieces.concat();
            assert_eq!(&joined[..2], b"\r\n");
            assert!(joined[2..] == octets);
        }
    }
}
