//! One transaction: a job's recipients on one connection.

use std::sync::Arc;

use limits::Limits;
use mail::{BodyKind, Disposition, Recipient, RecipientResult, RemoteReply, ReturnContent, Timestamp};
use smtp::address::ForwardPath;
use smtp::client::{Capabilities, Connection as After, RecipientOutcome, Stage, Transaction, Want};
use smtp::command::{Body, MailParams, RcptParams, Ret, Xtext};
use smtp::data::DataEncoder;
use smtp::reply::Reply;
use spool::{ContentError, Lease, Spool};

use crate::approach::{Failure, status_of};
use crate::connection::{Broken, Connection};
use crate::context::{Context, now};
use crate::convert;
use crate::settle::{failed, result};
use crate::spans;
use crate::work::{LeaseLost, Work};

/// Octets that are written at a time.
const BLOCK_OCTETS: usize = 64 * 1024;

/// What a transaction brought.
pub(crate) struct Round {
    /// Those who have a result, if only for this attempt.
    pub(crate) results: Vec<RecipientResult>,
    /// Those whom the server takes only in a following transaction.
    pub(crate) remaining: Vec<Recipient>,
    /// Those for whom another server may be asked, and why.
    pub(crate) unsettled: Option<(Vec<Recipient>, Failure)>,
    /// Whether the connection can be used again.
    pub(crate) usable: bool,
}

impl Round {
    /// All have this result and the connection is as it was before.
    fn all(recipients: &[Recipient], failure: &Failure) -> Self {
        let at = now();
        let results = recipients.iter().map(|recipient| failed(recipient, failure, at)).collect();
        Self { results, remaining: Vec::new(), unsettled: None, usable: true }
    }
}

/// What goes over the wire.
pub(crate) enum Source {
    /// The message as it is stored.
    Stored { signature: Option<Arc<str>> },
    /// A variant that the server's abilities ask for, signature included.
    Converted(Vec<u8>),
}

/// Runs a transaction for `work.recipients`.
pub(crate) async fn transact<S: Spool, L: Limits>(
    context: &Context<S, L>,
    connection: &mut Connection,
    work: &Work<S::Lease>,
    signature: Option<&Arc<str>>,
) -> Result<Round, LeaseLost> {
    if connection.has_unasked_input() {
        return Ok(lost(&connection.host, &work.recipients, &Broken::Unasked));
    }
    if connection.needs_reset
        && let Err(error) = connection.reset(&context.timeouts).await
    {
        return Ok(lost(&connection.host, &work.recipients, &error));
    }
    let capabilities = *connection.capabilities();
    let fit = match fit(work, &capabilities, &connection.host).await {
        Ok(fit) => fit,
        Err(failure) => return Ok(Round::all(&work.recipients, &failure)),
    };
    let message = &work.job().message;
    let eight_bit = message.body_kind == BodyKind::EightBitMime;
    let source = if eight_bit && !capabilities.eight_bit_mime {
        match convert::to_seven_bit(context, work).await {
            Ok(converted) => Source::Converted(converted),
            Err(failure) => return Ok(Round::all(&work.recipients, &failure)),
        }
    } else {
        Source::Stored { signature: signature.cloned() }
    };
    let octets = match &source {
        Source::Stored { signature } => {
            message.octets + signature.as_ref().map_or(0, |fields| fields.len() as u64)
        }
        Source::Converted(content) => content.len() as u64,
    };
    if !capabilities.accepts_size(octets) {
        let reason = format!("the message has {octets} octets, {} takes fewer", connection.host);
        return Ok(Round::all(&work.recipients, &Failure::new((5, 3, 4), reason)));
    }
    let Fit { recipients, refused, smtputf8 } = fit;
    if recipients.is_empty() {
        return Ok(Round { results: refused, remaining: Vec::new(), unsettled: None, usable: true });
    }
    let params = MailParams {
        size: Some(octets),
        body: if matches!(source, Source::Stored { .. }) && eight_bit {
            Body::EightBitMime
        } else {
            Body::SevenBit
        },
        smtputf8,
        ret: message.ret.map(|ret| match ret {
            ReturnContent::Full => Ret::Full,
            ReturnContent::Headers => Ret::Headers,
        }),
        envid: message.envid.as_deref().and_then(|envid| Xtext::from_decoded(envid).ok()),
        auth: None,
    };
    let paths = recipients.iter().map(path).collect();
    let mut transaction = Transaction::new(&capabilities, message.reverse_path.clone(), params, paths);
    let ended = drive(context, connection, work, &mut transaction, &source).await?;
    let mut round = round(connection, transaction, recipients, ended);
    round.results.extend(refused);
    Ok(round)
}

