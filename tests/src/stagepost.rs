//! The program under test.
//!
//! [`Setup`] collects settings and starts `stagepost run` on them; the running [`Stagepost`] can be asked by its own commands,
//! killed, restarted on the same state and stopped. Unless told otherwise it listens on an address of its own with a
//! certificate for `stagepost.test` and that address, asks the lab's DNS server, may deliver to loopback, retries after a
//! second, and has an account `shop` without limit, with the domain `sender.test` (its DKIM records are published) and the
//! credential [`USER`], [`PASSWORD`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::Value;

use crate::address::{self, MX_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT};
use crate::deadline::{SOON, until};
use crate::lab::Lab;
use crate::process::{Process, run};
use crate::smtp::Client;

/// The user name of the first credential.
pub const USER: &str = "shop-app";
/// Its password.
pub const PASSWORD: &str = "correct horse battery staple";
/// The name in Stagepost's certificate and greeting.
pub const HOST: &str = "stagepost.test";

/// The program: `$STAGEPOST_BIN`, else the release build beside the test's own executable.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("STAGEPOST_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a test knows its executable");
    // target/debug/deps/NAME
    let target = own.ancestors().nth(3).expect("tests are built into a target folder");
    let path = target.join("release/stagepost");
    assert!(
        path.exists(),
        "{} isn't there: use tests/run, or cargo build --release -p stagepost",
        path.display()
    );
    path
}

/// Settings for a Stagepost.
pub struct Setup<'lab> {
    lab: &'lab Lab,
    address: Ipv4Addr,
    state: PathBuf,
    settings: BTreeMap<String, toml::Value>,
    environment: Vec<(String, String)>,
    account: bool,
}

impl<'lab> Setup<'lab> {
    /// The usual settings in this lab.
    pub fn new(lab: &'lab Lab) -> Self {
        let address = address::fresh();
        let state = lab.folder().join(format!("state-{address}"));
        let (certificate, key) = lab
            .authority
            .issue(&[HOST, &address.to_string()])
            .write(lab.folder(), &format!("stagepost-{address}"));
        let setup =
            Self { lab, address, state, settings: BTreeMap::new(), environment: Vec::new(), account: true };
        let text = |path: &Path| path.to_str().expect("our paths are text").to_owned();
        setup
            .set("host_name", HOST)
            .set("tls_certificate", text(&certificate))
            .set("tls_key", text(&key))
            .set("ingress.listen", vec![format!("{address}:{SUBMISSION_PORT}")])
            .set("ingress.listen_tls", vec![format!("{address}:{SUBMISSIONS_PORT}")])
            .set("delivery.port", i64::from(MX_PORT))
            .set("delivery.resolvers", vec![lab.dns.address().to_string()])
            .set("delivery.allowed_networks", vec!["127.0.0.0/8".to_owned()])
            .set("delivery.retry_waits_secs", vec![1_i64])
    }

    /// Sets `key` (`host_name`, `ingress.size_bytes_max`) as the settings file names it.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.settings.insert(key.into(), value.into());
        self
    }

    /// Leaves a setting to its default.
    #[must_use]
    pub fn unset(mut self, key: &str) -> Self {
        self.settings.remove(key);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Keeps the state there.
    #[must_use]
    pub fn state(mut self, folder: &Path) -> Self {
        self.state = folder.into();
        self
    }

    /// Without account, credential and domain.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.account = false;
        self
    }

    fn settings_file(&self) -> String {
        let mut top = toml::Table::new();
        for (key, value) in &self.settings {
            match key.split_once('.') {
                None => top.insert(key.clone(), value.clone()),
                Some((table, key)) => {
                    let table = top.entry(table).or_insert_with(|| toml::Table::new().into());
                    table.as_table_mut().expect("a table").insert(key.into(), value.clone())
                }
            };
        }
        top.insert("state".into(), self.state.to_str().expect("our paths are text").into());
        top.to_string()
    }

    /// Starts it, and makes the account where wanted.
    ///
    /// # Panics
    /// When it doesn't come up: with its log.
    pub fn start(self) -> Stagepost {
        let account = self.account;
        let dns = &self.lab.dns;
        let mut stagepost = self.prepare();
        stagepost.start_again();
        if account {
            stagepost.ask(&["account", "create", "shop", "--plan", "unlimited"]);
            stagepost.credential("shop", USER, PASSWORD);
            stagepost.domain("shop", "sender.test", dns);
        }
        stagepost
    }

    /// Runs it where it isn't to come up: how it ended, and what it said.
    pub fn start_in_vain(self) -> (ExitStatus, String) {
        let stagepost = self.prepare();
        let mut process = stagepost.spawn();
        let status = process.wait(SOON);
        (status, process.log())
    }

    fn prepare(self) -> Stagepost {
        let folder = self.lab.folder();
        let config = folder.join(format!("stagepost-{}.toml", self.address));
        std::fs::write(&config, self.settings_file()).expect("a file can be written");
        Stagepost {
            process: None,
            log: folder.join(format!("stagepost-{}.log", self.address)),
            config,
            state: self.state,
            address: self.address,
            environment: self.environment,
            tls: self.lab.authority.client(),
            authority: folder.join("authority.pem"),
        }
        .with_authority(self.lab.authority.pem())
    }
}

/// A Stagepost, running or between two runs.
pub struct Stagepost {
    process: Option<Process>,
    log: PathBuf,
    config: PathBuf,
    state: PathBuf,
    address: Ipv4Addr,
    environment: Vec<(String, String)>,
    tls: std::sync::Arc<rustls::ClientConfig>,
    authority: PathBuf,
}

impl Stagepost {
    fn with_authority(self, pem: &str) -> Self {
        std::fs::write(&self.authority, pem).expect("a file can be written");
        self
    }

