//! The DNS tree walk (RFC 9989 section 4.10).

use super::record::{Record, Suffix, is_dmarc};
use crate::dns::lookup::{Lookup, LookupError, Text};
use crate::dns::name::Name;

/// Most names that are asked for one domain.
const QUERIES_MAX: usize = 8;

/// What was found on the way up from a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Where it began.
    pub domain: Name,
    /// The valid records by the domain that each is for, the lowest first.
    pub records: Vec<(Name, Record)>,
    /// What is at the first domain and isn't one valid record.
    pub unusable: Vec<Text>,
}

/// Walks up from a domain.
///
/// # Errors
/// [`LookupError::Failed`] when one name can't be looked up: nothing is known then of what is there.
pub async fn walk(lookup: &impl Lookup, domain: &Name) -> Result<Walk, LookupError> {
    let mut walk = Walk { domain: domain.clone(), records: Vec::new(), unusable: Vec::new() };
    for (at, step) in steps(domain).into_iter().enumerate() {
        // What is too long for a name has no record.
        let Ok(name) = step.below("_dmarc") else { continue };
        let texts = match lookup.text(&name).await {
            Ok(answer) => answer.records,
            Err(LookupError::Failed(why)) => {
                return Err(LookupError::Failed(format!("TXT of {name} can't be looked up: {why}")));
            }
            Err(_) => Vec::new(),
        };
        let texts: Vec<Text> = texts.into_iter().filter(is_dmarc).collect();
        let record = match texts.as_slice() {
            [text] => Record::parse(text).ok(),
            _ => None,
        };
        match record {
            Some(record) => {
                let ends = record.suffix != Suffix::Unsaid;
                walk.records.push((step, record));
                if ends {
                    break;
                }
            }
            None if at == 0 => walk.unusable = texts,
            None => {}
        }
    }
    Ok(walk)
}

/// The domain, then each above it; of a long name what lies between it and its last seven labels is left out.
fn steps(domain: &Name) -> Vec<Name> {
    let mut steps = vec![domain.clone()];
    let mut current = domain.parent();
    while let Some(step) = current {
        if step.labels().count() < QUERIES_MAX {
            steps.push(step.clone());
        }
        current = step.parent();
    }
    steps
}

impl Walk {
    /// The topmost domain of the organisation that the first one belongs to (section 4.10.2).
    #[must_use]
    pub fn organizational_domain(&self) -> Name {
        for (at, record) in &self.records {
            match record.suffix {
                Suffix::No => return at.clone(),
                Suffix::Yes if *at != self.domain => return self.one_below(at),
                Suffix::Yes | Suffix::Unsaid => {}
            }
        }
        self.records.last().map_or(&self.domain, |(at, _)| at).clone()
    }

    /// The record that holds for the first domain, and the domain that it is at: its own, else the organisation's, else that of
    /// the suffix above (section 4.10.1).
    #[must_use]
    pub fn applied(&self) -> Option<&(Name, Record)> {
        let organization = self.organizational_domain();
        let at = |domain: &Name| self.records.iter().find(|(at, _)| at == domain);
        at(&self.domain).or_else(|| at(&organization)).or_else(|| self.records.last())
    }

    /// The name on the way that has one label more.
    fn one_below(&self, upper: &Name) -> Name {
        let mut below = self.domain.clone();
        while let Some(parent) = below.parent() {
            if parent == *upper {
                break;
            }
            below = parent;
        }
        below
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::memory::{Memory, name};

    async fn organization(dns: &Memory, domain: &str) -> String {
        walk(dns, &name(domain)).await.unwrap().organizational_domain().to_string()
    }

    #[tokio::test]
    async fn the_topmost_record_ends_the_organisation() {
        let dns = Memory::default()
            .txt("_dmarc.example.com", "v=DMARC1; p=reject")
            .txt("_dmarc.mail.example.com", "v=DMARC1; p=none");
        assert_eq!(organization(&dns, "a.mail.example.com").await, "example.com.");
        assert_eq!(organization(&dns, "example.com").await, "example.com.");
        // Nobody said anything: the domain stands for itself.
        assert_eq!(organization(&dns, "a.example.net").await, "a.example.net.");
    }

    #[tokio::test]
    async fn what_is_said_of_suffixes_counts() {
        let dns = Memory::default()
            .txt("_dmarc.bank", "v=DMARC1; p=reject; psd=y")
            .txt("_dmarc.unit.example.com", "v=DMARC1; p=none; psd=n")
            .txt("_dmarc.example.com", "v=DMARC1; p=reject");
        assert_eq!(organization(&dns, "a.b.giant.bank").await, "giant.bank.");
        assert_eq!(organization(&dns, "bank").await, "bank.");
        assert_eq!(organization(&dns, "a.unit.example.com").await, "unit.example.com.");
        let walked = walk(&dns, &name("giant.bank")).await.unwrap();
        assert_eq!(walked.applied().unwrap().0, name("bank"));
    }

    #[tokio::test]
    async fn two_records_are_none_and_a_failure_is_no_absence() {
        let dns = Memory::default()
            .txt("_dmarc.example.com", "v=DMARC1; p=reject")
            .txt("_dmarc.example.com", "v=DMARC1; p=none")
            .txt("_dmarc.example.com", "something else")
            .failing("_dmarc.example.net");
        let walked = walk(&dns, &name("example.com")).await.unwrap();
        assert_eq!((walked.records.len(), walked.unusable.len()), (0, 2));
        assert!(walk(&dns, &name("a.example.net")).await.is_err());
    }

    #[test]
    fn a_long_name_is_asked_for_eight_times() {
        let steps = steps(&name("a.b.c.d.e.f.g.h.i.j.example.com"));
        assert_eq!(steps.len(), 8);
        assert_eq!(steps[1], name("f.g.h.i.j.example.com"));
        assert_eq!(steps[7], name("com"));
    }
}
