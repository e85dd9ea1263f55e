//! The properties of `properties`, on seeds and at random. The fuzz targets of `fuzz/` run them for longer.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod properties;

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

type Property = fn(&[u8]);

const TARGETS: [(&str, Property); 8] = [
    ("address", properties::address),
    ("client", properties::client),
    ("command", properties::command),
    ("data_decoder", properties::data_decoder),
    ("data_encoder", properties::data_encoder),
    ("line", properties::line),
    ("reply", properties::reply),
    ("server", properties::server),
];

#[test]
fn every_seed_of_every_fuzz_target_holds() {
    for (target, property) in TARGETS {
        let corpus = Path::new("fuzz/corpus").join(target);
        let mut seeds = 0;
        for seed in fs::read_dir(&corpus).unwrap() {
            property(&fs::read(seed.unwrap().path()).unwrap());
            seeds += 1;
        }
        assert!(seeds > 2, "{target} has seeds");
    }
}

#[test]
fn every_fuzz_target_runs_its_property() {
    for (target, _) in TARGETS {
        let source = format!("fuzz/fuzz_targets/{target}.rs");
        assert!(
            fs::read_to_string(&source).unwrap().contains(&format!("properties::{target}(data)")),
            "{target}"
        );
    }
}

/// Octets that are made of the words given, so that something is understood now and then.
fn made_of(words: &'static [&'static str], count: usize) -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        8 => proptest::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(word, 0..count).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn addresses(octets in made_of(&["a", "B", ".", "@", "\"", "\\", " ", "ü", "xn--", "mnchen-3ya", "-", "test", "[", "]", "IPv6:", "::1", "127.0.0.1", "ß", "ｅ", "。", "\u{200d}", "Ꭰ", "9"], 12)) {
        properties::address(&octets);
    }

    #[test]
    fn commands(octets in made_of(&["MAIL FROM:<", "RCPT TO:<", "a@example.org", "\"a b\"@x.test", "> ", " ", "SIZE=", "9", "BODY=8BITMIME ", "SMTPUTF8 ", "ENVID=", "a+2Bb ", "AUTH=<> ", "NOTIFY=", "NEVER", ",", "SUCCESS", "ORCPT=", "rfc822;", "utf-8;", "\\x{e9}", "ü", "EHLO ", "BDAT ", "AUTH PLAIN ", "LAST", "@r.test:"], 12)) {
        properties::command(&octets);
    }

    #[test]
    fn content(octets in made_of(&["\r\n", ".", "\r", "\n", "\r\n.\r\n", "\0", "text", "ü", "a line of thirty-two octets, text"], 24)) {
        properties::data_decoder(&octets);
        properties::data_encoder(&octets);
    }

    #[test]
    fn lines(octets in made_of(&["\r\n", "\r", "\n", "\0", "text", "a longer text"], 24)) {
        properties::line(&octets);
    }

    #[test]
    fn replies(octets in made_of(&["250", "-", " ", "2.1.5 ", "550 ", "5.1.1", "\r\n", "\n", "\r", "354", "text", "ü", "\t", "199", "\u{1b}["], 24)) {
        properties::reply(&octets);
    }

    #[test]
    fn servers(octets in made_of(&["EHLO x\r\n", "HELO x\r\n", "AUTH PLAIN AGEAYg==\r\n", "AUTH PLAIN\r\n", "AUTH LOGIN\r\n", "AGEAYg==\r\n", "YQ==\r\n", "=\r\n", "*\r\n", "MAIL FROM:<a@x.test>\r\n", "MAIL FROM:<x@x.test> SIZE=65\r\n", "MAIL FROM:<a@x.test> SMTPUTF8\r\n", "RCPT TO:<a@x.test>\r\n", "RCPT TO:<x@x.test>\r\n", "RCPT TO:<y@x.test>\r\n", "RCPT TO:<ü@x.test>\r\n", "DATA\r\n", "BDAT 5\r\n", "BDAT 3 LAST\r\n", "BDAT 0 LAST\r\n", "BDAT 70\r\n", "RSET\r\n", "NOOP\r\n", "VRFY a\r\n", "QUIT\r\n", "STARTTLS\r\n", "text\r\n", ".\r\n", "..a\r\n", "\r\n", "\n", "\r", "\0"], 40)) {
        properties::server(&octets);
        let hello = b"\x06EHLO x\r\nAUTH PLAIN AGEAYg==\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<a@x.test>\r\n";
        properties::server(&[hello, octets.get(1..).unwrap_or_default()].concat());
    }

    #[test]
    fn clients(octets in made_of(&["250 ok\r\n", "250-x\r\n", "250 PIPELINING\r\n", "250-STARTTLS\r\n", "220 go\r\n", "354 go\r\n", "450 4.7.1 later\r\n", "452 4.5.3 many\r\n", "550 5.1.1 no\r\n", "552 full\r\n", "421 bye\r\n", "503 5.5.1 what\r\n"], 24)) {
        properties::client(&octets);
        properties::client(&[b"220 x\r\n250-x\r\n250 PIPELINING\r\n", &octets[..]].concat());
        properties::client(&[b"220 x\r\n250 x\r\n250 ok\r\n250 ok\r\n", &octets[..]].concat());
    }
}
