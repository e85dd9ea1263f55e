//! Messages in, header sections or refusals out.

use proptest::prelude::*;

use crate::header::{HeaderError, HeaderReader, Limits, LineFlaw, MailboxFlaw, Prepared, Protocol, Trace};
use crate::{QueueId, Timestamp};

const RECEIVED: &str = "Received: from [192.0.2.7]\r\n\tby mx.example.net with ESMTPSA (TLSv1.3)\r\n\t\
                        id 01ARYZ6S41ZZZZZZZZZZZZZZZZ;\r\n\tWed, 25 Nov 2026 04:07:23 +0000\r\n";
const DATE: &str = "Date: Wed, 25 Nov 2026 04:07:23 +0000\r\n";
const OUR_ID: &str = "Message-ID: <01ARYZ6S41ZZZZZZZZZZZZZZZZ@example.org>\r\n";

fn limits() -> Limits {
    Limits::default()
}

/// The result of a message that comes in pieces, and its body.
fn read_pieces<'a>(
    limits: Limits,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Result<Prepared, HeaderError>, Vec<u8>) {
    let by = "mx.example.net".parse().unwrap();
    let queue_id: QueueId = "01ARYZ6S41ZZZZZZZZZZZZZZZZ".parse().unwrap();
    let trace = Trace {
        helo: None,
        client_address: Some([192, 0, 2, 7].into()),
        client_name: None,
        protocol: Protocol::Esmtp,
        tls: Some("TLSv1.3"),
        authenticated: true,
        by: &by,
        queue_id,
        recipient: None,
        now: Timestamp(1_795_579_643_042),
    };
    let mut reader = HeaderReader::new(limits);
    let mut body = Vec::new();
    for piece in pieces {
        body.extend_from_slice(reader.push(piece));
    }
    (reader.finish(&trace), body)
}

fn read(message: &[u8]) -> Result<Prepared, HeaderError> {
    read_pieces(limits(), [message]).0
}

fn header(message: &str) -> String {
    String::from_utf8(read(message.as_bytes()).unwrap().header).unwrap()
}

#[test]
fn a_complete_header_only_gets_our_received_on_top() {
    let section = "Received: from x by y; Tue, 24 Nov 2026 00:00:00 +0000\r\nDate: Tue, 24 Nov 2026 00:00:00 +0000\r\n\
                   From: A <a@example.org>\r\nMessage-ID:\r\n <1@example.org>\r\nSubject: x\r\n y\r\n";
    let (prepared, body) = read_pieces(limits(), [format!("{section}\r\n\r\nbody\r\n").as_bytes()]);
    let prepared = prepared.unwrap();
    assert_eq!(String::from_utf8(prepared.header).unwrap(), format!("{RECEIVED}{section}"));
    assert_eq!(body, b"\r\nbody\r\n");
    assert_eq!(prepared.message_id, "<1@example.org>");
    assert_eq!(prepared.from[0].to_string(), "a@example.org");
    assert!(!prepared.eight_bit);
}

#[test]
fn date_and_message_id_are_added_where_missing_or_empty() {
    let from = "From: a@Example.ORG\r\n";
    assert_eq!(header(from), format!("{RECEIVED}{from}{DATE}{OUR_ID}"));
    let with_id = "From: a@example.org\r\nmessage-id: <x@y>\r\n";
    assert_eq!(header(with_id), format!("{RECEIVED}{with_id}{DATE}"));
    let empty = format!("Message-ID: \r\nDate:\r\n{from}\r\nbody");
    assert_eq!(header(&empty), format!("{RECEIVED}{from}{DATE}{OUR_ID}"));
    let literal = read(b"From: a@[192.0.2.1]\r\n").unwrap();
    assert_eq!(literal.message_id, "<01ARYZ6S41ZZZZZZZZZZZZZZZZ@[192.0.2.1]>");
}

#[test]
fn bcc_and_return_path_never_go_on() {
    let message = format!(
        "Bcc: one@x.test,\r\n two@x.test\r\nReturn-Path: <evil@x.test>\r\nFrom: a@example.org\r\nbCC:\r\n{OUR_ID}\
         Resent-Bcc: three@x.test\r\nTo: b@x.test\r\nBcc: four@x.test\r\n{DATE}"
    );
    let kept = format!("{RECEIVED}From: a@example.org\r\n{OUR_ID}To: b@x.test\r\n{DATE}");
    assert_eq!(header(&message), kept);
}

