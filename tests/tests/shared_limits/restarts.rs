//! What holds over restarts of the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use limits::{Limits as _, SiteLimits, Slot, Urgency};
use tests::address;
use tests::redis::{Kind, Memory};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::{FOUR, Shared, open, open_all, opened, until};

/// Two members that open and close all the time, while a server that forgets everything is killed and started.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_open_no_connection_beyond_the_limit() {
    let mut shared = Shared::new(Kind::Redis, Memory::Lost);
    // A busy machine may take long for a restart, and for coming back.
    shared.settings.restart = Duration::from_secs(30);
    shared.settings.lease = Duration::from_secs(6);
    let members = shared.members(2).await;
    let (open_now, most, count) =
        (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for task in 0..8u64 {
        let member = Arc::clone(&members[usize::from(task > 2)]);
        let (open_now, most, count, stop) =
            (Arc::clone(&open_now), Arc::clone(&most), Arc::clone(&count), Arc::clone(&stop));
        tasks.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                if let Some(lease) = open(&member, "site", FOUR).await {
                    most.fetch_max(open_now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    count.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(30 + 40 * task)).await;
                    open_now.fetch_sub(1, Ordering::SeqCst);
                    drop(lease);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    for _ in 0..2 {
        let before = count.load(Ordering::SeqCst);
        until("four at a time", || open_now.load(Ordering::SeqCst) == 4).await;
        shared.server.kill();
        for member in &members {
            until("the server is missed", || !member.status().shared).await;
        }
        // Work goes on without it.
        let without = count.load(Ordering::SeqCst);
        until("a connection without the server", || count.load(Ordering::SeqCst) > without).await;
        shared.server.start_again();
        for member in &members {
            until("the server is back", || member.status().shared).await;
        }
        until("more connections", || count.load(Ordering::SeqCst) > before + 100).await;
    }
    stop.store(true, Ordering::SeqCst);
    tasks.join_all().await;
    assert_eq!(most.load(Ordering::SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_a_place_that_another_holds_while_the_server_is_gone_or_forgot_it() {
    let mut shared = Shared::new(Kind::Redis, Memory::Lost);
    shared.settings.restart = Duration::from_secs(60);
    shared.settings.lease = Duration::from_secs(6);
    let members = shared.members(2).await;
    // The second one knows the site, and thinks that nobody else has a connection.
    drop(opened(&members[1], "site", FOUR).await);
    members[1].settle().await;
    let mut held = vec![opened(&members[0], "site", FOUR).await];
    held.extend(open_all(&members[0], "site", FOUR).await);
    assert_eq!(held.len(), 4);
    shared.server.kill();
    for member in [&members[1], &members[0]] {
        assert!(open(member, "site", FOUR).await.is_none());
    }
    // One for one: a member may use again what it has.
    held.truncate(3);
    assert!(open(&members[1], "site", FOUR).await.is_none());
    held.push(opened(&members[0], "site", FOUR).await);
    shared.server.start_again();
    // The first one to come knows of nobody, and neither does the server.
    let third = shared.member().await;
    assert!(third.status().shared);
    assert!(open(&third, "site", FOUR).await.is_none());
    for member in &members {
        until("the server is back", || member.status().shared).await;
        member.settle().await;
    }
    for member in members.iter().chain([&third]) {
        assert!(open(member, "site", FOUR).await.is_none());
    }
    held.truncate(2);
    let others = [opened(&third, "site", FOUR).await, opened(&members[1], "site", FOUR).await];
    assert!(open(&members[0], "site", FOUR).await.is_none());
    drop(others);
}

/// A connection to the server that can be cut.
struct Wire {
    address: SocketAddr,
    _forwarding: JoinSet<()>,
}

impl Wire {
    async fn lay(to: SocketAddr, at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut forwarding = JoinSet::new();
        forwarding.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let mut server = TcpStream::connect(to).await.unwrap();
                    // However it ends, both sides see it.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { address, _forwarding: forwarding }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_first_leaves_the_others_what_they_opened_meanwhile() {
    let mut shared = Shared::new(Kind::Redis, Memory::Kept);
    shared.settings.restart = Duration::ZERO;
    let first = shared.member().await;
    let wire = Wire::lay(shared.server.address(), (address::fresh(), 0).into()).await;
    shared.settings.url = format!("redis://{}", wire.address);
    let second = shared.member().await;
    for member in [&first, &second] {
        until("two members", || member.status().members == 2).await;
        drop(opened(member, "another site", FOUR).await);
    }
    shared.server.stop();
    let mut held = Vec::new();
    for member in [&first, &second] {
        held.extend(open_all(member, "site", FOUR).await);
    }
    assert_eq!(held.len(), 4);
    let at = wire.address;
    drop(wire);
    shared.server.go_on();
    until("the server is back", || first.status().shared).await;
    first.settle().await;
    assert!(!second.status().shared);
    assert!(open(&first, "site", FOUR).await.is_none());
    let _wire = Wire::lay(shared.server.address(), at).await;
    until("the server is back", || second.status().shared).await;
    second.settle().await;
    for member in [&first, &second] {
        assert!(open(member, "site", FOUR).await.is_none());
    }
    drop(held);
    drop(opened(&second, "site", FOUR).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_connect_yet_is_told_a_place_in_the_line_behind_the_calm() {
    let mut shared = Shared::new(Kind::Redis, Memory::Lost);
    shared.settings.lease = Duration::from_secs(15);
    let begin = Instant::now();
    let members = shared.members(2).await;
    let limits = SiteLimits { messages_per_sec: 4.0, burst: 1, connections: 4 };
    let mut places = Vec::new();
    for number in 0..20 {
        match members[number % 2].slot("site", limits, 1, Urgency::Fresh).await {
            Slot::Wait(wait) => places.push(begin.elapsed() + wait),
            Slot::Go(_) => panic!("number {number} goes where it can't connect"),
        }
    }
    assert!(places[0] >= shared.settings.lease, "{places:?}");
    assert!(places.is_sorted() && places[19] - places[0] > Duration::from_secs(4), "{places:?}");
    let _connection = opened(&members[0], "site", limits).await;
    assert_eq!(members[0].slot("site", limits, 1, Urgency::Due).await, Slot::Go(1));
    assert!(matches!(members[0].slot("site", limits, 1, Urgency::Fresh).await, Slot::Wait(_)));
}
