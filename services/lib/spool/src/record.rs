//! Between the nouns of `mail` and the records of `proto`; generated types don't leave this crate.

use bytes::Bytes;
use mail::{
    AccountId, BodyKind, Disposition, Message, QueueId, Recipient, RecipientResult, RemoteReply,
    ReturnContent, Timestamp, TlsRequirement,
};
use proto::spool::v1 as wire;
use smtp::address::{Address, ReversePath, Utf8};
use smtp::command::Notify;
use smtp::reply::{EnhancedCode, Reply};

use crate::NewMessage;

/// A record that was written whole, but not by this program or not for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {field} of a stored record can't be read")]
pub(crate) struct RecordError {
    field: &'static str,
}

fn bad(field: &'static str) -> RecordError {
    RecordError { field }
}

pub(crate) fn accepted_to_wire(new: &NewMessage) -> wire::Accepted {
    let group = |recipients| wire::Group { recipients: recipients_to_wire(recipients) };
    wire::Accepted {
        message: Some(message_to_wire(&new.message)),
        jobs: new.jobs.iter().map(|job| group(&job.recipients)).collect(),
    }
}

pub(crate) fn message_to_wire(message: &Message) -> wire::Message {
    let ret = match message.ret {
        None => wire::ReturnContent::Unspecified,
        Some(ReturnContent::Full) => wire::ReturnContent::Full,
        Some(ReturnContent::Headers) => wire::ReturnContent::Headers,
    };
    let tls = match message.tls {
        TlsRequirement::Opportunistic => wire::Tls::Opportunistic,
        TlsRequirement::Encrypt => wire::Tls::Encrypt,
        TlsRequirement::Verify => wire::Tls::Verify,
    };
    let pair = |(key, value): &(String, String)| wire::Pair { key: key.clone(), value: value.clone() };
    wire::Message {
        queue_id: Bytes::copy_from_slice(&message.queue_id.to_bits().to_be_bytes()),
        account_id: message.account.to_string(),
        original_reverse_path: message.original_reverse_path.to_string(),
        reverse_path: message.reverse_path.to_string(),
        author_domain: message.author_domain.as_str().to_owned(),
        ret: ret.into(),
        envid: message.envid.clone(),
        eight_bit: message.body_kind == BodyKind::EightBitMime,
        smtputf8: message.smtputf8,
        message_id: message.message_id.clone(),
        header_octets: message.header_octets,
        octets: message.octets,
        body_hash: Bytes::copy_from_slice(&message.body_hash),
        tls: tls.into(),
        tags: message.tags.clone(),
        metadata: message.metadata.iter().map(pair).collect(),
        egress_pool: message.egress_pool.clone(),
        accepted_at_ms: message.accepted_at.0,
        not_before_ms: message.not_before.map(|at| at.0),
        expires_at_ms: message.expires_at.0,
        trace_context: message.trace_context.clone(),
    }
}

pub(crate) fn message_from_wire(record: wire::Message) -> Result<Message, RecordError> {
    let ret = match record.ret() {
        wire::ReturnContent::Unspecified => None,
        wire::ReturnContent::Full => Some(ReturnContent::Full),
        wire::ReturnContent::Headers => Some(ReturnContent::Headers),
    };
    let tls = match wire::Tls::try_from(record.tls) {
        Ok(wire::Tls::Opportunistic) => TlsRequirement::Opportunistic,
        Ok(wire::Tls::Encrypt) => TlsRequirement::Encrypt,
        Ok(wire::Tls::Verify) => TlsRequirement::Verify,
        // A demand that isn't understood must not be dropped.
        Err(_) => return Err(bad("tls")),
    };
    Ok(Message {
        queue_id: queue_id_from_wire(&record.queue_id)?,
        account: AccountId::new(&record.account_id).ok_or_else(|| bad("account_id"))?,
        original_reverse_path: reverse_path(&record.original_reverse_path, "original_reverse_path")?,
        reverse_path: reverse_path(&record.reverse_path, "reverse_path")?,
        author_domain: record.author_domain.parse().map_err(|_| bad("author_domain"))?,
        ret,
        envid: record.envid,
        body_kind: if record.eight_bit { BodyKind::EightBitMime } else { BodyKind::SevenBit },
        smtputf8: record.smtputf8,
        message_id: record.message_id,
        header_octets: record.header_octets,
        octets: record.octets,
        body_hash: record.body_hash.as_ref().try_into().map_err(|_| bad("body_hash"))?,
        tls,
        tags: record.tags,
        metadata: record.metadata.into_iter().map(|pair| (pair.key, pair.value)).collect(),
        egress_pool: record.egress_pool,
        accepted_at: Timestamp(record.accepted_at_ms),
        not_before: record.not_before_ms.map(Timestamp),
        expires_at: Timestamp(record.expires_at_ms),
        trace_context: record.trace_context,
    })
}

fn queue_id_from_wire(octets: &[u8]) -> Result<QueueId, RecordError> {
    octets.try_into().map(u128::from_be_bytes).map(QueueId::from_bits).map_err(|_| bad("queue_id"))
}

