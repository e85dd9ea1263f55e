//! What is accepted, and how it is kept.

use crate::harness::client::MESSAGE;
use crate::harness::store::content;
use crate::harness::{PATIENCE, Site};
use limits::Limits as _;
use mail::BodyKind;
use proto::accounts::v1::SenderDomain;
use smtp::address::ReversePath;
use spool::AcceptError;

#[tokio::test]
async fn a_message_is_on_disk_before_its_250() {
    let site = Site::start(&[]).await;
    site.store.slow.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut client = site.member().await;
    client
        .play("C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<b@d1.test>\nS: 250\nC: DATA\nS: 354")
        .await;
    client.send(format!("{MESSAGE}.\r\n")).await;
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), client.reply()).await;
    assert!(early.is_err(), "{early:?}");
    site.store.go_on.notify_one();
    let reply = client.expect("250 2.0.0 queued as ").await;
    let message = site.store.message();
    assert_eq!(reply, format!("250 2.0.0 queued as {}", message.message.queue_id));
}

#[tokio::test]
async fn what_is_kept_is_what_was_sent_below_our_fields() {
    let site = Site::start(&[]).await;
    let mut client = site.member().await;
    let text = "From: A <a@sender.test>\r\nBcc: <hidden@d9.test>\r\nX-Odd:   spaces\t \r\n\r\n..dot\r\n\r\nlast  \r\n";
    let reply = client.submit("A@Sender.TEST", &["UsEr+Tag@D1.Test", "b@d2.test", "c@d1.test"], text).await;
    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    let message = site.store.message();
    let octets = content(&message);
    let stored = std::str::from_utf8(&octets).unwrap();
    let id = message.message.queue_id.to_string();
    assert!(stored.starts_with("Received: from client.test ([127.0.0.1])"), "{stored}");
    assert!(stored.contains(&id) && stored.contains("mail.sender.test"), "{stored}");
    assert!(!stored.contains("hidden"), "{stored}");
    assert!(
        stored.contains("\r\nDate: ") && stored.contains(&format!("\r\nMessage-ID: <{id}@sender.test>\r\n"))
    );
    assert!(stored.contains("X-Odd:   spaces\t \r\n"), "{stored}");
    assert!(stored.ends_with("\r\n\r\n.dot\r\n\r\nlast  \r\n"), "{stored}");
    let kept = message.message;
    assert_eq!(&stored[kept.header_octets as usize..][..6], "\r\n.dot");
    assert_eq!((kept.octets, kept.account.as_str()), (octets.len() as u64, "a1"));
    assert_eq!(kept.reverse_path.to_string(), "A@sender.test");
    assert_eq!(kept.original_reverse_path, kept.reverse_path);
    assert_eq!(kept.author_domain.as_str(), "sender.test");
    assert_eq!(kept.message_id, format!("<{id}@sender.test>"));
    assert_eq!(kept.expires_at, kept.accepted_at.plus_secs(3600));
    assert_eq!((kept.body_kind, kept.smtputf8), (BodyKind::SevenBit, false));
    let mut hasher = dkim::BodyHasher::new();
    hasher.update(b".dot\r\n\r\nlast\r\n");
    assert_eq!(kept.body_hash, *hasher.finish().as_bytes());
    let jobs: Vec<Vec<String>> = message
        .jobs
        .iter()
        .map(|job| job.recipients.iter().map(|recipient| recipient.address.to_string()).collect())
        .collect();
    assert_eq!(jobs, [vec!["UsEr+Tag@d1.test", "c@d1.test"], vec!["b@d2.test"]]);
}

#[tokio::test]
async fn what_the_sender_asked_for_reports_is_kept() {
    let site = Site::start(&[]).await;
    let mut client = site.member().await;
    client
        .play(
            "C: MAIL FROM:<a@sender.test> RET=HDRS ENVID=q+3D1\nS: 250
             C: RCPT TO:<b@d1.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;x+2By@d3.test\nS: 250
             C: DATA\nS: 354",
        )
        .await;
    client.send(format!("{MESSAGE}.\r\n")).await;
    client.expect("250").await;
    let message = site.store.message();
    assert_eq!(message.message.ret, Some(mail::ReturnContent::Headers));
    assert_eq!(message.message.envid.as_deref(), Some("q=1"));
    let recipient = &message.jobs[0].recipients[0];
    assert_eq!(recipient.orcpt.as_deref(), Some("rfc822;x+y@d3.test"));
    assert_eq!(recipient.notify.map(|notify| notify.to_string()).as_deref(), Some("SUCCESS,FAILURE"));
}

