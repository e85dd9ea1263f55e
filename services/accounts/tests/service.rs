//! The gRPC services over a real socket, as ingress, delivery and the commands use them.
#![allow(clippy::unwrap_used, reason = "a test fails where something is missing")]

#[path = "service/owned.rs"]
mod owned;

use std::path::Path;

use accounts::{Accounts, OpenError, Settings};
use proto::accounts::v1::administration_client::AdministrationClient;
use proto::accounts::v1::directory_client::DirectoryClient;
use proto::accounts::v1::signing_client::SigningClient;
use proto::accounts::v1::*;
use runtime::rpc::{self, Client, Listener, Server, Token};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

struct Service {
    folder: TempDir,
    client: Client,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Service {
    async fn start(folder: TempDir) -> Self {
        let state = folder.path().to_owned();
        let accounts = tokio::task::spawn_blocking(move || open(&state)).await.unwrap().unwrap();
        let socket = folder.path().join("socket");
        let token = Token::load_or_make(&folder.path().join("token")).unwrap();
        let listener = Listener::bind_unix(&socket).await.unwrap();
        let client = rpc::connect(&Server::Unix(socket), &token);
        let shutdown = CancellationToken::new();
        let ended = shutdown.clone();
        let task =
            tokio::spawn(
                async move { rpc::serve(listener, accounts.routes(), &token, ended).await.unwrap() },
            );
        Self { folder, client, shutdown, task }
    }

    async fn restart(self) -> Self {
        let Self { folder, client, shutdown, task } = self;
        drop(client);
        shutdown.cancel();
        task.await.unwrap();
        Self::start(folder).await
    }

    fn office(&self) -> AdministrationClient<Client> {
        AdministrationClient::new(self.client.clone())
    }

    async fn login(&self, username: &str, password: &str) -> Result<AuthenticateResponse, Code> {
        let request = AuthenticateRequest {
            username: username.into(),
            password: password.as_bytes().to_vec().into(),
            client_address: "192.0.2.1".into(),
        };
        let answer = DirectoryClient::new(self.client.clone()).authenticate(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| status.code())
    }

    async fn account(&self, name: &str) -> Account {
        let request = CreateAccountRequest { name: name.into(), plan: "free".into(), ..Default::default() };
        self.office().create_account(request).await.unwrap().into_inner()
    }

    async fn domain(&self, account: &str, name: &str, subdomains: bool) -> Result<Domain, Code> {
        let algorithms = vec![Algorithm::Ed25519Sha256.into()];
        let (account, name) = (account.into(), name.into());
        let request = CreateDomainRequest { account, name, subdomains, algorithms, ..Default::default() };
        self.office()
            .create_domain(request)
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| status.code())
    }

    async fn keys(&self, account_id: &str, domain: &str) -> Result<SigningKeysResponse, Code> {
        let request = SigningKeysRequest { account_id: account_id.into(), domain: domain.into() };
        let answer = SigningClient::new(self.client.clone()).signing_keys(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| status.code())
    }
}

fn open(folder: &Path) -> Result<Accounts, OpenError> {
    Accounts::open(&folder.join("accounts"), Settings { sealing_key: None, spf: "a:mail.example.net".into() })
}

async fn service() -> Service {
    Service::start(tempfile::tempdir().unwrap()).await
}

