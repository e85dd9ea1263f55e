//! Settings come from flags, the environment and a file; what is wrong with them is said in one line, and nothing is half
//! started.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tests::address::{self, SUBMISSION_PORT};
use tests::deadline::{SOON, until};
use tests::lab::Lab;
use tests::process::{Process, run};
use tests::smtp::{Client, Reply};
use tests::stagepost::program;

/// `stagepost run` with a certain file, which may be missing, and these further arguments.
fn stagepost(file: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("run").arg("--config").arg(file).args(arguments);
    command
}

/// Runs what isn't to come up: its exit status and all that it said.
fn in_vain(lab: &Lab, command: Command) -> (ExitStatus, String) {
    let mut process = Process::start("stagepost", command, &lab.folder().join("in-vain.log"));
    let status = process.wait(SOON);
    (status, process.log())
}

/// One line that says all of this, exit code 2, and no state.
fn refused(lab: &Lab, command: Command, said: &[&str]) {
    let (status, log) = in_vain(lab, command);
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.starts_with("stagepost: ") && log.lines().count() == 1, "{log}");
    for part in said {
        assert!(log.contains(part), "no {part:?} in {log}");
    }
    assert!(!lab.folder().join("state").exists(), "state was made, though {log}");
    std::fs::remove_file(lab.folder().join("in-vain.log")).unwrap();
}

/// A file with what every Stagepost needs, and more.
fn file(lab: &Lab, more: &str) -> std::path::PathBuf {
    let path = lab.folder().join("site.toml");
    let state = lab.folder().join("state");
    let text = format!("state = {:?}\nhost_name = \"stagepost.test\"\n{more}", state.to_str().unwrap());
    std::fs::write(&path, text).unwrap();
    path
}

/// Starts it and gives its reply to EHLO.
fn ehlo(lab: &Lab, mut command: Command) -> (Process, Reply) {
    let address = address::fresh();
    command.args(["--ingress-listen", &format!("{address}:{SUBMISSION_PORT}")]);
    let mut process = Process::start("stagepost", command, &lab.folder().join(format!("{address}.log")));
    process.wait_ready(|| Client::try_connect((address, SUBMISSION_PORT).into()).is_ok());
    let mut client = Client::connect((address, SUBMISSION_PORT).into());
    assert_eq!(client.reply().code, 220);
    let reply = client.expect("EHLO client.test", 250);
    (process, reply)
}

fn size(reply: &Reply) -> &str {
    reply.lines.iter().find_map(|line| line.strip_prefix("SIZE ")).unwrap()
}

