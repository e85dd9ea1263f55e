//! Mail from a domain whose records are missing doesn't leave unnoticed: it is put off or kept aside with what is missing, or goes on for a
//! while, as the settings say.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use proto::accounts::v1::administration_client::AdministrationClient;
use proto::accounts::v1::{Algorithm, KeyState, ManagedBy, Origin, PutDomainRequest, PutKey, Unready};
use runtime::rpc::{self, Client, Server, Token};
use serde_json::Value;
use tests::deadline::{SOON, until, until_true};
use tests::dns::Fault;
use tests::judge::mail_auth;
use tests::lab::Lab;
use tests::message;
use tests::smtp::Reply;
use tests::stagepost::{Setup, Stagepost};

const FROM: &str = "hello@new.test";
const MISSING: &str = "TXT _dmarc.new.test is missing: publish v=DMARC1; p=none";
const SAID: &str = "new.test isn't ready to send: TXT _dmarc.new.test is missing: publish v=DMARC1; p=none \
                    (SendingDomain shop/new)";
/// What waits leaves within a minute; the rest is for a machine that is busy.
const LEAVES_WITHIN: Duration = Duration::from_secs(90);

/// Tells accounts of `new.test` what an operator would.
struct Operator {
    runtime: tokio::runtime::Runtime,
    client: AdministrationClient<Client>,
    key: PutKey,
    told: u32,
}

impl Operator {
    fn of(stagepost: &Stagepost) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let state = stagepost.state();
        let token = Token::load(&state.join("token")).unwrap();
        let client = {
            let _inside = runtime.enter();
            rpc::connect(&Server::Unix(state.join("stagepost.sock")), &token)
        };
        let pair = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
        let key = PutKey {
            selector: "one".into(),
            algorithm: Algorithm::Ed25519Sha256.into(),
            state: KeyState::Published.into(),
            pkcs8_der: pair.as_ref().to_vec().into(),
        };
        Self { runtime, client: AdministrationClient::new(client), key, told: 0 }
    }

    /// `lacks`: what is missing, since so long.
    fn tell(&mut self, lab: &Lab, state: KeyState, lacks: Option<(&str, Duration)>) {
        self.told += 1;
        self.key.state = state.into();
        let unready = lacks.map(|(reason, ago)| {
            let since = std::time::SystemTime::now() - ago;
            let since = since.duration_since(std::time::UNIX_EPOCH).unwrap();
            let object = "SendingDomain shop/new".into();
            Unready { reason: reason.into(), object, since_ms: i64::try_from(since.as_millis()).unwrap() }
        });
        let request = PutDomainRequest {
            managed_by: ManagedBy::Operator.into(),
            origin: Some(Origin { origin: "uid".into(), digest: self.told.to_string() }),
            account: "shop".into(),
            name: "new.test".into(),
            subdomains: false,
            keys: vec![self.key.clone()],
            unready,
        };
        let put = self.runtime.block_on(self.client.put_domain(request)).unwrap().into_inner();
        for record in put.records.iter().filter(|record| record.name.contains("._domainkey.")) {
            lab.dns.txt(&record.name, &record.value);
        }
    }
}

fn setup(lab: &Lab) -> Setup<'_> {
    lab.stagepost().set("ingress.profile_refresh_secs", 1_i64)
}

/// What MAIL FROM:<[`FROM`]> is answered.
fn mail_from(stagepost: &Stagepost) -> Reply {
    stagepost.login().command(&format!("MAIL FROM:<{FROM}>"))
}

fn submit(stagepost: &Stagepost, from: &str, recipient: &str) -> Reply {
    stagepost.login().submit(from, &[recipient], &message::text(FROM, recipient, recipient, "Hello."))
}

fn is_put_off(reply: &Reply) {
    assert_eq!((reply.code, reply.enhanced()), (451, Some("4.7.1")), "{reply:?}");
    assert!(reply.text().contains(SAID), "{reply:?}");
}

/// What a message waits for, once it waits for its domain.
fn waits_for_domain(stagepost: &Stagepost, id: &str) -> Value {
    until("it waits for its domain", SOON, || {
        let job = stagepost.ask(&["queue", "show", id])["jobs"][0].clone();
        (job["state"] == "waiting" && job["reason"] == SAID).then_some(job)
    })
}

