//! What all reconcilers share.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::core::DeserializeGuard;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt as _};
use limits::Counters;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Settings;
use crate::crd::{Account, SendingDomain, SmtpCredential};
use crate::keymaker::{KeyMaker, MakeError};
use crate::leader::{Leading, NotLeading};
use crate::metrics::Metrics;
use crate::secrets::SecretError;
use crate::told::{TellError, Told};

pub(crate) const MANAGER: &str = "stagepost-operator";

/// An object, or why what the API server has under its name is none.
pub(crate) type Guarded<K> = DeserializeGuard<K>;

pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) leading: Leading,
    pub(crate) told: Told,
    pub(crate) accounts: Store<Guarded<Account>>,
    pub(crate) domains: Store<Guarded<SendingDomain>>,
    pub(crate) credentials: Store<Guarded<SmtpCredential>>,
    pub(crate) keys: KeyMaker,
    pub(crate) look: crate::domain::look::Dns,
    /// Where accounts' recipients are counted, if that is known.
    pub(crate) counters: Option<Arc<Counters>>,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) failures: Failures,
}

/// Why an object isn't as it should be, after an attempt to make it so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Accounts(#[from] TellError),
    #[error(transparent)]
    Key(#[from] MakeError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
}

impl Failure {
    pub(crate) const CATEGORIES: [&'static str; 6] =
        ["conflict", "api", "accounts", "key", "secret", "leadership"];

    pub(crate) fn category(&self) -> &'static str {
        match self {
            Self::Api(kube::Error::Api(status)) if status.code == 409 => "conflict",
            Self::Api(_) => "api",
            Self::Accounts(_) => "accounts",
            Self::Key(_) => "key",
            Self::Secret(_) => "secret",
            Self::NotLeading(_) => "leadership",
        }
    }
}

/// How often objects failed in a row.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<HashMap<String, u32>>);

const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

impl Failures {
    /// The pause after one more failure: twice as long each time.
    pub(crate) fn add(&self, uid: &str) -> Duration {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(uid.to_owned()).or_default();
        let pause = PAUSE_MIN.saturating_mul(1 << (*count).min(10));
        *count += 1;
        pause.min(PAUSE_MAX)
    }

    pub(crate) fn clear(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

impl Context {
    pub(crate) fn secrets(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The account object of a namespace by its name.
    pub(crate) fn account(&self, namespace: &str, name: &str) -> Option<Arc<Guarded<Account>>> {
        let found = self.accounts.get(&ObjectRef::new(name).within(namespace))?;
        found.0.as_ref().is_ok_and(|account| account.metadata.deletion_timestamp.is_none()).then_some(found)
    }

    /// Replaces the status of an object that nobody changed since it was seen.
    pub(crate) async fn put_status<K>(&self, object: &K) -> Result<K, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        self.leading.check()?;
        let api: Api<K> = Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let mut kept = api.replace_status(&object.name_any(), &params, object).await?;
        kept.managed_fields_mut().clear();
        Ok(kept)
    }

    /// Makes a Secret; one of that name that is there is left as it is and given back.
    pub(crate) async fn make_secret(&self, secret: &Secret) -> Result<Secret, Failure> {
        self.leading.check()?;
        let api = self.secrets(&secret.namespace().unwrap_or_default());
        match api.create(&PostParams::default(), secret).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(api.get(&secret.name_any()).await?),
            made => Ok(made?),
        }
    }

    /// Deletes this very Secret; it is no error that it is gone.
    pub(crate) async fn delete_secret(&self, secret: &Secret) -> Result<(), Failure> {
        self.leading.check()?;
        let api = self.secrets(&secret.namespace().unwrap_or_default());
        let this = Preconditions { uid: secret.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
        match api.delete(&secret.name_any(), &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    /// Tells whoever looks at the object of something that changed.
    pub(crate) async fn event<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        kind: EventType,
        (reason, action): (&str, &str),
        note: String,
    ) {
        let event = Event {
            type_: kind,
            reason: reason.into(),
            note: Some(note.chars().take(1000).collect()),
            action: action.into(),
            secondary: None,
        };
        // What it tells of has happened all the same.
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            tracing::debug!(%error, "an event isn't kept");
        }
    }
}