fn printed() -> String {
    let mut command = Command::new(program());
    command.args(["run", "--print-config"]);
    let output = run(command, b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_printed_file_starts_stagepost_with_its_defaults() {
    let lab = Lab::new();
    let path = lab.folder().join("printed.toml");
    std::fs::write(&path, printed()).unwrap();
    let state = lab.folder().join("state");
    let arguments = ["--host-name", "stagepost.test", "--state", state.to_str().unwrap()];
    let (mut with_file, reply) = ehlo(&lab, stagepost(&path, &arguments));
    assert!(with_file.terminate(SOON).success());
    let (_without, plain) = ehlo(&lab, stagepost(&file(&lab, ""), &[]));
    assert_eq!(reply, plain);
}

#[test]
fn every_setting_is_in_the_help_with_its_default_and_in_the_printed_file() {
    let mut command = Command::new(program());
    command.args(["run", "--help"]).env("COLUMNS", "200");
    let help = String::from_utf8(run(command, b"").stdout).unwrap();
    let words: Vec<&str> = help.split_whitespace().collect();
    let printed = printed();
    let table: toml::Table = printed.parse().unwrap();
    let mut settings = 0;
    for line in printed.lines().filter_map(|line| line.strip_prefix("# --")) {
        let (flag, variable) = line.split_once(", ").unwrap();
        assert!(words.contains(&format!("--{flag}").as_str()), "--{flag} isn't in the help");
        assert_eq!(variable, format!("STAGEPOST_{}", flag.replace('-', "_").to_uppercase()));
        settings += 1;
    }
    assert_eq!(table["ingress"]["size_bytes_max"].as_integer(), Some(36_700_160));
    assert!(help.contains("[default: 36700160]"), "{help}");
    let flags = help.lines().filter(|line| line.trim_start().starts_with("--")).count();
    assert_eq!(settings, flags - 2, "all flags but --config and --print-config are settings\n{help}");
}

#[test]
fn flags_win_over_the_environment_and_this_over_the_file() {
    let lab = Lab::new();
    let path = file(&lab, "[ingress]\nsize_bytes_max = 20000\n");
    let with = |variable: Option<&str>, flag: Option<&str>| {
        let mut command = stagepost(&path, &[]);
        command.args(flag.map(|value| format!("--ingress-size-bytes-max={value}")));
        command.envs(variable.map(|value| ("STAGEPOST_INGRESS_SIZE_BYTES_MAX", value)));
        let (mut process, reply) = ehlo(&lab, command);
        assert!(process.terminate(SOON).success());
        size(&reply).to_owned()
    };
    assert_eq!(with(None, None), "20000");
    assert_eq!(with(Some("30000"), None), "30000");
    assert_eq!(with(Some("30000"), Some("40000")), "40000");
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let lab = Lab::new();
    let path = file(&lab, "[ingress]\nsize_bytes_max = 20000\n");
    let mut command = Command::new(program());
    command.arg("run").env("STAGEPOST_CONFIG", path);
    assert_eq!(size(&ehlo(&lab, command).1), "20000");
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_file_and_key() {
    let lab = Lab::new();
    for (more, said) in [
        ("stat = \"x\"", ["unknown setting `stat`", "perhaps `state`"]),
        (
            "[ingress]\nsize_byte_max = 1",
            ["unknown setting `ingress.size_byte_max`", "perhaps `ingress.size_bytes_max`"],
        ),
        ("[ingres]\nsize_bytes_max = 20000", ["unknown setting `ingres`", "--print-config"]),
        ("[ingress]\nsize_bytes_max = \"large\"", ["setting `ingress.size_bytes_max`", "\"large\""]),
        ("[ingress]\nsize_bytes_max = 3", ["setting `ingress.size_bytes_max`", "3 is not in 1024.."]),
        ("[ingress]\nsize_bytes_max = [20000]", ["setting `ingress.size_bytes_max`", "takes a single value"]),
        ("[ingress]\nlisten = [\"nowhere\"]", ["setting `ingress.listen`", "\"nowhere\""]),
        ("[delivery]\nmode = \"pigeon\"", ["setting `delivery.mode`", "expected one of mx, sandbox"]),
        ("[delivery]\nretry_waits_secs = []", ["retry", "wait"]),
        (
            "[delivery]\nsite_limits = [\"gogle=0:1:1\"]",
            ["no provider is called \"gogle\"", "perhaps \"google\""],
        ),
        ("[delivery]\nsite_retry_waits_secs = { yahoo = \"0\" }", ["yahoo", "at least 1 second"]),
        ("log_format = \"xml\"", ["setting `log_format`", "\"xml\""]),
        ("log = \"shout\"", ["setting `log`", "shout"]),
        ("[ingress\n", ["line 3", "site.toml"]),
    ] {
        let path = file(&lab, more);
        refused(&lab, stagepost(&path, &[]), &said);
    }
}

#[test]
fn a_host_name_that_is_no_domain_is_named() {
    let lab = Lab::new();
    let path = lab.folder().join("site.toml");
    std::fs::write(&path, "host_name = \"two words\"").unwrap();
    let state = lab.folder().join("state");
    refused(
        &lab,
        stagepost(&path, &["--state", state.to_str().unwrap()]),
        &["site.toml", "`host_name`", "two words"],
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let lab = Lab::new();
    let path = lab.folder().join("nowhere.toml");
    refused(&lab, stagepost(&path, &[]), &["can't read", path.to_str().unwrap()]);
}

#[test]
fn a_wrong_value_of_a_flag_or_a_variable_names_the_flag() {
    let lab = Lab::new();
    let path = file(&lab, "");
    let mut by_variable = stagepost(&path, &[]);
    by_variable.env("STAGEPOST_INGRESS_RECIPIENTS_MAX", "many");
    for command in [stagepost(&path, &["--ingress-recipients-max=many"]), by_variable] {
        let (status, log) = in_vain(&lab, command);
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains("--ingress-recipients-max") && log.contains("many"), "{log}");
    }
    assert!(!lab.folder().join("state").exists());
}

#[test]
fn a_host_without_a_full_name_needs_one_in_the_settings() {
    let lab = Lab::new();
    let path = lab.folder().join("site.toml");
    let state = lab.folder().join("state");
    std::fs::write(&path, "").unwrap();
    // The system's own name is changed in a namespace of its own.
    let named = |name: &str| {
        let mut command = Command::new("unshare");
        command.args(["--uts", "sh", "-c", "hostname \"$1\" && shift && exec \"$@\"", "sh", name]);
        command.arg(program()).arg("run").arg("--config").arg(&path).arg("--state").arg(&state);
        command
    };
    refused(&lab, named("mailhost"), &["\"mailhost\"", "set `host_name` (--host-name)"]);
    let (_process, reply) = ehlo(&lab, named("mailhost.stagepost.test"));
    assert!(reply.lines[0].contains("mailhost.stagepost.test"), "{reply:?}");
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_started() {
    let lab = Lab::new();
    let holder = TcpListener::bind((address::fresh(), 0)).unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let free = address::fresh();
    let listen = format!("{free}:{SUBMISSION_PORT},{taken}");
    refused(
        &lab,
        stagepost(&file(&lab, ""), &["--ingress-listen", &listen]),
        &["can't listen on", &taken, "--ingress-listen"],
    );
    assert!(Client::try_connect((free, SUBMISSION_PORT).into()).is_err());
}

#[test]
fn state_in_use_is_named_and_whoever_uses_it_goes_on() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    let (status, log) = lab.stagepost().state(stagepost.state()).start_in_vain();
    assert_eq!(status.code(), Some(2), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("another Stagepost runs with state in"), "{log}");
    assert!(log.contains(stagepost.state().to_str().unwrap()), "{log}");
    stagepost.ask(&["account", "show", "shop"]);
    stagepost.login().expect("NOOP", 250);
}

#[test]
fn a_killed_stagepost_leaves_nothing_in_the_way_of_the_next() {
    let lab = Lab::new();
    let mut stagepost = lab.stagepost().start();
    stagepost.kill();
    stagepost.start_again();
    stagepost.login().expect("NOOP", 250);
}

#[test]
fn a_state_folder_that_cannot_be_made_is_named() {
    let lab = Lab::new();
    let path = file(&lab, "");
    let in_the_way = lab.folder().join("file");
    std::fs::write(&in_the_way, "").unwrap();
    let state = in_the_way.join("state");
    let state = state.to_str().unwrap();
    refused(
        &lab,
        stagepost(&path, &["--state", state, "--ingress-listen", "127.0.0.1:0"]),
        &["state", state],
    );
}

#[test]
fn what_is_wrong_with_the_certificate_is_named() {
    let lab = Lab::new();
    let (certificate, key) = lab.authority.issue(&["stagepost.test"]).write(lab.folder(), "good");
    let (_, other_key) = lab.authority.issue(&["stagepost.test"]).write(lab.folder(), "other");
    let missing = lab.folder().join("missing.pem");
    let no_certificate = lab.folder().join("site.pem");
    std::fs::write(&no_certificate, "this is no certificate").unwrap();
    let refused_with = |certificate: Option<&Path>, key: Option<&Path>, said: &[&str]| {
        let mut command = stagepost(
            &file(&lab, ""),
            &["--ingress-listen-tls", "127.0.0.1:0", "--ingress-listen", "127.0.0.1:0"],
        );
        command.args(certificate.map(|path| format!("--tls-certificate={}", path.display())));
        command.args(key.map(|path| format!("--tls-key={}", path.display())));
        refused(&lab, command, said);
    };
    refused_with(Some(&missing), Some(&key), &[missing.to_str().unwrap()]);
    refused_with(Some(&no_certificate), Some(&key), &[no_certificate.to_str().unwrap()]);
    refused_with(Some(&certificate), Some(&missing), &[missing.to_str().unwrap()]);
    refused_with(
        Some(&certificate),
        Some(&other_key),
        &[certificate.to_str().unwrap(), other_key.to_str().unwrap()],
    );
    refused_with(Some(&certificate), None, &["`tls_certificate` and `tls_key` go together"]);
    refused_with(None, None, &["--ingress-listen-tls needs a certificate"]);
}

#[test]
fn a_signal_ends_it_with_success_and_a_second_one_at_once() {
    let lab = Lab::new();
    let mut stagepost = lab.stagepost().start();
    assert!(stagepost.stop(SOON).success());
    stagepost.start_again();
    // A client in the middle of a message keeps it from ending.
    let mut client = stagepost.login();
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.expect("RCPT TO:<b@d1.test>", 250);
    client.expect("DATA", 354);
    client.send(b"From: a@sender.test\r\n");
    stagepost.begin_to_stop();
    let address = stagepost.submission();
    until("the listener's end", SOON, || Client::try_connect(address).is_err().then_some(()));
    stagepost.begin_to_stop();
    let status = stagepost.ended(Duration::from_secs(15));
    assert_eq!(status.code(), Some(130));
}
