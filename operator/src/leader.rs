//! One of several operators works: whoever holds a Lease.
//!
//! ```text
//! follow --the record is older than its duration, as seen here--> take --renew, renew--> release, once all work has stopped
//! ```
//!
//! How old a record is, is measured from when it was seen to change, by this process's own clock: clocks of others don't
//! matter. The holder stops working some seconds before anybody may take the Lease from it. Every write of the Lease names
//! the version that it follows, so that of two who take it at once one gets it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Times of a Lease, all from how long it lasts.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Without being renewed.
    lasts: Duration,
    /// The holder that couldn't renew for so long works no more: the rest is for what is under way to end.
    renew_within: Duration,
    retry: Duration,
    /// A call of the API that takes longer has failed.
    call_max: Duration,
}

impl Times {
    fn of(lasts: Duration) -> Self {
        Self { lasts, renew_within: lasts * 2 / 3, retry: lasts / 7, call_max: lasts / 4 }
    }
}

/// Whether this process may change anything. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Leading {
    renewed: Arc<Mutex<Option<Instant>>>,
    renew_within: Duration,
}

/// The Lease is another's, or could be by now.
#[derive(Debug, thiserror::Error)]
#[error("another operator may hold the Lease by now")]
pub(crate) struct NotLeading;

impl Leading {
    /// Fails when another could have taken over: a process that was stopped finds out here, before it writes.
    pub(crate) fn check(&self) -> Result<(), NotLeading> {
        if self.is() { Ok(()) } else { Err(NotLeading) }
    }

    pub(crate) fn is(&self) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_some_and(|renewed| renewed.elapsed() < self.renew_within)
    }

    fn set(&self, renewed: Option<Instant>) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
    }
}

/// A candidate for the Lease.
pub(crate) struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    times: Times,
    leading: Leading,
    observed: Option<Observed>,
}

/// A record, and when it was seen to change.
#[derive(Clone, Debug)]
struct Observed {
    record: Option<LeaseSpec>,
    at: Instant,
}

/// What to do about a Lease as it is.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Take,
    Renew,
    Follow,
}

impl Election {
    /// A Lease that isn't renewed for `lasts` is anybody's.
    pub(crate) fn new(api: Api<Lease>, name: String, identity: String, lasts: Duration) -> Self {
        let times = Times::of(lasts);
        let leading = Leading { renewed: Arc::default(), renew_within: times.renew_within };
        Self { api, name, identity, times, leading, observed: None }
    }

    pub(crate) fn leading(&self) -> Leading {
        self.leading.clone()
    }

