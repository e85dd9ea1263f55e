//! The value of a Content-Type field (RFC 2045 section 5.1).

/// A media type in lower case, and the one parameter that structure depends on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContentType {
    /// `text`
    pub(super) main: String,
    /// `plain`
    pub(super) sub: String,
    /// The boundary; none when it is absent or the parameters can't be read with certainty.
    pub(super) boundary: Option<Vec<u8>>,
}

impl ContentType {
    /// None when there is no `type/subtype`.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let mut cursor = Cursor { rest: value };
        cursor.skip()?;
        let main = cursor.token()?;
        cursor.skip()?;
        cursor.expect(b'/')?;
        cursor.skip()?;
        let sub = cursor.token()?;
        let boundary = cursor.boundary().flatten();
        Some(Self { main, sub, boundary })
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    /// The outer option: whether all parameters could be read.
    fn boundary(&mut self) -> Option<Option<Vec<u8>>> {
        let mut boundary = None;
        loop {
            self.skip()?;
            if self.rest.is_empty() {
                return Some(boundary);
            }
            self.expect(b';')?;
            self.skip()?;
            if self.rest.is_empty() {
                return Some(boundary);
            }
            let name = self.token()?;
            self.skip()?;
            self.expect(b'=')?;
            self.skip()?;
            let value = self.value()?;
            // `boundary*` and `boundary*0` (RFC 2231) are for values that no boundary needs.
            if name.starts_with("boundary*") || (name == "boundary" && boundary.is_some()) {
                return None;
            }
            if name == "boundary" {
                boundary = Some(value);
            }
        }
    }

    fn expect(&mut self, octet: u8) -> Option<()> {
        self.rest = self.rest.strip_prefix(&[octet])?;
        Some(())
    }

    /// Goes over blanks, folds and comments.
    fn skip(&mut self) -> Option<()> {
        loop {
            self.rest = self.rest.trim_ascii_start();
            if self.rest.first() != Some(&b'(') {
                return Some(());
            }
            let mut depth = 0usize;
            let mut escaped = false;
            let end = self.rest.iter().position(|octet| {
                match octet {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'(' => depth += 1,
                    b')' => depth -= 1,
                    _ => {}
                }
                depth == 0
            });
            self.rest = &self.rest[end? + 1..];
        }
    }

    fn token(&mut self) -> Option<String> {
        let is_token = |octet: &u8| octet.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(octet);
        let length = self.rest.iter().position(|octet| !is_token(octet)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        (length > 0).then(|| String::from_utf8_lossy(token).to_ascii_lowercase())
    }

    /// A quoted string, or anything up to a blank or semicolon: boundaries such as `----=_1` often lack the
    /// quotes they need.
    fn value(&mut self) -> Option<Vec<u8>> {
        let Some(quoted) = self.rest.strip_prefix(b"\"") else {
            let ends = |octet: &u8| octet.is_ascii_whitespace() || *octet == b';';
            let length = self.rest.iter().position(ends).unwrap_or(self.rest.len());
            let (value, rest) = self.rest.split_at(length);
            self.rest = rest;
            return (length > 0).then(|| value.to_vec());
        };
        let mut value = Vec::new();
        let mut octets = quoted.iter().enumerate();
        while let Some((index, octet)) = octets.next() {
            match octet {
                b'"' => {
                    self.rest = &quoted[index + 1..];
                    return Some(value);
                }
                b'\\' => value.push(*octets.next()?.1),
                b'\r' | b'\n' => {}
                other => value.push(*other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<(String, Option<String>)> {
        let read = ContentType::parse(value.as_bytes())?;
        let boundary = read.boundary.map(|boundary| String::from_utf8(boundary).unwrap());
        Some((format!("{}/{}", read.main, read.sub), boundary))
    }

    #[test]
    fn type_and_boundary_are_read() {
        for (value, media_type, boundary) in [
            (" text/plain\r\n", "text/plain", None),
            (" Text/HTML; charset=utf-8;\r\n", "text/html", None),
            (" multipart/mixed; boundary=abc\r\n", "multipart/mixed", Some("abc")),
            (" multipart/mixed;\r\n\tcharset=x; BOUNDARY=\"a \\\"b\"\r\n", "multipart/mixed", Some("a \"b")),
            (" multipart (x(y)) / mixed ; boundary=----=_1;x=y", "multipart/mixed", Some("----=_1")),
            (" multipart/mixed; boundary=a; boundary=b", "multipart/mixed", None),
            (" multipart/mixed; boundary*0=a; boundary*4294967296=b", "multipart/mixed", None),
            (" multipart/mixed; boundary=\"a", "multipart/mixed", None),
            (" multipart/mixed; boundary", "multipart/mixed", None),
        ] {
            assert_eq!(read(value), Some((media_type.to_owned(), boundary.map(str::to_owned))), "{value}");
        }
        for value in ["", "text", "text/", "/plain", "(open text/plain"] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
