//! What a server session does under clients that want to break it.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::sync::Arc;

use smtp::reply::{Reply, ReplyReader};
use smtp::server::{Question, Security, Session, Settings, Step, Verdict};

const HELLO: &[u8] = b"EHLO x\r\nAUTH PLAIN AGEAYg==\r\n";

fn session(settings: Settings, security: Security) -> Session {
    Session::new(Arc::new(settings), security)
}

/// Passes all of the input, answering all questions alike, and gives the codes of the replies and the last step.
fn feed(session: &mut Session, mut input: &[u8], recipients: &Verdict) -> (Vec<u16>, Step) {
    let mut out = Vec::new();
    loop {
        let (consumed, step) = session.advance(input, &mut out, &mut |_| {});
        input = &input[consumed..];
        match step {
            Step::Ask(Question::Recipient { .. }) => session.answer(recipients.clone(), &mut out),
            Step::Ask(_) => session.answer(Verdict::Yes, &mut out),
            Step::Reset => {}
            Step::Read | Step::StartTls | Step::Close => return (codes(&out), step),
        }
    }
}

fn codes(mut out: &[u8]) -> Vec<u16> {
    let mut reader = ReplyReader::new();
    let mut codes = Vec::new();
    while !out.is_empty() {
        let (consumed, reply) = reader.push(out);
        codes.push(reply.unwrap().unwrap().code());
        out = &out[consumed..];
    }
    codes
}

#[test]
fn commands_behind_starttls_are_never_executed() {
    let injected = b"EHLO x\r\nSTARTTLS\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<v@d1.test>\r\n";
    let mut at_once = session(Settings::new("mx.test"), Security::Plain);
    assert_eq!(feed(&mut at_once, injected, &Verdict::Yes), (vec![250, 421], Step::Close));

    // What comes after the reply is for the handshake: the session has no part in it.
    let mut in_time = session(Settings::new("mx.test"), Security::Plain);
    assert_eq!(feed(&mut in_time, &injected[..18], &Verdict::Yes), (vec![250, 220], Step::StartTls));
    assert_eq!(feed(&mut in_time, &injected[18..], &Verdict::Yes), (vec![], Step::Close));
    let mut under_tls = in_time.after_tls();
    assert_eq!((under_tls.helo_name(), under_tls.security()), (None, Security::Tls));
    assert_eq!(feed(&mut under_tls, b"MAIL FROM:<a@x.test>\r\n", &Verdict::Yes), (vec![503], Step::Read));
}

#[test]
fn a_pipelined_group_of_502_commands_is_answered_in_order() {
    let local = "r".repeat(60);
    let rcpt: String = (0..500)
        .map(|n| format!("RCPT TO:<{local}{n}@a-long-name-of-a-domain-that-fills.d1.test>\r\n"))
        .collect();
    let group = format!("MAIL FROM:<a@x.test>\r\n{rcpt}DATA\r\n");
    let refused = Verdict::Refuse(Reply::new(550, (5, 1, 1), "no"));
    for (verdict, code, data) in [(Verdict::Yes, 250, 354), (refused, 550, 554)] {
        for length in [1, 1460, group.len()] {
            let mut session = session(Settings::new("mx.test"), Security::Tls);
            feed(&mut session, HELLO, &verdict);
            let replies =
                group.as_bytes().chunks(length).flat_map(|piece| feed(&mut session, piece, &verdict).0);
            let expected: Vec<_> = [250].into_iter().chain([code; 500]).chain([data]).collect();
            assert_eq!(replies.collect::<Vec<_>>(), expected);
            assert_eq!(session.is_in_body(), data == 354);
        }
    }
}

#[test]
fn a_refused_mail_does_not_make_errors_of_its_group() {
    let mut session = session(Settings::new("mx.test"), Security::Tls);
    feed(&mut session, HELLO, &Verdict::Yes);
    let group =
        ["MAIL FROM:<a@x.test> SIZE=99999999999\r\n", &"RCPT TO:<b@d1.test>\r\n".repeat(100), "DATA\r\n"]
            .concat();
    let (codes, step) = feed(&mut session, group.as_bytes(), &Verdict::Yes);
    assert_eq!(step, Step::Read);
    assert_eq!(codes, [552].into_iter().chain([503; 101]).collect::<Vec<_>>());
}

#[test]
fn nothing_is_consumed_while_a_question_is_open() {
    let mut session = session(Settings::new("mx.test"), Security::Tls);
    let input = [HELLO, b"NOOP\r\n"].concat();
    let mut out = Vec::new();
    let (consumed, step) = session.advance(&input, &mut out, &mut |_| {});
    assert!(matches!(step, Step::Ask(Question::Authenticate { .. })) && session.is_asking());
    assert_eq!(consumed, HELLO.len());
    let before = out.len();
    assert_eq!(session.advance(&input[consumed..], &mut out, &mut |_| {}), (0, Step::Read));
    assert_eq!(out.len(), before);
    session.answer(Verdict::Yes, &mut out);
    // A verdict that nobody asked for changes nothing.
    session.answer(Verdict::CloseWith(Reply::bare(421, "")), &mut out);
    assert_eq!(session.advance(&input[consumed..], &mut out, &mut |_| {}), (6, Step::Read));
    assert_eq!(codes(&out), [250, 235, 250]);
}

