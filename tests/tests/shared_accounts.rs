//! Accounts of several replicas on NATS: one truth, whoever is asked, and answers while NATS is away.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "what was measured is worth seeing, and not worth failing for")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use accounts::{Accounts, OpenError, Settings};
use async_nats::jetstream::{self, Context};
use proto::accounts::v1::administration_client::AdministrationClient;
use proto::accounts::v1::directory_client::DirectoryClient;
use proto::accounts::v1::*;
use tempfile::TempDir;
use tests::nats::Nats;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How long it may take until a change is seen elsewhere; what it takes is printed.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take until NATS is found again: its servers start, choose a leader, and are connected to anew.
const BACK_WITHIN: Duration = Duration::from_secs(60);
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

struct Site {
    nats: Nats,
    folder: TempDir,
}

impl Site {
    fn single() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { nats: Nats::single(folder.path()), folder }
    }

    fn cluster() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { nats: Nats::cluster(folder.path()), folder }
    }

    async fn context(&self, url: &str) -> Context {
        let options = async_nats::ConnectOptions::new()
            .ignore_discovered_servers()
            .reconnect_delay_callback(|_| Duration::from_millis(200));
        let servers: Vec<&str> = url.split(',').collect();
        jetstream::new(options.connect(servers).await.unwrap())
    }

    fn key(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{}.key", &text[..4]));
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn open_with(&self, url: &str, key: Option<PathBuf>) -> Result<Replica, OpenError> {
        let settings = Settings { sealing_key: key, spf: "a:mail.example.net".into() };
        let context = self.context(url).await;
        Accounts::open_shared(context, "test", self.nats.count(), settings).await.map(Replica)
    }

    async fn open(&self) -> Replica {
        self.open_with(&self.nats.url(), Some(self.key(KEY))).await.unwrap()
    }
}

#[derive(Clone)]
struct Replica(Accounts);

impl Replica {
    fn office(&self) -> AdministrationClient<Routes> {
        AdministrationClient::new(self.0.routes().prepare())
    }

    async fn create(&self, name: &str) -> Result<Account, Status> {
        let request = CreateAccountRequest { name: name.into(), ..Default::default() };
        self.office().create_account(request).await.map(tonic::Response::into_inner)
    }

    async fn account(&self, name: &str) -> Option<Account> {
        let request = GetAccountRequest { account: name.into() };
        self.office().get_account(request).await.ok().map(tonic::Response::into_inner)
    }

    async fn update(&self, change: UpdateAccountRequest) -> Result<Account, Status> {
        self.office().update_account(change).await.map(tonic::Response::into_inner)
    }

    /// What its health is said to be, to whoever watches it from now on.
    async fn health(&self, service: &str) -> ServingStatus {
        let request = HealthCheckRequest { service: service.into() };
        let mut watch =
            HealthClient::new(self.0.routes().prepare()).watch(request).await.unwrap().into_inner();
        watch.message().await.unwrap().unwrap().status()
    }

    async fn create_credential(&self, account: &str, user: &str) -> Result<String, Status> {
        let request =
            CreateCredentialRequest { account: account.into(), username: user.into(), ..Default::default() };
        self.office().create_credential(request).await.map(|made| made.into_inner().secret)
    }

    async fn create_domain(&self, account: &str, name: &str) -> Result<Domain, Status> {
        let algorithms = vec![Algorithm::Ed25519Sha256.into()];
        let (account, name) = (account.into(), name.into());
        let request =
            CreateDomainRequest { account, name, subdomains: true, algorithms, ..Default::default() };
        self.office().create_domain(request).await.map(tonic::Response::into_inner)
    }

    async fn login(&self, secret: &str) -> Result<Profile, Code> {
        let password = secret.as_bytes().to_vec().into();
        let request = AuthenticateRequest { username: "apikey".into(), password, ..Default::default() };
        let answer = DirectoryClient::new(self.0.routes().prepare()).authenticate(request).await;
        answer.map(|answer| answer.into_inner().profile.unwrap()).map_err(|status| status.code())
    }
}

