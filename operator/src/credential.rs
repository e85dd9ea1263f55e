//! `SmtpCredential` objects: a Secret for an application, and accounts told of its login.
//!
//! The Secrets say what is: a login is made with its Secret, and accounts is told of what Secrets hold. A rotation keeps the
//! login before in a second Secret until it is revoked, so that a crash between any two steps loses neither.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use proto::accounts::v1::{CredentialLimit, PutCredentialRequest};
use zeroize::Zeroizing;

use crate::condition::{self, Holds, Verdict};
use crate::context::{Context, Failure};
use crate::crd::{PreviousCredential, SmtpCredential, SmtpCredentialStatus};
use crate::random_text;
use crate::secrets::{self, Login};
use crate::told::{Said, TellError};

/// A new value of this annotation asks for a new password.
const ROTATE: &str = "stagepost.dev/rotate";
const AGAIN: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(5);

/// What stands for one login of the object at accounts.
fn origin(uid: &str, username: &str) -> String {
    format!("{uid}/{username}")
}

fn say(credential: &SmtpCredential, account: &str, username: &str) -> Option<Said> {
    let domains = credential.spec.sender_domains.join(" ");
    let limit = credential.spec.limits.recipients_per_day;
    let limit = limit.map_or_else(String::new, |limit| limit.to_string());
    Some(Said::of(origin(&credential.uid()?, username), &[account, username, &domains, &limit]))
}

/// What accounts should know of it, as far as its status tells.
pub(crate) fn said(credential: &SmtpCredential, context: &Context) -> Vec<Said> {
    let namespace = credential.namespace().unwrap_or_default();
    let account = context.account(&namespace, &credential.spec.account);
    let Some(Ok(account)) = account.as_ref().map(|account| &account.0) else { return Vec::new() };
    if credential.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let name = crate::account::name_of(account);
    usernames(credential).iter().filter_map(|username| say(credential, &name, username)).collect()
}

fn usernames(credential: &SmtpCredential) -> Vec<String> {
    let status = credential.status.as_ref();
    let previous = status.and_then(|status| status.previous.as_ref());
    let current = status.and_then(|status| status.username.clone());
    current.into_iter().chain(previous.map(|previous| previous.username.clone())).collect()
}

/// What accounts may know of it.
pub(crate) fn origins(credential: &SmtpCredential) -> Vec<String> {
    let uid = credential.uid().unwrap_or_default();
    usernames(credential).iter().map(|username| origin(&uid, username)).collect()
}

/// The Secrets of an object.
struct Logins {
    current: Secret,
    previous: Option<Secret>,
    rotated: Rotated,
}

#[derive(PartialEq, Eq)]
enum Rotated {
    Yes,
    No,
}

pub(crate) async fn reconcile(credential: &SmtpCredential, context: &Context) -> Result<Action, Failure> {
    if credential.metadata.deletion_timestamp.is_some() {
        for origin in origins(credential) {
            context.told.withdraw(&origin).await?;
        }
        return Ok(Action::await_change());
    }
    let before = credential.status.clone().unwrap_or_default();
    let mut status =
        SmtpCredentialStatus { observed_generation: credential.metadata.generation, ..before.clone() };
    let mut wake = AGAIN;
    let mut latest = credential.clone();
    let verdict = match logins(credential, context).await? {
        Err(verdict) => verdict,
        Ok(logins) => {
            show(&mut status, credential, &logins, &before);
            // Kept before accounts is told, so that a sync knows of it.
            if let Some(kept) = keep(&latest, &status, context).await? {
                latest = kept;
            }
            for old in origins(credential).iter().filter(|old| !is_in(old, credential, &status)) {
                context.told.withdraw(old).await?;
            }
            if let Some(previous) = &status.previous {
                let left = previous.revoked_at.0.as_second() - Timestamp::now().as_second();
                wake = wake.min(Duration::from_secs(u64::try_from(left).unwrap_or_default().max(1)));
            }
            if logins.rotated == Rotated::Yes {
                let note = format!("a new password is in the Secret {}", logins.current.name_any());
                context.event(credential, EventType::Normal, ("Rotated", "Rotate"), note).await;
            }
            tell(credential, &logins, context).await?
        }
    };
    if verdict.holds != Holds::True {
        wake = SOON;
    }
    let was = condition::of(&before.conditions, "Ready")
        .map(|(status, reason)| (status.to_owned(), reason.to_owned()));
    let now_is = (verdict.holds.as_str().to_owned(), verdict.reason.to_owned());
    let message = verdict.message.clone();
    let now = Time(Timestamp::now());
    let generation = credential.metadata.generation;
    status.conditions = condition::after(&before.conditions, vec![verdict], generation, &now);
    if keep(&latest, &status, context).await?.is_some() && was.as_ref() != Some(&now_is) {
        let kind = if now_is.0 == "True" { EventType::Normal } else { EventType::Warning };
        context.event(credential, kind, (&now_is.1, "Reconcile"), message).await;
    }
    Ok(Action::requeue(wake))
}

