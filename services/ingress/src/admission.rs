//! Who may connect: connections in all, of one client, and without a login.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Most connections at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    pub(crate) total: u32,
    pub(crate) per_client: u32,
    pub(crate) unauthenticated: u32,
}

impl Caps {
    /// The caps, lowered so that the process keeps a quarter of its file descriptors for the store and for deliveries.
    pub(crate) fn within_descriptors(self) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let descriptors = limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX));
        Self { total: self.total.min(descriptors - descriptors / 4), ..self }
    }
}

/// Counts connections.
#[derive(Debug)]
pub(crate) struct Admission {
    caps: Caps,
    total: AtomicU32,
    unauthenticated: AtomicU32,
    clients: Mutex<HashMap<IpAddr, u32>>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowded {
    Total,
    Client,
    Unauthenticated,
}

impl Crowded {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Total => "too many connections",
            Self::Client => "too many connections from your address",
            Self::Unauthenticated => "too many connections without a login",
        }
    }
}

impl Admission {
    pub(crate) fn new(caps: Caps) -> Arc<Self> {
        let (total, unauthenticated) = (AtomicU32::new(0), AtomicU32::new(0));
        Arc::new(Self { caps, total, unauthenticated, clients: Mutex::default() })
    }

    /// A place for one more connection, given back when it is dropped.
    pub(crate) fn admit(self: &Arc<Self>, client: IpAddr) -> Result<Place, Crowded> {
        let client = network(client);
        take(&self.total, self.caps.total).ok_or(Crowded::Total)?;
        if take(&self.unauthenticated, self.caps.unauthenticated).is_none() {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Crowded::Unauthenticated);
        }
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let count = clients.entry(client).or_insert(0);
        if *count >= self.caps.per_client {
            self.total.fetch_sub(1, Ordering::Relaxed);
            self.unauthenticated.fetch_sub(1, Ordering::Relaxed);
            return Err(Crowded::Client);
        }
        *count += 1;
        drop(clients);
        Ok(Place { admission: Arc::clone(self), client, login: Login::Awaited })
    }
}

fn take(counter: &AtomicU32, max: u32) -> Option<u32> {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1))
        .ok()
}

/// One host may have a whole /64 of IPv6 addresses to connect from.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Login {
    Awaited,
    Done,
}

/// One connection's place.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    client: IpAddr,
    login: Login,
}

impl Place {
    /// The client logged in: it no longer counts as one that hasn't.
    pub(crate) fn logged_in(&mut self) {
        if self.login == Login::Awaited {
            self.login = Login::Done;
            self.admission.unauthenticated.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.logged_in();
        self.admission.total.fetch_sub(1, Ordering::Relaxed);
        let mut clients = self.admission.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = clients.entry(self.client) {
            match entry.get() {
                0 | 1 => drop(entry.remove()),
                count => *entry.get_mut() = count - 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_cap_holds_and_a_dropped_place_is_free_again() {
        let admission = Admission::new(Caps { total: 4, per_client: 2, unauthenticated: 3 });
        let (one, two) = (address("192.0.2.1"), address("192.0.2.2"));
        let first = admission.admit(one).unwrap();
        let mut second = admission.admit(one).unwrap();
        assert_eq!(admission.admit(one).unwrap_err(), Crowded::Client);
        let third = admission.admit(two).unwrap();
        assert_eq!(admission.admit(two).unwrap_err(), Crowded::Unauthenticated);
        second.logged_in();
        second.logged_in();
        let fourth = admission.admit(two).unwrap();
        assert_eq!(admission.admit(address("192.0.2.3")).unwrap_err(), Crowded::Total);
        drop((first, second, third, fourth));
        assert_eq!(admission.total.load(Ordering::Relaxed), 0);
        assert_eq!(admission.unauthenticated.load(Ordering::Relaxed), 0);
        assert!(admission.clients.lock().unwrap().is_empty());
    }

    #[test]
    fn a_refused_client_leaves_no_count_behind() {
        let admission = Admission::new(Caps { total: 9, per_client: 1, unauthenticated: 9 });
        let held = admission.admit(address("2001:db8::1")).unwrap();
        for last in 2..20 {
            assert!(admission.admit(address(&format!("2001:db8::{last}"))).is_err());
        }
        assert!(admission.admit(address("2001:db8:0:1::1")).is_ok());
        assert!(admission.admit(address("::ffff:192.0.2.1")).is_ok());
        drop(held);
        assert_eq!(admission.total.load(Ordering::Relaxed), 0);
    }
}
