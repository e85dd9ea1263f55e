//! One message that makes us panic costs itself, not its neighbours.

use std::any::Any;
use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Mutex;
use std::task::Poll;

use mail::JobId;

use crate::cache::lock;

/// After so many failures to process it, a job is given up.
pub(crate) const FAILURES_MAX: u32 = 5;
const JOBS_REMEMBERED_MAX: usize = 10_000;

/// Work panicked; this is what it said.
#[derive(Debug, thiserror::Error)]
#[error("processing the message failed: {0}")]
pub(crate) struct Panicked(String);

/// Does `work`, and turns a panic into an error. What `work` changed and didn't own must be looked at as unfinished.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut work = pin!(work);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(payload) => Poll::Ready(Err(Panicked(said(&*payload)))),
    })
    .await
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// How often jobs failed to be processed here; a restart forgets it, and a message's expiry ends it in any case. Each of several
/// workers that share a queue counts by itself, so that together they may try a job more often before one gives it up.
#[derive(Default)]
pub(crate) struct Failures(Mutex<HashMap<JobId, u32>>);

impl Failures {
    /// Counts one more; says how many there were.
    pub(crate) fn count(&self, job: JobId) -> u32 {
        let mut counts = lock(&self.0);
        if counts.len() >= JOBS_REMEMBERED_MAX && !counts.contains_key(&job) {
            counts.clear();
        }
        let count = counts.entry(job).or_default();
        *count += 1;
        let failures = *count;
        if failures >= FAILURES_MAX {
            counts.remove(&job);
        }
        failures
    }
}

#[cfg(test)]
mod tests {
    use mail::{QueueId, Timestamp};

    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_that_says_what_was_said() {
        let failed = caught(async {
            tokio::task::yield_now().await;
            panic!("{} is odd", 7)
        });
        let error: Panicked = failed.await.map(|()| "no panic").unwrap_err();
        assert_eq!(error.to_string(), "processing the message failed: 7 is odd");
        assert_eq!(caught(async { 5 }).await.unwrap(), 5);
    }

    #[test]
    fn failures_are_counted_by_job() {
        let failures = Failures::default();
        let job = |number| JobId::delivery(QueueId::new(Timestamp(0), [0; 10]), number);
        assert_eq!((1..=5).map(|_| failures.count(job(0))).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!((failures.count(job(1)), failures.count(job(0))), (1, 1));
    }
}
