//! Watches objects, and has each looked after while this process holds the Lease.
//!
//! Watches end within a minute if nothing comes, so that one that was cut off without a sign is begun anew. Of Secrets only
//! the names of those that the operator made are watched, and none is kept.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, future};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store, store::Writer};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{Predicate as _, WatchStreamExt as _, predicates};
use kube::{Client, Resource, ResourceExt as _};
use runtime::telemetry::{TRACE, failed};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::context::{Context, Failure, Guarded};
use crate::secrets::MANAGED_BY;

/// Shorter than the time after which a connection without a word is given up.
const WATCH_SECS: u32 = 40;

/// An object that the operator looks after.
pub(crate) trait Managed:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    const KIND: &'static str;

    /// What accounts may know of it.
    fn origins(&self) -> Vec<String>;

    fn reconcile(&self, context: &Context) -> impl Future<Output = Result<Action, Failure>> + Send;
}

/// The objects of a kind, and the way to be told of one.
pub(crate) struct Kind<K: Managed> {
    pub(crate) store: Store<Guarded<K>>,
    pub(crate) nudge: mpsc::UnboundedSender<ObjectRef<Guarded<K>>>,
    /// Cancelled once all objects are in the store. (The store's own way to wait for that wakes one who waits, and that is
    /// the controller.)
    pub(crate) whole: CancellationToken,
    nudged: mpsc::UnboundedReceiver<ObjectRef<Guarded<K>>>,
    writer: Writer<Guarded<K>>,
}

impl<K: Managed> Kind<K> {
    pub(crate) fn new() -> Self {
        let (store, writer) = reflector::store();
        let (nudge, nudged) = mpsc::unbounded_channel();
        Self { store, nudge, whole: CancellationToken::new(), nudged, writer }
    }

    /// Looks after all objects of the kind until `end`; those being worked on are finished.
    pub(crate) async fn run(
        self,
        context: Arc<Context>,
        left: mpsc::UnboundedSender<Vec<String>>,
        end: CancellationToken,
    ) {
        let Self { store, nudge: _, whole, nudged, writer } = self;
        let settings = &context.settings;
        let config = Config::default().concurrency(settings.concurrency);
        let objects: Api<Guarded<K>> = scoped(&context.client, settings.namespace.as_deref());
        let stream = watched(objects, writer, left, whole);
        let secrets: Api<PartialObjectMeta<Secret>> = scoped(&context.client, settings.namespace.as_deref());
        let label = format!("{}={}", MANAGED_BY.0, MANAGED_BY.1);
        let made = watcher(secrets, watching().labels(&label))
            .default_backoff()
            .touched_objects()
            .predicate_filter(predicates::resource_version, Default::default());
        let stopped = end.clone();
        Controller::for_stream(stream, store)
            .with_config(config)
            .owns_stream(made)
            .reconcile_on(UnboundedReceiverStream::new(nudged))
            .graceful_shutdown_on(async move { stopped.cancelled().await })
            .run(look_after::<K>, again::<K>, context)
            .for_each(|_| future::ready(()))
            .await;
    }
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn watching() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECS)
}

fn watched<K: Managed>(
    api: Api<Guarded<K>>,
    writer: Writer<Guarded<K>>,
    left: mpsc::UnboundedSender<Vec<String>>,
    whole: CancellationToken,
) -> impl Stream<Item = Result<Guarded<K>, watcher::Error>> + Send {
    watcher(api, watching())
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .inspect(move |event| {
            if let Ok(Event::Delete(gone)) = event
                && let Ok(object) = &gone.0
            {
                // Nobody listens any more when all ends.
                let _ = left.send(object.origins());
            }
        })
        .reflect(writer)
        .inspect(move |event| {
            if matches!(event, Ok(Event::InitDone)) {
                whole.cancel();
            }
        })
        .touched_objects()
        // What the operator says of an object is no reason to look at it.
        .predicate_filter(
            predicates::generation.combine(predicates::annotations).combine(predicates::labels),
            Default::default(),
        )
}

async fn look_after<K: Managed>(object: Arc<Guarded<K>>, context: Arc<Context>) -> Result<Action, Failure> {
    let began = Instant::now();
    let outcome = match &object.0 {
        Ok(object) => {
            let span = reconcile_span(object);
            let outcome = object.reconcile(&context).instrument(span.clone()).await;
            if let Err(failure) = &outcome {
                failed(&span, failure.category());
            }
            outcome
        }
        Err(invalid) => {
            // Whoever made it past the API server's checks has changed since; the others go on.
            let name = object.name_any();
            tracing::warn!(kind = K::KIND, name, error = invalid.error, "an object can't be read");
            Ok(Action::await_change())
        }
    };
    context.metrics.reconciled(K::KIND, began.elapsed());
    if outcome.is_ok() {
        context.failures.clear(&object.uid().unwrap_or_default());
    }
    outcome
}

/// A look at an object is a trace of its own: `dns.check`, `dkim.generate` and calls to accounts are in it.
fn reconcile_span<K: Managed>(object: &K) -> Span {
    tracing::info_span!(
        target: TRACE,
        parent: None,
        "reconcile",
        k8s.object.kind = K::KIND,
        k8s.namespace.name = object.namespace(),
        k8s.object.name = object.name_any(),
        error.type = Empty,
        otel.status_code = Empty,
    )
}

fn again<K: Managed>(object: Arc<Guarded<K>>, failure: &Failure, context: Arc<Context>) -> Action {
    let category = failure.category();
    context.metrics.failures.add(category, 1);
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let pause = context.failures.add(&object.uid().unwrap_or_default());
    if category == "conflict" {
        tracing::debug!(kind = K::KIND, namespace, name, "somebody was quicker; looking again");
        return Action::requeue(Duration::from_millis(200));
    }
    tracing::warn!(kind = K::KIND, namespace, name, category, error = %failure, "an object isn't as it should be yet");
    Action::requeue(pause)
}
