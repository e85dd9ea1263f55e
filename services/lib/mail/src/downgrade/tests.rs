//! Messages in, 7-bit messages out, octet for octet.

use proptest::prelude::*;

use super::to_seven_bit;

/// Lines are given with LF; header and body are divided by the first empty line.
fn converted(message: &str) -> Option<String> {
    converted_octets(message.replace('\n', "\r\n").as_bytes())
}

fn converted_octets(message: &[u8]) -> Option<String> {
    let end = message.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap() + 2;
    let (header, body) = to_seven_bit(&message[..end], &message[end + 2..])?;
    assert!(header.is_ascii() && body.is_ascii());
    let message = [header.as_slice(), b"\r\n", &body].concat();
    Some(String::from_utf8(message).unwrap().replace("\r\n", "\n"))
}

#[test]
fn text_becomes_quoted_printable() {
    let message = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\ncontent-transfer-encoding:\n 8bit\nTo: x\n\nGrüße = 1\n.\n";
    let expected = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\
                    Content-Transfer-Encoding: quoted-printable\nTo: x\n\nGr=C3=BC=C3=9Fe =3D 1\n.\n";
    assert_eq!(converted(message).unwrap(), expected);
}

#[test]
fn text_without_mime_is_labelled() {
    let added = |charset| {
        format!(
            "MIME-Version: 1.0\nContent-Type: text/plain; charset={charset}\n\
             Content-Transfer-Encoding: quoted-printable\n"
        )
    };
    assert_eq!(converted("To: x\n\né\n").unwrap(), format!("To: x\n{}\n=C3=A9\n", added("utf-8")));
    let latin = converted_octets(b"To: x\r\n\r\n\xe9\r\n").unwrap();
    assert_eq!(latin, format!("To: x\n{}\n=E9\n", added("unknown-8bit")));
}

#[test]
fn what_is_not_text_becomes_base64() {
    let message =
        "MIME-Version: 1.0\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: binary\n\né";
    let expected = "MIME-Version: 1.0\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\nw6k=\n";
    assert_eq!(converted(message).unwrap(), expected);
}

