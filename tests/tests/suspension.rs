//! A suspended account sends nothing more, and loses nothing that it had queued.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use tests::deadline::{SOON, until, until_true};
use tests::lab::Lab;
use tests::message;

const FROM: &str = "hello@sender.test";

#[test]
fn a_suspended_account_is_out_of_open_sessions_and_its_queued_mail_is_held_until_it_is_resumed() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    lab.dns.fault("d1.test", tests::dns::Fault::ServFail);
    let stagepost = lab.stagepost().set("ingress.profile_refresh_secs", 1_i64).start();
    let mut inside = stagepost.login();
    let octets = message::text(FROM, "early@d1.test", "early", "Hello.");
    inside.submit(FROM, &["early@d1.test"], &octets).queue_id();
    stagepost.ask(&["account", "suspend", "shop", "--reason", "an invoice is open"]);
    let refused = until("the open session is told", SOON, || {
        let reply = inside.command(&format!("MAIL FROM:<{FROM}>"));
        if reply.code == 250 {
            inside.expect("RSET", 250);
            return None;
        }
        Some(reply)
    });
    assert_eq!((refused.code, refused.enhanced()), (550, Some("5.7.1")), "{refused:?}");
    assert!(refused.text().contains("suspended: an invoice is open"), "{refused:?}");
    until_true("what is queued is held", SOON * 2, || {
        stagepost.queue().iter().all(|job| job["state"] == "held")
    });
    lab.dns.heal("d1.test");
    assert_eq!((stagepost.queued(), mx.count()), (1, 0));

    stagepost.ask(&["account", "resume", "shop"]);
    mx.wait_for(1);
    stagepost.wait_until_idle(SOON);
    let mut client = stagepost.login();
    let octets = message::text(FROM, "late@d1.test", "late", "Hello.");
    client.submit(FROM, &["late@d1.test"], &octets).queue_id();
    assert_eq!(mx.wait_for(2).len(), 2);
}
