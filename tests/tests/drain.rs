//! Asked to end, Stagepost finishes what it is receiving, tells the others, and loses nothing.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tests::deadline::{SOON, until_true};
use tests::lab::Lab;
use tests::message;
use tests::mx::{Answer, Step};
use tests::smtp::Client;

const FROM: &str = "hello@sender.test";

#[test]
fn an_orderly_end_finishes_the_message_that_is_being_received_and_tells_the_others() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let mut stagepost = lab.stagepost().start();
    let mut idle = stagepost.login();
    let mut receiving = stagepost.login();
    receiving.expect(&format!("MAIL FROM:<{FROM}>"), 250);
    receiving.expect("RCPT TO:<b@d1.test>", 250);
    receiving.expect("DATA", 354);
    receiving.send(format!("From: {FROM}\r\n\r\nfirst half, ").as_bytes());
    stagepost.begin_to_stop();
    let told = idle.reply();
    assert_eq!((told.code, told.enhanced()), (421, Some("4.3.2")), "{told:?}");
    assert!(idle.closed(SOON));
    let address = stagepost.submission();
    until_true("nobody is let in any more", SOON, || Client::try_connect(address).is_err());
    receiving.send(b"second half\r\n.\r\n");
    receiving.reply().queue_id();
    assert_eq!(receiving.reply().code, 421);
    assert!(stagepost.ended(SOON * 2).success());
    // It left before the end, or it does so afterwards; once.
    stagepost.start_again();
    stagepost.wait_until_idle(SOON);
    let received = mx.wait_for(1);
    assert_eq!(received.len(), 1);
    assert_eq!(message::body(&received[0].octets), b"first half, second half\r\n");
}

#[test]
fn an_orderly_end_waits_for_a_server_that_is_about_to_answer_and_sends_nothing_twice() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let at_the_dot = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&at_the_dot);
    mx.script(move |step| match step {
        Step::Dot { .. } => {
            seen.store(true, Ordering::Relaxed);
            Answer::Late(Duration::from_secs(4))
        }
        _ => Answer::Usual,
    });
    let mut stagepost = lab.stagepost().start();
    let octets = message::text(FROM, "b@d1.test", "slow", "Hello.");
    stagepost.login().submit(FROM, &["b@d1.test"], &octets).queue_id();
    until_true("the final dot", SOON, || at_the_dot.load(Ordering::Relaxed));
    assert!(stagepost.stop(SOON * 2).success());
    assert_eq!(mx.count(), 1, "it was finished");
    stagepost.start_again();
    assert_eq!(stagepost.queued(), 0, "and recorded");
}
