//! A table of medians.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

const COLUMNS: [(&str, &str); 11] = [
    ("accepted/s", "accepted_per_s"),
    ("delivered/s", "delivered_per_s"),
    ("CPU s/1000", "cpu_s_per_1000"),
    ("memory MB", "resident_max_mb"),
    ("p50 ms", "p50_ms"),
    ("p99 ms", "p99_ms"),
    ("lost", "lost"),
    ("twice", "duplicates"),
    ("unsigned", "unsigned"),
    ("errors", "errors"),
    ("conns", "connections_at_once"),
];

/// A row for each case and peer, in the order in which they ran first.
pub(crate) fn medians(results: &[Value]) -> String {
    let mut text = format!("{:<12} {:<26}", "case", "peer");
    for (title, _) in COLUMNS {
        let _ = write!(text, " {title:>11}");
    }
    for row in rows(results) {
        let _ = write!(text, "\n{}", row.title());
        for (_, field) in COLUMNS {
            let _ = write!(text, " {:>11}", shown(row.median(results, |result| result[field].as_f64())));
        }
    }
    text + "\n"
}

/// The same, then medians of what a field holds by name, the greatest first.
pub(crate) fn parts(results: &[Value], field: &str) -> String {
    let mut text = String::new();
    for row in rows(results) {
        let names: BTreeSet<&str> = row
            .of(results)
            .flat_map(|result| result[field].as_object().into_iter().flatten().map(|(name, _)| name.as_str()))
            .collect();
        // What a run doesn't name it had nothing of.
        let figure =
            |name: &str| row.median(results, |result| Some(result[field][name].as_f64().unwrap_or(0.0)));
        let mut figures: Vec<(f64, &str)> = names.into_iter().map(|name| (figure(name), name)).collect();
        figures.sort_by(|one, other| other.0.total_cmp(&one.0));
        let figures: Vec<String> =
            figures.into_iter().map(|(figure, name)| format!("{name} {figure:.3}")).collect();
        let _ = writeln!(text, "{} {}", row.title(), figures.join(", "));
    }
    text
}

/// What NATS did for each message, where there was one.
pub(crate) fn nats(results: &[Value]) -> String {
    let with: Vec<Value> = results.iter().filter(|result| result["nats"].is_object()).cloned().collect();
    let mut text = String::new();
    for row in rows(&with) {
        let of = |field: &'static str| row.median(&with, |result| result["nats"][field].as_f64());
        let records: Vec<Value> = row
            .of(&with)
            .map(|result| json!({ "case": row.case, "peer": row.peer, "x": result["nats"]["records_by_stream"] }))
            .collect();
        let records = parts(&records, "x");
        let counted = row.of(&with).any(|result| result["nats"]["syncs"].is_number());
        let syncs =
            if counted { format!("{:.2}", of("syncs")) } else { "not counted without perf".to_owned() };
        let _ = writeln!(
            text,
            "{} records {:.2} (streams: {}), syncs {syncs}, messages in {:.2}, out {:.2}",
            row.title(),
            of("records"),
            records[row.title().len()..].trim(),
            of("from_clients"),
            of("to_clients"),
        );
    }
    if text.is_empty() { text } else { format!("\nNATS, for each message\n{text}") }
}

/// All runs of a peer in a case.
struct Row<'a> {
    case: &'a str,
    peer: &'a str,
}

fn rows(results: &[Value]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for result in results {
        let (case, peer) =
            (result["case"].as_str().unwrap_or_default(), result["peer"].as_str().unwrap_or_default());
        if !rows.iter().any(|row| (row.case, row.peer) == (case, peer)) {
            rows.push(Row { case, peer });
        }
    }
    rows
}

impl Row<'_> {
    fn title(&self) -> String {
        format!("{:<12} {:<26}", self.case, self.peer)
    }

    fn of<'a>(&self, results: &'a [Value]) -> impl Iterator<Item = &'a Value> {
        results.iter().filter(|result| result["case"] == self.case && result["peer"] == self.peer)
    }

    fn median(&self, results: &[Value], figure: impl Fn(&Value) -> Option<f64>) -> f64 {
        median(self.of(results).filter_map(figure).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        values.get(middle).map_or(0.0, |high| (values[middle - 1] + high) / 2.0)
    }
}

fn shown(value: f64) -> String {
    if value == value.trunc() || value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_the_median_of_its_runs() {
        let run = |rate: f64| json!({"case": "4k", "peer": "x", "accepted_per_s": rate});
        let table = medians(&[run(1.0), run(9.0), run(2.0)]);
        assert_eq!(table.lines().count(), 2);
        assert_eq!(table.lines().nth(1).and_then(|row| row.split_whitespace().nth(2)), Some("2"));
        assert_eq!((median(vec![1.0, 2.0]), median(Vec::new())), (1.5, 0.0));
    }
    #[test]
    fn parts_are_medians_of_all_runs_the_greatest_first() {
        let run = |small: f64, great: Option<f64>| json!({"case": "4k", "peer": "x", "cpu": {"a": small, "b": great}});
        let table = parts(&[run(0.1, Some(4.0)), run(0.2, Some(2.0)), run(0.3, None)], "cpu");
        assert!(table.trim_end().ends_with("b 2.000, a 0.200"), "{table}");
    }
}
