//! `stagepost dev`, as somebody meets it who has just built it: nothing else is installed or set up.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::address::{self, MX_PORT, SUBMISSION_PORT};
use tests::deadline::{SOON, until, until_true};
use tests::lab::Lab;
use tests::process::{Process, run};
use tests::smtp::Client;
use tests::stagepost::program;
use tests::{judge, message};

/// `stagepost dev` in a folder of its own.
struct Dev {
    process: Process,
    folder: PathBuf,
    address: std::net::SocketAddr,
}

impl Dev {
    /// Starts it on a fresh address.
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let address = (address::fresh(), SUBMISSION_PORT).into();
        let listen = format!("--ingress-listen={address}");
        Self::start_on(folder, address, &[&[listen.as_str()], arguments].concat())
    }

    fn start_on(folder: &Path, address: std::net::SocketAddr, arguments: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.arg("dev").args(arguments).current_dir(folder);
        let log = folder.join(format!("{}.log", address::fresh()));
        let mut process = Process::start("stagepost dev", command, &log);
        let greets = || Client::try_connect(address).and_then(|mut client| client.try_reply());
        process.wait_ready(|| greets().is_ok_and(|reply| reply.code == 220));
        Self { process, folder: folder.into(), address }
    }

    /// A command of Stagepost, in the same folder and without telling it where Stagepost is.
    fn ask(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(program());
        command.args(arguments).args(["-o", "json"]).current_dir(&self.folder);
        let output = run(command, b"");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A client that has logged in without TLS.
    fn login(&self) -> Client {
        let mut client = Client::connect(self.address);
        assert_eq!(client.reply().code, 220);
        client.expect("EHLO client.test", 250);
        assert_eq!(client.auth_plain("demo", "demo").code, 235);
        client
    }

    /// The messages in the sandbox.
    fn sandbox(&self) -> Vec<Vec<u8>> {
        let files =
            std::fs::read_dir(self.folder.join(".stagepost/sandbox/new")).into_iter().flatten().flatten();
        files.map(|file| message::with_crlf(&std::fs::read(file.path()).unwrap())).collect()
    }

    fn wait_for(&self, count: usize) -> Vec<Vec<u8>> {
        until("messages in the sandbox", SOON, || Some(self.sandbox()).filter(|all| all.len() >= count))
    }

    /// What it said after its welcome, a line each.
    fn lines(&self) -> Vec<String> {
        let log = self.process.log();
        let (_, after) = log.split_once("--upload-file -\n\n").unwrap();
        after.lines().map(str::to_owned).collect()
    }
}

/// The command that the welcome shows, to be pasted.
fn pasted(log: &str) -> String {
    let from = log.find("printf ").unwrap();
    let command = &log[from..];
    command[..command.find("\n\n").unwrap()].to_owned()
}

fn shell(folder: &Path, text: &str) -> std::process::Output {
    let mut command = Command::new("sh");
    command.args(["-c", text]).current_dir(folder);
    run(command, b"")
}

/// Publishes the DKIM records that Stagepost says are to be published.
fn publish(lab: &Lab, domain: &Value) {
    for record in domain["records"].as_array().unwrap() {
        if record["type"] == "TXT" {
            lab.dns.txt(record["name"].as_str().unwrap(), record["value"].as_str().unwrap());
        }
    }
}

#[test]
fn the_pasted_command_puts_a_signed_message_into_the_sandbox() {
    let lab = Lab::new();
    // Without any flag: this test alone uses the default address.
    let dev = Dev::start_on(lab.folder(), "127.0.0.1:2525".parse().unwrap(), &[]);
    let welcome = dev.process.log();
    assert!(
        welcome.contains("127.0.0.1:2525") && welcome.contains("account demo, password demo"),
        "{welcome}"
    );
    let output = shell(lab.folder(), &pasted(&welcome));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));

    let received = dev.wait_for(1).remove(0);
    assert_eq!(message::values(&received, "Subject"), ["First mail"]);
    assert_eq!(message::body(&received), b"Hello.\r\n");
    assert_eq!(message::values(&received, "Return-Path"), ["<hello@example.com>"]);
    assert_eq!(message::values(&received, "Delivered-To"), ["you@example.org"]);
    assert_eq!(message::values(&received, "DKIM-Signature").len(), 2);
    publish(&lab, &dev.ask(&["domain", "show", "example.com"]));
    assert_eq!(judge::mail_auth(&lab.dns, &received), Ok(()));
}

