//! The properties of `properties`, on seeds and at random. The fuzz targets of `fuzz/` run them for longer.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod properties;

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

type Property = fn(&[u8]);

const TARGETS: [(&str, Property); 6] = [
    ("dkim", properties::dkim),
    ("dmarc", properties::dmarc),
    ("mta_sts", properties::mta_sts),
    ("name", properties::name),
    ("spf", properties::spf),
    ("tls_rpt", properties::tls_rpt),
];

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

/// Octets that are made of what a kind of record is made of, so that something is understood now and then.
fn text(begin: &'static [&'static str], words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        12 => proptest::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..4),
    ];
    let begin = proptest::sample::select(begin).prop_map(|begin| begin.as_bytes().to_vec());
    (begin, vec(word, 0..20)).prop_map(|(begin, words)| [begin, words.concat()].concat())
}

const SPF_WORDS: [&str; 40] = [
    " ",
    " ",
    " ",
    " a",
    " mx",
    " ptr",
    " include:",
    " exists:",
    " redirect=",
    " exp=",
    " ip4:",
    " ip6:",
    " all",
    " x=",
    "+",
    "-",
    "~",
    "?",
    ":",
    "/",
    "//",
    "%{",
    "}",
    "%",
    "%{d}",
    "%{ir}",
    "%{p}",
    "%{l1r+-}",
    "%{S2}",
    "%%",
    "%_",
    "a.example",
    ".example",
    ".",
    "192.0.2.1",
    "2001:db8::",
    "0",
    "24",
    "64",
    "129",
];

const TAG_WORDS: [&str; 36] = [
    ";",
    ";",
    ";",
    ";",
    "=",
    " ",
    "\t",
    "v",
    "p=",
    "sp=",
    "k=",
    "h=",
    "s=",
    "t=",
    "psd=",
    "rua=",
    "aspf=",
    "adkim=",
    "id=",
    "none",
    "reject",
    "quarantine",
    "y",
    "n",
    "s",
    "rsa",
    "ed25519",
    "sha256",
    "email",
    "*",
    ":",
    ",",
    "AAAA",
    "==",
    "mailto:a@b.example",
    "https://b.example/",
];

const POLICY_WORDS: [&str; 18] = [
    "\n",
    "\r\n",
    "\n",
    "mode: ",
    "mx: ",
    "max_age: ",
    "version: STSv1",
    ":",
    " ",
    "enforce",
    "testing",
    "none",
    "*.",
    "a.example",
    "example.net",
    "604800",
    "0",
    ".",
];

const NAME_WORDS: [&str; 12] = [
    ".",
    ".",
    ".",
    "a",
    "_dmarc",
    "EXAMPLE",
    "xn--",
    "192.0.2.1",
    "::1",
    "longlonglonglonglonglonglonglong",
    " ",
    "ä",
];

proptest! {
    #[test]
    fn any_spf_record_is_evaluated_to_an_end(record in text(&["v=spf1", "V=spf1 "], &SPF_WORDS)) {
        properties::spf(&record);
    }

    #[test]
    fn any_list_of_tags_is_read_or_refused(
        record in text(&["v=DKIM1;", "v=DMARC1;", "v=TLSRPTv1;", "v=STSv1;", "p=AAAA;", "p=none;", ""], &TAG_WORDS),
    ) {
        properties::dkim(&record);
        properties::dmarc(&record);
        properties::tls_rpt(&record);
        properties::mta_sts(&record);
    }

    #[test]
    fn any_policy_is_read_or_refused(
        policy in text(&["version: STSv1\nmode: testing\nmax_age: 1\nmx: a.example\n", "version: STSv1\n"], &POLICY_WORDS),
    ) {
        properties::mta_sts(&policy);
    }

    #[test]
    fn any_name_is_itself(name in text(&["", "a."], &NAME_WORDS)) {
        properties::name(&name);
    }
}
