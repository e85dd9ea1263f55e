//! What all counters must do, as a suite that each kind's tests run.
//!
//! ```ignore
//! limits::conformance_tests!(MyStage::new());
//! ```
//!
//! A [`Stage`] lets members join that share the same counters, and lets time pass. A promise is a function here, and panics when
//! it isn't kept. Counters with a clock of their own are asked in real time, so that promises about waits are made with rates
//! beside which the time of a test is nothing.

mod connections;
mod logins;
mod quotas;
mod slots;

use std::future::Future;
use std::time::Duration;

use crate::Limits;

pub use connections::*;
pub use logins::*;
pub use quotas::*;
pub use slots::*;

/// Where counters of one kind are shared by members.
pub trait Stage: Send {
    /// A member's counters.
    type Limits: Limits;

    /// One more member that shares the counters of this stage.
    fn join(&mut self) -> impl Future<Output = Self::Limits> + Send;

    /// Lets so much time pass for the counters.
    fn pass(&mut self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Waits until what `member` reported or gave back is known to the others.
    fn settle(&mut self, member: &Self::Limits) -> impl Future<Output = ()> + Send;
}

/// Makes a `tokio` test of each promise; the argument is an expression that gives a fresh [`Stage`].
#[macro_export]
macro_rules! conformance_tests {
    ($stage:expr) => {
        $crate::conformance_tests! { @each $stage;
            a_backlog_is_told_when_to_come_back_in_the_order_of_asking,
            who_can_go_within_two_seconds_goes,
            due_jobs_go_before_fresh_ones,
            a_due_job_without_a_token_is_moved_a_little_only,
            a_changed_rate_moves_what_was_given_away_of_the_future,
            unused_tokens_go_back,
            a_site_without_a_rate_is_counted_out,
            no_second_sees_more_than_the_rate_after_the_burst,
            connections_never_exceed_the_limit,
            a_connection_given_back_makes_room_at_its_site,
            a_mute_site_is_probed_by_two_until_one_answers,
            a_quota_holds_exactly_however_many_ask_at_once,
            what_does_not_end_in_an_acceptance_is_given_back,
            an_account_without_a_quota_is_counted_and_not_limited,
            guesses_are_slowed_and_the_right_password_from_elsewhere_works,
            one_address_guessing_many_names_is_slowed,
            honest_logins_at_once_all_get_in,
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
