//! What senders are told: reports of failure and of what was asked for (RFC 3461), in a form that programs read (RFC 3464).
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use tests::deadline::SOON;
use tests::judge;
use tests::lab::Lab;
use tests::message::{self, body, values};
use tests::mx::{Answer, Mx, Step};
use tests::report;
use tests::stagepost::{HOST, Stagepost};

const FROM: &str = "hello@sender.test";

/// Refuses recipients whose name begins with `bad`.
fn choosy(lab: &Lab, domain: &str) -> Mx {
    let mx = lab.mx(domain);
    mx.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT TO:<bad") => {
            Answer::reply("550 5.1.1 no such user")
        }
        _ => Answer::Usual,
    });
    mx
}

fn without_dsn(mx: &Mx) {
    mx.extensions(&["PIPELINING", "8BITMIME", "SIZE 52428800"]);
}

fn octets(subject: &str) -> Vec<u8> {
    message::text(FROM, "user@d1.test", subject, "Hello.")
}

fn transact(stagepost: &Stagepost, mail: &str, recipients: &[&str]) -> String {
    stagepost.login().transaction(mail, recipients, &octets("asked")).queue_id()
}

#[test]
fn a_failure_is_reported_in_full() {
    let lab = Lab::new();
    let (mx, reports) = (choosy(&lab, "d1.test"), lab.mx("sender.test"));
    let stagepost = lab.stagepost().start();
    let submitted = octets("asked");
    let recipients = ["bad1@d1.test", "good@d1.test", "bad2@d1.test"];
    let queue_id = stagepost.login().submit(FROM, &recipients, &submitted).queue_id();
    let received = reports.wait_for(1);
    stagepost.wait_until_idle(SOON);
    assert_eq!((mx.count(), reports.count()), (1, 1));
    assert_eq!(mx.messages()[0].recipients(), ["good@d1.test"]);

    assert_eq!(received[0].recipients(), [FROM]);
    assert_eq!(judge::mail_auth(&lab.dns, &received[0].octets), Ok(()));
    let report = report::read(&received[0]);
    assert_eq!(report.header["from"], "Mail Delivery System <MAILER-DAEMON@sender.test>");
    assert_eq!(report.header["to"], FROM);
    assert_eq!(report.header["auto-submitted"], "auto-replied");
    assert_eq!(report.header["in-reply-to"], "<asked@client.test>");
    assert_eq!(report.message["reporting-mta"], format!("dns; {HOST}"));
    assert_eq!(report.message["x-stagepost-queue-id"], queue_id);
    let told = [("bad1@d1.test", "failed"), ("bad2@d1.test", "failed")];
    assert_eq!(report.each("action"), told.into());
    for recipient in &report.recipients {
        let fields = ["status", "remote-mta", "diagnostic-code"].map(|name| recipient[name].as_str());
        assert_eq!(fields, ["5.1.1", "dns; mx.d1.test", "smtp; 550 5.1.1 no such user"]);
    }
    for words in ["<bad1@d1.test>", "<bad2@d1.test>", "550 5.1.1 no such user", "What to do:"] {
        assert!(report.text.contains(words), "{words:?} isn't in {}", report.text);
    }
    assert!(!report.text.contains("good@"), "{}", report.text);
    // The message comes back as it was taken: behind our trace field what was submitted.
    assert_eq!(report.returned_type.as_deref(), Some("message/rfc822"));
    let text = received[0].text();
    assert!(text.contains(&String::from_utf8(submitted).unwrap()), "{text}");
}

#[test]
fn notify_decides_who_is_told_of_a_failure() {
    let lab = Lab::new();
    let (mx, reports) = (choosy(&lab, "d1.test"), lab.mx("sender.test"));
    without_dsn(&mx);
    let stagepost = lab.stagepost().start();
    let mail = format!("MAIL FROM:<{FROM}>");
    transact(
        &stagepost,
        &mail,
        &[
            "RCPT TO:<bad-never@d1.test> NOTIFY=NEVER",
            "RCPT TO:<bad-success@d1.test> NOTIFY=SUCCESS",
            "RCPT TO:<bad-delay@d1.test> NOTIFY=DELAY",
            "RCPT TO:<bad-failure@d1.test> NOTIFY=FAILURE",
            "RCPT TO:<bad-both@d1.test> NOTIFY=SUCCESS,FAILURE,DELAY",
            "RCPT TO:<bad-unsaid@d1.test>",
        ],
    );
    let received = reports.wait_for(1);
    stagepost.wait_until_idle(SOON);
    let report = report::read(&received[0]);
    let told: Vec<&str> = report.each("action").into_keys().collect();
    assert_eq!(told, ["bad-both@d1.test", "bad-failure@d1.test", "bad-unsaid@d1.test"]);
    assert_eq!((mx.count(), reports.count()), (0, 1));
}

