//! A credential as a Kubernetes object: a Secret that logs in, rotated without a gap, revoked whoever was away.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeMap;
use std::time::Duration;

use limits::{Limits as _, Quota, QuotaTicket as _};
use tests::deadline::until_true;
use tests::kubernetes::SETTLED;
use tests::message;
use tests::operated::{Operated, ZONE};
use tests::redis::{Kind, Memory, RedisServer};
use tests::smtp::Reply;

const CREDENTIAL: (&str, &str, &str) = ("shop", "smtpcredential", "app");

fn objects(grace: u32) -> String {
    format!(
        "apiVersion: stagepost.dev/v1alpha1\nkind: Account\nmetadata: {{name: shop, namespace: shop}}\nspec: {{}}\n---\n\
         apiVersion: stagepost.dev/v1alpha1\nkind: SmtpCredential\nmetadata: {{name: app, namespace: shop}}\n\
         spec: {{account: shop, rotationGraceMinutes: {grace}}}\n"
    )
}

fn logs_in(site: &Operated, login: &BTreeMap<String, String>) -> bool {
    site.stagepost.client().auth_plain(&login["username"], &login["password"]).code == 235
}

fn ready_login(site: &Operated) -> BTreeMap<String, String> {
    site.cluster.wait_condition(CREDENTIAL, "Ready", "True");
    site.secret("shop", "app").unwrap()
}

#[test]
fn a_credential_logs_in_with_its_secret_until_its_object_is_gone() {
    let mut site = Operated::start();
    let operator = site.operator("one");
    site.cluster.apply(&objects(1));
    let first = ready_login(&site);
    let uri = format!("smtp://{}:{}@stagepost:587", first["username"], first["password"]);
    assert_eq!(
        (first["uri"].as_str(), first["host"].as_str(), first["port"].as_str()),
        (uri.as_str(), "stagepost", "587")
    );
    assert!(logs_in(&site, &first));
    let secret = site.cluster.object("shop", "secret", "app").unwrap();
    assert_eq!(
        (&secret["immutable"], &secret["type"]),
        (&true.into(), &"stagepost.dev/smtp-credential".into())
    );

    // Both passwords are taken until the grace is over.
    site.cluster.kubectl(&["annotate", "smtpcredential", "app", "-n", "shop", "stagepost.dev/rotate=1"]);
    site.cluster.wait(CREDENTIAL, "the password is another", |object| {
        let done = object["status"]["rotationDone"] == "1"
            && object["status"]["username"] != first["username"].as_str();
        done.then_some(())
    });
    let second = ready_login(&site);
    assert_ne!(second["password"], first["password"]);
    until_true("the new password is taken", SETTLED, || logs_in(&site, &second));
    assert!(logs_in(&site, &first));
    until_true("the old password is revoked", SETTLED, || !logs_in(&site, &first));
    assert!(logs_in(&site, &second));
    assert_eq!(site.secret("shop", "app-previous"), None);

    // Accounts is away while the object goes.
    site.stagepost.kill();
    site.cluster.kubectl(&["delete", "smtpcredential", "app", "-n", "shop"]);
    site.stagepost.start_again();
    until_true("the password is revoked", SETTLED, || !logs_in(&site, &second));
    until_true("the Secret is gone", SETTLED, || site.secret("shop", "app").is_none());

    // The operator is away while the object goes.
    site.cluster.apply(&objects(0));
    let third = ready_login(&site);
    assert!(logs_in(&site, &third));
    drop(operator);
    site.cluster.kubectl(&["delete", "smtpcredential", "app", "-n", "shop"]);
    assert!(logs_in(&site, &third));
    let _operator = site.operator("two");
    until_true("the password is revoked", SETTLED, || !logs_in(&site, &third));
}

#[test]
fn what_somebody_else_made_is_left_alone_and_told() {
    let site = Operated::start();
    let _operator = site.operator("one");
    site.cluster.kubectl(&["create", "secret", "generic", "app", "-n", "shop", "--from-literal=mine=1"]);
    site.cluster.apply(&objects(0));
    let why = site.cluster.wait_condition(CREDENTIAL, "Ready", "False");
    assert!(why.contains("the Secret app is somebody else's"), "{why}");
    assert_eq!(site.secret("shop", "app").unwrap()["mine"], "1");
    site.cluster.kubectl(&["delete", "secret", "app", "-n", "shop"]);
    assert!(logs_in(&site, &ready_login(&site)));
    // An account that somebody made by hand isn't taken over.
    site.ask(&["account", "create", "mine"]);
    site.cluster.apply(
        "apiVersion: stagepost.dev/v1alpha1\nkind: Account\nmetadata: {name: mine, namespace: shop}\nspec: {}\n",
    );
    let why = site.cluster.wait_condition(("shop", "account", "mine"), "Ready", "False");
    assert!(why.contains("managed by the command line"), "{why}");
    // Accounts that lost everything are told again.
    let login = ready_login(&site);
    site.ask(&["account", "list"]);
    std::thread::sleep(Duration::from_millis(100));
    assert!(logs_in(&site, &login));
}

