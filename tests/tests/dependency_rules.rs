//! Who may depend on whom, held against what cargo says.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// What each crate may use of the workspace, tests apart.
const MAY_USE: [(&str, &[&str]); 13] = [
    ("proto", &[]),
    ("smtp", &[]),
    ("dkim", &[]),
    ("mail", &["smtp"]),
    ("runtime", &[]),
    ("limits", &["mail", "smtp"]),
    ("spool", &["mail", "smtp", "proto"]),
    ("accounts", &["dkim", "limits", "mail", "proto", "runtime", "smtp"]),
    ("ingress", &["dkim", "limits", "mail", "proto", "runtime", "smtp", "spool"]),
    ("delivery", &["dkim", "limits", "mail", "proto", "runtime", "smtp", "spool"]),
    ("operator", &["dkim", "limits", "proto", "runtime", "smtp"]),
    (
        "stagepost",
        &[
            "accounts", "delivery", "dkim", "ingress", "limits", "mail", "operator", "proto", "runtime",
            "smtp", "spool",
        ],
    ),
    ("tests", &["limits"]),
];

/// Crates that one part alone may use, for what it hides from the others.
const ONLY_IN: [(&str, &[&str]); 8] = [
    ("kube", &["operator", "tests"]),
    ("async-nats", &["spool", "accounts", "tests"]),
    ("redis", &["limits", "tests"]),
    ("opentelemetry", &["runtime"]),
    ("opentelemetry_sdk", &["runtime"]),
    ("opentelemetry-otlp", &["runtime"]),
    ("tracing-opentelemetry", &["runtime"]),
    ("prometheus-client", &["runtime"]),
];

/// Second TLS and crypto providers; with two of them rustls doesn't know which to take.
const ABSENT: [&str; 5] = ["ring", "openssl", "openssl-sys", "native-tls", "schannel"];

/// Dependencies that generated code alone names.
const USED_BY_GENERATED_CODE: [(&str, &str); 2] = [("proto", "prost"), ("proto", "tonic-prost")];

/// Names that say nothing.
const NO_NAMES: [&str; 7] = ["common", "util", "utils", "helper", "helpers", "types", "misc"];

fn metadata() -> Metadata {
    let manifest = tests::address::tests_folder().join("../Cargo.toml");
    let options = ["--locked".to_owned(), "--offline".to_owned()];
    MetadataCommand::new().manifest_path(manifest).other_options(options).exec().unwrap()
}

fn folder(package: &Package) -> PathBuf {
    package.manifest_path.parent().unwrap().into()
}

/// All Rust files of a package, fuzz targets with a workspace of their own apart.
fn sources(package: &Package) -> Vec<PathBuf> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.join("Cargo.toml").exists() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    collect(&folder(package), &mut files);
    files
}

#[test]
fn crates_use_only_what_the_design_lets_them() {
    let metadata = metadata();
    let members = metadata.workspace_packages();
    let names: BTreeSet<&str> = members.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &members {
        let allowed = MAY_USE.iter().find(|(name, _)| package.name.as_str() == *name);
        let Some((_, allowed)) = allowed else {
            wrong.push(format!("{}: no rule says what it may use", package.name));
            continue;
        };
        let used =
            package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
        for dependency in used.filter(|dependency| names.contains(dependency.name.as_str())) {
            if !allowed.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} uses {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn smtp_uses_idna_and_nothing_else() {
    let metadata = metadata();
    let smtp =
        metadata.workspace_packages().into_iter().find(|package| package.name.as_str() == "smtp").unwrap();
    let used = smtp.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
    assert_eq!(used.map(|dependency| dependency.name.as_str()).collect::<Vec<_>>(), ["idna"]);
}

#[test]
fn the_pure_crates_know_no_runtime_socket_clock_or_serde() {
    let metadata = metadata();
    let pure = ["smtp", "mail", "dkim"];
    let forbidden_crates = ["tokio", "serde", "serde_json", "mio", "rustix", "tracing", "hickory-resolver"];
    let forbidden_words =
        ["TcpStream", "TcpListener", "UdpSocket", "SystemTime::now", "Instant::now", "std::fs"];
    let mut wrong = Vec::new();
    for package in
        metadata.workspace_packages().into_iter().filter(|package| pure.contains(&package.name.as_str()))
    {
        let used =
            package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
        for dependency in used.filter(|dependency| forbidden_crates.contains(&dependency.name.as_str())) {
            wrong.push(format!("{} uses {}", package.name, dependency.name));
        }
        for file in sources(package).into_iter().filter(|file| file.starts_with(folder(package).join("src")))
        {
            let text = std::fs::read_to_string(&file).unwrap();
            // Unit tests stand last in a file, and may read what they like.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let found = forbidden_words.iter().filter(|word| code.contains(**word));
            wrong.extend(found.map(|word| format!("{}: {word}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn there_is_one_tls_provider() {
    // `cargo metadata` lists what some feature could bring in; `cargo tree` lists what is built.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["tree", "--workspace", "--locked", "--offline", "--prefix", "none", "--format", "{p}"]);
    let output = command.current_dir(tests::address::tests_folder()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout).into_owned();
    let built: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(built.contains("aws-lc-rs"));
    let found = ABSENT.iter().filter(|name| built.contains(**name));
    assert_eq!(found.collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn each_store_and_api_has_one_user() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        for dependency in &package.dependencies {
            let rule = ONLY_IN.iter().find(|(name, _)| dependency.name == *name);
            if rule.is_some_and(|(_, users)| !users.contains(&package.name.as_str())) {
                wrong.push(format!("{} uses {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_crate_or_module_has_a_name_that_says_nothing() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        if NO_NAMES.contains(&package.name.as_str()) {
            wrong.push(package.name.to_string());
        }
        for file in sources(package) {
            let module = if file.ends_with("mod.rs") { file.parent().unwrap() } else { &file };
            if module.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| NO_NAMES.contains(&stem))
            {
                wrong.push(file.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_dependency_is_used() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let code: String =
            sources(package).iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        for dependency in &package.dependencies {
            let name = dependency.rename.as_ref().unwrap_or(&dependency.name).replace('-', "_");
            let used = code.match_indices(&name).any(|(at, _)| {
                let before = code[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
                let rest = &code[at + name.len()..];
                before && ["::", ";", " as "].iter().any(|end| rest.starts_with(end))
            });
            let generated =
                USED_BY_GENERATED_CODE.contains(&(package.name.as_str(), dependency.name.as_str()));
            if !used && !generated {
                wrong.push(format!("{} doesn't use {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_version_stands_once_and_is_used() {
    let metadata = metadata();
    let root: toml::Table =
        std::fs::read_to_string(metadata.workspace_root.join("Cargo.toml")).unwrap().parse().unwrap();
    let listed: BTreeSet<String> =
        root["workspace"]["dependencies"].as_table().unwrap().keys().cloned().collect();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let manifest: toml::Table = std::fs::read_to_string(&package.manifest_path).unwrap().parse().unwrap();
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in manifest.get(section).and_then(toml::Value::as_table).into_iter().flatten() {
                used.insert(name.clone());
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    wrong.push(format!("{}: {name} has a version of its own", package.name));
                }
            }
        }
    }
    wrong.extend(listed.difference(&used).map(|name| format!("nobody uses {name}")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}
