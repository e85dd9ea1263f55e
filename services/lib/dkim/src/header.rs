//! The header's share of a signature: which fields are signed, and their relaxed canonical form.

/// Why a header section can't be signed; what a verifier would read differently from us is refused, not guessed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFlaw {
    #[error("the first line begins with a blank")]
    BlankFirst,
    #[error("an empty line")]
    EmptyLine,
    #[error("no colon after the field's name")]
    NoColon,
    #[error("a field name with a blank, a control character or an octet beyond ASCII")]
    Name,
    #[error("a NUL")]
    Nul,
    #[error("a CR or LF that is not part of CR LF")]
    LineEnd,
    #[error("the last line has no CR LF")]
    Unterminated,
}

/// When a field's name stands in `h=` once more than the field is present, so that nobody can add another one
/// (RFC 6376 sections 5.4.2 and 8.15).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sealed {
    /// Also when the field is absent: adding one would change what the reader sees, or whom an answer reaches.
    Always,
    /// When it is present. A mailing list that leaves a message as it is may add these fields, and does; sealing
    /// their absence would break the signature without protecting anything. RFC 8058 section 4 has a receiver
    /// heed List-Unsubscribe only where a signature names it, so an added one has no effect.
    WhenPresent,
}

/// What is signed: the fields of RFC 6376 section 5.4.1 (who, to whom, when, about what, in answer to what, the
/// list fields), those that decide how the body is read (MIME), and Feedback-ID, which providers believe only when
/// it is signed. Not signed: the trace fields (Received, Return-Path, Resent-*: whoever passes a message on prepends
/// more of them), DKIM-Signature and Authentication-Results (other parties'), Bcc (removed on the way), Comments and
/// Keywords (rewritten on the way).
const SIGNED: [(&str, Sealed); 22] = [
    ("From", Sealed::Always),
    ("Sender", Sealed::WhenPresent),
    ("Reply-To", Sealed::Always),
    ("To", Sealed::Always),
    ("Cc", Sealed::Always),
    ("Subject", Sealed::Always),
    ("Date", Sealed::Always),
    ("Message-ID", Sealed::Always),
    ("In-Reply-To", Sealed::Always),
    ("References", Sealed::Always),
    ("MIME-Version", Sealed::Always),
    ("Content-Type", Sealed::Always),
    ("Content-Transfer-Encoding", Sealed::Always),
    ("List-Id", Sealed::WhenPresent),
    ("List-Help", Sealed::WhenPresent),
    ("List-Subscribe", Sealed::WhenPresent),
    ("List-Unsubscribe", Sealed::WhenPresent),
    ("List-Unsubscribe-Post", Sealed::WhenPresent),
    ("List-Post", Sealed::WhenPresent),
    ("List-Owner", Sealed::WhenPresent),
    ("List-Archive", Sealed::WhenPresent),
    ("Feedback-ID", Sealed::WhenPresent),
];

const FROM: usize = 0;

/// The signed fields of one message.
#[derive(Debug)]
pub(crate) struct SignedFields {
    /// The names for `h=`, in order.
    pub(crate) names: Vec<&'static str>,
    /// The fields that they name, in canonical form, each with its CR LF.
    pub(crate) canonical: Vec<u8>,
    pub(crate) has_from: bool,
}

