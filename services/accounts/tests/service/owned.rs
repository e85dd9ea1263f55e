//! Objects that an owner outside keeps in step with its own.

use aws_lc_rs::digest::{SHA256, digest};

use super::*;

const OPERATOR: i32 = ManagedBy::Operator as i32;
/// 160 random bits are the owner's business; here they only have to differ.
const SECRET: &str = "sp_abcdefghijkmnpqrstuvwxyz23456789";

fn origin(origin: &str, digest: &str) -> Option<Origin> {
    Some(Origin { origin: origin.into(), digest: digest.into() })
}

fn key(selector: &str, state: KeyState) -> PutKey {
    let pair = dkim::SigningKey::generate(dkim::Algorithm::Ed25519Sha256).unwrap();
    PutKey {
        selector: selector.into(),
        algorithm: Algorithm::Ed25519Sha256.into(),
        state: state.into(),
        pkcs8_der: pair.to_pkcs8_der().unwrap().to_vec().into(),
    }
}

fn account(name: &str, from: &str, digest: &str) -> PutAccountRequest {
    PutAccountRequest {
        managed_by: OPERATOR,
        origin: origin(from, digest),
        name: name.into(),
        plan: "unlimited".into(),
        ..Default::default()
    }
}

fn credential(username: &str, secret: &str, from: &str) -> PutCredentialRequest {
    PutCredentialRequest {
        managed_by: OPERATOR,
        origin: origin(from, "1"),
        account: "shop".into(),
        username: username.into(),
        secret_sha256: digest(&SHA256, secret.as_bytes()).as_ref().to_vec().into(),
        ..Default::default()
    }
}

fn domain(name: &str, keys: Vec<PutKey>, from: &str, digest: &str) -> PutDomainRequest {
    PutDomainRequest {
        managed_by: OPERATOR,
        origin: origin(from, digest),
        account: "shop".into(),
        name: name.into(),
        subdomains: true,
        keys,
        unready: None,
    }
}

fn unready(reason: &str, since_ms: i64) -> Option<Unready> {
    Some(Unready { reason: reason.into(), object: "SendingDomain shop/example".into(), since_ms })
}

fn sync(origins: &[(&str, &str)]) -> SyncRequest {
    let origins = origins.iter().filter_map(|(from, digest)| origin(from, digest)).collect();
    SyncRequest { managed_by: OPERATOR, origins }
}

impl Service {
    async fn put_account(&self, request: PutAccountRequest) -> Result<Account, Code> {
        self.office().put_account(request).await.map(|put| put.into_inner()).map_err(|status| status.code())
    }

    async fn put_credential(&self, request: PutCredentialRequest) -> Result<Credential, Code> {
        let put = self.office().put_credential(request).await;
        put.map(|put| put.into_inner()).map_err(|status| status.code())
    }

    async fn put_domain(&self, request: PutDomainRequest) -> Result<Domain, Code> {
        self.office().put_domain(request).await.map(|put| put.into_inner()).map_err(|status| status.code())
    }

    async fn sync(&self, origins: &[(&str, &str)]) -> SyncResponse {
        self.office().sync(sync(origins)).await.unwrap().into_inner()
    }
}

#[tokio::test]
async fn what_is_put_again_is_left_alone_and_what_differs_is_changed() {
    let service = service().await;
    let made = service.put_account(account("shop", "a", "1")).await.unwrap();
    assert_eq!((made.revision, made.plan.as_str()), (1, "unlimited"));
    let suspended = |digest| PutAccountRequest { suspended: true, ..account("shop", "a", digest) };
    assert_eq!(service.put_account(suspended("1")).await.unwrap(), made);
    let changed = service.put_account(suspended("2")).await.unwrap();
    assert_eq!((changed.id, changed.revision, changed.suspended), (made.id, 2, true));
    // The object's name is another's now, and its own is free again.
    assert_eq!(service.put_account(account("shop", "b", "1")).await, Err(Code::AlreadyExists));
    let by_command_line = UpdateAccountRequest { account: "shop".into(), ..Default::default() };
    let refused = service.office().update_account(by_command_line).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    service.account("mine").await;
    assert_eq!(service.put_account(account("mine", "c", "1")).await, Err(Code::FailedPrecondition));
}

