//! Published signing keys (RFC 6376 section 3.6, RFC 8463 section 4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::authority::{Authority, Sighting};
use super::lookup::{Answer, Found, Lookup, LookupError, Text};
use super::name::{Name, NameError};
use super::report::{Finding, Purpose, Record, RecordType, State};
use super::tags::{Tags, TagsError};

/// Octets of an Ed25519 key.
const ED25519_OCTETS: usize = 32;
/// The end of what stands before an RSAPublicKey in a SubjectPublicKeyInfo: the algorithm rsaEncryption with NULL
/// (RFC 3279 section 2.3.1), then the tag of a bit string.
const RSA_ENCRYPTION: [u8; 14] =
    [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00, 0x03];

/// What the record of a key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// `k=`
    pub algorithm: Algorithm,
    /// `p=`: a SubjectPublicKeyInfo or RSAPublicKey in DER, or the 32 octets of an Ed25519 key. Empty: revoked.
    pub public: Vec<u8>,
    /// `h=` allows SHA-256, which is all that is signed with.
    pub allows_sha256: bool,
    /// `s=` allows mail.
    pub allows_email: bool,
    /// `t=y`: receivers are to treat signed mail as they treat unsigned mail.
    pub testing: bool,
    /// `t=s`: the agent's domain must be the signer's, never below it.
    pub strict: bool,
}

/// The algorithm of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `rsa`, which it is where nothing is said.
    Rsa,
    /// `ed25519`
    Ed25519,
    /// None that is known.
    Other(String),
}

/// Why a TXT record is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRecordError {
    /// No list of tags.
    #[error(transparent)]
    Tags(#[from] TagsError),
    /// `v=` that isn't `DKIM1`, or isn't first.
    #[error("v= must be DKIM1 and stand first")]
    Version,
    /// `p=` is missing.
    #[error("it has no p=")]
    NoKey,
    /// `p=` isn't base64.
    #[error("p= isn't base64")]
    NotBase64,
}

impl KeyRecord {
    /// Reads a key record. White space within the base64 of `p=` is left out, as verifiers do.
    ///
    /// # Errors
    /// [`KeyRecordError`] when a verifier would find no key in it.
    pub fn parse(text: &Text) -> Result<Self, KeyRecordError> {
        let tags = Tags::parse(text)?;
        if tags.value("v").is_some() && !tags.begins_with("v", "DKIM1") {
            return Err(KeyRecordError::Version);
        }
        let public = tags.value("p").ok_or(KeyRecordError::NoKey)?;
        let public: String = public.split_ascii_whitespace().collect();
        let public = STANDARD.decode(public).map_err(|_| KeyRecordError::NotBase64)?;
        let algorithm = match tags.value("k").unwrap_or("rsa") {
            "rsa" => Algorithm::Rsa,
            "ed25519" => Algorithm::Ed25519,
            other => Algorithm::Other(other.to_owned()),
        };
        let lists = |name, wanted: &[&str]| match tags.value(name) {
            Some(list) => list.split(':').any(|item| wanted.contains(&item.trim())),
            None => false,
        };
        Ok(Self {
            algorithm,
            public,
            allows_sha256: tags.value("h").is_none() || lists("h", &["sha256"]),
            allows_email: tags.value("s").is_none() || lists("s", &["*", "email"]),
            testing: lists("t", &["y"]),
            strict: lists("t", &["s"]),
        })
    }
}

/// A key that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Where it is, below `_domainkey.<domain>`.
    pub selector: String,
    /// The text to publish.
    pub record: String,
    /// The name of another zone that holds the record, where the domain has only an alias to it.
    pub alias_of: Option<Name>,
    read: KeyRecord,
}

impl Key {
    /// A key by the text that is to be published of it.
    ///
    /// # Errors
    /// [`KeyRecordError`] when that isn't the record of a key.
    pub fn from_record(selector: &str, record: &str) -> Result<Self, KeyRecordError> {
        let read = KeyRecord::parse(&Text(record.into()))?;
        Ok(Self { selector: selector.to_owned(), record: record.to_owned(), alias_of: None, read })
    }

    /// The same key behind an alias.
    #[must_use]
    pub fn behind(self, alias_of: Name) -> Self {
        Self { alias_of: Some(alias_of), ..self }
    }

