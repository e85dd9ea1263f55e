//! What a client sends is one message or none, whatever it is made of and however it is cut: only CRLF.CRLF ends DATA, a chunk is
//! as long as it was announced, and nothing that came in the clear is taken for what came under TLS.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::time::Duration;

use tests::deadline::{SOON, until_true};
use tests::lab::Lab;
use tests::message;
use tests::mx::{Mx, Received};
use tests::smtp::{Client, Reply};
use tests::stagepost::{HOST, Stagepost};

const FROM: &str = "hello@sender.test";
const SMUGGLED: &str = "MAIL FROM:<ceo@sender.test>\r\nRCPT TO:<victim@d1.test>\r\nDATA\r\n\
                        From: ceo@sender.test\r\nSubject: smuggled\r\n\r\npay\r\n";

/// How a client's octets reach the server.
#[derive(Clone, Copy, Debug)]
enum Cut {
    AtOnce,
    OctetByOctet,
}

fn send(client: &mut Client, octets: &[u8], cut: Cut) {
    match cut {
        Cut::AtOnce => client.send(octets),
        Cut::OctetByOctet => octets.chunks(1).for_each(|octet| client.send(octet)),
    }
}

/// Waits until all of it has gone, by a last message of which it is known that it goes, and gives what arrived before.
fn arrived(stagepost: &Stagepost, mx: &Mx) -> Vec<Received> {
    let mut client = stagepost.login();
    let last = message::text(FROM, "last@d1.test", "last", "Goodbye.");
    client.submit(FROM, &["last@d1.test"], &last).queue_id();
    let is_last = |received: &Received| received.recipients() == ["last@d1.test"];
    until_true("the last message", SOON, || mx.messages().iter().any(is_last));
    stagepost.wait_until_idle(SOON);
    mx.messages().into_iter().filter(|received| !is_last(received)).collect()
}

/// No octet of a wire has a CR or LF alone, and nobody got what was smuggled.
fn is_clean(received: &[Received]) {
    for received in received {
        let wire = &received.wire;
        for (at, octet) in wire.iter().enumerate() {
            let paired = match octet {
                b'\n' => at > 0 && wire[at - 1] == b'\r',
                b'\r' => wire.get(at + 1) == Some(&b'\n'),
                _ => true,
            };
            assert!(paired, "a bare line end goes out: {:?}", String::from_utf8_lossy(wire));
        }
        assert_eq!(received.reverse_path(), FROM);
        assert!(!received.recipients().contains(&"victim@d1.test"), "{received:?}");
    }
}

#[test]
fn only_crlf_dot_crlf_ends_data_and_a_bare_cr_or_lf_goes_nowhere() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let ends = [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r\n.\r",
        "\r.\r\n",
        "\r\r\n.\r\r\n",
        "\n\n.\n\n",
        "\n",
        "\r",
        "\0",
    ];
    for cut in [Cut::AtOnce, Cut::OctetByOctet] {
        let mut client = stagepost.login();
        for end in ends {
            client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
            client.expect("RCPT TO:<honest@d1.test>", 250);
            client.expect("DATA", 354);
            let text = format!("From: {FROM}\r\nSubject: honest\r\n\r\nhello{end}{SMUGGLED}.\r\nNOOP\r\n");
            send(&mut client, text.as_bytes(), cut);
            // One reply to the message, one to the command behind it, and no more.
            let reply = client.reply();
            assert_eq!((reply.code, reply.enhanced()), (554, Some("5.6.0")), "{end:?} {cut:?}: {reply:?}");
            let reply = client.reply();
            assert_eq!((reply.code, reply.enhanced()), (250, Some("2.0.0")), "{end:?} {cut:?}: {reply:?}");
        }
        client.expect("QUIT", 221);
        assert!(client.closed(SOON), "nothing comes after the goodbye");
    }
    assert_eq!(arrived(&stagepost, &mx).len(), 0);
    is_clean(&mx.messages());
}

#[test]
fn lines_of_dots_arrive_as_they_were_meant() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let body = ".\r\n..\r\n.x\r\n\r\n.\r\nMAIL FROM:<ceo@sender.test>\r\n...\r\n";
    for cut in [Cut::AtOnce, Cut::OctetByOctet] {
        let mut client = stagepost.login();
        client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
        client.expect("RCPT TO:<honest@d1.test>", 250);
        client.expect("DATA", 354);
        let text = format!("From: {FROM}\r\n\r\n{body}");
        send(&mut client, &tests::smtp::stuffed(text.as_bytes()), cut);
        client.reply().queue_id();
    }
    let received = arrived(&stagepost, &mx);
    assert_eq!(received.len(), 2);
    for received in &received {
        assert_eq!(String::from_utf8_lossy(message::body(&received.octets)), body);
    }
    is_clean(&received);
}

#[test]
fn what_comes_behind_starttls_in_the_clear_is_never_run() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    for behind in [
        "MAIL FROM:<hello@sender.test>\r\nRCPT TO:<victim@d1.test>\r\n",
        "NOOP\r\n",
        "EHLO evil.test\r\n",
        "x",
    ] {
        let mut client = Client::connect(stagepost.submission());
        assert_eq!(client.reply().code, 220);
        client.expect("EHLO client.test", 250);
        client.send(format!("STARTTLS\r\n{behind}").as_bytes());
        let first = client.try_reply();
        // Either it answers 220 and forgets the rest, or it ends the connection; what it must not do is to answer the rest.
        if first.is_ok_and(|reply: Reply| reply.code == 220) && client.silent(Duration::from_millis(300)) {
            client.try_handshake(stagepost.tls(), HOST).unwrap();
            client.expect("MAIL FROM:<hello@sender.test>", 503);
            client.expect("EHLO client.test", 250);
        } else {
            assert!(client.closed(SOON), "{behind:?} is answered");
        }
    }
    assert_eq!(arrived(&stagepost, &mx).len(), 0);
}

