//! An account sends to as many recipients a day as its plan says: exactly so over sessions and restarts, and never more.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use tests::deadline::SOON;
use tests::lab::Lab;
use tests::message;
use tests::stagepost::{PASSWORD, Stagepost};

#[test]
fn a_quota_is_exact_over_sessions_and_restarts_and_is_one_accounts_own() {
    let lab = Lab::new();
    let mut stagepost = lab.stagepost().start();
    for account in ["small", "other"] {
        stagepost.ask(&["account", "create", account]);
        stagepost.domain(account, &format!("{account}.test"), &lab.dns);
        stagepost.credential(account, &format!("{account}-app"), PASSWORD);
    }
    let submit = |stagepost: &Stagepost, count: usize| -> (usize, Vec<String>) {
        let mut client = stagepost.login_as("small-app", PASSWORD);
        let (mut accepted, mut refused) = (0, Vec::new());
        for _ in 0..count {
            client.expect("MAIL FROM:<a@small.test>", 250);
            let reply = client.command("RCPT TO:<success@simulator.stagepost.test>");
            if reply.code != 250 {
                assert_eq!(reply.code / 100, 4, "{reply:?}");
                refused.push(reply.text());
                client.expect("RSET", 250);
                continue;
            }
            client.expect("DATA", 354);
            client.send(b"From: a@small.test\r\n\r\nHello.\r\n.\r\n");
            client.reply().queue_id();
            accepted += 1;
        }
        (accepted, refused)
    };
    // What isn't accepted in the end costs nothing.
    let mut client = stagepost.login_as("small-app", PASSWORD);
    client.expect("MAIL FROM:<a@small.test>", 250);
    client.expect("RCPT TO:<success@simulator.stagepost.test>", 250);
    client.expect("DATA", 354);
    client.send(b"no header\r\n.\r\n");
    assert_eq!(client.reply().code, 554);

    assert_eq!(submit(&stagepost, 40).0, 40);
    assert!(stagepost.stop(SOON).success());
    stagepost.start_again();
    // Four at once take what is left, and no more.
    let (accepted, refused) = std::thread::scope(|scope| {
        let stagepost = &stagepost;
        let sessions: Vec<_> = (0..4).map(|_| scope.spawn(move || submit(stagepost, 20))).collect();
        sessions.into_iter().map(|session| session.join().unwrap()).fold(
            (0, Vec::new()),
            |(accepted, mut refused), (more, texts)| {
                refused.extend(texts);
                (accepted + more, refused)
            },
        )
    });
    assert_eq!((accepted, refused.len()), (60, 20));
    assert!(
        refused.iter().all(|text| text.contains("100 recipients") || text.contains("UTC")),
        "{refused:?}"
    );

    // A kill makes an account no richer.
    stagepost.kill();
    stagepost.start_again();
    assert_eq!(submit(&stagepost, 5).0, 0);

    let mut client = stagepost.login_as("other-app", PASSWORD);
    let octets = message::text("a@other.test", "b@d1.test", "other", "Hello.");
    client.submit("a@other.test", &["success@simulator.stagepost.test"], &octets).queue_id();
}
