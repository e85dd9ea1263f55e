//! The client's session and transaction.

use smtp::address::{ForwardPath, Host, ReversePath, Utf8};
use smtp::client::{
    Capabilities, Connection, Outcome, Progress, RecipientOutcome, Session, Transaction, Want,
};
use smtp::command::{MailParams, RcptParams};
use smtp::data::DataEncoder;
use smtp::reply::{Reply, ReplyReader};

use super::arrivals;

/// Whatever a server sends and however it arrives, the client makes the same of it, and takes nothing for accepted that
/// wasn't after the final dot.
pub(crate) fn client(octets: &[u8]) {
    let [whole, single, random] = arrivals(octets).map(|pieces| run(replies_of(&pieces)));
    assert_eq!(whole, single);
    assert_eq!(whole, random);
}

fn replies_of(pieces: &[&[u8]]) -> Vec<Reply> {
    let mut reader = ReplyReader::new();
    let mut replies = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (consumed, reply) = reader.push(rest);
            rest = &rest[consumed..];
            match reply {
                Some(Ok(reply)) => replies.push(reply),
                Some(Err(_)) => return replies,
                None => {}
            }
        }
    }
    replies
}

fn run(replies: Vec<Reply>) -> (Vec<u8>, Vec<Outcome>) {
    let (mut out, mut outcomes) = (Vec::new(), Vec::new());
    let mut replies = replies.into_iter();
    let Some(capabilities) = open(&mut replies, &mut out) else { return (out, outcomes) };
    for _ in 0..3 {
        let outcome = transact(&capabilities, &mut replies, &mut out);
        let connection = outcome.connection;
        outcomes.push(outcome);
        if connection != Connection::Usable {
            break;
        }
    }
    (out, outcomes)
}

fn open(replies: &mut impl Iterator<Item = Reply>, out: &mut Vec<u8>) -> Option<Capabilities> {
    let mut session = Session::new(Host::parse("client.example.org").unwrap());
    let mut upgraded = false;
    loop {
        match session.next(out) {
            Progress::Reply => session.take(replies.next()?).ok()?,
            Progress::StartTls => session.after_tls(),
            Progress::Ready if session.capabilities().starttls && !upgraded => {
                upgraded = true;
                session.start_tls();
            }
            Progress::Ready => return Some(*session.capabilities()),
            Progress::Refused(reply) => {
                assert!(!reply.is_positive() && !reply.is_intermediate());
                return None;
            }
            Progress::Closed => panic!("QUIT wasn't sent"),
        }
    }
}

fn transact(offered: &Capabilities, replies: &mut impl Iterator<Item = Reply>, out: &mut Vec<u8>) -> Outcome {
    let to = |text| (ForwardPath::parse(text, Utf8::Refused).unwrap(), RcptParams::default());
    let recipients = vec![to("a@example.org"), to("b@example.org"), to("c@example.org")];
    let mut transaction = Transaction::new(offered, ReversePath::Null, MailParams::default(), recipients);
    let mut dot_sent = false;
    loop {
        match transaction.next(out) {
            Want::Reply => match replies.next().map(|reply| transaction.take(reply)) {
                Some(Ok(())) => {}
                Some(Err(_)) | None => break,
            },
            Want::Body => {
                assert!(transaction.recipients_accepted() > 0, "no message without a recipient");
                DataEncoder::new().finish(out);
                transaction.body_sent();
                dot_sent = true;
            }
            Want::Done => break,
        }
    }
    let outcome = transaction.outcome();
    assert_eq!(outcome.recipients.len(), 3);
    for recipient in &outcome.recipients {
        match recipient {
            RecipientOutcome::Accepted(reply) => assert!(dot_sent && reply.is_positive()),
            RecipientOutcome::Refused { reply, .. } => assert!(reply.is_transient() || reply.is_permanent()),
            RecipientOutcome::InDoubt => assert!(dot_sent && outcome.connection == Connection::Close),
            RecipientOutcome::Unsettled => assert!(!dot_sent && outcome.connection == Connection::Close),
            RecipientOutcome::Remaining => {}
        }
    }
    outcome
}
