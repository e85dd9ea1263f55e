//! What must hold for any octets. The fuzz targets and the tests of every day call these same functions.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use mail::header::{HeaderError, HeaderReader, Limits, Prepared, Protocol, Trace};
use mail::{QueueId, Timestamp};

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Result<Prepared, HeaderError>, Vec<u8>) {
    let by = "mx.example.net".parse().unwrap();
    let queue_id: QueueId = "01ARYZ6S41ZZZZZZZZZZZZZZZZ".parse().unwrap();
    let trace = Trace {
        helo: None,
        client_address: Some([192, 0, 2, 7].into()),
        client_name: None,
        protocol: Protocol::Esmtp,
        tls: Some("TLSv1.3"),
        authenticated: true,
        by: &by,
        queue_id,
        recipient: None,
        now: Timestamp(1_795_579_643_042),
    };
    let mut reader = HeaderReader::new(Limits::default());
    let body = pieces.into_iter().flat_map(|piece| reader.push(piece).to_vec()).collect();
    (reader.finish(&trace), body)
}

/// A header section is read alike however it is cut; what is made of it is whole lines, has one From field and our trace on
/// top, and is read again without a change but that trace.
pub(crate) fn header(data: &[u8]) {
    let (whole, body) = read([data]);
    assert_eq!(read(data.chunks(1)), (whole.clone(), body.clone()));
    assert!(data.ends_with(&body));
    let Ok(prepared) = whole else { return };
    assert!(prepared.header.starts_with(b"Received: ") && prepared.header.ends_with(b"\r\n"));
    let again = [prepared.header.as_slice(), b"\r\n"].concat();
    let again = read([again.as_slice()]).0.unwrap();
    assert!(again.header.ends_with(&prepared.header), "what we made is changed when it is read again");
    assert_eq!(again.message_id, prepared.message_id);
}

/// What is made for a server that takes 7 bits has no more, no line over 998 octets that wasn't there before, and no bare line
/// end; a message that has 7 bits only needs nothing of it.
pub(crate) fn downgrade(data: &[u8]) {
    // As ingress has checked: lines end in CRLF.
    let text: Vec<u8> = data.split(|octet| *octet == b'\n').fold(Vec::new(), |mut text, line| {
        text.extend(line.iter().filter(|octet| **octet != b'\r' && **octet != 0).take(998));
        text.extend_from_slice(b"\r\n");
        text
    });
    let Some(end) = text.windows(4).position(|octets| octets == b"\r\n\r\n") else { return };
    let (header, body) = (&text[..end + 2], &text[end + 4..]);
    let Some((new_header, new_body)) = mail::downgrade::to_seven_bit(header, body) else { return };
    let made = [new_header.as_slice(), b"\r\n", &new_body].concat();
    assert!(made.is_ascii());
    for line in made.split_inclusive(|octet| *octet == b'\n') {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        assert!(line.len() <= 998 && !line.contains(&b'\r') && !line.contains(&b'\n'));
    }
}
