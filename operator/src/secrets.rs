//! Secrets that the operator makes: immutable, of a type of their own, owned by the object that they are for.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dkim::{Algorithm, SigningKey};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt as _};
use zeroize::Zeroizing;

/// Set on everything that the operator makes, so that it need not watch what others make.
pub(crate) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "stagepost-operator");
const KEY_TYPE: &str = "stagepost.dev/dkim-key";
const LOGIN_TYPE: &str = "stagepost.dev/smtp-credential";
/// The entry that holds a private key.
const PRIVATE_KEY: &str = "private.pem";
/// Which rotation a login was made by.
const ROTATION: &str = "stagepost.dev/rotation";
/// When a login is revoked, in seconds since 1970.
const REVOKED_AT: &str = "stagepost.dev/revoked-at";

/// What a Secret holds can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the Secret {name} {wrong}")]
pub(crate) struct SecretError {
    pub(crate) name: String,
    pub(crate) wrong: String,
}

/// A private key, with what is published of it.
pub(crate) struct KeyMaterial {
    pub(crate) algorithm: Algorithm,
    pub(crate) record: String,
    pub(crate) pkcs8_der: Zeroizing<Vec<u8>>,
}

/// How an application logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: Zeroizing<String>,
}

fn made_for<K: Resource<DynamicType = ()>>(owner: &K, name: &str, kind: &str) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: owner.namespace(),
            labels: Some(BTreeMap::from([(MANAGED_BY.0.into(), MANAGED_BY.1.into())])),
            owner_references: owner.controller_owner_ref(&()).map(|reference| vec![reference]),
            ..ObjectMeta::default()
        },
        type_: Some(kind.into()),
        immutable: Some(true),
        ..Secret::default()
    }
}

/// The Secret of a DKIM key.
pub(crate) fn of_key<K: Resource<DynamicType = ()>>(
    owner: &K,
    name: &str,
    selector: &str,
    key: &SigningKey,
) -> Result<Secret, dkim::KeyError> {
    let der = key.to_pkcs8_der()?;
    let data = BTreeMap::from([
        (PRIVATE_KEY.into(), ByteString(to_pem(&der).as_bytes().to_vec())),
        ("selector".into(), ByteString(selector.as_bytes().to_vec())),
        ("record".into(), ByteString(key.public_record().into_bytes())),
    ]);
    Ok(Secret { data: Some(data), ..made_for(owner, name, KEY_TYPE) })
}

/// The key in an entry of a Secret, whoever made it.
pub(crate) fn key_in(secret: &Secret, entry: Option<&str>) -> Result<KeyMaterial, SecretError> {
    let entry = entry.unwrap_or(PRIVATE_KEY);
    let wrong = |wrong: String| SecretError { name: secret.name_any(), wrong };
    let held = secret.data.as_ref().and_then(|data| data.get(entry));
    let held = held.ok_or_else(|| wrong(format!("has no entry {entry}")))?;
    let der = from_pem(&held.0)
        .ok_or_else(|| wrong(format!("has no unencrypted PKCS#8 key (BEGIN PRIVATE KEY) in {entry}")))?;
    let read = [Algorithm::RsaSha256, Algorithm::Ed25519Sha256]
        .into_iter()
        .find_map(|algorithm| SigningKey::from_pkcs8_der(algorithm, &der).ok());
    let key = read.ok_or_else(|| {
        wrong(format!("has neither an RSA key of 2048 bits or more nor an Ed25519 key in {entry}"))
    })?;
    Ok(KeyMaterial { algorithm: key.algorithm(), record: key.public_record(), pkcs8_der: der })
}

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

fn to_pem(der: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut pem = Zeroizing::new(format!("{PEM_BEGIN}\n"));
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(PEM_END);
    pem.push('\n');
    pem
}

fn from_pem(octets: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = std::str::from_utf8(octets).ok()?;
    let (_, rest) = text.split_once(PEM_BEGIN)?;
    let (body, _) = rest.split_once(PEM_END)?;
    let body = Zeroizing::new(body.split_ascii_whitespace().collect::<String>());
    STANDARD.decode(body.as_bytes()).ok().map(Zeroizing::new)
}

/// The Secret of a login, as applications read it.
pub(crate) fn of_login<K: Resource<DynamicType = ()>>(
    owner: &K,
    name: &str,
    login: &Login,
    (host, port): (&str, u16),
    rotation: Option<&str>,
) -> Secret {
    let scheme = if port == 465 { "smtps" } else { "smtp" };
    let Login { username, password } = login;
    // Neither holds a character that means something in a URI.
    let uri = format!("{scheme}://{username}:{}@{host}:{port}", password.as_str());
    let entries = [
        ("host", host.to_owned()),
        ("port", port.to_string()),
        ("username", username.clone()),
        ("password", password.to_string()),
        ("uri", uri),
    ];
    let data = entries.map(|(name, value)| (name.to_owned(), ByteString(value.into_bytes())));
    let mut secret = Secret { data: Some(BTreeMap::from(data)), ..made_for(owner, name, LOGIN_TYPE) };
    if let Some(rotation) = rotation {
        secret.annotations_mut().insert(ROTATION.into(), rotation.into());
    }
    secret
}

