//! Jobs that wait for a connection to their destination, and how many connections there are.
//!
//! ```text
//! submit --idle connection or room in the queue--> queue --next--> connection
//!        --more connections are worth it---------> a new connection, with the longest waiting job in its hands
//!        --neither, or the destination is mute---> back to the spool, at the pace that the destination takes
//! ```
//!
//! Jobs that need different levels of TLS never share a connection: each level has a pool of its own.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mail::TlsRequirement;
use tokio::sync::Notify;

use crate::cache::lock;
use crate::route::Route;
use crate::work::Work;

/// No job waits longer for a connection.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// A job that has waited this long is worth one more connection.
const WORTH_A_CONNECTION: Duration = Duration::from_millis(200);
/// So many connections are opened without asking whether they are worth it, and no more before one of them is answered.
const OPENED_AT_ONCE: u32 = 2;
/// No job is told to come back later than this for want of a connection.
const PACE_MAX: Duration = Duration::from_secs(1800);
const SHARDS: usize = 16;

/// A job that is ready for its transaction.
pub(crate) struct Parcel<L> {
    pub(crate) work: Work<L>,
    pub(crate) route: Arc<Route>,
    pub(crate) requirement: TlsRequirement,
    pub(crate) signature: Option<Arc<str>>,
    /// When it began to wait for a connection.
    pub(crate) since: Instant,
}

/// Which connections may be shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    destination: Arc<str>,
    requirement: TlsRequirement,
}

/// What becomes of a submitted job.
pub(crate) enum Submitted<L> {
    /// It waits.
    Queued,
    /// A new connection is to be opened, with this job first.
    Open(Place<L>, Parcel<L>),
    /// It can't wait here; it is to come back after this time.
    Later(Duration, Parcel<L>),
}

pub(crate) struct Pools<L> {
    shards: [Mutex<HashMap<Key, Arc<Pool<L>>>>; SHARDS],
    hasher: RandomState,
    queue_max: usize,
}

pub(crate) struct Pool<L> {
    connections_max: u32,
    state: Mutex<State<L>>,
    /// Rung for idle connections when there is a job.
    arrived: Notify,
}

struct State<L> {
    queue: VecDeque<Parcel<L>>,
    /// Connections, also those that are only being opened.
    open: u32,
    /// Those that the destination has answered.
    answered: u32,
    idle: u32,
    /// Since when connections are tried without an answer.
    unanswered_since: Option<Instant>,
    /// Until when the site's limits allow no connection.
    denied_until: Option<Instant>,
    pace: Pace,
}

