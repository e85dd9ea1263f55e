//! Reports, octet for octet.

use smtp::address::{ReversePath, Utf8};
use smtp::command::Notify;
use smtp::reply::{EnhancedCode, Reply};

use super::*;
use crate::{AccountId, Recipient, RemoteReply, ReturnContent, TlsRequirement};

const HEADER: &str = "Received: by mx.example.net\r\nFrom: a@example.org\r\nSubject: hello\r\n";
const BODY: &str = "\r\n--=_x\r\nbody\r\n";

fn queue_id(text: &str) -> QueueId {
    text.parse().unwrap()
}

fn message() -> Message {
    let sender = ReversePath::Mailbox(Address::parse("a@example.org", Utf8::Refused).unwrap());
    Message {
        queue_id: queue_id("01ARYZ6S41ZZZZZZZZZZZZZZZZ"),
        account: AccountId::new("acc").unwrap(),
        original_reverse_path: sender.clone(),
        reverse_path: sender,
        author_domain: "example.org".parse().unwrap(),
        ret: None,
        envid: None,
        body_kind: BodyKind::SevenBit,
        smtputf8: false,
        message_id: String::from("<1@example.org>"),
        header_octets: HEADER.len() as u32,
        octets: (HEADER.len() + 2 + BODY.len()) as u64,
        body_hash: [0; 32],
        tls: TlsRequirement::Opportunistic,
        tags: Vec::new(),
        metadata: Vec::new(),
        egress_pool: None,
        accepted_at: Timestamp(1_795_579_643_042),
        not_before: None,
        expires_at: Timestamp(1_795_838_843_042),
        trace_context: None,
    }
}

fn result(address: &str, disposition: Disposition, status: (u8, u16, u16)) -> RecipientResult {
    RecipientResult {
        recipient: Recipient::new(Address::parse(address, Utf8::Allowed).unwrap()),
        disposition,
        status: status.into(),
        remote: None,
        reason: String::from("the connection was refused"),
        at: Timestamp(1_795_579_700_000),
    }
}

fn bounced(reply: Reply) -> RecipientResult {
    let host = Some(String::from("mx.d1.test"));
    let reason = String::from("the server refused the recipient");
    let remote = Some(RemoteReply { host, reply });
    RecipientResult { remote, reason, ..result("UsEr@d1.test", Disposition::Bounced, (5, 1, 1)) }
}

fn no_such_user() -> RecipientResult {
    bounced(Reply::new(550, (5, 1, 1), "no such user"))
}

fn report_on(message: &Message, results: &[RecipientResult], content: &[&str]) -> Option<Report> {
    let context = ReportContext {
        reporting_mta: &"mx.example.net".parse().unwrap(),
        domain: &"example.org".parse().unwrap(),
        queue_id: queue_id("01ARYZ6S41AAAAAAAAAAAAAAAA"),
        returned_octets_max: RETURNED_OCTETS_MAX,
    };
    compose(message, results, &context, content)
}

fn text(message: &Message, results: &[RecipientResult]) -> String {
    let report = report_on(message, results, &[HEADER, "\r\n", BODY]).unwrap();
    String::from_utf8(report.content).unwrap()
}

#[test]
fn a_failure_is_told_in_full() {
    let report = report_on(&message(), &[no_such_user()], &[HEADER, "\r\n", BODY]).unwrap();
    let expected = include_str!("failure.eml").replace('\n', "\r\n");
    assert_eq!(str::from_utf8(&report.content).unwrap(), expected);
    assert_eq!([report.header(), b"\r\n", report.body()].concat(), report.content);
    assert_eq!(report.recipient.to_string(), "a@example.org");
    assert_eq!(report.message_id, "<01ARYZ6S41AAAAAAAAAAAAAAAA@example.org>");
    assert_eq!((report.body_kind, report.smtputf8), (BodyKind::SevenBit, false));
}

#[test]
fn nobody_is_told_of_a_message_with_the_null_sender() {
    let null = Message { original_reverse_path: ReversePath::Null, ..message() };
    assert_eq!(report_on(&null, &[no_such_user()], &[HEADER]), None);
    assert_eq!(report_on(&message(), &[], &[HEADER]), None);
}