#[tokio::test]
async fn octets_over_127_are_marked_whether_declared_or_not() {
    let site = Site::start(&[]).await;
    let mut client = site.member().await;
    let body = "From: <a@sender.test>\r\n\r\nGrüße\r\n";
    assert!(client.submit("a@sender.test", &["b@d1.test"], body).await.starts_with("250"));
    let header = "From: <a@sender.test>\r\nSubject: Grüße\r\n\r\nHello\r\n";
    assert!(client.submit("a@sender.test", &["b@d1.test"], header).await.starts_with("250"));
    let kinds: Vec<_> =
        site.store.messages().iter().map(|it| (it.message.body_kind, it.message.smtputf8)).collect();
    assert_eq!(kinds, [(BodyKind::EightBitMime, false), (BodyKind::EightBitMime, true)]);
}

#[tokio::test]
async fn chunks_are_kept_like_data() {
    let site = Site::start(&[]).await;
    let mut client = site.member().await;
    client.play("C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<b@d1.test>\nS: 250").await;
    client.send("BDAT 27\r\nFrom: <a@sender.test>\r\n\r\n.\r").await;
    client.expect("250").await;
    client.send("BDAT 7 LAST\r\n\nlast\r\n").await;
    client.expect("250 2.0.0 queued as").await;
    assert!(content(&site.store.message()).ends_with(b"\r\n\r\n.\r\nlast\r\n"));
}

#[tokio::test]
async fn a_batch_longer_than_any_buffer_is_answered_in_order_however_it_is_cut() {
    let mut transcripts = Vec::new();
    for step in [usize::MAX, 1] {
        let site = Site::start(&[]).await;
        let mut client = site.member().await;
        let mut batch = String::from("MAIL FROM:<a@sender.test>\r\n");
        for number in 0..500 {
            let host = if number % 5 == 0 { "[127.0.0.1]" } else { "d1.test" };
            batch.push_str(&format!("RCPT TO:<{}.{number}@{host}>\r\n", "x".repeat(50)));
        }
        batch.push_str("DATA\r\n");
        for piece in batch.as_bytes().chunks(step.min(batch.len())) {
            client.send(piece).await;
        }
        let mut transcript = Vec::new();
        for _ in 0..502 {
            transcript.push(client.reply().await.unwrap());
        }
        client.send(format!("{MESSAGE}.\r\n")).await;
        client.expect("250 2.0.0 queued as").await;
        let message = site.store.message();
        assert_eq!(
            message.jobs.iter().map(|job| job.recipients.len()).collect::<Vec<_>>(),
            [100, 100, 100, 100]
        );
        transcripts.push(transcript);
    }
    assert!(transcripts[0][1].starts_with("550 5.1.2"), "{}", transcripts[0][1]);
    assert!(transcripts[0][2].starts_with("250 2.1.5"));
    assert_eq!(transcripts[0], transcripts[1]);
}

#[tokio::test]
async fn a_recipient_named_twice_gets_one_copy_and_costs_one() {
    let site = Site::start(&[]).await;
    let mut client = site.member().await;
    let reply = client.submit("a@sender.test", &["b@d1.test", "c@d1.test", "b@D1.test"], MESSAGE).await;
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(site.store.message().jobs[0].recipients.len(), 2);
    assert_eq!(site.limits.quota_used("a1").await, 2);
}