fn reverse_path(text: &str, field: &'static str) -> Result<ReversePath, RecordError> {
    ReversePath::parse(text, Utf8::Allowed).map_err(|_| bad(field))
}

pub(crate) fn recipients_to_wire(recipients: &[Recipient]) -> Vec<wire::Recipient> {
    recipients.iter().map(recipient_to_wire).collect()
}

fn recipient_to_wire(recipient: &Recipient) -> wire::Recipient {
    wire::Recipient {
        address: recipient.address.to_string(),
        notify: recipient.notify.map(notify_to_wire),
        orcpt: recipient.orcpt.clone(),
        // Whom it is about is the recipient that holds it.
        last: recipient.last.as_deref().map(outcome_to_wire).map(Box::new),
    }
}

pub(crate) fn recipients_from_wire(records: Vec<wire::Recipient>) -> Result<Vec<Recipient>, RecordError> {
    records.into_iter().map(recipient_from_wire).collect()
}

fn recipient_from_wire(record: wire::Recipient) -> Result<Recipient, RecordError> {
    let mut recipient = Recipient {
        address: Address::parse(&record.address, Utf8::Allowed).map_err(|_| bad("address"))?,
        notify: record.notify.map(notify_from_wire),
        orcpt: record.orcpt,
        last: None,
    };
    if let Some(last) = record.last {
        let whom = recipient.clone();
        recipient.last = Some(Box::new(outcome_from_wire(*last, whom)?));
    }
    Ok(recipient)
}

fn notify_to_wire(notify: Notify) -> u32 {
    u32::from(notify.success()) | u32::from(notify.failure()) << 1 | u32::from(notify.delay()) << 2
}

fn notify_from_wire(sum: u32) -> Notify {
    let mut notify = Notify::NEVER;
    if sum & 1 != 0 {
        notify = notify.with_success();
    }
    if sum & 2 != 0 {
        notify = notify.with_failure();
    }
    if sum & 4 != 0 {
        notify = notify.with_delay();
    }
    notify
}

pub(crate) fn results_to_wire(results: &[RecipientResult]) -> Vec<wire::Result> {
    results.iter().map(result_to_wire).collect()
}

pub(crate) fn results_from_wire(records: Vec<wire::Result>) -> Result<Vec<RecipientResult>, RecordError> {
    let result = |mut record: wire::Result| {
        let whom = recipient_from_wire(*record.recipient.take().ok_or_else(|| bad("recipient"))?)?;
        outcome_from_wire(record, whom)
    };
    records.into_iter().map(result).collect()
}

fn result_to_wire(result: &RecipientResult) -> wire::Result {
    wire::Result {
        recipient: Some(Box::new(recipient_to_wire(&result.recipient))),
        ..outcome_to_wire(result)
    }
}

fn outcome_to_wire(result: &RecipientResult) -> wire::Result {
    let disposition = match result.disposition {
        Disposition::Delivered { relayed: false } => wire::Disposition::Delivered,
        Disposition::Delivered { relayed: true } => wire::Disposition::Relayed,
        Disposition::Deferred => wire::Disposition::Deferred,
        Disposition::Bounced => wire::Disposition::Bounced,
        Disposition::Expired => wire::Disposition::Expired,
        Disposition::Dropped => wire::Disposition::Dropped,
    };
    wire::Result {
        recipient: None,
        disposition: disposition.into(),
        status: result.status.to_string(),
        remote: result.remote.as_ref().map(remote_to_wire),
        reason: result.reason.clone(),
        at_ms: result.at.0,
    }
}

fn outcome_from_wire(record: wire::Result, recipient: Recipient) -> Result<RecipientResult, RecordError> {
    let disposition = match record.disposition() {
        wire::Disposition::Unspecified => return Err(bad("disposition")),
        wire::Disposition::Delivered => Disposition::Delivered { relayed: false },
        wire::Disposition::Relayed => Disposition::Delivered { relayed: true },
        wire::Disposition::Deferred => Disposition::Deferred,
        wire::Disposition::Bounced => Disposition::Bounced,
        wire::Disposition::Expired => Disposition::Expired,
        wire::Disposition::Dropped => Disposition::Dropped,
    };
    Ok(RecipientResult {
        recipient,
        disposition,
        status: record.status.parse().map_err(|_| bad("status"))?,
        remote: record.remote.map(remote_from_wire).transpose()?,
        reason: record.reason,
        at: Timestamp(record.at_ms),
    })
}

fn remote_to_wire(remote: &RemoteReply) -> wire::Remote {
    wire::Remote {
        host: remote.host.clone(),
        code: remote.reply.code().into(),
        enhanced: remote.reply.enhanced().map(|code| code.to_string()),
        text: remote.reply.text().to_owned(),
    }
}

fn remote_from_wire(record: wire::Remote) -> Result<RemoteReply, RecordError> {
    let code = u16::try_from(record.code).map_err(|_| bad("code"))?;
    let reply = match record.enhanced {
        Some(enhanced) => {
            let enhanced: EnhancedCode = enhanced.parse().map_err(|_| bad("enhanced"))?;
            Reply::new(code, enhanced, record.text)
        }
        None => Reply::bare(code, record.text),
    };
    Ok(RemoteReply { host: record.host, reply })
}
