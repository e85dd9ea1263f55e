//! Promises about when messages may go.

use std::time::Duration;

use super::Stage;
use crate::{Limits, SiteLimits, Slot, Urgency};

/// A token every 100 s: beside it a test takes no time.
const SLOW: SiteLimits = SiteLimits { messages_per_sec: 0.01, burst: 1, connections: 0 };
/// A token every 4 s.
const QUARTER: SiteLimits = SiteLimits { messages_per_sec: 0.25, burst: 1, connections: 0 };

fn wait(slot: Slot) -> f64 {
    match slot {
        Slot::Wait(wait) => wait.as_secs_f64(),
        Slot::Go(messages) => panic!("{messages} went at once"),
    }
}

/// Whoever asks, in whichever member, gets the next place of the line.
pub async fn a_backlog_is_told_when_to_come_back_in_the_order_of_asking<S: Stage>(stage: &mut S) {
    let members = [stage.join().await, stage.join().await];
    assert_eq!(members[0].slot("site", SLOW, 9, Urgency::Fresh).await, Slot::Go(1));
    for place in 1..=50u32 {
        let member = &members[place as usize % 2];
        let secs = wait(member.slot("site", SLOW, 1, Urgency::Fresh).await);
        let expected = f64::from(place) * 100.0;
        assert!(secs > expected - 60.0 && secs <= expected + 0.1, "place {place} waits {secs} s");
    }
    assert_eq!(members[1].slot("other", SLOW, 1, Urgency::Fresh).await, Slot::Go(1));
}

/// A short wait is waited out; nobody is sent away for it.
pub async fn who_can_go_within_two_seconds_goes<S: Stage>(stage: &mut S) {
    let member = stage.join().await;
    let limits = SiteLimits { messages_per_sec: 2.0, burst: 1, connections: 0 };
    for _ in 0..4 {
        assert_eq!(member.slot("site", limits, 1, Urgency::Fresh).await, Slot::Go(1));
    }
}

/// A fresh job doesn't take the token of one that was told to come back.
pub async fn due_jobs_go_before_fresh_ones<S: Stage>(stage: &mut S) {
    let members = [stage.join().await, stage.join().await];
    assert_eq!(members[0].slot("site", QUARTER, 1, Urgency::Fresh).await, Slot::Go(1));
    for place in 0..100 {
        wait(members[place % 2].slot("site", QUARTER, 1, Urgency::Fresh).await);
    }
    stage.pass(Duration::from_millis(4100)).await;
    assert!(wait(members[0].slot("site", QUARTER, 1, Urgency::Fresh).await) > 200.0);
    assert_eq!(members[1].slot("site", QUARTER, 1, Urgency::Due).await, Slot::Go(1));
}

/// It has waited already: it doesn't go to the end of the line.
pub async fn a_due_job_without_a_token_is_moved_a_little_only<S: Stage>(stage: &mut S) {
    let members = [stage.join().await, stage.join().await];
    assert_eq!(members[0].slot("site", QUARTER, 1, Urgency::Fresh).await, Slot::Go(1));
    for place in 0..200 {
        wait(members[place % 2].slot("site", QUARTER, 1, Urgency::Fresh).await);
    }
    let mut last = 0.0;
    for place in 0..50 {
        match members[place % 2].slot("site", QUARTER, 1, Urgency::Due).await {
            // On a slow machine a token may come meanwhile.
            Slot::Go(_) => {}
            Slot::Wait(wait) => last = f64::max(last, wait.as_secs_f64()),
        }
    }
    assert!(last > 15.0 && last <= 30.1, "a due job waits {last} s");
}

/// A tenfold rate brings the end of the line ten times nearer, and back.
pub async fn a_changed_rate_moves_what_was_given_away_of_the_future<S: Stage>(stage: &mut S) {
    let members = [stage.join().await, stage.join().await];
    assert_eq!(members[0].slot("site", SLOW, 1, Urgency::Fresh).await, Slot::Go(1));
    for place in 0..100 {
        wait(members[place % 2].slot("site", SLOW, 1, Urgency::Fresh).await);
    }
    let faster = SiteLimits { messages_per_sec: 0.1, ..SLOW };
    let secs = wait(members[0].slot("site", faster, 1, Urgency::Fresh).await);
    assert!(secs > 940.0 && secs < 1011.0, "{secs}");
    let secs = wait(members[1].slot("site", SLOW, 1, Urgency::Fresh).await);
    assert!(secs > 9400.0 && secs < 10_210.0, "{secs}");
}

/// What was taken and not used is there for others, up to the burst.
pub async fn unused_tokens_go_back<S: Stage>(stage: &mut S) {
    let members = [stage.join().await, stage.join().await];
    let limits = SiteLimits { burst: 4, ..SLOW };
    assert_eq!(members[0].slot("site", limits, 9, Urgency::Fresh).await, Slot::Go(4));
    members[0].return_slot("site", 3);
    stage.settle(&members[0]).await;
    assert_eq!(members[1].slot("site", limits, 2, Urgency::Fresh).await, Slot::Go(2));
    members[1].return_slot("site", 100);
    stage.settle(&members[1]).await;
    assert_eq!(members[0].slot("site", limits, 9, Urgency::Fresh).await, Slot::Go(4));
}

/// A rate of 0 is none.
pub async fn a_site_without_a_rate_is_counted_out<S: Stage>(stage: &mut S) {
    let member = stage.join().await;
    let limits = SiteLimits { messages_per_sec: 0.0, burst: 1, connections: 0 };
    for _ in 0..100 {
        assert_eq!(member.slot("site", limits, 1000, Urgency::Fresh).await, Slot::Go(1000));
    }
}

/// Many who ask at once in several members get the burst, and then what the rate gives.
pub async fn no_second_sees_more_than_the_rate_after_the_burst<S: Stage>(stage: &mut S) {
    let limits = SiteLimits { messages_per_sec: 0.01, burst: 20, connections: 0 };
    let members = [stage.join().await, stage.join().await, stage.join().await];
    let mut gone = 0;
    for _ in 0..30 {
        for member in &members {
            if let Slot::Go(messages) = member.slot("site", limits, 1, Urgency::Due).await {
                gone += messages;
            }
        }
    }
    assert_eq!(gone, 20);
}
