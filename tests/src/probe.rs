//! How long single messages take from their acceptance to their receiver, while other things go on.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::deadline::{SOON, until_true};
use crate::fleet::Fleet;
use crate::lab::Lab;
use crate::message;
use crate::mx::Mx;

const FROM: &str = "hello@sender.test";

/// Receivers that nothing else is sent to.
pub struct Probe {
    receivers: Vec<(String, Mx)>,
    sent: AtomicUsize,
}

impl Probe {
    /// So many of them, each for a domain of its own.
    pub fn new(lab: &Lab, receivers: usize) -> Self {
        let receiver = |number| {
            let domain = format!("probe{number}.test");
            let mx = lab.mx(&domain);
            (domain, mx)
        };
        Self { receivers: (0..receivers).map(receiver).collect(), sent: AtomicUsize::new(0) }
    }

    /// Submits so many messages to the receivers in turn, one each `pause`, as long as `while_true`; waits for all of them.
    ///
    /// # Panics
    /// When one isn't accepted, or doesn't arrive.
    pub fn run(
        &self,
        fleet: &Fleet,
        count: usize,
        pause: Duration,
        mut while_true: impl FnMut() -> bool,
    ) -> Times {
        let mut client = fleet.login(0);
        let begin = Instant::now();
        let mut accepted = HashMap::new();
        for number in 0..count {
            let due = begin + pause * u32::try_from(number).expect("few messages");
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if !while_true() {
                break;
            }
            let place = self.sent.fetch_add(1, Ordering::Relaxed);
            let (domain, _) = &self.receivers[place % self.receivers.len()];
            let to = format!("user{place}@{domain}");
            let reply = client.submit(FROM, &[&to], &message::text(FROM, &to, "x", "Hello."));
            assert_eq!(reply.code, 250, "{reply:?}");
            accepted.insert(to, Instant::now());
        }
        let sent = self.sent.load(Ordering::Relaxed);
        let arrived = || self.receivers.iter().map(|(_, mx)| mx.count()).sum::<usize>();
        until_true("every message has arrived", SOON * 10, || arrived() >= sent);
        let mut times = Vec::new();
        for received in self.receivers.iter().flat_map(|(_, mx)| mx.messages()) {
            for recipient in received.recipients() {
                if let Some(accepted) = accepted.remove(recipient) {
                    times.push(received.at.saturating_duration_since(accepted));
                }
            }
        }
        assert!(accepted.is_empty(), "they didn't arrive: {:?}", accepted.keys());
        times.sort_unstable();
        Times(times)
    }
}

/// Times from acceptance to arrival, in ascending order.
pub struct Times(Vec<Duration>);

impl Times {
    /// The time within which so many of a hundred arrived; zero when there were none.
    pub fn percentile(&self, percent: usize) -> Duration {
        self.0.get(self.0.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, most, worst] = [50, 99, 100].map(|percent| self.percentile(percent));
        write!(f, "{} messages: p50 {median:.1?}, p99 {most:.1?}, at most {worst:.1?}", self.0.len())
    }
}
