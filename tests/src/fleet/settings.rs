//! What a fleet's processes are set to, and the file that says it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::address::MX_PORT;
use crate::lab::Lab;
use crate::nats::Nats;
use crate::redis::RedisServer;
use crate::stagepost::HOST;

/// By the names of the settings file, with the table before a dot.
pub(super) type Settings = BTreeMap<String, toml::Value>;

/// What all have in common, with files below `folder`.
pub(super) fn usual(lab: &Lab, folder: &Path, nats: &Nats, redis: &RedisServer) -> Settings {
    let text = |path: &Path| path.to_str().expect("our paths are text").to_owned();
    let (certificate, key) = lab.authority.issue(&[HOST]).write(folder, "fleet");
    let sealing = folder.join("sealing.key");
    std::fs::write(&sealing, "5f".repeat(32)).expect("a file can be written");
    [
        ("host_name", HOST.into()),
        ("tls_certificate", text(&certificate).into()),
        ("tls_key", text(&key).into()),
        ("log_format", "text".into()),
        ("grpc.token_file", text(&folder.join("token")).into()),
        ("accounts.sealing_key", text(&sealing).into()),
        ("nats.url", nats.url().into()),
        ("nats.replicas", i64::try_from(nats.count()).expect("few servers").into()),
        ("nats.partitions", if nats.count() == 1 { 8 } else { 2 }.into()),
        ("nats.lanes", 4.into()),
        ("nats.lease_secs", 30.into()),
        ("redis.url", redis.url().into()),
        // So long no connection is opened after Redis was started.
        ("redis.lease_secs", 5.into()),
        ("delivery.port", i64::from(MX_PORT).into()),
        ("delivery.resolvers", vec![lab.dns.address().to_string()].into()),
        ("delivery.allowed_networks", vec!["127.0.0.0/8".to_owned()].into()),
        ("delivery.retry_waits_secs", vec![1_i64].into()),
    ]
    .map(|(key, value): (&str, toml::Value)| (key.to_owned(), value))
    .into()
}

/// The text of a settings file.
pub(super) fn file(settings: &Settings) -> String {
    let mut top = toml::Table::new();
    for (key, value) in settings {
        match key.split_once('.') {
            None => drop(top.insert(key.clone(), value.clone())),
            Some((table, key)) => {
                let table = top.entry(table).or_insert_with(|| toml::Table::new().into());
                table.as_table_mut().expect("a table").insert(key.into(), value.clone());
            }
        }
    }
    top.to_string()
}
