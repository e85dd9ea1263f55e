//! Calls between services over TLS, with certificates on one side or on both.
#![allow(clippy::unwrap_used, reason = "a test fails where something is missing")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use runtime::rpc::{self, Listener, Server, Token};
use runtime::tls::{ClientTls, ServerTls};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// A certificate for loopback and its key.
    fn sign(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let files = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        std::fs::write(&files.0, signed.pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }
}

struct Service {
    folder: TempDir,
    authority: Authority,
    address: SocketAddr,
    token: Token,
    _ends: DropGuard,
}

impl Service {
    /// With certificates wanted of clients, or without.
    async fn start(wants: impl FnOnce(&Authority) -> Option<PathBuf>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        let (certificate, key) = authority.sign(folder.path(), "server");
        let tls = ServerTls::load_for_services(&certificate, &key, wants(&authority).as_deref()).unwrap();
        let listener = Listener::bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap().with_tls(tls);
        let address = listener.address().unwrap();
        let token = Token::load_or_make(&folder.path().join("token")).unwrap();
        let (_, health) = tonic_health::server::health_reporter();
        let ended = CancellationToken::new();
        let (shown, shutdown) = (token.clone(), ended.clone());
        tokio::spawn(async move { rpc::serve(listener, Routes::new(health), &shown, shutdown).await });
        Self { folder, authority, address, token, _ends: ended.drop_guard() }
    }

    async fn call(&self, scheme: &str, tls: &ClientTls) -> Result<(), Status> {
        let server: Server = format!("{scheme}://{}", self.address).parse().unwrap();
        let mut client = HealthClient::new(rpc::connect_tls(&server, &self.token, tls));
        client.check(HealthCheckRequest::default()).await.map(|_| ())
    }
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_and_by_no_other() {
    let service = Service::start(|_| None).await;
    let right = ClientTls::load(Some(&service.authority.file), None).unwrap();
    service.call("https", &right).await.unwrap();

    let other = Authority::new(service.folder.path(), "other");
    let wrong = ClientTls::load(Some(&other.file), None).unwrap();
    let public = ClientTls::load(None, None).unwrap();
    for tls in [&wrong, &public] {
        let refused = service.call("https", tls).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("UnknownIssuer"), "{}", refused.message());
    }
    assert_eq!(service.call("http", &right).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn where_clients_must_show_a_certificate_none_without_gets_in() {
    let service = Service::start(|authority| Some(authority.file.clone())).await;
    let folder = service.folder.path();
    let trusted = Some(service.authority.file.as_path());
    let (certificate, key) = service.authority.sign(folder, "client");
    let shown = ClientTls::load(trusted, Some((&certificate, &key))).unwrap();
    service.call("https", &shown).await.unwrap();

    let (certificate, key) = Authority::new(folder, "other").sign(folder, "stranger");
    let strange = ClientTls::load(trusted, Some((&certificate, &key))).unwrap();
    let none = ClientTls::load(trusted, None).unwrap();
    for tls in [&strange, &none] {
        assert_eq!(service.call("https", tls).await.unwrap_err().code(), Code::Unavailable);
    }
}

#[tokio::test]
async fn changed_authorities_count_for_the_next_connection() {
    let service = Service::start(|_| None).await;
    let file = service.folder.path().join("trusted.pem");
    std::fs::copy(&Authority::new(service.folder.path(), "other").file, &file).unwrap();
    let tls = ClientTls::load(Some(&file), None).unwrap();
    assert!(service.call("https", &tls).await.is_err());
    // Another time than before, however coarse the file system's clock is.
    std::fs::copy(&service.authority.file, &file).unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(10);
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    service.call("https", &tls).await.unwrap();
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let (certificate, key) = authority.sign(folder.path(), "client");
    let missing = ClientTls::load(Some(&folder.path().join("none.pem")), None).unwrap_err();
    assert!(missing.to_string().contains("none.pem"), "{missing}");
    let no_chain = ServerTls::load_for_services(&certificate, &key, Some(&key)).unwrap_err();
    assert!(no_chain.to_string().contains("client.key"), "{no_chain}");
    let swapped = ClientTls::load(None, Some((&key, &certificate))).unwrap_err();
    assert!(swapped.to_string().contains("client.key"), "{swapped}");
}
