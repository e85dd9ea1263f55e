//! The chart and a real API server: it takes what is rendered, secrets outlive an upgrade, and what must stay stays.
//! (Nothing runs: there are no nodes.)
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use serde_json::{Value, json};
use tests::chart;
use tests::helm::{RELEASE, helm_of, run_of, template};
use tests::kubernetes::Cluster;
use tests::lab::Lab;

const SECRETS: [&str; 6] = ["token", "sealing-key", "nats", "redis", "self-signed", "grpc-tls"];

struct Site {
    lab: Lab,
    cluster: Cluster,
}

impl Site {
    /// A cluster without our definitions, and a namespace that takes restricted pods only.
    fn new() -> Self {
        let lab = Lab::new();
        let cluster = Cluster::start(&lab);
        for kind in ["accounts", "sendingdomains", "smtpcredentials"] {
            cluster.kubectl(&["delete", "crd", &format!("{kind}.stagepost.dev")]);
        }
        cluster.apply(
            "{apiVersion: v1, kind: Namespace, metadata: {name: mail, labels: \
             {pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}}}",
        );
        Self { lab, cluster }
    }

    /// What Helm prints and warns of, or says when it fails.
    fn helm(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let (release, namespace) = RELEASE;
        let home = self.lab.subfolder("helm");
        let mut command = helm_of(program, &home);
        command.arg(arguments[0]).arg(release).args(["--namespace", namespace, "--kubeconfig"]);
        command.arg(self.cluster.kubeconfig());
        if arguments[0] != "uninstall" {
            command.arg(chart::folder());
        }
        run_of(command.args(&arguments[1..]))
    }

    fn secrets(&self) -> Vec<Value> {
        let secret = |name: &&str| self.cluster.object("mail", "secret", &format!("sp-stagepost-{name}"));
        SECRETS.iter().filter_map(secret).map(|secret| secret["data"].clone()).collect()
    }
}

fn installs_upgrades_and_leaves(program: &str) {
    let site = Site::new();
    let tls = ["--set", "grpc.tls.enabled=true"];
    let printed = site.helm(program, &[&["install"], &tls[..]].concat()).unwrap();
    assert!(printed.contains("helm -n mail test sp") && printed.contains("hostName isn't set"), "{printed}");
    for kind in ["accounts", "sendingdomains", "smtpcredentials"] {
        let name = format!("crd/{kind}.stagepost.dev");
        site.cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &name]);
    }
    let made = site.secrets();
    assert_eq!(made.len(), SECRETS.len());

    let changed = ["upgrade", "--set", "ingress.replicas=3"];
    site.helm(program, &[&changed[..], &tls].concat()).unwrap();
    assert_eq!(site.secrets(), made, "an upgrade keeps secrets");
    let ingress = site.cluster.object("mail", "deployment", "sp-stagepost-ingress").unwrap();
    assert_eq!(ingress["spec"]["replicas"], 3);
    site.helm(program, &["upgrade", "--set", "hostName=mail.example.com,grpc.tls.enabled=true"]).unwrap();
    let renamed = site.secrets();
    assert_eq!((&renamed[..4], &renamed[5]), (&made[..4], &made[5]));
    assert_ne!(renamed[4], made[4], "another name needs another certificate");
    let refused = site.helm(program, &["upgrade", "--set", "nats.replicas=3"]).unwrap_err();
    assert!(refused.contains("nats.replicas can't be changed from 1 to 3"), "{refused}");

    site.cluster.apply(
        "{apiVersion: stagepost.dev/v1alpha1, kind: Account, metadata: {name: shop, namespace: mail}, spec: {plan: unlimited}}",
    );
    site.helm(program, &["uninstall"]).unwrap();
    assert!(
        site.cluster.object("mail", "account.stagepost.dev", "shop").is_some(),
        "definitions and objects stay"
    );
    assert_eq!(site.secrets(), [made[1].clone()], "the key that seals stays, and nothing else");
    site.helm(program, &["install"]).unwrap();
    assert_eq!(site.secrets()[1], made[1], "and is taken up again");
}

#[test]
fn a_release_keeps_its_secrets_and_leaves_what_must_stay() {
    installs_upgrades_and_leaves("helm");
}

#[test]
fn so_it_is_with_helm_4() {
    installs_upgrades_and_leaves("helm4");
}

#[test]
fn a_namespace_for_restricted_pods_takes_all_of_them() {
    let site = Site::new();
    let objects =
        template("{ jaeger: { enabled: true }, grpc: { tls: { enabled: true } }, nats: { replicas: 3 } }");
    let mut taken = 0;
    for object in &objects {
        let Some((pod, _)) = object.pod() else { continue };
        let labels = &pod["metadata"]["labels"];
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": object.name(), "namespace": "mail", "labels": labels },
            "spec": pod["spec"],
        });
        let text = pod.to_string();
        // Claims are made by the StatefulSet's controller.
        site.cluster
            .try_kubectl(
                &["create", "--dry-run=server", "--validate=strict", "-f", "-"],
                &with_claims(&text, object.kind()),
            )
            .unwrap_or_else(|said| panic!("{}: {said}", object.name()));
        taken += 1;
    }
    assert_eq!(taken, 8);
    let in_the_nodes_network = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "other", "namespace": "mail" },
        "spec": { "hostNetwork": true, "containers": [{ "name": "a", "image": "a" }] },
    });
    let arguments = ["create", "--dry-run=server", "-f", "-"];
    let refused = site.cluster.try_kubectl(&arguments, &in_the_nodes_network.to_string()).unwrap_err();
    assert!(refused.contains("violates PodSecurity"), "{refused}");
}

/// A StatefulSet's pod with a volume for the claim that it gets.
fn with_claims(pod: &str, kind: &str) -> String {
    let mut pod: Value = serde_json::from_str(pod).unwrap();
    if kind == "StatefulSet" {
        let claim = json!({ "name": "data", "persistentVolumeClaim": { "claimName": "data" } });
        match pod["spec"]["volumes"].as_array_mut() {
            Some(volumes) => volumes.push(claim),
            None => pod["spec"]["volumes"] = json!([claim]),
        }
    }
    pod.to_string()
}
