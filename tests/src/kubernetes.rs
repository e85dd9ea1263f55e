//! A real Kubernetes API: etcd, kube-apiserver and kube-controller-manager (namespaces, garbage, service accounts), without
//! nodes; and Stagepost's operators on it.
//!
//! ```no_run
//! use tests::kubernetes::Cluster;
//! use tests::lab::Lab;
//! let lab = Lab::new();
//! let cluster = Cluster::start(&lab);             // with Stagepost's definitions
//! cluster.kubectl(&["create", "namespace", "shop"]);
//! cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop}}");
//! ```

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::address::{self, cache};
use crate::clock;
use crate::deadline::until;
use crate::http;
use crate::lab::Lab;
use crate::process::{Process, run};
use crate::stagepost::program;

const ETCD_PORT: u16 = 2379;
const ETCD_PEER_PORT: u16 = 2380;
const API_PORT: u16 = 6443;
const ADMIN_TOKEN: &str = "a-token-of-the-tests";
/// Where an operator shows its health.
const ADMIN_PORT: u16 = 8080;
/// How long the API may take to be there, on a machine that does other things too.
const READY: Duration = Duration::from_secs(180);
/// What an object may take that should take seconds.
pub const SETTLED: Duration = Duration::from_secs(120);

/// One at a time: an API server alone keeps a core busy when it starts.
static ALONE: Mutex<()> = Mutex::new(());

/// A running API; dropped, it ends.
pub struct Cluster {
    // In the order in which they end.
    _controllers: Process,
    api: Process,
    _etcd: Process,
    folder: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

/// A program that `tests/install` built.
pub(crate) fn built(name: &str) -> PathBuf {
    let path = cache().join("bin").join(name);
    assert!(path.exists(), "{} isn't there: run tests/install", path.display());
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our paths are text")
}

impl Cluster {
    /// A new cluster that knows Stagepost's objects.
    ///
    /// # Panics
    /// When something doesn't come up: with its log.
    pub fn start(lab: &Lab) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = lab.subfolder("kubernetes");
        let address = address::fresh();
        let etcd = start_etcd(&folder, address);
        let (certificate, key) = lab.authority.issue(&[&address.to_string()]).write(&folder, "api");
        let (verifying, signing) = lab.authority.issue(&["service-accounts"]).write(&folder, "tokens");
        let authority = folder.join("authority.pem");
        std::fs::write(&authority, lab.authority.pem()).expect("a file can be written");
        let tokens = folder.join("tokens.csv");
        std::fs::write(&tokens, format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n"))
            .expect("a file can be written");
        std::fs::write(folder.join("kubeconfig"), kubeconfig(address, &authority, ADMIN_TOKEN))
            .expect("a file can be written");

        let mut command = Command::new(built("kube-apiserver"));
        command
            .arg(format!("--etcd-servers=http://{address}:{ETCD_PORT}"))
            .arg(format!("--bind-address={address}"))
            .arg(format!("--advertise-address={address}"))
            .arg(format!("--secure-port={API_PORT}"))
            .arg("--service-cluster-ip-range=10.98.0.0/16")
            .arg(format!("--tls-cert-file={}", certificate.display()))
            .arg(format!("--tls-private-key-file={}", key.display()))
            .arg(format!("--token-auth-file={}", tokens.display()))
            .arg("--authorization-mode=RBAC")
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", verifying.display()))
            .arg(format!("--service-account-signing-key-file={}", signing.display()))
            .arg("--disable-admission-plugins=ServiceAccount")
            .arg(format!("--cert-dir={}", folder.display()))
            // Two cores shared with all else: what waits isn't turned away.
            .arg("--enable-priority-and-fairness=false");
        let api = Process::start("kube-apiserver", command, &folder.join("api.log"));
        let (mut etcd, mut api) = (etcd, api);
        wait_ready(&folder, &mut [&mut etcd, &mut api]);
        // They give up when there is no API for ten seconds.
        let mut command = Command::new(built("kube-controller-manager"));
        command
            .arg(format!("--kubeconfig={}", folder.join("kubeconfig").display()))
            .arg(format!("--service-account-private-key-file={}", signing.display()))
            .arg(format!("--root-ca-file={}", authority.display()))
            .arg("--leader-elect=false")
            .arg("--controllers=namespace-controller,garbage-collector-controller,serviceaccount-controller")
            .arg(format!("--bind-address={address}"))
            .arg(format!("--cert-dir={}", folder.display()));
        let controllers = Process::start("kube-controller-manager", command, &folder.join("controllers.log"));
        let cluster = Self { _controllers: controllers, api, _etcd: etcd, folder, _alone: alone };
        cluster.define();
        cluster.allow_operators();
        let token = cluster.kubectl(&["create", "token", "operator", "--duration=4h"]);
        let config = kubeconfig(address, &authority, token.trim());
        std::fs::write(cluster.operators_kubeconfig(), config).expect("a file can be written");
        cluster
    }