#[test]
fn only_the_parts_that_need_it_are_changed() {
    let message = "MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=\"b\"
Content-Transfer-Encoding: 8bit

Für alte Programme
--b
Content-Type: multipart/alternative; boundary=b-inner

--b-inner

default type, 7 bits --b
--b-inner-not
--b-inner  
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: 8bit

<p>Grüße</p>

--b-inner--

--b
Content-Type: image/png
Content-Transfer-Encoding: base64

iVBORw0KGgo=
--b
Content-Type: application/json

[\"ü\"]
--b
Content-Type: text/plain
Content-Transfer-Encoding: 8bit

only labelled
--b--
Nachwörter
";
    let expected = "MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=\"b\"
Content-Transfer-Encoding: 7bit

F??r alte Programme
--b
Content-Type: multipart/alternative; boundary=b-inner

--b-inner

default type, 7 bits --b
--b-inner-not
--b-inner  
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: quoted-printable

<p>Gr=C3=BC=C3=9Fe</p>

--b-inner--

--b
Content-Type: image/png
Content-Transfer-Encoding: base64

iVBORw0KGgo=
--b
Content-Type: application/json
Content-Transfer-Encoding: base64

WyLDvCJd
--b
Content-Type: text/plain
Content-Transfer-Encoding: 7bit

only labelled
--b--
Nachw??rter
";
    assert_eq!(converted(message).unwrap(), expected);
}

#[test]
fn messages_in_messages_are_converted_inside() {
    let message = "MIME-Version: 1.0
Content-Type: multipart/digest; boundary=d

--d

Subject: in a digest

é
--d
Content-Type: message/rfc822
Content-Transfer-Encoding: 8bit

MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=d2

--d2
Content-Type: text/plain; charset=utf-8

é
--d
Content-Type: message/global-headers
Content-Transfer-Encoding: 8bit

Subject: é
--d--
";
    let expected = "MIME-Version: 1.0
Content-Type: multipart/digest; boundary=d

--d

Subject: in a digest
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

=C3=A9
--d
Content-Type: message/rfc822
Content-Transfer-Encoding: 7bit

MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=d2

--d2
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

=C3=A9
--d
Content-Type: message/global-headers
Content-Transfer-Encoding: base64

U3ViamVjdDogw6k=
--d--
";
    assert_eq!(converted(message).unwrap(), expected);
}

#[test]
fn signed_parts_stay_as_they_are_or_there_is_no_conversion() {
    let message = |signed: &str, plain: &str| {
        format!(
            "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=m\n\n--m\n\
             Content-Type: multipart/signed; boundary=s\n\n--s\nContent-Transfer-Encoding: 8bit\n\n{signed}\n--s--\n\
             --m\nContent-Type: text/plain; charset=utf-8\n\n{plain}\n--m--\n"
        )
    };
    let encoded =
        message("e", "=C3=A9").replace("utf-8\n", "utf-8\nContent-Transfer-Encoding: quoted-printable\n");
    assert_eq!(converted(&message("e", "é")), Some(encoded));
    assert_eq!(converted(&message("é", "e")), None);
}

#[test]
fn what_cant_be_converted_faithfully_is_not() {
    for message in [
        "Subject: é\n\nbody\n",
        "Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\né\n",
        "Content-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\né\n",
        "Content-Type: text/plain\nContent-Transfer-Encoding: x-other\n\né\n",
        "Content-Type: text/plain\nContent-Type: text/html\n\né\n",
        "Content-Type: nonsense\n\né\n",
        "Content-Type: message/partial; id=1; number=1\n\né\n",
        "Content-Type: multipart/mixed\n\né\n",
        "Content-Type: multipart/mixed; boundary=b\n\né without any part\n",
        "Content-Type: multipart/mixed; boundary=\"b \"\n\n--b \n\né\n--b--\n",
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nX: é\n\nbody\n--b--\n",
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nhé\n--b--\n",
    ] {
        assert_eq!(converted(message), None, "{message}");
    }
}

#[test]
fn parts_without_an_empty_line_stay_as_they_are() {
    let message = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\
                   --b\n--b\n\n--b--\n";
    assert_eq!(converted(message).unwrap(), message);
}

fn nested(depth: usize) -> String {
    let mut message = String::from("MIME-Version: 1.0\n");
    for level in 0..depth {
        message.push_str(&format!("Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n"));
    }
    message.push_str("Content-Type: text/plain; charset=utf-8\n\né\n");
    message
}

#[test]
fn deep_nesting_ends_in_no_conversion_and_no_overflow() {
    assert!(
        converted(&nested(100)).unwrap().ends_with("Content-Transfer-Encoding: quoted-printable\n\n=C3=A9\n")
    );
    assert_eq!(converted(&nested(101)), None);
    assert_eq!(converted(&nested(20_000)), None);
    let forwarded = format!("Subject: x\n{}é\n", "Content-Type: message/rfc822\n\n".repeat(20_000));
    assert!(converted(&forwarded).is_none(), "the last line is no header field");
    let forwarded = format!("MIME-Version: 1.0\n{}\né\n", "Content-Type: message/rfc822\n\n".repeat(20_000));
    assert!(converted(&forwarded).unwrap().ends_with("\n\n=C3=A9\n"));
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("Content-Type: multipart/mixed; boundary=b\r\n"),
        Just("Content-Type: multipart/digest; boundary=bb\r\n"),
        Just("Content-Type: multipart/signed; boundary=b\r\n"),
        Just("Content-Type: text/plain\r\n"),
        Just("Content-Type: image/png\r\n"),
        Just("Content-Type: message/rfc822\r\n"),
        Just("Content-Transfer-Encoding: 8bit\r\n"),
        Just("Content-Transfer-Encoding: base64\r\n"),
        Just("\r\n"),
        Just("\r\n--b\r\n"),
        Just("--bb\r\n"),
        Just("\r\n--b--\r\n"),
        Just("text\r\n"),
        Just("é"),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn what_comes_out_has_7_bits(header in message(), body in message()) {
        if let Some((header, body)) = to_seven_bit(&header, &body) {
            prop_assert!(header.is_ascii() && body.is_ascii());
        }
    }

    #[test]
    fn what_has_7_bits_and_says_so_stays_as_it_is(body in message()) {
        let body = String::from_utf8(body).unwrap().replace('é', "e").replace("8bit", "7bit");
        let body = body.replace("Content-Type: message/rfc822\r\n", "Content-Type: message/rfc822\r\n\r\nMIME-Version: 1.0\r\n");
        let body = body.replace("multipart/digest", "multipart/mixed");
        let header = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n";
        let (new_header, new_body) = to_seven_bit(header, body.as_bytes()).unwrap();
        prop_assert_eq!(new_header, header);
        prop_assert_eq!(String::from_utf8(new_body).unwrap(), body);
    }

    #[test]
    fn any_octets_are_read_without_panic(header: Vec<u8>, body: Vec<u8>) {
        let _ = to_seven_bit(&header, &body);
    }

    #[test]
    fn text_of_any_octets_can_be_decoded_again(body: Vec<u8>) {
        let header = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n";
        let (_, encoded) = to_seven_bit(header, &body).unwrap();
        let decoded = if body.is_ascii() { encoded } else { crate::transfer_encoding::tests::decoded(&encoded) };
        prop_assert_eq!(decoded, body);
    }
}
