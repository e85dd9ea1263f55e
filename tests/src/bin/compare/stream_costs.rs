//! What NATS does for the mail: records that it stores, messages between it and the services, and how often it syncs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use ::tests::nats::Nats;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::measure::rounded;

/// What was counted until now.
pub(crate) struct Counted {
    /// By the stream's kind, as `MAIL`.
    records: BTreeMap<String, u64>,
    from_clients: u64,
    to_clients: u64,
}

impl Counted {
    /// Asks the monitoring port.
    pub(crate) fn now(nats: &Nats) -> Self {
        let ask = |path: &str| -> Value { serde_json::from_str(&nats.monitor(0, path).unwrap()).unwrap() };
        let (streams, server) = (ask("/jsz?accounts=true&streams=true"), ask("/varz"));
        let mut records = BTreeMap::new();
        let accounts = streams["account_details"].as_array().into_iter().flatten();
        for stream in accounts.flat_map(|account| account["stream_detail"].as_array().into_iter().flatten()) {
            *records.entry(kind(stream["name"].as_str().unwrap())).or_default() +=
                stream["state"]["last_seq"].as_u64().unwrap();
        }
        let of = |field: &str| server[field].as_u64().unwrap();
        Self { records, from_clients: of("in_msgs"), to_clients: of("out_msgs") }
    }

    /// What came to be since `before`, for each of `count` messages.
    pub(crate) fn for_each(&self, before: &Self, syncs: Option<u64>, count: f64) -> Value {
        let each = |after: u64, before: u64| rounded((after - before) as f64 / count.max(1.0), 3);
        let records: BTreeMap<&str, f64> = self
            .records
            .iter()
            .map(|(kind, after)| {
                (kind.as_str(), each(*after, before.records.get(kind).copied().unwrap_or(0)))
            })
            .filter(|(_, each)| *each > 0.0)
            .collect();
        json!({
            "records": rounded(records.values().sum(), 3),
            "records_by_stream": records,
            "from_clients": each(self.from_clients, before.from_clients),
            "to_clients": each(self.to_clients, before.to_clients),
            "syncs": syncs.map(|syncs| each(syncs, 0)),
        })
    }
}

/// Streams of an instance differ in a number at the end.
fn kind(stream: &str) -> String {
    stream.trim_end_matches(|letter: char| letter.is_ascii_digit()).trim_end_matches(['_', '-']).to_owned()
}

/// Counts a process's fsync and fdatasync by `perf`, which doesn't slow it down.
pub(crate) struct Syncs {
    perf: Child,
    report: PathBuf,
}

impl Syncs {
    /// None where there is no `perf`, or it may not count.
    pub(crate) fn count(process: u32, report: PathBuf) -> Option<Self> {
        let events = "syscalls:sys_enter_fsync,syscalls:sys_enter_fdatasync";
        let mut command = Command::new("perf");
        command.args(["stat", "-x", ",", "-e", events, "-p", &process.to_string(), "-o"]).arg(&report);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Some(Self { perf: command.spawn().ok()?, report })
    }

    /// How many there were.
    pub(crate) fn end(mut self) -> Option<u64> {
        // perf writes its report when it is interrupted.
        let _ = kill_process(Pid::from_child(&self.perf), Signal::INT);
        let _ = self.perf.wait();
        let report = std::fs::read_to_string(&self.report).ok()?;
        let counts = report.lines().filter(|line| line.contains("syscalls:"));
        let counts: Vec<u64> = counts.filter_map(|line| line.split(',').next()?.parse().ok()).collect();
        (!counts.is_empty()).then(|| counts.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_a_stream_are_one_kind() {
        assert_eq!(kind("stagepost-MAIL-3"), "stagepost-MAIL");
        assert_eq!(kind("stagepost_EVENTS"), "stagepost_EVENTS");
    }

    #[test]
    fn figures_are_of_what_came_between() {
        let counted = |records: u64| Counted {
            records: [("MAIL".to_owned(), records), ("BODY".to_owned(), 7)].into(),
            from_clients: 2 * records,
            to_clients: records,
        };
        let each = counted(30).for_each(&counted(10), Some(40), 10.0);
        assert_eq!(each["records_by_stream"], json!({ "MAIL": 2.0 }));
        assert_eq!((&each["from_clients"], &each["syncs"]), (&json!(4.0), &json!(4.0)));
    }
}
