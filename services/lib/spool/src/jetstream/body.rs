//! Content that is kept beside its jobs, in chunks.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use mail::{Message, QueueId, Timestamp};

use super::api::{Api, ApiError, Outgoing};
use super::names::Names;
use crate::{Content, ContentError};

/// Octets of a chunk: a server with its default `max_payload` of 1 MiB takes it with its headers.
pub(super) const CHUNK: u32 = 512 << 10;
/// Content up to this may travel in a record among those that wait, which are kept small.
pub(super) const INLINE_RETRY_MAX: usize = 16 << 10;
/// How long chunks stay that no job asks for: longer than a message may be tried.
const KEPT_SECS: u64 = 168 * 3_600;
/// How much longer than its message a chunk lives.
const MARGIN_SECS: u64 = 48 * 3_600;
/// A `Nats-TTL` that never ends (ADR-43).
const NEVER: &str = "never";
/// Chunks on their way at a time.
const AT_ONCE: usize = 4;

/// How long chunks are to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// As long as the message may be tried, and a margin.
    ForAttempts,
    /// Until they are deleted.
    UntilReleased,
}

/// One partition's contents.
#[derive(Clone, Copy)]
pub(super) struct Bodies<'a> {
    pub(super) api: &'a Api,
    pub(super) names: &'a Names,
    pub(super) partition: u16,
}

