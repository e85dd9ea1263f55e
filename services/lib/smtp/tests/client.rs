//! What a client says to servers good and bad, and what it takes from them.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use smtp::address::{ForwardPath, Host, ReversePath, Utf8};
use smtp::client::{
    Capabilities, Connection, Outcome, Progress, ProtocolError, RecipientOutcome, Session, Stage,
    Transaction, Want,
};
use smtp::command::{Body, Command, MailParams, RcptParams};
use smtp::data::DataEncoder;
use smtp::reply::{Reply, ReplyReader};

const PIPELINED: Capabilities = Capabilities { pipelining: true, ..NOTHING };
const NOTHING: Capabilities = Capabilities {
    pipelining: false,
    size: None,
    eight_bit_mime: false,
    smtputf8: false,
    dsn: false,
    chunking: false,
    starttls: false,
    enhanced_status_codes: false,
    auth_plain: false,
    auth_login: false,
};

fn replies(text: &str) -> Vec<Reply> {
    let mut reader = ReplyReader::new();
    let mut rest = text.as_bytes();
    let mut replies = Vec::new();
    while !rest.is_empty() {
        let (consumed, reply) = reader.push(rest);
        replies.push(reply.unwrap().unwrap());
        rest = &rest[consumed..];
    }
    replies
}

fn reply(line: &str) -> Reply {
    replies(&format!("{line}\r\n")).remove(0)
}

fn recipients(count: usize) -> Vec<(ForwardPath, RcptParams)> {
    let to = |n| ForwardPath::parse(&format!("r{n}@d1.test"), Utf8::Refused).unwrap();
    (0..count).map(|n| (to(n), RcptParams::default())).collect()
}

fn sender() -> ReversePath {
    ReversePath::parse("a@sender.test", Utf8::Refused).unwrap()
}

/// What the client wrote before each reply, what came of it, and how it ended.
struct Played {
    wrote: Vec<String>,
    outcome: Outcome,
    error: Option<ProtocolError>,
}

/// A transaction with the server's replies, one a line; when they are all read the connection breaks.
fn play(offered: &Capabilities, count: usize, script: &[&str]) -> Played {
    let mut transaction = Transaction::new(offered, sender(), MailParams::default(), recipients(count));
    let mut script = script.iter().map(|line| reply(line));
    let (mut wrote, mut out) = (Vec::new(), Vec::new());
    let mut error = None;
    loop {
        match transaction.next(&mut out) {
            Want::Reply => {
                wrote.push(String::from_utf8(std::mem::take(&mut out)).unwrap());
                let Some(reply) = script.next() else { break };
                error = transaction.take(reply).err();
                if error.is_some() {
                    break;
                }
            }
            Want::Body => {
                let mut encoder = DataEncoder::new();
                encoder.encode(b".hello\r\n", &mut out);
                encoder.finish(&mut out);
                transaction.body_sent();
            }
            Want::Done => {
                assert_eq!(script.next(), None, "all replies are for this transaction");
                break;
            }
        }
    }
    assert!(out.is_empty());
    Played { wrote, outcome: transaction.outcome(), error }
}

fn accepted(line: &str) -> RecipientOutcome {
    RecipientOutcome::Accepted(reply(line))
}

fn refused(stage: Stage, line: &str) -> RecipientOutcome {
    RecipientOutcome::Refused { stage, reply: reply(line) }
}

#[test]
fn a_group_leaves_at_once_where_pipelining_is_offered() {
    let played = play(&PIPELINED, 2, &["250 ok", "250 ok", "550 5.1.1 no", "354 go", "250 2.0.0 kept"]);
    let group = "MAIL FROM:<a@sender.test>\r\nRCPT TO:<r0@d1.test>\r\nRCPT TO:<r1@d1.test>\r\nDATA\r\n";
    assert_eq!(played.wrote, [group, "", "", "", "..hello\r\n.\r\n"]);
    assert_eq!(played.outcome.recipients, [accepted("250 2.0.0 kept"), refused(Stage::Rcpt, "550 5.1.1 no")]);
    assert_eq!(played.outcome.connection, Connection::Usable);
}

