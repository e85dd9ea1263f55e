//! What the operator counts.

use std::time::Duration;

use runtime::metrics::{CounterBy, DurationsBy, Gauge, GaugeBy, Registry};

use crate::context::Failure;

/// Kinds of objects.
const KINDS: [&str; 3] = ["Account", "SendingDomain", "SmtpCredential"];
/// Conditions of a sending domain.
pub(crate) const CONDITIONS: [&str; 9] = [
    "Ready",
    "Claimed",
    "KeyReady",
    "DKIMPublished",
    "SPFAligned",
    "DMARCPublished",
    "ReturnPathReady",
    "MTASTSReady",
    "TLSRPTReady",
];

/// The operator's metrics.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) reconciles: CounterBy,
    pub(crate) failures: CounterBy,
    pub(crate) took: DurationsBy,
    pub(crate) leading: Gauge,
    pub(crate) domains: GaugeBy,
    pub(crate) domains_true: GaugeBy,
    pub(crate) rotation_days: Gauge,
    pub(crate) keys_made: CounterBy,
}

impl Metrics {
    /// Shows them in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            reconciles: registry.counter_by("operator_reconciles", "Looks at objects", "kind", &KINDS),
            failures: registry.counter_by(
                "operator_failures",
                "Looks at objects that failed and are repeated",
                "category",
                &Failure::CATEGORIES,
            ),
            took: registry.durations_by(
                "operator_reconcile_seconds",
                "How long looks at objects took",
                "kind",
                &KINDS,
            ),
            leading: registry.gauge("operator_leading", "1 while this operator holds the Lease"),
            domains: registry.gauge_by(
                "operator_domains",
                "Sending domains, all and those whose object can't be read",
                "which",
                &["all", "unreadable"],
            ),
            domains_true: registry.gauge_by(
                "operator_domains_true",
                "Sending domains of which a condition holds",
                "condition",
                &CONDITIONS,
            ),
            rotation_days: registry
                .gauge("operator_rotation_days", "Whole days until the next key is replaced; -1 for never"),
            keys_made: registry.counter_by(
                "operator_keys",
                "DKIM keys made",
                "algorithm",
                &["rsa", "ed25519"],
            ),
        }
    }

    pub(crate) fn reconciled(&self, kind: &'static str, took: Duration) {
        self.reconciles.add(kind, 1);
        self.took.observe(kind, took);
    }
}
