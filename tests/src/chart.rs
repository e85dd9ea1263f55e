//! What the chart says of its values: read from the comments of `values.yaml`, for its README and its schema.
//!
//! ```text
//! values.yaml --comments, defaults--> [Entry] --+--> values.schema.json
//! stagepost run --print-config --> settings ----'--> the table in README.md
//! ```
//!
//! The comment above a key says what it is. A line `# @NAME` in it names a shape that is more than the default tells, see
//! [`shapes`]; `# @ {...}` adds words of JSON Schema.

mod schema;
mod settings;
pub mod shapes;

use std::path::PathBuf;

use serde_json::Value;

use crate::address::tests_folder;

/// A key of the values, in the order of the file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The keys that lead to it.
    pub path: Vec<String>,
    /// What it is.
    pub text: String,
    /// The name of its shape, if it has one.
    pub shape: Option<String>,
    /// Further words of its schema.
    pub words: Vec<Value>,
    /// Its default.
    pub default: Value,
}

impl Entry {
    /// Whether it only holds others, which say themselves what they are.
    fn is_section(&self) -> bool {
        self.shape.as_deref().is_none_or(|shape| shape == "settings")
            && self.default.as_object().is_some_and(|members| !members.is_empty())
    }
}

/// The chart's folder.
pub fn folder() -> PathBuf {
    tests_folder().join("../charts/stagepost")
}

/// A file of the chart.
pub fn file(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Reads the text of `values.yaml`.
pub fn entries(text: &str) -> Vec<Entry> {
    let defaults: Value = serde_saphyr::from_str(text).expect("values.yaml is YAML");
    let mut entries: Vec<Entry> = Vec::new();
    let (mut comment, mut path): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let bare = line.trim_start();
        let depth = (line.len() - bare.len()) / 2;
        if let Some(said) = bare.strip_prefix('#') {
            comment.push(said.trim());
            continue;
        }
        let key = bare.split_once(':').map(|(key, _)| key).filter(|key| is_name(key));
        let Some(key) = key else {
            comment.clear();
            continue;
        };
        path.truncate(depth);
        path.push(key.to_owned());
        let inside_a_shape = entries.iter().any(|entry| {
            let shaped = entry.shape.as_deref().is_some_and(|shape| shape != "settings");
            shaped && entry.path.len() < path.len() && path.starts_with(&entry.path)
        });
        let said = std::mem::take(&mut comment);
        if !inside_a_shape {
            entries.push(entry(&path, &said, &defaults));
        }
    }
    entries
}

fn is_name(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

fn entry(path: &[String], comment: &[&str], defaults: &Value) -> Entry {
    let default = path.iter().fold(defaults, |value, key| &value[key]).clone();
    let (marks, words): (Vec<&str>, Vec<&str>) = comment.iter().partition(|line| line.starts_with('@'));
    let marks = marks.into_iter().map(|mark| mark[1..].trim());
    let (schemas, names): (Vec<&str>, Vec<&str>) = marks.partition(|mark| mark.starts_with('{'));
    let word = |text: &str| serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    Entry {
        path: path.to_vec(),
        text: words.join(" "),
        shape: names.first().map(|name| (*name).to_owned()),
        words: schemas.into_iter().map(word).collect(),
        default,
    }
}

/// `values.schema.json`, with what the program says of its settings (`--print-config`).
pub fn schema(entries: &[Entry], settings: &str) -> String {
    let mut text = serde_json::to_string_pretty(&schema::of(entries, settings)).expect("JSON can be written");
    text.push('\n');
    text
}

/// The table of values, in Markdown.
pub fn table(entries: &[Entry]) -> String {
    let mut text = String::from("| value | default | what it is |\n|---|---|---|\n");
    for entry in entries.iter().filter(|entry| !entry.is_section()) {
        let cell = |text: &str| text.replace('|', "\\|");
        let (path, default) = (entry.path.join("."), entry.default.to_string());
        text.push_str(&format!("| `{path}` | `{}` | {} |\n", cell(&default), cell(&entry.text)));
    }
    text
}