fn path(recipient: &Recipient) -> (ForwardPath, RcptParams) {
    let orcpt = recipient.orcpt.as_ref().and_then(|orcpt| orcpt.parse().ok());
    (recipient.forward_path(), RcptParams { notify: recipient.notify, orcpt })
}

/// Whom the server can be given the message for.
struct Fit {
    recipients: Vec<Recipient>,
    refused: Vec<RecipientResult>,
    smtputf8: bool,
}

/// SMTPUTF8 is asked for only where it is needed (RFC 6531 section 3.4), and where it is needed and not offered the mail
/// fails (section 3.2).
async fn fit<L: Lease>(work: &Work<L>, capabilities: &Capabilities, host: &str) -> Result<Fit, Failure> {
    let recipients = work.recipients.clone();
    let message = &work.job().message;
    if !message.smtputf8 {
        return Ok(Fit { recipients, refused: Vec::new(), smtputf8: false });
    }
    let header = work.header().await.map_err(|error| unreadable(&error))?;
    let sender = message.reverse_path.mailbox().is_some_and(|address| address.needs_smtputf8());
    let always = sender || !header.is_ascii();
    if capabilities.smtputf8 {
        let smtputf8 = always || recipients.iter().any(|recipient| recipient.address.needs_smtputf8());
        return Ok(Fit { recipients, refused: Vec::new(), smtputf8 });
    }
    let failure = Failure::new((5, 6, 7), format!("the message needs SMTPUTF8, which {host} doesn't offer"));
    let at = now();
    let (refused, recipients): (Vec<_>, Vec<_>) =
        recipients.into_iter().partition(|recipient| always || recipient.address.needs_smtputf8());
    let refused = refused.iter().map(|recipient| failed(recipient, &failure, at)).collect();
    Ok(Fit { recipients, refused, smtputf8: false })
}

/// What became of a conversation that didn't run to its end.
enum Ended {
    Whole,
    Broken(Broken),
    /// Our own store failed; the connection was left in the middle of the message.
    Unreadable(Failure),
}

async fn drive<S: Spool, L: Limits>(
    context: &Context<S, L>,
    connection: &mut Connection,
    work: &Work<S::Lease>,
    transaction: &mut Transaction,
    source: &Source,
) -> Result<Ended, LeaseLost> {
    let timeouts = &context.timeouts;
    loop {
        match transaction.next(&mut connection.out) {
            Want::Done => return Ok(Ended::Whole),
            Want::Reply => {
                let stage = transaction.stage();
                let limit = match stage {
                    Stage::Data => timeouts.data,
                    Stage::Message => timeouts.reply_to_message,
                    _ => timeouts.command,
                };
                match connection.reply(stage, limit).await {
                    Ok(reply) => {
                        spans::replied(stage, &reply);
                        if let Err(error) = transaction.take(reply) {
                            return Ok(Ended::Broken(error.into()));
                        }
                    }
                    Err(broken) => return Ok(Ended::Broken(broken)),
                }
            }
            Want::Body => match send(connection, work, source, timeouts.block).await {
                Ok(()) => transaction.body_sent(),
                Err(SendError::LeaseLost) => return Err(LeaseLost),
                Err(SendError::Content(error)) => return Ok(Ended::Unreadable(unreadable(&error))),
                Err(SendError::Broken(broken)) => {
                    // It may have said why before it stopped listening.
                    if let Some(reply) = connection.last_words().await
                        && transaction.take(reply).is_ok()
                    {
                        return Ok(Ended::Whole);
                    }
                    return Ok(Ended::Broken(broken));
                }
            },
        }
    }
}

enum SendError {
    Broken(Broken),
    Content(ContentError),
    LeaseLost,
}

impl From<Broken> for SendError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// The message with its final dot, in as few writes as it fits.
async fn send<L: Lease>(
    connection: &mut Connection,
    work: &Work<L>,
    source: &Source,
    limit: std::time::Duration,
) -> Result<(), SendError> {
    let mut encoder = DataEncoder::new();
    match source {
        Source::Converted(content) => put(connection, &mut encoder, content, limit).await?,
        Source::Stored { signature } => {
            if let Some(fields) = signature {
                encoder.encode(fields.as_bytes(), &mut connection.out);
            }
            let message = &work.job().message;
            let mut offset = 0;
            while offset < message.octets {
                let piece = work.lease.content(offset).await.map_err(SendError::Content)?;
                if piece.is_empty() {
                    let cause = format!("it ends after {offset} octets of {}", message.octets);
                    return Err(SendError::Content(ContentError::Damaged {
                        queue_id: message.queue_id,
                        cause,
                    }));
                }
                offset += piece.len() as u64;
                put(connection, &mut encoder, &piece, limit).await?;
            }
        }
    }
    if !work.may_send_dot().await {
        return Err(SendError::LeaseLost);
    }
    encoder.finish(&mut connection.out);
    Ok(connection.write(limit).await?)
}

