//! Streams and consumers: made where they are missing, updated where they differ, never deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, pull};
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context, ErrorCode};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::names::{Kind, Lane, Names};
use super::settings::Settings;
use super::{OpenError, control};

/// The version of records and streams that this program writes.
const VERSION: &str = "1";
/// Where a stream says how many lanes it was made for.
const LANES: &str = "stagepost-lanes";
/// Consumers made at the same time.
const AT_ONCE: usize = 16;
/// A publish that is repeated within it is known again by its id.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// What there is to be served: that which exists, whoever made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) partitions: BTreeSet<u16>,
    pub(super) lanes: u16,
}

/// What to do about streams and consumers that are there, but aren't as the settings say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Differing {
    /// A process that starts brings them up to date.
    Update,
    /// One that runs leaves to others what they set since.
    Leave,
}

/// Makes what the settings ask for, each stream bounded to `most` octets, and gives all that exists then.
pub(super) async fn prepare(
    client: &async_nats::Client,
    names: &Names,
    settings: &Settings,
    most: i64,
    differing: Differing,
) -> Result<Layout, OpenError> {
    let context = context(client);
    for partition in 0..settings.partitions {
        for config in streams(names, settings, most, partition) {
            ensure(&context, config, differing).await?;
        }
    }
    ensure(&context, events(names, settings), differing).await?;
    ensure(&context, dead(names, settings), differing).await?;
    let layout = discover(client, names, settings).await?;
    if differing == Differing::Update {
        // Whoever has leases must know before they end sooner.
        let told = control::announce(client, names, settings.lease).await;
        told.map_err(|error| OpenError::Setup(error.to_string()))?;
    }
    let wanted = layout
        .partitions
        .iter()
        .flat_map(|partition| Lane::all(layout.lanes).map(move |lane| (*partition, lane)));
    let made = stream::iter(wanted.collect::<Vec<_>>())
        .map(|place| consumers(&context, names, settings, place, differing))
        .buffer_unordered(AT_ONCE);
    made.try_collect::<Vec<()>>().await?;
    for partition in &layout.partitions {
        counters(&context, names, settings, *partition, differing).await?;
    }
    Ok(layout)
}

/// What exists: partitions by their streams, lanes by what the streams say they were made for.
pub(super) async fn discover(
    client: &async_nats::Client,
    names: &Names,
    settings: &Settings,
) -> Result<Layout, OpenError> {
    let mut layout = Layout { partitions: BTreeSet::new(), lanes: settings.lanes };
    let context = context(client);
    let mut streams = context.streams();
    while let Some(info) = streams.try_next().await.map_err(|error| OpenError::Setup(error.to_string()))? {
        let Some(partition) = names.partition_of(&info.config.name) else { continue };
        layout.partitions.insert(partition);
        let lanes = info.config.metadata.get(LANES).and_then(|text| text.parse().ok());
        layout.lanes = layout.lanes.max(lanes.unwrap_or_default());
    }
    Ok(layout)
}

fn context(client: &async_nats::Client) -> Context {
    jetstream::ContextBuilder::new().timeout(Duration::from_secs(20)).build(client.clone())
}

/// A bound of last resort for each stream of mail and of content, -1 for none: partitions fill unevenly, and who accepts mail stops
/// long before. NATS sets aside all that streams may take; where it keeps too little for that, `keeps`, it has a bound of its own.
pub(super) fn bound(settings: &Settings, keeps: Option<u64>) -> i64 {
    let partitions = u64::from(settings.partitions.max(1));
    let most = 2 * settings.octets_max / partitions;
    let all = (2 * partitions).saturating_mul(most).saturating_add(settings.events_octets);
    if most == 0 || keeps.is_some_and(|keeps| all > keeps / 10 * 9) {
        return -1;
    }
    i64::try_from(most).unwrap_or(-1)
}

fn streams(names: &Names, settings: &Settings, most: i64, partition: u16) -> [Config; 3] {
    let retries = Kind::RETRIES.map(|kind| names.all(kind, partition));
    let base = |name, subjects| Config {
        name,
        subjects,
        storage: StorageType::File,
        num_replicas: settings.replicas.into(),
        max_consumers: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_bytes: -1,
        allow_direct: true,
        duplicate_window: DUPLICATE_WINDOW,
        allow_atomic_publish: true,
        metadata: [
            ("stagepost-version".to_owned(), VERSION.to_owned()),
            (LANES.to_owned(), settings.lanes.to_string()),
        ]
        .into(),
        ..Config::default()
    };
    [
        Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_bytes: most,
            ..base(names.mail(partition), vec![names.all(Kind::Mail, partition)])
        },
        // No limit of its size: with schedules a full stream would drop its oldest records and say nothing. Of a subject there is one
        // record, so that what becomes due twice is there once. A rollup would do the same by a purge, after which the replicas of
        // a consumer differ about what is acknowledged, and what one of them takes to be is removed from the stream.
        Config {
            retention: RetentionPolicy::WorkQueue,
            max_messages_per_subject: 1,
            allow_rollup: true,
            allow_message_schedules: true,
            ..base(names.retry(partition), retries.to_vec())
        },
        Config {
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::New,
            max_messages_per_subject: 1,
            max_bytes: most,
            allow_message_ttl: true,
            allow_atomic_publish: false,
            ..base(names.body(partition), vec![names.chunks(partition)])
        },
    ]
}

fn events(names: &Names, settings: &Settings) -> Config {
    Config {
        name: names.events(),
        subjects: vec![names.event("*")],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: settings.replicas.into(),
        // The oldest go.
        discard: DiscardPolicy::Old,
        max_age: settings.events_age,
        max_bytes: match settings.events_octets {
            0 => -1,
            octets => i64::try_from(octets).unwrap_or(i64::MAX),
        },
        allow_direct: true,
        ..Config::default()
    }
}

