//! A plain text message from its parts (RFC 5322, RFC 2045, RFC 2047).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use smtp::address::Address;

/// Octets of text in an encoded word: with its frame it stays under the 75 characters of RFC 2047 section 2.
const WORD_OCTETS_MAX: usize = 39;
/// Octets that make a base64 line of 76 characters.
const BASE64_LINE_OCTETS: usize = 57;
const LINE_OCTETS_MAX: usize = 998;

/// The message, lines ended by CRLF; Date and Message-ID are added where it is accepted.
pub(super) fn message(from: &Address, to: &[Address], subject: &str, text: &str) -> Vec<u8> {
    let mut message = format!("From: <{from}>\r\nTo: ");
    for (place, recipient) in to.iter().enumerate() {
        message.push_str(if place == 0 { "<" } else { ",\r\n <" });
        message.push_str(&recipient.to_string());
        message.push('>');
    }
    message.push_str("\r\nSubject:");
    push_words(&mut message, subject);
    let lines = lines(text);
    let encoding = match (lines.is_ascii(), is_plain(&lines)) {
        (true, true) => "7bit",
        (false, true) => "8bit",
        (_, false) => "base64",
    };
    message.push_str("\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n");
    message.push_str(&format!("Content-Transfer-Encoding: {encoding}\r\n\r\n"));
    if encoding == "base64" {
        for chunk in lines.as_bytes().chunks(BASE64_LINE_OCTETS) {
            STANDARD.encode_string(chunk, &mut message);
            message.push_str("\r\n");
        }
    } else {
        message.push_str(&lines);
    }
    message.into_bytes()
}

/// The subject behind its colon: as it is where a header line may hold it, else as encoded words, folded.
fn push_words(message: &mut String, subject: &str) {
    let plain = subject.bytes().all(|octet| matches!(octet, b' '..=b'~'));
    if plain && subject.len() <= LINE_OCTETS_MAX - "Subject: ".len() && !subject.contains("=?") {
        message.push(' ');
        message.push_str(subject);
        return;
    }
    let mut rest = subject;
    let mut separator = " ";
    while !rest.is_empty() {
        let (word, later) = rest.split_at(rest.floor_char_boundary(WORD_OCTETS_MAX));
        message.push_str(&format!("{separator}=?utf-8?B?{}?=", STANDARD.encode(word)));
        (rest, separator) = (later, "\r\n ");
    }
}

/// The text with each line ended by CRLF, however it ended them.
fn lines(text: &str) -> String {
    let mut lines = text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n");
    if !lines.is_empty() && !lines.ends_with("\r\n") {
        lines.push_str("\r\n");
    }
    lines
}

/// Whether mail may carry these lines unencoded.
fn is_plain(lines: &str) -> bool {
    !lines.contains('\0') && lines.split("\r\n").all(|line| line.len() <= LINE_OCTETS_MAX)
}

#[cfg(test)]
mod tests {
    use smtp::address::Utf8;

    use super::*;

    fn composed(subject: &str, text: &str) -> String {
        let address = |text| Address::parse(text, Utf8::Allowed).unwrap();
        let to = [address("b@d1.test"), address("c@d2.test")];
        String::from_utf8(message(&address("a@sender.test"), &to, subject, text)).unwrap()
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        assert_eq!(
            composed("Hello there", "one\ntwo\r\nthree"),
            "From: <a@sender.test>\r\nTo: <b@d1.test>,\r\n <c@d2.test>\r\nSubject: Hello there\r\n\
             MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\
             \r\none\r\ntwo\r\nthree\r\n"
        );
    }

    #[test]
    fn a_subject_ends_no_line_and_begins_no_field() {
        let message = composed("x\r\nBcc: v@d3.test", "");
        assert!(!message.contains("Bcc"), "{message}");
        assert!(message.contains("\r\nSubject: =?utf-8?B?eA0KQmNjOiB2QGQzLnRlc3Q=?=\r\n"), "{message}");
    }

    #[test]
    fn a_long_subject_in_another_script_is_folded_between_characters() {
        let message = composed(&"Grüße ".repeat(40), "");
        assert!(message.is_ascii());
        assert!(message.split("\r\n").all(|line| line.len() <= 76), "{message}");
    }

    #[test]
    fn text_that_lines_cannot_carry_is_encoded() {
        let message = composed("s", &"x".repeat(2000));
        assert!(message.contains("Content-Transfer-Encoding: base64\r\n\r\neHh4"));
        assert!(message.split("\r\n").all(|line| line.len() <= 76));
        assert!(composed("s", "é").contains("Content-Transfer-Encoding: 8bit\r\n\r\né\r\n"));
    }
}
