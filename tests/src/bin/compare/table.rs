//! A table of medians.

use std::fmt::Write as _;

use serde_json::Value;

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
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for result in results {
        let row = (result["case"].as_str().unwrap_or_default(), result["peer"].as_str().unwrap_or_default());
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    let mut text = format!("{:<12} {:<10}", "case", "peer");
    for (title, _) in COLUMNS {
        let _ = write!(text, " {title:>11}");
    }
    for (case, peer) in rows {
        let _ = write!(text, "\n{case:<12} {peer:<10}");
        for (_, field) in COLUMNS {
            let of_row = results.iter().filter(|result| result["case"] == case && result["peer"] == peer);
            let values = of_row.filter_map(|result| result[field].as_f64()).collect();
            let _ = write!(text, " {:>11}", shown(median(values)));
        }
    }
    text + "\n"
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
    use serde_json::json;

    #[test]
    fn a_row_holds_the_median_of_its_runs() {
        let run = |rate: f64| json!({"case": "4k", "peer": "x", "accepted_per_s": rate});
        let table = medians(&[run(1.0), run(9.0), run(2.0)]);
        assert_eq!(table.lines().count(), 2);
        assert_eq!(table.lines().nth(1).and_then(|row| row.split_whitespace().nth(2)), Some("2"));
        assert_eq!((median(vec![1.0, 2.0]), median(Vec::new())), (1.5, 0.0));
    }
}
