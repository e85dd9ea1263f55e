//! What the chart renders, run on this host: its NATS, Valkey, accounts and delivery with the files, arguments and variables that
//! their pods get, and then the steps of `helm test`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::address::{cache, fresh};
use tests::deadline::until_true;
use tests::helm::{Object, containers, run_of, template, tool};
use tests::http;
use tests::process::Process;
use tests::stagepost::program;

use crate::component;
use crate::program::decoded;

/// Names in the certificate that are not this host's lead nowhere here.
const SERVER: &str = "https://localhost:";
const ACCOUNTS: u16 = 8081;
const DELIVERY: u16 = 8181;
/// NATS writes each of many streams to disk first.
const READY: Duration = Duration::from_secs(120);

/// A host on which pods run.
struct Host {
    folder: tempfile::TempDir,
    objects: Vec<Object>,
    nats: Ipv4Addr,
    redis: Ipv4Addr,
    secrets: BTreeMap<(String, String), String>,
}

impl Host {
    fn new(values: &str) -> Self {
        let objects = template(values);
        let mut secrets = BTreeMap::new();
        for object in objects.iter().filter(|object| object.kind() == "Secret") {
            for (key, value) in object.0["data"].as_object().unwrap() {
                let place = (object.name().to_owned(), key.clone());
                secrets.insert(place, decoded(value.as_str().unwrap()));
            }
        }
        let folder = tempfile::tempdir().unwrap();
        Self { folder, objects, nats: fresh(), redis: fresh(), secrets }
    }

    fn pod(&self, wanted: &str) -> &Value {
        let pods = self.objects.iter().filter_map(|object| Some(object.pod()?.0));
        pods.into_iter().find(|pod| component(pod) == wanted).unwrap()
    }

    /// A pod's files, below a folder of its own.
    fn mounted(&self, pod: &Value) -> PathBuf {
        let root = self.folder.path().join(component(pod));
        for mount in containers(pod)[0]["volumeMounts"].as_array().unwrap() {
            let at = root.join(mount["mountPath"].as_str().unwrap().trim_start_matches('/'));
            std::fs::create_dir_all(&at).unwrap();
            let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
            let Some(volume) = volumes.find(|volume| volume["name"] == mount["name"]) else {
                continue;
            };
            if let Some(name) = volume["configMap"]["name"].as_str() {
                let map =
                    self.objects.iter().find(|it| it.kind() == "ConfigMap" && it.name() == name).unwrap();
                for (key, text) in map.0["data"].as_object().unwrap() {
                    std::fs::write(at.join(key), self.here(text.as_str().unwrap(), &root)).unwrap();
                }
            }
            if let Some(name) = volume["secret"]["secretName"].as_str() {
                for ((_, key), text) in self.secrets.iter().filter(|((secret, _), _)| secret == name) {
                    let items = volume["secret"]["items"].as_array();
                    let path = items.map_or(Some(key.as_str()), |items| {
                        items.iter().find(|item| item["key"] == **key)?["path"].as_str()
                    });
                    std::fs::write(at.join(path.unwrap()), text).unwrap();
                }
            }
        }
        root
    }

    /// A text with paths and addresses as they are on this host.
    fn here(&self, text: &str, root: &Path) -> String {
        let (root, nats) = (root.display(), self.nats);
        ["/etc/stagepost", "/etc/nats", "/run/nats", "/data", "/var/lib/stagepost"]
            .iter()
            .fold(text.to_owned(), |text, path| text.replace(path, &format!("{root}{path}")))
            .replace("port: 4222", &format!("listen: {nats}:4222"))
            .replace("http_port: 8222", &format!("http: {nats}:8222"))
    }

    /// A container's arguments and variables.
    fn command(&self, program: PathBuf, container: &Value, root: &Path) -> Command {
        let mut variables: BTreeMap<String, String> = BTreeMap::new();
        for variable in container["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().unwrap();
            let from = &variable["valueFrom"]["secretKeyRef"];
            let value = match (variable["value"].as_str(), from["name"].as_str()) {
                (Some(value), _) => value.to_owned(),
                (None, Some(secret)) => {
                    self.secrets[&(secret.to_owned(), from["key"].as_str().unwrap().to_owned())].clone()
                }
                (None, None) => String::from("pod-0"),
            };
            let value = expanded(&value, &variables);
            variables.insert(name.to_owned(), self.here(&value, root));
        }
        let mut command = Command::new(program);
        for argument in container["args"].as_array().unwrap() {
            command.arg(self.here(&expanded(argument.as_str().unwrap(), &variables), root));
        }
        command.env_clear().envs(variables);
        command
    }

