//! What ingress counts.

use std::time::Duration;

use runtime::metrics::{Counter, CounterBy, Durations, Gauge, Lasting, Registry};
use smtp::reply::Reply;

use crate::admission::Crowded;
use crate::observer::Stage;

/// Why something was refused: the subject of its enhanced status code (RFC 3463 section 3).
const REASONS: [&str; 7] = ["address", "quota", "system", "protocol", "content", "policy", "other"];

/// Counters and gauges of ingress; those of one process are shared by its clones.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    sessions_open: Gauge,
    sessions: Counter,
    turned_away: CounterBy,
    logins: CounterBy,
    accepted: Counter,
    accepted_bytes: Counter,
    refused: CounterBy,
    recipients_refused: CounterBy,
    quota_refusals: Counter,
    final_dot: Durations,
}

impl Metrics {
    /// Metrics that the registry shows. The default ones are shown nowhere.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            sessions_open: registry.gauge("ingress_sessions_open", "SMTP sessions that are open"),
            sessions: registry.counter("ingress_sessions", "SMTP sessions that were begun"),
            turned_away: registry.counter_by(
                "ingress_connections_refused",
                "Connections that were refused because there were too many",
                "limit",
                &["total", "client", "unauthenticated"],
            ),
            logins: registry.counter_by(
                "ingress_logins",
                "Logins by what came of them; limited ones weren't checked after too many failures",
                "outcome",
                &["accepted", "refused", "limited", "unavailable"],
            ),
            accepted: registry.counter(
                "ingress_transactions_accepted",
                "Messages that were accepted and are on disk, also those that weren't submitted by SMTP",
            ),
            accepted_bytes: registry.counter("ingress_accepted_bytes", "Octets of accepted messages"),
            refused: registry.counter_by(
                "ingress_transactions_refused",
                "Transactions that were refused at MAIL, DATA or the final dot",
                "reason",
                &REASONS,
            ),
            recipients_refused: registry.counter_by(
                "ingress_recipients_refused",
                "Recipients that were refused",
                "reason",
                &REASONS,
            ),
            quota_refusals: registry.counter(
                "ingress_quota_refusals",
                "Recipients that were refused because the account's quota was used up",
            ),
            final_dot: registry
                .durations("ingress_final_dot_seconds", "From a message's final dot to its reply"),
        }
    }

    /// A session lasts until this is dropped.
    pub(crate) fn session(&self) -> Lasting {
        self.sessions.inc();
        Lasting::begin(&self.sessions_open)
    }

    pub(crate) fn turned_away(&self, crowded: Crowded) {
        let limit = match crowded {
            Crowded::Total => "total",
            Crowded::Client => "client",
            Crowded::Unauthenticated => "unauthenticated",
        };
        self.turned_away.add(limit, 1);
    }

    pub(crate) fn logged_in(&self) {
        self.logins.add("accepted", 1);
    }

    pub(crate) fn accepted(&self, octets: u64) {
        self.accepted.inc();
        self.accepted_bytes.inc_by(octets);
    }

    pub(crate) fn quota_used_up(&self) {
        self.quota_refusals.inc();
    }

    pub(crate) fn refused(&self, stage: Stage, reply: &Reply) {
        match stage {
            Stage::Login => self.logins.add(
                match reply.code() {
                    421 => "limited",
                    454 => "unavailable",
                    _ => "refused",
                },
                1,
            ),
            Stage::Recipient => self.recipients_refused.add(reason(reply), 1),
            Stage::Sender | Stage::Body | Stage::Message => self.refused.add(reason(reply), 1),
        }
    }

    /// A message's final dot was answered after this time, whatever the answer.
    pub(crate) fn answered(&self, took: Duration) {
        self.final_dot.observe(took);
    }
}

/// The word for a refusal; its text may name addresses, and there may be any number of texts.
pub(crate) fn reason(reply: &Reply) -> &'static str {
    let [address, quota, system, protocol, content, policy, other] = REASONS;
    match reply.enhanced().map(|enhanced| enhanced.subject) {
        Some(1) => address,
        Some(2) => quota,
        Some(3) => system,
        Some(5) => protocol,
        Some(6) => content,
        Some(7) => policy,
        _ => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_refusal_is_counted_once_by_its_stage_and_reason() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.refused(Stage::Login, &Reply::new(454, (4, 7, 0), "later"));
        metrics.refused(Stage::Recipient, &Reply::new(452, (4, 2, 2), "quota"));
        metrics.refused(Stage::Sender, &Reply::new(550, (5, 7, 1), "suspended"));
        metrics.refused(Stage::Message, &Reply::new(554, (5, 6, 0), "no From"));
        let text = registry.text().await;
        for line in [
            "stagepost_ingress_logins_total{outcome=\"unavailable\"} 1",
            "stagepost_ingress_recipients_refused_total{reason=\"quota\"} 1",
            "stagepost_ingress_transactions_refused_total{reason=\"policy\"} 1",
            "stagepost_ingress_transactions_refused_total{reason=\"content\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
        assert_eq!(text.lines().filter(|line| line.ends_with("} 1")).count(), 4);
    }
}