    /// Where a domain has it.
    ///
    /// # Errors
    /// [`NameError`] when the selector makes no name.
    pub fn name(&self, domain: &Name) -> Result<Name, NameError> {
        domain.below(&format!("{}._domainkey", self.selector))
    }

    /// Whether what is published lets receivers verify signatures of this key; else what is wrong with it.
    fn judge(&self, texts: &[Text]) -> Result<(), String> {
        let [text] = texts else {
            let ours = texts.iter().any(|text| self.judge(std::slice::from_ref(text)).is_ok());
            let which = if ours { "one of them ours" } else { "none of them ours" };
            return Err(format!(
                "there are {} TXT records, {which}; verifiers want exactly one",
                texts.len()
            ));
        };
        let found = KeyRecord::parse(text).map_err(|error| format!("it is no DKIM key: {error}"))?;
        if found.public.is_empty() {
            return Err("the key is revoked (p= is empty)".to_owned());
        }
        if found.algorithm != self.read.algorithm {
            let named = |algorithm: &Algorithm| match algorithm {
                Algorithm::Rsa => "rsa".to_owned(),
                Algorithm::Ed25519 => "ed25519".to_owned(),
                Algorithm::Other(name) => name.clone(),
            };
            let (found, ours) = (named(&found.algorithm), named(&self.read.algorithm));
            return Err(format!("the key's algorithm is {found} and should be {ours}"));
        }
        if !same_key(&self.read, &found) {
            return Err(match self.read.algorithm {
                Algorithm::Ed25519 if found.public.ends_with(&self.read.public) => {
                    format!("p= is our key with a wrapping; only its {ED25519_OCTETS} octets may be there")
                }
                _ if is_cut_off(&self.read, &found) => "p= is our key, cut off at its end".to_owned(),
                _ => "p= is another key".to_owned(),
            });
        }
        if !found.allows_sha256 {
            return Err("h= doesn't allow sha256".to_owned());
        }
        if !found.allows_email {
            return Err("s= doesn't allow email".to_owned());
        }
        if found.testing {
            return Err("t=y tells receivers to treat signed mail as unsigned".to_owned());
        }
        Ok(())
    }
}

/// RFC 6376 calls `p=` an RSAPublicKey, everybody publishes a SubjectPublicKeyInfo around one, and verifiers take both.
fn same_key(ours: &KeyRecord, found: &KeyRecord) -> bool {
    found.public == ours.public
        || (ours.algorithm == Algorithm::Rsa && rsa_public_key(&ours.public) == Some(&found.public))
}

/// The RSAPublicKey within a SubjectPublicKeyInfo.
fn rsa_public_key(info: &[u8]) -> Option<&[u8]> {
    let at = info.windows(RSA_ENCRYPTION.len()).position(|window| window == RSA_ENCRYPTION)?;
    let rest = &info[at + RSA_ENCRYPTION.len()..];
    let length_octets = match rest.first()? {
        long @ 0x81..=0x84 => 1 + usize::from(long & 0x7f),
        _ => 1,
    };
    // The number of unused bits comes first.
    rest.get(length_octets + 1..)
}

/// A TXT field of 255 octets that lost the rest.
fn is_cut_off(ours: &KeyRecord, found: &KeyRecord) -> bool {
    let (found, ours) = (&found.public, &ours.public);
    found.len() >= 16 && found.len() < ours.len() && ours.starts_with(&found[..found.len() - 2])
}

/// Looks at a key as receivers see it.
pub async fn check(domain: &Name, key: &Key, lookup: &impl Lookup) -> Result<Record, NameError> {
    let name = key.name(domain)?;
    let found = lookup.text(&name).await;
    let observed = observed(&found);
    let purpose = Purpose::Dkim { selector: key.selector.clone() };
    let finding = finding(&name, key, &found);
    let finding = match (&key.alias_of, &found) {
        (Some(target), Err(error)) if error.is_absence() => {
            without_key_behind_alias(&name, target, lookup).await.unwrap_or(finding)
        }
        _ => finding,
    };
    let (record_type, expected) = match &key.alias_of {
        Some(target) => (RecordType::Cname, target.to_string()),
        None => (RecordType::Txt, key.record.clone()),
    };
    Ok(Record { record_type, name, expected, purpose, required: true, observed, finding })
}

