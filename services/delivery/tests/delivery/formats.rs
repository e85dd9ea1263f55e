//! Messages that a server can't take as they are.

use smtp::address::ReversePath;

use crate::harness::mx::{Behaviour, Mx};
use crate::harness::{Letter, Site, address, unsigned};

#[tokio::test]
async fn eight_bit_mail_passes_untouched_where_it_may() {
    let mx = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start(&[&mx], &[]).await;
    let letter = Letter::to(&["u@d1.test"]).body("grüße\r\n");
    let octets = letter.octets();
    site.submit(letter).await;
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    assert_eq!(unsigned(&mx.messages()[0]), octets);
    assert!(mx.commands("MAIL")[0].contains("BODY=8BITMIME"));
    site.stop().await;
}

#[tokio::test]
async fn eight_bit_mail_is_converted_and_then_signed_for_a_server_without_8bitmime() {
    let mx = Mx::start(Behaviour::usual().without("8BITMIME")).await;
    let mut site = Site::start(&[&mx], &[]).await;
    let mime =
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n";
    site.submit(Letter::to(&["u@d1.test"]).header(mime).body("grüße\r\n")).await;
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    let message = mx.messages().remove(0);
    assert!(message.is_ascii());
    let text = String::from_utf8(unsigned(&message)).unwrap();
    assert!(
        text.contains("Content-Transfer-Encoding: quoted-printable") && text.contains("gr=C3=BC=C3=9Fe"),
        "{text}"
    );
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let mut hasher = dkim::BodyHasher::new();
    hasher.update(body.as_bytes());
    let signature = String::from_utf8(message).unwrap().replace("\r\n\t", "");
    assert!(
        signature.contains(&format!("bh={};", hasher.finish().to_base64())),
        "signed after the conversion"
    );
    site.stop().await;
}

#[tokio::test]
async fn what_can_not_be_converted_goes_back() {
    let mx = Mx::start(Behaviour::usual().without("8BITMIME")).await;
    let mut site = Site::start(&[&mx], &[]).await;
    let signed = "MIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=b\r\n";
    site.submit(Letter::to(&["u@d1.test"]).header(signed).body("--b\r\n\r\ngrüße\r\n--b--\r\n")).await;
    assert_eq!(site.told().await.short(), "bounced 5.6.3");
    site.stop().await;
}

#[tokio::test]
async fn smtputf8_is_asked_for_only_where_it_is_needed() {
    let mx = Mx::start(Behaviour::usual().without("SMTPUTF8")).await;
    let mut site = Site::start(&[&mx], &[]).await;
    let null = |letter: Letter| letter.with(|message| message.original_reverse_path = ReversePath::Null);
    let from_abroad = null(Letter::to(&["u@d1.test"])).with(|message| {
        message.smtputf8 = true;
        message.reverse_path = ReversePath::Mailbox(address("ü@sender.test"));
    });
    site.submit(from_abroad).await;
    assert_eq!(site.told().await.short(), "bounced 5.6.7");
    // Another recipient's address needed it, this job's don't.
    site.submit(null(Letter::to(&["u@d1.test"])).with(|message| message.smtputf8 = true)).await;
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    let mixed = null(Letter::to(&["ü@d1.test", "u@d1.test"])).with(|message| message.smtputf8 = true);
    site.submit(mixed).await;
    assert_eq!(site.told_in_short(2).await, ["bounced 5.6.7", "delivered 2.0.0"]);
    assert!(mx.commands("MAIL").iter().all(|command| !command.contains("SMTPUTF8")));
    site.stop().await;
}

#[tokio::test]
async fn a_message_over_the_servers_size_goes_back_unsent() {
    let mx = Mx::start(Behaviour::usual().without("SIZE").offering("SIZE 1000")).await;
    let mut site = Site::start(&[&mx], &[]).await;
    site.submit(Letter::to(&["u@d1.test"]).body("x".repeat(900) + "\r\n")).await;
    assert_eq!(site.told().await.short(), "bounced 5.3.4");
    site.stop().await;
}

#[tokio::test]
async fn a_large_message_arrives_whole() {
    let mx = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start(&[&mx], &[]).await;
    let letter = Letter::to(&["u@d1.test"]).body(".line of some length, dotted\r\n".repeat(60_000));
    let stuffed = String::from_utf8(letter.octets()).unwrap().replace("\r\n.", "\r\n..");
    site.submit(letter).await;
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    assert!(unsigned(&mx.messages()[0]) == stuffed.into_bytes());
    site.stop().await;
}