#[tokio::test]
async fn a_secret_logs_in_by_its_user_name_and_by_apikey_and_nothing_else_does() {
    let service = service().await;
    let account = service.account("shop").await;
    let request =
        CreateCredentialRequest { account: "shop".into(), username: "app".into(), ..Default::default() };
    let made = service.office().create_credential(request).await.unwrap().into_inner();
    for user in ["app", "apikey"] {
        let profile = service.login(user, &made.secret).await.unwrap().profile.unwrap();
        assert_eq!((profile.account_id, profile.recipients_per_day), (account.id.clone(), Some(100)));
        assert_eq!(service.login(user, "wrong").await, Err(Code::Unauthenticated));
    }
    assert_eq!(service.login("nobody", &made.secret).await, Err(Code::Unauthenticated));

    let id = made.credential.unwrap().id;
    let revoke = RevokeCredentialRequest { credential: id.clone(), ..Default::default() };
    service.office().revoke_credential(revoke).await.unwrap();
    assert_eq!(service.login("app", &made.secret).await, Err(Code::Unauthenticated));
    let request = AuthorizeRequest { account_id: account.id, credential_id: id };
    let refused = DirectoryClient::new(service.client.clone()).authorize(request).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_chosen_password_logs_in_again_after_a_restart_and_apikey_is_not_its_user() {
    let mut service = service().await;
    service.account("shop").await;
    let password = b"chosen by somebody".to_vec().into();
    let request = CreateCredentialRequest {
        account: "shop".into(),
        username: "app".into(),
        password,
        ..Default::default()
    };
    let made = service.office().create_credential(request).await.unwrap().into_inner();
    assert_eq!(made.secret, "");
    for _ in 0..2 {
        for _ in 0..2 {
            assert!(service.login("app", "chosen by somebody").await.is_ok());
            assert_eq!(service.login("app", "chosen by nobody").await, Err(Code::Unauthenticated));
            assert_eq!(service.login("apikey", "chosen by somebody").await, Err(Code::Unauthenticated));
        }
        service = service.restart().await;
    }
}

#[tokio::test]
async fn a_domain_is_one_accounts_and_its_keys_are_only_that_accounts() {
    let service = service().await;
    let (shop, other) = (service.account("shop").await, service.account("other").await);
    let made = service.domain("shop", "Example.COM", true).await.unwrap();
    assert_eq!(made.name, "example.com");
    assert_eq!(made.keys[0].state, i32::from(KeyState::Active));
    let dkim = &made.records[0];
    assert_eq!(dkim.name, format!("{}._domainkey.example.com", made.keys[0].selector));
    assert!(dkim.value.starts_with("v=DKIM1; k=ed25519; p="), "{}", dkim.value);

    for (name, subdomains) in [("example.com", false), ("news.example.com", false), ("com", true)] {
        assert_eq!(service.domain("other", name, subdomains).await, Err(Code::AlreadyExists), "{name}");
    }
    let keys = service.keys(&shop.id, "news.example.com").await.unwrap();
    assert_eq!((keys.domain.as_str(), keys.keys.len()), ("example.com", 1));
    assert_eq!(service.keys(&other.id, "example.com").await, Err(Code::PermissionDenied));
    assert_eq!(service.keys(&shop.id, "example.org").await, Err(Code::NotFound));

    let service = service.restart().await;
    assert_eq!(service.keys(&shop.id, "example.com").await.unwrap(), keys);
}

#[tokio::test]
async fn a_key_signs_from_active_to_retired_and_one_always_does() {
    let service = service().await;
    let shop = service.account("shop").await;
    let old = service.domain("shop", "example.com", false).await.unwrap().keys.remove(0).selector;
    let request = UpdateDomainRequest {
        name: "example.com".into(),
        add_keys: vec![Algorithm::RsaSha256.into()],
        ..Default::default()
    };
    let new = service.office().update_domain(request).await.unwrap().into_inner().keys.remove(1).selector;
    assert_eq!(service.keys(&shop.id, "example.com").await.unwrap().keys[0].selector, old);

    let set = |selector: &str, state: KeyState| UpdateDomainRequest {
        name: "example.com".into(),
        key_changes: vec![KeyChange { selector: selector.into(), state: state.into() }],
        ..Default::default()
    };
    let refused = service.office().update_domain(set(&old, KeyState::Retired)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    service.office().update_domain(set(&new, KeyState::Active)).await.unwrap();
    service.office().update_domain(set(&old, KeyState::Retired)).await.unwrap();
    let keys = service.keys(&shop.id, "example.com").await.unwrap().keys;
    assert_eq!(keys.iter().map(|key| key.selector.as_str()).collect::<Vec<_>>(), [new]);
}

#[tokio::test]
async fn who_does_not_own_a_thing_may_not_change_it_and_an_old_revision_changes_nothing() {
    let service = service().await;
    service.account("shop").await;
    let change = |revision, managed_by: ManagedBy| UpdateAccountRequest {
        account: "shop".into(),
        suspended: Some(true),
        revision,
        managed_by: managed_by.into(),
        ..Default::default()
    };
    let refused = service.office().update_account(change(None, ManagedBy::Operator)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("the command line"), "{}", refused.message());
    let changed =
        service.office().update_account(change(Some(1), ManagedBy::CommandLine)).await.unwrap().into_inner();
    assert!(changed.suspended && changed.revision == 2);
    let late = service.office().update_account(change(Some(1), ManagedBy::CommandLine)).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted);
}

#[tokio::test]
async fn of_two_who_take_the_same_name_one_gets_it() {
    let service = service().await;
    let request = || CreateAccountRequest { name: "shop".into(), ..Default::default() };
    let (mut one, mut other) = (service.office(), service.office());
    let (one, other) = tokio::join!(one.create_account(request()), other.create_account(request()));
    assert!(one.is_ok() != other.is_ok());
    assert_eq!(one.err().or(other.err()).unwrap().code(), Code::AlreadyExists);
}

#[tokio::test]
async fn bad_requests_say_what_is_allowed() {
    let service = service().await;
    service.account("shop").await;
    let plan = CreateAccountRequest { name: "x".into(), plan: "gold".into(), ..Default::default() };
    let refused = service.office().create_account(plan).await.unwrap_err();
    assert!(refused.message().contains("free, unlimited"), "{}", refused.message());
    let name = CreateAccountRequest { name: "two words".into(), ..Default::default() };
    assert_eq!(service.office().create_account(name).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(service.domain("shop", "not a name", false).await, Err(Code::InvalidArgument));
    assert_eq!(service.domain("nobody", "example.com", false).await, Err(Code::NotFound));
    let user =
        CreateCredentialRequest { account: "shop".into(), username: "APIKEY".into(), ..Default::default() };
    assert_eq!(service.office().create_credential(user).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_deleted_account_takes_its_credentials_and_domains_along() {
    let service = service().await;
    let shop = service.account("shop").await;
    service.domain("shop", "example.com", false).await.unwrap();
    let request = CreateCredentialRequest { account: "shop".into(), ..Default::default() };
    let secret = service.office().create_credential(request).await.unwrap().into_inner().secret;
    let delete = DeleteAccountRequest { account: "shop".into(), ..Default::default() };
    service.office().delete_account(delete).await.unwrap();
    let service = service.restart().await;
    assert_eq!(service.login("apikey", &secret).await, Err(Code::Unauthenticated));
    assert_eq!(service.keys(&shop.id, "example.com").await, Err(Code::NotFound));
    let other = service.account("other").await;
    assert!(service.domain(&other.name, "example.com", false).await.is_ok());
}

#[tokio::test]
async fn an_account_is_not_deleted_over_the_head_of_who_manages_a_part_of_it() {
    let service = service().await;
    service.account("shop").await;
    let request = CreateCredentialRequest {
        account: "shop".into(),
        username: "app".into(),
        managed_by: ManagedBy::Operator.into(),
        ..Default::default()
    };
    let secret = service.office().create_credential(request).await.unwrap().into_inner().secret;
    let delete = DeleteAccountRequest { account: "shop".into(), ..Default::default() };
    let refused = service.office().delete_account(delete).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("credential app"), "{}", refused.message());
    assert!(service.login("app", &secret).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_that_log_in_at_once_with_a_chosen_password_all_get_in() {
    let service = service().await;
    service.account("shop").await;
    let request = CreateCredentialRequest {
        account: "shop".into(),
        username: "app".into(),
        password: b"correct horse".to_vec().into(),
        ..Default::default()
    };
    service.office().create_credential(request).await.unwrap();
    let service = std::sync::Arc::new(service);
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..200 {
        let service = std::sync::Arc::clone(&service);
        let password = if number == 100 { "wrong horse" } else { "correct horse" };
        sessions.spawn(async move { service.login("app", password).await.is_ok() });
    }
    let right = sessions.join_all().await.into_iter().filter(|right| *right).count();
    assert_eq!(right, 199);
}

#[tokio::test]
async fn each_service_says_that_it_serves() {
    let service = service().await;
    let mut health = HealthClient::new(service.client.clone());
    for name in ["Directory", "Signing", "Administration"] {
        let request = HealthCheckRequest { service: format!("stagepost.accounts.v1.{name}") };
        assert_eq!(health.check(request).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    let whole = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(whole.status(), ServingStatus::Serving);
    let unknown = health.check(HealthCheckRequest { service: "other".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[test]
fn another_sealing_key_is_noticed_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let accounts = open(folder.path()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(accounts.ensure_demo("demo", "demo", "demo", "example.com")).unwrap();
    runtime.block_on(accounts.ensure_demo("demo", "demo", "demo", "example.com")).unwrap();
    drop((accounts, runtime));
    let key = folder.path().join("accounts/sealing.key");
    std::fs::write(&key, "00".repeat(32)).unwrap();
    let error = open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("sealing key"), "{error}");
}
