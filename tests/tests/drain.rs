//! Asked to end, Stagepost finishes what it is receiving, tells the others, and loses nothing.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use tests::deadline::{SOON, until_true};
use tests::lab::Lab;
use tests::message;
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
