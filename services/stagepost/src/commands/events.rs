//! `stagepost events`.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use clap::Args;
use mail::{Event, EventKind, Timestamp};
use proto::admin::v1::FollowRequest;
use proto::admin::v1::events_client::EventsClient;
use proto::events::v1::Batch;
use runtime::rpc::Client;
use serde_json::Value;
use tonic::Streaming;

use super::view::{Record, record, text};
use super::{Output, explained};

/// How far back events are read when they aren't followed and nothing is said.
const WITHIN_SECS: u64 = 3_600;

#[derive(Args, Debug)]
pub(crate) struct Command {
    /// Begin with what happened in this time, as 30m, 12h or 7d; by default with what happens from now on, or with the last hour
    /// when not following.
    #[arg(long, value_name = "AGE", value_parser = age)]
    since: Option<u64>,
    /// Only this account's (id).
    #[arg(long, default_value = "")]
    account: String,
    /// Only those to this address or domain.
    #[arg(long, default_value = "")]
    recipient: String,
    /// Only this kind; may be given several times.
    #[arg(long = "kind", value_name = "KIND", value_parser = kind, value_delimiter = ',')]
    kinds: Vec<EventKind>,
    /// End with what has happened by now.
    #[arg(long)]
    no_follow: bool,
    /// The same as `--output json`: one object a line.
    #[arg(long)]
    json: bool,
}

impl Command {
    /// Prints events until there are no more, or nobody wants them any more.
    pub(crate) async fn run(self, client: Client, output: Output) -> Result<()> {
        let Self { since, account, recipient, kinds, no_follow, json } = self;
        let output = if json { Output::Json } else { output };
        let request = FollowRequest {
            within_secs: since.or(no_follow.then_some(WITHIN_SECS)),
            until_now: no_follow,
            account_id: account,
            recipient,
            kinds: kinds.iter().map(ToString::to_string).collect(),
        };
        let told = async {
            let answer = EventsClient::new(client).follow(request).await;
            print(answer.map_err(|status| anyhow::anyhow!(explained(&status)))?.into_inner(), output).await
        };
        tokio::select! {
            told = told => told,
            interrupted = tokio::signal::ctrl_c() => interrupted.context("can't listen to signals"),
        }
    }
}

async fn print(mut batches: Streaming<Batch>, output: Output) -> Result<()> {
    while let Some(batch) = batches.message().await.map_err(|status| anyhow::anyhow!(explained(&status)))? {
        let events = spool::events::batch_from_wire(batch)
            .context("the server tells of events in a form unknown here")?;
        let mut lines = String::new();
        for event in &events {
            match output {
                Output::Json => writeln!(lines, "{}", Value::Object(facts(event)))?,
                Output::Table => writeln!(lines, "{}", line(event))?,
            }
        }
        let mut out = io::stdout().lock();
        match out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
            // A reader that goes away early, as `head` does, is no error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.context("can't print")?,
        }
    }
    Ok(())
}

/// An event for people.
fn line(event: &Event) -> String {
    let sender = match event.message.sender.to_string() {
        sender if sender.is_empty() => String::from("<>"),
        sender => sender,
    };
    let what = match event.kind {
        EventKind::Accepted => {
            format!("account {}, {} octets", event.message.account, event.message.octets)
        }
        _ => what_came(event),
    };
    format!("{} {:<9} {} {sender} -> {}: {what}", event.at, event.kind, event.job, event.recipient)
}

/// What came of an attempt, where it was made and what follows, in one line.
pub(super) fn what_came(event: &Event) -> String {
    let mut line = String::new();
    if event.attempt > 0 {
        let _ = write!(line, "attempt {}, ", event.attempt);
    }
    if let Some(status) = event.status {
        let _ = write!(line, "{status}, ");
    }
    let _ = write!(line, "{}", in_one_line(&event.reason));
    let way = [
        ("site", event.hop.site.as_deref().map(str::to_owned)),
        ("host", event.hop.host.as_deref().map(str::to_owned)),
        ("from", event.hop.source.map(|source| source.to_string())),
        ("with", event.hop.tls.as_deref().map(str::to_owned)),
    ];
    let way: Vec<String> =
        way.into_iter().filter_map(|(word, value)| value.map(|value| format!("{word} {value}"))).collect();
    if !way.is_empty() {
        let _ = write!(line, " ({})", way.join(", "));
    }
    if let Some(at) = event.retry_at {
        let _ = write!(line, "; next attempt {at}");
    }
    if event.redelivered {
        line.push_str("; it may have been tried before");
    }
    line
}

/// What others said, without what would move a terminal's cursor.
pub(super) fn in_one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// An event for programs.
pub(super) fn facts(event: &Event) -> Record {
    let message = &event.message;
    let optional = |value: Option<&str>| value.map_or(Value::Null, Value::from);
    let instant = |at: Timestamp| Value::from(at.to_string());
    let metadata = message.metadata.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
    record([
        ("id", Value::from(event.id())),
        ("kind", Value::from(event.kind.as_str())),
        ("at", instant(event.at)),
        ("queue_id", Value::from(message.queue_id.to_string())),
        ("job", Value::from(event.job.to_string())),
        ("account_id", Value::from(message.account.as_str())),
        ("message_id", text(&message.message_id)),
        ("from", Value::from(message.sender.to_string())),
        ("recipient", Value::from(event.recipient.to_string())),
        ("attempt", Value::from(event.attempt)),
        ("site", optional(event.hop.site.as_deref())),
        ("host", optional(event.hop.host.as_deref())),
        ("source", event.hop.source.map_or(Value::Null, |source| Value::from(source.to_string()))),
        ("tls", optional(event.hop.tls.as_deref())),
        ("status", event.status.map_or(Value::Null, |status| Value::from(status.to_string()))),
        ("reply", event.reply.as_ref().map_or(Value::Null, |reply| Value::from(reply.to_string()))),
        ("reason", text(&event.reason)),
        ("retry_at", event.retry_at.map_or(Value::Null, instant)),
        ("accepted_at", instant(message.accepted_at)),
        ("octets", Value::from(message.octets)),
        ("tags", message.tags.iter().map(String::as_str).collect()),
        ("metadata", Value::Object(metadata.collect())),
        ("trace_id", optional(message.trace_id.as_deref())),
        ("redelivered", Value::from(event.redelivered)),
    ])
}

fn kind(text: &str) -> Result<EventKind, mail::ParseEventKindError> {
    text.parse()
}

/// Seconds of an age: a number with `s`, `m`, `h` or `d`.
pub(super) fn age(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no age: expected a number with s, m, h or d, as 30m, 12h or 7d");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_number_with_its_unit() {
        for (text, secs) in [("90s", 90), ("30m", 1_800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(age(text), Ok(secs));
        }
        for text in ["", "h", "10", "-1h", "1w", "1 h", "99999999999999999999d", "1é"] {
            assert!(age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_others_said_does_not_move_the_cursor() {
        assert_eq!(in_one_line("550 no\x1b[2J\r\nway"), "550 no [2J  way");
    }
}
