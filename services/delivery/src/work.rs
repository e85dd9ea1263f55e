//! A leased job on its way through delivery.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mail::{Hop, Job, JobKind, Recipient, RecipientResult};
use runtime::metrics::Lasting;
use spool::{ContentError, Lease, SettleError};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Span;

use crate::cache::lock;
use crate::metrics::Metrics;

/// A lease is touched this often while it is worked on.
const TOUCH_EVERY: Duration = Duration::from_secs(20);
/// The final dot is sent only if the lease was proven within this time.
const PROOF_AGE_MAX: Duration = Duration::from_secs(30);

/// The job is somebody else's now; what was done for it so far is void.
#[derive(Debug, thiserror::Error)]
#[error("the lease is lost")]
pub(crate) struct LeaseLost;

/// A job with what was learned of it.
pub(crate) struct Work<L> {
    pub(crate) lease: L,
    /// When the lease was last known to be ours.
    proven: Mutex<Instant>,
    /// The remote may have the message; from here on the outcome counts whatever becomes of the lease.
    dot_sent: AtomicBool,
    /// Those to be served in the next transaction.
    pub(crate) recipients: Vec<Recipient>,
    /// What earlier transactions of this attempt deferred.
    pub(crate) deferred: Vec<Earlier>,
    /// What earlier transactions settled and the store could not record.
    pub(crate) settled: Vec<RecipientResult>,
    pub(crate) times: Times,
    pub(crate) span: Span,
    /// The job's share of what may be in work.
    _permit: OwnedSemaphorePermit,
    _counted: Lasting,
}

/// What an earlier transaction of the attempt brought, and the way that it took.
pub(crate) struct Earlier {
    pub(crate) result: RecipientResult,
    pub(crate) hop: Hop,
}

/// How long the parts of an attempt took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) leased: Instant,
    pub(crate) route: Duration,
    pub(crate) sign: Duration,
    pub(crate) connect: Duration,
    pub(crate) deliver: Duration,
}

impl<L: Lease> Work<L> {
    pub(crate) fn new(lease: L, permit: OwnedSemaphorePermit, metrics: &Metrics, span: Span) -> Self {
        let recipients = match &lease.job().kind {
            JobKind::Delivery { recipients } => recipients.clone(),
            JobKind::Report { .. } => Vec::new(),
        };
        let counted = metrics.leased(lease.job());
        let leased = Instant::now();
        let none = Duration::ZERO;
        Self {
            lease,
            proven: Mutex::new(leased),
            dot_sent: AtomicBool::new(false),
            recipients,
            deferred: Vec::new(),
            settled: Vec::new(),
            times: Times { leased, route: none, sign: none, connect: none, deliver: none },
            span,
            _permit: permit,
            _counted: counted,
        }
    }

    pub(crate) fn job(&self) -> &Job {
        self.lease.job()
    }

    /// Does `doing` while the lease is kept alive. A lost lease ends it, unless the final dot was sent.
    pub(crate) async fn kept<T>(&self, doing: impl Future<Output = T>) -> Result<T, LeaseLost> {
        tokio::pin!(doing);
        loop {
            tokio::select! {
                biased;
                done = &mut doing => return Ok(done),
                () = tokio::time::sleep(TOUCH_EVERY) => {
                    let lost = !self.touch().await;
                    if lost && !self.dot_sent.load(Ordering::Relaxed) {
                        return Err(LeaseLost);
                    }
                }
            }
        }
    }

    /// Asked right before the final dot: whether the job is surely still ours. From a yes on the remote may have it.
    pub(crate) async fn may_send_dot(&self) -> bool {
        if lock(&self.proven).elapsed() >= PROOF_AGE_MAX - TOUCH_EVERY / 4 {
            self.touch().await;
        }
        let may = lock(&self.proven).elapsed() < PROOF_AGE_MAX;
        if may {
            self.dot_sent.store(true, Ordering::Relaxed);
        }
        may
    }

    /// A transaction is over and another is to begin.
    pub(crate) fn begin_another(&mut self) {
        *self.dot_sent.get_mut() = false;
    }

    /// False when the lease is lost for certain.
    async fn touch(&self) -> bool {
        let before = Instant::now();
        match self.lease.touch().await {
            Ok(()) => {
                *lock(&self.proven) = before;
                true
            }
            Err(SettleError::LeaseLost(_) | SettleError::Closed) => false,
            Err(error @ SettleError::Unavailable { .. }) => {
                tracing::warn!(job = %self.job().id, %error, "can't prolong a lease");
                true
            }
        }
    }

    /// The content up to the end of the header section at least, as it comes from the store.
    pub(crate) async fn header(&self) -> Result<Bytes, ContentError> {
        let octets = self.job().message.header_octets as usize;
        let first = self.lease.content(0).await?;
        if first.len() >= octets {
            return Ok(first.slice(..octets));
        }
        Ok(self.read(first, octets as u64).await?.into())
    }

    /// The whole content.
    pub(crate) async fn content(&self) -> Result<Vec<u8>, ContentError> {
        self.read(Bytes::new(), self.job().message.octets).await
    }

    async fn read(&self, first: Bytes, octets: u64) -> Result<Vec<u8>, ContentError> {
        let wanted = usize::try_from(octets).unwrap_or(usize::MAX);
        let mut content = Vec::with_capacity(wanted.min(1 << 26));
        content.extend_from_slice(&first);
        while content.len() < wanted {
            let piece = self.lease.content(content.len() as u64).await?;
            if piece.is_empty() {
                break;
            }
            content.extend_from_slice(&piece);
        }
        content.truncate(wanted);
        Ok(content)
    }
}