#[tokio::test]
async fn a_domain_signs_with_the_keys_that_it_is_put_with() {
    let service = service().await;
    let account_id = service.put_account(account("shop", "a", "1")).await.unwrap().id;
    let (old, new) = (key("old", KeyState::Active), key("new", KeyState::Published));
    let put = domain("example.com", vec![old.clone(), new.clone()], "d", "1");
    let made = service.put_domain(put).await.unwrap();
    let signing = service.keys(&account_id, "news.example.com").await.unwrap();
    assert_eq!((signing.keys.len(), signing.keys[0].selector.as_str()), (1, "old"));
    assert_eq!(signing.keys[0].pkcs8_der, old.pkcs8_der);

    let old = PutKey { state: KeyState::Retired.into(), ..old };
    let new = PutKey { state: KeyState::Active.into(), ..new };
    let changed = service.put_domain(domain("example.com", vec![old.clone(), new], "d", "2")).await.unwrap();
    assert_eq!((changed.id, changed.revision), (made.id, 2));
    assert_eq!(changed.keys[0].created_at_ms, made.keys[0].created_at_ms);
    let signing = service.keys(&account_id, "example.com").await.unwrap();
    assert_eq!(signing.keys.iter().map(|key| key.selector.as_str()).collect::<Vec<_>>(), ["new"]);

    let unsigned = domain("example.com", vec![old], "d", "3");
    assert_eq!(service.put_domain(unsigned).await, Err(Code::InvalidArgument));
    let rubbish = PutKey { pkcs8_der: b"no key".to_vec().into(), ..key("x", KeyState::Active) };
    let rubbish = domain("example.org", vec![rubbish], "e", "1");
    assert_eq!(service.put_domain(rubbish).await, Err(Code::InvalidArgument));
    let taken = domain("example.com", vec![key("x", KeyState::Active)], "other", "1");
    assert_eq!(service.put_domain(taken).await, Err(Code::AlreadyExists));
}

#[tokio::test]
async fn whoever_asks_of_a_domain_learns_what_it_lacks_until_it_lacks_nothing() {
    let service = service().await;
    let account_id = service.put_account(account("shop", "a", "1")).await.unwrap().id;
    service.put_credential(credential("app", SECRET, "c")).await.unwrap();
    let limited = PutCredentialRequest {
        sender_domains: vec!["news.example.com".into()],
        ..credential("news", "another secret", "n")
    };
    service.put_credential(limited).await.unwrap();
    let keys = vec![key("one", KeyState::Published)];
    let put =
        |unready, digest| PutDomainRequest { unready, ..domain("example.com", keys.clone(), "d", digest) };
    // Nothing can sign yet, which is well for a domain that isn't ready, and for no other.
    assert_eq!(service.put_domain(put(None, "1")).await, Err(Code::InvalidArgument));
    let made = service.put_domain(put(unready("no key signs", 1000), "1")).await.unwrap();
    assert_eq!(made.unready, unready("no key signs", 1000));
    assert_eq!(service.keys(&account_id, "example.com").await.unwrap().keys, []);

    // It lacks something else now, and hasn't been ready in between.
    service.put_domain(put(unready("no record", 9000), "2")).await.unwrap();
    let service = service.restart().await;
    let lacks = unready("no record", 1000);
    for (user, secret) in [("app", SECRET), ("news", "another secret")] {
        let login = service.login(user, secret).await.unwrap();
        let request = AuthorizeRequest { account_id: login.account_id, credential_id: login.credential_id };
        let again = DirectoryClient::new(service.client.clone()).authorize(request).await.unwrap();
        for profile in [login.profile, again.into_inner().profile] {
            assert_eq!(profile.unwrap().domains[0].unready, lacks, "{user}");
        }
    }
    assert_eq!(service.keys(&account_id, "news.example.com").await.unwrap().unready, lacks);

    let keys = vec![key("one", KeyState::Active)];
    let ready = service.put_domain(domain("example.com", keys.clone(), "d", "3")).await.unwrap();
    assert_eq!((ready.unready, ready.id), (None, made.id));
    let signing = service.keys(&account_id, "example.com").await.unwrap();
    assert_eq!((signing.unready, signing.keys.len()), (None, 1));

    // Times that can't be are now.
    let before = i64::try_from(runtime::clock::now_millis()).unwrap();
    for (digest, since_ms) in [("4", 0), ("5", i64::MAX), ("6", -1)] {
        let lacking = PutDomainRequest {
            unready: unready("no record", since_ms),
            ..domain("example.com", keys.clone(), "d", digest)
        };
        let since_ms = service.put_domain(lacking).await.unwrap().unready.unwrap().since_ms;
        assert!((before..before + 60_000).contains(&since_ms), "{since_ms}");
    }
    for reason in [String::new(), "x".repeat(1025)] {
        let odd = PutDomainRequest {
            unready: unready(&reason, 1),
            ..domain("example.com", keys.clone(), "d", "7")
        };
        assert_eq!(service.put_domain(odd).await, Err(Code::InvalidArgument));
    }
    // Nobody checks what the command line manages.
    service.account("mine").await;
    assert_eq!(service.domain("mine", "mine.example", false).await.unwrap().unready, None);
}

