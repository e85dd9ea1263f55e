//! Questions to DNS, and what counts as an answer.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::Name;

/// Records of one type, never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// What they hold, in the order in which they came.
    pub records: Vec<T>,
    /// Where the chain of aliases leads that was followed, the last name being the one that has the records.
    pub aliases: Vec<Name>,
    /// For how many seconds they may be kept.
    pub ttl_secs: u32,
}

/// The text of one TXT record: its strings joined without anything between (RFC 7208 section 3.3, RFC 6376 section
/// 3.6.2.2). It is octets; those outside of ASCII mean nothing in any record of mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl Text {
    /// To be shown: what isn't visible ASCII is escaped.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut text = String::with_capacity(self.0.len());
        for &octet in &self.0 {
            match octet {
                b' '..=b'~' => text.push(char::from(octet)),
                _ => text.extend(octet.escape_ascii().map(char::from)),
            }
        }
        text
    }
}

/// One MX record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mx {
    /// The lowest is tried first.
    pub preference: u16,
    /// None is `.`: the domain takes no mail (RFC 7505).
    pub exchange: Option<Name>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// NXDOMAIN: the name doesn't exist (RFC 8020).
    #[error("the name doesn't exist")]
    NoDomain,
    /// The name exists and has no such record (RFC 2308 section 2.2).
    #[error("the name has no such record")]
    NoRecords,
    /// SERVFAIL, REFUSED, a time-out and all else: nothing is known.
    #[error("{0}")]
    Failed(String),
}

impl LookupError {
    /// Whether it is known that there is no such record.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        matches!(self, Self::NoDomain | Self::NoRecords)
    }
}

/// What a look-up gives.
pub type Found<T> = Result<Answer<T>, LookupError>;

/// DNS as a receiver of mail sees it, through a resolver that follows aliases.
pub trait Lookup: Sync {
    /// TXT records.
    fn text(&self, name: &Name) -> impl Future<Output = Found<Text>> + Send;
    /// MX records, the preferred first.
    fn exchanges(&self, name: &Name) -> impl Future<Output = Found<Mx>> + Send;
    /// A records.
    fn ipv4(&self, name: &Name) -> impl Future<Output = Found<Ipv4Addr>> + Send;
    /// AAAA records.
    fn ipv6(&self, name: &Name) -> impl Future<Output = Found<Ipv6Addr>> + Send;
    /// PTR records.
    fn pointers(&self, name: &Name) -> impl Future<Output = Found<Name>> + Send;
    /// The CNAME record at the name itself.
    fn alias(&self, name: &Name) -> impl Future<Output = Found<Name>> + Send;

    /// A or AAAA records, whichever are of the same family as `like`.
    fn addresses_like(&self, name: &Name, like: IpAddr) -> impl Future<Output = Found<IpAddr>> + Send {
        async move {
            match like {
                IpAddr::V4(_) => self.ipv4(name).await.map(Answer::converted),
                IpAddr::V6(_) => self.ipv6(name).await.map(Answer::converted),
            }
        }
    }
}

impl<T> Answer<T> {
    fn converted<U: From<T>>(self) -> Answer<U> {
        let records = self.records.into_iter().map(U::from).collect();
        Answer { records, aliases: self.aliases, ttl_secs: self.ttl_secs }
    }
}
