//! A Stagepost whose accounts, domains and credentials are Kubernetes objects: the program, an API, an operator, and a server
//! of zones whose records tests publish.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;

use crate::address::DNS_PORT;
use crate::judge::{self, Verdict, mail_auth};
use crate::knot::Knot;
use crate::kubernetes::{Cluster, Operator, SETTLED};
use crate::lab::Lab;
use crate::message;
use crate::mx::Mx;
use crate::smtp::Client;
use crate::stagepost::{HOST, Stagepost};

/// The zone that tests send from.
pub const ZONE: &str = "example.test";
/// The name that the sending host says.
const EHLO: &str = "out.servers.test";
/// Where it connects from.
const SENDER: &str = "192.0.2.1";

/// All of it; the operators are started by the test.
pub struct Operated {
    /// The API.
    pub cluster: Cluster,
    /// The servers of [`ZONE`].
    pub knot: Knot,
    /// Takes mail, and keeps accounts.
    pub stagepost: Stagepost,
    /// What the rest stands on.
    pub lab: Lab,
}

impl Operated {
    /// Everything but operators, with a namespace `shop`.
    pub fn start() -> Self {
        Self::start_with(&[(ZONE, "")], &[])
    }

    /// [`Operated::start`] with these zones in place of [`ZONE`], of which others fill those that are `open`.
    pub fn start_with(zones: &[(&str, &str)], open: &[&str]) -> Self {
        let lab = Lab::new();
        let cluster = Cluster::start(&lab);
        // A policy is looked for above the domain too, up to the topmost name.
        let others =
            [("servers.test", ""), ("test", ""), ("2.0.192.in-addr.arpa", "1 PTR out.servers.test.\n")];
        let zones = [zones, others.as_slice()].concat();
        let mut knot = Knot::start_open(&lab.subfolder("knot"), &zones, open);
        let address = knot.address();
        let servers = format!("ns1 A {address}\nns2 A {address}\nout A {SENDER}\nmx A 192.0.2.9\n");
        knot.serve("servers.test", &servers);
        let stagepost = lab.stagepost().bare().start();
        cluster.kubectl(&["create", "namespace", "shop"]);
        Self { cluster, knot, stagepost, lab }
    }

    /// What operators have to be told.
    pub fn arguments(&self) -> Vec<String> {
        let state = self.stagepost.state();
        let dns = SocketAddr::from((self.knot.address(), DNS_PORT));
        [
            format!("--accounts-server=unix:{}", state.join("stagepost.sock").display()),
            format!("--grpc-token-file={}", state.join("token").display()),
            format!("--operator-resolvers={dns}"),
            format!("--operator-dns-port={DNS_PORT}"),
            format!("--operator-senders={SENDER}={EHLO}"),
            "--operator-check-secs=3".into(),
            "--operator-check-quick-secs=1".into(),
            "--operator-retire-secs=3".into(),
            "--operator-doubt-secs=2".into(),
        ]
        .into()
    }

    /// An operator with the usual arguments.
    pub fn operator(&self, name: &str) -> Operator {
        self.cluster.operator(name, &self.arguments())
    }

    /// Publishes exactly what the status of a domain says is needed, but for what `but` names (a part of the purpose), at the
    /// zone's servers; DKIM keys also where Stagepost's judges ask.
    pub fn publish(&mut self, domain: &Value, but: Option<&str>) {
        for record in records(domain) {
            let name = word(record, "name");
            if name.contains("._domainkey.") {
                self.lab.dns.txt(name, word(record, "value"));
            }
        }
        self.knot.serve(ZONE, &zone_lines(domain, but));
    }

    /// A SendingDomain `example` of [`ZONE`] in namespace `shop`, with its Account.
    pub fn apply_domain(&self) {
        self.cluster.apply(&format!(
            "apiVersion: stagepost.dev/v1alpha1\nkind: Account\nmetadata: {{name: shop, namespace: shop}}\n\
             spec: {{plan: unlimited}}\n---\n\
             apiVersion: stagepost.dev/v1alpha1\nkind: SendingDomain\nmetadata: {{name: example, namespace: shop}}\n\
             spec: {{domain: {ZONE}, account: shop}}\n"
        ));
    }

    /// An SmtpCredential `app` in namespace `shop`.
    pub fn apply_credential(&self) {
        self.cluster.apply(
            "apiVersion: stagepost.dev/v1alpha1\nkind: SmtpCredential\n\
             metadata: {name: app, namespace: shop}\nspec: {account: shop}\n",
        );
    }

    /// Sends the mail of this number to `mx` with what the Secret of the credential says; the selectors of its signatures, each
    /// verified.
    pub fn send(&self, mx: &Mx, number: usize) -> Vec<String> {
        let login = self.secret("shop", "app").expect("there is a Secret");
        let mut client = self.stagepost.login_as(&login["username"], &login["password"]);
        let from = format!("hello@{ZONE}");
        let octets = message::text(&from, "user@d1.test", &format!("Mail {number}"), "Hello.");
        client.submit(&from, &["user@d1.test"], &octets);
        let received = &mx.wait_for(number)[number - 1];
        assert!(mail_auth(&self.lab.dns, &received.octets).is_ok(), "{}", received.text());
        let text = received.text();
        let fields = text.split("DKIM-Signature:").skip(1);
        let selectors = fields.filter_map(|field| field.split("s=").nth(1)?.split(';').next());
        selectors.map(|selector| selector.trim().to_owned()).collect()
    }