#[test]
fn an_odd_message_id_stays_as_it_is() {
    for (value, message_id) in [
        ("<1@example.org>", "<1@example.org>"),
        ("(comment) <1@example.org> (comment)", "<1@example.org>"),
        ("<<1@example.org>>", "<<1@example.org>>"),
        ("no brackets", "no brackets"),
        ("<a b@c>", "<a b@c>"),
        ("<a\r\n b@c>", "<a b@c>"),
    ] {
        let message = format!("From: a@example.org\r\nMessage-ID: {value}\r\n{DATE}");
        let prepared = read(message.as_bytes()).unwrap();
        assert_eq!(prepared.message_id, message_id);
        assert_eq!(String::from_utf8(prepared.header).unwrap(), format!("{RECEIVED}{message}"));
    }
}

#[test]
fn the_table_of_broken_headers_holds() {
    let line = |line, flaw| HeaderError::Line { line, flaw };
    for (message, error) in [
        ("", HeaderError::NoFrom),
        ("\r\nbody\r\n", HeaderError::NoFrom),
        ("Subject: x\r\n\r\nbody\r\n", HeaderError::NoFrom),
        ("hello\r\n", line(1, LineFlaw::NoColon)),
        (" folded first\r\nFrom: a@b.test\r\n", line(1, LineFlaw::BlankFirst)),
        ("From a@b Mon Jan 1 00:00:00 2026\r\nFrom: a@b.test\r\n", line(1, LineFlaw::MailboxFile)),
        ("NoColon\r\nSubject: x\r\nFrom: a@b.test\r\n", line(1, LineFlaw::NoColon)),
        ("From: a@b.test\r\n \t\r\nX: y\r\n", line(2, LineFlaw::OnlyBlanks)),
        ("From: a@b.test\r\nX\0Y: y\r\n", line(2, LineFlaw::Nul)),
        ("From: a@b.test\r\nX: y\nZ: y\r\n", line(2, LineFlaw::BareLineEnd)),
        ("From: a@b.test\r\nX Y: y\r\n", line(2, LineFlaw::BadName)),
        ("From: a@b.test\r\nTo: x@y\r\nfrom: c@d.test\r\n", HeaderError::Twice("From")),
        ("From: a@b.test\r\nSubject: x\r\nSubject: y\r\n", HeaderError::Twice("Subject")),
        (
            "From: a@b.test\r\nContent-Type: text/plain\r\ncontent-type: text/html\r\n",
            HeaderError::Twice("Content-Type"),
        ),
        ("From: A, B <a@b.test>\r\n", HeaderError::Mailbox { field: "From", flaw: MailboxFlaw::NoAddress }),
        ("From:\r\n", HeaderError::Mailbox { field: "From", flaw: MailboxFlaw::Missing }),
        (
            "From: a@b.test\r\nSender: c@d.test, e@f.test\r\n",
            HeaderError::Mailbox { field: "Sender", flaw: MailboxFlaw::TooMany },
        ),
    ] {
        assert_eq!(read(message.as_bytes()), Err(error.clone()), "{message:?}");
        let reply = error.reply();
        assert_eq!((reply.code(), reply.enhanced().unwrap().to_string()), (554, String::from("5.6.0")));
    }
}

#[test]
fn every_author_is_returned() {
    let prepared = read(b"From: A <a@example.org>, b@Example.NET\r\nSender: S <s@example.com>\r\n").unwrap();
    let hosts: Vec<String> = prepared.from.iter().map(|address| address.host().to_string()).collect();
    assert_eq!(hosts, ["example.org", "example.net"]);
    assert_eq!(prepared.sender.unwrap().to_string(), "s@example.com");
}

#[test]
fn octets_over_127_are_utf_8_or_refused() {
    assert!(read("From: Jürgen <a@example.org>\r\n".as_bytes()).unwrap().eight_bit);
    assert_eq!(read(b"From: a@example.org\r\nSubject: J\xfcrgen\r\n"), Err(HeaderError::NotUtf8));
}