#[test]
fn mail_is_put_off_and_what_is_queued_waits_until_the_domain_is_ready() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let mut stagepost = setup(&lab).start();
    let mut operator = Operator::of(&stagepost);
    operator.tell(&lab, KeyState::Published, Some((MISSING, Duration::ZERO)));
    let mut inside = stagepost.login();
    is_put_off(&inside.command(&format!("MAIL FROM:<{FROM}>")));
    // The From field counts too, and other domains of the account are as they were.
    is_put_off(&submit(&stagepost, "hello@sender.test", "b@d1.test"));
    let refused = stagepost.try_ask(&["send", "--account", "shop", "--from", FROM, "--to", "b@d1.test"]);
    assert!(refused.as_ref().is_err_and(|error| error.contains(SAID)), "{refused:?}");
    let listed = stagepost.ask(&["domain", "list"]);
    let of = |name: &str| {
        let all = listed.as_array().unwrap();
        all.iter().find(|domain| domain["name"] == name).unwrap().clone()
    };
    assert_eq!((&of("sender.test")["ready"], &of("new.test")["ready"]), (&true.into(), &false.into()));
    assert_eq!(of("new.test")["unready"]["reason"], MISSING);
    assert_eq!(of("new.test")["unready"]["object"], "SendingDomain shop/new");

    operator.tell(&lab, KeyState::Active, None);
    until_true("the open session may send", SOON, || {
        let code = inside.command(&format!("MAIL FROM:<{FROM}>")).code;
        inside.expect("RSET", 250);
        code == 250
    });
    submit(&stagepost, FROM, "b@d1.test").queue_id();
    assert!(mail_auth(&lab.dns, &mx.wait_for(1)[0].octets).is_ok());

    // The record is removed while mail is queued.
    let later = lab.mx("d2.test");
    lab.dns.fault("d2.test", Fault::ServFail);
    let id = submit(&stagepost, FROM, "c@d2.test").queue_id();
    until_true("an attempt was made", SOON, || {
        stagepost.queue().iter().any(|job| job["attempts"].as_u64() > Some(0))
    });
    operator.tell(&lab, KeyState::Active, Some((MISSING, Duration::ZERO)));
    until_true("new mail is put off", SOON, || mail_from(&stagepost).code == 451);
    // What accounts said of the domain holds for a while; a new process asks.
    assert!(stagepost.stop(SOON).success());
    lab.dns.heal("d2.test");
    stagepost.start_again();
    stagepost.ask(&["queue", "retry", &id]);
    let attempts = waits_for_domain(&stagepost, &id)["attempts"].clone();
    stagepost.ask(&["queue", "retry", &id]);
    assert_eq!(waits_for_domain(&stagepost, &id)["attempts"], attempts, "no attempt is counted");
    assert!(stagepost.ask(&["explain", &id]).to_string().contains(SAID));
    assert_eq!(later.count(), 0);

    operator.tell(&lab, KeyState::Active, None);
    let received = later.wait_for_within(1, LEAVES_WITHIN);
    assert!(mail_auth(&lab.dns, &received[0].octets).is_ok(), "{}", received[0].text());
    stagepost.wait_until_idle(SOON);
}

#[test]
fn mail_is_kept_aside_and_its_event_says_where() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let sandbox = lab.folder().join("sandbox");
    let stagepost = setup(&lab)
        .set("ingress.unready", "sandbox")
        .set("delivery.sandbox", sandbox.to_str().unwrap())
        .start();
    let mut operator = Operator::of(&stagepost);
    operator.tell(&lab, KeyState::Active, Some((MISSING, Duration::ZERO)));
    let id = submit(&stagepost, FROM, "b@d1.test").queue_id();
    let other = message::text("hello@sender.test", "c@d1.test", "other", "Hello.");
    stagepost.login().submit("hello@sender.test", &["c@d1.test"], &other).queue_id();
    stagepost.wait_until_idle(SOON);
    assert_eq!(mx.wait_for(1)[0].recipients(), ["c@d1.test"]);
    let story = stagepost.ask(&["explain", &id]);
    let events = story["stories"][0]["events"].as_array().unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["accepted", "dropped"], "{story:#}");
    let reason = events[1]["reason"].as_str().unwrap();
    assert!(reason.starts_with(SAID) && reason.contains(sandbox.to_str().unwrap()), "{reason}");
    let files: Vec<_> = std::fs::read_dir(sandbox.join("new")).unwrap().collect();
    assert_eq!(files.len(), 1);
    let kept = std::fs::read(files[0].as_ref().unwrap().path()).unwrap();
    assert_eq!(message::values(&kept, "Delivered-To"), ["b@d1.test"]);
    assert!(mail_auth(&lab.dns, &kept).is_ok(), "{}", String::from_utf8_lossy(&kept));
}

#[test]
fn mail_goes_on_for_the_grace_once_it_can_be_signed() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost =
        setup(&lab).set("ingress.unready", "allow").set("ingress.unready_grace_secs", 3600_i64).start();
    let mut operator = Operator::of(&stagepost);
    operator.tell(&lab, KeyState::Published, Some((MISSING, Duration::ZERO)));
    let id = submit(&stagepost, FROM, "b@d1.test").queue_id();
    assert_eq!(waits_for_domain(&stagepost, &id)["attempts"], 0);
    assert_eq!(mx.count(), 0, "nothing leaves unsigned");
    operator.tell(&lab, KeyState::Active, Some((MISSING, Duration::ZERO)));
    let received = mx.wait_for_within(1, LEAVES_WITHIN);
    assert!(mail_auth(&lab.dns, &received[0].octets).is_ok(), "{}", received[0].text());

    // It has lacked it for longer than that.
    operator.tell(&lab, KeyState::Active, Some((MISSING, Duration::from_secs(3601))));
    let reply = until("new mail is put off", SOON, || {
        let reply = mail_from(&stagepost);
        (reply.code != 250).then_some(reply)
    });
    is_put_off(&reply);
}
