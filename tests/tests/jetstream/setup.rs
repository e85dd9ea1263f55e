//! Streams and consumers as NATS has them, and what a newer version of Stagepost might do to them.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::{Context, consumer, stream};
use futures_util::TryStreamExt as _;

/// What a newer version writes beside.
const DESCRIPTION: &str = "set up by the next version";

/// What is to go on, by name: when each was made, and how far it is.
#[derive(Debug, Default)]
pub(crate) struct SetUp {
    /// Instants of making, in nanoseconds of Unix time.
    pub(crate) streams: BTreeMap<String, i128>,
    /// By stream and name.
    pub(crate) consumers: BTreeMap<(String, String), Consumer>,
}

#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) created: i128,
    /// Sequences of the stream up to which messages were delivered, and acknowledged.
    pub(crate) delivered: u64,
    pub(crate) acknowledged: u64,
    /// How many deliveries there were, repeated ones among them.
    pub(crate) deliveries: u64,
    pub(crate) ack_wait: Duration,
}

async fn streams(context: &Context, prefix: &str) -> Vec<stream::Info> {
    let all: Vec<stream::Info> = context.streams().try_collect().await.unwrap();
    all.into_iter().filter(|info| info.config.name.contains(prefix)).collect()
}

async fn consumers(context: &Context, stream: &str) -> Vec<consumer::Info> {
    let stream = context.get_stream(stream).await.unwrap();
    let all: Vec<consumer::Info> = stream.consumers().try_collect().await.unwrap();
    // Who reads in passing has one without a lasting name.
    all.into_iter().filter(|info| info.config.durable_name.is_some()).collect()
}

impl SetUp {
    /// All whose names hold `prefix`.
    pub(crate) async fn of(context: &Context, prefix: &str) -> Self {
        let mut found = Self::default();
        for info in streams(context, prefix).await {
            for consumer in consumers(context, &info.config.name).await {
                let known = Consumer {
                    created: consumer.created.unix_timestamp_nanos(),
                    delivered: consumer.delivered.stream_sequence,
                    acknowledged: consumer.ack_floor.stream_sequence,
                    deliveries: consumer.delivered.consumer_sequence,
                    ack_wait: consumer.config.ack_wait,
                };
                found.consumers.insert((info.config.name.clone(), consumer.name), known);
            }
            found.streams.insert(info.config.name, info.created.unix_timestamp_nanos());
        }
        found
    }

    /// Everything is there later, none of it made anew or set back.
    pub(crate) fn must_go_on_in(&self, later: &Self) {
        for (name, created) in &self.streams {
            assert_eq!(later.streams.get(name), Some(created), "{name} is the one that was there");
        }
        for (name, before) in &self.consumers {
            let after = later.consumers.get(name).unwrap_or_else(|| panic!("{name:?} is gone"));
            assert_eq!(after.created, before.created, "{name:?} is the one that was there");
            assert!(
                after.delivered >= before.delivered && after.acknowledged >= before.acknowledged,
                "{name:?} was set back: {before:?}, {after:?}"
            );
        }
    }

    /// How often anything was handed out.
    pub(crate) fn deliveries(&self) -> u64 {
        self.consumers.values().map(|consumer| consumer.deliveries).sum()
    }
}

/// What the next version might set: descriptions, metadata, bounds, and another time for leases.
pub(crate) async fn change_as_a_newer_version(context: &Context, prefix: &str) {
    for info in streams(context, prefix).await {
        let name = info.config.name.clone();
        let mut config = info.config;
        config.description = Some(DESCRIPTION.into());
        config.metadata.insert("stagepost-version".into(), "2".into());
        config.metadata.insert("stagepost-next".into(), "something".into());
        config.duplicate_window += Duration::from_secs(60);
        config.subjects.push(format!("{name}.next.>"));
        context.update_stream(config).await.unwrap();
        for info in consumers(context, &name).await {
            let mut config = info.config;
            config.description = Some(DESCRIPTION.into());
            config.metadata.insert("stagepost-next".into(), "something".into());
            config.max_ack_pending = 5_000;
            config.ack_wait += Duration::from_secs(45);
            context.update_consumer_on_stream(config, &name).await.unwrap();
        }
    }
}

/// What an older version didn't have to change is as the newer one left it.
pub(crate) async fn has_what_the_newer_version_set(context: &Context, prefix: &str) {
    let mut seen = 0;
    for info in streams(context, prefix).await {
        let name = info.config.name.clone();
        let later = info.config.metadata.get("stagepost-next");
        for info in consumers(context, &name).await {
            // What came to be afterwards is as the older one makes it.
            if later.is_some() && info.config.metadata.contains_key("stagepost-next") {
                seen += 1;
                assert_eq!(info.config.description.as_deref(), Some(DESCRIPTION), "{} of {name}", info.name);
                assert_eq!(info.config.max_ack_pending, 5_000);
            }
        }
        if later.is_some() {
            seen += 1;
            assert_eq!(info.config.description.as_deref(), Some(DESCRIPTION), "{name}");
            assert_eq!(info.config.metadata["stagepost-version"], "2", "{name}");
            assert!(info.config.subjects.contains(&format!("{name}.next.>")), "{name}");
        }
    }
    assert!(seen > 0, "nothing is left of what the newer version set");
}
