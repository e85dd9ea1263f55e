//! An account service that is away, hangs or talks nonsense is no wrong password: clients are told to come again, sessions that are in
//! go on, and all is well by itself when it is back.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::deadline::{SOON, until, until_true};
use tests::lab::Lab;
use tests::message;
use tests::smtp::Client;
use tests::stagepost::{PASSWORD, Stagepost, USER};

const FROM: &str = "hello@sender.test";

/// A Stagepost that asks the accounts of another one.
fn with_accounts_of(lab: &Lab, other: &Stagepost) -> Stagepost {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let socket = other.state().join("stagepost.sock");
    lab.stagepost()
        .bare()
        .set("accounts_server", format!("unix:{}", text(&socket)))
        .set("accounts_token_file", text(&other.state().join("token")))
        .start()
}

/// What a login with the right password is answered.
fn login(client: &mut Client) -> (u16, Option<String>) {
    let asked = Instant::now();
    let reply = client.auth_plain(USER, PASSWORD);
    // It is to be 5 s; the rest is for a machine that is busy.
    assert!(asked.elapsed() < Duration::from_secs(10), "{reply:?} after {:?}", asked.elapsed());
    (reply.code, reply.enhanced().map(str::to_owned))
}

/// New logins are put off, the session that is in goes on: its message is accepted.
fn is_put_off(stagepost: &Stagepost, inside: &mut Client, recipient: &str) {
    let put_off = (454, Some("4.7.0".to_owned()));
    let mut client = stagepost.client();
    assert_eq!(login(&mut client), put_off);
    // The session isn't ended for it: nobody guessed.
    assert_eq!(login(&mut client), put_off);
    client.expect("NOOP", 250);
    let octets = message::text(FROM, recipient, recipient, "Hello.");
    inside.submit(FROM, &[recipient], &octets).queue_id();
}

fn is_well(stagepost: &Stagepost) {
    until("a login, without a restart", SOON, || {
        let mut client = stagepost.client();
        (client.auth_plain(USER, PASSWORD).code == 235).then_some(())
    });
}

#[test]
fn logins_are_put_off_sessions_go_on_and_all_is_well_when_accounts_is_back() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let mut accounts = lab.stagepost().start();
    let stagepost = with_accounts_of(&lab, &accounts);
    let mut inside = stagepost.login();

    // It hangs.
    accounts.process().signal(Signal::STOP);
    is_put_off(&stagepost, &mut inside, "hangs@d1.test");
    accounts.process().signal(Signal::CONT);
    is_well(&stagepost);

    // It is gone.
    accounts.kill();
    is_put_off(&stagepost, &mut inside, "gone@d1.test");

    // Somebody else answers in its place, and what he says is no gRPC.
    let socket = accounts.state().join("stagepost.sock");
    std::fs::remove_file(&socket).unwrap();
    let babbler = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for connection in babbler.incoming() {
            let Ok(mut connection) = connection else { return };
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        }
    });
    is_put_off(&stagepost, &mut inside, "babble@d1.test");
    std::fs::remove_file(&socket).unwrap();

    accounts.start_again();
    is_well(&stagepost);
    // Keys come from accounts too: nothing left unsigned meanwhile, and all of it leaves now.
    let received = mx.wait_for_within(3, SOON * 2);
    until_true("the queue is empty", SOON, || stagepost.queued() == 0);
    assert_eq!(received.len(), 3);
    for received in received {
        assert!(!message::values(&received.octets, "DKIM-Signature").is_empty(), "{}", received.text());
    }
}
