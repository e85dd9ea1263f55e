//! Who is told of what.

use mail::ReturnContent;
use smtp::address::ReversePath;
use smtp::command::Notify;

use crate::harness::mx::{Act, Behaviour, Mx};
use crate::harness::{Letter, Site, unsigned};

fn refusing() -> Behaviour {
    Behaviour::usual().script(|_, command| {
        if command.starts_with("RCPT") && command.contains("@d1.test") {
            return Act::Say("550-5.1.1 no such\r\n550 5.1.1 user\r\n".into());
        }
        Act::Usual
    })
}

#[tokio::test]
async fn a_bounce_tells_the_sender_once_signed_and_without_a_sender() {
    let (mx, home) = (Mx::start(refusing()).await, Mx::start(Behaviour::usual()).await);
    let mut site = Site::start(&[&mx, &home], &[]).await;
    site.submit(Letter::to(&["u@d1.test"]).returning(ReturnContent::Headers)).await;
    assert_eq!(site.told().await.short(), "bounced 5.1.1");
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    site.drained().await;
    assert!(home.commands("MAIL")[0].starts_with("MAIL FROM:<>"));
    assert_eq!(home.commands("RCPT"), ["RCPT TO:<boss@sender.test>"]);
    let report = String::from_utf8(unsigned(&home.messages()[0])).unwrap();
    for part in [
        "From: Mail Delivery System <MAILER-DAEMON@sender.test>",
        "Action: failed",
        "Status: 5.1.1",
        "no such",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert_eq!(home.messages().len(), 1);
    site.stop().await;
}

#[tokio::test]
async fn nobody_is_told_who_did_not_want_to_know_or_can_not_be() {
    let (mx, home) = (Mx::start(refusing()).await, Mx::start(Behaviour::usual()).await);
    let mut site = Site::start(&[&mx, &home], &[]).await;
    site.submit(Letter::to(&["u@d1.test"]).for_each(|it| it.notify = Some(Notify::NEVER))).await;
    let nobody = |letter: Letter| letter.with(|message| message.original_reverse_path = ReversePath::Null);
    site.submit(nobody(Letter::to(&["u@d1.test"]))).await;
    assert_eq!(site.told_in_short(2).await, ["bounced 5.1.1", "bounced 5.1.1"]);
    site.drained().await;
    assert_eq!(home.seen(|seen| seen.connections), 0);
    site.stop().await;
}

#[tokio::test]
async fn dsn_parameters_are_passed_on_where_they_are_understood() {
    let mx = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start(&[&mx], &[]).await;
    let letter = Letter::to(&["u@d1.test"])
        .returning(ReturnContent::Headers)
        .with(|message| message.envid = Some(String::from("q=1")))
        .for_each(|recipient| {
            recipient.notify = Some(Notify::NEVER.with_success());
            recipient.orcpt = Some(String::from("rfc822;a+b@x.test"));
        });
    site.submit(letter).await;
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    assert!(mx.commands("MAIL")[0].ends_with("RET=HDRS ENVID=q+3D1"), "{:?}", mx.commands("MAIL"));
    assert_eq!(mx.commands("RCPT"), ["RCPT TO:<u@d1.test> NOTIFY=SUCCESS ORCPT=rfc822;a+2Bb@x.test"]);
    site.drained().await;
    assert_eq!(mx.messages().len(), 1, "the next hop tells, not we");
    site.stop().await;
}

#[tokio::test]
async fn a_success_that_the_next_hop_will_not_tell_of_is_told_as_relayed() {
    let mx = Mx::start(Behaviour::usual().without("DSN")).await;
    let home = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start(&[&mx, &home], &[]).await;
    let wanted = |letter: Letter| letter.for_each(|it| it.notify = Some(Notify::NEVER.with_success()));
    site.submit(wanted(Letter::to(&["u@d1.test"]))).await;
    assert_eq!(site.told_in_short(2).await, ["delivered 2.0.0", "delivered 2.0.0"]);
    assert_eq!(mx.commands("RCPT"), ["RCPT TO:<u@d1.test>"]);
    let report = String::from_utf8(home.messages().remove(0)).unwrap();
    assert!(report.contains("Action: relayed"), "{report}");
    site.stop().await;
}

#[tokio::test]
async fn what_is_too_old_expires_and_its_sender_is_told_why() {
    let mx = Mx::start(Behaviour::usual().script(|_, command| {
        if command.contains("@d1.test") { Act::Say("450 4.2.0 greylisted\r\n".into()) } else { Act::Usual }
    }));
    let (mx, home) = (mx.await, Mx::start(Behaviour::usual()).await);
    let mut site = Site::start(&[&mx, &home], &[]).await;
    site.submit(
        Letter::to(&["u@d1.test"]).with(|message| message.expires_at = message.accepted_at.plus_millis(2500)),
    )
    .await;
    let mut last = site.told().await.short();
    while last.starts_with("deferred") {
        last = site.told().await.short();
    }
    assert_eq!(last, "expired 4.4.7");
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    let report = String::from_utf8(home.messages().remove(0)).unwrap();
    assert!(report.contains("greylisted") && report.contains("Action: failed"), "{report}");
    site.stop().await;
}
