//! Promises about connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::task::JoinSet;

use super::Stage;
use crate::{Connection, Limits, SiteLimits};

const FOUR: SiteLimits = SiteLimits { messages_per_sec: 0.0, burst: 1, connections: 4 };
const ANY: SiteLimits = SiteLimits { connections: 0, ..FOUR };

async fn open<L: Limits>(member: &L, site: &str, limits: SiteLimits) -> Option<L::Connection> {
    match member.connection(site, limits).await {
        Connection::Granted(lease) => Some(lease),
        Connection::Wait(wait) => {
            assert!(!wait.is_zero() && wait.as_secs() <= 900, "{wait:?}");
            None
        }
    }
}

/// Twelve who open and close as fast as they can, in two members.
pub async fn connections_never_exceed_the_limit<S: Stage>(stage: &mut S) {
    let members = [Arc::new(stage.join().await), Arc::new(stage.join().await)];
    let (open_now, most, opened) =
        (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut tasks = JoinSet::new();
    for task in 0..12 {
        let member = Arc::clone(&members[task % 2]);
        let (open_now, most, opened) = (Arc::clone(&open_now), Arc::clone(&most), Arc::clone(&opened));
        tasks.spawn(async move {
            for _ in 0..40 {
                if let Some(lease) = open(&*member, "site", FOUR).await {
                    most.fetch_max(open_now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    opened.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    open_now.fetch_sub(1, Ordering::SeqCst);
                    drop(lease);
                }
                tokio::task::yield_now().await;
            }
        });
    }
    tasks.join_all().await;
    let (most, opened) = (most.load(Ordering::SeqCst), opened.load(Ordering::SeqCst));
    assert!((1..=4).contains(&most), "{most} at a time");
    assert!(opened > 4, "{opened} in all");
    // All were given back.
    for member in &members {
        stage.settle(member).await;
    }
    let mut held = Vec::new();
    for member in members.iter().cycle().take(4) {
        held.push(open(&**member, "site", FOUR).await.unwrap_or_else(|| panic!("room for four")));
    }
    for member in &members {
        assert!(open(&**member, "site", FOUR).await.is_none());
    }
}

/// Dropped by one member, it can be had by another; other sites have nothing to do with it.
pub async fn a_connection_given_back_makes_room_at_its_site<S: Stage>(stage: &mut S) {
    let members = [stage.join().await, stage.join().await];
    let one = SiteLimits { connections: 1, ..FOUR };
    let lease = open(&members[0], "site", one).await;
    assert!(lease.is_some());
    assert!(open(&members[1], "site", one).await.is_none());
    assert!(open(&members[1], "other", one).await.is_some());
    drop(lease);
    stage.settle(&members[0]).await;
    assert!(open(&members[1], "site", one).await.is_some());
}

/// Nobody knows of the others' probes but by the counters.
pub async fn a_mute_site_is_probed_by_two_until_one_answers<S: Stage>(stage: &mut S) {
    let members = [stage.join().await, stage.join().await];
    for limits in [ANY, FOUR] {
        let site = format!("site with {}", limits.connections);
        members[0].unanswered(&site);
        stage.settle(&members[0]).await;
        // One that didn't answer once isn't mute.
        let first = open(&members[1], &site, limits).await;
        assert!(first.is_some());
        members[1].unanswered(&site);
        stage.settle(&members[1]).await;
        // The one that is still open doesn't keep the probes away.
        let probes = [open(&members[0], &site, limits).await, open(&members[1], &site, limits).await];
        assert!(probes.iter().all(Option::is_some));
        assert!(open(&members[0], &site, limits).await.is_none());
        drop(probes);
        for member in &members {
            member.unanswered(&site);
            stage.settle(member).await;
        }
        let probe = open(&members[1], &site, limits).await;
        assert!(probe.is_some() && open(&members[0], &site, limits).await.is_some());
        members[1].answered(&site);
        stage.settle(&members[1]).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(open(&members[0], &site, limits).await.unwrap_or_else(|| panic!("it answers again")));
        }
    }
}
