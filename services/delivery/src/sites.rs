//! What holds towards a site: its limits and when mail that it deferred is tried again.
//!
//! Settings for the site win over the file of providers, and that over the general settings, of which it can only narrow what
//! they allow.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use limits::SiteLimits;
use mail::RetrySchedule;

use crate::route::{Providers, SiteLimit};

/// What holds towards each site.
#[derive(Debug)]
pub(crate) struct Sites {
    providers: Arc<Providers>,
    limits: HashMap<String, SiteLimit>,
    schedules: HashMap<String, RetrySchedule>,
    /// Where nothing else is said.
    connections_max: u32,
    messages_max: u32,
    schedule: RetrySchedule,
}

/// A setting is about a site that can't be: neither a provider that is known, nor hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{setting}: no provider is called {site:?}{hint}; other sites are named by their MX hosts, or by a static route's HOST:PORT"
)]
pub struct UnknownSite {
    setting: &'static str,
    site: String,
    hint: String,
}

impl Sites {
    /// Sites of which nothing is set.
    pub(crate) fn new(
        providers: Providers,
        connections_max: u32,
        messages_max: u32,
        schedule: RetrySchedule,
    ) -> Self {
        Self {
            providers: Arc::new(providers),
            limits: HashMap::new(),
            schedules: HashMap::new(),
            connections_max,
            messages_max,
            schedule,
        }
    }

    /// Sets what may go to a site; the last that is set of it counts.
    pub(crate) fn set_limit(&mut self, limit: &SiteLimit) -> Result<(), UnknownSite> {
        self.check("--delivery-site-limits", &limit.site)?;
        self.limits.insert(limit.site.clone(), limit.clone());
        Ok(())
    }

    /// Sets when mail that a site deferred is tried again.
    pub(crate) fn set_schedule(&mut self, site: &str, schedule: RetrySchedule) -> Result<(), UnknownSite> {
        self.check("--delivery-site-retry-waits-secs", site)?;
        self.schedules.insert(site.to_owned(), schedule);
        Ok(())
    }

    /// A name without a dot or colon can only be a provider's: what is meant for one and misses it would never hold.
    fn check(&self, setting: &'static str, site: &str) -> Result<(), UnknownSite> {
        if site.contains(['.', ':']) || self.providers.limits(site).is_some() {
            return Ok(());
        }
        let hint = self.providers.nearest(site).map(|name| format!(", perhaps {name:?}")).unwrap_or_default();
        Err(UnknownSite { setting, site: site.to_owned(), hint })
    }

    /// The providers, to find sites by.
    pub(crate) fn providers(&self) -> Arc<Providers> {
        Arc::clone(&self.providers)
    }

    /// How fast mail may go to a site, and over how many connections.
    pub(crate) fn limits(&self, site: &str) -> SiteLimits {
        let known = self.providers.limits(site);
        let connections = narrowed(self.connections_max, known.and_then(|known| known.connections));
        match self.limits.get(site).map(|set| set.limits) {
            Some(set) if set.connections > 0 => set,
            Some(set) => SiteLimits { connections, ..set },
            None => match known.and_then(|known| known.rate) {
                Some(rate) => SiteLimits {
                    messages_per_sec: rate.messages_per_sec,
                    burst: rate.burst.get(),
                    connections,
                },
                None => SiteLimits { messages_per_sec: 0.0, burst: 1, connections },
            },
        }
    }

    /// After how many messages a connection to a site is closed.
    pub(crate) fn messages_max(&self, site: &str) -> u32 {
        match self.limits.get(site).map(|set| set.messages_per_connection) {
            Some(set) if set > 0 => set,
            _ => {
                let known = self.providers.limits(site).and_then(|known| known.messages_per_connection);
                narrowed(self.messages_max, known)
            }
        }
    }

    /// When mail for a site, or for none that is known, is tried again.
    pub(crate) fn schedule(&self, site: Option<&str>) -> &RetrySchedule {
        site.and_then(|site| self.schedules.get(site)).unwrap_or(&self.schedule)
    }
}

fn narrowed(general: u32, known: Option<NonZeroU32>) -> u32 {
    known.map_or(general, |known| known.get().min(general))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(connections_max: u32, set: &[&str]) -> Sites {
        let providers = Providers::parse(
            r#"provider = [
                { name = "slow", mx = ["a.test"], connections = 3, messages_per_sec = 0.5, burst = 2, messages_per_connection = 20, source = "s" },
                { name = "plain", mx = ["b.test"], source = "s" },
            ]"#,
        );
        let schedule = RetrySchedule::new(vec![300], 3600).unwrap();
        let mut sites = Sites::new(providers.unwrap(), connections_max, 200, schedule);
        for limit in set {
            sites.set_limit(&limit.parse().unwrap()).unwrap();
        }
        sites
    }

    fn limits(sites: &Sites, site: &str) -> (f64, u32, u32, u32) {
        let SiteLimits { messages_per_sec, burst, connections } = sites.limits(site);
        (messages_per_sec, burst, connections, sites.messages_max(site))
    }

    #[test]
    fn settings_win_over_the_file_and_it_narrows_what_holds_for_all() {
        let unset = sites(20, &[]);
        assert_eq!(limits(&unset, "slow"), (0.5, 2, 3, 20));
        assert_eq!(limits(&unset, "plain"), (0.0, 1, 20, 200));
        assert_eq!(limits(&unset, "mx.d1.test"), (0.0, 1, 20, 200));
        assert_eq!(limits(&sites(2, &[]), "slow"), (0.5, 2, 2, 20));
        assert_eq!(limits(&sites(20, &["slow=0:1:40:100"]), "slow"), (0.0, 1, 40, 100));
        // What is left at 0 is as before.
        assert_eq!(limits(&sites(20, &["slow=9:9:0"]), "slow"), (9.0, 9, 3, 20));
        assert_eq!(limits(&sites(20, &["a.test+b.test=0:1:1"]), "a.test+b.test"), (0.0, 1, 1, 200));
        assert_eq!(limits(&sites(20, &["slow=0:1:1", "slow=0:1:2"]), "slow"), (0.0, 1, 2, 20));
    }

    #[test]
    fn a_site_has_a_schedule_of_its_own_or_that_of_all() {
        let mut sites = sites(20, &[]);
        sites.set_schedule("slow", RetrySchedule::new(vec![60], 3600).unwrap()).unwrap();
        let wait = |site| sites.schedule(site).wait_millis(1, u32::MAX / 2) / 1000;
        assert_eq!([Some("slow"), Some("plain"), None].map(wait), [59, 299, 299]);
    }

    #[test]
    fn a_name_that_can_only_be_a_providers_and_is_none_is_refused() {
        let mut sites = sites(20, &[]);
        let error = sites.set_limit(&"slwo=0:1:1".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("--delivery-site-limits") && error.contains("perhaps \"slow\""), "{error}");
        let schedule = RetrySchedule::new(vec![60], 3600).unwrap();
        let error = sites.set_schedule("elsewhere", schedule).unwrap_err().to_string();
        assert!(
            error.contains("retry-waits-secs: no provider is called \"elsewhere\"; other sites"),
            "{error}"
        );
        for site in ["mx.d1.test", "192.0.2.1", "127.0.0.1:2525", "[::1]:25", "relay:25"] {
            sites.set_limit(&format!("{site}=0:1:1").parse().unwrap()).unwrap();
        }
    }
}