impl<L> Pools<L> {
    pub(crate) fn new(queue_max: usize) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new(), queue_max }
    }

    /// Takes a job in, if it can; `connections_max` holds for the destination.
    pub(crate) fn submit(&self, mut parcel: Parcel<L>, connections_max: u32) -> Submitted<L> {
        let pool = self.pool(&parcel, connections_max);
        parcel.since = Instant::now();
        let mut state = lock(&pool.state);
        if state.idle as usize > state.queue.len() {
            state.queue.push_back(parcel);
            drop(state);
            pool.arrived.notify_one();
            return Submitted::Queued;
        }
        if state.wants_connection(pool.connections_max) {
            state.enter();
            state.queue.push_back(parcel);
            if let Some(first) = state.queue.pop_front() {
                drop(state);
                return Submitted::Open(Place::new(pool), first);
            }
        } else if state.queue.len() < self.queue_max && !state.is_mute() {
            state.queue.push_back(parcel);
        } else {
            return Submitted::Later(state.later(Instant::now()), parcel);
        }
        Submitted::Queued
    }

    /// Looks at all that wait: who waited too long comes back out, and where more connections are worth it one is to be
    /// opened. Pools that nobody uses are forgotten.
    pub(crate) fn sweep(&self) -> Vec<Submitted<L>> {
        let mut found = Vec::new();
        for shard in &self.shards {
            lock(shard).retain(|_, pool| {
                let mut state = lock(&pool.state);
                while let Some(first) = state.queue.pop_front_if(|first| first.since.elapsed() >= PATIENCE) {
                    let later = state.later(Instant::now());
                    found.push(Submitted::Later(later, first));
                }
                if !state.queue.is_empty()
                    && state.idle == 0
                    && state.wants_connection(pool.connections_max)
                    && let Some(first) = state.queue.pop_front()
                {
                    state.enter();
                    found.push(Submitted::Open(Place::new(Arc::clone(pool)), first));
                }
                state.open > 0
                    || !state.queue.is_empty()
                    || Arc::strong_count(pool) > 1
                    || state.pace.is_ahead(Instant::now())
            });
        }
        found
    }

    fn pool(&self, parcel: &Parcel<L>, connections_max: u32) -> Arc<Pool<L>> {
        let key = Key { destination: Arc::clone(&parcel.route.destination), requirement: parcel.requirement };
        let shard = self.hasher.hash_one(&key) as usize % SHARDS;
        let mut pools = lock(&self.shards[shard]);
        let pool = pools.entry(key).or_insert_with(|| {
            let state = State {
                queue: VecDeque::new(),
                open: 0,
                answered: 0,
                idle: 0,
                unanswered_since: None,
                denied_until: None,
                pace: Pace::new(Instant::now()),
            };
            Arc::new(Pool { connections_max, state: Mutex::new(state), arrived: Notify::new() })
        });
        Arc::clone(pool)
    }
}

impl<L> State<L> {
    /// One more connection is to be opened.
    fn enter(&mut self) {
        self.open += 1;
    }

    /// A connection is being opened: from now on the destination may answer.
    fn tried(&mut self, now: Instant) {
        self.denied_until = None;
        if self.answered == 0 {
            self.unanswered_since.get_or_insert(now);
        }
    }

    /// When a job comes back for which there is no room.
    fn later(&mut self, now: Instant) -> Duration {
        let denied = self.answered == 0 && !self.is_mute();
        match self.denied_until.filter(|until| denied && *until > now) {
            Some(until) => self.pace.after(now, until),
            None => self.pace.later(now),
        }
    }

    /// A connection is answered. What was learned while the destination was mute says nothing of its pace.
    fn answer(&mut self, now: Instant) {
        if self.is_mute() {
            self.pace = Pace::new(now);
        }
        self.answered += 1;
        self.unanswered_since = None;
    }

    /// Whether the destination has not answered for so long that waiting for it in memory is no use.
    fn is_mute(&self) -> bool {
        self.unanswered_since.is_some_and(|since| since.elapsed() >= PATIENCE)
    }

    fn leave(&mut self, answered: bool) {
        self.open -= 1;
        self.answered -= u32::from(answered);
    }

    /// One more connection helps when none or few are open, or when jobs wait although all are busy. There are never more
    /// unanswered ones than answered ones but for the first two: a destination that doesn't answer holds up few jobs.
    fn wants_connection(&self, connections_max: u32) -> bool {
        let waited = || self.queue.front().is_some_and(|first| first.since.elapsed() >= WORTH_A_CONNECTION);
        self.open < connections_max
            && self.open - self.answered < self.answered.max(OPENED_AT_ONCE)
            && (self.open < OPENED_AT_ONCE || self.queue.len() >= self.open as usize || waited())
    }
}

/// A connection's place among those of its pool.
pub(crate) struct Place<L> {
    pool: Arc<Pool<L>>,
    answered: bool,
    left: bool,
}

impl<L> Place<L> {
    fn new(pool: Arc<Pool<L>>) -> Self {
        Self { pool, answered: false, left: false }
    }

    /// The limits allow no connection for so long; that says nothing of the destination.
    pub(crate) fn denied(&self, wait: Duration) {
        lock(&self.pool.state).denied_until = Some(Instant::now() + wait);
    }

