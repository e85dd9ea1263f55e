//! Messages as octets.

/// A plain message with CRLF line ends; `body`'s line ends may be LF.
pub fn text(from: &str, to: &str, subject: &str, body: &str) -> Vec<u8> {
    let body = body.replace("\r\n", "\n").replace('\n', "\r\n");
    let id = subject.replace(' ', "-");
    format!(
        "From: {from}\r\nTo: {to}\r\nSubject: {subject}\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\n\
         Message-ID: <{id}@client.test>\r\n\r\n{body}\r\n"
    )
    .into_bytes()
}

/// A plain message of exactly `octets` octets (at least 400), its body in lines of 76.
pub fn sized(from: &str, to: &str, subject: &str, octets: usize) -> Vec<u8> {
    let mut message = text(from, to, subject, "");
    while message.len() + 78 + 2 <= octets {
        message.extend_from_slice(&[b'x'; 76]);
        message.extend_from_slice(b"\r\n");
    }
    let rest = octets.checked_sub(message.len() + 2).expect("a sized message has at least 400 octets");
    message.extend(std::iter::repeat_n(b'y', rest));
    message.extend_from_slice(b"\r\n");
    message
}

/// Any line ends become CRLF, and the last line gets one.
pub fn with_crlf(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() + octets.len() / 16);
    let mut rest = octets.iter().copied().peekable();
    while let Some(octet) = rest.next() {
        match octet {
            b'\r' => {
                rest.next_if_eq(&b'\n');
                out.extend_from_slice(b"\r\n");
            }
            b'\n' => out.extend_from_slice(b"\r\n"),
            octet => out.push(octet),
        }
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Header fields as they stand, folded lines with their field, without the last CRLF each.
pub fn fields(message: &[u8]) -> Vec<Vec<u8>> {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        let line = line.strip_suffix(b"\r\n").or(line.strip_suffix(b"\n")).unwrap_or(line);
        match (line.first(), fields.last_mut()) {
            (None, _) => break,
            (Some(b' ' | b'\t'), Some(field)) => {
                field.extend_from_slice(b"\r\n");
                field.extend_from_slice(line);
            }
            _ => fields.push(line.to_vec()),
        }
    }
    fields
}

/// A field's name in lower case.
pub fn field_name(field: &[u8]) -> String {
    let end = field.iter().position(|octet| *octet == b':').unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).trim().to_lowercase()
}

/// The values of the fields of that name, as they stand after the colon.
pub fn values(message: &[u8], name: &str) -> Vec<String> {
    let wanted = fields(message).into_iter().filter(|field| field_name(field) == name.to_lowercase());
    wanted
        .map(|field| String::from_utf8_lossy(&field[(name.len() + 1).min(field.len())..]).trim().to_owned())
        .collect()
}

/// What follows the empty line after the header.
pub fn body(message: &[u8]) -> &[u8] {
    if message.starts_with(b"\r\n") {
        return &message[2..];
    }
    let end = message.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or(&[], |end| &message[end + 4..])
}

/// The message without the fields of these names (lower case), wherever they stand.
pub fn without(message: &[u8], names: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len());
    for field in fields(message).into_iter().filter(|field| !names.contains(&field_name(field).as_str())) {
        out.extend_from_slice(&field);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body(message));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sized_message_has_its_size() {
        for octets in [400, 401, 477, 478, 479, 4096] {
            assert_eq!(sized("a@sender.test", "b@d1.test", "s", octets).len(), octets);
        }
    }

    #[test]
    fn fields_are_told_apart() {
        let message = b"A: 1\r\n 2\r\nb: 3\r\n\r\nC: 4\r\n";
        assert_eq!(fields(message), [b"A: 1\r\n 2".to_vec(), b"b: 3".to_vec()]);
        assert_eq!(values(message, "B"), ["3"]);
        assert_eq!(body(message), b"C: 4\r\n");
        assert_eq!(without(message, &["a"]), b"b: 3\r\n\r\nC: 4\r\n");
    }

    #[test]
    fn line_ends_become_crlf() {
        assert_eq!(with_crlf(b"a\nb\rc\r\nd"), b"a\r\nb\r\nc\r\nd\r\n");
    }
}
