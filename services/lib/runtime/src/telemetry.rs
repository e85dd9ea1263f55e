//! Logs on standard error.

use std::str::FromStr;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

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

/// Starts logging. Lines are written by a thread of their own, so that a slow terminal never stops mail; keep the guard until
/// the end, it writes out what is left.
pub fn start(format: LogFormat, LogFilter(filter): LogFilter) -> WorkerGuard {
    // It was parsed when it was read, so that nothing is lost by leaving out what can't be.
    let filter = EnvFilter::builder().parse_lossy(filter);
    let (writer, guard) = NonBlockingBuilder::default().lossy(true).finish(std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).init(),
    }
    guard
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
}