impl SignedFields {
    /// Reads a header section: whole fields, without the empty line after them.
    ///
    /// # Errors
    /// The number of the line, from one, and what is wrong with it.
    pub(crate) fn select(header: &[u8]) -> Result<Self, (usize, HeaderFlaw)> {
        let mut selected: Vec<(usize, Field<'_>)> = Vec::with_capacity(SIGNED.len());
        for field in fields(header) {
            let field = field?;
            if let Some(place) = SIGNED.iter().position(|(name, _)| field.is(name)) {
                selected.push((place, field));
            }
        }
        // Of a repeated field, the lowest in the message is the first that `h=` names (RFC 6376 section 5.4.2).
        selected.reverse();
        selected.sort_by_key(|(place, _)| *place);

        let mut names = Vec::with_capacity(selected.len() + SIGNED.len());
        let mut canonical = Vec::with_capacity(header.len() + 2048);
        let mut present = selected.iter().peekable();
        let has_from = present.peek().is_some_and(|(place, _)| *place == FROM);
        for (place, (name, sealed)) in SIGNED.into_iter().enumerate() {
            let mut is_present = false;
            while let Some((_, field)) = present.next_if(|(selected, _)| *selected == place) {
                canonicalise(field, &mut canonical);
                names.push(name);
                is_present = true;
            }
            if is_present || sealed == Sealed::Always {
                names.push(name);
            }
        }
        Ok(Self { names, canonical, has_from })
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    /// Without blanks around it.
    pub(crate) name: &'a [u8],
    /// Everything after the colon, folds and the last CR LF included.
    pub(crate) value: &'a [u8],
}

impl Field<'_> {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Relaxed canonical form (RFC 6376 section 3.4.2): the name in lower case, each run of blanks one space, the
/// folds undone, no blanks around the value. CR and LF stand only where a line is folded, next to a blank.
pub(crate) fn canonicalise(field: &Field<'_>, canonical: &mut Vec<u8>) {
    canonical.extend(field.name.iter().map(u8::to_ascii_lowercase));
    canonical.push(b':');
    let words = field.value.split(|octet| matches!(octet, b' ' | b'\t' | b'\r' | b'\n'));
    for (count, word) in words.filter(|word| !word.is_empty()).enumerate() {
        if count > 0 {
            canonical.push(b' ');
        }
        canonical.extend_from_slice(word);
    }
    canonical.extend_from_slice(b"\r\n");
}

/// The fields of a header section from the top down. After an error comes nothing more.
pub(crate) fn fields(header: &[u8]) -> impl Iterator<Item = Result<Field<'_>, (usize, HeaderFlaw)>> {
    let mut rest = header;
    let mut line = 1;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (field, tail, lines) = match next_field(rest) {
            Ok(next) => next,
            Err((lines, flaw)) => {
                rest = &[];
                return Some(Err((line + lines, flaw)));
            }
        };
        line += lines;
        rest = tail;
        Some(Ok(field))
    })
}

/// The first field, what follows it, and of how many lines it is; or how many lines come before the broken one.
fn next_field(header: &[u8]) -> Result<(Field<'_>, &[u8], usize), (usize, HeaderFlaw)> {
    match header {
        [b' ' | b'\t', ..] => return Err((0, HeaderFlaw::BlankFirst)),
        [b'\r', b'\n', ..] => return Err((0, HeaderFlaw::EmptyLine)),
        _ => {}
    }
    let mut lines = 0;
    let mut end = 0;
    loop {
        end += line_octets(&header[end..]).map_err(|flaw| (lines, flaw))?;
        lines += 1;
        if !matches!(header.get(end), Some(b' ' | b'\t')) {
            break;
        }
    }
    let (field, tail) = header.split_at(end);
    let colon = field.iter().position(|octet| *octet == b':').ok_or((0, HeaderFlaw::NoColon))?;
    // RFC 5322 section 4.5 allows blanks before the colon, and the canonical form has none.
    let blanks = field[..colon].iter().rev().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
    let name = &field[..colon - blanks];
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return Err((0, HeaderFlaw::Name));
    }
    Ok((Field { name, value: &field[colon + 1..] }, tail, lines))
}

