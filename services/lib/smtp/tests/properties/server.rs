//! The server's session.

use std::sync::Arc;

use smtp::reply::{Reply, ReplyReader};
use smtp::server::{AuthOffer, Question, Security, Session, Settings, StartTls, Step, Verdict};

use super::arrivals;

/// Whatever a client sends and however it arrives, the session says the same, in replies that can be read.
pub(crate) fn server(octets: &[u8]) {
    let (choice, input) = octets.split_first().map_or((0, octets), |(choice, input)| (*choice, input));
    let settings = Settings {
        size_max: if choice & 1 == 0 { 0 } else { 64 },
        recipients_max: if choice & 2 == 0 { 2 } else { 100 },
        errors_max: if choice & 4 == 0 { 3 } else { 1000 },
        // Where TLS begins depends on what came with STARTTLS, so it isn't offered.
        starttls: StartTls::NotOffered,
        auth: if choice & 8 == 0 { AuthOffer::Always } else { AuthOffer::UnderTls },
        ..Settings::new("mx.example.org")
    };
    let security = if choice & 16 == 0 { Security::Tls } else { Security::Plain };
    let [whole, single, random] = arrivals(input).map(|pieces| run(&settings, security, &pieces));
    assert_eq!(whole, single);
    assert_eq!(whole, random);
    check_replies(&whole.out);

    // With it, nothing is read behind it but to say so.
    let mut session =
        Session::new(Arc::new(Settings { starttls: StartTls::Offered, ..settings }), Security::Plain);
    let (consumed, step) = session.advance(input, &mut Vec::new(), &mut |_| {});
    assert!(step != Step::StartTls || consumed == input.len());
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Run {
    out: Vec<u8>,
    accepted: Vec<(String, Vec<u8>)>,
    resets: usize,
    closed: usize,
}

fn run(settings: &Settings, security: Security, pieces: &[&[u8]]) -> Run {
    let mut session = Session::new(Arc::new(settings.clone()), security);
    let mut run = Run::default();
    let mut body = Vec::new();
    session.greeting(&mut run.out);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let (consumed, step) =
                session.advance(rest, &mut run.out, &mut |octets| body.extend_from_slice(octets));
            rest = &rest[consumed..];
            match step {
                Step::Read => break,
                Step::Ask(question) => {
                    let verdict = decide(&session, question, &mut body, &mut run);
                    session.answer(verdict, &mut run.out);
                }
                Step::Reset => {
                    assert!(!session.is_in_transaction());
                    run.resets += 1;
                }
                Step::StartTls => panic!("it wasn't offered"),
                Step::Close => {
                    run.closed = 1;
                    return run;
                }
            }
        }
        assert!(rest.is_empty(), "the session reads all that it is given");
    }
    run
}

/// A policy that sees nothing but the question, and has all verdicts.
fn decide(session: &Session, question: Question, body: &mut Vec<u8>, run: &mut Run) -> Verdict {
    let no = |code, class| Verdict::Refuse(Reply::new(code, (class, 7, 1), "no"));
    match question {
        Question::Authenticate { password, .. } if password.is_empty() => no(535, 5),
        Question::Authenticate { .. } => Verdict::Yes,
        Question::Sender { from, .. } if from.to_string().starts_with('x') => no(550, 5),
        Question::Sender { .. } => Verdict::Yes,
        Question::Recipient { to, .. } => match to.to_string().as_bytes().first() {
            Some(b'x') => no(550, 5),
            Some(b'y') => no(450, 4),
            Some(b'z') => Verdict::CloseWith(Reply::new(421, (4, 3, 2), "bye")),
            _ => Verdict::Yes,
        },
        Question::Body => {
            body.clear();
            Verdict::Yes
        }
        Question::Message { flaws: Some(flaws), .. } => Verdict::Refuse(flaws.reply()),
        Question::Message { octets, .. } => {
            let transaction = session.transaction().unwrap();
            assert!(!transaction.recipients.is_empty());
            assert_eq!(octets, body.len() as u64);
            run.accepted.push((transaction.from.to_string(), body.clone()));
            Verdict::YesWith(Reply::new(250, (2, 0, 0), "queued"))
        }
    }
}

fn check_replies(out: &[u8]) {
    let mut reader = ReplyReader::new();
    let mut rest = out;
    while !rest.is_empty() {
        let (consumed, reply) = reader.push(rest);
        let reply = reply.expect("replies are whole").expect("replies can be read");
        if let Some(enhanced) = reply.enhanced() {
            assert_eq!(u16::from(enhanced.class), reply.code() / 100, "{reply}");
        }
        rest = &rest[consumed..];
    }
}
