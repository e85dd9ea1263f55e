//! The program's settings, as its `--print-config` tells them.

use serde_json::{Map, Value, json};

/// Those that the chart sets itself, from other values.
const OF_THE_CHART: [&str; 25] = [
    "state",
    "host_name",
    "tls_certificate",
    "tls_key",
    "admin_listen",
    "otlp_endpoint",
    "accounts.server",
    "accounts.token_file",
    "accounts.sealing_key",
    "delivery.sandbox",
    "delivery.ca_file",
    "ingress.listen",
    "ingress.listen_tls",
    "nats.url",
    "nats.credentials",
    "nats.user",
    "nats.password_file",
    "nats.ca",
    "nats.certificate",
    "nats.key",
    "operator.namespace",
    "operator.lease_namespace",
    "operator.identity",
    "operator.ca_file",
    "redis.url",
];
/// The same, of whole tables or by the beginning of their names.
const BEGINNINGS: [&str; 6] =
    ["grpc.", "nats.monitor", "nats.replicas", "operator.smtp_", "redis.ca", "redis.pods"];

/// JSON Schema of each setting that may stand in `config`, by table; those without one are at the top.
pub(super) fn schema(printed: &str) -> Map<String, Value> {
    let mut all = Map::new();
    let (mut table, mut comment) = (String::new(), Vec::new());
    for line in printed.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut table);
            comment.clear();
            continue;
        }
        let Some((key, value)) = assignment(line) else {
            match line.strip_prefix("# ") {
                Some(said) => comment.push(said),
                None => comment.clear(),
            }
            continue;
        };
        // The last line of the comment names flag and variable.
        comment.pop();
        let text = std::mem::take(&mut comment).join(" ");
        let name = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
        if OF_THE_CHART.contains(&name.as_str()) || BEGINNINGS.iter().any(|begin| name.starts_with(begin)) {
            continue;
        }
        let mut node = kind(value);
        node["description"] = text.into();
        if table.is_empty() {
            all.insert(key.into(), node);
        } else {
            let section = all.entry(table.clone()).or_insert_with(|| {
                json!({
                    "description": format!("Settings of the table `{table}`."),
                    "type": "object", "additionalProperties": false, "properties": {},
                })
            });
            section["properties"][key] = node;
        }
    }
    all
}

/// A setting and its default, which is empty where there is none.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(" =")?;
    let key = key.strip_prefix("# ").unwrap_or(key);
    let is_key = key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    (is_key && !key.is_empty()).then_some((key, value.trim()))
}

fn kind(default: &str) -> Value {
    if default.starts_with('[') {
        // A table stands for a list of NAME=VALUE.
        return json!({ "type": ["array", "object"] });
    }
    match default {
        "true" | "false" => json!({ "type": "boolean" }),
        number if number.parse::<f64>().is_ok() => json!({ "type": "number" }),
        _ => json!({ "type": "string" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "# Every setting.\n\n# What is\n# logged\n# --log, STAGEPOST_LOG\nlog = \"info\"\n\n\
                           # Its name\n# --host-name, STAGEPOST_HOST_NAME\n# host_name =\n\n[delivery]\n\n\
                           # Waits\n# --delivery-retry-waits-secs, X\nretry_waits_secs = [1, 2]\n\n\
                           # Term = word\n# --delivery-spf, X\n# spf =\n";

    #[test]
    fn settings_are_described_but_for_those_of_the_chart() {
        let schema = schema(PRINTED);
        assert_eq!(schema.keys().collect::<Vec<_>>(), ["log", "delivery"]);
        assert_eq!(schema["log"], json!({ "type": "string", "description": "What is logged" }));
        let delivery = &schema["delivery"]["properties"];
        assert_eq!(delivery["retry_waits_secs"]["description"], "Waits");
        assert_eq!(delivery["spf"], json!({ "type": "string", "description": "Term = word" }));
    }
}