#[test]
fn never_goes_with_nothing_else() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
    for wrong in ["NEVER,FAILURE", "SUCCESS,NEVER", "", "SOMETIMES", "FAILURE,FAILURE,"] {
        let reply = client.command(&format!("RCPT TO:<user@d1.test> NOTIFY={wrong}"));
        assert_eq!((reply.code, reply.enhanced()), (501, Some("5.5.4")), "{wrong}: {reply:?}");
    }
}

#[test]
fn what_is_asked_is_passed_on_to_a_server_that_knows_it() {
    let lab = Lab::new();
    let (mx, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    let stagepost = lab.stagepost().start();
    transact(
        &stagepost,
        &format!("MAIL FROM:<{FROM}> RET=HDRS ENVID=q+3D1+2B"),
        &[
            "RCPT TO:<a@d1.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@x.test",
            "RCPT TO:<b@d1.test> NOTIFY=NEVER",
            "RCPT TO:<c@d1.test>",
        ],
    );
    let received = mx.wait_for(1);
    stagepost.wait_until_idle(SOON);
    let parameters = |command: &str| {
        let mut parameters: Vec<String> = command
            .split_once("> ")
            .map(|(_, rest)| rest.split(' ').map(str::to_owned).collect())
            .unwrap_or_default();
        parameters.retain(|parameter| !parameter.starts_with("SIZE=") && !parameter.starts_with("BODY="));
        for parameter in &mut parameters {
            if let Some(list) = parameter.strip_prefix("NOTIFY=") {
                let mut list: Vec<&str> = list.split(',').collect();
                list.sort_unstable();
                *parameter = format!("NOTIFY={}", list.join(","));
            }
        }
        parameters.sort();
        parameters
    };
    assert_eq!(parameters(&received[0].mail), ["ENVID=q+3D1+2B", "RET=HDRS"]);
    let of_recipients: Vec<Vec<String>> =
        received[0].rcpt.iter().map(|command| parameters(command)).collect();
    let expected: [&[&str]; 3] =
        [&["NOTIFY=DELAY,SUCCESS", "ORCPT=rfc822;a+2Bb@x.test"], &["NOTIFY=NEVER"], &[]];
    assert_eq!(of_recipients, expected);
    // The success is for that server to tell.
    assert_eq!(reports.count(), 0);
}

#[test]
fn a_server_that_knows_nothing_of_it_is_asked_nothing_and_the_sender_hears_of_that() {
    let lab = Lab::new();
    let (mx, reports) = (lab.mx("d1.test"), lab.mx("sender.test"));
    without_dsn(&mx);
    let stagepost = lab.stagepost().start();
    transact(
        &stagepost,
        &format!("MAIL FROM:<{FROM}> RET=FULL ENVID=q+3D1"),
        &[
            "RCPT TO:<a@d1.test> NOTIFY=SUCCESS ORCPT=rfc822;a+2Bb@x.test",
            "RCPT TO:<b@d1.test> NOTIFY=FAILURE",
            "RCPT TO:<c@d1.test>",
        ],
    );
    let received = mx.wait_for(1);
    let told = reports.wait_for(1);
    stagepost.wait_until_idle(SOON);
    for command in received[0].rcpt.iter().chain([&received[0].mail]) {
        for word in ["NOTIFY", "ORCPT", "RET=", "ENVID"] {
            assert!(!command.contains(word), "{command}");
        }
    }
    let report = report::read(&told[0]);
    assert_eq!(report.each("action"), [("a@d1.test", "relayed")].into());
    assert!(report.of_one("status").starts_with("2."), "{report:#?}");
    assert_eq!(report.of_one("original-recipient"), "rfc822; a+b@x.test");
    assert_eq!(report.message["original-envelope-id"], "q=1");
    // The message comes back only when it failed.
    assert_eq!(report.returned_type.as_deref(), Some("text/rfc822-headers"));
    assert_eq!(reports.count(), 1);
}

#[test]
fn what_comes_back_of_a_message_is_what_ret_says() {
    let lab = Lab::new();
    let (_mx, reports) = (choosy(&lab, "d1.test"), lab.mx("sender.test"));
    let stagepost = lab.stagepost().start();
    let large = message::sized(FROM, "user@d1.test", "large", 300_000);
    let mut client = stagepost.login();
    for (ret, octets, media_type) in [
        (" RET=HDRS", octets("small"), "text/rfc822-headers"),
        (" RET=FULL", octets("small"), "message/rfc822"),
        ("", octets("small"), "message/rfc822"),
        ("", large, "text/rfc822-headers"),
    ] {
        let before = reports.count();
        let mail = format!("MAIL FROM:<{FROM}>{ret} ENVID=id");
        let reply =
            client.transaction(&mail, &["RCPT TO:<bad@d1.test> ORCPT=rfc822;first+20name@x.test"], &octets);
        assert_eq!(reply.code, 250);
        let report = report::read(&reports.wait_for(before + 1)[before]);
        assert_eq!(report.returned_type.as_deref(), Some(media_type), "{ret:?}");
        assert_eq!(report.of_one("original-recipient"), "rfc822; first name@x.test");
        assert_eq!(report.message["original-envelope-id"], "id");
        let returned = report.returned.unwrap();
        assert!(returned.contains("Message-ID: <"), "{returned}");
        assert_eq!(returned.contains("Hello."), media_type == "message/rfc822", "{returned}");
    }
}

#[test]
fn nobody_is_told_of_mail_with_the_null_sender() {
    let lab = Lab::new();
    let (mx, reports) = (choosy(&lab, "d1.test"), choosy(&lab, "sender.test"));
    let stagepost = lab.stagepost().start();
    transact(&stagepost, "MAIL FROM:<>", &["RCPT TO:<bad@d1.test>"]);
    stagepost.wait_until_idle(SOON);
    // Nor of a report that fails.
    let mail = "MAIL FROM:<bad@sender.test>";
    transact(&stagepost, mail, &["RCPT TO:<bad@d1.test>"]);
    stagepost.wait_until_idle(SOON);
    let refused = reports.commands_of("RCPT");
    assert_eq!((refused, reports.count(), mx.count()), (vec!["RCPT TO:<bad@sender.test>".to_owned()], 0, 0));
}

#[test]
fn an_odd_message_gets_a_sound_report() {
    let lab = Lab::new();
    let (_mx, reports) = (choosy(&lab, "d1.test"), lab.mx("sender.test"));
    let stagepost = lab.stagepost().start();
    let references: Vec<String> = (0..60).map(|number| format!("<{number}.reference@client.test>")).collect();
    let long = format!("<{}@client.test>", "x".repeat(900));
    let boundary = "Content-Type: multipart/mixed; boundary=x\r\nMIME-Version: 1.0\r\n\r\n--x\r\n\r\na\r\n--x--\r\n--=_\r\n";
    let heads = [
        format!("References: {}\r\n\r\nHello.\r\n", references.join("\r\n ")),
        "Subject: =?utf-8?q?=0D=0AX-Evil=3A_1?=\r\n\r\nHello.\r\n".to_owned(),
        format!("X-Long: {}\r\n\r\n", "y".repeat(980)),
        boundary.to_owned(),
        "\r\n".to_owned(),
    ];
    let ids = ["<<double@client.test>>", "no brackets", "<a@b> <c@d>", &long, "<ok@client.test>"];
    let mut client = stagepost.login();
    for (count, (head, id)) in heads.iter().zip(ids).enumerate() {
        let octets = format!(
            "From: {FROM}\r\nTo: user@d1.test\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-ID: {id}\r\n{head}"
        );
        assert_eq!(client.submit(FROM, &["bad@d1.test"], octets.as_bytes()).code, 250, "{octets}");
        let received = reports.wait_for(count + 1).remove(count);
        // Python's parser looks into the returned message too, which is not ours to mend: ours is all before it.
        let own = own_part(&received);
        let report = report::read(&own);
        assert_eq!((report.of_one("action"), report.of_one("status")), ("failed", "5.1.1"), "{id}");
        let cited: Vec<String> = values(&received.octets, "References");
        assert!(cited.iter().all(|value| value.len() < 900 && !value.contains("<<")), "{cited:?}");
        let ids = values(&received.octets, "Message-ID");
        assert!(ids.len() == 1 && ids[0].starts_with('<') && ids[0].ends_with("@sender.test>"), "{ids:?}");
        // The message itself is in it as it was.
        let text = received.text();
        assert!(text.contains(head.as_str()), "{text}");
    }
    stagepost.wait_until_idle(SOON);
    assert_eq!(reports.count(), heads.len());
}

/// The report without what it gives back.
fn own_part(received: &tests::mx::Received) -> tests::mx::Received {
    let text = received.text();
    let boundary = text.split("boundary=\"").nth(1).unwrap().split('"').next().unwrap();
    let delimiter = format!("\r\n--{boundary}\r\n");
    let parts: Vec<&str> = text.split(&delimiter).collect();
    assert_eq!(parts.len(), 4, "{text}");
    assert!(parts[3].ends_with(&format!("\r\n--{boundary}--\r\n")), "{text}");
    assert!(!body(&received.octets).is_empty());
    let octets = format!("{}\r\n--{boundary}--\r\n", parts[..3].join(&delimiter)).into_bytes();
    tests::mx::Received { octets, ..received.clone() }
}

#[test]
fn a_hundred_failures_of_a_message_make_one_report() {
    let lab = Lab::new();
    let (_mx, reports) = (choosy(&lab, "d1.test"), lab.mx("sender.test"));
    let stagepost = lab.stagepost().start();
    let recipients: Vec<String> = (0..100).map(|number| format!("bad{number}@d1.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    assert_eq!(stagepost.login().submit(FROM, &recipients, &octets("many")).code, 250);
    let received = reports.wait_for(1);
    stagepost.wait_until_idle(SOON);
    assert_eq!(reports.count(), 1);
    let report = report::read(&received[0]);
    let mut told: Vec<&str> = report.each("status").into_keys().collect();
    let mut expected = recipients;
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected);
}
