//! Cutting a header section into fields.

use super::LineFlaw;

/// Most octets of a line without its CRLF (RFC 5322 section 2.1.1).
pub(super) const LINE_OCTETS_MAX: usize = 998;

/// One field, with its folds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) name: &'a [u8],
    /// What follows the colon, CRLF of the last line included.
    pub(crate) value: &'a [u8],
    /// All of it.
    pub(crate) octets: &'a [u8],
}

impl Field<'_> {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// Whether it says nothing.
    pub(crate) fn is_blank(&self) -> bool {
        self.value.trim_ascii().is_empty()
    }
}

/// The fields of a header section without the empty line after it. The iterator ends after the first flaw,
/// which comes with the number of its line.
pub(crate) fn fields(section: &[u8]) -> Fields<'_> {
    Fields { rest: section, line: 0 }
}

/// Iterator over the fields of a header section.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    line: usize,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, (usize, LineFlaw)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<Field<'a>, (usize, LineFlaw)> {
        let section = self.rest;
        self.line += 1;
        let first = line(section).map_err(|flaw| (self.line, flaw))?;
        let colon = colon(first).map_err(|flaw| (self.line, flaw))?;
        let mut octets = first.len();
        while matches!(section.get(octets), Some(b' ' | b'\t')) {
            self.line += 1;
            let continuation = line(&section[octets..]).map_err(|flaw| (self.line, flaw))?;
            if continuation.trim_ascii().is_empty() {
                return Err((self.line, LineFlaw::OnlyBlanks));
            }
            octets += continuation.len();
        }
        self.rest = &section[octets..];
        Ok(Field { name: &section[..colon], value: &section[colon + 1..octets], octets: &section[..octets] })
    }
}

/// The first line with its CRLF.
fn line(section: &[u8]) -> Result<&[u8], LineFlaw> {
    let end = section.iter().position(|octet| matches!(octet, b'\r' | b'\n' | 0)).unwrap_or(section.len());
    if end > LINE_OCTETS_MAX {
        return Err(LineFlaw::TooLong);
    }
    match section.get(end..) {
        Some([b'\r', b'\n', ..]) => Ok(&section[..end + 2]),
        Some([0, ..]) => Err(LineFlaw::Nul),
        _ => Err(LineFlaw::BareLineEnd),
    }
}

/// Where the name of a field ends.
fn colon(line: &[u8]) -> Result<usize, LineFlaw> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(LineFlaw::BlankFirst);
    }
    let name_end = line.iter().position(|octet| !matches!(octet, b'!'..=b'9' | b';'..=b'~')).unwrap_or(0);
    if name_end > 0 && line[name_end] == b':' {
        Ok(name_end)
    } else if line.strip_prefix(b"From ").is_some_and(|rest| !rest.trim_ascii_start().starts_with(b":")) {
        Err(LineFlaw::MailboxFile)
    } else if line.contains(&b':') {
        Err(LineFlaw::BadName)
    } else {
        Err(LineFlaw::NoColon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(section: &[u8]) -> Result<Vec<&str>, (usize, LineFlaw)> {
        fields(section).map(|field| field.map(|field| str::from_utf8(field.name).unwrap())).collect()
    }

    #[test]
    fn a_folded_field_is_one_field() {
        let section = b"Subject: a\r\n b\r\n\tc\r\nTo:\r\n";
        let all: Vec<Field<'_>> = fields(section).map(Result::unwrap).collect();
        assert_eq!(all[0].value, b" a\r\n b\r\n\tc\r\n");
        assert_eq!(all[0].octets, b"Subject: a\r\n b\r\n\tc\r\n");
        assert!(all[0].is("sUBJECT") && !all[0].is_blank());
        assert!(all[1].is("To") && all[1].is_blank());
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn each_flaw_is_found_on_its_line() {
        let long = [b"A: ".as_slice(), &[b'x'; 996], b"\r\n"].concat();
        let cases: &[(&[u8], usize, LineFlaw)] = &[
            (b" folded first\r\n", 1, LineFlaw::BlankFirst),
            (b"hello\r\n", 1, LineFlaw::NoColon),
            (b"NoColon\r\nSubject: x\r\n", 1, LineFlaw::NoColon),
            (b"From a@b Mon Jan 1 00:00:00 2026\r\n", 1, LineFlaw::MailboxFile),
            (b"A: 1\r\nFrom : a@b\r\n", 2, LineFlaw::BadName),
            (b"A: 1\r\n: a@b\r\n", 2, LineFlaw::BadName),
            (b"A: 1\r\nX\x7f: 1\r\n", 2, LineFlaw::BadName),
            (b"A: 1\r\nX\xc3\xa9: 1\r\n", 2, LineFlaw::BadName),
            (b"A: 1\r\n b\r\n \t\r\nB: 2\r\n", 3, LineFlaw::OnlyBlanks),
            (b"A: 1\0\r\n", 1, LineFlaw::Nul),
            (b"A: 1\nB: 2\r\n", 1, LineFlaw::BareLineEnd),
            (b"A: 1\rB: 2\r\n", 1, LineFlaw::BareLineEnd),
            (b"A: 1\r\n\r\n", 2, LineFlaw::NoColon),
            (&long, 1, LineFlaw::TooLong),
        ];
        for (section, line, flaw) in cases {
            assert_eq!(names(section), Err((*line, *flaw)), "{:?}", String::from_utf8_lossy(section));
        }
    }

    #[test]
    fn a_line_of_998_octets_passes() {
        let section = [b"A: ".as_slice(), &[b'x'; 995], b"\r\n"].concat();
        assert_eq!(names(&section), Ok(vec!["A"]));
    }
}
