//! What holds while the server is away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use limits::{Connection, Limits, Quota, SiteLimits, Slot, Urgency};
use tests::redis::{Kind, Memory};
use tokio::task::JoinSet;

use crate::{FOUR, Shared, open, open_all, opened, taken, taken_in_all, until};

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_each_member_has_its_share_of_the_connections() {
    let mut shared = Shared::new(Kind::Redis, Memory::Kept);
    shared.settings.restart = Duration::ZERO;
    let members = shared.members(3).await;
    for member in &members {
        // Past the first lease's time of a new server.
        drop(opened(member, "another site", FOUR).await);
    }
    let held = opened(&members[1], "held", FOUR).await;
    shared.server.kill();
    let (mut counts, mut leases) = (Vec::new(), Vec::new());
    for member in &members {
        for connections in [4, 1] {
            let site = format!("limit of {connections}");
            let got = open_all(member, &site, SiteLimits { connections, ..FOUR }).await;
            counts.push(got.len());
            leases.extend(got);
        }
    }
    assert_eq!(counts, [2, 1, 1, 0, 1, 0]);
    // What was held before counts.
    assert!(open(&members[1], "held", FOUR).await.is_none());
    for (rank, member) in members.iter().enumerate() {
        let status = member.status();
        assert!(!status.shared && status.away_for.is_some() && status.answered_locally > 0, "{status:?}");
        assert_eq!((status.members, status.rank), (3, u32::try_from(rank).ok()));
    }
    shared.server.start_again();
    for member in &members {
        until("the server is back", || member.status().shared).await;
        assert_eq!(member.status().away_for, None);
        member.settle().await;
    }
    // What was granted without the server is known to it now, and to all.
    for member in &members {
        assert!(open(member, "limit of 4", FOUR).await.is_none());
    }
    drop((held, leases));
    let all = [opened(&members[2], "limit of 4", FOUR).await, opened(&members[2], "limit of 4", FOUR).await];
    drop(all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_waited_for_once() {
    let shared = Shared::new(Kind::Redis, Memory::Kept);
    let member = shared.member().await;
    let limits = SiteLimits { messages_per_sec: 1000.0, burst: 1000, connections: 0 };
    assert!(matches!(member.slot("site", limits, 1, Urgency::Fresh).await, Slot::Go(_)));
    shared.server.stop();
    let before = member.status().answered_locally;
    let asking = async {
        for turn in 0..1000u32 {
            let user = format!("user{turn}");
            let address = std::net::IpAddr::V4(turn.into());
            assert!(matches!(member.slot("site", limits, 1, Urgency::Fresh).await, Slot::Go(1)));
            assert!(matches!(member.connection("site", limits).await, Connection::Granted(_)));
            assert!(matches!(member.take_quota("a", None, 1).await, Quota::Taken(_)));
            assert_eq!(member.login_wait(&user, address).await, None);
        }
    };
    // If each of the four thousand waited, it would take half an hour.
    tokio::time::timeout(Duration::from_secs(300), asking).await.unwrap();
    assert_eq!(member.status().answered_locally - before, 4000);
    shared.server.go_on();
    until("the server is back", || member.status().shared).await;
    let answered = member.status().answered_shared;
    assert!(matches!(member.slot("site", limits, 1, Urgency::Fresh).await, Slot::Go(_)));
    assert_eq!(member.status().answered_shared, answered + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_shared_out_while_the_server_is_away_and_exact_again_afterwards() {
    let mut shared = Shared::new(Kind::Redis, Memory::Kept);
    let members = shared.members(3).await;
    for member in &members {
        assert!(taken(member, "a", 100, 10).await);
    }
    // Everybody knows that 30 are used.
    for member in &members {
        assert_eq!(member.quota_used("a").await, 30);
    }
    let Quota::Taken(given_back) = members[0].take_quota("a", Some(100), 10).await else { panic!("70 left") };
    for member in &members {
        assert_eq!(member.quota_used("a").await, 40);
    }
    shared.server.kill();
    let mut used = Vec::new();
    for member in &members {
        used.push(taken_in_all(member, "a", 100).await);
    }
    assert_eq!(used, [20, 20, 20]);
    // Given back when nobody can be told, by a ticket of the server's and by one of the member's own.
    drop(given_back);
    let Quota::Taken(_) = members[1].take_quota("b", Some(100), 7).await else { panic!("a share of 100") };
    assert_eq!(members[1].quota_used("b").await, 0);
    assert!(taken(&members[1], "b", 100, 5).await);
    shared.server.start_again();
    for member in &members {
        until("the server is back", || member.status().shared).await;
        member.settle().await;
    }
    assert_eq!((members[2].quota_used("a").await, members[0].quota_used("b").await), (90, 5));
    assert_eq!(taken_in_all(&members[0], "a", 100).await, 10);
    assert_eq!(taken_in_all(&members[1], "a", 100).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_over_three_members_with_the_server_and_without() {
    let mut shared = Shared::new(Kind::Redis, Memory::Kept);
    let members = shared.members(3).await;
    let limits = SiteLimits { messages_per_sec: 50.0, burst: 10, connections: 0 };
    for site in ["with", "without"] {
        if site == "without" {
            shared.server.kill();
            for member in &members {
                let _ = member.quota_used("a").await;
                assert!(!member.status().shared);
            }
        }
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for member in &members {
            for _ in 0..4 {
                let member = Arc::clone(member);
                tasks.spawn(async move {
                    let mut gone = 0;
                    while started.elapsed() < Duration::from_secs(5) {
                        if let Slot::Go(messages) = member.slot(site, limits, 1, Urgency::Due).await {
                            gone += messages;
                        }
                    }
                    gone
                });
            }
        }
        let gone = f64::from(tasks.join_all().await.into_iter().sum::<u32>());
        let most = 10.0 + 50.0 * started.elapsed().as_secs_f64() + 1.0;
        assert!(gone <= most, "{gone} went {site} the server, of {most}");
        // What nobody asks for in time isn't made up for, so that a busy machine sends less.
        assert!(gone >= 125.0, "{gone} went {site} the server");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_starts_without_the_server_and_takes_no_more_than_an_equal_part() {
    let mut shared = Shared::new(Kind::Redis, Memory::Kept);
    shared.server.kill();
    shared.settings.pods = 3;
    let member = shared.member().await;
    let status = member.status();
    assert_eq!((status.shared, status.members, status.rank), (false, 3, None));
    assert_eq!(open_all(&member, "site", FOUR).await.len(), 1);
    assert_eq!(taken_in_all(&member, "a", 100).await, 33);
    shared.server.start_again();
    until("the server is there", || member.status().shared).await;
    member.settle().await;
    assert_eq!(shared.member().await.quota_used("a").await, 33);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_count_through_an_absence() {
    let mut shared = Shared::new(Kind::Redis, Memory::Kept);
    let members = shared.members(2).await;
    let address = std::net::IpAddr::from([192, 0, 2, 1]);
    let guess = async |name| {
        // So many that the next one waits for longer than a test takes.
        for _ in 0..14 {
            members[0].login_failed(name, address).await;
        }
    };
    guess("anna").await;
    assert!(members[1].login_wait("anna", address).await.is_some());
    shared.server.kill();
    // Who counted them still knows.
    assert!(members[0].login_wait("anna", address).await.is_some());
    assert!(!members[0].status().shared);
    guess("berta").await;
    shared.server.start_again();
    for member in &members {
        until("the server is back", || member.status().shared).await;
        member.settle().await;
    }
    for name in ["anna", "berta"] {
        assert!(members[1].login_wait(name, address).await.is_some(), "{name}");
    }
    assert_eq!(members[1].login_wait("berta", [198, 51, 100, 1].into()).await, None);
}