#[test]
fn commands_leave_one_by_one_where_it_is_not() {
    let played = play(&NOTHING, 2, &["250 ok", "251 ok", "450 later", "354 go", "452 full"]);
    assert_eq!(
        played.wrote,
        [
            "MAIL FROM:<a@sender.test>\r\n",
            "RCPT TO:<r0@d1.test>\r\n",
            "RCPT TO:<r1@d1.test>\r\n",
            "DATA\r\n",
            "..hello\r\n.\r\n"
        ]
    );
    assert_eq!(
        played.outcome.recipients,
        [refused(Stage::Message, "452 full"), refused(Stage::Rcpt, "450 later")]
    );
    assert_eq!(played.outcome.connection, Connection::Usable);
}

#[test]
fn a_refused_sender_is_the_result_of_all_recipients() {
    let no = || refused(Stage::Mail, "550 5.7.1 no");
    let single = play(&NOTHING, 2, &["550 5.7.1 no"]);
    assert_eq!(single.outcome, Outcome { recipients: vec![no(), no()], connection: Connection::Usable });
    let group = play(&PIPELINED, 2, &["550 5.7.1 no", "503 x", "503 x", "503 x"]);
    assert_eq!(group.outcome, Outcome { recipients: vec![no(), no()], connection: Connection::NeedsReset });
    // A server that takes recipients without a sender, and DATA too, gets nothing.
    let odd = play(&PIPELINED, 2, &["550 5.7.1 no", "250 x", "250 x", "354 x", "250 x"]);
    assert_eq!(odd.wrote.last().unwrap(), ".\r\n");
    assert_eq!(odd.outcome.recipients, [no(), no()]);
}

#[test]
fn no_message_is_sent_when_all_recipients_are_refused() {
    let results = [refused(Stage::Rcpt, "550 a"), refused(Stage::Rcpt, "450 b")];
    let single = play(&NOTHING, 2, &["250 ok", "550 a", "450 b"]);
    assert_eq!(single.outcome.recipients, results);
    assert_eq!(single.outcome.connection, Connection::NeedsReset);
    let group = play(&PIPELINED, 2, &["250 ok", "550 a", "450 b", "554 none"]);
    assert_eq!(group.outcome.recipients, results);
    assert_eq!(group.outcome.connection, Connection::NeedsReset);
    for last in ["554 none", "250 kept"] {
        let lenient = play(&PIPELINED, 2, &["250 ok", "550 a", "450 b", "354 go", last]);
        assert_eq!(lenient.wrote.last().unwrap(), ".\r\n");
        assert_eq!(lenient.outcome.recipients, results);
        assert_eq!(lenient.outcome.connection, Connection::Usable);
    }
}

#[test]
fn too_many_recipients_remain_for_the_next_transaction() {
    for (line, expected) in [
        ("452 too many", RecipientOutcome::Remaining),
        ("452 4.5.3 too many", RecipientOutcome::Remaining),
        ("552 too many", RecipientOutcome::Remaining),
        ("452 4.2.2 mailbox full", refused(Stage::Rcpt, "452 4.2.2 mailbox full")),
        ("552 5.2.2 mailbox full", refused(Stage::Rcpt, "552 5.2.2 mailbox full")),
        ("450 later", refused(Stage::Rcpt, "450 later")),
    ] {
        let played = play(&PIPELINED, 3, &["250 ok", "250 ok", line, line, "354 go", "250 kept"]);
        assert_eq!(played.outcome.recipients, [accepted("250 kept"), expected.clone(), expected]);
    }
    // Before any was accepted it is said of the recipient.
    let first = play(&NOTHING, 1, &["250 ok", "452 4.5.3 no"]);
    assert_eq!(first.outcome.recipients, [refused(Stage::Rcpt, "452 4.5.3 no")]);
}

#[test]
fn a_refused_data_is_the_result_of_the_accepted() {
    let played = play(&PIPELINED, 2, &["250 ok", "250 ok", "550 no", "451 later"]);
    assert_eq!(
        played.outcome.recipients,
        [refused(Stage::Data, "451 later"), refused(Stage::Rcpt, "550 no")]
    );
    assert_eq!(played.outcome.connection, Connection::NeedsReset);
}

