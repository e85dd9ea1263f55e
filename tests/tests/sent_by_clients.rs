//! Clients that people use: each logs in under STARTTLS and under implicit TLS and sends a text with an attachment and with
//! letters beyond ASCII; and where it is refused, what it shows to its user says what to do.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tests::address;
use tests::lab::Lab;
use tests::process::run;
use tests::smtp::base64;
use tests::stagepost::{HOST, PASSWORD, Stagepost, USER};

const SUBJECT: &str = "Grüße aus Köln";
const TEXT: &str = "Liebe Gäste,\n\n.ein Punkt am Anfang\nund ein langer Strich — bis bald!\n";
const FILE: &str = "postkarte.bin";

#[test]
fn swaks_sends_and_shows_what_to_do() {
    exercise(&swaks);
}

#[test]
fn curl_sends_and_shows_what_to_do() {
    exercise(&curl);
}

#[test]
fn msmtp_sends_and_shows_what_to_do() {
    exercise(&msmtp);
}

#[test]
fn smtplib_sends_and_shows_what_to_do() {
    exercise(&|job| script(python("smtplib_send.py"), job));
}

#[test]
fn aiosmtplib_sends_and_shows_what_to_do() {
    exercise(&|job| script(python("aiosmtplib_send.py"), job));
}

#[test]
fn nodemailer_sends_and_shows_what_to_do() {
    let node = || {
        let mut command = Command::new("node");
        command.arg(address::cache().join("node/send.js"));
        command
    };
    exercise(&|job| script(node(), job));
}

#[test]
fn go_net_smtp_sends_and_shows_what_to_do() {
    exercise(&|job| script(Command::new(address::cache().join("go-client")), job));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Security {
    StartTls,
    Implicit,
}

/// A message to send, and how.
struct Job<'a> {
    stagepost: &'a Stagepost,
    folder: &'a Path,
    security: Security,
    password: &'a str,
    from: &'a str,
}

