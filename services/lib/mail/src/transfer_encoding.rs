//! Octets as 7-bit lines (RFC 2045 section 6).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most octets of an encoded line, without its CRLF.
const LINE_OCTETS_MAX: usize = 76;
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Appends text as quoted-printable. Its lines stay lines; a CR or LF alone is data.
pub(crate) fn quoted_printable(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + text.len() / 8);
    let mut column = 0;
    let mut broken = false;
    let mut rest = text;
    while let Some((octet, after)) = rest.split_first() {
        if let Some(next_line) = rest.strip_prefix(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            (column, broken, rest) = (0, false, next_line);
            continue;
        }
        let ends_line = after.is_empty() || after.starts_with(b"\r\n");
        let mut literal = match octet {
            b' ' | b'\t' => !ends_line,
            b'!'..=b'<' | b'>'..=b'~' => true,
            _ => false,
        };
        if column + if literal { 1 } else { 3 } >= LINE_OCTETS_MAX {
            out.extend_from_slice(b"=\r\n");
            (column, broken) = (0, true);
        }
        // A line that only the encoding begins must not look like the delimiter of a multipart.
        literal &= !(broken && column == 0 && *octet == b'-');
        if literal {
            out.push(*octet);
            column += 1;
        } else {
            out.extend([b'=', HEX[usize::from(octet >> 4)], HEX[usize::from(octet & 15)]]);
            column += 3;
        }
        rest = after;
    }
}

/// Appends octets as base64, CRLF between lines and none after the last.
pub(crate) fn base64(octets: &[u8], out: &mut Vec<u8>) {
    out.reserve(octets.len() / 57 * (LINE_OCTETS_MAX + 2) + LINE_OCTETS_MAX);
    let mut line = String::with_capacity(LINE_OCTETS_MAX);
    for (number, chunk) in octets.chunks(LINE_OCTETS_MAX / 4 * 3).enumerate() {
        if number > 0 {
            out.extend_from_slice(b"\r\n");
        }
        line.clear();
        STANDARD.encode_string(chunk, &mut line);
        out.extend_from_slice(line.as_bytes());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The text that quoted-printable lines stand for.
    pub(crate) fn decoded(encoded: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        let mut rest = encoded;
        while let Some((octet, after)) = rest.split_first() {
            if let Some(after_break) = rest.strip_prefix(b"=\r\n") {
                rest = after_break;
            } else if *octet == b'=' {
                let digits = str::from_utf8(&after[..2]).unwrap();
                text.push(u8::from_str_radix(digits, 16).unwrap());
                rest = &after[2..];
            } else {
                text.push(*octet);
                rest = after;
            }
        }
        text
    }

    fn encoded(text: &[u8]) -> String {
        let mut out = Vec::new();
        quoted_printable(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn quoted_printable_is_as_rfc_2045_has_it() {
        assert_eq!(
            encoded("Grüße = 1\r\nend \r\n\tx\t".as_bytes()),
            "Gr=C3=BC=C3=9Fe =3D 1\r\nend=20\r\n\tx=09"
        );
        assert_eq!(encoded(b"a\rb\nc\0"), "a=0Db=0Ac=00");
        let long = "x".repeat(75) + &"y".repeat(75) + "z";
        assert_eq!(encoded(long.as_bytes()), format!("{}=\r\n{}=\r\nz", "x".repeat(75), "y".repeat(75)));
    }

    #[test]
    fn a_line_that_the_encoding_begins_is_no_delimiter() {
        let text = "x".repeat(75) + "--boundary";
        assert_eq!(encoded(text.as_bytes()), format!("{}=\r\n=2D-boundary", "x".repeat(75)));
    }

    #[test]
    fn base64_lines_have_76_octets() {
        let mut out = Vec::new();
        base64(&[0xff; 58], &mut out);
        assert_eq!(out, ["/".repeat(76).as_bytes(), b"\r\n/w=="].concat());
    }

    proptest! {
        #[test]
        fn quoted_printable_keeps_every_octet(text in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b' '), Just(b'-')], 0..400)) {
            let encoded = encoded(&text);
            prop_assert_eq!(decoded(encoded.as_bytes()), text);
            prop_assert!(encoded.is_ascii());
            for line in encoded.split("\r\n") {
                prop_assert!(line.len() <= LINE_OCTETS_MAX && !line.ends_with([' ', '\t']));
            }
        }
    }
}
