//! Whether the server may be trusted with mail: its version, and that it syncs before it answers.

use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::OpenError;
use super::settings::{Durability, Settings};

/// Earlier servers lose schedules.
const OLDEST: (u64, u64, u64) = (2, 15, 2);
const MONITOR_PORT: u16 = 8222;
const PATIENCE: Duration = Duration::from_secs(5);

/// Refuses a server that may lose what it acknowledged; gives the octets that it keeps at most, when it says so.
pub(super) async fn check(client: &Client, settings: &Settings) -> Result<Option<u64>, OpenError> {
    let found = client.server_info().version;
    if version(&found).is_none_or(|version| version < OLDEST) {
        return Err(OpenError::Version { found });
    }
    let Durability::Ask(urls) = &settings.durability else {
        tracing::warn!(
            "it isn't known whether NATS has mail on disk before it answers: a power failure may lose what was accepted within its last sync_interval, 2 minutes by default"
        );
        return Ok(None);
    };
    let urls = if urls.is_empty() { guessed(&settings.connection.url) } else { urls.clone() };
    let (mut most, mut errors, mut answered) = (None, Vec::new(), false);
    for url in &urls {
        match ask(url).await {
            Ok(answer) => {
                answered = true;
                require_sync(url, &answer)?;
                let octets = answer["config"]["max_storage"].as_u64().filter(|octets| *octets > 0);
                most = most.into_iter().chain(octets).min();
            }
            Err(cause) => errors.push(format!("{url}: {cause}")),
        }
    }
    if !answered {
        return Err(OpenError::Durability(format!(
            "can't ask NATS whether it has mail on disk before it answers ({}); name its monitoring ports with --nats-monitor, \
             or accept that a power failure loses mail with --nats-unsafe-sync",
            errors.join("; ")
        )));
    }
    for error in errors {
        tracing::warn!(error, "a NATS server can't be asked whether it has mail on disk before it answers");
    }
    Ok(most)
}

fn require_sync(url: &str, answer: &Value) -> Result<(), OpenError> {
    let config = &answer["config"];
    if config["sync_always"].as_bool() == Some(true) {
        return Ok(());
    }
    let interval = config["sync_interval"].as_u64().map_or(120, |nanos| nanos / 1_000_000_000);
    Err(OpenError::Durability(format!(
        "the NATS server at {url} writes to disk every {interval} s only, so that a power failure loses mail that was accepted; \
         set `sync_interval: always` in its `jetstream` block, or accept the loss with --nats-unsafe-sync"
    )))
}

fn version(text: &str) -> Option<(u64, u64, u64)> {
    // A release candidate is older than its release.
    let mut numbers = text.split('.').map(|part| part.parse::<u64>().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

/// Monitoring ports where they usually are.
fn guessed(urls: &str) -> Vec<String> {
    let host = |url: &str| {
        let rest = url.trim().split_once("://").map_or(url.trim(), |(_, rest)| rest);
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
        format!("http://{host}:{MONITOR_PORT}")
    };
    urls.split(',').map(host).collect()
}

async fn ask(url: &str) -> Result<Value, String> {
    tokio::time::timeout(PATIENCE, get(url)).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn get(url: &str) -> Result<Value, String> {
    let rest = url.strip_prefix("http://").ok_or("expected http://host:port")?;
    let authority = rest.trim_end_matches('/');
    let stream = TcpStream::connect(authority).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = Request::get("/jsz").header("host", authority).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let octets = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        serde_json::from_slice(&octets).map_err(|error| format!("not what a NATS server says: {error}"))
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => Err(ended.map_or_else(|error| error.to_string(), |()| "it hung up".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_that_is_too_old_is_told_from_one_that_is_not() {
        for (text, new) in [
            ("2.15.2", true),
            ("2.15.10", true),
            ("2.16.0", true),
            ("3.0.0", true),
            ("2.15.1", false),
            ("2.14.9", false),
            ("2.15.2-RC.1", false),
            ("", false),
        ] {
            assert_eq!(version(text).is_some_and(|version| version >= OLDEST), new, "{text}");
        }
    }

    #[test]
    fn a_server_that_syncs_from_time_to_time_is_refused() {
        assert!(require_sync("u", &json!({ "config": { "sync_always": true } })).is_ok());
        let error =
            require_sync("u", &json!({ "config": { "sync_interval": 120_000_000_000_u64 } })).unwrap_err();
        assert!(error.to_string().contains("every 120 s"), "{error}");
        assert!(require_sync("u", &json!({})).is_err());
    }

    #[test]
    fn monitoring_is_looked_for_beside_the_server() {
        assert_eq!(guessed("nats://a:4222, nats://u:p@b"), ["http://a:8222", "http://b:8222"]);
    }
}
