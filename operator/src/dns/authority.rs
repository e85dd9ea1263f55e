//! What each of a zone's own servers says.

use std::future::Future;
use std::net::IpAddr;

use super::lookup::{Found, LookupError, Text};
use super::name::Name;

/// What one server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The server's name.
    pub server: Name,
    /// The address of it that answered; none where none did.
    pub address: Option<IpAddr>,
    /// Its TXT records of the name, or of the name that an alias leads to.
    pub found: Found<Text>,
}

/// A zone as its servers know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its topmost name.
    pub apex: Name,
    /// The names of its servers, never none.
    pub servers: Vec<Name>,
    /// For how many seconds a resolver may remember that a name isn't there (RFC 2308 section 5).
    pub negative_ttl_secs: u32,
}

/// The servers of zones, asked without a resolver between that remembers what was there before.
pub trait Authority: Sync {
    /// The zone that a name is in.
    ///
    /// # Errors
    /// [`LookupError`] when it can't be found.
    fn zone(&self, name: &Name) -> impl Future<Output = Result<Zone, LookupError>> + Send;

    /// The TXT records that each server of a name's zone has. Aliases are followed into their own zones; a server is named that
    /// says something else than that the name is an alias. Servers that DNS says have no address aren't named: nobody can ask
    /// them. Never none.
    ///
    /// # Errors
    /// [`LookupError`] when the zone's servers can't be found.
    fn everywhere(&self, name: &Name) -> impl Future<Output = Result<Vec<Sighting>, LookupError>> + Send;
}