    /// An application with what the Secret of the credential says.
    pub fn application(&self) -> Application {
        let login = self.secret("shop", "app").expect("there is a Secret");
        let (address, tls) = (self.stagepost.submission(), Arc::clone(self.stagepost.tls()));
        Application { address, tls, login: (login["username"].clone(), login["password"].clone()) }
    }

    /// As many messages came, each with the signatures of two keys, which hold.
    pub fn all_signed(&self, mx: &Mx, count: usize) {
        for received in mx.wait_for_within(count, SETTLED) {
            let text = received.text();
            assert_eq!(text.matches("DKIM-Signature:").count(), 2, "{text}");
            assert!(mail_auth(&self.lab.dns, &received.octets).is_ok(), "{text}");
        }
    }

    /// What dkimpy says of a message, by the keys that the server of the zones has.
    pub fn judged_by_zones(&self, octets: &[u8]) -> Verdict {
        let server = SocketAddr::from((self.knot.address(), DNS_PORT));
        judge::dkimpy(server, &[octets], &self.lab.subfolder("dkimpy")).remove(0)
    }

    /// The domain's object, once DNS has been asked for all its keys.
    pub fn checked_domain(&self, keys: usize) -> Value {
        let what = format!("records of {keys} keys are told");
        self.cluster.wait(("shop", "sendingdomain", "example"), &what, |object| {
            let records = object["status"]["records"].as_array()?;
            let of_keys = records.iter().filter(|record| record["condition"] == "DKIMPublished");
            (of_keys.count() == keys).then(|| object.clone())
        })
    }

    /// Runs `stagepost` with these arguments against the running one, and gives what it prints as JSON.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        self.stagepost.ask(arguments)
    }

    /// A Secret's entries, decoded.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<std::collections::BTreeMap<String, String>> {
        let secret = self.cluster.object(namespace, "secret", name)?;
        let data = secret["data"].as_object()?;
        let decode = |value: &Value| {
            let mut command = Command::new("base64");
            command.arg("--decode");
            let output = crate::process::run(command, value.as_str().unwrap_or_default().as_bytes());
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        Some(data.iter().map(|(name, value)| (name.clone(), decode(value))).collect())
    }
}

/// Sends mail from [`ZONE`] to `user@d1.test`, whatever a test does meanwhile.
pub struct Application {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    login: (String, String),
}

impl Application {
    /// Sends a message now and then while `during` runs; how many.
    ///
    /// # Panics
    /// When one isn't taken.
    pub fn send_while(&self, during: impl FnOnce()) -> usize {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| self.send_until(&over));
            let end = End(&over);
            during();
            drop(end);
            sending.join().expect("all messages are taken")
        })
    }

    fn send_until(&self, over: &AtomicBool) -> usize {
        let from = format!("hello@{ZONE}");
        let mut number = 0;
        while !over.load(Ordering::Relaxed) {
            number += 1;
            let octets = message::text(&from, "user@d1.test", &format!("Mail {number}"), "Hello.");
            self.log_in().submit(&from, &["user@d1.test"], &octets);
            std::thread::sleep(Duration::from_millis(250));
        }
        number
    }

    /// The code of what is said to a message from [`ZONE`] that begins.
    pub fn is_told(&self) -> u16 {
        self.log_in().command(&format!("MAIL FROM:<hello@{ZONE}>")).code
    }

    fn log_in(&self) -> Client {
        let mut client = Client::connect(self.address);
        client.start_tls(&self.tls, HOST);
        assert_eq!(client.auth_plain(&self.login.0, &self.login.1).code, 235);
        client
    }
}

/// Sets it when dropped: also when what it is the end of panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn records(domain: &Value) -> &[Value] {
    domain["status"]["records"].as_array().expect("the status has records")
}

fn word<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap_or_default()
}

/// The records of [`ZONE`] that the status of a domain says are needed, but for those that `but` names (a part of the
/// purpose), as lines of a zone file.
///
/// # Panics
/// When one is of a kind that isn't published here.
pub fn zone_lines(domain: &Value, but: Option<&str>) -> String {
    let mut lines = String::new();
    for record in records(domain) {
        let (name, value) = (word(record, "name"), word(record, "value"));
        let ours = name == ZONE || name.ends_with(&format!(".{ZONE}"));
        let informs = ["EgressReady", "MTASTSReady", "TLSRPTReady"].contains(&word(record, "condition"));
        if !ours || informs || but.is_some_and(|but| word(record, "purpose").contains(but)) {
            continue;
        }
        match word(record, "type") {
            "TXT" => lines.push_str(&format!("{name}. TXT {}\n", quoted(value))),
            // Any host will do; the status can't know which.
            "MX" => lines.push_str(&format!("{name}. MX 10 mx.servers.test.\n")),
            other => panic!("{other} records aren't published here"),
        }
    }
    lines
}

/// The selectors of a domain's keys that are in this state.
pub fn selectors(object: &Value, state: &str) -> Vec<String> {
    let keys = object["status"]["keys"].as_array().cloned().unwrap_or_default();
    let of_state = keys.iter().filter(|key| key["state"] == state);
    of_state.filter_map(|key| Some(key["selector"].as_str()?.to_owned())).collect()
}

/// A TXT value as a zone file has it.
fn quoted(value: &str) -> String {
    let octets = value.as_bytes();
    let strings = octets.chunks(255).map(|chunk| format!("\"{}\"", String::from_utf8_lossy(chunk)));
    strings.collect::<Vec<_>>().join(" ")
}