#[test]
fn what_dsn_parameters_ask_is_honoured() {
    let recipient = Recipient {
        notify: Some(Notify::NEVER.with_success()),
        orcpt: Some(String::from("rfc822;a+b@x.test")),
        ..no_such_user().recipient
    };
    let relayed = RecipientResult {
        recipient,
        disposition: Disposition::Delivered { relayed: true },
        status: EnhancedCode::new(2, 0, 0),
        ..no_such_user()
    };
    let message = Message { envid: Some(String::from("q=1")), ..message() };
    let text = text(&message, &[relayed]);
    assert!(text.contains("Subject: Delivery Status Notification (Relayed)\r\n"));
    assert!(text.contains("\r\nOriginal-Envelope-Id: q=1\r\n"));
    assert!(text.contains(
        "\r\nOriginal-Recipient: rfc822; a+b@x.test\r\nFinal-Recipient: rfc822; UsEr@d1.test\r\nAction: relayed\r\nStatus: 2.0.0\r\n"
    ));
    assert!(text.contains("Content-Type: text/rfc822-headers\r\n\r\n") && !text.contains("\r\n\r\n--=_x"));
}

#[test]
fn the_message_comes_back_whole_only_when_it_failed_and_is_small_and_ret_allows() {
    let delayed = result("b@d1.test", Disposition::Deferred, (4, 4, 1));
    let whole = format!("\r\n\r\n{HEADER}\r\n{BODY}\r\n--=_01A");
    let header = format!("Content-Type: text/rfc822-headers\r\n\r\n{HEADER}\r\n--=_01A");
    let with = |ret| Message { ret, ..message() };
    let large = Message { octets: RETURNED_OCTETS_MAX as u64 + 1, ..message() };
    for (message, result, returned) in [
        (with(None), no_such_user(), &whole),
        (with(Some(ReturnContent::Full)), no_such_user(), &whole),
        (with(Some(ReturnContent::Headers)), no_such_user(), &header),
        (with(Some(ReturnContent::Full)), delayed, &header),
        (large, no_such_user(), &header),
    ] {
        let text = text(&message, &[result]);
        assert!(text.contains(returned.as_str()), "{text}");
    }
}

#[test]
fn a_huge_header_comes_back_in_whole_fields_up_to_the_limit() {
    let header = format!("From: a@example.org\r\n{}", "X: folded\r\n folded\r\n".repeat(4000));
    let message =
        Message { header_octets: header.len() as u32, octets: header.len() as u64 + 2, ..message() };
    let report = report_on(&message, &[no_such_user()], &[&header, "\r\n"]).unwrap();
    let text = String::from_utf8(report.content).unwrap();
    let returned = text.split_once("text/rfc822-headers\r\n\r\n").unwrap().1;
    let returned = returned.strip_suffix("\r\n--=_01ARYZ6S41AAAAAAAAAAAAAAAA--\r\n").unwrap();
    assert!(header.starts_with(returned) && returned.ends_with("X: folded\r\n folded\r\n"));
    assert!(returned.len() <= RETURNED_OCTETS_MAX && returned.len() > RETURNED_OCTETS_MAX - 50);
}

#[test]
fn a_reply_that_tries_to_be_a_field_stays_a_value() {
    let reply = format!("a\r\nX-Evil: 1\r\n{}\u{1b}[31m", "é".repeat(9000));
    let mut hostile = bounced(Reply::new(550, (5, 1, 1), reply));
    hostile.reason = String::from("refused\r\nX-Evil: 2");
    hostile.remote.as_mut().unwrap().host = Some(String::from("mx\r\nX-Evil: 3"));
    let message = Message { envid: Some(String::from("q\r\nX-Evil: 4")), ..message() };
    let text = text(&message, &[hostile]);
    assert!(text.is_ascii());
    assert!(text.split("\r\n").all(|line| line.len() <= 998 && !line.starts_with("X-Evil")));
    assert!(!text.contains('\u{1b}') && !text.replace("\r\n", "").contains(['\r', '\n']));
    assert!(text.contains("Diagnostic-Code: smtp; 550 5.1.1 a"));
}

#[test]
fn addresses_beyond_ascii_are_in_the_7_bit_form_of_rfc_6533() {
    let mut bounce = result("jürgen@bücher.test", Disposition::Bounced, (5, 6, 7));
    bounce.recipient.orcpt = Some(String::from("utf-8;jürgen@bücher.test"));
    let report = report_on(&message(), &[bounce.clone()], &[HEADER, "\r\n", BODY]).unwrap();
    let text = String::from_utf8(report.content).unwrap();
    assert!(text.is_ascii() && !report.smtputf8);
    assert!(text.contains("Original-Recipient: utf-8; j\\x{FC}rgen@b\\x{FC}cher.test\r\n"));
    assert!(text.contains("Final-Recipient: utf-8; j\\x{FC}rgen@xn--bcher-kva.test\r\n"));
    assert!(text.contains("\r\n<j=C3=BCrgen@xn--bcher-kva.test>\r\n"));

    let sender = ReversePath::Mailbox(Address::parse("ü@example.org", Utf8::Allowed).unwrap());
    let message = Message { original_reverse_path: sender, ..message() };
    let report = report_on(&message, &[bounce], &[HEADER, "\r\n", BODY]).unwrap();
    assert!(
        report.smtputf8 && String::from_utf8(report.content).unwrap().contains("\r\nTo: <ü@example.org>\r\n")
    );
}

