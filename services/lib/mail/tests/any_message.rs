//! The properties of `properties`, on seeds and at random. The fuzz targets of `fuzz/` run them for longer.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod properties;

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

type Property = fn(&[u8]);

const TARGETS: [(&str, Property); 2] = [("downgrade", properties::downgrade), ("header", properties::header)];

#[test]
fn every_seed_of_every_fuzz_target_holds() {
    for (target, property) in TARGETS {
        let corpus = Path::new("fuzz/corpus").join(target);
        let seeds: Vec<_> = fs::read_dir(&corpus).unwrap().collect();
        assert!(seeds.len() > 2, "{target} has seeds");
        for seed in seeds {
            property(&fs::read(seed.unwrap().path()).unwrap());
        }
    }
}

#[test]
fn every_fuzz_target_runs_its_property() {
    for (target, _) in TARGETS {
        let source = format!("fuzz/fuzz_targets/{target}.rs");
        let call = format!("properties::{target}(data)");
        assert!(fs::read_to_string(&source).unwrap().contains(&call), "{target}");
    }
}

/// Octets that are made of what messages are made of, so that something is understood now and then.
fn message() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: [&str; 30] = [
        "\r\n",
        "\r\n",
        "\r\n",
        "\r\n\r\n",
        " ",
        "\t",
        ":",
        ";",
        ",",
        "<",
        ">",
        "@",
        "\"",
        "(",
        ")",
        "\\",
        "=",
        "--b",
        "--b--",
        "From: a@example.org\r\n",
        "Message-ID: <1@example.org>\r\n",
        "Date: x\r\n",
        "Bcc: x\r\n",
        "Received: x\r\n",
        "Content-Type: multipart/mixed; boundary=b\r\n",
        "Content-Type: text/plain; charset=utf-8\r\n",
        "Content-Transfer-Encoding: 8bit\r\n",
        "Content-Transfer-Encoding: binary\r\n",
        "MIME-Version: 1.0\r\n",
        "grüße",
    ];
    let word = prop_oneof![
        8 => proptest::sample::select(&WORDS[..]).prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(word, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn any_header_section_is_read_alike_however_it_is_cut(message in message()) {
        properties::header(&message);
    }

    #[test]
    fn any_message_is_made_seven_bit_or_left_alone(message in message()) {
        properties::downgrade(&message);
    }
}
