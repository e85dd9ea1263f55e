//! Messages to sign and to carry: public collections that packages ship as their own test data, and generated ones.

use std::path::{Path, PathBuf};

use crate::address;
use crate::message;

/// A message with CRLF line ends, ready to be submitted for `corpus@sender.test`.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Collection and file.
    pub name: String,
    /// The message.
    pub octets: Vec<u8>,
}

/// The From field that every sample has.
pub const FROM: &str = "corpus@sender.test";

/// All messages of the collections that SMTP can carry at all, in a fixed order. Each has been given CRLF line ends and
/// [`FROM`] as its author; signatures of others, fields that only a mailbox has, and lines that are no fields were taken away,
/// since whoever submits a message wouldn't send them. Not among them: messages with lines over 998 octets or with NUL.
pub fn public() -> Vec<Sample> {
    let mut files = Vec::new();
    for folder in folders() {
        let before = files.len();
        collect(&folder, &mut files);
        assert!(files.len() > before, "no messages in {}: run tests/install", folder.display());
    }
    files.sort();
    let samples = files.iter().filter_map(|path| {
        let octets = prepared(&std::fs::read(path).ok()?)?;
        let name =
            path.components().rev().take(3).map(|part| part.as_os_str().to_string_lossy().into_owned());
        let mut name: Vec<String> = name.collect();
        name.reverse();
        Some(Sample { name: name.join("/"), octets })
    });
    samples.collect()
}

fn folders() -> Vec<PathBuf> {
    let messages = address::cache().join("messages");
    vec![
        PathBuf::from("/usr/lib/python3.11/test/test_email/data"),
        crate_folder("mail-parser").join("resources/eml"),
        messages.join("bounceparser/t/corpus"),
        messages.join("enmime/testdata"),
        messages.join("flufl_bounce/tests/data"),
        messages.join("mail_parser/tests/mails"),
        messages.join("mailbits/test/data/emails"),
    ]
}

/// Where cargo keeps the source of a dependency.
fn crate_folder(name: &str) -> PathBuf {
    let manifest = address::tests_folder().join("Cargo.toml");
    let mut command = cargo_metadata::MetadataCommand::new();
    let metadata = command.manifest_path(manifest).other_options(["--offline".to_owned()]).exec();
    let metadata = metadata.expect("cargo knows the workspace");
    let package = metadata.packages.iter().find(|package| package.name.as_str() == name);
    let manifest = package.unwrap_or_else(|| panic!("{name} is no dependency")).manifest_path.clone();
    manifest.parent().expect("a manifest is in a folder").into()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path
            .extension()
            .is_none_or(|extension| ["eml", "raw", "txt", "msg"].iter().any(|e| extension == *e))
        {
            files.push(path);
        }
    }
}