#[tokio::test]
async fn mail_comes_from_the_accounts_domains_only() {
    let site = Site::start(&[]).await;
    let mut client = site.member().await;
    client
        .play(
            "C: MAIL FROM:<a@other.test>
             S: 550 5.7.1 other.test is not a domain of this account; add it with `stagepost domain add other.test`
             C: MAIL FROM:<a@below.sender.test>
             S: 550 5.7.1
             C: MAIL FROM:<a@[127.0.0.1]>
             S: 550 5.7.1
             C: MAIL FROM:<a@below.wide.test>
             S: 250
             C: RSET
             S: 250",
        )
        .await;
    for (author, code) in [
        ("a@other.test", "550 5.7.1"),
        ("a@sender.test, b@other.test", "550 5.7.1"),
        ("a@SENDER.test, b@x.wide.test", "250"),
    ] {
        let reply = client.submit("a@sender.test", &["b@d1.test"], &format!("From: {author}\r\n\r\n")).await;
        assert!(reply.starts_with(code), "{author}: {reply}");
    }
    let reply = client.submit("", &["b@d1.test"], MESSAGE).await;
    assert!(reply.starts_with("250"), "{reply}");
    let messages = site.store.messages();
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[1].message.reverse_path, ReversePath::Null);
}

#[tokio::test]
async fn a_domain_that_was_added_may_send_within_the_refresh_time() {
    let site = Site::start(&["--ingress-profile-refresh-secs", "1"]).await;
    let mut client = site.member().await;
    client.play("C: MAIL FROM:<a@new.test>\nS: 550 5.7.1").await;
    site.accounts.change(|profile| {
        profile.domains.push(SenderDomain { name: "new.test".into(), ..SenderDomain::default() })
    });
    let added = async {
        loop {
            client.send("MAIL FROM:<a@new.test>\r\n").await;
            if client.reply().await.unwrap().starts_with("250") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, added).await.unwrap();
}

#[tokio::test]
async fn recipients_that_mail_cannot_go_to_are_refused_where_they_are_named() {
    let site = Site::start(&[]).await;
    let mut client = site.member().await;
    client
        .play(
            "C: MAIL FROM:<a@sender.test>
             S: 250
             C: RCPT TO:<Postmaster>
             S: 550 5.1.1
             C: RCPT TO:<u@[127.0.0.1]>
             S: 550 5.1.2
             C: RCPT TO:<u@[IPv6:::1]>
             S: 550 5.1.2
             C: RCPT TO:<u@[999.1.1.1]>
             S: 501 5.1.3
             C: DATA
             S: 5",
        )
        .await;
    assert_eq!(site.limits.quota_used("a1").await, 0);
}

#[tokio::test]
async fn messages_that_could_be_read_in_two_ways_are_refused_and_nothing_of_them_is_run() {
    let site = Site::start(&[]).await;
    let mut client = site.member().await;
    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\0"] {
        let smuggled = "MAIL FROM:<ceo@sender.test>\r\nRCPT TO:<v@d1.test>\r\nDATA\r\nx\r\n";
        let text = format!("From: <a@sender.test>\r\n\r\nhello{end}{smuggled}");
        let reply = client.submit("a@sender.test", &["b@d1.test"], &text).await;
        assert!(reply.starts_with("554 5.6.0"), "{end:?}: {reply}");
    }
    for (length, code) in [(998, "250"), (999, "554 5.6.0")] {
        let text = format!("From: <a@sender.test>\r\n\r\n{}\r\n", "x".repeat(length));
        let reply = client.submit("a@sender.test", &["b@d1.test"], &text).await;
        assert!(reply.starts_with(code), "{length}: {reply}");
    }
    client.play("C: NOOP\nS: 250").await;
    assert_eq!(site.store.messages().len(), 1);
    assert_eq!(site.limits.quota_used("a1").await, 1);
}

#[tokio::test]
async fn a_broken_header_is_refused_with_what_is_wrong() {
    let site = Site::start(&["--ingress-header-bytes-max", "4096"]).await;
    let mut client = site.member().await;
    let hops = |count| format!("{}{MESSAGE}", "Received: from x by y; z\r\n".repeat(count));
    for (text, code) in [
        (String::new(), "554 5.6.0"),
        ("hello\r\n".into(), "554 5.6.0"),
        (" folded first\r\n\r\n".into(), "554 5.6.0"),
        ("Subject: no author\r\n\r\n".into(), "554 5.6.0"),
        ("From: <a@sender.test>\r\nFrom: <b@sender.test>\r\n\r\n".into(), "554 5.6.0"),
        (format!("X: {}\r\n{MESSAGE}", "y\r\n ".repeat(2000)), "552 5.3.4"),
        (hops(101), "554 5.4.6"),
        (hops(30), "250"),
    ] {
        let reply = client.submit("a@sender.test", &["b@d1.test"], &text).await;
        assert!(reply.starts_with(code), "{text:.40}: {reply}");
    }
}