#[tokio::test]
async fn a_domain_moves_to_another_account_of_its_owner() {
    let service = service().await;
    service.put_account(account("shop", "a", "1")).await.unwrap();
    let store = service.put_account(account("store", "b", "1")).await.unwrap();
    let keys = vec![key("one", KeyState::Active)];
    service.put_domain(domain("example.com", keys.clone(), "d", "1")).await.unwrap();
    let moved = PutDomainRequest { account: "store".into(), ..domain("example.com", keys, "d", "2") };
    assert_eq!(service.put_domain(moved).await.unwrap().account_id, store.id);
    assert!(service.keys(&store.id, "example.com").await.is_ok());
}

#[tokio::test]
async fn a_credential_sends_from_the_domains_that_it_is_put_with() {
    let service = service().await;
    service.put_account(account("shop", "a", "1")).await.unwrap();
    service.put_account(account("other", "b", "1")).await.unwrap();
    service.put_domain(domain("example.com", vec![key("one", KeyState::Active)], "d", "1")).await.unwrap();
    service.put_domain(domain("example.net", vec![key("one", KeyState::Active)], "e", "1")).await.unwrap();
    let domains = |profile: Option<Profile>| {
        let domains = profile.unwrap().domains.into_iter();
        domains.map(|domain| domain.name).collect::<Vec<_>>()
    };
    service.put_credential(credential("app", SECRET, "c")).await.unwrap();
    let all = service.login("app", SECRET).await.unwrap();
    assert_eq!(domains(all.profile), ["example.com", "example.net"]);
    let limited = PutCredentialRequest {
        origin: origin("c", "2"),
        sender_domains: vec!["news.Example.com".into(), "elsewhere.example".into()],
        ..credential("app", SECRET, "c")
    };
    service.put_credential(limited).await.unwrap();
    let some = service.login("apikey", SECRET).await.unwrap();
    let request = AuthorizeRequest { account_id: some.account_id, credential_id: some.credential_id };
    assert_eq!(domains(some.profile), ["news.example.com"]);
    let again = DirectoryClient::new(service.client.clone()).authorize(request).await.unwrap();
    assert_eq!(domains(again.into_inner().profile), ["news.example.com"]);
    // The same secret under two names would be one login with two meanings.
    let twin = service.put_credential(credential("twin", SECRET, "t")).await;
    assert_eq!(twin, Err(Code::AlreadyExists));
    let replaced = PutCredentialRequest { origin: origin("c", "3"), ..credential("app", "another", "c") };
    service.put_credential(replaced).await.unwrap();
    assert_eq!(service.login("app", SECRET).await, Err(Code::Unauthenticated));
    assert!(service.login("apikey", "another").await.is_ok());
}

