//! Between `mail`'s events and the records of `proto`.

use std::sync::Arc;

use bytes::Bytes;
use mail::{AccountId, Event, EventKind, EventMessage, Hop, JobId, QueueId, Timestamp};
use proto::events::v1 as wire;
use smtp::address::{Address, ReversePath, Utf8};
use smtp::reply::{EnhancedCode, Reply};

/// A record that isn't an event of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {field} of a record of events can't be read")]
pub struct EventRecordError {
    field: &'static str,
}

fn bad(field: &'static str) -> EventRecordError {
    EventRecordError { field }
}

/// Events as a record; those of one message that stand side by side share its facts.
pub fn batch_to_wire(events: &[Event]) -> wire::Batch {
    let same = |one: &Event, other: &Event| {
        Arc::ptr_eq(&one.message, &other.message) || one.message == other.message
    };
    let group = |events: &[Event]| wire::Group {
        message: events.first().map(|first| message_to_wire(&first.message)),
        events: events.iter().map(event_to_wire).collect(),
    };
    wire::Batch { groups: events.chunk_by(same).map(group).collect() }
}

fn message_to_wire(message: &EventMessage) -> wire::Message {
    let pair = |(key, value): &(String, String)| wire::Pair { key: key.clone(), value: value.clone() };
    wire::Message {
        queue_id: Bytes::copy_from_slice(&message.queue_id.to_bits().to_be_bytes()),
        account_id: message.account.to_string(),
        message_id: message.message_id.clone(),
        reverse_path: message.sender.to_string(),
        accepted_at_ms: message.accepted_at.0,
        octets: message.octets,
        tags: message.tags.clone(),
        metadata: message.metadata.iter().map(pair).collect(),
        trace_id: message.trace_id.clone(),
    }
}

fn event_to_wire(event: &Event) -> wire::Event {
    let Event {
        kind,
        at,
        message: _,
        job,
        recipient,
        attempt,
        hop,
        status,
        reply,
        reason,
        retry_at,
        redelivered,
    } = event;
    let kind = match kind {
        EventKind::Accepted => wire::Kind::Accepted,
        EventKind::Delivered => wire::Kind::Delivered,
        EventKind::Deferred => wire::Kind::Deferred,
        EventKind::Bounced => wire::Kind::Bounced,
        EventKind::Expired => wire::Kind::Expired,
        EventKind::Dropped => wire::Kind::Dropped,
    };
    wire::Event {
        kind: kind.into(),
        at_ms: at.0,
        job: job.number.into(),
        recipient: recipient.to_string(),
        attempt: *attempt,
        site: hop.site.as_deref().map(str::to_owned),
        host: hop.host.as_deref().map(str::to_owned),
        source: hop.source.map(|source| source.to_string()),
        tls: hop.tls.as_deref().map(str::to_owned),
        status: status.map(|status| status.to_string()),
        reply: reply.as_ref().map(|reply| wire::Reply {
            code: reply.code().into(),
            enhanced: reply.enhanced().map(|code| code.to_string()),
            text: reply.text().to_owned(),
        }),
        reason: reason.clone(),
        retry_at_ms: retry_at.map(|at| at.0),
        redelivered: *redelivered,
    }
}

/// The events of a record. Kinds of a later version are left out.
///
/// # Errors
/// When a field holds what no version writes there.
pub fn batch_from_wire(batch: wire::Batch) -> Result<Vec<Event>, EventRecordError> {
    let mut events = Vec::new();
    for group in batch.groups {
        let message = Arc::new(message_from_wire(group.message.ok_or_else(|| bad("message"))?)?);
        for record in group.events {
            events.extend(event_from_wire(record, &message)?);
        }
    }
    Ok(events)
}

fn message_from_wire(record: wire::Message) -> Result<EventMessage, EventRecordError> {
    let queue_id = record.queue_id.as_ref().try_into().map_err(|_| bad("queue_id"))?;
    Ok(EventMessage {
        queue_id: QueueId::from_bits(u128::from_be_bytes(queue_id)),
        account: AccountId::new(&record.account_id).ok_or_else(|| bad("account_id"))?,
        message_id: record.message_id,
        sender: ReversePath::parse(&record.reverse_path, Utf8::Allowed).map_err(|_| bad("reverse_path"))?,
        accepted_at: Timestamp(record.accepted_at_ms),
        octets: record.octets,
        tags: record.tags,
        metadata: record.metadata.into_iter().map(|pair| (pair.key, pair.value)).collect(),
        trace_id: record.trace_id,
    })
}

