//! The local counters, against the suite that all counters must pass. Members share them by sharing memory.
#![allow(clippy::unwrap_used, reason = "a stage that can't go on panics")]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use limits::conformance::Stage;
use limits::local::Local;
use limits::{Clock, SystemClock};

/// The machine's clock, which the stage puts forward.
#[derive(Default)]
struct Hands {
    system: SystemClock,
    ahead_millis: AtomicU64,
}

impl Clock for Hands {
    fn monotonic(&self) -> Duration {
        self.system.monotonic() + Duration::from_millis(self.ahead_millis.load(Ordering::SeqCst))
    }

    fn unix_millis(&self) -> u64 {
        self.system.unix_millis() + self.ahead_millis.load(Ordering::SeqCst)
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.system.sleep(time)
    }
}

struct OneProcess {
    hands: Arc<Hands>,
    local: Arc<Local>,
}

impl OneProcess {
    fn new() -> Self {
        let hands = Arc::new(Hands::default());
        let local = Arc::new(Local::in_memory_with_clock(Arc::clone(&hands) as Arc<dyn Clock>));
        Self { hands, local }
    }
}

impl Stage for OneProcess {
    type Limits = Arc<Local>;

    async fn join(&mut self) -> Arc<Local> {
        Arc::clone(&self.local)
    }

    async fn pass(&mut self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap();
        self.hands.ahead_millis.fetch_add(millis, Ordering::SeqCst);
    }

    async fn settle(&mut self, _: &Arc<Local>) {}
}

limits::conformance_tests!(OneProcess::new());
