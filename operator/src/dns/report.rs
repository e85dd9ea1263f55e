//! What a check gives: each record, and what to do about it.

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use super::lookup::LookupError;
use super::name::Name;

/// All that was looked at for a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// When it was looked at.
    pub checked_at: SystemTime,
    /// The records, those that must be there first.
    pub records: Vec<Record>,
    /// Whether mail passes DMARC by its return path (RFC 9989), should its signature be broken on the way.
    pub return_path_alignment: Finding,
}

impl Report {
    /// Whether each required record is there as it must be.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.required().all(|record| record.finding.state == State::Found)
    }

    /// The first required record to act on: one that is known to be wrong before one of which nothing is known.
    #[must_use]
    pub fn first_wanting(&self) -> Option<&Record> {
        let wrong = |record: &&Record| matches!(record.finding.state, State::Missing | State::Mismatch);
        let unknown = |record: &&Record| record.finding.state == State::Unknown;
        self.required().find(wrong).or_else(|| self.required().find(unknown))
    }

    fn required(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.required)
    }
}

/// A record that should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its type.
    pub record_type: RecordType,
    /// Where it should be.
    pub name: Name,
    /// What to publish, as a DNS panel takes it: TXT as one text without quotes. Empty where only the domain's owner knows.
    pub expected: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether mail suffers without it.
    pub required: bool,
    /// What is there instead or already.
    pub observed: Vec<String>,
    /// What that means.
    pub finding: Finding,
}

/// What others publish is shown, and they decide how long it is: so much of it is.
const SHOWN_OCTETS_MAX: usize = 2048;
const SHOWN_RECORDS_MAX: usize = 16;

impl Record {
    /// The record with texts of a length that can be kept and shown.
    pub(crate) fn clipped(mut self) -> Self {
        self.observed.truncate(SHOWN_RECORDS_MAX);
        self.observed.iter_mut().chain([&mut self.finding.reason]).for_each(clip);
        self
    }
}

impl Finding {
    pub(crate) fn clipped(mut self) -> Self {
        clip(&mut self.reason);
        self
    }
}

fn clip(text: &mut String) {
    if text.len() > SHOWN_OCTETS_MAX {
        text.truncate(text.floor_char_boundary(SHOWN_OCTETS_MAX));
        text.push_str(" ...");
    }
}

/// A judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In one word.
    pub state: State,
    /// In plain words: what is there, and what to publish where something is wrong.
    pub reason: String,
}

impl Finding {
    pub(crate) fn found(reason: impl Into<String>) -> Self {
        Self { state: State::Found, reason: reason.into() }
    }

    pub(crate) fn missing(reason: impl Into<String>) -> Self {
        Self { state: State::Missing, reason: reason.into() }
    }

    pub(crate) fn mismatch(reason: impl Into<String>) -> Self {
        Self { state: State::Mismatch, reason: reason.into() }
    }

    pub(crate) fn unknown(reason: impl Into<String>) -> Self {
        Self { state: State::Unknown, reason: reason.into() }
    }

    /// What a look-up that gave nothing means. A failed one never means that there is no such record.
    pub(crate) fn without_answer(
        error: &LookupError,
        record_type: RecordType,
        name: &Name,
        expected: &str,
    ) -> Self {
        match error {
            LookupError::Failed(why) => {
                Self::unknown(format!("{record_type} of {name} can't be looked up: {why}"))
            }
            LookupError::NoDomain | LookupError::NoRecords => Self::missing(format!(
                "{name} has no {record_type} record; publish {record_type} \"{expected}\""
            )),
        }
    }
}

/// How a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It is there, and says what it must.
    Found,
    /// DNS says that there is none.
    Missing,
    /// There is one, and it says something else.
    Mismatch,
    /// DNS didn't answer, so that nothing is known.
    Unknown,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Found => "Found",
            Self::Missing => "Missing",
            Self::Mismatch => "Mismatch",
            Self::Unknown => "Unknown",
        })
    }
}

/// A type of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Alias.
    Cname,
    /// Host that takes mail.
    Mx,
    /// Name of an address.
    Ptr,
    /// Text.
    Txt,
}

impl RecordType {
    /// The type that holds addresses like this one.
    #[must_use]
    pub const fn of_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::A,
            IpAddr::V6(_) => Self::Aaaa,
        }
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Cname => "CNAME",
            Self::Mx => "MX",
            Self::Ptr => "PTR",
            Self::Txt => "TXT",
        })
    }
}

/// What a record is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The public key of a selector.
    Dkim {
        /// The first label or labels of its name.
        selector: String,
    },
    /// Who may send with the domain's return path.
    Spf,
    /// Who may send what has no return path: reports, judged by the name said in EHLO.
    SpfOfReports,
    /// What receivers do with mail that is neither signed nor sent as it should be.
    Dmarc,
    /// Where reports on undelivered mail go.
    ReturnPath,
    /// That an address has the name that is said in EHLO.
    Reverse,
    /// That the name said in EHLO has the address.
    Ehlo,
    /// That mail to the domain is encrypted.
    MtaSts,
    /// Where reports on that encryption go.
    TlsReports,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dkim { selector } => write!(f, "DKIM key {selector}: how receivers verify signatures"),
            Self::Spf => f.write_str("SPF: who may send with the return path"),
            Self::SpfOfReports => f.write_str("SPF: who may send reports, by the name in EHLO"),
            Self::Dmarc => f.write_str("DMARC: what receivers do with mail that fails"),
            Self::ReturnPath => f.write_str("Return path: where reports on undelivered mail go"),
            Self::Reverse => f.write_str("Reverse DNS: the name of a sending address"),
            Self::Ehlo => f.write_str("EHLO: the address of the name that a sending host says"),
            Self::MtaSts => f.write_str("MTA-STS: mail to the domain is encrypted"),
            Self::TlsReports => f.write_str("TLS-RPT: where reports on encryption go"),
        }
    }
}