/// None for a kind that this version doesn't know.
fn event_from_wire(
    record: wire::Event,
    message: &Arc<EventMessage>,
) -> Result<Option<Event>, EventRecordError> {
    let kind = match wire::Kind::try_from(record.kind) {
        Ok(wire::Kind::Accepted) => EventKind::Accepted,
        Ok(wire::Kind::Delivered) => EventKind::Delivered,
        Ok(wire::Kind::Deferred) => EventKind::Deferred,
        Ok(wire::Kind::Bounced) => EventKind::Bounced,
        Ok(wire::Kind::Expired) => EventKind::Expired,
        Ok(wire::Kind::Dropped) => EventKind::Dropped,
        Ok(wire::Kind::Unspecified) | Err(_) => return Ok(None),
    };
    let number = u16::try_from(record.job).map_err(|_| bad("job"))?;
    let hop = Hop {
        site: record.site.map(Arc::from),
        host: record.host.map(Arc::from),
        source: record.source.map(|text| text.parse().map_err(|_| bad("source"))).transpose()?,
        tls: record.tls.map(Arc::from),
    };
    Ok(Some(Event {
        kind,
        at: Timestamp(record.at_ms),
        message: Arc::clone(message),
        job: JobId::delivery(message.queue_id, number),
        recipient: Address::parse(&record.recipient, Utf8::Allowed).map_err(|_| bad("recipient"))?,
        attempt: record.attempt,
        hop,
        status: record.status.map(|text| enhanced(&text, "status")).transpose()?,
        reply: record.reply.map(reply_from_wire).transpose()?,
        reason: record.reason,
        retry_at: record.retry_at_ms.map(Timestamp),
        redelivered: record.redelivered,
    }))
}

fn reply_from_wire(record: wire::Reply) -> Result<Reply, EventRecordError> {
    let code = u16::try_from(record.code).map_err(|_| bad("code"))?;
    Ok(match record.enhanced {
        Some(text) => Reply::new(code, enhanced(&text, "enhanced")?, record.text),
        None => Reply::bare(code, record.text),
    })
}

fn enhanced(text: &str, field: &'static str) -> Result<EnhancedCode, EventRecordError> {
    text.parse().map_err(|_| bad(field))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::conformance::sample;

    #[test]
    fn events_survive_the_wire_and_share_what_is_the_messages() {
        let now = Timestamp(1_795_579_643_042);
        let (one, two) = (sample::message_events(1, now), sample::message_events(2, now));
        let events = [one, two].concat();
        let batch = batch_to_wire(&events);
        assert_eq!(batch.groups.len(), 2);
        let octets = batch.encode_to_vec();
        let read = wire::Batch::decode(&*octets).unwrap();
        assert_eq!(batch_from_wire(read).unwrap(), events);
    }

    #[test]
    fn what_a_later_version_adds_is_skipped() {
        let mut events = sample::message_events(1, Timestamp(1_795_579_643_042));
        let mut batch = batch_to_wire(&events);
        batch.groups[0].events[0].kind = 77;
        let mut octets = batch.encode_to_vec();
        // Field 99, a string of two octets.
        octets.extend_from_slice(&[0x9a, 0x06, 2, b'h', b'i']);
        let read = batch_from_wire(wire::Batch::decode(&*octets).unwrap()).unwrap();
        events.remove(0);
        assert_eq!(read, events);
    }

    #[test]
    fn what_no_version_writes_is_an_error() {
        let good = batch_to_wire(&sample::message_events(1, Timestamp(1_795_579_643_042)));
        let broken = |change: fn(&mut wire::Group)| {
            let mut batch = good.clone();
            change(&mut batch.groups[0]);
            batch_from_wire(batch).unwrap_err().to_string()
        };
        for (field, error) in [
            ("message", broken(|group| group.message = None)),
            ("recipient", broken(|group| group.events[0].recipient = "nobody".into())),
            ("source", broken(|group| group.events[1].source = Some("here".into()))),
            ("status", broken(|group| group.events[1].status = Some("bad".into()))),
            ("job", broken(|group| group.events[0].job = 70_000)),
        ] {
            assert!(error.contains(field), "{error}");
        }
    }
}
