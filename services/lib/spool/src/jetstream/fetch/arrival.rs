//! What comes in from a consumer, and what JetStream says of it.

use std::sync::Arc;
use std::time::Instant;

use async_nats::Message;

use crate::jetstream::dead::Unreadable;
use crate::jetstream::job::{Place, Record};
use crate::jetstream::ready::Fetched;
use crate::jetstream::{Core, Later};

/// A job that came in.
pub(super) struct Arrival {
    pub(super) fetched: Fetched,
    /// Whether it may have been with somebody before.
    pub(super) suspect: bool,
}

/// What JetStream says of a message in its reply subject (ADR-15).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) stream: String,
    pub(super) consumer: String,
    pub(super) times: u64,
    pub(super) sequence: u64,
    pub(super) stored_ms: u64,
}

pub(super) fn delivered(reply: &str) -> Option<Delivered> {
    let tokens: Vec<&str> = reply.split('.').collect();
    // Since 2.11 a domain and an account may stand before the stream.
    let rest = match tokens.len() {
        9 => &tokens[2..],
        11.. => &tokens[4..],
        _ => return None,
    };
    let number = |place: usize| rest.get(place).and_then(|text| text.parse::<u64>().ok());
    Some(Delivered {
        stream: (*rest.first()?).to_owned(),
        consumer: (*rest.get(1)?).to_owned(),
        times: number(2)?,
        sequence: number(3)?,
        stored_ms: number(5)? / 1_000_000,
    })
}

/// The job of a message; what can't be read is buried.
pub(super) fn read(core: &Arc<Core>, message: Message, ack: String, delivered: Delivered) -> Option<Arrival> {
    let Delivered { stream, consumer: _, times, sequence, stored_ms } = delivered;
    let place = Place { stream, sequence };
    let subject = message.subject.to_string();
    let suspect = times > 1 || core.link.is_suspect(stored_ms, core.peers.longest_lease_ms());
    let spot = core.names.parse(&subject);
    let record = match spot {
        Some(spot) => Record::decode(spot, message.payload.clone())
            .map(|record| (record, spot))
            .map_err(|error| error.to_string()),
        None => Err(format!("no job has the subject {subject}")),
    };
    let (mut record, spot) = match record {
        Ok(read) => read,
        Err(cause) => {
            let payload = message.payload;
            let unreadable = Unreadable { place, subject, spot, payload, cause, suspect };
            core.later(Later::Bury(Box::new(unreadable)));
            return None;
        }
    };
    record.job.redelivered = suspect;
    let (fetched_at, fetched_ms, epoch) = (Instant::now(), core.link.elapsed(), core.link.epoch());
    Some(Arrival { fetched: Fetched { record, spot, place, ack, fetched_at, fetched_ms, epoch }, suspect })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_subject_tells_which_message_it_is_about() {
        let expected = Some(Delivered {
            stream: "S".into(),
            consumer: "C".into(),
            times: 2,
            sequence: 30,
            stored_ms: 1_700_000_000_000,
        });
        assert_eq!(delivered("$JS.ACK.S.C.2.30.4.1700000000000000000.5"), expected);
        assert_eq!(delivered("$JS.ACK._.hash.S.C.2.30.4.1700000000000000000.5"), expected);
        assert_eq!(delivered("$JS.ACK._.hash.S.C.2.30.4.1700000000000000000.5.token"), expected);
        assert_eq!(delivered("_INBOX.1.2"), None);
    }
}
