//! TLS that works, that doesn't, and that must.

use mail::TlsRequirement;

use crate::harness::mx::{Act, Behaviour, Mx};
use crate::harness::{Letter, Site};

/// What a server does when it is asked for TLS.
type Way = fn() -> Act;

const PATIENT: [&str; 4] = ["--delivery-retry-waits-secs", "600", "--delivery-tls-timeout-secs", "1"];

fn requiring(tls: TlsRequirement) -> Letter {
    Letter::to(&["u@d1.test"]).with(|message| message.tls = tls)
}

#[tokio::test]
async fn offered_tls_is_used_whatever_the_certificate() {
    let mx = Mx::start(Behaviour::usual().tls()).await;
    let mut site = Site::start(&[&mx], &PATIENT).await;
    for tls in [TlsRequirement::Opportunistic, TlsRequirement::Encrypt] {
        site.submit(requiring(tls)).await;
        let told = site.told().await;
        assert_eq!((told.short().as_str(), told.tls), ("delivered 2.0.0", true), "{tls:?}");
    }
    assert_eq!(mx.seen(|seen| seen.handshakes), 2);
    site.stop().await;
}

#[tokio::test]
async fn an_unknown_certificate_is_no_good_where_one_must_be_verified() {
    let mx = Mx::start(Behaviour::usual().tls()).await;
    let mut site = Site::start(&[&mx], &PATIENT).await;
    site.submit(requiring(TlsRequirement::Verify)).await;
    assert_eq!(site.told().await.short(), "deferred 4.7.5");
    assert_eq!((mx.seen(|seen| seen.handshakes), mx.messages().len()), (0, 0));
    site.stop().await;
}

#[tokio::test]
async fn broken_tls_falls_back_to_a_new_connection_only_where_it_may() {
    let ways: [(&str, Way); 4] = [
        ("closes", || Act::Close),
        ("garbage", || Act::Say("220 go\r\nnot a handshake at all\r\n".into())),
        ("refuses", || Act::Say("454 4.7.0 TLS not available\r\n".into())),
        ("hangs", || Act::Say("220 go\r\n".into())),
    ];
    for (name, way) in ways {
        for (tls, expected) in
            [(TlsRequirement::Opportunistic, "delivered 2.0.0"), (TlsRequirement::Encrypt, "deferred")]
        {
            let behaviour = Behaviour::usual().offering("STARTTLS");
            let mx =
                Mx::start(behaviour.script(move |_, it| if it == "STARTTLS" { way() } else { Act::Usual }))
                    .await;
            let mut site = Site::start(&[&mx], &PATIENT).await;
            site.submit(requiring(tls)).await;
            let told = site.told().await;
            assert!(told.short().starts_with(expected), "{name} {tls:?}: {told:?}");
            assert!(!told.tls);
            let in_clear = mx.messages().len();
            assert_eq!(in_clear, usize::from(tls == TlsRequirement::Opportunistic), "{name} {tls:?}");
            assert!(mx.seen(|seen| seen.connections) <= 2, "{name} {tls:?}");
            site.stop().await;
        }
    }
}

#[tokio::test]
async fn a_host_without_tls_never_gets_what_must_be_encrypted() {
    let mx = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start(&[&mx], &PATIENT).await;
    // A connection in the clear is open when the second message comes.
    site.submit(requiring(TlsRequirement::Opportunistic)).await;
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    site.submit(requiring(TlsRequirement::Encrypt)).await;
    assert_eq!(site.told().await.short(), "deferred 4.7.4");
    assert_eq!(mx.messages().len(), 1);
    site.stop().await;
}

#[tokio::test]
async fn settings_raise_what_a_message_asks_for() {
    let mx = Mx::start(Behaviour::usual()).await;
    let mut flags = PATIENT.to_vec();
    flags.extend(["--delivery-tls-sites", "d1.test=encrypt"]);
    let mut site = Site::start(&[&mx], &flags).await;
    site.submit(Letter::to(&["u@d1.test"])).await;
    assert_eq!(site.told().await.short(), "deferred 4.7.4");
    site.submit(Letter::to(&["u@sender.test"])).await;
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    site.stop().await;
}
