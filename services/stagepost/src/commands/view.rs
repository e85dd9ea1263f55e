//! Answers: the same facts as a table for people and as JSON for programs.

use std::io::Write as _;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value};

use super::Output;

/// One thing with its facts, in order.
pub(crate) type Record = Map<String, Value>;

/// What a command answers.
pub(crate) enum View {
    /// Many things: a row each. The columns are for people, JSON has all facts.
    List { columns: &'static [&'static str], records: Vec<Record>, empty: &'static str },
    /// One thing: its facts for programs, text for people.
    Told { record: Record, text: String },
}

impl View {
    /// One thing: a line a fact.
    pub(crate) fn one(record: Record) -> Self {
        let text = facts(&record);
        Self::Told { record, text }
    }

    pub(crate) fn print(self, output: Output) -> Result<()> {
        let text = match output {
            Output::Json => format!("{:#}\n", self.into_json()),
            Output::Table => self.into_table(),
        };
        // A reader that goes away early, as `head` does, is no error.
        match std::io::stdout().lock().write_all(text.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn into_json(self) -> Value {
        match self {
            Self::List { records, .. } => Value::Array(records.into_iter().map(Value::Object).collect()),
            Self::Told { record, .. } => Value::Object(record),
        }
    }

    fn into_table(self) -> String {
        match self {
            Self::List { records, empty, .. } if records.is_empty() => format!("{empty}\n"),
            Self::List { columns, records, .. } => {
                let mut table = plain();
                table.set_header(columns.iter().map(|column| column.to_uppercase().replace('_', " ")));
                for record in &records {
                    table.add_row(
                        columns.iter().map(|column| record.get(*column).map_or_else(String::new, cell)),
                    );
                }
                lines(&table)
            }
            Self::Told { text, .. } => text,
        }
    }
}

/// A line a fact.
pub(crate) fn facts(record: &Record) -> String {
    let mut table = plain();
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    for (name, value) in record.iter().filter(|(_, value)| !is_empty(value)) {
        table.add_row([name.replace('_', " "), cell(value)]);
    }
    lines(&table)
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn lines(table: &Table) -> String {
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end())))
        .collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields.values().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// An instant as RFC 3339, nothing for 0.
pub(crate) fn instant(millis: i64) -> Value {
    u64::try_from(millis)
        .ok()
        .filter(|millis| *millis > 0)
        .map_or(Value::Null, |millis| Value::String(mail::Timestamp(millis).to_string()))
}

/// A text, nothing when it is empty.
pub(crate) fn text(value: &str) -> Value {
    if value.is_empty() { Value::Null } else { Value::String(value.to_owned()) }
}

/// A record of these facts.
pub(crate) fn record<const N: usize>(facts: [(&str, Value); N]) -> Record {
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
