//! What servers say, and how they say it.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::mx::{Act, Behaviour, Mx};
use crate::harness::{Letter, Site, unsigned, until};

fn say(text: &str) -> Act {
    Act::Say(format!("{text}\r\n"))
}

#[tokio::test]
async fn a_message_arrives_as_it_was_with_a_signature_on_top() {
    let mx = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start(&[&mx], &[]).await;
    let letter = Letter::to(&["one@d1.test", "UsEr+Tag@d1.test"]).body("first\r\n..\r\n.second\r\n");
    let octets = letter.octets();
    site.submit(letter).await;
    assert_eq!(site.told_in_short(2).await, ["delivered 2.0.0", "delivered 2.0.0"]);
    let stuffed = String::from_utf8(octets).unwrap().replace("\r\n.", "\r\n..");
    assert_eq!(String::from_utf8(unsigned(&mx.messages()[0])).unwrap(), stuffed);
    assert_eq!(mx.commands("RCPT"), ["RCPT TO:<one@d1.test>", "RCPT TO:<UsEr+Tag@d1.test>"]);
    assert!(mx.commands("EHLO").iter().all(|command| command == "EHLO out.sender.test"));
    site.drained().await;
    site.stop().await;
}

#[tokio::test]
async fn replies_are_paired_however_they_are_cut() {
    let mx = Mx::start(Behaviour::usual().script(|_, command| match command.split(' ').next() {
        Some("RCPT") if command.contains("bad") => {
            Act::Dribble("550-5.1.1 no\r\n550 5.1.1 such user\r\n".into())
        }
        Some("RCPT") => Act::Dribble("250-2.1.5 well\r\n250\n".into()),
        _ => Act::Usual,
    }));
    let mx = mx.await;
    let mut site = Site::start(&[&mx], &["--delivery-connections-max", "1"]).await;
    let mut expected = std::collections::HashMap::new();
    for number in 0..10 {
        let bad = number % 3 == 0;
        let recipient = if bad { format!("bad{number}@d1.test") } else { format!("good{number}@d1.test") };
        expected
            .insert(site.submit(Letter::to(&[&recipient])).await, if bad { "bounced" } else { "delivered" });
    }
    // Ten results, and four reports on the refused ones.
    for _ in 0..14 {
        let told = site.told().await;
        let wanted = expected.get(&told.queue_id).copied().unwrap_or("delivered");
        assert_eq!(told.result.disposition.as_str(), wanted, "{told:?}");
    }
    site.stop().await;
}

#[tokio::test]
async fn the_first_digit_decides_whatever_the_text_says() {
    for (reply, expected) in [
        ("550 4.7.1 x", "bounced 5.0.0"),
        ("450 5.1.1 x", "deferred 4.0.0"),
        ("571 x", "bounced 5.0.0"),
        ("550 5.1.1 x", "bounced 5.1.1"),
        ("250 5.0.0 x", "delivered 2.0.0"),
        ("xyz", "deferred 4.4.2"),
        ("250-x\r\n550 y", "deferred 4.4.2"),
    ] {
        let mx = Mx::start(Behaviour::usual().script(move |_, command| {
            if command.starts_with("RCPT TO:<u@d1") { say(reply) } else { Act::Usual }
        }));
        let mx = mx.await;
        let mut site = Site::start(&[&mx], &["--delivery-retry-waits-secs", "600"]).await;
        site.submit(Letter::to(&["u@d1.test"])).await;
        assert_eq!(site.told().await.short(), expected, "{reply}");
        site.stop().await;
    }
}

#[tokio::test]
async fn a_host_that_refuses_us_as_such_refuses_for_its_class() {
    for (banner, expected) in [
        ("554 5.7.1 go away", "bounced 5.7.1"),
        ("521 no mail", "bounced 5.0.0"),
        ("421 4.3.2 later", "deferred 4.3.2"),
    ] {
        let mx =
            Mx::start(Behaviour::usual().script(
                move |_, command| {
                    if command == "connect" { say(banner) } else { Act::Usual }
                },
            ));
        let mx = mx.await;
        let mut site = Site::start(&[&mx], &["--delivery-retry-waits-secs", "600"]).await;
        site.submit(
            Letter::to(&["u@d1.test"]).with(|it| it.original_reverse_path = smtp::address::ReversePath::Null),
        )
        .await;
        assert_eq!(site.told().await.short(), expected, "{banner}");
        site.stop().await;
    }
}

#[tokio::test]
async fn a_connection_lost_after_the_final_dot_is_tried_again_after_the_usual_wait() {
    let mx = Mx::start(Behaviour::usual().script(|connection, command| match (connection, command) {
        (0, ".") => Act::Close,
        _ => Act::Usual,
    }));
    let mx = mx.await;
    let mut site = Site::start(&[&mx], &[]).await;
    site.submit(Letter::to(&["u@d1.test"])).await;
    let first = site.told().await;
    assert_eq!(first.short(), "deferred 4.4.2");
    assert!(first.result.reason.contains("may have"), "{}", first.result.reason);
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    let messages = mx.messages();
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0], messages[1], "the signature is the same at each attempt");
    site.stop().await;
}