#[test]
fn a_message_of_too_many_hops_is_in_a_loop() {
    let message = |count: usize| {
        let hop = "rEceived: from x\r\n\tby y; Tue, 24 Nov 2026 00:00:00 +0000\r\n";
        format!("{}From: a@example.org\r\n\r\nbody", hop.repeat(count))
    };
    for count in [30, 100] {
        assert!(read(message(count).as_bytes()).is_ok());
    }
    let error = read(message(101).as_bytes()).unwrap_err();
    assert_eq!(error, HeaderError::TooManyHops { received: 101, received_max: 100 });
    assert!(error.reply().to_string().starts_with("554 5.4.6 "));
}

#[test]
fn a_last_line_without_end_is_a_field() {
    assert_eq!(header("From: a@example.org"), header("From: a@example.org\r\n"));
}

#[test]
fn a_huge_header_is_refused_while_it_comes_and_isnt_kept() {
    let fold = " folded folded folded folded folded folded folded folded folded\r\n".repeat(1000);
    let field = b"X-A: b\r\n".repeat(5000);
    for (first, piece) in [("Subject: x\r\n", fold.as_bytes()), ("", &field)] {
        let mut reader = HeaderReader::new(limits());
        reader.push(b"From: a@example.org\r\n");
        reader.push(first.as_bytes());
        for _ in 0..400 {
            assert_eq!(reader.push(piece), b"");
        }
        let error = reader.refusal().unwrap();
        assert_eq!(*error, HeaderError::TooLarge { octets_max: 524_288 });
        assert!(error.reply().to_string().starts_with("552 5.3.4 "));
        assert_eq!(reader.push(b"\r\n\r\nbody"), b"", "nothing of a refused message is kept");
    }
}

#[test]
fn a_header_of_just_the_limit_passes() {
    let section = b"From: a@example.org\r\nX: 1\r\n";
    for (octets_max, passes) in [(section.len(), true), (section.len() - 1, false)] {
        let limits = Limits { header_octets_max: octets_max, ..limits() };
        for message in [section.to_vec(), [section.as_slice(), b"\r\nbody"].concat()] {
            assert_eq!(read_pieces(limits, [message.as_slice()]).0.is_ok(), passes);
        }
    }
}

#[test]
fn a_line_over_998_octets_is_refused_before_it_ends() {
    let mut reader = HeaderReader::new(limits());
    reader.push(b"From: a@example.org\r\nReferences: ");
    for _ in 0..1000 {
        reader.push(b"x");
    }
    assert_eq!(reader.refusal(), Some(&HeaderError::Line { line: 2, flaw: LineFlaw::TooLong }));
    let fits = [b"From: a@example.org\r\nX: ".as_slice(), &[b'x'; 995], b"\r\n"].concat();
    let over = [b"From: a@example.org\r\nX: ".as_slice(), &[b'x'; 996], b"\r\n"].concat();
    assert!(read(&fits).is_ok());
    assert_eq!(read(&over), Err(HeaderError::Line { line: 2, flaw: LineFlaw::TooLong }));
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("From: a@example.org\r\n"),
        Just("Subject: x\r\n y\r\n"),
        Just("Bcc: b@x.test\r\n"),
        Just("\r\n"),
        Just("\r"),
        Just("\n"),
        Just(" "),
        Just(":"),
        Just("text"),
        Just("é"),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_header_and_body(message in message(), cuts in prop::collection::vec(1usize..9, 0..200)) {
        let whole = read_pieces(limits(), [message.as_slice()]);
        let mut rest = message.as_slice();
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        prop_assert_eq!(read_pieces(limits(), pieces), whole);
    }

    #[test]
    fn any_octets_are_read_without_panic(message: Vec<u8>) {
        let (result, body) = read_pieces(limits(), [message.as_slice()]);
        prop_assert!(message.ends_with(&body));
        if let Ok(prepared) = result {
            prop_assert!(prepared.header.ends_with(b"\r\n"));
        }
    }

    #[test]
    fn what_is_prepared_is_a_header_of_whole_fields(message in message()) {
        if let (Ok(prepared), _) = read_pieces(limits(), [message.as_slice()]) {
            let fields: Result<Vec<_>, _> = crate::header::field::fields(&prepared.header).collect();
            prop_assert!(fields.unwrap().iter().all(|field| !field.is("Bcc")));
        }
    }
}