#[test]
fn the_readme_shows_the_command_that_the_welcome_shows() {
    let lab = Lab::new();
    let dev = Dev::start(lab.folder(), &[]);
    let readme =
        std::fs::read_to_string(address::tests_folder().parent().unwrap().join("README.md")).unwrap();
    let words =
        |text: &str| text.split_whitespace().filter(|word| *word != "\\").collect::<Vec<_>>().join(" ");
    let command = pasted(&dev.process.log()).replace(&dev.address.to_string(), "127.0.0.1:2525");
    assert!(words(&readme).contains(&words(&command)), "{command}");
}

#[test]
fn one_line_says_what_became_of_each_message() {
    let lab = Lab::new();
    let dev = Dev::start(lab.folder(), &[]);
    let mut client = dev.login();
    let messages = ["you@example.org", "bounce@simulator.stagepost.test", "success@simulator.stagepost.test"];
    for (place, to) in messages.iter().enumerate() {
        let octets = message::text("hello@example.com", to, &format!("mail {place}"), "Hello.");
        client.submit("hello@example.com", &[to], &octets).queue_id();
    }
    let about = |to: &str| dev.lines().into_iter().filter(|line| line.contains(to)).collect::<Vec<_>>();
    until_true("a line about each", SOON, || {
        messages.iter().all(|to| !about(&format!("-> {to}: ")).is_empty())
    });
    // The report of the bounced one goes to the sender, in the sandbox.
    until_true("a line about the report", SOON, || !about("-> hello@example.com: ").is_empty());
    for (to, outcome) in messages.into_iter().zip(["delivered", "bounced", "delivered"]) {
        let about = about(&format!("-> {to}: "));
        assert!(about.len() == 1 && about[0].contains(outcome), "{about:?}");
    }
    assert_eq!(dev.lines().len(), 4, "{:?}", dev.lines());
}

#[test]
fn a_restart_keeps_keys_credentials_and_what_is_queued() {
    let lab = Lab::new();
    let mut dev = Dev::start(lab.folder(), &[]);
    let keys = dev.ask(&["domain", "show", "example.com"])["keys"].clone();
    assert_eq!(keys.as_array().map(Vec::len), Some(2));
    let made = dev.ask(&["credential", "create", "demo"]);
    let to = "defer@simulator.stagepost.test";
    let octets = message::text("hello@example.com", to, "waits", "Hello.");
    let queue_id = dev.login().submit("hello@example.com", &[to], &octets).queue_id();
    let waits = |dev: &Dev| {
        let queue = dev.ask(&["queue", "list", "--status", "waiting"]);
        queue.as_array().unwrap().iter().any(|job| job["job"].as_str().unwrap().starts_with(&queue_id))
    };
    until_true("the first attempt", SOON, || waits(&dev));
    assert!(dev.process.terminate(SOON).success());

    let again = Dev::start(lab.folder(), &[]);
    assert_eq!(again.ask(&["domain", "show", "example.com"])["keys"], keys);
    assert!(waits(&again));
    let mut client = Client::connect(again.address);
    assert_eq!(client.reply().code, 220);
    client.expect("EHLO client.test", 250);
    assert_eq!(client.auth_plain("apikey", made["secret"].as_str().unwrap()).code, 235);
    let octets = message::text("hello@example.com", "you@example.org", "after the restart", "Hello.");
    client.submit("hello@example.com", &["you@example.org"], &octets).queue_id();
    assert_eq!(message::values(&again.wait_for(1)[0], "Subject"), ["after the restart"]);
}

