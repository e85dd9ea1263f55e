//! How often the DNS of a domain is asked.
//!
//! Of one that is ready and has no key on its way: now and then. Else quickly at first, since somebody may be publishing its records
//! just now; the rarer, the longer nothing has changed, and the more such domains there are, so that all of them together cost
//! servers of zones, the API server and other domains no more than a bounded rate.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::condition;
use crate::config::Settings;
use crate::crd::{DomainKeyState, SendingDomain, SendingDomainStatus};

/// Looks a second at all domains that aren't settled.
const LOOKS_PER_SEC: f64 = 20.0;
/// The part of the time without a change after which it is looked at again.
const PART: f64 = 0.01;

/// Whether nothing is waited for: the domain is ready, no record of it in doubt, and its keys sign or have signed.
pub(crate) fn is_settled(status: &SendingDomainStatus) -> bool {
    let ready = condition::of(&status.conditions, "Ready").is_some_and(|(status, _)| status == "True");
    let over = |state| matches!(state, DomainKeyState::Active | DomainKeyState::Retired);
    ready && !status.is_in_doubt() && status.keys.iter().all(|key| over(key.state))
}

/// How many of these aren't settled.
pub(super) fn unsettled<'a>(all: impl Iterator<Item = &'a SendingDomain>) -> usize {
    all.filter(|domain| !domain.status.as_ref().is_some_and(is_settled)).count()
}

/// How long after what isn't DNS stood in the way, such as an account that isn't there, it is tried again.
pub(super) fn again(settings: &Settings, unsettled: usize) -> Duration {
    let unsettled = u32::try_from(unsettled).unwrap_or(u32::MAX);
    let by_number = Duration::from_secs_f64(f64::from(unsettled) / LOOKS_PER_SEC);
    settings.check_quick.max(by_number).min(settings.check)
}

/// How long after a look the next one is due.
pub(super) fn every(
    settings: &Settings,
    domain: &SendingDomain,
    status: &SendingDomainStatus,
    unsettled: usize,
    now: Timestamp,
) -> Duration {
    if is_settled(status) {
        return settings.check;
    }
    let created = domain.metadata.creation_timestamp.as_ref();
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let keys = status.keys.iter().flat_map(|key| [Some(&key.created_at), key.published_at.as_ref()]);
    let doubts = status.records.iter().filter_map(|record| record.doubted_since.as_ref());
    let changes =
        keys.flatten().chain(doubts).chain(ready.map(|ready| &ready.last_transition_time)).chain(created);
    let idle = changes.map(|at| at.0).max().map_or(0, |at| now.as_second() - at.as_second());
    let by_idle = Duration::from_secs(u64::try_from(idle).unwrap_or_default()).mul_f64(PART);
    again(settings, unsettled).max(by_idle).min(settings.check)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        config: crate::Config,
    }

    fn settings() -> Settings {
        Arguments::parse_from(["operator"]).config.settings()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Made at 10:00; its key was made, published and used at these times.
    fn domain(ready: Option<(&str, &str)>, key: Option<(&str, &str)>) -> SendingDomain {
        let conditions = ready.map(|(status, since)| {
            json!([{"type": "Ready", "status": status, "lastTransitionTime": since, "reason": "Some", "message": ""}])
        });
        let keys = key.map(|(state, since)| {
            json!([{"selector": "s", "algorithm": "RSA-2048", "state": state, "secretName": "s", "createdAt": since}])
        });
        let object = json!({
            "apiVersion": "stagepost.dev/v1alpha1", "kind": "SendingDomain",
            "metadata": {"name": "sd", "namespace": "shop", "creationTimestamp": "2026-01-01T10:00:00Z"},
            "spec": {"domain": "example.com", "account": "shop"},
            "status": {"conditions": conditions.unwrap_or(json!([])), "keys": keys.unwrap_or(json!([]))}
        });
        serde_json::from_value(object).unwrap()
    }

    fn secs(domain: &SendingDomain, unsettled: usize, now: &str) -> u64 {
        every(&settings(), domain, domain.status.as_ref().unwrap(), unsettled, at(now)).as_secs()
    }

    #[test]
    fn what_is_ready_is_looked_at_now_and_then() {
        let ready = domain(Some(("True", "2026-01-01T10:05:00Z")), Some(("Active", "2026-01-01T10:00:00Z")));
        assert_eq!(secs(&ready, 5_000, "2026-01-01T10:05:01Z"), 300);
        let alone = [&ready, &domain(None, None)];
        assert_eq!(unsettled(alone.into_iter()), 1);
    }

    #[test]
    fn what_changed_lately_is_looked_at_quickly_and_what_nobody_mends_rarely() {
        let fresh = domain(None, None);
        assert_eq!(secs(&fresh, 1, "2026-01-01T10:00:01Z"), 5);
        assert_eq!(secs(&fresh, 1, "2026-01-01T10:08:00Z"), 5);
        assert_eq!(secs(&fresh, 1, "2026-01-01T10:30:00Z"), 18);
        assert_eq!(secs(&fresh, 1, "2026-01-03T10:00:00Z"), 300);
        let failed = domain(Some(("False", "2026-01-03T09:59:00Z")), None);
        assert_eq!(secs(&failed, 1, "2026-01-03T10:00:00Z"), 5);
        let rotates =
            domain(Some(("True", "2026-01-01T10:05:00Z")), Some(("Publishing", "2026-01-03T09:59:00Z")));
        assert_eq!(secs(&rotates, 1, "2026-01-03T10:00:00Z"), 5);
    }

    #[test]
    fn what_is_in_doubt_is_looked_for_quickly() {
        let mut ready =
            domain(Some(("True", "2026-01-01T10:05:00Z")), Some(("Active", "2026-01-01T10:00:00Z")));
        let record = json!({
            "condition": "SPFAligned", "type": "TXT", "name": "example.com.", "value": "v=spf1 -all", "purpose": "SPF",
            "required": true, "state": "Found", "message": "", "doubtedSince": "2026-01-03T09:59:50Z"
        });
        ready.status.as_mut().unwrap().records.push(serde_json::from_value(record).unwrap());
        assert_eq!(secs(&ready, 1, "2026-01-03T10:00:00Z"), 5);
    }

    #[test]
    fn many_together_are_looked_at_no_more_often_than_a_few() {
        let fresh = domain(None, None);
        assert_eq!(secs(&fresh, 100, "2026-01-01T10:00:01Z"), 5);
        assert_eq!(secs(&fresh, 2_000, "2026-01-01T10:00:01Z"), 100);
        assert_eq!(secs(&fresh, 1_000_000, "2026-01-01T10:00:01Z"), 300);
    }

    #[test]
    fn a_clock_that_was_set_back_changes_little() {
        assert_eq!(secs(&domain(None, None), 1, "2025-12-31T10:00:00Z"), 5);
    }
}
