//! The end of the process.

use std::time::Duration;

use crate::harness::client::{Client, MESSAGE};
use crate::harness::{PATIENCE, Site};

#[tokio::test]
async fn at_the_end_idle_sessions_are_told_and_messages_that_have_begun_are_finished() {
    let site = Site::start(&[]).await;
    let mut fresh = Client::connect(site.address).await;
    fresh.expect("220").await;
    let mut idle = site.member().await;
    let mut between = site.member().await;
    between.play("C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<b@d1.test>\nS: 250").await;
    let mut receiving = Vec::new();
    for _ in 0..20 {
        let mut client = site.member().await;
        client
            .play("C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<b@d1.test>\nS: 250\nC: DATA\nS: 354")
            .await;
        client.send("From: <a@sender.test>\r\n\r\nfirst half").await;
        receiving.push(client);
    }
    site.begin_to_end();
    for client in [&mut fresh, &mut idle, &mut between] {
        client.expect("421 4.3.2").await;
        client.expect_end().await;
    }
    assert!(refused(&site).await, "nobody is accepted any more");
    for client in &mut receiving {
        client.send("second half\r\n.\r\n").await;
        client.expect("250 2.0.0 queued as").await;
        client.expect("421 4.3.2").await;
    }
    assert_eq!(site.store.messages().len(), 20);
    drop(receiving);
    site.ended().await;
}

async fn refused(site: &Site) -> bool {
    let refused = async {
        while tokio::net::TcpStream::connect(site.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.is_ok()
}

#[tokio::test]
async fn a_batch_that_was_sent_before_the_end_is_finished() {
    let site = Site::start(&[]).await;
    site.store.slow.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut client = site.member().await;
    client
        .play("C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<b@d1.test>\nS: 250\nC: DATA\nS: 354")
        .await;
    client.send(format!("{MESSAGE}.\r\nMAIL FROM:<a@sender.test>\r\n")).await;
    site.begin_to_end();
    tokio::time::sleep(Duration::from_millis(50)).await;
    site.store.go_on.notify_one();
    client.expect("250 2.0.0 queued as").await;
    client.expect("250 2.1.0").await;
    client.expect("421 4.3.2").await;
    site.ended().await;
}

#[tokio::test]
async fn a_message_that_does_not_come_to_an_end_is_cut_off() {
    let site = Site::start(&["--ingress-drain-secs", "1"]).await;
    let mut client = site.member().await;
    client
        .play("C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<b@d1.test>\nS: 250\nC: DATA\nS: 354")
        .await;
    site.begin_to_end();
    client.expect("421 4.3.2").await;
    site.ended().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_keeps_nobody() {
    let site = Site::start(&[]).await;
    let mut client = site.client().await;
    client.play("C: STARTTLS\nS: 220").await;
    let began = std::time::Instant::now();
    site.begin_to_end();
    client.expect_end().await;
    site.ended().await;
    assert!(began.elapsed() < PATIENCE);
}
