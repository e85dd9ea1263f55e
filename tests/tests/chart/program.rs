//! The program takes what the chart tells it.

use std::process::Command;

use serde_json::Value;
use tests::helm::{Object, RELEASE, containers, run_of, template};
use tests::stagepost::program;

use crate::matrix::MATRIX;
use crate::{OURS, component};

/// What the program says of its settings.
pub(crate) fn settings() -> String {
    run_of(Command::new(program()).args(["ingress", "--print-config"])).unwrap()
}

/// The settings file, as it is rendered.
fn text(objects: &[Object]) -> &str {
    let config = |object: &&Object| object.kind() == "ConfigMap" && object.name().ends_with("-config");
    objects.iter().find(config).unwrap().0["data"]["stagepost.toml"].as_str().unwrap()
}

/// The same, read.
pub(crate) fn file(objects: &[Object]) -> toml::Table {
    text(objects).parse().unwrap()
}

/// What Base64 stands for, as text.
pub(crate) fn decoded(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut octets, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let value = ALPHABET.iter().position(|known| *known == letter).unwrap();
        bits = (bits << 6) | u32::try_from(value).unwrap();
        count += 6;
        if count >= 8 {
            count -= 8;
            octets.push(u8::try_from((bits >> count) & 0xff).unwrap());
        }
    }
    String::from_utf8(octets).unwrap()
}

/// A container's variables that have a value.
fn variables(container: &Value) -> impl Iterator<Item = (&str, &str)> {
    let all = container["env"].as_array().into_iter().flatten();
    all.filter_map(|variable| Some((variable["name"].as_str()?, variable["value"].as_str()?)))
}

#[test]
fn each_role_takes_its_settings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stagepost.toml");
    let taken = |container: &Value| {
        let role = container["args"][0].as_str().unwrap();
        assert!(OURS.contains(&role), "{role}");
        assert_eq!(container["args"][1], "--config");
        let mut command = Command::new(program());
        command.env_clear().envs(variables(container));
        run_of(command.args([role, "--config"]).arg(&path).arg("--print-config"))
    };
    for (name, values) in MATRIX {
        let objects = template(values);
        std::fs::write(&path, text(&objects)).unwrap();
        let mut roles = Vec::new();
        for (pod, _) in objects.iter().filter_map(Object::pod) {
            if OURS.contains(&component(pod)) {
                let container = containers(pod)[0];
                taken(container).unwrap_or_else(|said| panic!("{name}, {}: {said}", component(pod)));
                roles.push(component(pod));
            }
        }
        roles.sort_unstable();
        roles.dedup();
        assert_eq!(roles, ["accounts", "delivery", "ingress", "operator"], "{name}");
        // The question is one that can be answered with no.
        std::fs::write(&path, format!("nonsense = 1\n{}", text(&objects))).unwrap();
        let container = objects.iter().filter_map(Object::pod).find(|(pod, _)| component(pod) == "ingress");
        assert!(taken(containers(container.unwrap().0)[0]).unwrap_err().contains("nonsense"));
    }
}

#[test]
fn commands_of_the_test_are_commands_of_the_program() {
    let objects = template("{ grpc: { tls: { enabled: true } } }");
    let pod = objects.iter().find(|object| object.kind() == "Pod").unwrap();
    assert_eq!(pod.0["metadata"]["annotations"]["helm.sh/hook"], "test");
    let steps = containers(&pod.0);
    assert_eq!(steps.len(), 4);
    let folder = tempfile::tempdir().unwrap();
    for step in steps {
        let arguments: Vec<&str> =
            step["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap()).collect();
        let mut command = Command::new(program());
        command.env_clear().envs(variables(step)).current_dir(folder.path());
        // It understands all of it, and finds no token here.
        let said = run_of(command.args(&arguments)).unwrap_err();
        assert!(
            said.contains("can't read the service token /etc/stagepost/token/token"),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn what_is_computed_from_values_is_right() {
    let large = template(MATRIX.iter().find(|(name, _)| *name == "large").unwrap().1);
    let config = file(&large);
    assert_eq!(config["nats"]["replicas"].as_integer(), Some(3));
    assert_eq!(config["nats"]["partitions"].as_integer(), Some(2));
    assert_eq!(config["nats"]["url"].as_str().unwrap().split(',').count(), 3);
    assert_eq!(config["nats"]["events_bytes_max"].as_integer(), Some(10_737_418_240));
    assert!(config["accounts"]["server"].as_str().unwrap().starts_with("https://"));
    assert_eq!(config["operator"]["spf"].as_str(), Some("include:_spf.example.net"));
    let nats = large.iter().find(|object| object.kind() == "ConfigMap" && object.name().ends_with("-nats"));
    let nats = nats.unwrap().0["data"]["nats.conf"].as_str().unwrap();
    assert!(nats.contains("sync_interval: always\n"), "{nats}");
    // Three quarters of 500 GiB.
    assert!(nats.contains("max_file_store: 402653184000\n"), "{nats}");

    let pools = template(MATRIX.iter().find(|(name, _)| *name == "addresses that stay").unwrap().1);
    let config = file(&pools);
    let senders = config["operator"]["senders"].as_array().unwrap();
    assert_eq!(senders, &[toml::Value::from("192.0.2.1=out-a.example.com")]);
    assert!(config["operator"].get("spf").is_none(), "one sender needs no term");
    let deliveries: Vec<&Object> = pools
        .iter()
        .filter(|object| object.kind() == "Deployment" && object.name().contains("-delivery"))
        .collect();
    assert_eq!(deliveries.len(), 1);
    let container = containers(deliveries[0].pod().unwrap().0)[0];
    let said: Vec<(&str, &str)> = variables(container).collect();
    assert!(said.contains(&("STAGEPOST_HOST_NAME", "out-a.example.com")), "{said:?}");
    assert!(said.contains(&("STAGEPOST_REDIS_PODS", "1")), "{said:?}");

    for (senders, term) in [
        ("192.0.2.1=a.example.com", None),
        ("192.0.2.1=a.example.com, 192.0.2.2=b.example.com", Some("a:h.test")),
    ] {
        let config =
            file(&template(&format!("{{hostName: h.test, config: {{operator: {{senders: [{senders}]}}}}}}")));
        assert_eq!(config["operator"].get("spf").and_then(|spf| spf.as_str()), term, "{senders}");
    }

    let plain = file(&template("{}"));
    let (release, namespace) = RELEASE;
    let host = format!("{release}-stagepost-ingress.{namespace}.svc.cluster.local");
    assert_eq!(plain["host_name"].as_str(), Some(host.as_str()));
    assert_eq!(plain["nats"]["partitions"].as_integer(), Some(8));
}
