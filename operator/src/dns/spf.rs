//! Whether a host may send mail for a domain (SPF, RFC 7208), evaluated whole as a receiver does.
//!
//! ```text
//! text --record::Record::parse--> directives --evaluate::check_host(client)--> Outcome
//!              macros::MacroString (names that depend on the client)
//! ```
//!
//! At most ten terms that look something up, at most two of them in vain. The time limit of section 4.6.4 is left to
//! whoever asks DNS: each look-up there has one.

mod addresses;
mod evaluate;
pub mod macros;
mod published;
pub mod record;

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

pub use evaluate::check_host;
pub use published::{Sender, check, check_ehlo};

/// A client that sends mail.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Where it connects from.
    pub address: IpAddr,
    /// What it says in EHLO.
    pub helo: &'a str,
    /// What it says in MAIL FROM, without `<>`; empty for the null sender, which is judged by `helo` (section 2.4).
    pub mail_from: &'a str,
    /// The host that asks, for `%{r}`.
    pub receiver: &'a str,
    /// When it asks, for `%{t}`.
    pub now: SystemTime,
}

/// What a check gives (section 2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// There is no record, or the domain is no name.
    None,
    /// The record says nothing about the client.
    Neutral,
    /// The client may send.
    Pass,
    /// It may not.
    Fail,
    /// It probably may not.
    SoftFail,
    /// DNS didn't answer.
    TempError,
    /// The record is wrong.
    PermError,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Neutral => "neutral",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        })
    }
}

/// A verdict and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What holds for the client.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
    /// With [`Verdict::Fail`], what the domain has to say about it (section 6.2), if it can be expanded.
    pub explanation: Option<String>,
    /// How many terms looked something up, of the ten that may.
    pub lookups: u32,
}
