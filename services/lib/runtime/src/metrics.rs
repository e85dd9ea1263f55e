//! What is counted, for Prometheus.
//!
//! Nothing is global: a [`Registry`] is passed to whoever counts, and then to [`crate::admin::serve`], which shows it. A
//! label's values are words of the program's own text (`&'static str`): an address or a domain can't become one.

use std::pin::Pin;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
pub use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry as Metrics;

/// The media type of [`Registry::text`].
pub const TEXT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Label = [(&'static str, &'static str); 1];
type Refresh = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// All that a process counts; each name begins with `stagepost_`.
pub struct Registry {
    metrics: Metrics,
    refreshes: Vec<Refresh>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { metrics: Metrics::with_prefix("stagepost"), refreshes: Vec::new() }
    }
}

impl Registry {
    /// A number that only grows; `_total` is added to its name.
    pub fn counter(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.metrics.register(name, help, counter.clone());
        counter
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.metrics.register(name, help, gauge.clone());
        gauge
    }

    /// How long things took; the name ends in `_seconds`.
    pub fn durations(&mut self, name: &str, help: &str) -> Durations {
        let durations = Durations::default();
        self.metrics.register(name, help, durations.0.clone());
        durations
    }

    /// A counter for each of `values`, all shown from the beginning.
    pub fn counter_by(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[&'static str],
    ) -> CounterBy {
        let family = Family::default();
        self.metrics.register(name, help, family.clone());
        By::new(family, label, values)
    }

    /// A gauge for each of `values`.
    pub fn gauge_by(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[&'static str],
    ) -> GaugeBy {
        let family = Family::default();
        self.metrics.register(name, help, family.clone());
        By::new(family, label, values)
    }

    /// Durations for each of `values`.
    pub fn durations_by(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[&'static str],
    ) -> DurationsBy {
        let family = Family::new_with_constructor(Buckets);
        self.metrics.register(name, help, family.clone());
        By::new(family, label, values)
    }

    /// Something that brings gauges up to date before they are shown. It should keep what it learned for a few seconds, so that
    /// however often is asked costs little.
    pub fn refresh_by<F>(&mut self, refresh: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.refreshes.push(Box::new(move || Box::pin(refresh())));
    }

    /// Everything as OpenMetrics text, of type [`TEXT_TYPE`].
    pub async fn text(&self) -> String {
        for refresh in &self.refreshes {
            refresh().await;
        }
        let mut text = String::new();
        // A string takes all that is written.
        let _ = encode(&mut text, &self.metrics);
        text
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("metrics", &self.metrics).finish_non_exhaustive()
    }
}

/// One metric for each value of a label.
#[derive(Clone, Debug)]
pub struct By<M, C = fn() -> M> {
    family: Family<Label, M, C>,
    label: &'static str,
}

/// Counters by label.
pub type CounterBy = By<Counter>;
/// Gauges by label.
pub type GaugeBy = By<Gauge>;
/// Durations by label.
pub type DurationsBy = By<Histogram, Buckets>;

impl<M: Clone, C: MetricConstructor<M>> By<M, C> {
    fn new(family: Family<Label, M, C>, label: &'static str, values: &[&'static str]) -> Self {
        for value in values {
            // What has not happened yet is shown as 0, so that its first time is seen as an increase.
            drop(family.get_or_create(&[(label, *value)]));
        }
        Self { family, label }
    }
}

impl By<Counter> {
    /// `count` more of `value`.
    pub fn add(&self, value: &'static str, count: u64) {
        self.family.get_or_create(&[(self.label, value)]).inc_by(count);
    }
}

impl By<Gauge> {
    /// `value` is at `number` now.
    pub fn set(&self, value: &'static str, number: u64) {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.family.get_or_create(&[(self.label, value)]).set(number);
    }
}

impl By<Histogram, Buckets> {
    /// `value` took so long.
    pub fn observe(&self, value: &'static str, took: Duration) {
        self.family.get_or_create(&[(self.label, value)]).observe(took.as_secs_f64());
    }
}

impl Default for CounterBy {
    /// Counts, and is shown nowhere.
    fn default() -> Self {
        Self::new(Family::default(), "", &[])
    }
}

impl Default for DurationsBy {
    /// Counts, and is shown nowhere.
    fn default() -> Self {
        Self::new(Family::new_with_constructor(Buckets), "", &[])
    }
}

/// How long things took.
#[derive(Clone, Debug)]
pub struct Durations(Histogram);

impl Durations {
    /// One more took so long.
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

impl Default for Durations {
    /// Counts, and is shown nowhere.
    fn default() -> Self {
        Self(Buckets.new_metric())
    }
}

/// The buckets of all durations: from a tenth of a millisecond, within which a store in memory answers, to ten minutes, for
/// which a server may be silent (RFC 5321 section 4.5.3.2).
#[derive(Clone, Copy, Debug)]
pub struct Buckets;

const BUCKETS: [f64; 20] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0, 180.0, 600.0,
];

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

/// Counts something while it lasts.
#[derive(Debug)]
pub struct Lasting(Gauge);

impl Lasting {
    /// One more, until this is dropped.
    pub fn begin(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_was_counted_is_shown_by_its_name_and_what_was_not_is_zero() {
        let mut registry = Registry::default();
        let sessions = registry.counter("sessions", "Sessions");
        let logins = registry.counter_by("logins", "Logins", "outcome", &["accepted", "refused"]);
        let phases = registry.durations_by("phase_seconds", "Phases", "phase", &["sign"]);
        sessions.inc();
        logins.add("accepted", 3);
        phases.observe("sign", Duration::from_millis(2));
        let text = registry.text().await;
        for line in [
            "# TYPE stagepost_sessions counter",
            "stagepost_sessions_total 1",
            "stagepost_logins_total{outcome=\"accepted\"} 3",
            "stagepost_logins_total{outcome=\"refused\"} 0",
            "stagepost_phase_seconds_count{phase=\"sign\"} 1",
            "stagepost_phase_seconds_bucket{le=\"0.001\",phase=\"sign\"} 0",
            "stagepost_phase_seconds_bucket{le=\"0.0025\",phase=\"sign\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
    }

    #[tokio::test]
    async fn gauges_are_brought_up_to_date_before_they_are_shown() {
        let mut registry = Registry::default();
        let jobs = registry.gauge_by("jobs", "Jobs", "state", &["ready"]);
        let asked = Arc::new(AtomicU64::new(0));
        registry.refresh_by(move || {
            let (jobs, asked) = (jobs.clone(), Arc::clone(&asked));
            async move { jobs.set("ready", 1 + asked.fetch_add(1, Ordering::Relaxed)) }
        });
        assert!(registry.text().await.contains("stagepost_jobs{state=\"ready\"} 1\n"));
        assert!(registry.text().await.contains("stagepost_jobs{state=\"ready\"} 2\n"));
    }

    #[test]
    fn what_lasts_is_counted_until_it_is_dropped() {
        let gauge = Gauge::default();
        let (first, second) = (Lasting::begin(&gauge), Lasting::begin(&gauge));
        assert_eq!(gauge.get(), 2);
        drop(first);
        assert_eq!(gauge.get(), 1);
        drop(second);
        assert_eq!(gauge.get(), 0);
    }
}