/// The length of the first line, its CR LF included.
fn line_octets(text: &[u8]) -> Result<usize, HeaderFlaw> {
    let end = text
        .iter()
        .position(|octet| matches!(octet, b'\r' | b'\n' | b'\0'))
        .ok_or(HeaderFlaw::Unterminated)?;
    match text[end..] {
        [b'\r', b'\n', ..] => Ok(end + 2),
        [b'\0', ..] => Err(HeaderFlaw::Nul),
        _ => Err(HeaderFlaw::LineEnd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(header: &[u8]) -> Vec<u8> {
        let mut canonical = Vec::new();
        fields(header).for_each(|field| canonicalise(&field.unwrap(), &mut canonical));
        canonical
    }

    #[test]
    fn the_example_of_rfc_6376_3_4_5_has_the_canonical_form_given_there() {
        assert_eq!(canonical(b"A: X\r\nB : Y\t\r\n\tZ  \r\n"), b"a:X\r\nb:Y Z\r\n");
    }

    #[test]
    fn odd_but_legal_values_have_their_canonical_form() {
        for (field, form) in [
            ("A:\r\n", "a:\r\n"),
            ("A: \t\r\n", "a:\r\n"),
            ("A:\r\n \r\n b\r\n", "a:b\r\n"),
            ("A:b:c\r\n", "a:b:c\r\n"),
            ("Subject\t : \r\n\tb \t\r\n c\r\n", "subject:b c\r\n"),
            ("SUBJECT: Grüße\r\n", "subject:Grüße\r\n"),
        ] {
            assert_eq!(canonical(field.as_bytes()), form.as_bytes(), "{field:?}");
        }
    }

    #[test]
    fn a_broken_header_is_refused_with_the_line() {
        for (header, line, flaw) in [
            (" folded: first\r\nFrom: a@b\r\n", 1, HeaderFlaw::BlankFirst),
            ("From: a@b\r\n\r\n", 2, HeaderFlaw::EmptyLine),
            ("NoColon\r\nSubject: x\r\n", 1, HeaderFlaw::NoColon),
            ("From: a@b\r\n c\r\nhello\r\n", 3, HeaderFlaw::NoColon),
            ("From a@b Mon Jan 1 10:00:00\r\n", 1, HeaderFlaw::Name),
            (": x\r\n", 1, HeaderFlaw::Name),
            ("Grüße: x\r\n", 1, HeaderFlaw::Name),
            ("Subject\r\n : x\r\n", 1, HeaderFlaw::Name),
            ("From: a\0@b\r\n", 1, HeaderFlaw::Nul),
            ("From: a@b\nTo: c@d\r\n", 1, HeaderFlaw::LineEnd),
            ("From: a@b\r\n c\rd\r\n", 2, HeaderFlaw::LineEnd),
            ("From: a@b\r\nTo: c@d", 2, HeaderFlaw::Unterminated),
            ("From: a@b\r", 1, HeaderFlaw::LineEnd),
        ] {
            assert_eq!(SignedFields::select(header.as_bytes()).unwrap_err(), (line, flaw), "{header:?}");
        }
    }

    #[test]
    fn every_signed_field_is_named_as_often_as_present_and_once_more() {
        let header =
            b"Received: 1\r\nTo: 1\r\nSender: s\r\nX-A: 1\r\nto : 2\r\nFrom: a\r\nTO: 3\r\nBcc: b\r\n";
        let fields = SignedFields::select(header).unwrap();
        let count = |name: &str| fields.names.iter().filter(|named| **named == name).count();
        assert_eq!((count("To"), count("From"), count("Sender"), count("Subject")), (4, 2, 2, 1));
        assert_eq!((count("List-Unsubscribe"), count("Received"), count("Bcc")), (0, 0, 0));
        assert_eq!(fields.canonical, b"from:a\r\nsender:s\r\nto:3\r\nto:2\r\nto:1\r\n");
    }

    #[test]
    fn from_is_the_field_that_may_not_be_missing() {
        assert_eq!(SIGNED[FROM].0, "From");
        assert!(!SignedFields::select(b"To: a@b\r\n").unwrap().has_from);
        assert!(SignedFields::select(b"To: a@b\r\nfrom: c@d\r\n").unwrap().has_from);
    }
}
