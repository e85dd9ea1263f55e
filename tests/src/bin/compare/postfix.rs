//! Postfix, with OpenDKIM where it shall sign.

use std::path::Path;
use std::process::Command;

use tests::address::cache;

use crate::group::Group;
use crate::measure::Signing;
use crate::peer::PORT;

/// Starts it.
pub(crate) fn postfix(folder: &Path, signing: Signing) -> Group {
    for part in ["etc", "queue", "data"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
    }
    run("chown", &["postfix", folder.join("data").to_str().unwrap()]);
    let mut main = main_cf(&folder.display().to_string());
    let mut before = String::new();
    if signing == Signing::Rsa {
        let conf = opendkim(folder);
        main += "smtpd_milters = inet:127.0.0.1:8891\n";
        before = format!(
            "opendkim -f -x {conf} & until (: < /dev/tcp/127.0.0.1/8891) 2> /dev/null; do sleep 0.05; done; "
        );
    }
    std::fs::write(folder.join("etc/main.cf"), main).unwrap();
    std::fs::write(folder.join("etc/master.cf"), format!("127.0.0.1:{PORT}{MASTER}")).unwrap();
    let script = format!("{before}exec postfix -c {}/etc start-fg", folder.display());
    Group::start("postfix", &script, &folder.join("log"))
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Writes OpenDKIM's configuration; its key is made once.
fn opendkim(folder: &Path) -> String {
    let made = cache().join("bench-dkim.pem");
    if !made.exists() {
        run("openssl", &["genrsa", "-traditional", "-out", made.to_str().unwrap(), "2048"]);
    }
    let key = folder.join("dkim.pem");
    std::fs::copy(&made, &key).unwrap();
    run("chown", &["opendkim", key.to_str().unwrap()]);
    run("chmod", &["600", key.to_str().unwrap()]);
    let conf = folder.join("opendkim.conf");
    let text = format!(
        "Domain example.com\nSelector bench\nKeyFile {}\nCanonicalization relaxed/relaxed\nMode s\n\
         Socket inet:8891@127.0.0.1\nUserID opendkim\nInternalHosts 127.0.0.1\nSyslog no\nRequireSafeKeys no\n",
        key.display()
    );
    std::fs::write(&conf, text).unwrap();
    conf.display().to_string()
}

/// Limits that a default installation sets for small hosts are raised, so that none of them is what is measured.
fn main_cf(folder: &str) -> String {
    format!(
        "compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file_prefixes = {folder}
maillog_file = {folder}/mail.log
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mta.test
mydestination =
alias_maps =
local_recipient_maps =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtp_tls_security_level = none
smtp_destination_concurrency_limit = 50
initial_destination_concurrency = 20
qmgr_message_active_limit = 50000
default_process_limit = 150
in_flow_delay = 0
"
    )
}

/// What takes mail, and what sends it. The listening address stands before it.
const MASTER: &str = " inet n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
";