    /// A connection is about to be opened.
    pub(crate) fn tried(&self) {
        lock(&self.pool.state).tried(Instant::now());
    }

    /// The destination has answered: others may follow.
    pub(crate) fn answered(&mut self) {
        if !self.answered {
            self.answered = true;
            lock(&self.pool.state).answer(Instant::now());
        }
    }

    /// The destination dealt with a job.
    pub(crate) fn served(&self) {
        lock(&self.pool.state).pace.served(Instant::now());
    }

    /// The job that waited longest, for a connection that is ready for it.
    pub(crate) fn next(&self) -> Option<Parcel<L>> {
        lock(&self.pool.state).queue.pop_front()
    }

    /// Waits for a job as long as `idle`.
    pub(crate) async fn wait(&self, idle: Duration) -> Option<Parcel<L>> {
        let _idle = Idle::new(&self.pool);
        let until = tokio::time::sleep(idle);
        tokio::pin!(until);
        loop {
            let mut arrived = std::pin::pin!(self.pool.arrived.notified());
            arrived.as_mut().enable();
            if let Some(next) = self.next() {
                return Some(next);
            }
            tokio::select! {
                () = arrived => {}
                () = &mut until => return self.next(),
            }
        }
    }

    /// Gives the place up, unless it is the last one and jobs still wait: then it goes on with the first of them.
    pub(crate) fn next_or_leave(&mut self) -> Option<Parcel<L>> {
        let mut state = lock(&self.pool.state);
        if state.open == 1
            && let Some(first) = state.queue.pop_front()
        {
            return Some(first);
        }
        self.left = true;
        state.leave(self.answered);
        None
    }
}

impl<L> Drop for Place<L> {
    fn drop(&mut self) {
        if !self.left {
            lock(&self.pool.state).leave(self.answered);
        }
    }
}

/// Counts a waiting connection while it waits.
struct Idle<'a, L>(&'a Pool<L>);

impl<'a, L> Idle<'a, L> {
    fn new(pool: &'a Pool<L>) -> Self {
        lock(&pool.state).idle += 1;
        Self(pool)
    }
}

impl<L> Drop for Idle<'_, L> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.idle -= 1;
        // A notice that this connection took and can't follow is passed on.
        if state.idle > 0 && !state.queue.is_empty() {
            self.0.arrived.notify_one();
        }
    }
}

/// When those come back who found no room: one after another, as fast as the destination took jobs lately.
struct Pace {
    since: Instant,
    taken: u32,
    per_sec: f64,
    horizon: Instant,
}

impl Pace {
    const WINDOW: Duration = Duration::from_secs(5);
    const PER_SEC_MIN: f64 = 0.1;
    /// As long as nothing is known.
    const PER_SEC_AT_FIRST: f64 = 10.0;
    /// The least of those who come back from a time in which nothing could be tried.
    const PER_SEC_UNTRIED: f64 = 100.0;

    fn new(now: Instant) -> Self {
        Self { since: now, taken: 0, per_sec: Self::PER_SEC_AT_FIRST, horizon: now }
    }

    fn served(&mut self, now: Instant) {
        self.taken += 1;
        self.look(now);
    }

    /// Measures anew when a window is over. A window in which nothing was taken halves the pace: a pause isn't the end.
    fn look(&mut self, now: Instant) {
        let window = now.saturating_duration_since(self.since);
        if window < Self::WINDOW {
            return;
        }
        let measured = if self.taken > 0 {
            f64::from(self.taken) / window.as_secs_f64()
        } else {
            self.per_sec / window.div_duration_f64(Self::WINDOW).exp2()
        };
        self.per_sec = measured.max(Self::PER_SEC_MIN);
        (self.taken, self.since) = (0, now);
    }

    fn later(&mut self, now: Instant) -> Duration {
        self.look(now);
        let recent = f64::from(self.taken) / Self::WINDOW.as_secs_f64();
        let step = Duration::from_secs_f64(1.0 / self.per_sec.max(recent));
        self.horizon = self.horizon.max(now + PATIENCE) + step;
        (self.horizon - now).min(PACE_MAX)
    }

