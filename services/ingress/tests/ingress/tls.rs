//! STARTTLS and TLS from the first octet.

use crate::harness::Site;
use crate::harness::client::{Client, MESSAGE};
use crate::harness::store::content;
use ingress::AuthPolicy;

#[tokio::test]
async fn under_tls_a_client_says_hello_anew_and_logs_in() {
    let site = Site::start_with(&[], AuthPolicy::TlsOnly).await;
    let mut client = site.client().await;
    client.play("C: STARTTLS\nS: 220 2.0.0").await;
    let mut client = client.start_tls(site.roots.clone()).await.unwrap();
    client.play("C: MAIL FROM:<a@sender.test>\nS: 503\nC: EHLO client.test").await;
    let offer = client.expect("250").await;
    assert!(offer.contains("AUTH PLAIN LOGIN") && !offer.contains("STARTTLS"), "{offer}");
    client.login().await;
    assert!(client.submit("a@sender.test", &["b@d1.test"], MESSAGE).await.starts_with("250"));
    let stored = String::from_utf8(content(&site.store.message())).unwrap();
    let with = " with ESMTPSA (TLSv1.3 with cipher TLS_";
    assert!(stored.contains(with) && stored.contains(" for <b@d1.test>"), "{stored}");
}

#[tokio::test]
async fn a_port_may_speak_tls_from_the_first_octet() {
    let site = Site::start_with(&["--ingress-listen-tls", "127.0.0.1:0"], AuthPolicy::TlsOnly).await;
    let client = Client::connect(site.tls_address.unwrap()).await;
    let mut client = client.start_tls(site.roots.clone()).await.unwrap();
    client.play("S: 220 mail.sender.test ESMTP\nC: EHLO client.test\nS: 250").await;
    client.login().await;
    assert!(client.submit("a@sender.test", &["b@d1.test"], MESSAGE).await.starts_with("250"));
}

#[tokio::test]
async fn commands_sent_behind_starttls_are_never_run() {
    let site = Site::start(&[]).await;
    let mut client = site.member().await;
    client.send("STARTTLS\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<v@d1.test>\r\n").await;
    // Whatever is said about the injection, nothing of it is answered as a command.
    while let Some(reply) = client.reply().await {
        assert!(!reply.starts_with("250"), "{reply}");
    }
    assert!(site.store.messages().is_empty());
}

#[tokio::test]
async fn a_handshake_that_never_comes_is_given_up() {
    let flags = ["--ingress-tls-timeout-secs", "1", "--ingress-listen-tls", "127.0.0.1:0"];
    let site = Site::start(&flags).await;
    let mut client = site.client().await;
    client.play("C: STARTTLS\nS: 220").await;
    client.expect_end().await;
    Client::connect(site.tls_address.unwrap()).await.expect_end().await;
    let mut garbage = site.client().await;
    garbage.play("C: STARTTLS\nS: 220").await;
    garbage.send("EHLO in the clear\r\n").await;
    while garbage.raw().await.is_some() {}
    site.client().await.play("C: NOOP\nS: 250").await;
}

#[tokio::test]
async fn a_tls_port_without_a_certificate_is_an_error_at_the_start() {
    let config = crate::harness::config(&["--ingress-listen-tls", "127.0.0.1:0"]);
    let error = ingress::bind(&config, None).unwrap_err();
    assert!(error.to_string().contains("--ingress-listen-tls"), "{error}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_setting() {
    let site = Site::start(&[]).await;
    let config = crate::harness::config(&["--ingress-listen", &site.address.to_string()]);
    let error = ingress::bind(&config, None).unwrap_err().to_string();
    assert!(error.contains(&site.address.to_string()) && error.contains("--ingress-listen"), "{error}");
}
