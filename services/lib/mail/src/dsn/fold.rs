//! Text of others, made safe and cut into lines.

use std::fmt::Write as _;

/// Where lines are broken if they can be (RFC 5322 section 2.1.1).
const LINE_OCTETS: usize = 76;
/// Most octets of a word in one line, so that none passes 998.
const WORD_OCTETS_MAX: usize = 900;
/// Most octets of one text of somebody else.
const TEXT_OCTETS_MAX: usize = 2000;

/// Text as printable ASCII: everything else is shown by its number, as RFC 6533 section 3 does for addresses.
/// Cut where it is endless.
pub(super) fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(TEXT_OCTETS_MAX));
    for character in text.chars() {
        if out.len() >= TEXT_OCTETS_MAX {
            out.push_str(" ...");
            break;
        }
        match character {
            ' '..='~' => out.push(character),
            '\t' | '\r' | '\n' => out.push(' '),
            // Writing into a String can't fail.
            other => drop(write!(out, "\\x{{{:02X}}}", u32::from(other))),
        }
    }
    out
}

/// Text for people: as it is, but for control characters. Cut where it is endless.
pub(super) fn printable(text: &str) -> String {
    let end = text.floor_char_boundary(TEXT_OCTETS_MAX);
    let clean = |character: char| if character.is_control() { ' ' } else { character };
    let mut out: String = text[..end].chars().map(clean).collect();
    if end < text.len() {
        out.push_str(" ...");
    }
    out
}

/// Appends `first` and the words of `text` as lines of which all but the first begin with `indent`.
pub(super) fn wrap(first: &str, text: &str, indent: &str, out: &mut String) {
    out.push_str(first);
    let mut column = first.len();
    let mut empty = true;
    for mut word in text.split_ascii_whitespace() {
        while !word.is_empty() {
            let (piece, after) = word.split_at(word.floor_char_boundary(WORD_OCTETS_MAX));
            word = after;
            if !empty && column + 1 + piece.len() > LINE_OCTETS {
                out.push_str("\r\n");
                out.push_str(indent);
                column = indent.len();
            } else if column > 0 && !out.ends_with(' ') {
                out.push(' ');
                column += 1;
            }
            out.push_str(piece);
            column += piece.len();
            empty = false;
        }
    }
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_broken_at_blanks() {
        let mut out = String::new();
        wrap("Name: ", &"word ".repeat(20), " ", &mut out);
        let first = "word ".repeat(14);
        let second = "word ".repeat(6);
        assert_eq!(out, format!("Name: {}\r\n {}\r\n", first.trim_end(), second.trim_end()));
    }

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(ascii("a\r\nX-Evil: 1\u{1b}[2Jé"), "a  X-Evil: 1\\x{1B}[2J\\x{E9}");
        assert_eq!(printable("a\r\nb\u{1b}é"), "a  b é");
        assert!(ascii(&"é".repeat(9000)).len() < 2020);
        assert!(printable(&"é".repeat(9000)).ends_with("é ..."));
    }

    proptest! {
        #[test]
        fn any_text_makes_lines_that_fit(text: String, long in "x{0,3000}") {
            let mut out = String::new();
            wrap("Name:", &ascii(&format!("{text} {long}")), " ", &mut out);
            let lines: Vec<&str> = out.strip_suffix("\r\n").unwrap().split("\r\n").collect();
            prop_assert!(lines.iter().all(|line| line.len() <= 998));
            prop_assert!(lines[1..].iter().all(|line| line.starts_with(' ') && !line.trim().is_empty()));
        }
    }
}