#[test]
fn octets_over_127_are_given_back_as_they_are_and_declared() {
    let header = "From: Jürgen <a@example.org>\r\n";
    let unicode = Message { header_octets: header.len() as u32, ..message() };
    for (message, header, body, media_type) in [
        (message(), HEADER, "Grüße\r\n", "message/rfc822"),
        (unicode.clone(), header, "hi\r\n", "message/global"),
        (
            Message { ret: Some(ReturnContent::Headers), ..unicode },
            header,
            "hi\r\n",
            "message/global-headers",
        ),
    ] {
        let report = report_on(&message, &[no_such_user()], &[header, "\r\n", body]).unwrap();
        assert_eq!((report.body_kind, report.smtputf8), (BodyKind::EightBitMime, false));
        assert!(
            str::from_utf8(report.header()).unwrap().ends_with("\r\nContent-Transfer-Encoding: 8bit\r\n")
        );
        let part = format!("Content-Type: {media_type}\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{header}");
        assert!(str::from_utf8(report.body()).unwrap().contains(&part));
    }
}

#[test]
fn a_message_that_cannot_go_in_7_bits_does_not_keep_its_report_from_going() {
    let header = "From: a@example.org\r\nMIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=b\r\n";
    let body = "--b\r\n\r\nGrüße\r\n--b--\r\n";
    let octets = (header.len() + 2 + body.len()) as u64;
    let message = Message { header_octets: header.len() as u32, octets, ..message() };
    let report = report_on(&message, &[no_such_user()], &[header, "\r\n", body]).unwrap();
    let text = String::from_utf8(report.content).unwrap();
    assert!(
        text.is_ascii() && text.contains("Content-Type: text/rfc822-headers\r\n\r\nFrom: a@example.org\r\n")
    );
}

#[test]
fn only_a_message_id_that_can_be_cited_is_cited() {
    let long = format!("<{}@x>", "y".repeat(1000));
    for (id, cited) in [("<1@x>", true), ("<<1@x>>", false), ("1@x", false), ("<ü@x>", false), (&long, false)]
    {
        let text = text(&Message { message_id: id.to_owned(), ..message() }, &[no_such_user()]);
        assert_eq!(text.contains(&format!("\r\nIn-Reply-To: {id}\r\nReferences: {id}\r\n")), cited, "{id}");
        assert_eq!(text.contains("References"), cited, "{id}");
    }
}

#[test]
fn a_report_on_several_recipients_has_a_block_for_each() {
    let expired = result("b@d1.test", Disposition::Expired, (4, 4, 7));
    let text = text(&message(), &[no_such_user(), expired]);
    assert!(text.contains("these 2 recipients"));
    assert_eq!(text.matches("\r\n\r\nFinal-Recipient: rfc822; ").count(), 2);
    assert!(text.contains("Diagnostic-Code: X-Stagepost; the connection was refused\r\n"));
}

#[test]
fn a_report_without_the_message_at_hand_has_two_parts() {
    let report = report_on(&message(), &[no_such_user()], &[]).unwrap();
    assert_eq!(
        String::from_utf8(report.content).unwrap().matches("\r\n--=_01ARYZ6S41AAAAAAAAAAAAAAAA\r\n").count(),
        2
    );
}

#[test]
fn a_report_with_octets_over_127_can_be_sent_in_7_bits() {
    let header =
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n";
    let message = Message { header_octets: header.len() as u32, ..message() };
    let report = report_on(&message, &[no_such_user()], &[header, "\r\n", "Grüße\r\n"]).unwrap();
    let (header, body) = crate::downgrade::to_seven_bit(report.header(), report.body()).unwrap();
    assert!(String::from_utf8(header).unwrap().ends_with("\r\nContent-Transfer-Encoding: 7bit\r\n"));
    let body = String::from_utf8(body).unwrap();
    let part = "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\nMIME-Version: 1.0\r\n\
                Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
                Gr=C3=BC=C3=9Fe\r\n\r\n--=_01";
    assert!(body.contains(part), "{body}");
}
