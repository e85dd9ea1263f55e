//! The connections that this member holds; pure, with the time as an argument.
//!
//! Whoever granted them, they are renewed by name from here, so that a server that forgot them, or never knew of them, learns
//! of them. When the server isn't to be relied upon, two rules hold:
//!
//! - In a *calm* a member has as many connections to a site as it had when the calm began, and no more. A restart of the server
//!   is such a time, and a lease's time after it: others hold what nobody can be asked about.
//! - While the server is *away* for longer, a member has its share of the limit. In the first lease's time, others may hold more
//!   than their share; what they were last seen to hold is left to them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::local::site::Purpose;

/// A lease's number within the member.
pub(super) type Number = u64;

pub(super) struct Places {
    lease: Duration,
    inner: Mutex<Inner>,
}

struct Inner {
    sites: HashMap<Box<str>, Place>,
    next: Number,
    /// Nothing new is granted before.
    calm_until: Option<Instant>,
}

/// What is held at one site.
#[derive(Default)]
struct Place {
    /// None: it was asked for, and isn't answered.
    held: HashMap<Number, Option<Purpose>>,
    /// What others held when the server was last heard about the site.
    others: u32,
    heard: Option<Instant>,
    /// What was granted before the calm began.
    before_calm: u32,
}

/// The site's leases that the server must hear of.
pub(super) struct Held {
    pub(super) site: Box<str>,
    pub(super) leases: Vec<(Number, Purpose)>,
}

impl Places {
    pub(super) fn new(lease: Duration) -> Self {
        let inner = Inner { sites: HashMap::new(), next: 0, calm_until: None };
        Self { lease, inner: Mutex::new(inner) }
    }

    /// A number for a connection that the server is to be asked for; how long to wait instead while nothing new is granted.
    pub(super) fn ask(&self, site: &str, limit: u32, now: Instant) -> Result<Number, Duration> {
        let mut inner = self.lock();
        if limit > 0
            && let Some(rest) = inner.calm(now)
            && inner.sites.get(site).is_none_or(|place| place.count() >= place.before_calm)
        {
            return Err(rest);
        }
        let number = inner.next;
        inner.next += 1;
        inner.place(site).held.insert(number, None);
        Ok(number)
    }

    /// How long the site can't be sent to from here: a calm lasts, and this member held nothing when it began.
    pub(super) fn pause(&self, site: &str, limit: u32, now: Instant) -> Duration {
        let inner = self.lock();
        let may = |place: &Place| place.before_calm > 0 || !place.held.is_empty();
        match inner.calm(now) {
            Some(rest) if limit > 0 && !inner.sites.get(site).is_some_and(may) => rest,
            _ => Duration::ZERO,
        }
    }

    /// The server granted it; `open` connections are open with it.
    pub(super) fn granted(&self, site: &str, number: Number, purpose: Purpose, open: u32, now: Instant) {
        let mut inner = self.lock();
        let place = inner.place(site);
        place.held.insert(number, Some(purpose));
        place.hear(open, now);
    }

    /// The server refused it; `open` connections are open.
    pub(super) fn refused(&self, site: &str, number: Number, open: u32, now: Instant) {
        let mut inner = self.lock();
        let place = inner.place(site);
        place.held.remove(&number);
        place.hear(open, now);
    }

    /// A number for a connection that the local counters are to be asked for while the server is away, when this member doesn't
    /// have its `share` of the `limit` (0 for none) yet; in a calm, else, how long it lasts. `asked` is the number under which
    /// the server was asked in vain.
    pub(super) fn ask_locally(
        &self,
        site: &str,
        asked: Option<Number>,
        share: u32,
        limit: u32,
        now: Instant,
    ) -> Result<Number, Option<Duration>> {
        let mut inner = self.lock();
        let (next, lease, calm) = (inner.next, self.lease, inner.calm(now));
        let place = inner.place(site);
        let lately = place.heard.is_some_and(|heard| now.saturating_duration_since(heard) < lease);
        let allowed = match calm {
            _ if limit == 0 => u32::MAX,
            Some(_) => place.before_calm,
            None if lately => share.min(limit.saturating_sub(place.others)),
            None => share,
        };
        let counted = asked.is_some_and(|number| place.held.contains_key(&number));
        if place.count() - u32::from(counted) >= allowed {
            return Err(calm);
        }
        let number = asked.unwrap_or(next);
        place.held.insert(number, None);
        inner.next = next.max(number + 1);
        Ok(number)
    }

