//! Shapes of values that their defaults don't tell.

use serde_json::{Value, json};

/// The schema of a shape.
///
/// # Panics
/// When there is none of the name.
pub fn named(name: &str) -> Value {
    let text = json!({ "type": "string" });
    match name {
        "labels" => json!({ "type": "object", "additionalProperties": text }),
        "object" => json!({ "type": "object" }),
        "objects" => json!({ "type": "array", "items": { "type": "object" } }),
        "strings" => json!({ "type": "array", "items": text }),
        "port" => json!({ "type": "integer", "minimum": 0, "maximum": 65_535 }),
        "ports" => json!({
            "type": "array", "minItems": 1, "items": { "type": "integer", "minimum": 1, "maximum": 65_535 },
        }),
        "duration" => json!({ "type": "string", "pattern": "^([0-9]+(h|m|s))+$" }),
        "quantity" => json!({ "type": "string", "pattern": "^[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?$" }),
        "resources" => resources(),
        "pools" => json!({ "type": "array", "items": pool() }),
        _ => panic!("there is no shape {name}"),
    }
}

fn resources() -> Value {
    let amounts = |text: &str| {
        json!({
            "description": text,
            "type": "object",
            "additionalProperties": { "type": ["string", "number"] },
        })
    };
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "requests": amounts("What a pod asks for: cpu, memory, or others that the cluster knows."),
            "limits": amounts("What a pod may take at most."),
        },
    })
}

fn pool() -> Value {
    let port =
        |text: &str| json!({ "description": text, "type": "integer", "minimum": 1024, "maximum": 65_535 });
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["name", "hostName", "address", "nodeSelector"],
        "properties": {
            "name": {
                "description": "A word for it, in the name of its Deployment.",
                "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$", "not": { "const": "default" },
            },
            "hostName": {
                "description": "Name that the pod says in EHLO; it and the address must lead to each other in DNS.",
                "type": "string", "pattern": "^[A-Za-z0-9-]+([.][A-Za-z0-9-]+)+$",
            },
            "address": {
                "description": "Address that mail leaves the node from, as the world sees it.",
                "type": "string", "pattern": "^[0-9a-fA-F.:]+$",
            },
            "nodeSelector": {
                "description": "Labels of the node.",
                "type": "object", "minProperties": 1, "additionalProperties": { "type": "string" },
            },
            "tolerations": {
                "description": "Taints of the node that it bears, in place of those of delivery.",
                "type": "array", "items": { "type": "object" },
            },
            "adminPort": port("Port of the node for health and metrics; by default 18080."),
            "grpcPort": port("Port of the node for commands; by default 18081."),
        },
    })
}
