//! The harness itself, where it takes installed servers or root: a test that judges by them must be able to trust them.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::process::Command;

use mail_auth::common::crypto::{RsaKey, Sha256};
use mail_auth::common::headers::HeaderWriter as _;
use mail_auth::dkim::DkimSigner;
use rcgen::{KeyPair, PKCS_RSA_SHA256, PublicKeyData as _, RsaKeySize};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tests::fault::{SmallDisk, SyncTrouble};
use tests::lab::Lab;
use tests::peers::{Aiosmtpd, Exim, Postfix, Postgrey};
use tests::process::Process;
use tests::smtp::{Client, base64};
use tests::{corpus, judge, message};

const HARD: &[u8] =
    b"Received: from a by b; Wed, 25 Nov 2026 12:00:00 +0000\r\nFrom: a@sender.test\r\nTo: b@d1.test\r\n\
    Date: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@client.test>\r\n\
    Subject: folded\r\n\t subject  \r\n\r\n.\r\n..two\r\ntrailing blanks \t\r\n\r\n\xc3\xa9\r\n\r\n\r\n";

fn send(address: std::net::SocketAddr, octets: &[u8]) {
    let mut client = Client::connect(address);
    assert_eq!(client.reply().code, 220);
    client.expect("EHLO client.test", 250);
    assert_eq!(client.submit("a@sender.test", &["b@d1.test"], octets).code, 250);
}

#[test]
fn postfix_gives_back_the_octets_that_it_got() {
    let lab = Lab::new();
    let postfix = Postfix::receiver(&lab, "d1.test").start();
    send(postfix.address(), HARD);
    assert_eq!(postfix.wait_for(1), [HARD]);
}

#[test]
fn exim_gives_back_the_octets_that_it_got() {
    let lab = Lab::new();
    let exim = Exim::receiver(&lab, "d1.test");
    send(exim.address(), HARD);
    assert_eq!(exim.wait_for(1), [HARD], "{}", exim.log());
}

#[test]
fn aiosmtpd_gives_back_the_octets_that_it_got() {
    let lab = Lab::new();
    let aiosmtpd = Aiosmtpd::receiver(&lab, "d1.test");
    send(aiosmtpd.address(), HARD);
    assert_eq!(aiosmtpd.wait_for(1), [HARD]);
}

#[test]
fn postgrey_puts_off_what_it_sees_first() {
    let lab = Lab::new();
    let postgrey = Postgrey::start(&lab, 2);
    let postfix = Postfix::receiver(&lab, "d1.test").set(&postgrey.main_cf()).start();
    let recipient = |code: u16| {
        let mut client = Client::connect(postfix.address());
        client.dialogue("S: 220\nC: EHLO client.test\nS: 250\nC: MAIL FROM:<a@sender.test>\nS: 250");
        client.command("RCPT TO:<b@d1.test>").code == code
    };
    assert!(recipient(450));
    tests::deadline::until_true("the end of greylisting", tests::deadline::SOON, || recipient(250));
}

/// A signed message and the DNS record of its key.
fn signed() -> (Vec<u8>, (String, String)) {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let record = format!("v=DKIM1; k=rsa; p={}", base64(&key.subject_public_key_info()));
    let signer = DkimSigner::from_key(
        RsaKey::<Sha256>::from_key_der(PrivatePkcs8KeyDer::from(key.serialize_der()).into()).unwrap(),
    )
    .domain("sender.test")
    .selector("s1")
    .headers(["From", "Subject"]);
    let octets = message::text("a@sender.test", "b@d1.test", "Signed", "Hello.");
    let field = signer.sign(&octets).unwrap().to_header();
    ([field.into_bytes(), octets].concat(), ("s1._domainkey.sender.test".to_owned(), record))
}

#[test]
fn every_judge_passes_a_good_signature_and_no_other() {
    let lab = Lab::new();
    let (good, key) = signed();
    lab.dns.txt(&key.0, &key.1);
    let tampered = [good.as_slice(), b"more\r\n"].concat();
    let unsigned = message::text("a@sender.test", "b@d1.test", "Unsigned", "Hello.");
    let all: [&[u8]; 4] = [&good, &tampered, &unsigned, &good];
    let mail_auth = judge::MailAuth::new(&lab.dns);
    let verdicts = [
        all.iter().map(|message| mail_auth.judge(message)).collect::<Vec<_>>(),
        judge::dkimpy(lab.dns.address(), &all, lab.folder()),
        judge::opendkim(&[key], &all, lab.folder()),
    ];
    for verdict in verdicts {
        let passed: Vec<bool> = verdict.iter().map(Result::is_ok).collect();
        assert_eq!(passed, [true, false, false, true], "{verdict:?}");
    }
}

#[test]
fn the_public_collections_hold_more_than_500_messages() {
    let samples = corpus::public();
    assert!(samples.len() >= 500, "{}", samples.len());
    for sample in &samples {
        assert_eq!(message::values(&sample.octets, "From"), [corpus::FROM], "{}", sample.name);
    }
}

#[test]
fn a_small_disk_fills_up_and_gives_room_again() {
    let lab = Lab::new();
    let disk = SmallDisk::mount(&lab.folder().join("disk"), 1 << 20);
    let file = disk.path().join("file");
    let ballast = disk.fill();
    assert!(std::fs::write(&file, [0; 8192]).is_err());
    drop(ballast);
    std::fs::write(&file, [0; 8192]).unwrap();
}

#[test]
fn syncs_fail_while_the_fault_is_attached() {
    let lab = Lab::new();
    let script = "import os,sys,time\nf=os.open(sys.argv[1],os.O_CREAT|os.O_WRONLY)\nwhile True:\n try:\n  os.fdatasync(f); print('good',flush=True)\n except OSError: print('bad',flush=True)\n time.sleep(0.01)\n";
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script]).arg(lab.folder().join("file"));
    let mut process = Process::start("syncing", command, &lab.folder().join("syncing.log"));
    process.wait_ready(|| true);
    let lines = |word: &str| process.log().lines().filter(|line| *line == word).count();
    let soon = tests::deadline::SOON;
    tests::deadline::until_true("a good sync", soon, || lines("good") > 0);
    let fault = SyncTrouble::failing(&process, &lab.folder().join("strace.log"));
    tests::deadline::until_true("a bad sync", soon, || lines("bad") > 0);
    assert!(fault.count() > 0);
    drop(fault);
    let before = lines("good");
    tests::deadline::until_true("good syncs again", soon, || lines("good") > before);
}
