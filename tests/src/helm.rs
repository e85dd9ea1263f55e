//! Helm, as it renders the chart.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::address::cache;
use crate::chart::folder;
use crate::process::run;

/// Kubernetes as the chart is rendered for.
pub const KUBERNETES: &str = "1.36.3";
/// The release's name and namespace.
pub const RELEASE: (&str, &str) = ("sp", "mail");

/// A program of Go's that `tests/install` builds.
pub fn tool(name: &str) -> PathBuf {
    let path = cache().join("bin").join(name);
    assert!(path.exists(), "{} isn't there: run tests/install", path.display());
    path
}

/// An object that the chart makes.
#[derive(Clone, Debug)]
pub struct Object(pub Value);

impl Object {
    /// Its kind.
    pub fn kind(&self) -> &str {
        self.0["kind"].as_str().unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The pod that it makes, or is, and how many of them there are.
    pub fn pod(&self) -> Option<(&Value, u64)> {
        match self.kind() {
            "Pod" => Some((&self.0, 1)),
            "Deployment" | "StatefulSet" => {
                Some((&self.0["spec"]["template"], self.0["spec"]["replicas"].as_u64().unwrap_or(1)))
            }
            _ => None,
        }
    }
}

/// Containers of a pod, those that begin included.
pub fn containers(pod: &Value) -> Vec<&Value> {
    let lists = ["initContainers", "containers"].map(|key| pod["spec"][key].as_array());
    lists.into_iter().flatten().flatten().collect()
}

/// `helm template` of the chart with these values (YAML), or what Helm says against it.
///
/// # Errors
/// What Helm says.
pub fn try_template(helm: &str, values: &str) -> Result<Vec<Object>, String> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, values).expect("a file can be written");
    let (release, namespace) = RELEASE;
    let mut command = helm_of(helm, folder.path());
    command.args(["template", release, "--namespace", namespace, "--kube-version", KUBERNETES, "--values"]);
    let output = run_of(command.arg(&file).arg(self::folder()));
    output.map(|text| objects(&text))
}

/// The same, with Helm 3, where it must go well.
///
/// # Panics
/// When it doesn't.
pub fn template(values: &str) -> Vec<Object> {
    try_template("helm", values).unwrap_or_else(|error| panic!("{values}: {error}"))
}

/// `helm lint --strict` with these values (YAML).
///
/// # Errors
/// What Helm says.
pub fn lint(helm: &str, values: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, values).expect("a file can be written");
    let mut command = helm_of(helm, folder.path());
    run_of(
        command
            .args(["lint", "--strict", "--kube-version", KUBERNETES, "--values"])
            .arg(&file)
            .arg(self::folder()),
    )
}

/// Helm with a home of its own.
pub fn helm_of(helm: &str, home: &Path) -> Command {
    let mut command = Command::new(tool(helm));
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, home);
    }
    command
}

/// What a command prints, or what it says when it fails.
///
/// # Errors
/// When it fails.
pub fn run_of(command: &mut Command) -> Result<String, String> {
    let command = std::mem::replace(command, Command::new("true"));
    let output = run(command, b"");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stdout) + &text(&output.stderr))
    }
}

/// The documents of a stream of YAML.
fn objects(text: &str) -> Vec<Object> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line == "---" {
            documents.push(String::new());
        } else if let Some(last) = documents.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    let filled = documents.iter().filter(|text| {
        text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    });
    filled
        .map(|text| serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error} in\n{text}")))
        .map(Object)
        .collect()
}