#[test]
fn a_421_ends_everything_at_any_stage() {
    let bye = |stage| refused(stage, "421 bye");
    let script = ["250 ok", "250 ok", "550 no", "354 go", "421 bye"];
    let none = [
        (Stage::Mail, bye(Stage::Mail)),
        (Stage::Rcpt, bye(Stage::Rcpt)),
        (Stage::Rcpt, bye(Stage::Rcpt)),
        (Stage::Data, refused(Stage::Rcpt, "550 no")),
    ];
    for offered in [NOTHING, PIPELINED] {
        for (position, (stage, second)) in none.iter().enumerate() {
            let played = play(&offered, 2, &[&script[..position], &["421 bye"]].concat());
            assert_eq!(played.outcome.recipients, [bye(*stage), second.clone()]);
            assert_eq!(played.outcome.connection, Connection::Close);
        }
        let last = play(&offered, 2, &script);
        assert_eq!(last.outcome.recipients, [bye(Stage::Message), refused(Stage::Rcpt, "550 no")]);
        assert_eq!(last.outcome.connection, Connection::Close);
    }
}

#[test]
fn a_reply_of_the_wrong_kind_accepts_nothing() {
    for (script, stage) in [
        (&["354 go"][..], Stage::Mail),
        (&["250 ok", "354 go"], Stage::Rcpt),
        // A late reply taken for the next one: 250 where 354 is due.
        (&["250 ok", "250 ok", "250 ok"], Stage::Data),
        (&["250 ok", "250 ok", "354 go", "354 go"], Stage::Message),
    ] {
        let played = play(&PIPELINED, 1, script);
        assert_eq!(
            played.error,
            Some(ProtocolError::Unexpected { stage, reply: reply(script[script.len() - 1]) })
        );
        let expected =
            if stage == Stage::Message { RecipientOutcome::InDoubt } else { RecipientOutcome::Unsettled };
        assert_eq!(played.outcome, Outcome { recipients: vec![expected], connection: Connection::Close });
    }
}

#[test]
fn a_broken_connection_leaves_doubt_after_the_dot_only() {
    let script = ["250 ok", "550 no", "250 ok", "354 go"];
    for length in 0..=script.len() {
        let played = play(&PIPELINED, 2, &script[..length]);
        let first = if length > 1 { refused(Stage::Rcpt, "550 no") } else { RecipientOutcome::Unsettled };
        let second = if length == 4 { RecipientOutcome::InDoubt } else { RecipientOutcome::Unsettled };
        assert_eq!(
            played.outcome,
            Outcome { recipients: vec![first, second], connection: Connection::Close }
        );
    }
}

#[test]
fn a_refusal_may_come_before_the_dot_and_an_acceptance_may_not() {
    for (line, expected) in [
        ("552 too big", Some(refused(Stage::Message, "552 too big"))),
        ("421 bye", Some(refused(Stage::Message, "421 bye"))),
        ("250 kept", None),
    ] {
        let mut transaction = Transaction::new(&PIPELINED, sender(), MailParams::default(), recipients(1));
        transaction.next(&mut Vec::new());
        for line in ["250 ok", "250 ok", "354 go"] {
            transaction.take(reply(line)).unwrap();
        }
        assert_eq!(transaction.next(&mut Vec::new()), Want::Body);
        assert_eq!(transaction.take(reply(line)).is_ok(), expected.is_some());
        let recipient = expected.unwrap_or(RecipientOutcome::Unsettled);
        assert_eq!(
            transaction.outcome(),
            Outcome { recipients: vec![recipient], connection: Connection::Close }
        );
    }
}

#[test]
fn a_reply_that_was_not_asked_for_is_an_error() {
    let mut transaction = Transaction::new(&PIPELINED, sender(), MailParams::default(), recipients(1));
    assert_eq!(transaction.take(reply("250 ok")), Err(ProtocolError::Unasked(reply("250 ok"))));
    let mut session = Session::new(Host::parse("x.test").unwrap());
    session.take(reply("220 mx")).unwrap();
    assert_eq!(session.take(reply("220 mx")), Err(ProtocolError::Unasked(reply("220 mx"))));
}

