//! `values.schema.json`: what may be given, and nothing else.

use serde_json::{Map, Value, json};

use super::{Entry, settings, shapes};

/// The schema of all values.
pub(super) fn of(entries: &[Entry], printed: &str) -> Value {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft-07/schema#",
        "title": "Values of the chart stagepost",
        "type": "object",
        "additionalProperties": false,
        "properties": {},
    });
    for entry in entries {
        let inside_settings = entry.path.len() > 1 && entry.path[0] == "config";
        if inside_settings {
            continue;
        }
        let mut node = node(entry, printed);
        if !entry.text.is_empty() {
            node.insert("description".into(), entry.text.clone().into());
        }
        for word in entry.words.iter().filter_map(Value::as_object) {
            node.extend(word.clone());
        }
        let place = entry.path.iter().fold(&mut root, |place, key| &mut place["properties"][key]);
        *place = node.into();
    }
    root
}

fn node(entry: &Entry, printed: &str) -> Map<String, Value> {
    let shape = match (entry.shape.as_deref(), &entry.default) {
        (Some("settings"), _) => json!({
            "type": "object", "additionalProperties": false, "properties": settings::schema(printed),
        }),
        (Some(name), _) => shapes::named(name),
        (None, Value::String(_)) => json!({ "type": "string" }),
        (None, Value::Bool(_)) => json!({ "type": "boolean" }),
        (None, Value::Number(_)) => json!({ "type": "integer" }),
        (None, Value::Object(members)) if !members.is_empty() => {
            json!({ "type": "object", "additionalProperties": false, "properties": {} })
        }
        (None, other) => panic!("{}: what shape has {other}? Name it by `# @NAME`", entry.path.join(".")),
    };
    shape.as_object().cloned().expect("a schema is an object")
}