/// Asks every 2 ms until it holds; how long that took.
async fn until(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < within, "waited {within:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    start.elapsed()
}

fn suspend(account: &str) -> UpdateAccountRequest {
    UpdateAccountRequest { account: account.into(), suspended: Some(true), ..Default::default() }
}

async fn changes_are_seen(site: Site) {
    let (one, other) = (site.open().await, site.open().await);
    let mut longest = Duration::ZERO;
    for round in 0..20 {
        let (from, to) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let name = format!("shop-{round}");
        from.create(&name).await.unwrap();
        let own = from.account(&name).await;
        assert!(own.is_some(), "what is answered is in the replica's own memory");
        let taken = until("the other sees it", SEEN_WITHIN, async || to.account(&name).await == own).await;
        longest = longest.max(taken);
    }
    println!("seen by the other replica after at most {longest:?}");

    let secret = one.create_credential("shop-0", "app").await.unwrap();
    one.create_domain("shop-0", "example.com").await.unwrap();
    let of_other = async || other.login(&secret).await.is_ok_and(|profile| profile.domains.len() == 1);
    until("the other lets it in", SEEN_WITHIN, of_other).await;
    other.update(suspend("shop-0")).await.unwrap();
    assert!(other.login(&secret).await.unwrap().suspended);
    let out = until("a suspended account is out everywhere", SEEN_WITHIN, async || {
        one.login(&secret).await.unwrap().suspended
    });
    println!("suspended at the other replica after {:?}", out.await);

    let delete = DeleteAccountRequest { account: "shop-0".into(), ..Default::default() };
    one.office().delete_account(delete).await.unwrap();
    let gone = async || other.login(&secret).await == Err(Code::Unauthenticated);
    until("what is removed is gone at the other", SEEN_WITHIN, gone).await;
    let late = site.open().await;
    assert_eq!(late.login(&secret).await, Err(Code::Unauthenticated));
    assert_eq!(late.account("shop-1").await, one.account("shop-1").await);
    assert!(late.account("shop-0").await.is_none());
    assert!(late.create_domain("shop-1", "example.com").await.is_ok(), "the domain is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_at_one_replica_is_seen_by_the_other() {
    changes_are_seen(Site::single()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_at_one_replica_is_seen_by_the_other_on_a_cluster() {
    changes_are_seen(Site::cluster()).await;
}

fn one_wins<T>(results: [Result<T, Status>; 2]) {
    let [one, other] = results.map(|result| result.map(|_| ()).map_err(|status| status.code()));
    let won = [one, other].iter().filter(|result| result.is_ok()).count();
    assert_eq!(won, 1, "{one:?} {other:?}");
    assert_eq!(one.err().or(other.err()), Some(Code::AlreadyExists));
}

async fn names_are_given_once(site: Site) {
    let (one, other) = (site.open().await, site.open().await);
    for account in ["first", "second"] {
        one.create(account).await.unwrap();
    }
    until("both know them", SEEN_WITHIN, async || other.account("second").await.is_some()).await;
    for round in 0..15 {
        let name = format!("shop-{round}");
        let (won, lost) = tokio::join!(one.create(&name), other.create(&name));
        one_wins([won, lost]);
        let (won, lost) =
            tokio::join!(one.create_credential("first", &name), other.create_credential("second", &name));
        one_wins([won, lost]);
        // Different keys of the store, and still only one of them may be.
        let (above, below) = (format!("d{round}.example"), format!("mail.d{round}.example"));
        let (won, lost) =
            tokio::join!(one.create_domain("first", &above), other.create_domain("second", &below));
        one_wins([won, lost]);
    }
    let list = async |replica: &Replica| {
        replica.office().list_accounts(ListAccountsRequest {}).await.unwrap().into_inner().accounts
    };
    let same = async || list(&one).await == list(&other).await;
    until("both say the same", SEEN_WITHIN, same).await;
    assert_eq!(list(&one).await.len(), 17);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_that_give_a_name_one_does() {
    names_are_given_once(Site::single()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_that_give_a_name_one_does_on_a_cluster() {
    names_are_given_once(Site::cluster()).await;
}

async fn concurrent_changes_are_all_made(site: Site) {
    let replicas = [site.open().await, site.open().await];
    let made = replicas[0].create("shop").await.unwrap();
    until("both know it", SEEN_WITHIN, async || replicas[1].account("shop").await.is_some()).await;
    let start = Instant::now();
    let mut changes = JoinSet::new();
    for number in 0..200_u64 {
        let replica = replicas[number as usize % 2].clone();
        changes.spawn(async move {
            let change = UpdateAccountRequest {
                account: "shop".into(),
                recipients_per_day: Some(number),
                ..Default::default()
            };
            replica.update(change).await.map(|account| account.revision)
        });
    }
    let mut revisions: Vec<u64> =
        changes.join_all().await.into_iter().map(|revision| revision.unwrap()).collect();
    println!("200 changes of one account by two replicas in {:?}", start.elapsed());
    revisions.sort_unstable();
    let expected: Vec<u64> = (1..=200).map(|number| made.revision + number).collect();
    assert_eq!(revisions, expected, "each change was made on the one before");
    for replica in &replicas {
        let last = async || replica.account("shop").await.is_some_and(|account| account.revision == 201);
        until("all are seen", SEEN_WITHIN, last).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_concurrent_changes_lose_none() {
    concurrent_changes_are_all_made(Site::single()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_concurrent_changes_lose_none_on_a_cluster() {
    concurrent_changes_are_all_made(Site::cluster()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nats_is_away_answers_go_on_and_changes_fail_clearly() {
    let mut site = Site::single();
    let replica = site.open().await;
    replica.create("shop").await.unwrap();
    let secret = replica.create_credential("shop", "app").await.unwrap();
    assert_eq!(replica.0.ready(), Ok(()));

    site.nats.kill(0);
    until("it notices", SEEN_WITHIN, async || replica.0.ready().is_err()).await;
    assert_eq!(replica.login(&secret).await.unwrap().name, "shop");
    let refused = replica.create("other").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("NATS is away"), "{}", refused.message());
    assert!(replica.account("other").await.is_none());
    assert_eq!(replica.health("stagepost.accounts.v1.Directory").await, ServingStatus::Serving);
    assert_eq!(replica.health("stagepost.accounts.v1.Administration").await, ServingStatus::NotServing);

    site.nats.restart();
    let back = until("it is ready again", BACK_WITHIN, async || replica.0.ready().is_ok()).await;
    println!("ready {back:?} after NATS was started again");
    assert_eq!(replica.health("stagepost.accounts.v1.Administration").await, ServingStatus::Serving);
    assert!(replica.account("other").await.is_none(), "what failed isn't made later");
    replica.create("other").await.unwrap();
    assert!(site.open().await.account("other").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_change_while_a_replica_is_cut_off_is_seen_when_it_is_back() {
    let mut site = Site::cluster();
    let urls: Vec<String> = site.nats.url().split(',').map(str::to_owned).collect();
    let key = site.key(KEY);
    let cut_off = site.open_with(&urls[0], Some(key.clone())).await.unwrap();
    let other = site.open_with(&urls[1..].join(","), Some(key)).await.unwrap();
    other.create("shop").await.unwrap();
    let secret = other.create_credential("shop", "app").await.unwrap();
    until("both know it", SEEN_WITHIN, async || cut_off.login(&secret).await.is_ok()).await;

    site.nats.kill(0);
    until("it is cut off", SEEN_WITHIN, async || cut_off.0.ready().is_err()).await;
    // The killed server may have led the stream.
    until("the others go on", BACK_WITHIN, async || other.update(suspend("shop")).await.is_ok()).await;
    until("and make more", BACK_WITHIN, async || other.create("new").await.is_ok()).await;
    let delete = DeleteAccountRequest { account: "shop".into(), ..Default::default() };
    let deleted = async || other.office().delete_account(delete.clone()).await.is_ok();
    until("and remove", BACK_WITHIN, deleted).await;
    assert!(cut_off.login(&secret).await.is_ok(), "it answers what it knew");
    assert_eq!(cut_off.create("x").await.unwrap_err().code(), Code::Unavailable);

    site.nats.restart();
    until("it is ready again", BACK_WITHIN, async || cut_off.0.ready().is_ok()).await;
    assert_eq!(cut_off.login(&secret).await, Err(Code::Unauthenticated));
    assert_eq!(cut_off.account("new").await, other.account("new").await);
    cut_off.create("x").await.unwrap();
    until("and is heard", SEEN_WITHIN, async || other.account("x").await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_with_another_sealing_key_or_none_are_refused() {
    let site = Site::single();
    let url = site.nats.url();
    for missing in [None, Some(site.folder.path().join("none.key"))] {
        let error = site.open_with(&url, missing).await.err().unwrap().to_string();
        assert!(error.contains("openssl rand -hex 32"), "{error}");
    }
    // Neither finds a key in use, and still they can't both go on.
    let (one, other) = (site.key(KEY), site.key(&"ab".repeat(32)));
    let (one, other) = tokio::join!(site.open_with(&url, Some(one)), site.open_with(&url, Some(other)));
    assert!(one.is_ok() != other.is_ok());
    let error = one.err().or(other.err()).unwrap().to_string();
    assert!(error.contains("isn't the one that the other replicas seal with"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_is_one_for_nats_own_tools_and_survives_a_restart() {
    let mut site = Site::single();
    let replica = site.open().await;
    let made = replica.create("shop").await.unwrap();
    let secret = replica.create_credential("shop", "app").await.unwrap();
    let bucket = site.context(&site.nats.url()).await.get_key_value("test-accounts").await.unwrap();
    let kept = bucket.get(format!("account/{}", made.id)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&kept).contains("\"shop\""));
    drop(replica);
    site.nats.kill(0);
    site.nats.restart();
    site.nats.wait_ready();
    let replica = site.open().await;
    assert_eq!(replica.account("shop").await, Some(made));
    assert!(replica.login(&secret).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_there_is_brought_up_to_date_and_never_made_anew() {
    let site = Site::single();
    let context = site.context(&site.nats.url()).await;
    let plain = jetstream::kv::Config {
        bucket: "test-accounts".into(),
        description: "ours".into(),
        ..Default::default()
    };
    context.create_key_value(plain).await.unwrap().put("later/kind", "kept".into()).await.unwrap();
    let replica = site.open().await;
    replica.create("shop").await.unwrap();
    let delete = DeleteAccountRequest { account: "shop".into(), ..Default::default() };
    replica.create_credential("shop", "app").await.unwrap();
    replica.office().delete_account(delete).await.unwrap();
    let stream = context.get_stream("KV_test-accounts").await.unwrap();
    let config = &stream.cached_info().config;
    assert_eq!((config.description.as_deref(), config.allow_atomic_publish), (Some("ours"), true));
    let bucket = context.get_key_value("test-accounts").await.unwrap();
    assert_eq!(bucket.get("later/kind").await.unwrap().unwrap(), "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_is_refused_at_the_start() {
    let site = Site::single();
    let settings = || Settings { sealing_key: Some(site.key(KEY)), spf: "a:mail.example.net".into() };
    let context = site.context(&site.nats.url()).await;
    let replicated = Accounts::open_shared(context.clone(), "test", 3, settings()).await.err().unwrap();
    assert!(replicated.to_string().contains("replicas"), "{replicated}");
    let named = Accounts::open_shared(context, "a.b", 1, settings()).await.err().unwrap();
    assert!(named.to_string().contains("letters, digits"), "{named}");
}
