//! Mail from an administrator.

use std::sync::atomic::Ordering;

use proto::admin::v1::SubmitRequest;
use proto::admin::v1::send_client::SendClient;
use tonic::Code;

use crate::harness::Site;
use crate::harness::store::content;

fn request() -> SubmitRequest {
    SubmitRequest {
        account: "first".into(),
        from: "a@sender.test".into(),
        to: vec!["b@d1.test".into()],
        subject: "hello".into(),
        text: "Hello.\n".into(),
    }
}

#[tokio::test]
async fn an_administrator_sends_as_the_account_would() {
    let site = Site::start(&[]).await;
    let mut send = SendClient::new(site.serve_send().await);
    let sent = send.submit(request()).await.unwrap().into_inner();
    let message = site.store.message();
    assert_eq!(sent.queue_id, message.message.queue_id.to_string());
    assert_eq!(sent.message_id, message.message.message_id);
    let stored = String::from_utf8(content(&message)).unwrap();
    assert!(stored.starts_with("Received: by mail.sender.test with GRPC\r\n"), "{stored}");
    assert!(stored.ends_with("\r\n\r\nHello.\r\n"), "{stored}");
    assert_eq!(site.accounts.logins.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_administrator_is_refused_what_the_account_is_refused() {
    let site = Site::start(&[]).await;
    site.accounts.change(|profile| profile.recipients_per_day = Some(1));
    let mut send = SendClient::new(site.serve_send().await);
    let mut ask = async |change: fn(&mut SubmitRequest)| {
        let mut request = request();
        change(&mut request);
        send.submit(request).await.map(drop).unwrap_err()
    };
    assert_eq!(ask(|request| request.account = "nobody".into()).await.code(), Code::NotFound);
    assert_eq!(ask(|request| request.from = "nonsense".into()).await.code(), Code::InvalidArgument);
    assert_eq!(ask(|request| request.to.clear()).await.code(), Code::InvalidArgument);
    let foreign = ask(|request| request.from = "a@other.test".into()).await;
    assert_eq!(foreign.code(), Code::FailedPrecondition);
    assert!(foreign.message().contains("other.test is not a domain of this account"), "{foreign}");
    let over = ask(|request| request.to.push("c@d1.test".into())).await;
    assert_eq!(over.code(), Code::ResourceExhausted);
    site.accounts.change(|profile| profile.suspended = true);
    assert_eq!(ask(|_| ()).await.code(), Code::FailedPrecondition);
    assert!(site.store.messages().is_empty());
}
