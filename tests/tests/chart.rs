//! The Helm chart, without a cluster: what it renders for many values is what it promises, and nonsense is refused.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

#[path = "chart/matrix.rs"]
mod matrix;
#[path = "chart/monitoring.rs"]
mod monitoring;
#[path = "chart/program.rs"]
mod program;
#[path = "chart/refused.rs"]
mod refused;
#[path = "chart/together.rs"]
mod together;

use std::collections::BTreeMap;

use serde_json::Value;
use tests::chart;
use tests::helm::{self, Object, containers, template};

use crate::matrix::MATRIX;
use crate::program::settings;

const OURS: [&str; 4] = ["ingress", "accounts", "delivery", "operator"];

/// Everything that is rendered, with the name of its values.
fn all() -> impl Iterator<Item = (&'static str, Vec<Object>)> {
    MATRIX.iter().map(|(name, values)| (*name, template(values)))
}

/// A pod's component.
fn component(pod: &Value) -> &str {
    pod["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap()
}

#[test]
fn the_readme_and_the_schema_are_made_of_the_values() {
    const BEGIN: &str = "<!-- Values: made of values.yaml -->\n";
    const END: &str = "<!-- End of values -->\n";
    let entries = chart::entries(&chart::file("values.yaml"));
    for entry in &entries {
        let is_section = entry.default.is_object();
        assert!(is_section || !entry.text.is_empty(), "{}: say what it is", entry.path.join("."));
    }
    let schema = chart::schema(&entries, &settings());
    let readme = chart::file("README.md");
    let (head, rest) = readme.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let wanted = format!("{head}{BEGIN}\n{}\n{END}{tail}", chart::table(&entries));
    if std::env::var_os("STAGEPOST_WRITE_README").is_some() {
        std::fs::write(chart::folder().join("values.schema.json"), schema).unwrap();
        std::fs::write(chart::folder().join("README.md"), wanted).unwrap();
        return;
    }
    let stale = "is stale: run STAGEPOST_WRITE_README=1 tests/run chart";
    assert!(schema == chart::file("values.schema.json"), "values.schema.json {stale}");
    assert!(wanted == readme, "charts/stagepost/README.md {stale}");
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    for (name, values) in MATRIX {
        for program in ["helm", "helm4"] {
            helm::lint(program, values).unwrap_or_else(|said| panic!("{name}, {program}: {said}"));
        }
    }
}

#[test]
fn both_versions_of_helm_render_the_same() {
    // Secrets are new each time.
    let shown = |objects: Vec<Object>| -> Vec<Value> {
        objects.into_iter().filter(|object| object.kind() != "Secret").map(|object| object.0).collect()
    };
    for (name, values) in MATRIX {
        let other = helm::try_template("helm4", values).unwrap_or_else(|said| panic!("{name}: {said}"));
        assert_eq!(shown(template(values)), shown(other), "{name}");
    }
}

#[test]
fn every_pod_is_restricted() {
    for (name, objects) in all() {
        for (object, (pod, _)) in objects.iter().filter_map(|object| Some((object, object.pod()?))) {
            let at = format!("{name}: {} {}", object.kind(), object.name());
            let spec = &pod["spec"];
            let security = &spec["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{at}");
            assert_eq!(security["runAsUser"], 65_532, "{at}");
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{at}");
            assert_eq!(
                spec["enableServiceLinks"], false,
                "{at}: a Service's variables are taken for settings"
            );
            assert_eq!(spec["automountServiceAccountToken"], component(pod) == "operator", "{at}");
            let in_the_nodes_network = object.name().ends_with("-delivery-out-a");
            assert_eq!(spec["hostNetwork"] == true, in_the_nodes_network, "{at}");
            for key in ["hostPID", "hostIPC"] {
                assert!(spec[key].is_null(), "{at}: {key}");
            }
            for volume in spec["volumes"].as_array().into_iter().flatten() {
                assert!(volume["hostPath"].is_null(), "{at}: {volume}");
                let is_bounded = volume["emptyDir"].is_null() || volume["emptyDir"]["sizeLimit"].is_string();
                assert!(is_bounded, "{at}: {volume}");
            }
            for container in containers(pod) {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{at}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{at}");
                assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]), "{at}");
                assert!(security["capabilities"]["add"].is_null(), "{at}");
                let image = container["image"].as_str().unwrap();
                let tag = image.rsplit_once(':').map(|(_, tag)| tag).unwrap();
                assert!(tag != "latest" && !tag.is_empty(), "{at}: {image} isn't pinned");
            }
        }
    }
}

#[test]
fn the_default_install_asks_for_less_than_a_core_and_a_gibibyte() {
    let (mut cores, mut octets) = (0.0, 0.0);
    for object in template("{}") {
        // The test's pod isn't there most of the time.
        let Some((pod, count)) = object.pod().filter(|_| object.kind() != "Pod") else { continue };
        for container in containers(pod) {
            let resources = &container["resources"];
            cores += amount(&resources["requests"]["cpu"]) * count as f64;
            octets += amount(&resources["requests"]["memory"]) * count as f64;
            assert!(resources["limits"]["memory"].is_string(), "{}", object.name());
        }
    }
    assert!(cores > 0.2 && cores < 1.0, "{cores} cores");
    assert!(octets > 2e8 && octets < 1_073_741_824.0, "{octets} octets");
}

