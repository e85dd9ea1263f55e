//! Jaeger, with its memory as its store: it takes traces by OTLP and is asked for them by its API.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::address;
use crate::deadline::{SOON, until};
use crate::http;
use crate::lab::Lab;
use crate::process::Process;

const OTLP_PORT: u16 = 4317;
const QUERY_PORT: u16 = 16686;
/// Whatever else it listens on; all at its own address.
const LISTENERS: [(&str, u16); 7] = [
    ("collector.otlp.grpc", OTLP_PORT),
    ("collector.otlp.http", 4318),
    ("collector.grpc-server", 14250),
    ("collector.http-server", 14268),
    ("query.http-server", QUERY_PORT),
    ("query.grpc-server", 16685),
    ("admin.http", 14269),
];

/// A Jaeger that runs.
pub struct Jaeger {
    address: Ipv4Addr,
    process: Process,
}

/// A span as it arrived.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its trace.
    pub trace: String,
    /// The service that it comes from.
    pub service: String,
    /// Its own id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The span that it is a child of.
    pub parent: Option<String>,
    /// Trace and id of spans that it is linked to.
    pub links: Vec<(String, String)>,
    /// Its attributes; each value as text.
    pub attributes: BTreeMap<String, String>,
    /// What happened in it: name and attributes, in order.
    pub events: Vec<(String, BTreeMap<String, String>)>,
    /// When it began, in microseconds since 1970.
    pub began_micros: u64,
}

impl Span {
    /// An attribute's value, empty when there is none.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// All spans of a trace that have arrived, in the order of their beginnings.
#[derive(Clone, Debug, Default)]
pub struct Trace(pub Vec<Span>);

impl Trace {
    /// The spans of this name.
    pub fn named(&self, name: &str) -> Vec<&Span> {
        self.0.iter().filter(|span| span.name == name).collect()
    }

    /// The only span of this name.
    ///
    /// # Panics
    /// When there is none, or another.
    pub fn only(&self, name: &str) -> &Span {
        let named = self.named(name);
        assert_eq!(named.len(), 1, "spans named {name} in {self:#?}");
        named[0]
    }

    /// The names that occur.
    pub fn names(&self) -> BTreeSet<&str> {
        self.0.iter().map(|span| span.name.as_str()).collect()
    }
}

impl Jaeger {
    /// Starts one.
    pub fn start(lab: &Lab) -> Self {
        Self::start_in(lab.folder())
    }

    /// Starts one with its log in a folder.
    pub fn start_in(folder: &Path) -> Self {
        let address = address::fresh();
        let mut command = Command::new(address::cache().join("bin/jaeger"));
        command.env("SPAN_STORAGE_TYPE", "memory");
        for (listener, port) in LISTENERS {
            command.arg(format!("--{listener}.host-port={address}:{port}"));
        }
        let log = folder.join(format!("jaeger-{address}.log"));
        let mut process = Process::start("jaeger", command, &log);
        let query = SocketAddr::from((address, QUERY_PORT));
        process.wait_ready(|| {
            let takes = std::net::TcpStream::connect((address, OTLP_PORT)).is_ok();
            takes && http::try_ask("GET", query, "/api/services").is_ok_and(|answer| answer.status == 200)
        });
        Self { address, process }
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where it takes spans, as `otlp_endpoint` names it.
    pub fn endpoint(&self) -> String {
        format!("http://{}:{OTLP_PORT}", self.address)
    }

    /// All traces of Stagepost that it has, as far as they have arrived.
    ///
    /// # Panics
    /// When Jaeger answers with anything but traces.
    pub fn traces(&self) -> Vec<Trace> {
        let mut found = BTreeMap::new();
        for service in self.ask("/api/services").iter().filter_map(Value::as_str) {
            for trace in self.ask(&format!("/api/traces?service={service}&limit=10000&lookback=1h")) {
                found.insert(trace["traceID"].to_string(), trace);
            }
        }
        found.values().map(trace).collect()
    }

    fn ask(&self, target: &str) -> Vec<Value> {
        let answer = http::ask("GET", (self.address, QUERY_PORT).into(), target);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let answer: Value = serde_json::from_str(&answer.body).expect("Jaeger answers with JSON");
        answer["data"].as_array().cloned().unwrap_or_default()
    }

    /// Waits for traces in which `wanted` finds something.
    pub fn wait_for<T>(&self, what: &str, mut wanted: impl FnMut(&[Trace]) -> Option<T>) -> T {
        until(what, SOON, || wanted(&self.traces()))
    }

    /// Waits for the trace that holds a message's transaction and `count` spans named `name`.
    pub fn wait_for_message(&self, queue_id: &str, name: &str, count: usize) -> Trace {
        let is_its =
            |span: &Span| span.name == "smtp.transaction" && span.attribute("mail.queue_id") == queue_id;
        self.wait_for(&format!("{count} spans {name} of {queue_id}"), |traces| {
            let trace = traces.iter().find(|trace| trace.0.iter().any(is_its))?;
            (trace.named(name).len() == count).then(|| trace.clone())
        })
    }
}

fn trace(value: &Value) -> Trace {
    let mut spans: Vec<Span> =
        value["spans"].as_array().into_iter().flatten().map(|it| span(it, &value["processes"])).collect();
    spans.sort_by_key(|span| span.began_micros);
    Trace(spans)
}

fn span(value: &Value, processes: &Value) -> Span {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let references = |kind: &str| -> Vec<(String, String)> {
        let all = value["references"].as_array().into_iter().flatten();
        let of_kind = all.filter(|reference| reference["refType"] == kind);
        of_kind.map(|reference| (text(&reference["traceID"]), text(&reference["spanID"]))).collect()
    };
    let events = value["logs"].as_array().into_iter().flatten().map(|event| {
        let mut attributes = attributes(&event["fields"]);
        (attributes.remove("event").unwrap_or_default(), attributes)
    });
    Span {
        trace: text(&value["traceID"]),
        service: text(&processes[text(&value["processID"])]["serviceName"]),
        id: text(&value["spanID"]),
        name: text(&value["operationName"]),
        parent: references("CHILD_OF").into_iter().next().map(|(_, parent)| parent),
        links: references("FOLLOWS_FROM"),
        attributes: attributes(&value["tags"]),
        events: events.collect(),
        began_micros: value["startTime"].as_u64().unwrap_or_default(),
    }
}

fn attributes(tags: &Value) -> BTreeMap<String, String> {
    let pairs = tags.as_array().into_iter().flatten().filter_map(|tag| {
        let value = match &tag["value"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some((tag["key"].as_str()?.to_owned(), value))
    });
    pairs.collect()
}
