//! Promises about recipients a day.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::Stage;
use crate::{Limits, Quota, QuotaTicket};

async fn taken<L: Limits>(member: &L, account: &str, per_day: u64, recipients: u32) -> bool {
    match member.take_quota(account, Some(per_day), recipients).await {
        Quota::Taken(ticket) => {
            ticket.keep();
            true
        }
        Quota::Exhausted { resets_in } => {
            assert!(!resets_in.is_zero() && resets_in.as_secs() <= 86_400, "{resets_in:?}");
            false
        }
    }
}

/// A hundred of two hundred, from two members at once.
pub async fn a_quota_holds_exactly_however_many_ask_at_once<S: Stage>(stage: &mut S) {
    let members = [Arc::new(stage.join().await), Arc::new(stage.join().await)];
    let mut tasks = JoinSet::new();
    for task in 0..100 {
        let member = Arc::clone(&members[task % 2]);
        tasks.spawn(async move {
            u32::from(taken(&*member, "a", 100, 1).await) + u32::from(taken(&*member, "a", 100, 1).await)
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<u32>(), 100);
    for member in members {
        assert_eq!(member.quota_used("a").await, 100);
    }
}

/// A dropped ticket is given back, a kept one isn't.
pub async fn what_does_not_end_in_an_acceptance_is_given_back<S: Stage>(stage: &mut S) {
    let members = [stage.join().await, stage.join().await];
    assert!(taken(&members[0], "a", 100, 40).await);
    let Quota::Taken(ticket) = members[1].take_quota("a", Some(100), 60).await else { panic!("60 are left") };
    assert!(!taken(&members[0], "a", 100, 1).await);
    drop(ticket);
    stage.settle(&members[1]).await;
    assert_eq!(members[0].quota_used("a").await, 40);
    assert!(!taken(&members[0], "a", 100, 61).await);
    assert!(taken(&members[1], "a", 100, 60).await);
    assert!(taken(&members[0], "b", 1, 1).await);
    assert!(!taken(&members[0], "c", 0, 1).await);
}

/// Without a quota there is nothing to use up, and a quota that comes later knows what was used.
pub async fn an_account_without_a_quota_is_counted_and_not_limited<S: Stage>(stage: &mut S) {
    let members = [stage.join().await, stage.join().await];
    for turn in 0..100 {
        let Quota::Taken(ticket) = members[turn % 2].take_quota("a", None, 7).await else {
            panic!("limited")
        };
        ticket.keep();
    }
    assert_eq!(members[0].quota_used("a").await, 700);
    assert!(!taken(&members[1], "a", 700, 1).await);
}