/// A quantity as a number.
fn amount(quantity: &Value) -> f64 {
    let text = quantity.as_str().unwrap();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1.0,
        "m" => 0.001,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        unit => panic!("{unit}"),
    };
    digits.parse::<f64>().unwrap() * unit
}

#[test]
fn liveness_asks_nobody_and_readiness_asks_everybody() {
    for (name, objects) in all() {
        for object in &objects {
            let Some((pod, _)) = object.pod().filter(|_| object.kind() != "Pod") else { continue };
            for container in containers(pod) {
                let at = format!("{name}: {}", object.name());
                for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                    assert!(container[probe].is_object(), "{at}: {probe}");
                }
                if OURS.contains(&component(pod)) {
                    assert_eq!(container["startupProbe"]["httpGet"]["path"], "/livez", "{at}");
                    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez", "{at}");
                    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz", "{at}");
                    // A check of /readyz answers within 2 s, whatever is away.
                    assert!(container["readinessProbe"]["timeoutSeconds"].as_u64().unwrap() > 2, "{at}");
                }
            }
        }
    }
}

#[test]
fn pods_have_the_time_that_they_need_to_end() {
    for (name, objects) in all() {
        let config = program::file(&objects);
        let secs =
            |table: &str, key: &str| config[table].get(key).and_then(toml::Value::as_integer).unwrap_or(0);
        for (object, (pod, _)) in objects.iter().filter_map(|object| Some((object, object.pod()?))) {
            let container = containers(pod)[0];
            let before = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64().unwrap_or(0);
            let needs = before
                + match component(pod) {
                    "ingress" => secs("ingress", "linger_secs") + secs("ingress", "drain_secs"),
                    "delivery" => secs("delivery", "drain_secs"),
                    _ => 0,
                };
            let grace = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
            assert!(grace >= needs + 10, "{name}: {} has {grace} s and needs {needs} s", object.name());
        }
    }
}

#[test]
fn what_is_referred_to_is_there() {
    for (name, objects) in all() {
        let made: Vec<(&str, &str)> = objects.iter().map(|object| (object.kind(), object.name())).collect();
        let by_certificate = objects.iter().filter(|object| object.kind() == "Certificate");
        let issued: Vec<&str> =
            by_certificate.map(|object| object.0["spec"]["secretName"].as_str().unwrap()).collect();
        let is_there = |kind: &str, wanted: &Value| {
            let wanted = wanted.as_str().unwrap();
            let is_the_users = wanted.starts_with("own-");
            is_the_users || made.contains(&(kind, wanted)) || (kind == "Secret" && issued.contains(&wanted))
        };
        for (object, (pod, _)) in objects.iter().filter_map(|object| Some((object, object.pod()?))) {
            let at = format!("{name}: {}", object.name());
            let mut volumes: Vec<&Value> = pod["spec"]["volumes"].as_array().into_iter().flatten().collect();
            volumes.extend(object.0["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten());
            for volume in &volumes {
                if let Some(secret) = volume["secret"].as_object() {
                    assert!(is_there("Secret", &secret["secretName"]), "{at}: {volume}");
                }
                if let Some(map) = volume["configMap"].as_object() {
                    assert!(is_there("ConfigMap", &map["name"]), "{at}: {volume}");
                }
            }
            let volumes: Vec<&Value> = volumes
                .into_iter()
                .map(
                    |volume| {
                        if volume["name"].is_null() { &volume["metadata"]["name"] } else { &volume["name"] }
                    },
                )
                .collect();
            let account = &pod["spec"]["serviceAccountName"];
            assert!(account.is_null() || is_there("ServiceAccount", account), "{at}: {account}");
            for container in containers(pod) {
                let ports = container["ports"].as_array().cloned().unwrap_or_default();
                let open: Vec<&Value> = ports.iter().map(|port| &port["name"]).collect();
                for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                    let port = ["httpGet", "tcpSocket"].map(|way| &container[probe][way]["port"]);
                    let port = port.into_iter().find(|port| !port.is_null());
                    assert!(port.is_none_or(|port| open.contains(&port)), "{at}: {probe}");
                }
                for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                    assert!(volumes.contains(&&mount["name"]), "{at}: {mount}");
                }
                for variable in container["env"].as_array().into_iter().flatten() {
                    let from = &variable["valueFrom"]["secretKeyRef"]["name"];
                    assert!(from.is_null() || is_there("Secret", from), "{at}: {variable}");
                }
            }
        }
        services_lead_to_pods(name, &objects);
    }
}

