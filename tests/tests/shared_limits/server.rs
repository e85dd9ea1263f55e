//! How the server is dealt with.

use std::future::Future as _;
use std::task::{Context, Waker};

use limits::redis::{Redis, Settings};
use limits::{Limits, SiteLimits, Slot, Urgency};
use tests::address;
use tests::certs::Authority;
use tests::redis::{Kind, Memory, RedisServer, free_port};

use crate::{FOUR, Shared, open, open_all, opened, taken};

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_nobody_renews_expires_and_a_renewed_one_does_not() {
    let shared = Shared::new(Kind::Redis, Memory::Kept);
    let one = SiteLimits { connections: 1, ..FOUR };
    let (dead, living) = (shared.member().await, shared.member().await);
    let orphan = opened(&dead, "orphan", one).await;
    let kept = opened(&living, "kept", one).await;
    // A member that is killed tells nobody; its leases are as if they had been forgotten here.
    std::mem::forget(orphan);
    drop(dead);
    let third = shared.member().await;
    let lease = opened(&third, "orphan", one).await;
    assert!(open(&third, "kept", one).await.is_none());
    drop((lease, kept));
    drop(opened(&third, "kept", one).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_gives_its_share_to_the_others_at_once() {
    let shared = Shared::new(Kind::Redis, Memory::Kept);
    let members = shared.members(2).await;
    members[0].close().await;
    assert!(shared.server.command("ZCARD {stagepost:members}:delivery").starts_with(":1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_the_server_forgot_are_given_to_it_again() {
    let shared = Shared::new(Kind::Redis, Memory::Kept);
    let member = shared.member().await;
    assert!(shared.server.command("SCRIPT FLUSH").starts_with("+OK"));
    assert!(taken(&member, "a", 10, 1).await);
    assert!(shared.server.command("SCRIPT FLUSH").starts_with("+OK"));
    drop(member.take_quota("a", Some(10), 5).await);
    member.settle().await;
    assert_eq!(member.quota_used("a").await, 1);
    assert_eq!(member.status().answered_locally, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_the_instances_own_and_none_stays_for_ever_but_the_epoch() {
    let mut shared = Shared::new(Kind::Redis, Memory::Kept);
    let member = shared.member().await;
    shared.settings.instance = "other".into();
    let other = shared.member().await;
    let limits = SiteLimits { messages_per_sec: 0.01, burst: 1, connections: 1 };
    for member in [&member, &other] {
        drop(opened(member, "site", limits).await);
        assert_eq!(member.slot("site", limits, 1, Urgency::Fresh).await, Slot::Go(1));
        member.unanswered("site");
        assert!(taken(member, "a", 1, 1).await);
        member.login_failed("anna", std::net::Ipv4Addr::LOCALHOST.into()).await;
        member.settle().await;
    }
    let keys = shared.server.command("KEYS *");
    let names: Vec<&str> = keys.lines().filter(|line| line.starts_with('{')).collect();
    assert!(names.len() >= 14, "{names:?}");
    for name in names {
        assert!(name.starts_with("{stagepost:") || name.starts_with("{other:"), "{name}");
        let lasting = shared.server.command(&format!("TTL {name}")).starts_with(":-1");
        assert_eq!(lasting, name.contains(":members}"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_password_and_tls_is_spoken_to_when_its_certificate_is_right() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let (at, port) = (address::fresh(), free_port());
    let (certificate, key) = authority.issue(&[&at.to_string()]).write(folder.path(), "redis");
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let tls = ["--tls-port", &port.to_string(), "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let clients = ["--tls-auth-clients", "no", "--user", "app", "on", ">secret", "~*", "+@all"];
    let options: Vec<String> = tls.iter().chain(&clients).map(ToString::to_string).collect();
    let server = RedisServer::start_at(at, folder.path(), Kind::Redis, Memory::Lost, &options);
    let settings = |password: &str, authorities: &Authority| Settings {
        authorities: Some(authorities.pem().as_bytes().to_vec()),
        ..Settings::new(format!("rediss://app:{password}@{at}:{port}"))
    };
    let shared = async |settings| Redis::connect(settings).await.unwrap().status().shared;
    assert!(shared(settings("secret", &authority)).await);
    assert!(!shared(settings("wrong", &authority)).await);
    assert!(!shared(settings("secret", &Authority::new())).await);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_asking_holds_no_place() {
    let shared = Shared::new(Kind::Redis, Memory::Kept);
    let member = shared.member().await;
    drop(opened(&member, "another site", FOUR).await);
    for _ in 0..50 {
        let mut asking = Box::pin(member.connection("site", FOUR));
        let mut context = Context::from_waker(Waker::noop());
        // The question is on its way, and nobody takes the answer.
        assert!(asking.as_mut().poll(&mut context).is_pending());
    }
    member.settle().await;
    assert!(shared.server.command("ZCARD {stagepost:site:site}:leases").starts_with(":0"));
    assert_eq!(open_all(&member, "site", FOUR).await.len(), 4);
}
