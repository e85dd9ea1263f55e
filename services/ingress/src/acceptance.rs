//! From a complete message to one that is on disk.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use limits::{Limits, QuotaTicket};
use mail::header::{Prepared, Protocol, Trace};
use mail::{BodyKind, Job, Message, QueueId, Recipient, ReturnContent, Timestamp, TlsRequirement};
use runtime::telemetry::{current_traceparent, failed};
use smtp::address::{Address, Domain, ReversePath};
use smtp::command::{Body, MailParams, Ret};
use smtp::reply::Reply;
use smtp::server::Greeted;
use spool::{AcceptError, Content, NewJob, NewMessage, Spool};
use tracing::field::display;
use tracing::{Instrument as _, Span};

use crate::directory::Profile;
use crate::gate::{Gate, not_kept};
use crate::intake::Received;
use crate::{observer, spans};

/// Most recipients of a job.
const JOB_RECIPIENTS_MAX: usize = 100;

/// A message that is complete, with its envelope.
pub(crate) struct Submission<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) reverse_path: ReversePath,
    pub(crate) params: &'a MailParams,
    pub(crate) recipients: Vec<Recipient>,
    /// Whether there are octets over 127 in the message.
    pub(crate) octets_over_127: bool,
    pub(crate) received: Received,
    /// How long it took to arrive.
    pub(crate) receive: Duration,
    pub(crate) origin: Origin<'a>,
}

/// Where a message came from.
pub(crate) enum Origin<'a> {
    Client(Client<'a>),
    /// Somebody who may administer, through gRPC.
    Administrator,
}

/// An SMTP client.
pub(crate) struct Client<'a> {
    pub(crate) address: IpAddr,
    /// What it calls itself.
    pub(crate) name: &'a str,
    pub(crate) greeted: Greeted,
    /// Version and cipher suite, when under TLS.
    pub(crate) tls: Option<String>,
}

/// What the client is told.
pub(crate) struct Accepted {
    pub(crate) queue_id: QueueId,
    pub(crate) message_id: String,
}

impl<S: Spool, L: Limits> Gate<S, L> {
    /// Checks the header, adds what is ours to it, and gives the message to the store. `Ok` means that it is on disk. The
    /// tickets are kept then, and when nobody knows whether the store has it; else they are given back.
    pub(crate) async fn accept(
        &self,
        submission: Submission<'_>,
        tickets: Vec<L::Ticket>,
    ) -> Result<Accepted, Reply> {
        let began = Instant::now();
        let now = Timestamp(runtime::clock::now_millis());
        let queue_id = QueueId::new(now, runtime::random());
        let Submission {
            profile,
            reverse_path,
            params,
            recipients,
            octets_over_127,
            received,
            receive,
            origin,
        } = submission;
        let Received { header, body_hash, body, reservation } = received;
        let trace = self.trace(&origin, params, &recipients, queue_id, now);
        let prepared = header.finish(&trace).map_err(|error| error.reply())?;
        let author_domain = self.author_domain(profile, &prepared)?;
        let smtputf8 = needs_smtputf8(&prepared, &reverse_path, &recipients);
        let Prepared { header, message_id, .. } = prepared;
        let span = Span::current();
        span.record("mail.queue_id", display(queue_id)).record("mail.message_id", &*message_id);
        let header_octets = u32::try_from(header.len()).unwrap_or(u32::MAX);
        let content = Content { pieces: std::iter::once(Bytes::from(header)).chain(body).collect() };
        let (octets, count) = (content.octets(), recipients.len());
        let message = Message {
            queue_id,
            account: profile.account.clone(),
            original_reverse_path: reverse_path.clone(),
            reverse_path: reverse_path.clone(),
            author_domain,
            ret: params.ret.map(return_content),
            envid: params.envid.as_ref().map(|envid| envid.as_str().to_owned()),
            body_kind: body_kind(params, octets_over_127),
            smtputf8,
            message_id: message_id.clone(),
            header_octets,
            octets,
            body_hash: *body_hash.as_bytes(),
            tls: TlsRequirement::Opportunistic,
            tags: Vec::new(),
            metadata: Vec::new(),
            egress_pool: None,
            accepted_at: now,
            not_before: None,
            expires_at: now.plus_secs(self.lifetime_secs),
            trace_context: current_traceparent(),
        };
        let jobs =
            Job::group(recipients, JOB_RECIPIENTS_MAX).into_iter().map(|recipients| NewJob { recipients });
        let message =
            NewMessage { origin: spool::Origin::Submission, message, jobs: jobs.collect(), content };
        let jobs = message.jobs.len();
        self.store(message, tickets).await?;
        drop(reservation);
        self.metrics.accepted(octets);
        self.observer.accepted(&observer::Accepted {
            queue_id,
            message_id: &message_id,
            account: &profile.account,
            client: origin.address(),
            reverse_path: &reverse_path,
            recipients: count,
            jobs,
            octets,
            receive,
            store: began.elapsed(),
        });
        Ok(Accepted { queue_id, message_id })
    }

