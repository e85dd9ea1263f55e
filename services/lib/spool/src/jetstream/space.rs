//! Whether there is room for new mail.
//!
//! Only submissions are refused: what is queued must always be able to bounce, to wait or to be reported. Inline content is
//! written once more when its job first waits, so that what is inline counts twice, and a tenth stays free.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use super::api::{Api, ApiError};
use super::names::Names;
use crate::AcceptError;

/// How often the server is asked.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Octets of a record beside its content, about.
const RECORD: u64 = 1_024;

/// What the streams take, as far as is known.
pub(super) struct Space {
    /// Octets that the queue may take, 0 when no limit is known.
    most: AtomicU64,
    /// Octets that are taken or spoken for.
    taken: AtomicU64,
    /// Octets taken here since the server was asked.
    since: AtomicU64,
    /// Octets on disk.
    disk: AtomicU64,
}

impl Space {
    pub(super) fn new(octets_max: u64) -> Self {
        Self {
            most: AtomicU64::new(octets_max),
            taken: AtomicU64::new(0),
            since: AtomicU64::new(0),
            disk: AtomicU64::new(0),
        }
    }

    /// A limit that the server has, where none is set.
    pub(super) fn limit(&self, octets: u64) {
        let _ = self.most.compare_exchange(0, octets, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn room_for(&self, octets: u64) -> Result<(), AcceptError> {
        let most = self.most.load(Ordering::Relaxed);
        if most == 0 {
            return Ok(());
        }
        let since = self.since.load(Ordering::Relaxed);
        let wanted = self.taken.load(Ordering::Relaxed) + 2 * (since + octets + RECORD);
        let usable = most - most / 10;
        if wanted <= usable {
            return Ok(());
        }
        Err(AcceptError::Full(format!("{wanted} octets would be spoken for, of {usable}")))
    }

    /// Octets were accepted.
    pub(super) fn took(&self, octets: u64) {
        self.since.fetch_add(octets + RECORD, Ordering::Relaxed);
    }

    pub(super) fn disk_octets(&self) -> u64 {
        self.disk.load(Ordering::Relaxed)
    }

    /// Asks the server what all streams of the instance take.
    pub(super) async fn measure(&self, api: &Api, names: &Names) -> Result<(), ApiError> {
        let since = self.since.load(Ordering::Relaxed);
        let (mut mail, mut other, mut offset) = (0, 0, 0);
        loop {
            let body = json!({ "subject": format!("{}.>", names.instance()), "offset": offset });
            let answer = api.call("STREAM.LIST", &body).await?;
            let streams = answer["streams"].as_array().map_or(&[][..], Vec::as_slice);
            for stream in streams {
                let octets = stream["state"]["bytes"].as_u64().unwrap_or_default();
                let name = stream["config"]["name"].as_str().unwrap_or_default();
                if names.partition_of(name).is_some() { mail += octets } else { other += octets }
            }
            offset += streams.len();
            if streams.is_empty() || offset as u64 >= answer["total"].as_u64().unwrap_or_default() {
                break;
            }
        }
        self.disk.store(mail + other, Ordering::Relaxed);
        self.taken.store(2 * mail + other, Ordering::Relaxed);
        self.since.fetch_sub(since, Ordering::Relaxed);
        Ok(())
    }
}