fn services_lead_to_pods(name: &str, objects: &[Object]) {
    for service in objects.iter().filter(|object| object.kind() == "Service") {
        let selector = service.0["spec"]["selector"].as_object().unwrap();
        let pods: Vec<&Value> = objects
            .iter()
            .filter_map(|object| Some(object.pod()?.0))
            .filter(|pod| selector.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value))
            .collect();
        assert!(!pods.is_empty(), "{name}: {} has no pods", service.name());
        for port in service.0["spec"]["ports"].as_array().unwrap() {
            for pod in &pods {
                let ports = containers(pod)[0]["ports"].as_array().unwrap();
                let leads = ports.iter().any(|open| open["name"] == port["targetPort"]);
                assert!(leads, "{name}: {} leads to no port: {port}", service.name());
            }
        }
    }
}

#[test]
fn a_secret_is_in_secrets_only() {
    for (name, objects) in all() {
        let mut secrets: BTreeMap<String, String> = BTreeMap::new();
        for object in objects.iter().filter(|object| object.kind() == "Secret") {
            for (key, value) in object.0["data"].as_object().unwrap() {
                let is_public = key.ends_with(".crt");
                if !is_public {
                    let place = format!("{} {key}", object.name());
                    secrets.insert(place, program::decoded(value.as_str().unwrap()));
                }
            }
        }
        for object in objects.iter().filter(|object| object.kind() != "Secret") {
            let text = object.0.to_string();
            for (place, secret) in &secrets {
                assert!(!text.contains(secret), "{name}: {place} is in {} {}", object.kind(), object.name());
            }
            assert!(!text.contains("PRIVATE KEY"), "{name}: {}", object.name());
        }
    }
}

#[test]
fn every_flow_between_pods_is_spelled_out_and_all_else_is_refused() {
    for (name, objects) in all() {
        let policies: Vec<&Object> =
            objects.iter().filter(|object| object.kind() == "NetworkPolicy").collect();
        if name == "open" {
            assert!(policies.is_empty());
            continue;
        }
        for policy in &policies {
            assert_eq!(policy.0["spec"]["policyTypes"], serde_json::json!(["Ingress", "Egress"]), "{name}");
        }
        let denies = policies.iter().find(|policy| policy.name().ends_with("-default-deny")).unwrap();
        assert!(denies.0["spec"]["ingress"].is_null() && denies.0["spec"]["egress"].is_null());
        let denied = denies.0["spec"]["podSelector"]["matchLabels"].as_object().unwrap();
        for (pod, _) in objects.iter().filter_map(Object::pod) {
            assert!(denied.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value), "{name}");
        }
        let of = |component: &str| {
            let of = |policy: &&&Object| policy.name().ends_with(&format!("-{component}"));
            policies.iter().find(of).unwrap_or_else(|| panic!("{name}: no policy of {component}"))
        };
        let out = of("delivery").0["spec"]["egress"].as_array().unwrap();
        let smtp: Vec<&Value> =
            out.iter().filter(|rule| rule["ports"].to_string().contains("\"port\":25}")).collect();
        assert_eq!(smtp.len(), 1, "{name}: {out:?}");
        for peer in smtp[0]["to"].as_array().unwrap() {
            let except = peer["ipBlock"]["except"].to_string();
            assert!(except.contains("10.0.0.0/8") || except.contains("fc00::/7"), "{name}: {peer}");
        }
        for component in ["ingress", "accounts", "operator"] {
            let out = of(component).0["spec"]["egress"].to_string();
            assert!(!out.contains("\"port\":25}"), "{name}: {component} need not send mail");
        }
    }
}

#[test]
fn what_skaffold_installs_and_what_is_given_as_an_example_can_be_rendered() {
    let folder = chart::folder();
    let skaffold = std::fs::read_to_string(folder.join("../../skaffold.yaml")).unwrap();
    let skaffold: Value = serde_saphyr::from_str(&skaffold).unwrap();
    let profiles = skaffold["profiles"].as_array().unwrap();
    let names: Vec<&str> = profiles.iter().map(|profile| profile["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dev", "ci", "prod"]);
    for release in profiles.iter().map(|profile| &profile["deploy"]["helm"]["releases"][0]) {
        let home = tempfile::tempdir().unwrap();
        let mut command = helm::helm_of("helm", home.path());
        command.args(["template", release["name"].as_str().unwrap(), "--kube-version", helm::KUBERNETES]);
        for file in release["valuesFiles"].as_array().into_iter().flatten() {
            command.arg("--values").arg(folder.join("../..").join(file.as_str().unwrap()));
        }
        for values in ["setValues", "setValueTemplates"].map(|key| release[key].as_object()) {
            for (key, value) in values.into_iter().flatten() {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                // What stands in braces is Skaffold's to fill in.
                command.arg("--set").arg(format!("{key}={}", value.replace(['{', '}'], "")));
            }
        }
        let rendered = helm::run_of(command.arg(&folder)).unwrap();
        assert!(rendered.contains("kind: StatefulSet"), "{release}");
    }
}