impl Bodies<'_> {
    /// Keeps a message's content; what is there already stays as it is.
    pub(super) async fn put(
        &self,
        message: &Message,
        content: &Content,
        kept: Kept,
        now: Timestamp,
        patience: Duration,
    ) -> Result<(), ApiError> {
        let ttl = kept.ttl(message, now);
        for some in chunks(content).enumerate().collect::<Vec<_>>().chunks(AT_ONCE) {
            let stored = some.iter().map(|(number, chunk)| {
                self.put_chunk(message.queue_id, *number as u64, chunk.clone(), &ttl, patience)
            });
            try_join_all(stored).await?;
        }
        Ok(())
    }

    async fn put_chunk(
        &self,
        queue_id: QueueId,
        number: u64,
        chunk: Bytes,
        ttl: &str,
        patience: Duration,
    ) -> Result<(), ApiError> {
        let subject = self.names.chunk(self.partition, queue_id, number);
        let outgoing = Outgoing::new(subject, chunk).with("Nats-TTL", ttl).after(0);
        match self.api.publish(outgoing, patience).await {
            Err(error) if error.is_conflict() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Writes a message's chunks anew, so that they stay as long as is said now.
    pub(super) async fn keep(&self, message: &Message, kept: Kept, now: Timestamp) -> Result<(), ApiError> {
        let ttl = kept.ttl(message, now);
        for number in 0..chunk_count(message.octets) {
            self.rewrite(&self.names.chunk(self.partition, message.queue_id, number), &ttl).await?;
        }
        Ok(())
    }

    /// Writes all chunks that there are of a message anew, so that they stay until they are deleted.
    pub(super) async fn keep_until_released(&self, queue_id: QueueId) -> Result<(), ApiError> {
        let chunks = self.names.chunks_of(self.partition, queue_id);
        for subject in self.api.subjects(&self.names.body(self.partition), &chunks).await? {
            self.rewrite(&subject, NEVER).await?;
        }
        Ok(())
    }

    async fn rewrite(&self, subject: &str, ttl: &str) -> Result<(), ApiError> {
        let stream = self.names.body(self.partition);
        let Some(stored) = self.api.last(&stream, subject).await? else { return Ok(()) };
        let outgoing = Outgoing::new(subject.to_owned(), stored.payload).with("Nats-TTL", ttl);
        match self.api.publish(outgoing.after(stored.sequence), super::api::PATIENCE).await {
            Err(error) if error.is_conflict() => Ok(()),
            other => other.map(drop),
        }
    }

    /// The chunk that holds the octet at `offset`, from it on; empty at the content's end.
    pub(super) async fn read(
        &self,
        message: &Message,
        chunk_octets: u32,
        offset: u64,
    ) -> Result<Bytes, ContentError> {
        if offset >= message.octets {
            return Ok(Bytes::new());
        }
        let size = u64::from(chunk_octets.max(1));
        let (number, skip) = (offset / size, usize::try_from(offset % size).unwrap_or(usize::MAX));
        let queue_id = message.queue_id;
        let unavailable = |error: ApiError| ContentError::Unavailable { queue_id, cause: error.to_string() };
        let subject = self.names.chunk(self.partition, queue_id, number);
        let stream = self.names.body(self.partition);
        let stored = match self.api.near(&stream, &subject).await.map_err(unavailable)? {
            Some(stored) => Some(stored),
            // A replica that lags doesn't have it yet; the leader does.
            None => self.api.last(&stream, &subject).await.map_err(unavailable)?,
        };
        let damaged = |cause: String| ContentError::Damaged { queue_id, cause };
        let chunk = stored.ok_or_else(|| damaged(format!("chunk {number} isn't in {stream}")))?.payload;
        let expected = size.min(message.octets - number * size);
        if chunk.len() as u64 != expected {
            return Err(damaged(format!(
                "chunk {number} in {stream} has {} octets of {expected}",
                chunk.len()
            )));
        }
        Ok(chunk.slice(skip..))
    }

    /// Deletes a message's content.
    pub(super) async fn delete(&self, queue_id: QueueId) -> Result<(), ApiError> {
        self.api
            .purge(&self.names.body(self.partition), &self.names.chunks_of(self.partition, queue_id))
            .await
    }
}

impl Kept {
    /// A `Nats-TTL` (ADR-43).
    fn ttl(self, message: &Message, now: Timestamp) -> String {
        match self {
            Self::ForAttempts => format!("{}s", ttl_secs(message, now)),
            Self::UntilReleased => NEVER.to_owned(),
        }
    }
}

fn ttl_secs(message: &Message, now: Timestamp) -> u64 {
    let lives = message.expires_at.millis_since(now).min(400 * 86_400_000) / 1_000;
    KEPT_SECS.max(lives + MARGIN_SECS)
}

fn chunk_count(octets: u64) -> u64 {
    octets.div_ceil(CHUNK.into())
}

/// The content cut into chunks; the last one is shorter, and there is none of an empty content.
fn chunks(content: &Content) -> impl Iterator<Item = Bytes> {
    let mut pieces = content.pieces.clone().into_iter();
    let mut rest = Bytes::new();
    std::iter::from_fn(move || {
        let size = CHUNK as usize;
        let mut chunk = BytesMut::new();
        loop {
            if rest.is_empty() {
                match pieces.next() {
                    Some(piece) => rest = piece,
                    None => return (!chunk.is_empty()).then(|| chunk.freeze()),
                }
            }
            // A piece that is a chunk by itself isn't copied.
            if chunk.is_empty() && rest.len() >= size {
                return Some(rest.split_to(size));
            }
            let some = rest.split_to(rest.len().min(size - chunk.len()));
            chunk.extend_from_slice(&some);
            if chunk.len() == size {
                return Some(chunk.freeze());
            }
        }
    })
}

/// The content in one piece.
pub(super) fn whole(content: &Content) -> Bytes {
    match &content.pieces[..] {
        [] => Bytes::new(),
        [piece] => piece.clone(),
        pieces => pieces.concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_are_of_one_size_and_lose_nothing(sizes in prop::collection::vec(0_usize..700_000, 0..6)) {
            let pieces: Vec<Bytes> = sizes.iter().zip(0_u8..).map(|(size, octet)| Bytes::from(vec![octet; *size])).collect();
            let content = Content { pieces };
            let cut: Vec<Bytes> = chunks(&content).collect();
            prop_assert_eq!(cut.concat(), content.pieces.concat());
            prop_assert_eq!(cut.len() as u64, chunk_count(content.octets()));
            prop_assert!(cut.iter().rev().skip(1).all(|chunk| chunk.len() == CHUNK as usize));
        }
    }
}