    /// Starts a pod's program, with changes of its variables.
    fn start(
        &self,
        wanted: &str,
        program: PathBuf,
        changes: &[(&str, String)],
        ready: impl Fn() -> bool,
    ) -> Process {
        let pod = self.pod(wanted);
        let root = self.mounted(pod);
        let mut command = self.command(program, containers(pod)[0], &root);
        command.envs(changes.iter().map(|(name, value)| (*name, value)));
        if wanted == "redis" {
            command.args(["--bind", &self.redis.to_string()]);
        }
        let mut process = Process::start(wanted, command, &self.folder.path().join(format!("{wanted}.log")));
        until_true(&format!("{wanted} is ready"), READY, || {
            assert!(process.ended().is_none(), "{wanted} ended:\n{}", process.log());
            ready()
        });
        process
    }

    /// Changes of a role's variables: its neighbours are here.
    fn of_role(&self, grpc: u16, admin: SocketAddr) -> Vec<(&'static str, String)> {
        vec![
            ("STAGEPOST_NATS_URL", format!("nats://{}:4222", self.nats)),
            ("STAGEPOST_ACCOUNTS_SERVER", format!("{SERVER}{ACCOUNTS}")),
            ("STAGEPOST_GRPC_LISTEN", format!("127.0.0.1:{grpc}")),
            ("STAGEPOST_ADMIN_LISTEN", admin.to_string()),
        ]
    }
}

/// A text with $(NAME) replaced, as Kubernetes does.
fn expanded(text: &str, variables: &BTreeMap<String, String>) -> String {
    variables.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}

fn answers(address: SocketAddr, path: &str) -> bool {
    http::try_ask("GET", address, path).is_ok_and(|answer| answer.status == 200)
}

#[test]
fn what_the_chart_renders_runs_together_under_mutual_tls_and_passes_its_own_test() {
    let host = Host::new("{ grpc: { tls: { enabled: true } } }");
    let monitor = SocketAddr::from((host.nats, 8222));
    let _nats =
        host.start("nats", tool("nats-server"), &[], || answers(monitor, "/healthz?js-server-only=true"));
    let redis = SocketAddr::from((host.redis, 6379));
    let _redis = host
        .start("redis", cache().join("valkey-server"), &[], || std::net::TcpStream::connect(redis).is_ok());
    let admin = SocketAddr::from((fresh(), 8080));
    let _accounts =
        host.start("accounts", program(), &host.of_role(ACCOUNTS, admin), || answers(admin, "/readyz"));
    let admin = SocketAddr::from((fresh(), 8080));
    let mut changes = host.of_role(DELIVERY, admin);
    let password = &host.secrets[&(String::from("sp-stagepost-redis"), String::from("password"))];
    changes.push(("STAGEPOST_REDIS_URL", format!("redis://:{password}@{redis}")));
    let delivery = host.start("delivery", program(), &changes, || answers(admin, "/readyz"));

    let test = host.pod("test");
    let root = host.mounted(test);
    for step in containers(test) {
        let mut command = host.command(program(), step, &root);
        let is_send = step["name"] == "send";
        command.env("STAGEPOST_SERVER", format!("{SERVER}{}", if is_send { DELIVERY } else { ACCOUNTS }));
        run_of(&mut command).unwrap_or_else(|said| panic!("{}: {said}\n{}", step["name"], delivery.log()));
    }
    // Whoever shows no certificate isn't answered.
    let mut bare = host.command(program(), containers(test)[0], &root);
    bare.env("STAGEPOST_SERVER", format!("{SERVER}{ACCOUNTS}"));
    bare.env_remove("STAGEPOST_CERTIFICATE").env_remove("STAGEPOST_KEY");
    let refused = run_of(&mut bare).unwrap_err();
    assert!(refused.contains("doesn't answer"), "{refused}");
    let shared = http::ask("GET", admin, "/metrics").body;
    assert!(shared.lines().any(|line| line == "stagepost_limits_shared 1"), "{shared}");
}
