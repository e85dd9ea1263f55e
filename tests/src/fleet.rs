//! Stagepost as processes of their own, which meet in NATS and Redis: ingresses, accounts and deliveries, so many of each.
//!
//! All have the same settings, but for what a test changes. Each process has an address of its own; it asks the accounts replica
//! whose place its own is modulo their number. Commands ask the first accounts or delivery that runs.

mod settings;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use self::settings::Settings;
use crate::address::{self, SUBMISSION_PORT, SUBMISSIONS_PORT};
use crate::deadline::{SOON, until, until_true};
use crate::fault::SmallDisk;
use crate::http;
use crate::lab::Lab;
use crate::nats::Nats;
use crate::process::{Process, run};
use crate::redis::{Kind, Memory, RedisServer};
use crate::smtp::Client;
use crate::stagepost::{HOST, PASSWORD, USER, program};

/// Where a process shows its health.
pub const ADMIN_PORT: u16 = 8080;
/// Where services are called.
pub const GRPC_PORT: u16 = 8081;

/// A kind of process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes mail.
    Ingress,
    /// Knows who may send.
    Accounts,
    /// Delivers.
    Delivery,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Accounts => "accounts",
            Self::Delivery => "delivery",
        }
    }
}

/// Settings for a fleet.
pub struct FleetSetup<'lab> {
    lab: &'lab Lab,
    counts: BTreeMap<Role, usize>,
    nats: usize,
    disk: Option<u64>,
    settings: Settings,
}

impl<'lab> FleetSetup<'lab> {
    /// One process of each, one NATS server, Redis.
    pub fn new(lab: &'lab Lab) -> Self {
        let counts = [Role::Ingress, Role::Accounts, Role::Delivery].map(|role| (role, 1)).into();
        Self { lab, counts, nats: 1, disk: None, settings: Settings::new() }
    }

    /// So many processes of a role.
    #[must_use]
    pub fn with(mut self, role: Role, count: usize) -> Self {
        self.counts.insert(role, count);
        self
    }

    /// Three NATS servers that replicate, instead of one.
    #[must_use]
    pub fn replicated(mut self) -> Self {
        self.nats = 3;
        self
    }

    /// The NATS server's disk has so many octets.
    #[must_use]
    pub fn on_small_disk(mut self, octets: u64) -> Self {
        self.disk = Some(octets);
        self
    }

    /// Sets `key` as the settings file names it.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.settings.insert(key.into(), value.into());
        self
    }

    /// Starts all of it, with the account `shop`, its domain `sender.test` and the credential [`USER`].
    ///
    /// # Panics
    /// When something doesn't come up: with its log.
    pub fn start(self) -> Fleet {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = self.lab.subfolder("fleet");
        let (nats, disk) = match (self.nats, self.disk) {
            (_, Some(octets)) => {
                let (nats, disk) = Nats::on_small_disk(&folder, octets);
                (nats, Some(disk))
            }
            (1, None) => (Nats::single(&folder), None),
            (_, None) => (Nats::cluster(&folder), None),
        };
        let redis_folder = self.lab.subfolder("fleet/redis");
        let redis = RedisServer::start(&redis_folder, Kind::Redis, Memory::KeptEachSecond);
        let mut members = Vec::new();
        for (role, count) in &self.counts {
            members.extend((0..*count).map(|place| Member {
                role: *role,
                place,
                address: address::fresh(),
                log: folder.join(format!("{}-{place}.log", role.name())),
                config: folder.join(format!("{}-{place}.toml", role.name())),
                process: None,
            }));
        }
        let token = folder.join("token");
        std::fs::write(&token, "a-token-that-all-services-share").expect("a file can be written");
        let authority = folder.join("authority.pem");
        std::fs::write(&authority, self.lab.authority.pem()).expect("a file can be written");
        let mut settings = settings::usual(self.lab, &folder, &nats, &redis);
        settings.extend(self.settings);
        let tls = self.lab.authority.client();
        let mut fleet = Fleet { nats, disk, redis, members, settings, token, tls, _alone: alone };
        for (role, count) in &self.counts {
            (0..*count).for_each(|place| fleet.set(*role, place, &[]));
        }
        fleet.start_all(Role::Accounts);
        fleet.ask(&["account", "create", "shop", "--plan", "unlimited"]);
        fleet.credential("shop", USER, PASSWORD);
        fleet.domain("shop", "sender.test", self.lab);
        fleet.start_all(Role::Delivery);
        fleet.start_all(Role::Ingress);
        fleet
    }
}

struct Member {
    role: Role,
    place: usize,
    address: Ipv4Addr,
    log: PathBuf,
    config: PathBuf,
    process: Option<Process>,
}

