//! Clients that are slow, many, large or wrong.

use std::time::Duration;

use crate::harness::client::{Client, MESSAGE};
use crate::harness::{PATIENCE, Site};

#[tokio::test]
async fn a_message_that_drips_is_cut_off_though_octets_keep_coming() {
    let site = Site::start(&["--ingress-message-timeout-secs", "1"]).await;
    let mut client = site.member().await;
    client
        .play("C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<b@d1.test>\nS: 250\nC: DATA\nS: 354")
        .await;
    let dripping = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if client.try_send("x").await.is_err() {
                return;
            }
            if let Ok(reply) = tokio::time::timeout(Duration::from_millis(10), client.reply()).await {
                assert!(reply.unwrap().starts_with("421 4.4.2"));
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, dripping).await.unwrap();
    assert!(site.store.messages().is_empty());
}

#[tokio::test]
async fn a_message_that_comes_fast_enough_has_longer_than_the_least_time() {
    let flags = ["--ingress-message-timeout-secs", "1", "--ingress-data-bytes-per-sec-min", "1000"];
    let site = Site::start(&flags).await;
    let mut client = site.member().await;
    client
        .play("C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<b@d1.test>\nS: 250\nC: DATA\nS: 354")
        .await;
    client.send("From: <a@sender.test>\r\n\r\n").await;
    for _ in 0..4 {
        client.send(format!("{}\r\n", "x".repeat(900)).repeat(2)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    client.play("C: .\nS: 250").await;
}

#[tokio::test]
async fn a_command_that_drips_and_silence_are_cut_off() {
    let site = Site::start(&["--ingress-command-timeout-secs", "1"]).await;
    let mut silent = site.member().await;
    silent.expect("421 4.4.2").await;
    silent.expect_end().await;
    let mut client = site.member().await;
    let dripping = async {
        while client.try_send("N").await.is_ok() {
            if let Ok(reply) = tokio::time::timeout(Duration::from_millis(50), client.reply()).await {
                return reply;
            }
        }
        None
    };
    let reply = tokio::time::timeout(PATIENCE, dripping).await.unwrap();
    assert!(reply.is_none_or(|reply| reply.starts_with("421 4.4.2")));
}

#[tokio::test]
async fn who_talks_but_never_logs_in_is_cut_off() {
    let site = Site::start(&["--ingress-login-timeout-secs", "1"]).await;
    let mut member = site.member().await;
    let mut client = site.client().await;
    let talking = async {
        loop {
            client.send("NOOP\r\n").await;
            let reply = client.reply().await.unwrap();
            if reply.starts_with("421 4.4.2") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, talking).await.unwrap();
    member.play("C: NOOP\nS: 250").await;
}

#[tokio::test]
async fn an_honest_client_gets_in_beside_many_slow_ones() {
    let site = Site::start(&[]).await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut client = site.member().await;
        client.send("MAIL FROM:<a@sender.test>\r\nRCPT TO:<b@d1.test>\r\nDATA\r\nFrom:").await;
        slow.push(client);
    }
    let mut honest = site.member().await;
    assert!(honest.submit("a@sender.test", &["b@d1.test"], MESSAGE).await.starts_with("250"));
}

#[tokio::test]
async fn over_the_caps_a_client_is_told_so_and_the_next_place_is_free_at_once() {
    let site = Site::start(&["--ingress-connections-max", "3", "--ingress-unauthenticated-max", "2"]).await;
    let member = site.member().await;
    let (_first, second) = (site.client().await, site.client().await);
    let mut turned_away = Client::connect(site.address).await;
    turned_away.expect("421 4.7.0 too many connections").await;
    turned_away.expect_end().await;
    drop(second);
    let back = async {
        loop {
            let mut client = Client::connect(site.address).await;
            if client.reply().await.is_some_and(|reply| reply.starts_with("220")) {
                return client;
            }
        }
    };
    let _third = tokio::time::timeout(PATIENCE, back).await.unwrap();
    drop(member);
    let mut turned_away = Client::connect(site.address).await;
    turned_away.expect("421 4.7.0 too many connections").await;
}

#[tokio::test]
async fn one_client_cannot_take_all_connections() {
    let site = Site::start(&["--ingress-connections-per-client-max", "1"]).await;
    let _only = site.client().await;
    let mut second = Client::connect(site.address).await;
    second.expect("421 4.7.0 too many connections from your address").await;
}

#[tokio::test]
async fn sizes_are_believed_only_after_counting() {
    let site = Site::start(&["--ingress-size-bytes-max", "100000"]).await;
    let mut client = site.member().await;
    client
        .play(
            "C: MAIL FROM:<a@sender.test> SIZE=100001\nS: 552 5.3.4
             C: MAIL FROM:<a@sender.test> SIZE=99999999999999999999\nS: 552 5.3.4
             C: MAIL FROM:<a@sender.test> SIZE=-1\nS: 501 5.5.4
             C: MAIL FROM:<a@sender.test> SIZE=\nS: 501 5.5.4",
        )
        .await;
    for (declared, octets, code) in [
        (" SIZE=10", 300_000, "552 5.3.4"),
        ("", 300_000, "552 5.3.4"),
        ("", 100_001, "552 5.3.4"),
        ("", 100_000, "250"),
    ] {
        client
            .play(&format!(
                "C: MAIL FROM:<a@sender.test>{declared}\nS: 250\nC: RCPT TO:<b@d1.test>\nS: 250\nC: DATA\nS: 354"
            ))
            .await;
        let header = "From: <a@sender.test>\r\n\r\n";
        let rest = octets - header.len();
        let body = sized(rest);
        client.send(format!("{header}{body}.\r\n")).await;
        client.expect(code).await;
    }
    assert!(client.submit("a@sender.test", &["b@d1.test"], MESSAGE).await.starts_with("250"));
}

/// Lines of so many octets in all.
fn sized(octets: usize) -> String {
    let last = octets % 100 + 100;
    let mut lines = format!("{}\r\n", "x".repeat(98)).repeat(octets / 100 - 1);
    lines.push_str(&format!("{}\r\n", "y".repeat(last - 2)));
    assert_eq!(lines.len(), octets);
    lines
}

#[tokio::test]
async fn when_memory_is_short_a_message_is_refused_for_now_and_read_to_its_end() {
    let flags = [
        "--ingress-memory-bytes-max",
        "200000",
        "--ingress-size-bytes-max",
        "200000",
        "--ingress-memory-wait-secs",
        "0",
    ];
    let site = Site::start(&flags).await;
    let mut first = site.member().await;
    first.play("C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<b@d1.test>\nS: 250\nC: DATA\nS: 354").await;
    first.send(format!("From: <a@sender.test>\r\n\r\n{}", sized(120_000))).await;
    let mut second = site.member().await;
    let refused = async {
        loop {
            let text = format!("From: <a@sender.test>\r\n\r\n{}", sized(120_000));
            if second.submit("a@sender.test", &["b@d1.test"], &text).await.starts_with("452 4.3.1") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    first.play("C: .\nS: 250").await;
    let text = format!("From: <a@sender.test>\r\n\r\n{}", sized(120_000));
    assert!(second.submit("a@sender.test", &["b@d1.test"], &text).await.starts_with("250"));
}

#[tokio::test]
async fn a_session_ends_after_too_many_errors_and_after_its_messages() {
    let site = Site::start(&["--ingress-errors-max", "3", "--ingress-messages-max", "2"]).await;
    let mut client = site.client().await;
    client.play("C: FOO\nS: 500\nC: FOO\nS: 500\nC: FOO\nS: 500\nS: 421 4.7.0").await;
    client.expect_end().await;
    let mut client = site.member().await;
    for _ in 0..2 {
        assert!(client.submit("a@sender.test", &["b@d1.test"], MESSAGE).await.starts_with("250"));
    }
    client.play("C: MAIL FROM:<a@sender.test>\nS: 421 4.7.0").await;
    client.expect_end().await;
}
