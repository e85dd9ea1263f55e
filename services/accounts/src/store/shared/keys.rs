//! Keys as subjects: what a subject or `nats kv` doesn't take is written as `=` and two hexadecimal digits.

use std::fmt::Write as _;

/// The key as one or more tokens of a subject.
pub(super) fn encode(key: &str) -> String {
    let octets = key.as_bytes();
    let mut text = String::with_capacity(octets.len());
    for (at, octet) in octets.iter().copied().enumerate() {
        // Dots part tokens, and no token may be empty.
        let parts = octet == b'.' && at > 0 && octets[at - 1] != b'.' && at + 1 < octets.len();
        if parts || octet.is_ascii_alphanumeric() || b"-_/".contains(&octet) {
            text.push(char::from(octet));
        } else {
            let _ = write!(text, "={octet:02X}");
        }
    }
    text
}

/// The key of a subject that [`encode`] made.
pub(super) fn decode(subject: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(subject.len());
    let mut rest = subject.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'=' {
            octets.push(*first);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| str::from_utf8(digits).ok())?;
        octets.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_are_subjects() {
        let keys = [
            ("account/acc-23", "account/acc-23"),
            ("domain/mail.example.com", "domain/mail.example.com"),
            ("domain/a_b", "domain/a_b"),
            (".a..b.", "=2Ea.=2Eb=2E"),
            ("a b*>=é", "a=20b=2A=3E=3D=C3=A9"),
        ];
        for (key, subject) in keys {
            assert_eq!(encode(key), subject);
            assert_eq!(decode(subject).unwrap(), key);
        }
        for wrong in ["a=", "a=2", "a=zz", "=FF"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