/// One at a time: a fleet is a dozen processes.
static ALONE: Mutex<()> = Mutex::new(());

/// A running fleet.
pub struct Fleet {
    /// Its NATS.
    pub nats: Nats,
    /// NATS's disk, when it is a small one.
    pub disk: Option<SmallDisk>,
    /// Its Redis.
    pub redis: RedisServer,
    members: Vec<Member>,
    settings: Settings,
    token: PathBuf,
    tls: std::sync::Arc<rustls::ClientConfig>,
    _alone: MutexGuard<'static, ()>,
}

impl Fleet {
    fn member(&self, role: Role, place: usize) -> &Member {
        let found = self.members.iter().find(|member| (member.role, member.place) == (role, place));
        found.unwrap_or_else(|| panic!("there is no {} {place}", role.name()))
    }

    fn member_mut(&mut self, role: Role, place: usize) -> &mut Member {
        let found = self.members.iter_mut().find(|member| (member.role, member.place) == (role, place));
        found.unwrap_or_else(|| panic!("there is no {} {place}", role.name()))
    }

    /// How many processes a role has, running or not.
    pub fn count(&self, role: Role) -> usize {
        self.members.iter().filter(|member| member.role == role).count()
    }

    /// Where an ingress takes mail.
    pub fn submission(&self, place: usize) -> SocketAddr {
        (self.member(Role::Ingress, place).address, SUBMISSION_PORT).into()
    }

    /// A TLS client that trusts the ingresses' certificate.
    pub fn tls(&self) -> &std::sync::Arc<rustls::ClientConfig> {
        &self.tls
    }

    /// A process that runs.
    pub fn process(&self, role: Role, place: usize) -> &Process {
        self.member(role, place).process.as_ref().expect("it runs")
    }