    /// The local counters granted it.
    pub(super) fn granted_locally(&self, site: &str, number: Number, purpose: Purpose) {
        self.lock().place(site).held.insert(number, Some(purpose));
    }

    /// It is held no more.
    pub(super) fn close(&self, site: &str, number: Number) {
        let mut inner = self.lock();
        if let Some(place) = inner.sites.get_mut(site) {
            place.held.remove(&number);
        }
    }

    /// A calm begins, or lasts so long at least.
    pub(super) fn begin_calm(&self, time: Duration, now: Instant) {
        if time.is_zero() {
            return;
        }
        let mut inner = self.lock();
        if inner.calm(now).is_none() {
            for place in inner.sites.values_mut() {
                place.before_calm = place.granted();
            }
        }
        inner.calm_until = inner.calm_until.max(Some(now + time));
    }

    /// The same, but a calm that would have lasted longer ends sooner: the server is back.
    pub(super) fn calm_on_return(&self, time: Duration, now: Instant) {
        self.begin_calm(time, now);
        self.lock().calm_until = Some(now + time);
    }

    /// All that is held, to be renewed. Sites that say nothing any more are forgotten.
    pub(super) fn held(&self, now: Instant) -> Vec<Held> {
        let mut inner = self.lock();
        let calm = inner.calm(now).is_some();
        let lease = self.lease;
        inner.sites.retain(|_, place| {
            let lately = place.heard.is_some_and(|heard| now.saturating_duration_since(heard) < lease);
            !place.held.is_empty() || lately || (calm && place.before_calm > 0)
        });
        let leases = |place: &Place| {
            place
                .held
                .iter()
                .filter_map(|(number, purpose)| purpose.map(|purpose| (*number, purpose)))
                .collect()
        };
        let all = inner.sites.iter().map(|(site, place)| Held { site: site.clone(), leases: leases(place) });
        all.filter(|held: &Held| !held.leases.is_empty()).collect()
    }

    /// The server said how many connections are open at a site.
    pub(super) fn heard(&self, site: &str, open: u32, now: Instant) {
        self.lock().place(site).hear(open, now);
    }

    /// Nothing under this lock can panic half-way, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// How long the calm lasts.
    fn calm(&self, now: Instant) -> Option<Duration> {
        self.calm_until.filter(|until| *until > now).map(|until| until - now)
    }

    fn place(&mut self, site: &str) -> &mut Place {
        if !self.sites.contains_key(site) {
            self.sites.insert(site.into(), Place::default());
        }
        self.sites.entry(site.into()).or_default()
    }
}

impl Place {
    fn count(&self) -> u32 {
        u32::try_from(self.held.len()).unwrap_or(u32::MAX)
    }

    fn hear(&mut self, open: u32, now: Instant) {
        self.others = open.saturating_sub(self.granted());
        self.heard = Some(now);
    }

