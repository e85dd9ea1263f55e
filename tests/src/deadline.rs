//! Waiting for a condition.

use std::time::{Duration, Instant};

/// How long anything may take that should take no time at all; generous, since machines are slow at times.
pub const SOON: Duration = Duration::from_secs(30);

/// Asks every 20 ms until there is an answer.
///
/// # Panics
/// When there is none in time: with `what`, which says what was waited for.
pub fn until<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {within:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// [`until`] for a condition.
pub fn until_true(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    until(what, within, || holds().then_some(()));
}