#[test]
fn the_state_may_be_kept_elsewhere() {
    let lab = Lab::new();
    let state = lab.folder().join("elsewhere");
    let dev = Dev::start(lab.folder(), &["--state", state.to_str().unwrap()]);
    let octets = message::text("hello@example.com", "you@example.org", "elsewhere", "Hello.");
    dev.login().submit("hello@example.com", &["you@example.org"], &octets).queue_id();
    let new = state.join("sandbox/new");
    until_true("a message in the sandbox", SOON, || {
        std::fs::read_dir(&new).is_ok_and(|files| files.count() == 1)
    });
    assert!(!lab.folder().join(".stagepost").exists());
}

#[test]
fn it_listens_on_loopback_only() {
    let lab = Lab::new();
    for listen in ["0.0.0.0:2525", "[::]:2525", "192.0.2.1:2525", "127.0.0.1:2526,0.0.0.0:2527"] {
        let mut command = Command::new(program());
        command.args(["dev", "--ingress-listen", listen]).current_dir(lab.folder());
        let mut process = Process::start("stagepost dev", command, &lab.folder().join("refused.log"));
        let status = process.wait(SOON);
        assert_eq!(status.code(), Some(2), "{listen}: {}", process.log());
        assert!(process.log().contains("listens on loopback only"), "{listen}: {}", process.log());
        assert!(!lab.folder().join(".stagepost").exists());
    }
    let dev = Dev::start(lab.folder(), &[]);
    let listening = listening(&dev.process);
    assert_eq!(listening, [dev.address.to_string()], "nothing else may be open");
}

/// The TCP addresses that a process listens on.
fn listening(process: &Process) -> Vec<String> {
    let proc = PathBuf::from(format!("/proc/{}", process.id()));
    let links = std::fs::read_dir(proc.join("fd"))
        .unwrap()
        .flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let sockets: BTreeSet<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let mut found = Vec::new();
    for table in ["net/tcp", "net/tcp6"] {
        for line in std::fs::read_to_string(proc.join(table)).unwrap_or_default().lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            // State 0A is LISTEN; the tenth column is the socket's inode (proc_net_tcp(5)).
            if columns[3] == "0A" && sockets.contains(&format!("socket:[{}]", columns[9])) {
                found.push(readable(columns[1]));
            }
        }
    }
    found
}

/// `0100007F:09DD` is 127.0.0.1:2525; an IPv6 address stays as it is.
fn readable(hex: &str) -> String {
    let (address, port) = hex.split_once(':').unwrap();
    let port = u16::from_str_radix(port, 16).unwrap();
    match u32::from_str_radix(address, 16) {
        Ok(address) => format!("{}:{port}", std::net::Ipv4Addr::from(address.to_ne_bytes())),
        Err(_) => format!("[{address}]:{port}"),
    }
}

#[test]
fn deliver_mx_sends_for_real() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let resolver = lab.dns.address().to_string();
    let dev = Dev::start(
        lab.folder(),
        &[
            "--deliver=mx",
            "--delivery-resolvers",
            &resolver,
            "--delivery-port",
            &MX_PORT.to_string(),
            "--delivery-allowed-networks=127.0.0.0/8",
        ],
    );
    publish(&lab, &dev.ask(&["domain", "show", "example.com"]));
    let octets = message::text("hello@example.com", "user@d1.test", "for real", "Hello.");
    dev.login().submit("hello@example.com", &["user@d1.test"], &octets).queue_id();
    let received = &mx.wait_for(1)[0];
    assert_eq!(received.recipients(), ["user@d1.test"]);
    assert_eq!(judge::mail_auth(&lab.dns, &received.octets), Ok(()));
    assert!(dev.sandbox().is_empty());
}
