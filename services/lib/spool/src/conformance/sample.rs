//! Mail to keep, and what becomes of it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use mail::{
    AccountId, BodyKind, Disposition, Job, JobKind, Message, QueueId, Recipient, RecipientResult,
    RemoteReply, ReturnContent, Timestamp, TlsRequirement,
};
use mail::{Event, EventKind, EventMessage, Hop, JobId};
use smtp::address::{Address, Domain, ReversePath, Utf8};
use smtp::command::Notify;
use smtp::reply::{EnhancedCode, Reply};

use super::must;
use crate::{Content, NewJob, NewMessage, Origin};

/// A message of an account to recipients, a job for each in turn; everything that can be set is.
pub fn message(number: u64, account: &str, jobs: &[&[&str]], content: &[u8], now: Timestamp) -> NewMessage {
    let mut chance = [0; 10];
    chance[2..].copy_from_slice(&number.to_be_bytes());
    let message = Message {
        queue_id: QueueId::new(now, chance),
        account: account_id(account),
        original_reverse_path: ReversePath::Mailbox(address("sender@sender.example")),
        reverse_path: ReversePath::Mailbox(address("bounces+1@sender.example")),
        author_domain: must("sender.example".parse::<Domain>(), "a domain"),
        ret: Some(ReturnContent::Headers),
        envid: Some("an envelope".into()),
        body_kind: BodyKind::EightBitMime,
        smtputf8: true,
        message_id: format!("<{number}@sender.example>"),
        header_octets: 12,
        octets: content.len() as u64,
        body_hash: [7; 32],
        tls: TlsRequirement::Encrypt,
        tags: vec!["news".into()],
        metadata: vec![("campaign".into(), "spring".into())],
        egress_pool: Some("bulk".into()),
        accepted_at: now,
        not_before: None,
        expires_at: now.plus_secs(3 * 86_400),
        trace_context: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
    };
    let job =
        |addresses: &&[&str]| NewJob { recipients: addresses.iter().map(|text| recipient(text)).collect() };
    let content = Content { pieces: content.chunks(100_000).map(Bytes::copy_from_slice).collect() };
    NewMessage { origin: Origin::Submission, message, jobs: jobs.iter().map(job).collect(), content }
}

/// A message with one recipient.
pub fn simple(number: u64, account: &str, now: Timestamp) -> NewMessage {
    let content = format!("Subject: {number}\r\n\r\nbody\r\n");
    message(number, account, &[&["user@example.org"]], content.as_bytes(), now)
}

pub(super) fn account_id(account: &str) -> AccountId {
    match AccountId::new(account) {
        Some(account) => account,
        None => panic!("{account} is no account"),
    }
}

pub(super) fn address(text: &str) -> Address {
    must(Address::parse(text, Utf8::Allowed), text)
}

pub(super) fn recipient(text: &str) -> Recipient {
    Recipient {
        notify: Some(Notify::NEVER.with_success().with_failure()),
        orcpt: Some(format!("rfc822;{text}")),
        ..Recipient::new(address(text))
    }
}

/// A recipient that was refused for good.
pub fn bounced(recipient: &Recipient, at: Timestamp) -> RecipientResult {
    let reply = Reply::new(550, (5, 1, 1), "no such user\nsorry");
    RecipientResult {
        recipient: recipient.clone(),
        disposition: Disposition::Bounced,
        status: EnhancedCode::new(5, 1, 1),
        remote: Some(RemoteReply { host: Some("mx.example.org".into()), reply }),
        reason: "the recipient's server refused it".into(),
        at,
    }
}

/// The recipient after an attempt that failed for a while.
pub(super) fn deferred(recipient: &Recipient, at: Timestamp) -> Recipient {
    let result = RecipientResult {
        disposition: Disposition::Deferred,
        remote: Some(RemoteReply { host: None, reply: Reply::bare(421, "later") }),
        ..bounced(recipient, at)
    };
    Recipient { last: Some(Box::new(result)), ..recipient.clone() }
}

/// What is left to deliver of a job.
pub(super) fn recipients(job: &Job) -> &[Recipient] {
    match &job.kind {
        JobKind::Delivery { recipients } => recipients,
        JobKind::Report { .. } => panic!("{} is a report", job.id),
    }
}

/// What a report tells.
pub(super) fn results(job: &Job) -> &[RecipientResult] {
    match &job.kind {
        JobKind::Report { results } => results,
        JobKind::Delivery { .. } => panic!("{} is a delivery", job.id),
    }
}

/// What happens to a message that is deferred, then delivered; everything that can be set is set somewhere.
pub(crate) fn message_events(number: u64, now: Timestamp) -> Vec<Event> {
    let message = Arc::new(EventMessage::from(&simple(number, "a", now).message));
    let accepted = Event {
        kind: EventKind::Accepted,
        at: now,
        job: JobId::delivery(message.queue_id, 3),
        message,
        recipient: address("user@example.org"),
        attempt: 0,
        hop: Hop::default(),
        status: None,
        reply: None,
        reason: String::new(),
        retry_at: None,
        redelivered: false,
    };
    let hop = Hop {
        site: Some("example.org".into()),
        host: Some("mx.example.org".into()),
        source: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
        tls: Some("TLSv1.3 TLS13_AES_256_GCM_SHA384".into()),
    };
    let deferred = Event {
        kind: EventKind::Deferred,
        attempt: 1,
        hop: hop.clone(),
        status: Some(EnhancedCode::new(4, 2, 0)),
        reply: Some(Reply::new(451, (4, 2, 0), "greylisted\ncome again")),
        reason: "mx.example.org said: 451 4.2.0 greylisted".into(),
        retry_at: Some(now.plus_secs(60)),
        ..accepted.clone()
    };
    let delivered = Event {
        kind: EventKind::Delivered,
        attempt: 2,
        hop,
        status: Some(EnhancedCode::new(2, 0, 0)),
        reply: Some(Reply::bare(250, "ok")),
        reason: "mx.example.org said: 250 ok".into(),
        redelivered: true,
        ..accepted.clone()
    };
    vec![accepted, deferred, delivered]
}