    /// Waits until the Lease is ours; false when `shutdown` comes first.
    pub(crate) async fn win(&mut self, shutdown: &CancellationToken) -> bool {
        while !shutdown.is_cancelled() {
            match self.attempt().await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::warn!(error = %error, "can't ask for the Lease"),
            }
            shutdown.run_until_cancelled(tokio::time::sleep(self.times.retry)).await;
        }
        false
    }

    /// Renews until that fails for too long, the Lease is another's, or `end`.
    pub(crate) async fn keep(&mut self, end: &CancellationToken) {
        loop {
            if end.run_until_cancelled(tokio::time::sleep(self.times.retry)).await.is_none() {
                return;
            }
            match self.attempt().await {
                Ok(true) => {}
                Ok(false) => {
                    self.leading.set(None);
                    return;
                }
                Err(error) => tracing::warn!(error = %error, "can't renew the Lease"),
            }
            if !self.leading.is() {
                self.leading.set(None);
                return;
            }
        }
    }

    /// Gives the Lease back, when all work has stopped.
    pub(crate) async fn release(&mut self) {
        let ours = self.leading.is();
        self.leading.set(None);
        if !ours {
            return;
        }
        let released = tokio::time::timeout(self.times.call_max, async {
            let mut lease = self.api.get(&self.name).await?;
            if let Some(spec) = lease.spec.as_mut().filter(|spec| held_by(spec) == Some(&self.identity)) {
                spec.holder_identity = None;
                spec.lease_duration_seconds = Some(1);
                spec.renew_time = Some(MicroTime(Timestamp::now()));
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        });
        match released.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the Lease isn't released; it ends by itself"),
            Err(_) => tracing::warn!("the Lease isn't released in time; it ends by itself"),
        }
    }

    /// Takes or renews the Lease if that can be; whether it is ours then.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let began = Instant::now();
        let tried = tokio::time::timeout(self.times.call_max, self.try_once()).await;
        let ours = match tried {
            Ok(Ok(ours)) => ours,
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => false,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(kube::Error::Service("no answer in time".into())),
        };
        if ours {
            self.leading.set(Some(began));
        }
        Ok(ours)
    }

    async fn try_once(&mut self) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.record(None)),
            };
            let made = self.api.create(&PostParams::default(), &lease).await?;
            self.observe(made.spec);
            return Ok(true);
        };
        self.observe(lease.spec.clone());
        let observed = self.observed.as_ref();
        match step(observed, &self.identity, self.leading.is(), self.times.lasts, Instant::now()) {
            Step::Follow => Ok(false),
            Step::Take | Step::Renew => {
                lease.spec = Some(self.record(lease.spec.as_ref()));
                let kept = self.api.replace(&self.name, &PostParams::default(), &lease).await?;
                self.observe(kept.spec);
                Ok(true)
            }
        }
    }

    fn observe(&mut self, record: Option<LeaseSpec>) {
        if self.observed.as_ref().is_none_or(|observed| observed.record != record) {
            self.observed = Some(Observed { record, at: Instant::now() });
        }
    }

    fn record(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = before.is_some_and(|before| held_by(before) == Some(&self.identity));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.times.lasts.as_secs()).ok(),
            acquire_time: before
                .filter(|_| ours)
                .map_or(Some(now.clone()), |before| before.acquire_time.clone()),
            renew_time: Some(now),
            lease_transitions: Some(if ours { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}

/// What follows from a record that was seen when; a record that names no duration lasts for `lasts`.
fn step(observed: Option<&Observed>, identity: &str, leading: bool, lasts: Duration, now: Instant) -> Step {
    let Some(Observed { record: Some(record), at }) = observed else { return Step::Take };
    match held_by(record) {
        None => Step::Take,
        // After a time in which another could have held it, it is taken anew.
        Some(holder) if *holder == identity && leading => Step::Renew,
        Some(_) => {
            let said = record.lease_duration_seconds.and_then(|secs| u64::try_from(secs).ok());
            let lasts = said.map_or(lasts, Duration::from_secs);
            if now.saturating_duration_since(*at) > lasts { Step::Take } else { Step::Follow }
        }
    }
}

fn held_by(record: &LeaseSpec) -> Option<&String> {
    record.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(15);

    /// Seen now, renewed by a clock that is wrong by so many seconds.
    fn observed(holder: Option<&str>, clock_off_secs: i64) -> Observed {
        let renewed = Timestamp::from_second(Timestamp::now().as_second() + clock_off_secs).unwrap();
        let record = LeaseSpec {
            holder_identity: holder.map(Into::into),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(renewed)),
            ..LeaseSpec::default()
        };
        Observed { record: Some(record), at: Instant::now() }
    }

    fn after(observed: &Observed, leading: bool, secs: u64) -> Step {
        step(Some(observed), "me", leading, LASTS, observed.at + Duration::from_secs(secs))
    }

    #[tokio::test]
    async fn clocks_of_others_do_not_matter() {
        for clock_off_secs in [-90, 0, 90] {
            let theirs = observed(Some("other"), clock_off_secs);
            assert_eq!(
                [0, 15, 16].map(|secs| after(&theirs, false, secs)),
                [Step::Follow, Step::Follow, Step::Take]
            );
        }
    }

    #[tokio::test]
    async fn one_that_was_stopped_waits_like_anybody_else() {
        let ours = observed(Some("me"), 0);
        assert_eq!(after(&ours, true, 1), Step::Renew);
        assert_eq!([1, 16].map(|secs| after(&ours, false, secs)), [Step::Follow, Step::Take]);
    }

    #[tokio::test]
    async fn what_nobody_holds_is_taken() {
        assert_eq!(step(None, "me", false, LASTS, Instant::now()), Step::Take);
        for nobody in [observed(None, 0), observed(Some(""), 0)] {
            assert_eq!(after(&nobody, false, 0), Step::Take);
        }
    }

    #[test]
    fn the_holder_stops_before_anybody_may_take_over() {
        for secs in [3, 15, 600] {
            let times = Times::of(Duration::from_secs(secs));
            assert!(times.renew_within + times.call_max < times.lasts, "{times:?}");
            // More than one try may fail.
            assert!(times.retry + times.call_max < times.renew_within, "{times:?}");
        }
    }
}