#[tokio::test]
async fn a_sync_removes_what_is_missing_and_tells_what_must_be_put() {
    let service = service().await;
    let mine = service.account("mine").await;
    service.domain("mine", "mine.example", false).await.unwrap();
    service.put_account(account("shop", "a", "1")).await.unwrap();
    service.put_account(account("gone", "g", "1")).await.unwrap();
    service.put_domain(domain("example.com", vec![key("one", KeyState::Active)], "d", "1")).await.unwrap();
    service.put_credential(credential("app", SECRET, "c")).await.unwrap();
    service.put_credential(credential("old", "old secret", "o")).await.unwrap();

    let synced = service.sync(&[("a", "1"), ("c", "1"), ("d", "2"), ("new", "1")]).await;
    assert_eq!(synced.differing, ["d", "new"]);
    assert_eq!(synced.removed, ["credential old", "account gone"]);
    assert_eq!(synced.kept, Vec::<String>::new());
    assert_eq!(service.login("old", "old secret").await, Err(Code::Unauthenticated));
    assert!(service.login("app", SECRET).await.is_ok());

    // An account goes with its parts; what the command line manages stays, and keeps what it needs.
    let request = CreateCredentialRequest { account: "shop".into(), ..Default::default() };
    service.office().create_credential(request).await.unwrap();
    let synced = service.sync(&[("d", "1")]).await;
    assert_eq!(synced.removed, ["credential app", "domain example.com"]);
    assert_eq!(synced.kept, ["account shop: somebody else manages a part of it"]);
    assert_eq!(synced.differing, ["d"]);
    assert!(service.keys(&mine.id, "mine.example").await.is_ok());

    let by_command_line = SyncRequest { managed_by: 0, origins: Vec::new() };
    let refused = service.office().sync(by_command_line).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_sync_of_more_than_a_store_takes_at_once_removes_all() {
    let service = service().await;
    service.put_account(account("shop", "a", "1")).await.unwrap();
    for number in 0..405 {
        let name = format!("app{number}");
        service.put_credential(credential(&name, &name, &name)).await.unwrap();
    }
    assert_eq!(service.sync(&[]).await.removed.len(), 406);
    assert_eq!(service.sync(&[]).await.removed, Vec::<String>::new());
    let accounts = service.office().list_accounts(ListAccountsRequest {}).await.unwrap().into_inner();
    assert_eq!(accounts.accounts, []);
}

#[tokio::test]
async fn what_is_withdrawn_is_gone_and_nothing_else_is() {
    let service = service().await;
    service.put_account(account("shop", "a", "1")).await.unwrap();
    service.put_credential(credential("app", SECRET, "c")).await.unwrap();
    let withdraw = |from: &str| WithdrawRequest { managed_by: OPERATOR, origin: from.into() };
    assert_eq!(service.office().withdraw(withdraw("")).await.unwrap_err().code(), Code::InvalidArgument);
    for from in ["nothing", "c", "c"] {
        let before = service.login("app", SECRET).await.is_ok();
        service.office().withdraw(withdraw(from)).await.unwrap();
        let after = service.login("app", SECRET).await.is_ok();
        assert_eq!(after, before && from != "c", "{from}");
    }
    let service = service.restart().await;
    let found = service.office().get_account(GetAccountRequest { account: "shop".into() }).await;
    assert!(found.is_ok());
    service.put_credential(credential("app", SECRET, "c")).await.unwrap();
    service.office().withdraw(withdraw("a")).await.unwrap();
    assert_eq!(service.login("app", SECRET).await, Err(Code::Unauthenticated));
}