#[test]
fn parameters_go_only_where_they_are_known() {
    let mail = "MAIL FROM:<a@sender.test> SIZE=10 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb AUTH=<>";
    let Ok(Command::Mail { from, params: mail_params }) = Command::parse(mail.as_bytes(), Utf8::Allowed)
    else {
        panic!()
    };
    let rcpt = "RCPT TO:<r@d1.test> NOTIFY=SUCCESS,DELAY ORCPT=utf-8;\\x{FC}\\x{3D}@d1.test";
    let Ok(Command::Rcpt { to, params }) = Command::parse(rcpt.as_bytes(), Utf8::Allowed) else { panic!() };
    let all = Capabilities { size: Some(0), eight_bit_mime: true, smtputf8: true, dsn: true, ..PIPELINED };
    let group = |offered: &Capabilities| {
        let to = vec![(to.clone(), params.clone())];
        let mut out = Vec::new();
        Transaction::new(offered, from.clone(), mail_params.clone(), to).next(&mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(group(&PIPELINED), "MAIL FROM:<a@sender.test>\r\nRCPT TO:<r@d1.test>\r\nDATA\r\n");
    // AUTH of MAIL is only for servers that trust us, and there is no way to know that one does.
    let expected = format!(
        "{}\r\nRCPT TO:<r@d1.test> NOTIFY=SUCCESS,DELAY ORCPT=utf-8;\\x{{FC}}\\x{{3D}}@d1.test\r\nDATA\r\n",
        mail.strip_suffix(" AUTH=<>").unwrap()
    );
    assert_eq!(group(&all), expected);
    assert_eq!(mail_params.body, Body::EightBitMime);
}

#[test]
fn ten_messages_on_a_connection_get_their_own_replies() {
    let one = |n| format!("250-a\r\n250 ok\r\n250\r\n354 go\n250-kept\r\n250 as {n}\r\n");
    let mut script = replies(&(0..10).map(one).collect::<String>()).into_iter();
    for n in 0..10 {
        let mut transaction = Transaction::new(&PIPELINED, sender(), MailParams::default(), recipients(1));
        loop {
            match transaction.next(&mut Vec::new()) {
                Want::Reply => transaction.take(script.next().unwrap()).unwrap(),
                Want::Body => transaction.body_sent(),
                Want::Done => break,
            }
        }
        let kept = RecipientOutcome::Accepted(Reply::bare(250, format!("kept\nas {n}")));
        assert_eq!(transaction.outcome(), Outcome { recipients: vec![kept], connection: Connection::Usable });
    }
    assert_eq!(script.next(), None);
}

#[test]
fn a_transaction_without_recipients_is_done() {
    assert_eq!(
        play(&PIPELINED, 0, &[]).outcome,
        Outcome { recipients: vec![], connection: Connection::Usable }
    );
}

/// Opens a session against a script; gives what was written and where it got.
fn open(script: &str) -> (String, Progress, Session) {
    let mut session = Session::new(Host::parse("client.test").unwrap());
    let mut out = Vec::new();
    let progress = run(&mut session, script, &mut out);
    (String::from_utf8(out).unwrap(), progress, session)
}

fn run(session: &mut Session, script: &str, out: &mut Vec<u8>) -> Progress {
    let mut script = replies(script).into_iter();
    loop {
        match session.next(out) {
            Progress::Reply => match script.next() {
                Some(reply) => session.take(reply).unwrap(),
                None => return Progress::Reply,
            },
            progress => {
                assert_eq!(script.next(), None);
                return progress;
            }
        }
    }
}

#[test]
fn ehlo_tells_what_the_server_offers() {
    let (wrote, progress, session) = open(
        "220-hello\r\n220 mx\r\n250-mx hello\r\n250-pipelining\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n\
         250-CHUNKING\r\n250-STARTTLS\r\n250-ENHANCEDSTATUSCODES\r\n250-AUTH CRAM-MD5 PLAIN\r\n250-AUTH=LOGIN\r\n250 X-OTHER\r\n",
    );
    assert_eq!((wrote.as_str(), progress), ("EHLO client.test\r\n", Progress::Ready));
    let all = Capabilities {
        pipelining: true,
        size: Some(1000),
        eight_bit_mime: true,
        smtputf8: true,
        dsn: true,
        chunking: true,
        starttls: true,
        enhanced_status_codes: true,
        auth_plain: true,
        auth_login: true,
    };
    assert_eq!(*session.capabilities(), all);
    assert!(all.accepts_size(1000) && !all.accepts_size(1001));
    assert!(
        NOTHING.accepts_size(u64::MAX) && Capabilities { size: Some(0), ..NOTHING }.accepts_size(u64::MAX)
    );
}

#[test]
fn the_greeting_may_refuse() {
    for line in ["554 no", "521 no mail here", "450 later", "421 busy"] {
        let (wrote, progress, mut session) = open(&format!("{line}\r\n"));
        assert_eq!((wrote.as_str(), progress), ("", Progress::Refused(reply(line))));
        session.quit();
        let mut out = Vec::new();
        assert_eq!(run(&mut session, "221 bye\r\n", &mut out), Progress::Closed);
        assert_eq!(out, b"QUIT\r\n");
    }
}

#[test]
fn a_server_without_ehlo_is_asked_with_helo() {
    let (wrote, progress, session) = open("220 mx\r\n502 what\r\n250 mx\r\n");
    assert_eq!((wrote.as_str(), progress), ("EHLO client.test\r\nHELO client.test\r\n", Progress::Ready));
    assert_eq!(*session.capabilities(), NOTHING);
    assert_eq!(open("220 mx\r\n502 what\r\n550 go away\r\n").1, Progress::Refused(reply("550 go away")));
    assert_eq!(open("220 mx\r\n450 later\r\n").1, Progress::Refused(reply("450 later")));
}

#[test]
fn tls_makes_a_new_start() {
    let (_, _, mut session) = open("220 mx\r\n250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n");
    let mut out = Vec::new();
    session.start_tls();
    assert_eq!(run(&mut session, "220 go\r\n", &mut out), Progress::StartTls);
    session.after_tls();
    assert_eq!(*session.capabilities(), NOTHING);
    assert_eq!(run(&mut session, "250-mx\r\n250 AUTH PLAIN\r\n", &mut out), Progress::Ready);
    assert!(session.capabilities().auth_plain && !session.capabilities().pipelining);
    session.auth_plain("user", b"secret");
    assert!(!format!("{session:?}").contains("115"));
    assert_eq!(run(&mut session, "235 ok\r\n", &mut out), Progress::Ready);
    session.reset();
    assert_eq!(run(&mut session, "250 ok\r\n", &mut out), Progress::Ready);
    assert_eq!(out, b"STARTTLS\r\nEHLO client.test\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\nRSET\r\n");
}

#[test]
fn a_refused_starttls_leaves_the_choice() {
    for line in ["454 no TLS now", "502 what"] {
        let (_, _, mut session) = open("220 mx\r\n250-mx\r\n250 STARTTLS\r\n");
        session.start_tls();
        assert_eq!(run(&mut session, &format!("{line}\r\n"), &mut Vec::new()), Progress::Ready);
        assert_eq!(session.starttls_refusal(), Some(&reply(line)));
    }
    let (_, _, mut session) = open("220 mx\r\n250-mx\r\n250 STARTTLS\r\n");
    session.start_tls();
    assert_eq!(run(&mut session, "421 bye\r\n", &mut Vec::new()), Progress::Refused(reply("421 bye")));
}

#[test]
fn a_session_takes_no_intermediate_reply() {
    let mut session = Session::new(Host::parse("client.test").unwrap());
    let error = session.take(reply("354 go")).unwrap_err();
    assert_eq!(error, ProtocolError::Unexpected { stage: Stage::Greeting, reply: reply("354 go") });
    assert_eq!(error.to_string(), "unexpected reply to the connection: 354 go");
}