fn observed(found: &Found<Text>) -> Vec<String> {
    match found {
        Ok(answer) => answer.records.iter().map(Text::shown).collect(),
        Err(_) => Vec::new(),
    }
}

fn finding(name: &Name, key: &Key, found: &Found<Text>) -> Finding {
    let answer = match (found, &key.alias_of) {
        (Ok(answer), _) => answer,
        (Err(error), None) => return Finding::without_answer(error, RecordType::Txt, name, &key.record),
        (Err(error), Some(target)) => {
            return Finding::without_answer(error, RecordType::Cname, name, &target.to_string());
        }
    };
    if let Some(target) = &key.alias_of
        && !answer.aliases.contains(target)
    {
        let there = match answer.aliases.first() {
            Some(other) => format!("is an alias to {other}"),
            None => "has a record of its own".to_owned(),
        };
        return Finding::mismatch(format!("{name} {there}; publish CNAME \"{target}\" instead"));
    }
    let via = match answer.aliases.last() {
        Some(last) => format!("{name} (at {last})"),
        None => name.to_string(),
    };
    match key.judge(&answer.records) {
        Ok(()) => Finding::found(format!("{via} has our key")),
        Err(wrong) => Finding::mismatch(format!(
            "{via}: {wrong}; publish TXT \"{}\" and nothing else there",
            key.record
        )),
    }
}

/// An alias that is there and leads to nothing is ours to repair.
async fn without_key_behind_alias(name: &Name, target: &Name, lookup: &impl Lookup) -> Option<Finding> {
    match lookup.alias(name).await {
        Ok(Answer { records, .. }) if records.contains(target) => {
            Some(Finding::missing(format!("{name} is an alias to {target}, which has no TXT record yet")))
        }
        Ok(Answer { records, .. }) => {
            let other = records.first()?;
            let reason = format!("{name} is an alias to {other}; publish CNAME \"{target}\" instead");
            Some(Finding::mismatch(reason))
        }
        Err(LookupError::Failed(why)) => {
            Some(Finding::unknown(format!("CNAME of {name} can't be looked up: {why}")))
        }
        Err(_) => None,
    }
}

/// Whether each server of the zone and the resolver give our key, so that no receiver can miss it: what must be so
/// before it signs. One server that hasn't got it, or doesn't answer, is enough for a no; but those that are `given_up`
/// don't count while there are others.
///
/// # Errors
/// [`NameError`] when the selector makes no name.
pub async fn check_everywhere(
    domain: &Name,
    key: &Key,
    lookup: &impl Lookup,
    authority: &impl Authority,
    given_up: impl Fn(&Sighting) -> bool,
) -> Result<Finding, NameError> {
    let name = key.name(domain)?;
    let sightings = match authority.everywhere(&name).await {
        Ok(sightings) => sightings,
        Err(error) => return Ok(Finding::unknown(format!("the servers of {name} can't be found: {error}"))),
    };
    let (silent, heard): (Vec<_>, Vec<_>) = sightings.iter().partition(|sighting| given_up(sighting));
    let counted = if heard.is_empty() { &silent } else { &heard };
    let mut findings: Vec<Finding> = counted
        .iter()
        .map(|Sighting { server, found, .. }| {
            // Each server was asked for the name at the end of the aliases.
            let unaliased = Key { alias_of: None, ..key.clone() };
            let finding = finding(&name, &unaliased, found);
            Finding { state: finding.state, reason: format!("{server}: {}", finding.reason) }
        })
        .collect();
    findings.push(check(domain, key, lookup).await?.finding);
    let worst = [State::Mismatch, State::Missing, State::Unknown].into_iter().find_map(|state| {
        let wanting = findings.iter().filter(|finding| finding.state == state);
        let reasons: Vec<&str> = wanting.map(|finding| finding.reason.as_str()).collect();
        (!reasons.is_empty()).then(|| Finding { state, reason: reasons.join("; ") })
    });
    let others = match silent.iter().map(|sighting| sighting.server.to_string()).collect::<Vec<_>>() {
        none if none.is_empty() => String::new(),
        silent => format!("; {} didn't answer for long and isn't waited for", silent.join(", ")),
    };
    Ok(worst.unwrap_or_else(|| {
        let all = counted.len();
        Finding::found(format!("all {all} servers of {name} and the resolver have our key{others}"))
    }))
}

#[cfg(test)]
mod tests;