#[tokio::test]
async fn too_many_recipients_go_in_a_following_transaction_on_the_same_connection() {
    let accepted = AtomicUsize::new(0);
    let mx = Mx::start(Behaviour::usual().script(move |_, command| {
        if command.starts_with("MAIL") {
            accepted.store(0, Ordering::Relaxed);
        }
        if command.starts_with("RCPT") && accepted.fetch_add(1, Ordering::Relaxed) >= 4 {
            return say("452 4.5.3 too many");
        }
        Act::Usual
    }));
    let mx = mx.await;
    let mut site = Site::start(&[&mx], &[]).await;
    let names: Vec<String> = (0..10).map(|number| format!("u{number}@d1.test")).collect();
    site.submit(Letter::to(&names.iter().map(String::as_str).collect::<Vec<_>>())).await;
    assert_eq!(site.told_in_short(10).await, vec!["delivered 2.0.0"; 10]);
    assert_eq!(mx.seen(|seen| (seen.connections, seen.messages.len())), (1, 3));
    site.drained().await;
    site.stop().await;
}

#[tokio::test]
async fn an_open_connection_that_the_server_ends_costs_the_next_message_no_wait() {
    let mails = AtomicUsize::new(0);
    let mx = Mx::start(Behaviour::usual().script(move |connection, command| {
        if command.starts_with("MAIL") && connection == 0 && mails.fetch_add(1, Ordering::Relaxed) > 0 {
            return say("421 4.7.0 enough");
        }
        Act::Usual
    }));
    let mx = mx.await;
    let mut site = Site::start(&[&mx], &["--delivery-retry-waits-secs", "600"]).await;
    for _ in 0..2 {
        site.submit(Letter::to(&["u@d1.test"])).await;
        assert_eq!(site.told().await.short(), "delivered 2.0.0");
    }
    assert_eq!(mx.seen(|seen| seen.connections), 2);
    site.stop().await;
}

#[tokio::test]
async fn a_refused_transaction_leaves_the_connection_usable() {
    let mx = Mx::start(Behaviour::usual().without("PIPELINING").script(|_, command| {
        if command.contains("bad@") { say("450 4.2.0 greylisted") } else { Act::Usual }
    }));
    let mx = mx.await;
    let flags = ["--delivery-retry-waits-secs", "600", "--delivery-connections-max", "1"];
    let mut site = Site::start(&[&mx], &flags).await;
    site.submit(Letter::to(&["bad@d1.test"])).await;
    assert_eq!(site.told().await.short(), "deferred 4.2.0");
    site.submit(Letter::to(&["good@d1.test"])).await;
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    assert_eq!((mx.seen(|seen| seen.connections), mx.commands("RSET").len()), (1, 1));
    site.stop().await;
}

#[tokio::test]
async fn a_bare_line_feed_is_never_transmitted() {
    let mx = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start(&[&mx], &[]).await;
    let tail = "MAIL FROM:<ceo@sender.test>\nRCPT TO:<v@d1.test>\nDATA\n";
    let body = format!("hello\n.\n{tail}\r.\r\r\n.\n\n.\r\n");
    site.submit(Letter::to(&["u@d1.test"]).body(body)).await;
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    let message = mx.messages().remove(0);
    for (place, octet) in message.iter().enumerate() {
        match octet {
            b'\n' => assert_eq!(message[place - 1], b'\r', "a bare LF at {place}"),
            b'\r' => assert_eq!(message[place + 1], b'\n', "a bare CR at {place}"),
            _ => {}
        }
    }
    let text = String::from_utf8(message).unwrap();
    assert!(text.split("\r\n").all(|line| !line.starts_with('.') || line.starts_with("..")), "{text}");
    assert_eq!(mx.commands("MAIL").len(), 1);
    site.stop().await;
}

#[tokio::test]
async fn a_silent_server_is_left_after_its_time_and_others_do_not_wait_for_it() {
    let hole = Mx::start(Behaviour::usual().script(|_, _| Act::Silence)).await;
    let good = Mx::start(Behaviour::usual()).await;
    let flags = ["--delivery-greeting-timeout-secs", "60", "--delivery-jobs-max", "40"];
    let mut site = Site::start(&[&hole, &good], &flags).await;
    for _ in 0..300 {
        site.submit(Letter::to(&["u@d1.test"])).await;
    }
    for _ in 0..20 {
        site.submit(Letter::to(&["u@d2.test"])).await;
    }
    assert_eq!(site.told_in_short(20).await, vec!["delivered 2.0.0"; 20]);
    assert!(
        hole.seen(|seen| seen.connections) <= 2,
        "a site that doesn't answer is probed by two connections"
    );
    until("nobody waits longer than a moment in memory", async || {
        site.queued().await.iter().filter(|entry| entry.state == spool::EntryState::Leased).count() <= 2
    })
    .await;
}