async fn put(
    connection: &mut Connection,
    encoder: &mut DataEncoder,
    content: &[u8],
    limit: std::time::Duration,
) -> Result<(), Broken> {
    for block in content.chunks(BLOCK_OCTETS) {
        if connection.out.len() + block.len() > BLOCK_OCTETS {
            connection.write(limit).await?;
        }
        encoder.encode(block, &mut connection.out);
    }
    Ok(())
}

fn round(
    connection: &mut Connection,
    transaction: Transaction,
    recipients: Vec<Recipient>,
    ended: Ended,
) -> Round {
    let relayed = !connection.capabilities().dsn;
    let outcome = transaction.outcome();
    connection.needs_reset = outcome.connection == After::NeedsReset;
    let whole = matches!(ended, Ended::Whole);
    let mut round = Round {
        results: Vec::with_capacity(recipients.len()),
        remaining: Vec::new(),
        unsettled: None,
        usable: whole && outcome.connection != After::Close,
    };
    let at = now();
    let mut unsettled = Vec::new();
    let mut why = match ended {
        Ended::Whole => None,
        Ended::Broken(ref broken) => Some(broken_off(&connection.host, broken)),
        Ended::Unreadable(ref failure) => Some(failure.clone()),
    };
    for (recipient, outcome) in recipients.into_iter().zip(outcome.recipients) {
        match outcome {
            RecipientOutcome::Accepted(reply) => {
                let disposition = Disposition::Delivered { relayed };
                round.results.push(said(&connection.host, &recipient, disposition, reply, at));
            }
            RecipientOutcome::Refused { reply, .. } if reply.code() == 421 => {
                why.get_or_insert_with(|| Failure::of_reply(&connection.host, reply));
                unsettled.push(recipient);
            }
            RecipientOutcome::Refused { reply, .. } => {
                let disposition =
                    if reply.is_permanent() { Disposition::Bounced } else { Disposition::Deferred };
                round.results.push(said(&connection.host, &recipient, disposition, reply, at));
            }
            RecipientOutcome::Remaining => round.remaining.push(recipient),
            RecipientOutcome::Unsettled => unsettled.push(recipient),
            RecipientOutcome::InDoubt => {
                let reason = format!("no answer to the message, which {} may have", connection.host);
                round.results.push(failed(&recipient, &Failure::new((4, 4, 2), reason), at));
            }
        }
    }
    if let Ended::Unreadable(failure) = &ended {
        // Another server wouldn't help.
        round.results.extend(unsettled.drain(..).map(|recipient| failed(&recipient, failure, at)));
    }
    if !round.usable {
        unsettled.append(&mut round.remaining);
    }
    if !unsettled.is_empty() {
        let why = why.unwrap_or_else(|| broken_off(&connection.host, &Broken::Closed));
        round.unsettled = Some((unsettled, why));
    }
    round
}

fn said(
    host: &str,
    recipient: &Recipient,
    disposition: Disposition,
    reply: Reply,
    at: Timestamp,
) -> RecipientResult {
    let reason = format!("{host} said: {reply}");
    let status = status_of(&reply, (0, 0));
    result(
        recipient,
        disposition,
        status,
        Some(RemoteReply { host: Some(host.to_owned()), reply }),
        reason,
        at,
    )
}

fn lost(host: &str, recipients: &[Recipient], error: &dyn std::error::Error) -> Round {
    let unsettled = Some((recipients.to_vec(), broken_off(host, error)));
    Round { results: Vec::new(), remaining: Vec::new(), unsettled, usable: false }
}

fn broken_off(host: &str, error: &dyn std::error::Error) -> Failure {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    Failure::new((4, 4, 2), format!("the conversation with {host} broke off: {error}{cause}"))
}

/// What is damaged stays so; what can't be read just now may be readable later.
pub(crate) fn unreadable(error: &ContentError) -> Failure {
    let class = if matches!(error, ContentError::Damaged { .. }) { 5 } else { 4 };
    Failure::new((class, 3, 0), error.to_string())
}