#[tokio::test]
async fn a_store_that_is_full_or_away_is_answered_for_what_it_is() {
    let site = Site::start(&[]).await;
    let mut client = site.member().await;
    let full = || Some(AcceptError::Full("no room".into()));
    *site.store.refusal.lock().unwrap() = full();
    assert!(client.submit("a@sender.test", &["b@d1.test"], MESSAGE).await.starts_with("452 4.3.1"));
    assert_eq!(site.limits.quota_used("a1").await, 0);
    *site.store.refusal.lock().unwrap() = Some(AcceptError::Unavailable("gone".into()));
    assert!(client.submit("a@sender.test", &["b@d1.test"], MESSAGE).await.starts_with("451 4.3.0"));
    assert_eq!(site.limits.quota_used("a1").await, 1, "nobody knows whether it was kept");
    *site.store.refusal.lock().unwrap() = None;
    *site.store.no_room.lock().unwrap() = full();
    client.play("C: MAIL FROM:<a@sender.test>\nS: 452 4.3.1").await;
    *site.store.no_room.lock().unwrap() = None;
    client.play("C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<b@d1.test>\nS: 250").await;
    *site.store.no_room.lock().unwrap() = full();
    client.play("C: DATA\nS: 452 4.3.1\nC: NOOP\nS: 250").await;
    *site.store.no_room.lock().unwrap() = None;
    assert!(client.submit("a@sender.test", &["b@d1.test"], MESSAGE).await.starts_with("250"));
}

#[tokio::test]
async fn a_quota_counts_what_was_accepted_and_says_when_it_begins_anew() {
    let site = Site::start(&[]).await;
    site.accounts.change(|profile| profile.recipients_per_day = Some(3));
    let mut client = site.member().await;
    client
        .play(
            "C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<b@d1.test>\nS: 250\nC: RCPT TO:<c@d1.test>\nS: 250
             C: RSET\nS: 250",
        )
        .await;
    assert_eq!(site.limits.quota_used("a1").await, 0);
    let refused = client.submit("a@sender.test", &["b@d1.test", "c@d1.test"], "no header\r\n").await;
    assert!(refused.starts_with("554"), "{refused}");
    assert!(client.submit("a@sender.test", &["b@d1.test", "c@d1.test"], MESSAGE).await.starts_with("250"));
    client
        .play(
            "C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<d@d1.test>\nS: 250
             C: RCPT TO:<e@d1.test>\nS: 452 4.2.2 today's quota of 3 recipients is used up; it begins anew in",
        )
        .await;
    drop(client);
    let given_back = async {
        while site.limits.quota_used("a1").await != 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, given_back).await.unwrap();
}

#[tokio::test]
async fn many_sessions_at_once_take_the_quota_exactly() {
    let site = Site::start(&[]).await;
    site.accounts.change(|profile| profile.recipients_per_day = Some(100));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..25 {
        let mut client = site.member().await;
        clients.spawn(async move {
            for _ in 0..10 {
                client.play("C: MAIL FROM:<a@sender.test>\nS: 250\nC: RCPT TO:<b@d1.test>\nS: ").await;
                client.send("DATA\r\n").await;
                if client.reply().await.unwrap().starts_with("354") {
                    client.send(format!("{MESSAGE}.\r\n")).await;
                    client.expect("250").await;
                }
                client.play("C: RSET\nS: 250").await;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    assert_eq!(site.store.messages().len(), 100);
}

#[tokio::test]
async fn thirty_megabytes_are_kept_octet_for_octet() {
    let site = Site::start(&[]).await;
    let mut client = site.member().await;
    let line = "0123456789".repeat(7);
    let body: String = (0..430_000).map(|number| format!("{number} {line:.60}\r\n")).collect();
    let text = format!("From: <a@sender.test>\r\n\r\n{body}");
    let reply = client.submit("a@sender.test", &["b@d1.test"], &text).await;
    assert!(reply.starts_with("250"), "{reply}");
    let message = site.store.message();
    assert!(content(&message).ends_with(text.as_bytes().split_at(24).1));
}