    fn granted(&self) -> u32 {
        let granted = self.held.values().filter(|purpose| purpose.is_some()).count();
        u32::try_from(granted).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn hold(places: &Places, count: u32, open: u32, now: Instant) -> Vec<Number> {
        let take = |_| {
            let number = places.ask("site", 4, now).unwrap();
            places.granted("site", number, Purpose::Traffic, open, now);
            number
        };
        (0..count).map(take).collect()
    }

    #[test]
    fn what_is_held_counts_in_the_share() {
        let (places, now) = (Places::new(LEASE), Instant::now());
        let numbers = hold(&places, 1, 1, now);
        let asked = places.ask("site", 4, now).unwrap();
        assert_eq!(places.ask_locally("site", Some(asked), 1, 4, now), Err(None));
        assert_eq!(places.ask_locally("site", Some(asked), 2, 4, now), Ok(asked));
        assert_eq!(places.ask_locally("site", None, 2, 4, now), Err(None));
        places.close("site", numbers[0]);
        let second = places.ask_locally("site", None, 2, 4, now).unwrap();
        assert!(second != asked && places.ask_locally("site", None, 2, 4, now).is_err());
    }

    #[test]
    fn others_keep_for_a_lease_what_they_were_seen_to_hold() {
        let (places, now) = (Places::new(LEASE), Instant::now());
        hold(&places, 1, 4, now);
        assert_eq!(places.ask_locally("site", None, 2, 4, now), Err(None));
        assert!(places.ask_locally("site", None, 2, 4, now + LEASE).is_ok());
    }

    #[test]
    fn in_a_calm_nobody_holds_more_than_before() {
        let (places, now) = (Places::new(LEASE), Instant::now());
        let numbers = hold(&places, 2, 2, now);
        assert_eq!(places.pause("other", 4, now), Duration::ZERO);
        places.begin_calm(LEASE, now);
        assert_eq!(places.ask("site", 4, now), Err(LEASE));
        assert_eq!(places.ask("other", 4, now), Err(LEASE));
        assert_eq!(places.pause("other", 4, now), LEASE);
        assert_eq!(
            ["site", "unlimited"].map(|it| places.pause(it, u32::from(it == "site"), now)),
            [Duration::ZERO; 2]
        );
        assert!(places.ask("unlimited", 0, now).is_ok());
        places.close("site", numbers[0]);
        assert!(places.ask("site", 4, now).is_ok());
        assert!(places.ask("site", 4, now).is_err());
        assert!(places.ask("site", 4, now + LEASE).is_ok());
    }

    #[test]
    fn in_a_calm_without_the_server_what_was_only_asked_for_does_not_count_as_held() {
        let (places, now) = (Places::new(LEASE), Instant::now());
        let numbers = hold(&places, 1, 1, now);
        let asked = places.ask("site", 4, now).unwrap();
        places.begin_calm(LEASE, now);
        assert_eq!(places.ask_locally("site", Some(asked), 2, 4, now), Err(Some(LEASE)));
        places.close("site", numbers[0]);
        assert_eq!(places.ask_locally("site", Some(asked), 2, 4, now), Ok(asked));
        assert_eq!(places.ask_locally("other", None, 2, 4, now), Err(Some(LEASE)));
        assert!(places.ask_locally("unlimited", None, 0, 0, now).is_ok());
        assert!(places.ask_locally("other", None, 2, 4, now + LEASE).is_ok());
    }

    #[test]
    fn a_shorter_calm_does_not_end_a_longer_one() {
        let (places, now) = (Places::new(LEASE), Instant::now());
        places.begin_calm(LEASE, now);
        places.begin_calm(Duration::from_secs(3), now);
        assert_eq!(places.ask("site", 4, now), Err(LEASE));
        places.calm_on_return(Duration::from_secs(3), now);
        assert_eq!(places.ask("site", 4, now), Err(Duration::from_secs(3)));
    }

    #[test]
    fn what_is_granted_is_renewed_and_what_is_asked_for_is_not() {
        let (places, now) = (Places::new(LEASE), Instant::now());
        let numbers = hold(&places, 2, 2, now);
        places.ask("site", 4, now).unwrap();
        let refused = places.ask("gone", 4, now).unwrap();
        places.refused("gone", refused, 0, now);
        let held = places.held(now + LEASE);
        assert_eq!(held.len(), 1);
        let mut renewed: Vec<Number> = held[0].leases.iter().map(|(number, _)| *number).collect();
        renewed.sort_unstable();
        assert_eq!((&*held[0].site, renewed), ("site", numbers));
        assert_eq!(places.lock().sites.len(), 1);
    }
}