/// How many recipients are taken in one transaction, of `count`; the reply to the first that isn't.
fn taken(site: &Operated, login: &BTreeMap<String, String>, count: usize) -> (usize, Option<Reply>) {
    let mut client = site.stagepost.login_as(&login["username"], &login["password"]);
    client.expect(&format!("MAIL FROM:<hello@{ZONE}>"), 250);
    for number in 0..count {
        let reply = client.command(&format!("RCPT TO:<user{number}@d1.test>"));
        if reply.code != 250 {
            return (number, Some(reply));
        }
    }
    (count, None)
}

#[test]
fn a_credentials_limit_holds_over_a_rotation() {
    let mut site = Operated::start();
    let mx = site.lab.mx("d1.test");
    let _operator = site.operator("one");
    site.apply_domain();
    let credential = "apiVersion: stagepost.dev/v1alpha1\nkind: SmtpCredential\nmetadata: {name: app, namespace: shop}\n\
                      spec: {account: shop, limits: {recipientsPerDay: 4}}\n";
    site.cluster.apply(credential);
    let object = site.checked_domain(2);
    site.publish(&object, None);
    site.cluster.wait_condition(("shop", "sendingdomain", "example"), "Ready", "True");
    let first = ready_login(&site);
    let from = format!("hello@{ZONE}");
    let octets = message::text(&from, "user@d1.test", "x", "Hello.");
    let mut client = site.stagepost.login_as(&first["username"], &first["password"]);
    client.submit(&from, &["one@d1.test", "two@d1.test"], &octets);
    mx.wait_for(1);
    let (count, reply) = taken(&site, &first, 3);
    let reply = reply.unwrap();
    assert_eq!((count, reply.code), (2, 452), "{reply:?}");
    assert!(
        reply.text().contains("this credential's limit for today of 4 recipients is used up"),
        "{reply:?}"
    );

    site.cluster.kubectl(&["annotate", "smtpcredential", "app", "-n", "shop", "stagepost.dev/rotate=1"]);
    site.cluster.wait(CREDENTIAL, "the password is another", |object| {
        (object["status"]["rotationDone"] == "1").then_some(())
    });
    let second = ready_login(&site);
    until_true("the new password is taken", SETTLED, || logs_in(&site, &second));
    assert_eq!(taken(&site, &second, 3).0, 2);
    // Without a limit the account's quota alone holds.
    let patch = r#"[{"op": "remove", "path": "/spec/limits"}]"#;
    site.cluster.kubectl(&["patch", "smtpcredential", "app", "-n", "shop", "--type=json", "-p", patch]);
    until_true("there is no limit any more", SETTLED, || taken(&site, &second, 5).0 == 5);
}

#[test]
fn what_was_sent_for_an_account_shows_in_its_status() {
    let site = Operated::start();
    let redis = RedisServer::start(&site.lab.subfolder("redis"), Kind::Redis, Memory::Lost);
    let mut arguments = site.arguments();
    arguments.push(format!("--redis-url={}", redis.url()));
    let _operator = site.cluster.operator("one", &arguments);
    site.cluster.apply(&objects(1));
    let account = ("shop", "account", "shop");
    site.cluster.wait_condition(account, "Ready", "True");
    let object = site.cluster.object(account.0, account.1, account.2).unwrap();
    assert_eq!(object["status"]["usage"]["recipientsToday"], 0);
    let id = object["status"]["accountId"].as_str().unwrap().to_owned();
    // As ingress counts them.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut settings = limits::redis::Settings::new(redis.url());
        settings.group = "ingress".into();
        let counters = limits::redis::Redis::connect(settings).await.unwrap();
        match counters.take_quota(&id, None, 7).await {
            Quota::Taken(ticket) => ticket.keep(),
            Quota::Exhausted { .. } => panic!("there is no quota"),
        }
        counters.close().await;
    });
    // What changes its object has it looked at at once.
    site.cluster.kubectl(&["annotate", "account", "shop", "-n", "shop", "example.test/looked-at=1"]);
    site.cluster.wait(account, "what was sent shows", |object| {
        (object["status"]["usage"]["recipientsToday"] == 7).then_some(())
    });
    let listed = site.cluster.kubectl(&["get", "accounts", "-n", "shop"]);
    assert!(listed.contains("TODAY"), "{listed}");
}
