//! What there is of a domain: Secrets, DNS, and what follows for its keys.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use runtime::telemetry::TRACE;
use tracing::Instrument as _;

use super::rotation::{self, Next, Policy, Seen, Source};
use super::{DAY_SECS, ROTATE, Reconcile, Wanted, algorithm, key_algorithm, look, request};
use crate::context::Failure;
use crate::crd::{DomainKey, DomainKeyState, KeyAlgorithm};
use crate::random_text;
use crate::secrets::{self, KeyMaterial};

impl Reconcile<'_> {
    /// The keys in the Secrets that there are, by selector. Those that are to be made are made.
    pub(super) async fn material(&self) -> Result<(HashMap<String, KeyMaterial>, Option<String>), Failure> {
        let namespace = self.domain.namespace().unwrap_or_default();
        let api = self.context.secrets(&namespace);
        let mut material = HashMap::new();
        let mut no_key = None;
        for key in self.before.keys.iter().filter(|key| !key.external) {
            let found = match api.get_opt(&key.secret_name).await? {
                Some(secret) => Some(secret),
                None if key.state == DomainKeyState::Generating => Some(self.make(key).await?),
                None => None,
            };
            match found.map(|secret| secrets::key_in(&secret, None)) {
                Some(Ok(held)) => drop(material.insert(key.selector.clone(), held)),
                Some(Err(error)) => no_key = Some(error.to_string()),
                None if key.state == DomainKeyState::Retired => {}
                None => {
                    no_key = Some(format!(
                        "the Secret {} of key {} is gone; annotate the object with {ROTATE}=NEW for new keys",
                        key.secret_name, key.selector
                    ));
                }
            }
        }
        if let Some(existing) = &self.domain.spec.dkim.existing_secret {
            let secret = api.get_opt(&existing.name).await?;
            match secret.map(|secret| secrets::key_in(&secret, Some(&existing.key))) {
                Some(Ok(held)) => drop(material.insert(existing.selector.clone(), held)),
                Some(Err(error)) => no_key = Some(error.to_string()),
                None => {
                    no_key = Some(format!("there is no Secret {} in namespace {namespace}", existing.name));
                }
            }
        }
        Ok((material, no_key))
    }

    pub(super) async fn make(&self, key: &DomainKey) -> Result<Secret, Failure> {
        let algorithm = algorithm(key.algorithm);
        let made = self.context.keys.make(algorithm);
        let made = made.instrument(tracing::info_span!(target: TRACE, "dkim.generate")).await?;
        let kind = match key.algorithm {
            KeyAlgorithm::Rsa2048 => "rsa",
            KeyAlgorithm::Ed25519 => "ed25519",
        };
        self.context.metrics.keys_made.add(kind, 1);
        let secret = secrets::of_key(&self.domain, &key.secret_name, &key.selector, &made)
            .map_err(crate::keymaker::MakeError::from)?;
        self.context.make_secret(&secret).await
    }

    /// Asks DNS, when it is time to.
    pub(super) async fn look(
        &self,
        wanted: &Wanted,
        material: &HashMap<String, KeyMaterial>,
        now: &Time,
    ) -> Option<look::Look> {
        let settings = &self.context.settings;
        let every = self.every(&self.before, now.0);
        let changed = self.before.observed_generation != self.domain.metadata.generation;
        // What to publish is told as soon as there is a key.
        let untold = self.before.keys.iter().any(|key| {
            let name = format!("{}._domainkey.", key.selector);
            key.state == DomainKeyState::Publishing
                && !self.before.records.iter().any(|record| record.name.starts_with(&name))
        });
        if !changed && !untold && !is_due(self.before.checked_at.as_ref(), every, now) {
            return None;
        }
        let looked = self.context.look.look(&self.domain, wanted, &self.before.keys, material, settings);
        match looked.instrument(tracing::info_span!(target: TRACE, "dns.check")).await {
            Ok(look) => Some(look),
            Err(error) => {
                tracing::warn!(%error, domain = self.domain.spec.domain, "DNS isn't asked");
                None
            }
        }
    }

    pub(super) fn next(
        &self,
        material: &HashMap<String, KeyMaterial>,
        look: Option<&look::Look>,
        now: Timestamp,
    ) -> Next {
        let dkim = &self.domain.spec.dkim;
        let source = match &dkim.existing_secret {
            Some(existing) => Source::Existing {
                selector: existing.selector.clone(),
                secret_name: existing.name.clone(),
                algorithm: material.get(&existing.selector).map(|held| key_algorithm(held.algorithm)),
            },
            None if dkim.cname_zone.is_some() => Source::Alternating,
            None => Source::Generated,
        };
        let prefix: String = self.domain.name_any().chars().take(180).collect();
        let policy = Policy {
            source,
            algorithms: dkim.algorithms.clone(),
            prefix: prefix.trim_end_matches(['-', '.']).to_owned(),
            rotation_secs: i64::from(dkim.rotation_days) * DAY_SECS,
            retire_secs: self.context.settings.retire_secs,
        };
        let ttl = i64::from(self.domain.spec.dns.ttl_secs);
        let remembered = |(selector, secs): (&String, &i64)| (selector.clone(), ttl.max(*secs));
        let seen = Seen {
            made: material.keys().cloned().collect::<BTreeSet<_>>(),
            everywhere: look.map(look::Look::seen).unwrap_or_default(),
            remembered_secs: match look {
                Some(look) => look.remembered_secs.iter().map(remembered).collect(),
                None => self.before.keys.iter().map(|key| (key.selector.clone(), ttl)).collect(),
            },
        };
        let request = request(&self.domain, self.before.rotation_begun.as_deref());
        rotation::step(&self.before.keys, &policy, &seen, request.as_ref(), now, || random_text(8))
    }

    /// The selectors that take turns, where there are such: where each one's alias leads, and the record of its key.
    pub(super) fn aliases(
        &self,
        wanted: &Wanted,
        material: &HashMap<String, KeyMaterial>,
    ) -> Vec<(String, String, Option<String>)> {
        let algorithms = self.domain.spec.dkim.algorithms.iter();
        let selectors = algorithms.flat_map(|algorithm| rotation::alternating(*algorithm));
        let alias = |selector: String| {
            let target = wanted.target(&selector)?.as_str().to_owned();
            let key = material.get(&selector).map(|held| held.record.clone());
            Some((selector, target, key))
        };
        selectors.filter_map(alias).collect()
    }
}

/// Whether `every` has passed since then. A tenth early is on time: who asks comes give or take a tenth.
fn is_due(checked_at: Option<&Time>, every: Duration, now: &Time) -> bool {
    let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX);
    let since = checked_at.map(|at| now.0.as_second() - at.0.as_second());
    // An operator before this one may have had a clock that is ahead: it isn't waited for.
    since.is_none_or(|since| !(0..every - every / 5).contains(&since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_is_asked_when_it_is_time_and_when_clocks_differ() {
        let at = |second| Time(Timestamp::from_second(second).unwrap());
        let due = |checked_at| is_due(Some(&at(checked_at)), Duration::from_secs(300), &at(1_000));
        assert_eq!([700, 760, 761, 1_000, 1_001].map(due), [true, true, false, false, true]);
        assert!(is_due(None, Duration::from_secs(300), &at(1_000)));
    }
}