fn dead(names: &Names, settings: &Settings) -> Config {
    Config {
        name: names.dead(),
        subjects: vec![names.all_dead()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: settings.replicas.into(),
        discard: DiscardPolicy::New,
        allow_direct: true,
        ..Config::default()
    }
}

/// Makes the stream, or updates it: what another version or another setting added to it stays.
async fn ensure(context: &Context, wanted: Config, differing: Differing) -> Result<(), OpenError> {
    let failed = |error: &CreateStreamError| OpenError::Stream {
        stream: wanted.name.clone(),
        cause: match error.kind() {
            CreateStreamErrorKind::JetStream(cause)
                if cause.error_code() == ErrorCode::STORAGE_RESOURCES_EXCEEDED =>
            {
                format!("{cause}: NATS sets aside what a stream may take; see --nats-events-bytes-max")
            }
            _ => error.to_string(),
        },
    };
    let Ok(existing) = context.get_stream(&wanted.name).await else {
        return context.create_stream(&wanted).await.map(drop).map_err(|error| failed(&error));
    };
    if differing == Differing::Leave {
        return Ok(());
    }
    let found = &existing.cached_info().config;
    let mut config = Config {
        num_replicas: wanted.num_replicas,
        max_messages_per_subject: wanted.max_messages_per_subject,
        max_bytes: wanted.max_bytes,
        max_age: wanted.max_age,
        ..found.clone()
    };
    let lanes = |config: &Config| config.metadata.get(LANES).and_then(|text| text.parse::<u16>().ok());
    if lanes(&wanted) > lanes(found) {
        let lanes = wanted.metadata.get(LANES).cloned().unwrap_or_default();
        config.metadata.insert(LANES.to_owned(), lanes);
    }
    for subject in &wanted.subjects {
        if !config.subjects.contains(subject) {
            config.subjects.push(subject.clone());
        }
    }
    if config == *found {
        return Ok(());
    }
    context.update_stream(&config).await.map(drop).map_err(|error| failed(&error))
}

/// The consumers that nobody pulls from: what they have pending is how many records there are of their kind.
pub(super) fn counter(kind: Kind) -> String {
    format!(
        "count-{}",
        match kind {
            Kind::Held => "held",
            _ => "sched",
        }
    )
}

async fn counters(
    context: &Context,
    names: &Names,
    settings: &Settings,
    partition: u16,
    differing: Differing,
) -> Result<(), OpenError> {
    for kind in [Kind::Sched, Kind::Held] {
        let config = pull::Config {
            durable_name: Some(counter(kind)),
            filter_subject: names.all(kind, partition),
            ..consumer(settings)
        };
        make(context, names.retry(partition), config, differing).await?;
    }
    Ok(())
}

fn consumer(settings: &Settings) -> pull::Config {
    pull::Config {
        ack_policy: AckPolicy::Explicit,
        ack_wait: settings.lease,
        max_deliver: -1,
        max_ack_pending: -1,
        max_waiting: 2_048,
        num_replicas: settings.replicas.into(),
        ..pull::Config::default()
    }
}

/// Makes a consumer, or updates the one of this name where it must be otherwise: what another version or an administrator set
/// beside stays. It is never made anew, since all that is leased would be handed out again.
async fn make(
    context: &Context,
    stream: String,
    wanted: pull::Config,
    differing: Differing,
) -> Result<(), OpenError> {
    let name = wanted.durable_name.clone().unwrap_or_default();
    let made = match context.get_consumer_from_stream::<consumer::Config, _, _>(&name, &stream).await {
        Err(_) => context.create_consumer_on_stream(wanted, &stream).await.map(drop).map_err(as_text),
        Ok(_) if differing == Differing::Leave => return Ok(()),
        Ok(existing) => {
            let found = &existing.cached_info().config;
            let config = consumer::Config {
                ack_wait: wanted.ack_wait,
                // In its stead.
                backoff: wanted.backoff,
                max_deliver: wanted.max_deliver,
                num_replicas: wanted.num_replicas,
                ..found.clone()
            };
            if config == *found {
                return Ok(());
            }
            context.update_consumer_on_stream(config, &stream).await.map(drop).map_err(as_text)
        }
    };
    made.map_err(|cause| OpenError::Consumer { stream, name, cause })
}

fn as_text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn consumers(
    context: &Context,
    names: &Names,
    settings: &Settings,
    (partition, lane): (u16, Lane),
    differing: Differing,
) -> Result<(), OpenError> {
    for kind in [Kind::Mail, Kind::Due] {
        let config = pull::Config {
            durable_name: Some(Names::consumer(kind, lane)),
            filter_subject: names.lane(kind, partition, lane),
            ..consumer(settings)
        };
        make(context, names.stream(kind, partition), config, differing).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_as_far_as_nats_can_set_it_aside() {
        let settings = |octets_max, events_octets| Settings {
            instance: "test".into(),
            connection: super::super::Connection::default(),
            durability: super::super::Durability::Unknown,
            replicas: 1,
            partitions: 8,
            lanes: 1,
            octets_max,
            events_age: Duration::from_secs(1),
            events_octets,
            lease: Duration::from_secs(30),
        };
        // Sixteen streams may take four times as much as the queue, and events come on top.
        for (octets_max, events, keeps, expected) in [
            (0, 0, None, -1),
            (8_000, 0, None, 2_000),
            (8_000, 0, Some(40_000), 2_000),
            (8_000, 0, Some(35_000), -1),
            (8_000, 5_000, Some(40_000), -1),
        ] {
            assert_eq!(
                bound(&settings(octets_max, events), keeps),
                expected,
                "{octets_max} {events} {keeps:?}"
            );
        }
    }
}
