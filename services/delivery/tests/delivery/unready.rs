//! Mail from domains that aren't ready to send.

use std::path::Path;

use mail::WhileUnready;
use spool::{Entry, EntryState, Selection, Spool as _};

use crate::harness::accounts::Standing;
use crate::harness::mx::{Behaviour, Mx};
use crate::harness::{Letter, Site, unsigned, until};

const LACKS: &str = "sender.test isn't ready to send: TXT _dmarc.sender.test is missing (SendingDomain a/b)";

/// Waits until the one message that is queued waits, and tells for what.
async fn waiting(site: &Site) -> Entry {
    until("the message waits", async || {
        matches!(site.queued().await[..], [Entry { state: EntryState::Waiting { .. }, .. }])
    })
    .await;
    site.queued().await.remove(0)
}

/// The messages of a sandbox, less what tells their envelope.
fn kept(folder: &Path) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(folder.join("new")).unwrap();
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let octets = std::fs::read(file.unwrap().path()).unwrap();
        let envelope = b"Return-Path: <boss@sender.test>\r\nDelivered-To: u@d1.test\r\n";
        octets.strip_prefix(envelope).unwrap().to_vec()
    };
    files.map(read).collect()
}

#[tokio::test]
async fn mail_waits_without_an_attempt_and_leaves_once_the_domain_is_ready() {
    let mx = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start(&[&mx], &[]).await;
    site.accounts.set_unready(1_000_000);
    let queue_id = site.submit(Letter::to(&["u@d1.test"])).await;
    let entry = waiting(&site).await;
    assert_eq!((entry.job.deferred.as_deref(), entry.job.attempts), (Some(LACKS), 0));
    // What is simulated mails nobody.
    site.submit(Letter::to(&["success@simulator.stagepost.test"])).await;
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    assert_eq!(mx.seen(|seen| seen.connections), 0);

    site.accounts.set_ready();
    until("it leaves", async || {
        // Ignored while it is leased.
        let _ = site.spool.release(Selection::Message(queue_id)).await;
        !mx.messages().is_empty()
    })
    .await;
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    site.drained().await;
    site.stop().await;
}

#[tokio::test]
async fn mail_that_waits_for_its_domain_too_long_goes_back() {
    let mx = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start(&[&mx], &[]).await;
    site.accounts.set_unready(0);
    let late = Letter::to(&["u@d1.test"]).with(|message| message.expires_at = message.accepted_at);
    site.submit(late).await;
    let told = site.told().await;
    assert_eq!(told.short(), "expired 4.4.7");
    assert!(told.result.reason.contains(LACKS), "{}", told.result.reason);
    // The report on it is from the domain too.
    waiting(&site).await;
    assert_eq!(mx.seen(|seen| seen.connections), 0);
    site.stop().await;
}

#[tokio::test]
async fn a_sandbox_keeps_it_signed_where_there_is_a_key_and_nobody_gets_it() {
    for standing in [Standing::Good, Standing::KeyToCome] {
        let mx = Mx::start(Behaviour::usual()).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mail");
        let flags = ["--delivery-sandbox", path.to_str().unwrap()];
        let mut site = Site::start_while(WhileUnready::Sandbox, &[&mx], &flags).await;
        site.accounts.set(standing);
        site.accounts.set_unready(0);
        let letter = Letter::to(&["u@d1.test"]);
        let octets = letter.octets();
        site.submit(letter).await;
        let told = site.told().await;
        assert_eq!(told.short(), "dropped 5.7.1");
        let reason = told.result.reason;
        assert!(reason.starts_with(LACKS) && reason.contains(path.to_str().unwrap()), "{reason}");
        site.drained().await;
        let kept = kept(&path);
        let [message] = &kept[..] else { panic!("{} messages are kept", kept.len()) };
        match standing {
            Standing::Good => assert_eq!(unsigned(message), octets),
            _ => assert_eq!(*message, octets),
        }
        // Others leave.
        site.accounts.set(Standing::Good);
        site.accounts.set_ready();
        let other =
            Letter::to(&["u@d1.test"]).with(|message| message.author_domain = "other.test".parse().unwrap());
        site.submit(other).await;
        assert_eq!(site.told().await.short(), "delivered 2.0.0");
        assert_eq!(mx.messages().len(), 1);
        site.stop().await;
    }
}

#[tokio::test]
async fn without_a_place_to_keep_it_it_ends_and_the_event_says_why() {
    let mx = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start_while(WhileUnready::Sandbox, &[&mx], &[]).await;
    site.accounts.set_unready(0);
    site.submit(Letter::to(&["u@d1.test"])).await;
    let told = site.told().await;
    assert_eq!(told.short(), "dropped 5.7.1");
    let reason = told.result.reason;
    for part in [LACKS, "ingress.unready", "delivery.sandbox"] {
        assert!(reason.contains(part), "{reason}");
    }
    site.drained().await;
    assert_eq!(mx.seen(|seen| seen.connections), 0);
    site.stop().await;
}

#[tokio::test]
async fn within_the_grace_what_can_be_signed_leaves_and_nothing_else() {
    let allow = WhileUnready::Allow { grace_secs: 60 };
    for (standing, secs, flags) in [
        (Standing::KeyToCome, 0, &[][..]),
        (Standing::KeyToCome, 0, &["--delivery-sign", "when-keys"]),
        (Standing::Good, 61, &[]),
    ] {
        let mx = Mx::start(Behaviour::usual()).await;
        let site = Site::start_while(allow, &[&mx], flags).await;
        site.accounts.set(standing);
        site.accounts.set_unready(secs);
        site.submit(Letter::to(&["u@d1.test"])).await;
        let entry = waiting(&site).await;
        assert_eq!((entry.job.deferred.as_deref(), entry.job.attempts), (Some(LACKS), 0), "{standing:?}");
        assert_eq!(mx.seen(|seen| seen.connections), 0);
        site.stop().await;
    }
    let mx = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start_while(allow, &[&mx], &[]).await;
    site.accounts.set_unready(0);
    let letter = Letter::to(&["u@d1.test"]);
    let octets = letter.octets();
    site.submit(letter).await;
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    assert_eq!(unsigned(&mx.messages()[0]), octets);
    site.stop().await;
}