fn is_in(old: &str, credential: &SmtpCredential, status: &SmtpCredentialStatus) -> bool {
    let now = SmtpCredential { status: Some(status.clone()), ..credential.clone() };
    origins(&now).iter().any(|origin| origin == old)
}

/// Keeps a status that differs from the object's; the object as it is then.
async fn keep(
    credential: &SmtpCredential,
    status: &SmtpCredentialStatus,
    context: &Context,
) -> Result<Option<SmtpCredential>, Failure> {
    if credential.status.as_ref() == Some(status) {
        return Ok(None);
    }
    let changed = SmtpCredential { status: Some(status.clone()), ..credential.clone() };
    context.put_status(&changed).await.map(Some)
}

fn show(
    status: &mut SmtpCredentialStatus,
    credential: &SmtpCredential,
    logins: &Logins,
    before: &SmtpCredentialStatus,
) {
    let username = secrets::login_in(&logins.current).map(|login| login.username);
    if status.username != username || before.rotated_at.is_none() {
        status.rotated_at = logins.current.metadata.creation_timestamp.clone();
    }
    status.username = username;
    status.secret_name = Some(secret_name(credential));
    status.rotation_done = secrets::rotation_of(&logins.current).map(str::to_owned);
    status.previous = logins.previous.as_ref().and_then(|secret| {
        let revoked_at = Timestamp::from_second(secrets::revoked_at(secret)?).ok()?;
        Some(PreviousCredential {
            username: secrets::login_in(secret)?.username,
            revoked_at: Time(revoked_at),
        })
    });
}

fn secret_name(credential: &SmtpCredential) -> String {
    credential.spec.secret_name.clone().unwrap_or_else(|| credential.name_any())
}

/// The object's Secrets as they should be now, or why they can't be.
async fn logins(credential: &SmtpCredential, context: &Context) -> Result<Result<Logins, Verdict>, Failure> {
    let (name, uid) = (secret_name(credential), credential.uid().unwrap_or_default());
    let previous_name = format!("{name}-previous");
    let api = context.secrets(&credential.namespace().unwrap_or_default());
    let (held, previous) = tokio::try_join!(api.get_opt(&name), api.get_opt(&previous_name))?;
    let anothers = |secret: &&Secret| !secrets::is_of(secret, &uid);
    if let Some(secret) = held.as_ref().filter(anothers).or(previous.as_ref().filter(anothers)) {
        let text = format!(
            "the Secret {} is somebody else's: delete it, or set spec.secretName of a new SmtpCredential",
            secret.name_any()
        );
        return Ok(Err(Verdict::new("Ready", Holds::False, "SecretTaken", text)));
    }
    let wanted = credential.annotations().get(ROTATE).map(String::as_str);
    let place = (context.settings.smtp_host.as_str(), context.settings.smtp_port);
    let fresh = || Login {
        username: username(credential),
        password: Zeroizing::new(format!("sp_{}", random_text(32))),
    };
    let mut rotated = Rotated::No;
    let mut previous = previous;
    let current = match held {
        None => None,
        Some(held) if wanted.is_some_and(|wanted| secrets::rotation_of(&held) != Some(wanted)) => {
            previous = set_aside(credential, context, &held, previous, wanted).await?;
            context.delete_secret(&held).await?;
            rotated = Rotated::Yes;
            None
        }
        Some(held) if secrets::login_in(&held).is_none() => {
            context.delete_secret(&held).await?;
            None
        }
        Some(held) if !secrets::leads_to(&held, place) => {
            // The same login at another place; what is immutable is made anew.
            let login = secrets::login_in(&held).unwrap_or_else(fresh);
            let moved = secrets::of_login(credential, &name, &login, place, secrets::rotation_of(&held));
            context.delete_secret(&held).await?;
            Some(context.make_secret(&moved).await?)
        }
        Some(held) => Some(held),
    };
    let current = match current {
        Some(current) => current,
        None => {
            let made = secrets::of_login(credential, &name, &fresh(), place, wanted);
            context.make_secret(&made).await?
        }
    };
    let over =
        |secret: &Secret| secrets::revoked_at(secret).is_none_or(|at| at <= Timestamp::now().as_second());
    if let Some(old) = previous.take_if(|secret| over(secret)) {
        context.delete_secret(&old).await?;
    }
    Ok(Ok(Logins { current, previous, rotated }))
}