    /// Where it takes mail with STARTTLS.
    pub fn submission(&self) -> SocketAddr {
        (self.address, SUBMISSION_PORT).into()
    }

    /// Where it takes mail with TLS from the first octet.
    pub fn submissions(&self) -> SocketAddr {
        (self.address, SUBMISSIONS_PORT).into()
    }

    /// Its state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// PEM file of the authority that signed its certificate.
    pub fn authority(&self) -> &Path {
        &self.authority
    }

    /// A TLS client that trusts that authority.
    pub fn tls(&self) -> &std::sync::Arc<rustls::ClientConfig> {
        &self.tls
    }

    /// Its process.
    ///
    /// # Panics
    /// Between two runs.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("Stagepost runs")
    }

    /// All that it logged, over all runs.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn spawn(&self) -> Process {
        let mut command = Command::new(program());
        command.arg("run").arg("--config").arg(&self.config);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Process::start("stagepost", command, &self.log)
    }

    /// Starts it on its state, and waits until it greets.
    pub fn start_again(&mut self) {
        self.start_again_within(SOON);
    }

    /// [`Stagepost::start_again`] for a store that takes long to open.
    pub fn start_again_within(&mut self, within: Duration) {
        assert!(self.process.is_none(), "Stagepost runs already");
        let mut process = self.spawn();
        let address = self.submission();
        let greets = || {
            Client::try_connect(address)
                .and_then(|mut client| client.try_reply())
                .is_ok_and(|r| r.code == 220)
        };
        until("Stagepost's greeting", within, || {
            if let Some(status) = process.ended() {
                panic!("stagepost ended before it was ready ({status}):\n{}", process.log());
            }
            greets().then_some(())
        });
        self.process = Some(process);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().expect("Stagepost runs").kill();
    }

    /// SIGTERM, and the end: its exit status.
    pub fn stop(&mut self, within: Duration) -> ExitStatus {
        self.process.take().expect("Stagepost runs").terminate(within)
    }

    /// Sends SIGTERM and doesn't wait.
    pub fn begin_to_stop(&self) {
        self.process().signal(rustix::process::Signal::TERM);
    }

    /// Waits for the end that was begun.
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        self.process.take().expect("Stagepost runs").wait(within)
    }

    /// Runs one of Stagepost's own commands against it and gives the JSON that it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        self.try_ask(arguments).unwrap_or_else(|error| panic!("stagepost {}: {error}", arguments.join(" ")))
    }

    /// [`Stagepost::ask`], or what the command printed as its error.
    pub fn try_ask(&self, arguments: &[&str]) -> Result<Value, String> {
        self.ask_with_input(arguments, b"")
    }

    fn ask_with_input(&self, arguments: &[&str], input: &[u8]) -> Result<Value, String> {
        let mut command = Command::new(program());
        command.args(arguments).args(["--output", "json", "--state"]).arg(&self.state);
        let output = run(command, input);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("prints no JSON ({error}): {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// Makes a credential with a chosen user name and password.
    pub fn credential(&self, account: &str, user: &str, password: &str) {
        let arguments = ["credential", "create", account, "--username", user, "--password-stdin"];
        self.ask_with_input(&arguments, password.as_bytes()).expect("the credential is made");
    }

    /// Registers a sending domain and publishes its DKIM records.
    pub fn domain(&self, account: &str, domain: &str, dns: &crate::dns::Dns) -> Value {
        let made = self.ask(&["domain", "add", domain, "--account", account]);
        let records = made["records"].as_array().cloned().unwrap_or_default();
        let mut published = 0;
        for record in &records {
            let (name, value) =
                (record["name"].as_str().unwrap_or_default(), record["value"].as_str().unwrap_or_default());
            if record["type"] == "TXT" && name.contains("._domainkey.") {
                dns.txt(name, value);
                published += 1;
            }
        }
        assert!(published > 0, "no DKIM record among those to publish: {made:#}");
        made
    }

    /// What is queued: `queue list`, all of it.
    pub fn queue(&self) -> Vec<Value> {
        let listed = self.ask(&["queue", "list", "--limit", "1000000"]);
        listed.as_array().cloned().expect("a list")
    }

    /// How many jobs are queued, in whatever state.
    pub fn queued(&self) -> u64 {
        let summary = self.ask(&["queue", "summary"]);
        ["ready", "leased", "waiting", "held"].iter().filter_map(|state| summary[*state].as_u64()).sum()
    }

    /// Waits until nothing is queued.
    pub fn wait_until_idle(&self, within: Duration) {
        let mut left = 0;
        let end = std::time::Instant::now() + within;
        while std::time::Instant::now() < end {
            left = self.queued();
            if left == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut text = String::new();
        for job in self.queue().iter().take(10) {
            let _ = writeln!(text, "{job}");
        }
        panic!("after {within:?} {left} jobs are still queued, the first being\n{text}");
    }

    /// A client that has said EHLO, STARTTLS, EHLO; not logged in.
    pub fn client(&self) -> Client {
        let mut client = Client::connect(self.submission());
        client.start_tls(&self.tls, HOST);
        client
    }

    /// [`Stagepost::client`] from another address of this machine.
    pub fn client_from(&self, source: Ipv4Addr) -> Client {
        let mut client = Client::connect_from(source, self.submission());
        client.start_tls(&self.tls, HOST);
        client
    }

    /// A client that is logged in as [`USER`].
    pub fn login(&self) -> Client {
        self.login_as(USER, PASSWORD)
    }

    /// A client that is logged in.
    pub fn login_as(&self, user: &str, password: &str) -> Client {
        let mut client = self.client();
        let reply = client.auth_plain(user, password);
        assert_eq!(reply.code, 235, "{reply:?}");
        client
    }
}