impl Job<'_> {
    fn server(&self) -> std::net::SocketAddr {
        match self.security {
            Security::StartTls => self.stagepost.submission(),
            Security::Implicit => self.stagepost.submissions(),
        }
    }

    /// The attachment's octets: every value, and line ends of all kinds.
    fn attachment() -> Vec<u8> {
        (0..=255).chain(*b"\r\n.\r\n\n\r").collect()
    }

    /// The attachment as a file, for clients that take one.
    fn file(&self) -> String {
        let path = self.folder.join(FILE);
        std::fs::write(&path, Self::attachment()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// Sends with one client in all ways, and lets it be refused in two.
fn exercise(client: &dyn Fn(&Job<'_>) -> Output) {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let good = |security| Job {
        stagepost: &stagepost,
        folder: lab.folder(),
        security,
        password: PASSWORD,
        from: "hello@sender.test",
    };
    for (place, security) in [Security::StartTls, Security::Implicit].into_iter().enumerate() {
        let output = client(&good(security));
        assert!(output.status.success(), "{security:?}: {}", shown(&output));
        let received = &mx.wait_for(place + 1)[place];
        assert_eq!(received.reverse_path(), "hello@sender.test");
        assert_eq!(received.recipients(), ["user@d1.test"]);
        let message = read(&received.octets);
        assert_eq!(message["subject"], SUBJECT);
        let text = message["text"].as_str().unwrap().replace("\r\n", "\n");
        assert_eq!(text.trim_end(), TEXT.trim_end());
        assert_eq!(message["attachments"], json!({ FILE: base64(&Job::attachment()) }));
    }

    let wrong_password = client(&Job { password: "wrong", ..good(Security::StartTls) });
    assert!(!wrong_password.status.success());
    let advice = "user name and password don't fit; check both, or make a new password with `stagepost credential create`";
    assert!(shown(&wrong_password).contains(advice), "{}", shown(&wrong_password));

    let wrong_sender = client(&Job { from: "hello@other.test", ..good(Security::StartTls) });
    assert!(!wrong_sender.status.success());
    let advice = "other.test is not a domain of this account; add it with `stagepost domain add other.test`";
    assert!(shown(&wrong_sender).contains(advice), "{}", shown(&wrong_sender));
    assert_eq!(mx.count(), 2);
}

/// What the client's user sees.
fn shown(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&text).replace("\\'", "'")
}

/// What a mail program makes of a message.
fn read(octets: &[u8]) -> Value {
    let output = run(python("read_message.py"), octets);
    assert!(output.status.success(), "{}\n{}", shown(&output), String::from_utf8_lossy(octets));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn python(script: &str) -> Command {
    let mut command = Command::new(address::cache().join("python/bin/python3"));
    command.arg(address::tests_folder().join("clients/python").join(script));
    command
}

/// A program of tests/clients, which takes the job as JSON and makes the message by its library.
fn script(command: Command, job: &Job<'_>) -> Output {
    let security = match job.security {
        Security::StartTls => "starttls",
        Security::Implicit => "implicit",
    };
    let described = json!({
        "host": job.server().ip().to_string(),
        "port": job.server().port(),
        "security": security,
        "ca": job.stagepost.authority(),
        "user": USER,
        "password": job.password,
        "from": job.from,
        "to": ["user@d1.test"],
        "subject": SUBJECT,
        "text": TEXT,
        "attachment": { "name": FILE, "base64": base64(&Job::attachment()) },
    });
    run(command, described.to_string().as_bytes())
}

/// The subject as header fields carry it (RFC 2047), for clients that leave that to their user.
fn encoded_subject() -> String {
    format!("=?utf-8?B?{}?=", base64(SUBJECT.as_bytes()))
}

fn swaks(job: &Job<'_>) -> Output {
    let mut command = Command::new("swaks");
    command.args(["--server", &job.server().ip().to_string(), "--port", &job.server().port().to_string()]);
    command.arg(if job.security == Security::Implicit { "--tls-on-connect" } else { "--tls" });
    command.arg("--tls-verify").arg("--tls-ca-path").arg(job.stagepost.authority());
    command.args(["--auth-user", USER, "--auth-password", job.password]);
    command.args(["--from", job.from, "--to", "user@d1.test"]);
    command.args(["--header", &format!("Subject: {}", encoded_subject())]);
    command.args(["--attach-type", "text/plain; charset=utf-8", "--attach-body", TEXT]);
    command.args(["--attach-type", "application/octet-stream", "--attach-name", FILE]);
    command.arg("--attach").arg(format!("@{}", job.file()));
    run(command, b"")
}

/// Without --verbose curl says `Login denied` and no more; with it, as its users ask it, it shows the conversation.
fn curl(job: &Job<'_>) -> Output {
    let scheme = if job.security == Security::Implicit { "smtps" } else { "smtp" };
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--verbose", "--ssl-reqd", "--cacert"])
        .arg(job.stagepost.authority());
    command.args(["--url", &format!("{scheme}://{}", job.server())]);
    command.args(["--user", &format!("{USER}:{}", job.password)]);
    command.args(["--mail-from", job.from, "--mail-rcpt", "user@d1.test"]);
    for field in
        [format!("From: {}", job.from), "To: user@d1.test".into(), format!("Subject: {}", encoded_subject())]
    {
        command.args(["--header", &field]);
    }
    command.args([
        "--form",
        &format!("=<{};type=text/plain; charset=utf-8;encoder=quoted-printable", text_file(job)),
    ]);
    command.args(["--form", &format!("=@{};type=application/octet-stream;encoder=base64", job.file())]);
    run(command, b"")
}

fn text_file(job: &Job<'_>) -> String {
    let path = job.folder.join("text");
    std::fs::write(&path, TEXT).unwrap();
    path.to_str().unwrap().to_owned()
}

/// It sends a message that is made elsewhere, here in 8 bits.
fn msmtp(job: &Job<'_>) -> Output {
    let mut command = Command::new("msmtp");
    command.args(["--file=/dev/null", "--tls=on", &format!("--host={}", job.server().ip())]);
    command.arg(format!("--port={}", job.server().port()));
    command.arg(format!("--tls-starttls={}", if job.security == Security::Implicit { "off" } else { "on" }));
    command.arg(format!("--tls-trust-file={}", job.stagepost.authority().display()));
    command.arg(format!("--tls-host-override={HOST}"));
    command.args([
        "--auth=on",
        &format!("--user={USER}"),
        &format!("--passwordeval=echo '{}'", job.password),
    ]);
    command.args([&format!("--from={}", job.from), "user@d1.test"]);
    let message = format!(
        "From: {}\nTo: user@d1.test\nSubject: {}\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"=_1\"\n\n\
         --=_1\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{TEXT}\n\
         --=_1\nContent-Type: application/octet-stream\nContent-Disposition: attachment; filename=\"{FILE}\"\n\
         Content-Transfer-Encoding: base64\n\n{}\n--=_1--\n",
        job.from,
        encoded_subject(),
        base64(&Job::attachment())
    );
    run(command, message.as_bytes())
}
