//! Real servers get the octets that were submitted, behind Stagepost's own trace field and signatures.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeMap;

use tests::corpus;
use tests::lab::Lab;
use tests::message::{self, field_name, fields, values};
use tests::peers::{Aiosmtpd, Exim, Postfix};
use tests::stagepost::Stagepost;

#[test]
fn postfix_gets_the_octets_that_were_submitted() {
    let lab = Lab::new();
    // A client on loopback is local to Postfix, and gets its header rewritten unless told otherwise.
    let postfix = Postfix::receiver(&lab, "d1.test").set("local_header_rewrite_clients =").start();
    let stagepost = lab.stagepost().start();
    let submitted = submit(&stagepost);
    compare(&submitted, &postfix.wait_for(submitted.len()));
}

#[test]
fn exim_gets_the_octets_that_were_submitted() {
    let lab = Lab::new();
    let exim = Exim::receiver(&lab, "d1.test");
    let stagepost = lab.stagepost().start();
    let submitted = submit(&stagepost);
    compare(&submitted, &exim.wait_for(submitted.len()));
}

#[test]
fn aiosmtpd_gets_the_octets_that_were_submitted() {
    let lab = Lab::new();
    let aiosmtpd = Aiosmtpd::receiver(&lab, "d1.test");
    let stagepost = lab.stagepost().start();
    let submitted = submit(&stagepost);
    compare(&submitted, &aiosmtpd.wait_for(submitted.len()));
}

/// Messages with all that a careless relay changes: dots, blanks at line ends, empty last lines, folds, long lines, 8 bits.
/// Each has a Message-ID by which it is found again.
fn submit(stagepost: &Stagepost) -> Vec<Vec<u8>> {
    let mut messages = vec![
        b"From: corpus@sender.test\r\nTo: b@d1.test\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\n\
          Message-ID: <hard@client.test>\r\nReceived: from a by b; Wed, 25 Nov 2026 12:00:00 +0000\r\n\
          sUBJECT:folded\r\n\t subject  \r\nX-Blank:   \r\nX-Empty:\r\n\r\n.\r\n..two\r\n...\r\n\r\n\
          trailing blanks \t\r\nFrom the start of a line\r\n\r\n\xc3\xa9\r\n \r\n\r\n\r\n"
            .to_vec(),
        message_of_long_lines(),
        message::sized("corpus@sender.test", "b@d1.test", "large", 3_000_000),
    ];
    messages.extend(corpus::generated(90).into_iter().map(|sample| sample.octets));
    // DATA can't end a message without a line end.
    messages.retain(|octets| octets.ends_with(b"\r\n"));
    let mut client = stagepost.login();
    for octets in &messages {
        let reply = client.submit(corpus::FROM, &["b@d1.test"], octets);
        assert_eq!(reply.code, 250, "{reply:?}: {}", String::from_utf8_lossy(octets));
    }
    messages
}

fn message_of_long_lines() -> Vec<u8> {
    let mut octets = message::text(corpus::FROM, "b@d1.test", "long lines", "short");
    for length in [997, 998] {
        octets.extend(std::iter::repeat_n(b'.', length));
        octets.extend_from_slice(b"\r\n");
    }
    octets
}

fn compare(submitted: &[Vec<u8>], received: &[Vec<u8>]) {
    assert_eq!(received.len(), submitted.len());
    let mut by_id: BTreeMap<String, &Vec<u8>> = BTreeMap::new();
    for octets in received {
        assert!(by_id.insert(message_id(octets), octets).is_none(), "two are {}", message_id(octets));
    }
    for submitted in submitted {
        let id = message_id(submitted);
        let received = by_id.get(&id).unwrap_or_else(|| panic!("{id} didn't arrive"));
        let received = without_ours(received, submitted);
        if received != *submitted {
            let first = received.iter().zip(submitted).position(|(a, b)| a != b);
            panic!("{id} differs from octet {first:?} on:\n{}", String::from_utf8_lossy(&received));
        }
    }
}

fn message_id(octets: &[u8]) -> String {
    values(octets, "Message-ID").concat()
}

/// The message without the two signatures and the trace field on top, and without the Date that was added where there was
/// none. Anything else of ours, or ours elsewhere, stays and makes the comparison fail.
fn without_ours(received: &[u8], submitted: &[u8]) -> Vec<u8> {
    let all = fields(received);
    let names: Vec<String> = all.iter().map(|field| field_name(field)).collect();
    assert_eq!(names[..3], ["dkim-signature", "dkim-signature", "received"], "{names:?}");
    let ours: usize = all[..3].iter().map(|field| field.len() + 2).sum();
    let rest = received[ours..].to_vec();
    if values(submitted, "Date").is_empty() {
        assert_eq!(values(&rest, "Date").len(), 1);
        message::without(&rest, &["date"])
    } else {
        rest
    }
}