    /// The same while nothing can be tried before an instant: what isn't taken until then is no sign of the pace.
    fn after(&mut self, now: Instant, until: Instant) -> Duration {
        (self.taken, self.since) = (0, now);
        let step = Duration::from_secs_f64(1.0 / self.per_sec.max(Self::PER_SEC_UNTRIED));
        self.horizon = self.horizon.max(until) + step;
        (self.horizon - now).min(PACE_MAX)
    }

    /// Whether jobs were told to come back at an instant that is still to come.
    fn is_ahead(&self, now: Instant) -> bool {
        self.horizon > now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// How far apart two jobs come back that find no room now.
    fn step(pace: &mut Pace, now: Instant) -> f64 {
        let first = pace.later(now);
        (pace.later(now) - first).as_secs_f64()
    }

    #[test]
    fn jobs_come_back_as_fast_as_they_were_taken() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!(pace.later(start) >= PATIENCE);
        assert!((step(&mut pace, start) - 0.1).abs() < 1e-6, "ten a second as long as nothing is known");
        for millis in (50..=10_000).step_by(50) {
            pace.served(after(start, millis));
        }
        let step = step(&mut pace, after(start, 10_000));
        assert!((step - 0.05).abs() < 0.002, "twenty a second: {step}");
    }

    #[test]
    fn the_pace_of_who_takes_nothing_halves_down_to_its_least() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for (secs, expected) in [(5, 0.2), (10, 0.4), (20, 1.6), (60, 10.0), (600, 10.0)] {
            let step = step(&mut pace, after(start, secs * 1000));
            assert!((step - expected).abs() < 1e-3, "after {secs} s: {step}");
        }
        for _ in 0..10_000 {
            assert!(pace.later(after(start, 600_000)) <= PACE_MAX);
        }
    }

    fn state(now: Instant) -> State<()> {
        State {
            queue: VecDeque::new(),
            open: 0,
            answered: 0,
            idle: 0,
            unanswered_since: None,
            denied_until: None,
            pace: Pace::new(now),
        }
    }

    #[test]
    fn a_destination_is_mute_after_a_while_without_an_answer_and_starts_anew_with_the_first() {
        let mut state = state(Instant::now());
        state.enter();
        state.tried(Instant::now());
        assert!(!state.is_mute());
        state.leave(false);
        state.unanswered_since = Instant::now().checked_sub(PATIENCE);
        // Another try isn't an answer.
        state.enter();
        state.tried(Instant::now());
        assert!(state.is_mute());
        for _ in 0..1000 {
            state.pace.later(Instant::now());
        }
        state.answer(Instant::now());
        assert!(!state.is_mute());
        assert!(state.pace.later(Instant::now()) < PATIENCE * 2, "the wait of then isn't that of now");
    }

    #[test]
    fn one_answer_is_enough_as_long_as_a_connection_is_there() {
        let mut state = state(Instant::now());
        state.enter();
        state.answer(Instant::now());
        state.enter();
        state.tried(Instant::now());
        assert_eq!(state.unanswered_since, None);
    }

    #[test]
    fn a_time_in_which_nothing_may_be_tried_says_nothing_of_the_destination() {
        let start = Instant::now();
        let mut state = state(start);
        state.enter();
        state.denied_until = Some(after(start, 30_000));
        let waits: Vec<Duration> = (0..1_000).map(|job| state.later(after(start, 20 * job))).collect();
        assert!(!state.is_mute());
        assert!(waits[0] >= Duration::from_secs(30), "{:?}", waits[0]);
        let last = Duration::from_millis(20 * 999) + waits[999];
        assert!(last < Duration::from_secs(41), "a hundred a second from then on: {last:?}");
        state.tried(after(start, 30_000));
        assert!(state.unanswered_since.is_some());
    }
}