/// Keeps the login that is replaced in a Secret of its own, until it is revoked.
async fn set_aside(
    credential: &SmtpCredential,
    context: &Context,
    held: &Secret,
    previous: Option<Secret>,
    wanted: Option<&str>,
) -> Result<Option<Secret>, Failure> {
    // It was set aside by this rotation already, and then something came between.
    if previous.as_ref().is_some_and(|previous| secrets::rotation_of(previous) == wanted) {
        return Ok(previous);
    }
    if let Some(old) = previous {
        context.delete_secret(&old).await?;
    }
    let (Some(login), grace) = (secrets::login_in(held), credential.spec.rotation_grace_minutes) else {
        return Ok(None);
    };
    if grace == 0 {
        return Ok(None);
    }
    let place = (context.settings.smtp_host.as_str(), context.settings.smtp_port);
    let name = format!("{}-previous", secret_name(credential));
    let kept = secrets::of_login(credential, &name, &login, place, wanted);
    let until = Timestamp::now().as_second() + i64::from(grace) * 60;
    Ok(Some(context.make_secret(&secrets::revoked_later(kept, until)).await?))
}

/// A user name that tells people whose it is; 64 characters at most, and no other's.
fn username(credential: &SmtpCredential) -> String {
    let name = credential.name_any();
    let short: String = name.chars().take(40).collect();
    format!("{short}-{}", random_text(8))
}

/// One count over all of its logins, so that a rotation doesn't begin it anew.
fn limit(credential: &SmtpCredential) -> Option<CredentialLimit> {
    let recipients_per_day = credential.spec.limits.recipients_per_day?;
    Some(CredentialLimit { recipients_per_day, counted_as: credential.uid()? })
}

async fn tell(credential: &SmtpCredential, logins: &Logins, context: &Context) -> Result<Verdict, Failure> {
    let namespace = credential.namespace().unwrap_or_default();
    let wanted = &credential.spec.account;
    let account = context.account(&namespace, wanted);
    let Some(Ok(account)) = account.as_ref().map(|account| &account.0) else {
        let text = format!("there is no Account {wanted} in namespace {namespace}");
        return Ok(Verdict::new("Ready", Holds::False, "NoAccount", text));
    };
    let name = crate::account::name_of(account);
    for secret in [Some(&logins.current), logins.previous.as_ref()].into_iter().flatten() {
        let Some(Login { username, password }) = secrets::login_in(secret) else { continue };
        let Some(said) = say(credential, &name, &username) else { continue };
        if context.told.has(&said) {
            continue;
        }
        context.leading.check()?;
        let request = PutCredentialRequest {
            account: name.clone(),
            username,
            secret_sha256: digest(&SHA256, password.as_bytes()).as_ref().to_vec().into(),
            description: format!("SmtpCredential {namespace}/{}", credential.name_any()),
            sender_domains: credential.spec.sender_domains.clone(),
            limit: limit(credential),
            ..PutCredentialRequest::default()
        };
        match context.told.credential(&said, request).await {
            Ok(()) => {}
            Err(TellError::Refused(why)) => return Ok(Verdict::new("Ready", Holds::False, "Refused", why)),
            Err(TellError::NoAccount(_)) => {
                let text = format!("the Account {wanted} isn't Ready");
                return Ok(Verdict::new("Ready", Holds::False, "AccountNotReady", text));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let text = format!("log in with what the Secret {} holds", logins.current.name_any());
    Ok(Verdict::new("Ready", Holds::True, "Known", text))
}