    fn trace<'a>(
        &'a self,
        origin: &'a Origin<'_>,
        params: &MailParams,
        recipients: &'a [Recipient],
        queue_id: QueueId,
        now: Timestamp,
    ) -> Trace<'a> {
        let client = match origin {
            Origin::Client(client) => Some(client),
            Origin::Administrator => None,
        };
        Trace {
            helo: client.map(|client| client.name),
            client_address: client.map(|client| client.address),
            client_name: None,
            protocol: match client.map(|client| client.greeted) {
                None => Protocol::Grpc,
                Some(Greeted::Helo) => Protocol::Smtp,
                Some(Greeted::Ehlo) if params.smtputf8 => Protocol::Utf8Smtp,
                Some(Greeted::Ehlo) => Protocol::Esmtp,
            },
            tls: client.and_then(|client| client.tls.as_deref()),
            authenticated: true,
            by: &self.host_name,
            queue_id,
            recipient: match recipients {
                [only] => Some(&only.address),
                _ => None,
            },
            now,
        }
    }

    /// The domain whose keys sign: the first author's. All authors must be of the account.
    fn author_domain(&self, profile: &Profile, prepared: &Prepared) -> Result<Domain, Reply> {
        prepared.from.iter().try_for_each(|author| self.may_send_from(profile, author.host()))?;
        let domain = prepared.from.first().and_then(|author| author.host().domain());
        domain.cloned().ok_or_else(|| Reply::new(554, (5, 6, 0), "the From field names no domain"))
    }

    async fn store(&self, message: NewMessage, tickets: Vec<L::Ticket>) -> Result<(), Reply> {
        let span = spans::publish(&message);
        let stored = self.spool.accept(message).instrument(span.clone()).await;
        if let Err(error) = &stored {
            let kind = if matches!(error, AcceptError::Full(_)) { "full" } else { "unavailable" };
            failed(&span, kind);
        }
        match &stored {
            Err(AcceptError::Full(_)) => drop(tickets),
            Ok(()) | Err(AcceptError::Unavailable(_)) => tickets.into_iter().for_each(QuotaTicket::keep),
        }
        stored.map_err(|error| not_kept(&error))
    }
}

impl Origin<'_> {
    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Client(client) => Some(client.address),
            Self::Administrator => None,
        }
    }
}

fn return_content(ret: Ret) -> ReturnContent {
    match ret {
        Ret::Full => ReturnContent::Full,
        Ret::Headers => ReturnContent::Headers,
    }
}

/// What is in the message counts, also where the client declared less: refusing would lose mail that every receiver takes.
fn body_kind(params: &MailParams, octets_over_127: bool) -> BodyKind {
    match (params.body, octets_over_127) {
        (Body::SevenBit, false) => BodyKind::SevenBit,
        (Body::EightBitMime, _) | (_, true) => BodyKind::EightBitMime,
    }
}

/// Whether only a receiver that speaks SMTPUTF8 may be sent this, whatever the client declared: what it needs is what it holds
/// (RFC 6531 section 3.2 wants the declaration, but headers in raw UTF-8 come from many that don't know of it).
fn needs_smtputf8(prepared: &Prepared, reverse_path: &ReversePath, recipients: &[Recipient]) -> bool {
    prepared.eight_bit
        || reverse_path.mailbox().is_some_and(Address::needs_smtputf8)
        || recipients.iter().any(|recipient| recipient.address.needs_smtputf8())
}
