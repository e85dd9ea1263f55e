//! Lists of tags, `tag=value; tag=value`, as the records of DKIM, DMARC and TLS reporting are (RFC 6376 section 3.2).

use super::lookup::Text;

/// The tags of a record, in their order, without white space around names and values. Names have a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags(Vec<(String, String)>);

/// Why a record is no list of tags.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagsError {
    /// Octets outside of ASCII, or controls other than white space.
    #[error("it holds characters other than visible ASCII")]
    NotAscii,
    /// A part without `=`.
    #[error("\"{0}\" is not of the form tag=value")]
    NoValue(String),
    /// A name that isn't one.
    #[error("\"{0}\" is no name of a tag")]
    BadName(String),
    /// A name that stands twice, which makes the whole list invalid.
    #[error("the tag {0}= stands twice")]
    Twice(String),
}

impl Tags {
    /// Reads a list; a `;` at its end and white space around names and values don't matter.
    ///
    /// # Errors
    /// [`TagsError`] when it isn't one.
    pub fn parse(text: &Text) -> Result<Self, TagsError> {
        let visible = |octet: &u8| matches!(octet, b' '..=b'~' | b'\t' | b'\r' | b'\n');
        if !text.0.iter().all(visible) {
            return Err(TagsError::NotAscii);
        }
        let text = std::str::from_utf8(&text.0).map_err(|_| TagsError::NotAscii)?;
        let mut tags: Vec<(String, String)> = Vec::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err(TagsError::NoValue(part.to_owned()));
            };
            let name = name.trim_end().to_owned();
            let begins = name.starts_with(|first: char| first.is_ascii_alphabetic());
            if !begins || !name.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'_') {
                return Err(TagsError::BadName(name));
            }
            if tags.iter().any(|(other, _)| *other == name) {
                return Err(TagsError::Twice(name));
            }
            tags.push((name, value.trim_start().to_owned()));
        }
        Ok(Self(tags))
    }

    /// The value of a tag, with white space within it as it stands.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.as_str())
    }

    /// Whether the list begins with this tag and value, as the version does.
    #[must_use]
    pub fn begins_with(&self, name: &str, value: &str) -> bool {
        self.0.first().is_some_and(|(tag, first)| tag == name && first == value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Tags, TagsError> {
        Tags::parse(&Text(text.into()))
    }

    #[test]
    fn space_around_names_and_values_does_not_matter() {
        let tags = parse(" v=DMARC1;p = none ;; rua=mailto:a@example.org, mailto:b@example.org;").unwrap();
        assert!(tags.begins_with("v", "DMARC1"));
        assert_eq!(tags.value("p"), Some("none"));
        assert_eq!(tags.value("rua"), Some("mailto:a@example.org, mailto:b@example.org"));
        assert_eq!(tags.value("P"), None);
        assert_eq!(parse("p=a=b==").unwrap().value("p"), Some("a=b=="));
        assert_eq!(parse("p=").unwrap().value("p"), Some(""));
    }

    #[test]
    fn what_is_no_list_says_why() {
        assert_eq!(parse("v=DKIM1; nothing"), Err(TagsError::NoValue("nothing".into())));
        assert_eq!(parse("=x"), Err(TagsError::BadName(String::new())));
        assert_eq!(parse("1a=x"), Err(TagsError::BadName("1a".into())));
        assert_eq!(parse("p=a; p=b"), Err(TagsError::Twice("p".into())));
        assert_eq!(parse("p=ä"), Err(TagsError::NotAscii));
    }
}
