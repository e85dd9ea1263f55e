//! Judges of DKIM signatures, none of them ours: mail-auth, dkimpy and OpenDKIM, asking a test's DNS server for keys.
//!
//! A message passes when it has at least one signature and every one holds.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use mail_auth::hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator};

use crate::address;
use crate::dns::Dns;
use crate::process::run;

/// Passed, or why not.
pub type Verdict = Result<(), String>;

/// Judges many messages with mail-auth.
pub struct MailAuth {
    runtime: tokio::runtime::Runtime,
    authenticator: MessageAuthenticator,
}

impl MailAuth {
    /// A judge that asks `dns`.
    pub fn new(dns: &Dns) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let address = dns.address();
        let mut connection = ConnectionConfig::udp();
        connection.port = address.port();
        let mut tcp = ConnectionConfig::tcp();
        tcp.port = address.port();
        let server = NameServerConfig::new(address.ip(), true, vec![connection, tcp]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let authenticator = runtime
            .block_on(async { MessageAuthenticator::new(config, ResolverOpts::default()) })
            .expect("the resolver's configuration is sound");
        Self { runtime, authenticator }
    }

    /// Judges one message.
    pub fn judge(&self, message: &[u8]) -> Verdict {
        let message = AuthenticatedMessage::parse(message).ok_or("mail-auth can't parse it")?;
        let results = self.runtime.block_on(self.authenticator.verify_dkim(&message));
        if results.is_empty() {
            return Err("there is no signature".into());
        }
        let failed: Vec<String> = results
            .iter()
            .filter(|result| *result.result() != DkimResult::Pass)
            .map(|result| format!("{:?}", result.result()))
            .collect();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }
}

/// Judges one message with mail-auth.
///
/// # Errors
/// Why it doesn't pass.
pub fn mail_auth(dns: &Dns, message: &[u8]) -> Verdict {
    MailAuth::new(dns).judge(message)
}

/// Judges messages with dkimpy, in one process, which asks `dns`. `folder` is for files.
pub fn dkimpy(dns: SocketAddr, messages: &[&[u8]], folder: &Path) -> Vec<Verdict> {
    let names = write_all(messages, folder, "dkimpy");
    let mut command = Command::new(address::cache().join("python/bin/python3"));
    command.arg(address::tests_folder().join("clients/python/dkim_judge.py"));
    command.args([dns.ip().to_string(), dns.port().to_string()]);
    let output = run(command, names.join("\n").as_bytes());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let verdicts: Vec<Verdict> =
        text.lines().map(|line| if line == "pass" { Ok(()) } else { Err(line.to_owned()) }).collect();
    assert_eq!(verdicts.len(), messages.len(), "dkimpy: {text}{}", String::from_utf8_lossy(&output.stderr));
    verdicts
}

/// Judges messages with OpenDKIM's own test mode. `keys` are the TXT records, name and value, that it may see: it takes them
/// from a file, since it asks no DNS server on another port than 53. `folder` is for files.
pub fn opendkim(keys: &[(String, String)], messages: &[&[u8]], folder: &Path) -> Vec<Verdict> {
    let names = write_all(messages, folder, "opendkim");
    let records: String = keys.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
    let (data, config) = (folder.join("opendkim.keys"), folder.join("opendkim.conf"));
    std::fs::write(&data, records).expect("a file can be written");
    // Without an own domain to sign for it verifies all that it sees; every signature is to be looked at.
    std::fs::write(&config, format!("Mode v\nSyslog no\nTestDNSData {}\n", data.display()))
        .expect("a file can be written");
    names.iter().map(|name| opendkim_one(name, &config)).collect()
}

fn opendkim_one(name: &str, config: &Path) -> Verdict {
    let mut command = Command::new("/usr/sbin/opendkim");
    command.arg("-x").arg(config).args(["-vv", "-t", name]);
    let output = run(command, b"");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() && text.contains("verification") && text.contains("succeeded") {
        Ok(())
    } else {
        Err(text)
    }
}

fn write_all(messages: &[&[u8]], folder: &Path, judge: &str) -> Vec<String> {
    let folder = folder.join(format!("judged-by-{judge}"));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let paths = (0..messages.len()).map(|count| folder.join(format!("{count}.eml")));
    let written = paths.zip(messages).map(|(path, message)| {
        std::fs::write(&path, message).expect("a file can be written");
        path.to_str().expect("our paths are text").to_owned()
    });
    written.collect()
}
