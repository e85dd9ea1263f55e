//! What every store must do, as a suite that each one's tests run.
//!
//! ```ignore
//! spool::conformance_tests!(MyStage::new());
//! ```
//!
//! A [`Stage`] opens stores, kills them and moves their clock. A promise is a function here, and panics when it isn't
//! kept.

mod administration;
mod events;
mod keeping;
mod leasing;
mod room;
pub mod sample;

use std::future::Future;
use std::time::Duration;

use mail::Timestamp;

use crate::{Lease, Spool};

pub use administration::*;
pub use events::*;
pub use keeping::*;
pub use leasing::*;
pub use room::*;

/// How a store is to be set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Lanes that accounts are spread over.
    pub lanes: u16,
    /// Octets that the store may take, 0 for as many as there are.
    pub octets_max: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self { lanes: 4, octets_max: 0 }
    }
}

/// Where stores of one kind are opened, killed, and opened again.
pub trait Stage: Send {
    /// The store.
    type Spool: Spool;

    /// Opens the store, with all that it kept before.
    fn open(&mut self, setup: Setup) -> impl Future<Output = Self::Spool> + Send;

    /// Ends it as a kill -9 does, whoever still has leases; what they do afterwards has no effect on what is opened next.
    fn kill(&mut self, spool: Self::Spool) -> impl Future<Output = ()> + Send;

    /// What time the store takes it to be.
    fn now(&self) -> Timestamp;

    /// Moves the store's clock; what is due then is ready when it answers, leases that have lapsed then have lapsed.
    fn advance(&mut self, millis: u64) -> impl Future<Output = ()> + Send;

    /// Seconds that a lease lasts.
    fn lease_secs(&self) -> u64;
}

/// Makes a `tokio` test of each promise; the argument is an expression that gives a fresh [`Stage`].
#[macro_export]
macro_rules! conformance_tests {
    ($stage:expr) => {
        $crate::conformance_tests! { @each $stage;
            accepted_mail_survives_a_kill,
            a_kill_between_any_two_steps_loses_and_repeats_nothing,
            a_report_comes_with_the_settlement_that_makes_it,
            a_report_is_answered_once,
            narrowing_leaves_the_rest,
            content_lives_until_the_last_job_ends,
            large_content_comes_in_pieces,
            a_message_without_content_is_kept,
            the_same_message_twice_is_kept_once,
            a_lease_that_is_not_touched_lapses,
            a_dropped_lease_is_ready_at_once,
            a_cancelled_lease_loses_no_job,
            a_job_waits_until_it_is_due,
            a_message_waits_until_its_time,
            due_jobs_go_before_fresh_ones,
            an_account_does_not_hold_up_another_of_its_lane,
            a_lane_does_not_hold_up_another,
            each_waiting_worker_gets_a_job,
            held_jobs_stay_held_until_released,
            a_leased_job_is_held_when_it_comes_back,
            a_removed_job_is_gone,
            every_selection_means_its_jobs,
            looking_pages_in_order,
            the_summary_counts,
            a_closed_store_says_so,
            a_full_store_drains_by_bouncing,
            a_full_store_drains_by_deferring,
            appended_events_survive_a_kill,
            noted_events_are_durable_with_the_next_append,
            many_writers_lose_nothing,
            events_are_read_since_an_instant,
            events_of_chosen_messages_are_read,
            followers_see_what_comes,
            reading_until_now_ends,
        }
    };
    (@each $stage:expr; $($promise:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                $crate::conformance::$promise(&mut $stage).await;
            }
        )*
    };
}

/// How long the suite waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

fn must<T, E: std::fmt::Debug>(result: Result<T, E>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error:?}"),
    }
}

/// The jobs that are ready, up to `max`; there must be one.
async fn lease<S: Spool>(spool: &S, max: usize) -> Vec<S::Lease> {
    must(tokio::time::timeout(PATIENCE, spool.lease(max)).await, "lease a job in time")
}

async fn lease_one<S: Spool>(spool: &S) -> S::Lease {
    let mut leases = lease(spool, 1).await;
    assert_eq!(leases.len(), 1, "one job was asked for");
    leases.remove(0)
}

/// So many jobs; a lease may give fewer than are ready.
async fn leases_of<S: Spool>(spool: &S, count: usize) -> Vec<S::Lease> {
    let mut leases = Vec::new();
    while leases.len() < count {
        leases.extend(lease(spool, count - leases.len()).await);
    }
    leases
}

/// All octets that a lease gives.
async fn read<L: Lease>(lease: &L) -> Vec<u8> {
    let mut octets = Vec::new();
    loop {
        let piece = must(lease.content(octets.len() as u64).await, "read content");
        if piece.is_empty() {
            return octets;
        }
        octets.extend_from_slice(&piece);
    }
}