    /// All that a process logged, over all its runs.
    pub fn log(&self, role: Role, place: usize) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.member(role, place).log).unwrap_or_default())
            .into_owned()
    }

    /// What a process is set to when it is started next: as the fleet, but for these.
    pub fn set(&self, role: Role, place: usize, changes: &[(&str, toml::Value)]) {
        let mut settings = self.settings.clone();
        settings.extend(changes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let config = &self.member(role, place).config;
        std::fs::write(config, settings::file(&settings)).expect("a file can be written");
    }

    /// Starts a process of which none runs; doesn't wait for it.
    pub fn start(&mut self, role: Role, place: usize) {
        let accounts = self.member(Role::Accounts, place % self.count(Role::Accounts)).address;
        let member = self.member_mut(role, place);
        assert!(member.process.is_none(), "it runs already");
        let address = member.address;
        let mut command = Command::new(program());
        command.arg(role.name()).arg("--config").arg(&member.config);
        command.args(["--admin-listen", &format!("{address}:{ADMIN_PORT}")]);
        match role {
            Role::Ingress => {
                command.args(["--ingress-listen", &format!("{address}:{SUBMISSION_PORT}")]);
                command.args(["--ingress-listen-tls", &format!("{address}:{SUBMISSIONS_PORT}")]);
            }
            Role::Accounts | Role::Delivery => {
                command.args(["--grpc-listen", &format!("{address}:{GRPC_PORT}")]);
            }
        }
        if role != Role::Accounts {
            command.args(["--accounts-server", &format!("http://{accounts}:{GRPC_PORT}")]);
        }
        member.process = Some(Process::start(role.name(), command, &member.log));
    }

    fn start_all(&mut self, role: Role) {
        for place in 0..self.count(role) {
            self.start(role, place);
        }
        for place in 0..self.count(role) {
            self.wait_ready(role, place);
        }
    }

    /// Waits until a process says that it is ready.
    ///
    /// # Panics
    /// When it ends, or isn't ready in time: with its log.
    pub fn wait_ready(&mut self, role: Role, place: usize) {
        let member = self.member_mut(role, place);
        let at = SocketAddr::from((member.address, ADMIN_PORT));
        let process = member.process.as_mut().expect("it runs");
        let end = Instant::now() + 2 * SOON;
        while http::try_ask("GET", at, "/readyz").map_or(true, |answer| answer.status != 200) {
            if let Some(status) = process.ended() {
                panic!("{} {place} ended before it was ready ({status}):\n{}", role.name(), process.log());
            }
            assert!(Instant::now() < end, "{} {place} isn't ready:\n{}", role.name(), process.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts whatever doesn't run, and waits until all is ready.
    pub fn heal(&mut self) {
        self.nats.restart();
        self.nats.wait_ready();
        let dead: Vec<_> = self
            .members
            .iter()
            .filter(|member| member.process.is_none())
            .map(|member| (member.role, member.place))
            .collect();
        for (role, place) in &dead {
            self.start(*role, *place);
        }
        for (role, place) in self.members.iter().map(|member| (member.role, member.place)).collect::<Vec<_>>()
        {
            self.wait_ready(role, place);
        }
    }

    /// kill -9.
    pub fn kill(&mut self, role: Role, place: usize) {
        if let Some(mut process) = self.member_mut(role, place).process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and the end.
    pub fn stop(&mut self, role: Role, place: usize, within: Duration) -> ExitStatus {
        self.member_mut(role, place).process.take().expect("it runs").terminate(within)
    }

    /// Waits for the end of a process that was told to end.
    pub fn ended(&mut self, role: Role, place: usize, within: Duration) -> ExitStatus {
        self.member_mut(role, place).process.take().expect("it runs").wait(within)
    }

    /// Sends a signal.
    pub fn signal(&self, role: Role, place: usize, signal: Signal) {
        self.process(role, place).signal(signal);
    }

    /// What a process answers on its HTTP port.
    pub fn admin(&self, role: Role, place: usize, path: &str) -> Option<http::Answer> {
        http::try_ask("GET", (self.member(role, place).address, ADMIN_PORT).into(), path).ok()
    }

    /// Runs a command against the service that it is for, and gives the JSON that it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        self.try_ask(arguments).unwrap_or_else(|error| panic!("stagepost {}: {error}", arguments.join(" ")))
    }

    /// [`Fleet::ask`], or what the command printed as its error.
    pub fn try_ask(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = run(self.command(arguments), b"");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("prints no JSON ({error}): {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// One of Stagepost's commands, towards the service that it is for.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let role = match arguments[0] {
            "account" | "credential" | "domain" => Role::Accounts,
            _ => Role::Delivery,
        };
        let running = |member: &&Member| member.role == role && member.process.is_some();
        let server = self.members.iter().find(running).expect("a service runs").address;
        let mut command = Command::new(program());
        command.args(arguments).args([
            "--output",
            "json",
            "--server",
            &format!("http://{server}:{GRPC_PORT}"),
        ]);
        command.arg("--token-file").arg(&self.token);
        command
    }

    /// Makes a credential with a chosen user name and password.
    pub fn credential(&self, account: &str, user: &str, password: &str) {
        let arguments = ["credential", "create", account, "--username", user, "--password-stdin"];
        let output = run(self.command(&arguments), password.as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Registers a sending domain and publishes its DKIM records.
    pub fn domain(&self, account: &str, domain: &str, lab: &Lab) {
        let made = self.ask(&["domain", "add", domain, "--account", account]);
        for record in made["records"].as_array().cloned().unwrap_or_default() {
            let name = record["name"].as_str().unwrap_or_default();
            if name.contains("._domainkey.") {
                lab.dns.txt(name, record["value"].as_str().unwrap_or_default());
            }
        }
    }

    /// What is queued.
    pub fn queue(&self) -> Vec<Value> {
        let listed = self.ask(&["queue", "list", "--limit", "1000000"]);
        listed.as_array().cloned().expect("a list")
    }

    /// Waits until nothing is queued.
    pub fn wait_until_idle(&self, within: Duration) {
        let idle = || {
            let summary = self.try_ask(&["queue", "summary"]).ok()?;
            let jobs =
                ["ready", "leased", "waiting", "held"].map(|state| summary[state].as_u64().unwrap_or(1));
            (jobs.iter().sum::<u64>() == 0).then_some(())
        };
        until("nothing is queued", within, idle);
    }

    /// The events of all messages until now, each once, in the order in which they are read.
    pub fn events(&self) -> Vec<Value> {
        let output = run(self.command(&["events", "--since", "24h", "--no-follow", "--json"]), b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// A client of an ingress, logged in as [`USER`]. A password takes its time to be compared the first time, so that on a busy
    /// machine the first logins may be put off.
    pub fn login(&self, place: usize) -> Client {
        until("a login", 2 * SOON, || {
            let mut client = Client::connect(self.submission(place));
            client.start_tls(&self.tls, HOST);
            let reply = client.auth_plain(USER, PASSWORD);
            assert!([235, 454].contains(&reply.code), "{reply:?}");
            (reply.code == 235).then_some(client)
        })
    }

    /// Waits until an ingress says in its HTTP answers that it is ready, or not.
    pub fn wait_readiness(&self, role: Role, place: usize, code: u16, within: Duration) {
        until_true(&format!("/readyz answers {code}"), within, || {
            self.admin(role, place, "/readyz").is_some_and(|answer| answer.status == code)
        });
    }
}
