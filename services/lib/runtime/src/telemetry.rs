//! Logs on standard error, and traces to a collector.
//!
//! ```text
//! event ----------------------> logs, by the filter
//! span of target TRACE -------> traces, when there is an endpoint and the ratio isn't 0; else no span is made at all:
//!                               asking costs an atomic load
//! ```

mod context;
mod export;

use std::str::FromStr;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Metadata, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, LevelFilter, ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt};

pub(crate) use context::TRACEPARENT;
pub use context::{
    SpanMark, TraceId, continue_from, current_traceparent, failed, link, server_span, trace_id,
};
pub use export::{
    OtlpEndpoint, ParseOtlpEndpointError, ParseTraceRatioError, StartError, TraceRatio, Traces,
};

/// The target of spans, and of events in them, that belong to traces; nothing else is in a trace, and these aren't in the log.
pub const TRACE: &str = "trace";

/// Whether whole addresses of senders and recipients are told in spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceAddresses {
    /// Only their domains.
    #[default]
    DomainsOnly,
    /// Also their local parts.
    Whole,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected `text` or `json`"),
        }
    }
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// What is logged: a level (`info`), or directives (`info,delivery=debug`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

/// Why a text is no filter.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    /// A word alone; it would silence all but a module of that name.
    #[error(
        "{word:?} is no level: expected error, warn, info, debug, trace, off, or directives such as `info,delivery=debug`"
    )]
    NoLevel {
        /// The word.
        word: String,
    },
    /// No directive.
    #[error("not a log filter: {0}")]
    Directive(#[from] ParseError),
}

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        EnvFilter::builder().parse(text)?;
        let alone = text.split(',').map(str::trim).filter(|word| !word.contains(['=', '[', ']', '{', '}']));
        match alone.into_iter().find(|word| word.is_empty() || word.parse::<LevelFilter>().is_err()) {
            Some(word) => Err(LogFilterError::NoLevel { word: word.to_owned() }),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl std::fmt::Display for LogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Starts logging and, where wanted, tracing, within a tokio runtime; once a process. Lines are written by a thread of their
/// own, so that a slow terminal never stops mail. Keep the guard until the end: it writes out what is left of both.
///
/// # Errors
/// When the collector's client can't be made. That the collector is away is none: it may come.
pub fn start(format: LogFormat, filter: LogFilter, traces: Option<Traces>) -> Result<Guard, StartError> {
    let (writer, lines) = NonBlockingBuilder::default().lossy(true).finish(std::io::stderr());
    let Some(traces) = traces.filter(|traces| !traces.ratio.is_zero()) else {
        tracing_subscriber::registry().with(logs(format, filter, writer)).init();
        return Ok(Guard { traces: None, _lines: lines });
    };
    let provider = export::provider(&traces)?;
    let spans =
        export::layer(&provider).with_filter(filter_fn(is_of_trace).with_max_level_hint(LevelFilter::INFO));
    tracing_subscriber::registry().with(spans).with(logs(format, filter, writer)).init();
    Ok(Guard { traces: Some(provider), _lines: lines })
}

fn logs<S>(format: LogFormat, LogFilter(filter): LogFilter, writer: NonBlocking) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let layer = fmt::layer().with_writer(writer);
    let layer = match format {
        LogFormat::Text => layer.with_ansi(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    };
    // It was parsed when it was read, so that nothing is lost by leaving out what can't be.
    let wanted = EnvFilter::builder().parse_lossy(filter);
    let others = filter_fn(|metadata| !is_of_trace(metadata)).with_max_level_hint(LevelFilter::TRACE);
    layer.with_filter(wanted.and(others))
}

fn is_of_trace(metadata: &Metadata<'_>) -> bool {
    metadata.target() == TRACE
}

/// Writes out what is left when it is dropped.
#[derive(Debug)]
pub struct Guard {
    traces: Option<SdkTracerProvider>,
    _lines: WorkerGuard,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.traces.take().map(export::end) {
            tracing::warn!(%error, "the last spans didn't reach the collector");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_directives() {
        for text in ["info", "OFF", "info,delivery=debug", "warn,spool=trace", "[accept{size=3}]=debug"] {
            assert_eq!(text.parse::<LogFilter>().unwrap().to_string(), text);
        }
        for text in ["shout", "info,shout", "delivery=shout", ""] {
            assert!(text.parse::<LogFilter>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn where_only_logs_are_wanted_no_span_is_made_and_none_is_logged() {
        let (writer, _lines) = NonBlockingBuilder::default().finish(std::io::sink());
        let subscriber =
            tracing_subscriber::registry().with(logs(LogFormat::Json, LogFilter("trace".into()), writer));
        tracing::subscriber::with_default(subscriber, || {
            assert!(tracing::info_span!(target: TRACE, "work").is_disabled());
            assert!(!tracing::enabled!(target: TRACE, tracing::Level::ERROR));
            assert!(tracing::enabled!(target: "delivery", tracing::Level::TRACE));
        });
    }
}
