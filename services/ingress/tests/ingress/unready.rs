//! Mail from domains that aren't ready to send.

use proto::accounts::v1::{SenderDomain, Unready};
use proto::admin::v1::SubmitRequest;
use proto::admin::v1::send_client::SendClient;
use tonic::Code;

use crate::harness::client::Client;
use crate::harness::{PATIENCE, Site};

const SAID: &str =
    "451 4.7.1 new.test isn't ready to send: TXT _dmarc.new.test is missing (SendingDomain shop/new)";

/// Adds `new.test`, and gives `wide.test` the same lack, since so many seconds.
fn lacks(site: &Site, secs: u64) {
    let since_ms = i64::try_from(runtime::clock::now_millis() - secs * 1000).unwrap();
    let unready = Unready {
        reason: "TXT _dmarc.new.test is missing".into(),
        object: "SendingDomain shop/new".into(),
        since_ms,
    };
    site.accounts.change(|profile| {
        profile.domains[1].unready = Some(unready.clone());
        profile.domains.push(SenderDomain {
            name: "new.test".into(),
            unready: Some(unready),
            ..SenderDomain::default()
        });
    });
}

async fn submit(client: &mut Client, from: &str, author: &str) -> String {
    client.submit(from, &["b@d1.test"], &format!("From: {author}\r\n\r\n")).await
}

#[tokio::test]
async fn mail_is_put_off_with_what_is_missing_in_the_envelope_and_in_the_header() {
    let site = Site::start(&["--ingress-profile-refresh-secs", "1"]).await;
    lacks(&site, 1_000_000);
    let mut client = site.member().await;
    client
        .play(&format!(
            "C: MAIL FROM:<a@new.test>\nS: {SAID}\nC: MAIL FROM:<a@sender.test>\nS: 250\nC: RSET\nS: 250"
        ))
        .await;
    // Below it is no readier.
    client
        .play(
            "C: MAIL FROM:<a@x.wide.test>\nS: 451 4.7.1 x.wide.test isn't ready to send: TXT _dmarc.new.test",
        )
        .await;
    for (from, author, expected) in [
        ("a@sender.test", "a@new.test", SAID),
        ("a@sender.test", "a@sender.test, b@new.test", SAID),
        ("", "a@new.test", SAID),
        ("a@sender.test", "a@other.test, b@new.test", "550 5.7.1"),
        ("a@sender.test", "a@sender.test", "250"),
    ] {
        let reply = submit(&mut client, from, author).await;
        assert!(reply.starts_with(expected), "{from} {author}: {reply}");
    }
    assert_eq!(site.store.messages().len(), 1);
    // An administrator is told the same.
    let mut send = SendClient::new(site.serve_send().await);
    let request = SubmitRequest {
        account: "first".into(),
        from: "a@new.test".into(),
        to: vec!["b@d1.test".into()],
        ..SubmitRequest::default()
    };
    let refused = send.submit(request).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, SAID));

    // Accounts is away: what it said holds.
    site.stop_accounts().await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    client.play(&format!("C: MAIL FROM:<a@new.test>\nS: {SAID}")).await;
    client.play("C: MAIL FROM:<a@sender.test>\nS: 250").await;
}

#[tokio::test]
async fn an_open_session_learns_that_a_domain_is_ready_and_that_it_no_longer_is() {
    let site = Site::start(&["--ingress-profile-refresh-secs", "1"]).await;
    lacks(&site, 0);
    let mut client = site.member().await;
    for (unready, expected) in [(false, "250"), (true, "451 4.7.1")] {
        site.accounts.change(|profile| {
            let held = profile.domains[1].unready.clone();
            profile.domains[2].unready = held.filter(|_| unready);
        });
        let told = async {
            loop {
                client.send("MAIL FROM:<a@new.test>\r\n").await;
                let reply = client.reply().await.unwrap();
                client.play("C: RSET\nS: 250").await;
                if reply.starts_with(expected) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap();
    }
}

#[tokio::test]
async fn settings_say_whether_mail_is_taken_all_the_same_and_for_how_long() {
    for (flags, secs, expected) in [
        (&["--ingress-unready", "sandbox"][..], 1_000_000, "250"),
        (&["--ingress-unready", "allow"], 3600, "250"),
        (&["--ingress-unready", "allow"], 86_401, SAID),
        (&["--ingress-unready", "allow", "--ingress-unready-grace-secs", "60"], 50, "250"),
        (&["--ingress-unready", "allow", "--ingress-unready-grace-secs", "60"], 61, SAID),
        (&["--ingress-unready", "refuse", "--ingress-unready-grace-secs", "60"], 0, SAID),
    ] {
        let site = Site::start(flags).await;
        lacks(&site, secs);
        let mut client = site.member().await;
        client.play(&format!("C: MAIL FROM:<a@new.test>\nS: {expected}\nC: RSET\nS: 250")).await;
        let reply = submit(&mut client, "a@sender.test", "a@new.test").await;
        assert!(reply.starts_with(expected), "{flags:?} after {secs} s: {reply}");
        assert_eq!(site.store.messages().len(), usize::from(expected == "250"));
    }
}