#[test]
fn a_chunk_is_as_long_as_it_was_announced_whatever_is_in_it() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    for cut in [Cut::AtOnce, Cut::OctetByOctet] {
        let mut client = stagepost.login();
        // Chunks that nobody asked for are read to their end and refused.
        let text = "MAIL FROM:<ceo@sender.test>\r\n";
        send(&mut client, format!("BDAT {}\r\n{text}NOOP\r\n", text.len()).as_bytes(), cut);
        assert_eq!(client.reply().code, 503);
        assert_eq!(client.reply().code, 250);

        // A dot alone is text, a bare line end is none.
        client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
        client.expect("RCPT TO:<honest@d1.test>", 250);
        let header = format!("From: {FROM}\r\n\r\n");
        let body = "a\r\n.\r\nMAIL FROM:<ceo@sender.test>\r\n..\r\n";
        let wire =
            format!("BDAT {}\r\n{header}BDAT 0\r\nBDAT {} LAST\r\n{body}NOOP\r\n", header.len(), body.len());
        send(&mut client, wire.as_bytes(), cut);
        for _ in 0..2 {
            assert_eq!(client.reply().code, 250);
        }
        client.reply().queue_id();
        assert_eq!(client.reply().code, 250);

        client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
        client.expect("RCPT TO:<victim@d1.test>", 250);
        let text = format!("{header}bare\n.\nline ends\r\n");
        send(&mut client, format!("BDAT {} LAST\r\n{text}", text.len()).as_bytes(), cut);
        let reply = client.reply();
        assert_eq!((reply.code, reply.enhanced()), (554, Some("5.6.0")), "{reply:?}");

        // DATA and BDAT don't mix; the transaction goes on after a reset.
        client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
        client.expect("RCPT TO:<victim@d1.test>", 250);
        send(&mut client, format!("BDAT {}\r\n{header}", header.len()).as_bytes(), cut);
        assert_eq!(client.reply().code, 250);
        client.expect("DATA", 503);
        client.expect("RSET", 250);
    }
    let received = arrived(&stagepost, &mx);
    assert_eq!(received.len(), 2);
    for received in &received {
        let body = String::from_utf8_lossy(message::body(&received.octets)).into_owned();
        assert_eq!(body, "a\r\n.\r\nMAIL FROM:<ceo@sender.test>\r\n..\r\n");
    }
    is_clean(&received);
}

#[test]
fn very_many_chunks_cost_no_memory() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.login();
    client.expect(&format!("MAIL FROM:<{FROM}>"), 250);
    client.expect("RCPT TO:<success@simulator.stagepost.test>", 250);
    let header = format!("From: {FROM}\r\n\r\n");
    client.send(format!("BDAT {}\r\n{header}", header.len()).as_bytes());
    assert_eq!(client.reply().code, 250);
    let before = stagepost.process().resident();
    const CHUNKS: usize = 50_000;
    for _ in 0..CHUNKS / 500 {
        client.send("BDAT 1\r\nx".repeat(500).as_bytes());
        for _ in 0..500 {
            assert_eq!(client.reply().code, 250);
        }
        client.send(b"BDAT 2\r\n\r\n");
        assert_eq!(client.reply().code, 250);
    }
    let growth = stagepost.process().resident().saturating_sub(before);
    assert!(growth < 4 << 20, "{growth} octets more for {CHUNKS} chunks of one octet");
    client.send(b"BDAT 0 LAST\r\n");
    client.reply().queue_id();
}

#[test]
fn a_batch_longer_than_any_buffer_is_answered_in_order_however_it_is_cut() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![3600_i64]).start();
    lab.dns.fault("d1.test", tests::dns::Fault::ServFail);
    let name = "u".repeat(50);
    let mut replies = Vec::new();
    for cut in [Cut::AtOnce, Cut::OctetByOctet] {
        let mut client = stagepost.login();
        let mut batch = format!("MAIL FROM:<{FROM}>\r\n");
        for number in 0..500 {
            let domain = if number % 50 == 49 { "not a domain" } else { "d1.test" };
            batch.push_str(&format!("RCPT TO:<{name}{number}@{domain}>\r\n"));
        }
        batch.push_str("DATA\r\n");
        send(&mut client, batch.as_bytes(), cut);
        let codes: Vec<u16> = (0..502).map(|_| client.reply().code).collect();
        assert_eq!((codes[0], codes[501]), (250, 354));
        assert!(
            codes[1..501].iter().enumerate().all(|(at, code)| (*code == 250) == (at % 50 != 49)),
            "{codes:?}"
        );
        client.send(format!("From: {FROM}\r\n\r\nHello.\r\n.\r\n").as_bytes());
        client.reply().queue_id();
        replies.push(codes);

        // When all are refused, so is DATA, and the text that was sent on trust isn't run.
        send(
            &mut client,
            format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<no one>\r\nDATA\r\nNOOP\r\n").as_bytes(),
            cut,
        );
        assert_eq!(client.reply().code, 250);
        assert_eq!(client.reply().code / 100, 5);
        let data = client.reply();
        assert!([503, 554].contains(&data.code), "{data:?}");
        assert_eq!(client.reply().code, 250);
    }
    assert_eq!(replies[0], replies[1]);
}
