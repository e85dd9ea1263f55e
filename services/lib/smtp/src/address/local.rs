//! The part before the `@`: a dot-string or a quoted string.

use std::sync::Arc;

use super::AddressError;

/// Cuts a mailbox at the `@` that ends its local part; a quoted local part may hold others.
pub(super) fn split(mailbox: &str) -> Result<(&str, &str), AddressError> {
    let at = if mailbox.starts_with('"') {
        let end = quoted_end(mailbox).ok_or(AddressError::BadLocalPart)?;
        match mailbox.as_bytes().get(end) {
            Some(b'@') => end,
            Some(_) => return Err(AddressError::BadLocalPart),
            None => return Err(AddressError::MissingHost),
        }
    } else {
        mailbox.find('@').ok_or(AddressError::MissingHost)?
    };
    Ok((&mailbox[..at], &mailbox[at + 1..]))
}

/// The local part in its shortest spelling (RFC 5321 section 4.1.2: the quoted form only where it is needed).
pub(super) fn canonical(local: &str) -> Result<Arc<str>, AddressError> {
    if is_dot_string(local) {
        return Ok(local.into());
    }
    let quoted = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let content = unescape(quoted.ok_or(AddressError::BadLocalPart)?)?;
    if is_dot_string(&content) {
        return Ok(content.into());
    }
    let mut quoted = String::with_capacity(content.len() + 2);
    quoted.push('"');
    for character in content.chars() {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    Ok(quoted.into())
}

/// The index after the closing quote of text that begins with a quote.
pub(super) fn quoted_end(text: &str) -> Option<usize> {
    let mut octets = text.bytes().enumerate().skip(1);
    while let Some((index, octet)) = octets.next() {
        match octet {
            b'"' => return Some(index + 1),
            b'\\' => drop(octets.next()),
            _ => {}
        }
    }
    None
}

fn is_dot_string(text: &str) -> bool {
    !text.is_empty() && text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn is_atext(character: char) -> bool {
    if character.is_ascii() {
        character.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(character)
    } else {
        is_unicode_text(character)
    }
}

/// RFC 6531 allows every character over 127; those that end or hide lines could not be logged or reported.
fn is_unicode_text(character: char) -> bool {
    !character.is_control() && !matches!(character, '\u{2028}' | '\u{2029}')
}

fn unescape(quoted: &str) -> Result<String, AddressError> {
    let mut content = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        let literal = match character {
            '"' => return Err(AddressError::BadLocalPart),
            '\\' => characters.next().filter(char::is_ascii).ok_or(AddressError::BadLocalPart)?,
            other => other,
        };
        let printable =
            if literal.is_ascii() { matches!(literal, ' '..='~') } else { is_unicode_text(literal) };
        if !printable {
            return Err(AddressError::BadLocalPart);
        }
        content.push(literal);
    }
    Ok(content)
}
