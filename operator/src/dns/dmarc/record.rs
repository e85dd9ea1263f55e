//! The grammar of a record (RFC 9989 section 4.7).

use std::fmt;

use crate::dns::lookup::Text;
use crate::dns::tags::{Tags, TagsError};

/// What a record says, with the defaults of what it doesn't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `p=`: for the domain.
    pub policy: Policy,
    /// `sp=`: for names below it, where it differs.
    pub subdomain_policy: Option<Policy>,
    /// `adkim=`
    pub dkim_alignment: Alignment,
    /// `aspf=`
    pub spf_alignment: Alignment,
    /// `psd=`
    pub suffix: Suffix,
    /// `t=y`: receivers are to be one step milder than the policy.
    pub testing: bool,
    /// `rua=`: where reports go.
    pub reports_to: Vec<String>,
}

/// What is wished for mail that fails, the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// Nothing.
    None,
    /// That it is treated as suspicious.
    Quarantine,
    /// That it is refused.
    Reject,
}

/// How names must be alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alignment {
    /// Of one organisation.
    Relaxed,
    /// The same.
    Strict,
}

/// Whether names below a domain belong to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suffix {
    /// `psd=y`: they do.
    Yes,
    /// `psd=n`: this is the topmost domain of an organisation.
    No,
    /// Nothing is said.
    Unsaid,
}

/// Why a record can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No list of tags.
    #[error(transparent)]
    Tags(#[from] TagsError),
    /// A policy that is none, and nobody who would be told.
    #[error("{tag}={value} is no policy")]
    Policy {
        /// `p` or `sp`.
        tag: &'static str,
        /// What stands there.
        value: String,
    },
}

impl Policy {
    /// One step milder, as `t=y` asks for.
    #[must_use]
    pub const fn milder(self) -> Self {
        match self {
            Self::Reject => Self::Quarantine,
            Self::Quarantine | Self::None => Self::None,
        }
    }

    fn read(value: &str) -> Option<Self> {
        match value.to_ascii_lowercase().as_str() {
            "none" => Some(Self::None),
            "quarantine" => Some(Self::Quarantine),
            "reject" => Some(Self::Reject),
            _ => None,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        })
    }
}

/// Whether a TXT record is one of DMARC: its first tag is `v=DMARC1`. Others are passed over.
#[must_use]
pub fn is_dmarc(text: &Text) -> bool {
    let first = text.0.split(|octet| *octet == b';').next().unwrap_or_default();
    let mut parts = first.splitn(2, |octet| *octet == b'=');
    let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    name.trim_ascii() == b"v" && value.trim_ascii() == b"DMARC1"
}

impl Record {
    /// Reads a record for which [`is_dmarc`] holds. Tags that aren't known are passed over, and values that can't be read
    /// count as not given; a policy without a readable `p` is `none` where reports are asked for (section 4.7).
    ///
    /// # Errors
    /// [`RecordError`] when receivers would do as if there were no record.
    pub fn parse(text: &Text) -> Result<Self, RecordError> {
        let tags = Tags::parse(text)?;
        let reports_to: Vec<String> = tags
            .value("rua")
            .into_iter()
            .flat_map(|list| list.split(','))
            .map(|address| address.trim().to_owned())
            .filter(|address| address.contains(':'))
            .collect();
        let policy = |tag: &'static str| match tags.value(tag) {
            None => Ok(None),
            Some(value) => match Policy::read(value) {
                None if reports_to.is_empty() => Err(RecordError::Policy { tag, value: value.to_owned() }),
                read => Ok(read.or(Some(Policy::None))),
            },
        };
        let alignment = |tag| match tags.value(tag) {
            Some("s" | "S") => Alignment::Strict,
            _ => Alignment::Relaxed,
        };
        Ok(Self {
            policy: policy("p")?.unwrap_or(Policy::None),
            subdomain_policy: policy("sp")?,
            dkim_alignment: alignment("adkim"),
            spf_alignment: alignment("aspf"),
            suffix: match tags.value("psd") {
                Some("y" | "Y") => Suffix::Yes,
                Some("n" | "N") => Suffix::No,
                _ => Suffix::Unsaid,
            },
            testing: matches!(tags.value("t"), Some("y" | "Y")),
            reports_to,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Record, RecordError> {
        Record::parse(&Text(text.into()))
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let record = parse("v=DMARC1; p=reject").unwrap();
        assert_eq!((record.policy, record.subdomain_policy), (Policy::Reject, None));
        assert_eq!(record.spf_alignment, Alignment::Relaxed);
        assert_eq!((record.suffix, record.testing), (Suffix::Unsaid, false));
        assert_eq!(parse("v=DMARC1").unwrap().policy, Policy::None);
        let full =
            parse("v=DMARC1;p=QUARANTINE;sp=none;aspf=s;adkim=s;psd=n;t=y;pct=5;rua=mailto:a@x.test , mailto:b@x.test")
                .unwrap();
        assert_eq!((full.policy, full.subdomain_policy), (Policy::Quarantine, Some(Policy::None)));
        assert_eq!((full.spf_alignment, full.dkim_alignment), (Alignment::Strict, Alignment::Strict));
        assert_eq!((full.suffix, full.testing), (Suffix::No, true));
        assert_eq!(full.reports_to, ["mailto:a@x.test", "mailto:b@x.test"]);
    }

    #[test]
    fn a_policy_that_is_none_counts_where_somebody_is_told() {
        let error = RecordError::Policy { tag: "p", value: "nonsense".into() };
        assert_eq!(parse("v=DMARC1; p=nonsense"), Err(error));
        assert_eq!(parse("v=DMARC1; p=nonsense; rua=mailto:a@x.test").unwrap().policy, Policy::None);
    }

    #[test]
    fn the_version_stands_first() {
        for (text, is) in [
            ("v=DMARC1", true),
            (" v = DMARC1 ; p=none", true),
            ("v=DMARC1 p=none", false),
            ("v=dmarc1; p=none", false),
            ("p=none; v=DMARC1", false),
            ("v=DMARC12", false),
            ("", false),
        ] {
            assert_eq!(is_dmarc(&Text(text.into())), is, "{text}");
        }
    }
}
