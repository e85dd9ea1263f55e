//! Who is let in, and what becomes of those who are when accounts changes its mind or is away.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::harness::accounts::Mood;
use crate::harness::client::{Client, MESSAGE};
use crate::harness::{PATIENCE, Site};
use ingress::AuthPolicy;

const LOGIN: &str = "C: AUTH PLAIN AHVzZXIAc2VjcmV0";
const WRONG: &str = "C: AUTH PLAIN AHVzZXIAd3Jvbmc=";

#[tokio::test]
async fn passwords_are_not_taken_in_the_clear() {
    let site = Site::start_with(&[], AuthPolicy::TlsOnly).await;
    let mut client = Client::connect(site.address).await;
    client.expect("220").await;
    client.send("EHLO client.test\r\n").await;
    let offer = client.expect("250").await;
    assert!(offer.contains("STARTTLS") && !offer.contains("AUTH"), "{offer}");
    client.play(&format!("{LOGIN}\nS: 538 5.7.11\nC: MAIL FROM:<a@sender.test>\nS: 530 5.7.0")).await;
    assert_eq!(site.accounts.logins.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn both_mechanisms_let_in_who_knows_the_password() {
    let site = Site::start(&[]).await;
    for dialogue in [
        "C: AUTH PLAIN AHVzZXIAc2VjcmV0\nS: 235 2.7.0",
        "C: AUTH PLAIN\nS: 334\nC: AHVzZXIAc2VjcmV0\nS: 235 2.7.0",
        "C: AUTH PLAIN dXNlcgB1c2VyAHNlY3JldA==\nS: 235 2.7.0",
        "C: AUTH LOGIN\nS: 334\nC: dXNlcg==\nS: 334\nC: c2VjcmV0\nS: 235 2.7.0",
    ] {
        site.client().await.play(dialogue).await;
    }
    site.client().await.play("C: AUTH PLAIN b3RoZXIAdXNlcgBzZWNyZXQ=\nS: 535 5.7.8").await;
}

#[tokio::test]
async fn a_wrong_password_is_told_as_such_and_guessing_ends() {
    let site = Site::start(&[]).await;
    let mut client = site.client().await;
    client.play(&format!("{WRONG}\nS: 535 5.7.8\nC: MAIL FROM:<a@sender.test>\nS: 530 5.7.0")).await;
    let mut replies = 0;
    let mut guesses = 0;
    while guesses < 500 {
        let mut client = site.client().await;
        loop {
            guesses += 1;
            client.send("AUTH PLAIN AHVzZXIAd3Jvbmc=\r\n").await;
            match client.reply().await {
                Some(reply) => {
                    assert!(reply.starts_with("535 5.7.8") || reply.starts_with("421 4.7.0"), "{reply}")
                }
                None => break,
            }
            replies += 1;
        }
    }
    assert!(replies > 100);
    let asked = site.accounts.logins.load(Ordering::SeqCst);
    assert!(asked < 20, "accounts was asked {asked} times");
}

#[tokio::test]
async fn accounts_that_is_away_hangs_or_talks_nonsense_is_no_wrong_password() {
    let mut site = Site::start(&["--ingress-accounts-timeout-secs", "1"]).await;
    let mut inside = site.member().await;
    for mood in [Mood::Hanging, Mood::Empty, Mood::Unimplemented] {
        site.accounts.set_mood(mood);
        let mut client = site.client().await;
        let asked = Instant::now();
        client.play(&format!("{LOGIN}\nS: 454 4.7.0")).await;
        assert!(asked.elapsed() < Duration::from_secs(6), "{mood:?}");
        assert!(inside.submit("a@sender.test", &["b@d1.test"], MESSAGE).await.starts_with("250"), "{mood:?}");
        site.accounts.set_mood(Mood::Well);
        client.play(&format!("{LOGIN}\nS: 235")).await;
    }
    site.stop_accounts().await;
    let mut client = site.client().await;
    for _ in 0..100 {
        client.play(&format!("{LOGIN}\nS: 454 4.7.0")).await;
    }
    site.start_accounts().await;
    let returned = Instant::now();
    loop {
        client.send("AUTH PLAIN AHVzZXIAc2VjcmV0\r\n").await;
        let reply = client.reply().await.unwrap();
        if reply.starts_with("235") {
            break;
        }
        assert!(reply.starts_with("454") && returned.elapsed() < Duration::from_secs(2), "{reply}");
    }
}

#[tokio::test]
async fn logins_that_hang_hold_up_nobody_else() {
    let site = Site::start(&["--ingress-accounts-timeout-secs", "10"]).await;
    let mut inside = site.member().await;
    site.accounts.set_mood(Mood::Hanging);
    let mut hanging = Vec::new();
    for _ in 0..10 {
        let mut client = site.client().await;
        client.send("AUTH PLAIN AHVzZXIAc2VjcmV0\r\n").await;
        hanging.push(client);
    }
    let asked = Instant::now();
    assert!(inside.submit("a@sender.test", &["b@d1.test"], MESSAGE).await.starts_with("250"));
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_suspended_account_is_out_though_it_is_logged_in() {
    let site = Site::start(&["--ingress-profile-refresh-secs", "1"]).await;
    let mut client = site.member().await;
    client.play("C: MAIL FROM:<a@sender.test>\nS: 250\nC: RSET\nS: 250").await;
    site.accounts.change(|profile| {
        profile.suspended = true;
        profile.suspended_reason = "unpaid".into();
    });
    refused(&mut client, "550 5.7.1 this account is suspended: unpaid").await;
    let mut later = site.member().await;
    later.play("C: MAIL FROM:<a@sender.test>\nS: 550 5.7.1 this account is suspended: unpaid").await;
    site.accounts.change(|profile| profile.suspended = false);
    let mut again = site.member().await;
    again.play("C: MAIL FROM:<a@sender.test>\nS: 250").await;
}

#[tokio::test]
async fn a_revoked_credential_is_out_though_it_is_logged_in() {
    let site = Site::start(&["--ingress-profile-refresh-secs", "1"]).await;
    let mut client = site.member().await;
    site.accounts.remove();
    refused(&mut client, "550 5.7.1 this login was revoked").await;
}

/// Asks until MAIL is refused so.
async fn refused(client: &mut Client, start: &str) {
    let refused = async {
        loop {
            client.send("MAIL FROM:<a@sender.test>\r\n").await;
            let reply = client.reply().await.unwrap();
            if reply.starts_with(start) {
                return;
            }
            assert!(reply.starts_with("250"), "{reply}");
            client.play("C: RSET\nS: 250").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("it is refused in time");
}

#[tokio::test]
async fn sessions_go_on_without_accounts_for_a_while_and_no_longer() {
    let site = Site::start(&[
        "--ingress-profile-refresh-secs",
        "1",
        "--ingress-profile-age-secs-max",
        "4",
        "--ingress-accounts-timeout-secs",
        "1",
    ])
    .await;
    let mut client = site.member().await;
    site.accounts.set_mood(Mood::Hanging);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(client.submit("a@sender.test", &["b@d1.test"], MESSAGE).await.starts_with("250"));
    refused(&mut client, "451 4.3.0").await;
    site.accounts.set_mood(Mood::Well);
    let back = async {
        loop {
            client.send("MAIL FROM:<a@sender.test>\r\n").await;
            if client.reply().await.unwrap().starts_with("250") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, back).await.unwrap();
}

#[tokio::test]
async fn accounts_is_asked_once_for_all_sessions_of_a_credential() {
    let site = Site::start(&["--ingress-profile-refresh-secs", "1"]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(site.member().await);
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for client in &mut clients {
        client.play("C: MAIL FROM:<a@sender.test>\nS: 250").await;
    }
    let asked = site.accounts.questions.load(Ordering::SeqCst);
    assert!((1..=3).contains(&asked), "{asked}");
}