fn prepared(octets: &[u8]) -> Option<Vec<u8>> {
    let octets = message::with_crlf(octets);
    // A mailbox's separator line is no part of the message.
    let octets = match octets.strip_prefix(b"From ") {
        Some(rest) => &rest[rest.windows(2).position(|two| two == b"\r\n")? + 2..],
        None => &octets,
    };
    if octets.contains(&0) || octets.split(|octet| *octet == b'\n').any(|line| line.len() > 999) {
        return None;
    }
    let mut out = format!("From: {FROM}\r\n").into_bytes();
    let mut seen: Vec<String> = Vec::new();
    for field in message::fields(octets) {
        let name = message::field_name(&field);
        let repeated = ONCE.contains(&name.as_str()) && seen.contains(&name);
        if is_sound(&field) && !NOT_SUBMITTED.contains(&name.as_str()) && !repeated {
            out.extend_from_slice(&field);
            out.extend_from_slice(b"\r\n");
            seen.push(name);
        }
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(message::body(octets));
    (!seen.is_empty()).then_some(out)
}

/// Fields that may stand once only (RFC 5322 section 3.6); the collections have messages on purpose that break that.
const ONCE: [&str; 9] =
    ["subject", "to", "cc", "date", "message-id", "reply-to", "references", "in-reply-to", "mime-version"];
/// Fields of others, or of a mailbox.
const NOT_SUBMITTED: [&str; 8] = [
    "from",
    "sender",
    "bcc",
    "return-path",
    "dkim-signature",
    "domainkey-signature",
    "resent-from",
    "resent-sender",
];

/// A name of printable characters, a colon, and no octet beyond ASCII (RFC 5322 section 2.2).
fn is_sound(field: &[u8]) -> bool {
    let colon = field.iter().position(|octet| *octet == b':').unwrap_or(0);
    colon > 0 && field[..colon].iter().all(|octet| (33..=126).contains(octet)) && field.is_ascii()
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// Generated messages, the same in every run: each combines a shape of header with a shape of body that signers and
/// canonicalisers have stumbled over.
pub fn generated(count: usize) -> Vec<Sample> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let samples = (0..count).map(|place| {
        let mut octets =
            format!("From: {FROM}\r\nTo: someone@d1.test\r\nMessage-ID: <{place}@generated.test>\r\n")
                .into_bytes();
        octets.extend_from_slice(&header(&mut numbers));
        octets.extend_from_slice(b"\r\n");
        octets.extend_from_slice(&body(&mut numbers, place));
        Sample { name: format!("generated/{place}"), octets }
    });
    samples.collect()
}

fn words(numbers: &mut Numbers, count: u64) -> String {
    let all = [
        "post",
        "horse",
        "relay",
        "stage",
        "letter",
        "mile",
        "inn",
        "=?utf-8?q?caf=C3=A9?=",
        "a.b",
        "(x)",
        "\"q r\"",
        ";",
    ];
    (0..count).map(|_| all[usize::try_from(numbers.below(12)).unwrap_or(0)]).collect::<Vec<_>>().join(" ")
}

fn header(numbers: &mut Numbers) -> Vec<u8> {
    let mut out = String::new();
    match numbers.below(6) {
        0 => {}
        1 => out += "Subject:\r\n",
        2 => out += "Subject: \t  blanks at both ends \t \r\n",
        3 => out += "subject:no blank after the colon\r\nX-Empty:   \r\n",
        4 => {
            let folds = 1 + numbers.below(60);
            out += "Subject: long";
            for _ in 0..folds {
                out +=
                    &format!("\r\n{}{}", if numbers.below(2) == 0 { " " } else { "\t  " }, words(numbers, 6));
            }
            out += "\r\n";
        }
        _ => out += &format!("SUBJECT: {}\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\n", words(numbers, 9)),
    }
    for _ in 0..numbers.below(4) {
        out += &format!("X-Repeated: {}\r\n", words(numbers, 3));
    }
    out.into_bytes()
}

fn body(numbers: &mut Numbers, place: usize) -> Vec<u8> {
    let mut out = Vec::new();
    // Every kind of body stands with every kind of header sooner or later, since the header's kinds come by chance.
    match place % 9 {
        0 => {}
        1 => out.extend_from_slice(b"\r\n"),
        2 => out.extend_from_slice(b"\r\n\r\n \r\n\t\r\n"),
        3 => out.extend_from_slice(b"text\r\n\r\n\r\n\r\n"),
        4 => out.extend_from_slice(b"trailing blanks  \t \r\n  inner \t blanks\t\r\n \r\n"),
        5 => out.extend_from_slice(b"no line end at the end"),
        6 => out.extend_from_slice(b".\r\n..\r\n.leading dots\r\n...\r\n"),
        7 => {
            for _ in 0..=numbers.below(3) {
                out.extend(std::iter::repeat_n(b'l', 998));
                out.extend_from_slice(b"\r\n");
            }
        }
        _ => {
            for _ in 0..numbers.below(400) {
                out.extend_from_slice(words(numbers, 8).as_bytes());
                out.extend_from_slice(if numbers.below(9) == 0 { b"  \r\n" } else { b"\r\n" });
            }
        }
    }
    if place % 27 == 13 {
        out.extend_from_slice("Grüße aus dem Wirtshaus\r\n".as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_messages_are_lawful_and_the_same_every_time() {
        let samples = generated(1000);
        assert!(samples.iter().zip(generated(1000)).all(|(a, b)| a.octets == b.octets));
        for sample in &samples {
            let longest = sample.octets.split(|octet| *octet == b'\n').map(<[u8]>::len).max();
            assert!(longest.is_some_and(|longest| longest <= 999), "{}", sample.name);
            assert_eq!(message::values(&sample.octets, "From"), [FROM]);
        }
    }
}
