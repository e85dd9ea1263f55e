//! Whether mail *to* the domain is asked to come encrypted (MTA-STS, RFC 8461). What a domain sends doesn't depend on it.

use std::future::Future;

use super::lookup::{Lookup, LookupError, Text};
use super::name::{Name, NameError};
use super::report::{Finding, Purpose, Record, RecordType};
use super::tags::Tags;

/// Most seconds for which a policy may hold (section 3.2).
const MAX_AGE_SECS_MAX: u64 = 31_557_600;
/// Most octets of a policy that are read.
pub const POLICY_OCTETS_MAX: usize = 64 * 1024;

/// Gets policies.
pub trait Fetch: Sync {
    /// The body of `https://<host>/.well-known/mta-sts.txt`, at most [`POLICY_OCTETS_MAX`] of it: with the host's certificate
    /// verified, without following redirects, only of an answer 200 (section 3.3).
    fn policy(&self, host: &Name) -> impl Future<Output = Result<Vec<u8>, FetchError>> + Send;
}

/// Why there is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The host answered, and not with a policy.
    #[error("the server answers {0}")]
    Status(u16),
    /// It couldn't be asked, or its certificate isn't good.
    #[error("{0}")]
    Failed(String),
}

/// What a domain asks of those that send to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How much is asked.
    pub mode: Mode,
    /// Hosts that take the domain's mail; `*.` in front stands for one label.
    pub hosts: Vec<String>,
    /// For how many seconds this holds.
    pub max_age_secs: u64,
}

/// How much a policy asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Mail that can't come encrypted, to these hosts, isn't to come.
    Enforce,
    /// Reports are wanted only.
    Testing,
    /// There is no policy any more.
    None,
}

/// Why a text is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Octets that are no UTF-8.
    #[error("it isn't UTF-8")]
    NotUtf8,
    /// A line without a colon.
    #[error("\"{}\" is not of the form key: value", .0.escape_default())]
    NoValue(String),
    /// The first key isn't `version`, or its value isn't `STSv1`.
    #[error("it doesn't begin with version: STSv1")]
    Version,
    /// A key that must be there and isn't, or whose value is none.
    #[error("it has no good {0}")]
    Lacks(&'static str),
}

impl Policy {
    /// Reads a policy file (section 3.2). Of a key that stands twice the first counts, but for `mx`.
    ///
    /// # Errors
    /// [`PolicyError`] when senders would find none in it.
    pub fn parse(octets: &[u8]) -> Result<Self, PolicyError> {
        let text = std::str::from_utf8(octets).map_err(|_| PolicyError::NotUtf8)?;
        let mut fields: Vec<(&str, &str)> = Vec::new();
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            let (key, value) = line.split_once(':').ok_or_else(|| PolicyError::NoValue(line.to_owned()))?;
            fields.push((key.trim_end(), value.trim()));
        }
        if fields.first() != Some(&("version", "STSv1")) {
            return Err(PolicyError::Version);
        }
        let value = |key: &str| fields.iter().find(|(other, _)| *other == key).map(|(_, value)| *value);
        let mode = match value("mode") {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err(PolicyError::Lacks("mode")),
        };
        let max_age = value("max_age").and_then(|secs| secs.parse().ok());
        let max_age_secs =
            max_age.filter(|secs| *secs <= MAX_AGE_SECS_MAX).ok_or(PolicyError::Lacks("max_age"))?;
        let hosts = fields.iter().filter(|(key, _)| *key == "mx");
        let hosts: Vec<String> = hosts.map(|(_, host)| host.to_ascii_lowercase()).collect();
        let is_host = |host: &String| host.strip_prefix("*.").unwrap_or(host).parse::<Name>().is_ok();
        if !hosts.iter().all(is_host) || (hosts.is_empty() && mode != Mode::None) {
            return Err(PolicyError::Lacks("mx"));
        }
        Ok(Self { mode, hosts, max_age_secs })
    }

    /// Whether mail may go to this host (section 4.1).
    #[must_use]
    pub fn allows(&self, host: &Name) -> bool {
        self.hosts.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(parent) => host.parent().is_some_and(|above| above.as_str() == parent),
            None => pattern.strip_suffix('.').unwrap_or(pattern) == host.as_str(),
        })
    }
}

/// The `id` of a record (section 3.1); nothing when the text isn't one.
#[must_use]
pub fn record_id(text: &Text) -> Option<String> {
    let tags = Tags::parse(text).ok().filter(|tags| tags.begins_with("v", "STSv1"))?;
    let id = tags.value("id")?;
    let good = (1..=32).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_alphanumeric());
    good.then(|| id.to_owned())
}

/// Looks at a domain's record and policy.
///
/// # Errors
/// [`NameError`] when there can't be a record of the domain.
pub async fn check(domain: &Name, lookup: &impl Lookup, fetch: &impl Fetch) -> Result<Record, NameError> {
    let name = domain.below("_mta-sts")?;
    let expected = String::new();
    let found = lookup.text(&name).await;
    let texts = found.as_ref().map(|answer| answer.records.as_slice()).unwrap_or_default();
    let ids: Vec<String> = texts.iter().filter_map(record_id).collect();
    let observed = texts.iter().map(Text::shown).collect();
    let finding = match (&found, ids.as_slice()) {
        (Err(LookupError::Failed(why)), _) => {
            Finding::unknown(format!("TXT of {name} can't be looked up: {why}"))
        }
        (Err(_), _) => Finding::missing(format!("{domain} has no MTA-STS record, which it needn't have")),
        (Ok(_), [_]) => judge(domain, lookup, fetch).await?,
        (Ok(_), _) => {
            let reason =
                format!("{name} hasn't exactly one record with v=STSv1 and an id of letters and digits");
            Finding::mismatch(reason)
        }
    };
    let (record_type, purpose) = (RecordType::Txt, Purpose::MtaSts);
    Ok(Record { record_type, name, expected, purpose, required: false, observed, finding })
}

