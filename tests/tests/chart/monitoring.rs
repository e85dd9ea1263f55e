//! Alerts and dashboards ask for what the program counts.

use std::collections::BTreeSet;
use std::process::Command;

use runtime::metrics::Registry;
use serde_json::Value;
use tests::address::tests_folder;
use tests::chart;
use tests::fleet::{FleetSetup, Role};
use tests::helm::{run_of, template, tool};
use tests::lab::Lab;

/// Names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("stagepost_")).map(str::to_owned).collect()
}

/// What all roles show.
async fn shown() -> BTreeSet<String> {
    let mut registry = Registry::default();
    operator::Metrics::register(&mut registry);
    let mut text = registry.text().await;
    let lab = Lab::new();
    let fleet = FleetSetup::new(&lab).start();
    for role in [Role::Ingress, Role::Accounts, Role::Delivery] {
        text += &fleet.admin(role, 0, "/metrics").unwrap().body;
    }
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

#[test]
fn alerts_and_dashboards_ask_for_metrics_that_there_are() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let shown = runtime.block_on(shown());
    let autoscaled = "{ delivery: { autoscaling: { enabled: true, prometheusAddress: 'http://a' } } }";
    let scaled = template(autoscaled).into_iter().find(|object| object.kind() == "ScaledObject").unwrap();
    let mut texts = vec![("KEDA", scaled.0["spec"]["triggers"].to_string())];
    let rules: Value = serde_saphyr::from_str(&chart::file("files/rules.yaml")).unwrap();
    texts.push(("rules", rules.to_string()));
    for name in ["mail", "services", "operator"] {
        let text = chart::file(&format!("dashboards/{name}.json"));
        let board: Value = serde_json::from_str(&text).unwrap();
        let mut panels: Vec<u64> =
            board["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        panels.sort_unstable();
        panels.dedup();
        assert_eq!(panels.len(), board["panels"].as_array().unwrap().len(), "{name}: ids of panels");
        texts.push((name, text));
    }
    for (place, text) in texts {
        let asked = named(&text);
        assert!(!asked.is_empty(), "{place}");
        let unknown: Vec<_> = asked.difference(&shown).collect();
        assert!(unknown.is_empty(), "{place}: {unknown:?} aren't in {shown:?}");
    }
}

#[test]
fn alerts_ring_when_they_should() {
    let rules = chart::folder().join("files/rules.yaml");
    run_of(Command::new(tool("promtool")).args(["check", "rules", "--lint=all", "--lint-fatal"]).arg(&rules))
        .unwrap_or_else(|said| panic!("{said}"));
    let folder = tempfile::tempdir().unwrap();
    let test = std::fs::read_to_string(tests_folder().join("chart/rules.test.yaml")).unwrap();
    let path = folder.path().join("rules.test.yaml");
    std::fs::write(&path, test.replace("[RULES]", &format!("[{}]", rules.display()))).unwrap();
    run_of(Command::new(tool("promtool")).args(["test", "rules"]).arg(&path))
        .unwrap_or_else(|said| panic!("{said}"));
}

#[test]
fn an_alert_can_be_left_out() {
    let names = |values: &str| -> BTreeSet<String> {
        let made = template(values).into_iter().find(|object| object.kind() == "PrometheusRule").unwrap();
        let groups = made.0["spec"]["groups"].as_array().unwrap().clone();
        let rules = groups.into_iter().flat_map(|group| group["rules"].as_array().unwrap().clone());
        rules.map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect()
    };
    let all = names("{ monitoring: { rules: { enabled: true } } }");
    let fewer = names("{ monitoring: { rules: { enabled: true, disabled: [StagepostBacklog] } } }");
    assert!(all.len() > 10);
    assert_eq!(all.difference(&fewer).collect::<Vec<_>>(), ["StagepostBacklog"]);
}