#[test]
fn a_line_without_end_is_answered_once_and_does_not_stop_the_next() {
    let mut session = session(Settings::new("mx.test"), Security::Tls);
    let piece = [b'x'; 10_000];
    for _ in 0..500 {
        assert_eq!(feed(&mut session, &piece, &Verdict::Yes), (vec![], Step::Read));
    }
    assert_eq!(feed(&mut session, b"\r\nMAIL FROM:<", &Verdict::Yes).0, [500]);
    let long = [b"a@x.test>\r\nNOOP ", &[b'x'; 70_000][..], b"\r\nNOOP\r\n"].concat();
    assert_eq!(feed(&mut session, &long, &Verdict::Yes).0, [503, 500, 250]);
}

#[test]
fn the_limit_of_a_line_is_exact() {
    for (verb, octets, code) in
        [("NOOP ", 4096, 250), ("NOOP ", 4097, 500), ("AUTH ", 12_288, 504), ("AUTH ", 12_289, 500)]
    {
        let line = format!("{verb}{}\r\n", "x".repeat(octets - 5));
        let mut whole = session(Settings::new("mx.test"), Security::Tls);
        feed(&mut whole, b"EHLO x\r\n", &Verdict::Yes);
        assert_eq!(feed(&mut whole, line.as_bytes(), &Verdict::Yes).0, [code], "{verb} {octets}");
        let mut cut = session(Settings::new("mx.test"), Security::Tls);
        let codes = line.as_bytes().chunks(7).flat_map(|piece| feed(&mut cut, piece, &Verdict::Yes).0);
        assert_eq!(codes.collect::<Vec<_>>(), [code], "{verb} {octets}");
    }
}

#[test]
fn any_number_of_tiny_chunks_is_one_message() {
    let mut session = session(Settings::new("mx.test"), Security::Tls);
    feed(&mut session, &[HELLO, b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\n"].concat(), &Verdict::Yes);
    let chunks = "BDAT 1\r\nx".repeat(20_000);
    let (codes, _) = feed(&mut session, chunks.as_bytes(), &Verdict::Yes);
    assert_eq!(codes, vec![250; 20_000]);
    let mut out = Vec::new();
    let (_, step) = session.advance(b"BDAT 0 LAST\r\n", &mut out, &mut |_| {});
    // A line may be as long as 998 octets, whatever chunks it comes in.
    let Step::Ask(Question::Message { flaws: Some(flaws), octets: 20_000, eight_bit: false }) = step else {
        panic!("{step:?}")
    };
    assert!(flaws.long_line && !flaws.bare_cr && !flaws.bare_lf && !flaws.nul);
}

#[test]
fn a_message_over_the_limit_is_not_handed_on() {
    for size_max in [0, 100] {
        let mut session = session(Settings { size_max, ..Settings::new("mx.test") }, Security::Tls);
        feed(
            &mut session,
            &[HELLO, b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n"].concat(),
            &Verdict::Yes,
        );
        let (mut kept, mut out) = (0, Vec::new());
        for _ in 0..1000 {
            session.advance(b"a line of thirty octets, text.\r\n", &mut out, &mut |octets| {
                kept += octets.len() as u64
            });
        }
        let (_, step) = session.advance(b".\r\n", &mut out, &mut |_| {});
        if size_max == 0 {
            assert!(matches!(step, Step::Ask(Question::Message { octets: 32_000, .. })));
        } else {
            assert_eq!((step, codes(&out)), (Step::Reset, vec![552]));
            assert!(kept <= size_max);
        }
    }
}

#[test]
fn a_password_is_in_no_debug_output() {
    let mut session = session(Settings::new("mx.test"), Security::Tls);
    let (_, step) =
        session.advance(b"EHLO x\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\n", &mut Vec::new(), &mut |_| {});
    let Step::Ask(Question::Authenticate { password, .. }) = &step else { panic!() };
    assert_eq!(password, b"secret");
    let text = format!("{step:?}");
    assert!(text.contains("user") && !text.contains("secret") && !text.contains("115, 101"), "{text}");
    let command = smtp::command::Command::parse(b"AUTH PLAIN AHVzZXIAc2VjcmV0", smtp::address::Utf8::Refused);
    assert!(!format!("{command:?}").contains("AHVz"));
}

#[test]
fn the_shell_can_end_a_session_at_any_time() {
    let mut session = session(Settings::new("mx.test"), Security::Tls);
    feed(&mut session, &[HELLO, b"MAIL FROM:<a@x.test>\r\n"].concat(), &Verdict::Yes);
    let mut out = Vec::new();
    session.close_with(&Reply::new(421, (4, 3, 2), "shutting down"), &mut out);
    assert_eq!(session.advance(b"NOOP\r\n", &mut out, &mut |_| {}), (0, Step::Close));
    assert_eq!(codes(&out), [421]);
    assert!(!session.is_in_transaction());
}