/// The same Secret under another name, to be revoked at a time.
pub(crate) fn revoked_later(secret: Secret, at_secs: i64) -> Secret {
    let mut secret = secret;
    secret.annotations_mut().insert(REVOKED_AT.into(), at_secs.to_string());
    secret
}

fn text(secret: &Secret, entry: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(entry)?.0.clone()).ok()
}

/// The login in a Secret that was made by [`of_login`].
pub(crate) fn login_in(secret: &Secret) -> Option<Login> {
    let password = Zeroizing::new(text(secret, "password")?);
    Some(Login { username: text(secret, "username")?, password })
}

/// Whether a Secret sends applications there.
pub(crate) fn leads_to(secret: &Secret, (host, port): (&str, u16)) -> bool {
    text(secret, "host").as_deref() == Some(host) && text(secret, "port") == Some(port.to_string())
}

/// The rotation by which a login was made.
pub(crate) fn rotation_of(secret: &Secret) -> Option<&str> {
    secret.annotations().get(ROTATION).map(String::as_str)
}

/// When a login is to be revoked, in seconds since 1970.
pub(crate) fn revoked_at(secret: &Secret) -> Option<i64> {
    secret.annotations().get(REVOKED_AT)?.parse().ok()
}

/// Whether an object made the Secret.
pub(crate) fn is_of(secret: &Secret, uid: &str) -> bool {
    secret.owner_references().iter().any(|owner| owner.uid == uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{Account, AccountSpec};

    fn owner() -> Account {
        let spec: AccountSpec = serde_json::from_value(serde_json::json!({})).unwrap();
        let mut owner = Account::new("app", spec);
        owner.metadata.uid = Some("u1".into());
        owner.metadata.namespace = Some("shop".into());
        owner
    }

    #[test]
    fn a_key_comes_back_from_its_secret() {
        for algorithm in [Algorithm::RsaSha256, Algorithm::Ed25519Sha256] {
            let key = SigningKey::generate(algorithm).unwrap();
            let secret = of_key(&owner(), "k", "sp-1", &key).unwrap();
            assert_eq!(
                (secret.immutable, secret.type_.as_deref()),
                (Some(true), Some("stagepost.dev/dkim-key"))
            );
            assert!(is_of(&secret, "u1") && !is_of(&secret, "u2"));
            let read = key_in(&secret, None).unwrap();
            assert_eq!((read.algorithm, read.record), (algorithm, key.public_record()));
            assert_eq!(read.pkcs8_der, key.to_pkcs8_der().unwrap());
        }
    }

    #[test]
    fn a_secret_that_holds_no_key_says_what_it_should() {
        let secret = |entry: &str, value: &str| Secret {
            metadata: ObjectMeta { name: Some("mine".into()), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([(entry.into(), ByteString(value.as_bytes().to_vec()))])),
            ..Secret::default()
        };
        for (secret, part) in [
            (secret("tls.key", ""), "the Secret mine has no entry private.pem"),
            (secret("private.pem", "-----BEGIN RSA PRIVATE KEY-----"), "PKCS#8"),
            (secret("private.pem", &to_pem(b"rubbish")), "neither an RSA key"),
        ] {
            let error = key_in(&secret, None).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_login_is_ready_for_an_environment() {
        let login = Login { username: "app-x".into(), password: Zeroizing::new("sp_secret".into()) };
        let secret = of_login(&owner(), "app", &login, ("mail.example.net", 587), Some("one"));
        assert_eq!(text(&secret, "uri").unwrap(), "smtp://app-x:sp_secret@mail.example.net:587");
        assert_eq!((login_in(&secret).unwrap(), rotation_of(&secret)), (login.clone(), Some("one")));
        assert!(leads_to(&secret, ("mail.example.net", 587)) && !leads_to(&secret, ("mail.example.net", 25)));
        assert_eq!(revoked_at(&secret), None);
        assert_eq!(revoked_at(&revoked_later(secret, 7)), Some(7));
        let secret = of_login(&owner(), "app", &login, ("mail.example.net", 465), None);
        assert_eq!(
            (text(&secret, "uri").unwrap().split(':').next(), rotation_of(&secret)),
            (Some("smtps"), None)
        );
    }
}