    /// Defines Stagepost's objects, as the program prints them.
    fn define(&self) {
        let mut command = Command::new(program());
        command.arg("crds");
        let printed = run(command, b"");
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        let definitions = String::from_utf8_lossy(&printed.stdout).into_owned();
        self.try_kubectl(&["apply", "--server-side", "-f", "-"], &definitions)
            .expect("definitions are taken");
        for kind in ["accounts", "sendingdomains", "smtpcredentials"] {
            let name = format!("crd/{kind}.stagepost.dev");
            self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &name]);
        }
    }

    /// Gives the account `operator` the rights that the chart gives, and no others.
    fn allow_operators(&self) {
        let files = address::tests_folder().join("../charts/stagepost/files");
        let rules = |name: &str| {
            let text = std::fs::read_to_string(files.join(name)).expect("the chart has the rules");
            let rules = text.lines().filter(|line| !line.starts_with('#'));
            rules.map(|line| format!("{line}\n")).collect::<String>()
        };
        let head = "apiVersion: rbac.authorization.k8s.io/v1\nkind";
        let subject = "subjects: [{kind: ServiceAccount, name: operator, namespace: default}]\n\
                       roleRef: {apiGroup: rbac.authorization.k8s.io, name: operator, kind";
        self.apply(&format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: operator, namespace: default}}\n---\n\
             {head}: ClusterRole\nmetadata: {{name: operator}}\nrules:\n{}---\n\
             {head}: ClusterRoleBinding\nmetadata: {{name: operator}}\n{subject}: ClusterRole}}\n---\n\
             {head}: Role\nmetadata: {{name: operator, namespace: default}}\nrules:\n{}---\n\
             {head}: RoleBinding\nmetadata: {{name: operator, namespace: default}}\n{subject}: Role}}\n",
            rules("operator-rules.yaml"),
            rules("operator-lease-rules.yaml"),
        ));
    }

    /// The file by which operators find the API: with no more rights than the chart gives them.
    pub(crate) fn operators_kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig-operator")
    }

    /// Defines the objects of external-dns.
    pub fn define_endpoints(&self) {
        let file = cache().join("dnsendpoints.yaml");
        assert!(file.exists(), "{} isn't there: run tests/install", file.display());
        self.kubectl(&["apply", "--server-side", "-f", text(&file)]);
        let name = "crd/dnsendpoints.externaldns.k8s.io";
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", name]);
    }

    /// The file by which clients find the API.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The process of the API server.
    pub fn api(&self) -> &Process {
        &self.api
    }

    /// kubectl, what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments, "")
            .unwrap_or_else(|error| panic!("kubectl {}: {error}", arguments.join(" ")))
    }

    /// [`Cluster::kubectl`] with standard input, or what it says of its failure.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        kubectl(&self.folder, arguments, input)
    }

    /// Applies YAML, or says why it isn't taken.
    pub fn try_apply(&self, yaml: &str) -> Result<(), String> {
        self.try_kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], yaml).map(drop)
    }

    /// Applies YAML.
    ///
    /// # Panics
    /// When it isn't taken.
    pub fn apply(&self, yaml: &str) {
        self.try_apply(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    }

    /// An object as it is; nothing when there is none.
    pub fn object(&self, namespace: &str, kind: &str, name: &str) -> Option<Value> {
        let arguments = ["get", "-n", namespace, kind, name, "--ignore-not-found", "-o", "json"];
        let printed = self.kubectl(&arguments);
        (!printed.trim().is_empty()).then(|| serde_json::from_str(&printed).expect("kubectl prints JSON"))
    }

    /// All objects of a kind in a namespace.
    pub fn objects(&self, namespace: &str, kind: &str) -> Vec<Value> {
        let printed = self.kubectl(&["get", "-n", namespace, kind, "-o", "json"]);
        let list: Value = serde_json::from_str(&printed).expect("kubectl prints JSON");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until an object is such that `ask` gives something.
    ///
    /// # Panics
    /// When it isn't in time: with the object as it is then.
    pub fn wait<T>(
        &self,
        (namespace, kind, name): (&str, &str, &str),
        what: &str,
        mut ask: impl FnMut(&Value) -> Option<T>,
    ) -> T {
        let end = std::time::Instant::now() + SETTLED;
        loop {
            let object = self.object(namespace, kind, name);
            if let Some(answer) = object.as_ref().and_then(&mut ask) {
                return answer;
            }
            assert!(
                std::time::Instant::now() < end,
                "waited {SETTLED:?} in vain: {what}\n{}",
                object.map_or_else(|| "there is no such object".into(), |object| format!("{object:#}"))
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a condition of an object has this status; its message.
    pub fn wait_condition(&self, object: (&str, &str, &str), kind: &str, status: &str) -> String {
        self.wait(object, &format!("{kind} is {status}"), |object| {
            let condition = condition(object, kind)?;
            (condition["status"] == status)
                .then(|| condition["message"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Where all files of it are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// An operator of this name with these arguments.
    pub fn operator(&self, name: &str, arguments: &[String]) -> Operator {
        self.operator_with(name, arguments, &self.operators_kubeconfig())
    }

    /// [`Cluster::operator`] that finds the API by another file.
    pub fn operator_with(&self, name: &str, arguments: &[String], kubeconfig: &Path) -> Operator {
        self.operator_off_by(0, name, arguments, kubeconfig)
    }

    /// [`Cluster::operator_with`] whose clock is wrong by so many seconds.
    pub fn operator_off_by(
        &self,
        secs: i64,
        name: &str,
        arguments: &[String],
        kubeconfig: &Path,
    ) -> Operator {
        let address = address::fresh();
        let mut command = Command::new(program());
        command
            .arg("operator")
            .args(["--log-format", "text", "--log", "info"])
            .args(["--admin-listen", &format!("{address}:{ADMIN_PORT}")])
            .args(["--operator-identity", name, "--operator-lease-namespace", "default"])
            .args(arguments)
            .env("KUBECONFIG", kubeconfig);
        if secs != 0 {
            clock::set_off(&mut command, secs);
        }
        let process = Process::start(name, command, &self.folder.join(format!("{name}.log")));
        Operator { process, address }
    }

    /// Who holds the operators' Lease.
    pub fn leader(&self) -> Option<String> {
        let lease = self.object("default", "lease", "stagepost-operator")?;
        Some(lease["spec"]["holderIdentity"].as_str()?.to_owned())
    }
}

/// A condition of an object.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// A running operator; dropped, it is killed.
pub struct Operator {
    /// Its process.
    pub process: Process,
    address: Ipv4Addr,
}

impl Operator {
    /// What it counts.
    pub fn metrics(&self) -> String {
        http::ask("GET", (self.address, ADMIN_PORT).into(), "/metrics").body
    }

    /// The value of one of its metrics: name and labels as they stand there. Nothing, so far, is 0.
    pub fn metric(&self, name: &str) -> u64 {
        let answer = http::try_ask("GET", (self.address, ADMIN_PORT).into(), "/metrics");
        let text = answer.map(|answer| answer.body).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_default()
    }

    /// Waits until it holds the Lease.
    pub fn wait_leading(&self) {
        until("the operator holds the Lease", SETTLED, || {
            let answer = http::try_ask("GET", (self.address, ADMIN_PORT).into(), "/metrics").ok()?;
            answer.body.contains("stagepost_operator_leading 1\n").then_some(())
        });
    }
}

fn wait_ready(folder: &Path, parts: &mut [&mut Process]) {
    until("the API is ready", READY, || {
        for process in &mut *parts {
            if let Some(status) = process.ended() {
                panic!("a part of Kubernetes ended ({status}):\n{}", process.log());
            }
        }
        let ready = kubectl(folder, &["get", "--raw", "/readyz"], "");
        ready.and_then(|_| kubectl(folder, &["get", "namespace", "default"], "")).ok()
    });
}

fn kubectl(folder: &Path, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new(built("kubectl"));
    command.arg("--kubeconfig").arg(folder.join("kubeconfig")).args(arguments);
    command.env("HOME", folder);
    let output = run(command, input.as_bytes());
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn start_etcd(folder: &Path, address: Ipv4Addr) -> Process {
    let (clients, peers) =
        (format!("http://{address}:{ETCD_PORT}"), format!("http://{address}:{ETCD_PEER_PORT}"));
    let mut command = Command::new(built("etcd"));
    command
        .args(["--data-dir", text(&folder.join("etcd"))])
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("default={peers}")])
        // What a test keeps need not survive the machine.
        .arg("--unsafe-no-fsync");
    Process::start("etcd", command, &folder.join("etcd.log"))
}

fn kubeconfig(address: Ipv4Addr, authority: &Path, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\n\
         clusters: [{{name: test, cluster: {{server: \"https://{address}:{API_PORT}\", certificate-authority: \"{}\"}}}}]\n\
         users: [{{name: test, user: {{token: {token}}}}}]\n\
         contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
         current-context: test\n",
        authority.display()
    )
}
