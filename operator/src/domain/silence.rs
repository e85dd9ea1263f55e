//! Servers of zones that don't answer.
//!
//! A receiver that asks such a server asks another one next (RFC 1034 section 5.3.3), so that it can't hold up a key for ever.
//! But it may be silent towards us alone, or be back with what it had before, so that it is waited for first.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::dns::authority::Sighting;
use crate::dns::lookup::LookupError;
use crate::dns::name::Name;

/// Which servers anybody may name is decided by who publishes zones: what is remembered has an end.
const REMEMBERED_MAX: usize = 16_384;

/// Since when which servers have been silent. A server may be silent about one domain and answer for another.
#[derive(Default)]
pub(crate) struct Silences {
    since: Mutex<HashMap<(Name, Name), Instant>>,
}

impl Silences {
    /// Takes note of what a server of `domain` said; whether it has been silent for `patience` or longer.
    pub(crate) fn given_up(
        &self,
        domain: &Name,
        sighting: &Sighting,
        patience: Duration,
        now: Instant,
    ) -> bool {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (domain.clone(), sighting.server.clone());
        if !matches!(sighting.found, Err(LookupError::Failed(_))) {
            since.remove(&place);
            return false;
        }
        if since.len() >= REMEMBERED_MAX && !since.contains_key(&place) {
            since.clear();
        }
        now.duration_since(*since.entry(place).or_insert(now)) >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::lookup::Found;
    use crate::dns::lookup::Text;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_server_is_given_up_when_it_was_silent_for_long_and_not_for_a_moment() {
        let silences = Silences::default();
        let begun = Instant::now();
        let silent = || Err(LookupError::Failed("it timed out".to_owned()));
        let at = |secs: u64, domain: &str, found: Found<Text>| {
            let server = "ns1.example.net".parse().unwrap();
            let sighting = Sighting { server, address: None, found };
            let now = begun + Duration::from_secs(secs);
            silences.given_up(&domain.parse().unwrap(), &sighting, PATIENCE, now)
        };
        assert!(!at(0, "example.com", silent()));
        assert!(!at(59, "example.com", silent()));
        assert!(at(60, "example.com", silent()));
        assert!(!at(60, "example.org", silent()));
        // That there is no such name is an answer.
        assert!(!at(70, "example.com", Err(LookupError::NoDomain)));
        assert!(!at(71, "example.com", silent()));
        assert!(!at(130, "example.com", silent()));
        assert!(at(131, "example.com", silent()));
    }
}