async fn judge(domain: &Name, lookup: &impl Lookup, fetch: &impl Fetch) -> Result<Finding, NameError> {
    let host = domain.below("mta-sts")?;
    let octets = match fetch.policy(&host).await {
        Ok(octets) => octets,
        Err(error @ FetchError::Status(_)) => {
            let reason = format!("there is no MTA-STS policy at https://{}: {error}", host.as_str());
            return Ok(Finding::mismatch(reason));
        }
        Err(error @ FetchError::Failed(_)) => {
            let reason = format!("the MTA-STS policy at https://{} can't be read: {error}", host.as_str());
            return Ok(Finding::unknown(reason));
        }
    };
    let policy = match Policy::parse(&octets) {
        Ok(policy) => policy,
        Err(error) => return Ok(Finding::mismatch(format!("the MTA-STS policy is invalid: {error}"))),
    };
    if policy.mode == Mode::None {
        return Ok(Finding::found("the MTA-STS policy says mode: none"));
    }
    let exchanges = match lookup.exchanges(domain).await {
        Ok(answer) => answer.records,
        Err(LookupError::Failed(why)) => {
            return Ok(Finding::unknown(format!("MX of {domain} can't be looked up: {why}")));
        }
        Err(_) => Vec::new(),
    };
    let mut exchanges = exchanges.into_iter().filter_map(|mx| mx.exchange);
    Ok(match exchanges.find(|exchange| !policy.allows(exchange)) {
        Some(other) => {
            Finding::mismatch(format!("the MTA-STS policy doesn't name {other}, an MX host of {domain}"))
        }
        None if policy.mode == Mode::Testing => Finding::found("the MTA-STS policy says mode: testing"),
        None => Finding::found("the MTA-STS policy says mode: enforce"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::memory::{Memory, name};
    use crate::dns::report::State;

    const POLICY: &str =
        "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n";

    #[test]
    fn a_policy_names_hosts() {
        let policy = Policy::parse(POLICY.as_bytes()).unwrap();
        assert_eq!((policy.mode, policy.max_age_secs), (Mode::Enforce, 604_800));
        for (host, allowed) in [
            ("mail.example.com", true),
            ("other.example.com", false),
            ("mx.example.net", true),
            ("a.mx.example.net", false),
            ("example.net", false),
        ] {
            assert_eq!(policy.allows(&name(host)), allowed, "{host}");
        }
        assert_eq!(Policy::parse(POLICY.replace("\r\n", "\n").as_bytes()), Ok(policy));
    }

    #[test]
    fn what_is_no_policy_says_why() {
        for (from, to, error) in [
            ("STSv1", "STSv2", PolicyError::Version),
            ("mode: enforce", "mode: maybe", PolicyError::Lacks("mode")),
            ("max_age: 604800", "max_age: 31557601", PolicyError::Lacks("max_age")),
            ("mail.example.com", "", PolicyError::Lacks("mx")),
            ("mode: enforce", "enforce", PolicyError::NoValue("enforce".into())),
        ] {
            assert_eq!(Policy::parse(POLICY.replace(from, to).as_bytes()), Err(error), "{to}");
        }
        assert_eq!(Policy::parse(b"\xff"), Err(PolicyError::NotUtf8));
        assert!(Policy::parse(b"version: STSv1\nmode: none\nmax_age: 1").is_ok());
        assert_eq!(Policy::parse(b""), Err(PolicyError::Version));
    }

    struct Answers(Result<&'static str, FetchError>);

    impl Fetch for Answers {
        async fn policy(&self, host: &Name) -> Result<Vec<u8>, FetchError> {
            assert_eq!(host.as_str(), "mta-sts.example.com");
            self.0.clone().map(Into::into)
        }
    }

    #[tokio::test]
    async fn record_and_policy_and_hosts_must_agree() {
        let there = || Memory::default().txt("_mta-sts.example.com", "v=STSv1; id=20261128;");
        for (dns, answers, state, word) in [
            (Memory::default(), Ok(POLICY), State::Missing, "needn't"),
            (Memory::default().failing("_mta-sts.example.com"), Ok(POLICY), State::Unknown, "timed out"),
            (
                Memory::default().txt("_mta-sts.example.com", "v=STSv1; id=a-b"),
                Ok(POLICY),
                State::Mismatch,
                "an id",
            ),
            (there().mx("example.com", 1, "mx.example.net"), Ok(POLICY), State::Found, "mode: enforce"),
            (there().mx("example.com", 1, "mx.example.org"), Ok(POLICY), State::Mismatch, "mx.example.org."),
            (there(), Ok("hello"), State::Mismatch, "invalid"),
            (there(), Err(FetchError::Status(404)), State::Mismatch, "answers 404"),
            (there(), Err(FetchError::Failed("no route".into())), State::Unknown, "no route"),
        ] {
            let finding = check(&name("example.com"), &dns, &Answers(answers)).await.unwrap().finding;
            assert!(finding.state == state && finding.reason.contains(word), "{finding:?}");
        }
    }
}
