//! The harness of Stagepost's integration tests, and the benchmark's programs.
//!
//! ```text
//!   Client ---SMTP---> Stagepost (the real program) ---SMTP---> Mx (scripted), Postfix, Exim, aiosmtpd
//!     or swaks, curl, msmtp, ...      |    ^                      |
//!                                     v    | DNS                  v
//!                           its state     Dns (programmable)    Ledger, judge: is all there, is it signed?
//! ```
//!
//! A test makes a [`lab::Lab`], which owns a temporary folder, a DNS server and a certificate authority. From it come
//! Stagepost itself ([`stagepost::Setup`]) and receivers ([`mx::Mx`], [`peers`]). Every server listens on a loopback address
//! of its own (see [`address`]), so ports never clash and nothing has to be retried. All is blocking code on threads: a test
//! reads from the top down, and waits by [`deadline::until`] for a condition, never by a sleep for luck.
//!
//! ```no_run
//! use std::time::Duration;
//! use tests::lab::Lab;
//! use tests::message;
//!
//! let lab = Lab::new();
//! let mx = lab.mx("d1.test");                      // publishes MX and A, takes everything
//! let stagepost = lab.stagepost().start();         // account, credential, domain sender.test with its DKIM records
//! let mut client = stagepost.login();              // EHLO, STARTTLS, EHLO, AUTH PLAIN
//! let octets = message::text("hello@sender.test", "user@d1.test", "First mail", "Hello.");
//! let queue_id = client.submit("hello@sender.test", &["user@d1.test"], &octets).queue_id();
//! let received = mx.wait_for(1);
//! assert_eq!(received[0].recipients(), ["user@d1.test"]);
//! assert!(tests::judge::mail_auth(&lab.dns, &received[0].octets).is_ok());
//! stagepost.wait_until_idle(Duration::from_secs(10));
//! # let _ = queue_id;
//! ```
//!
//! A misbehaving receiver is a closure over the steps of its conversation, see [`mx`]; a misbehaving DNS is a few calls, see
//! [`dns`]; a client's dialogue can be written as text, see [`smtp::Client::dialogue`].
//!
//! Deliberately not here: timing assertions (speed is the benchmark's business, `tests/bench/run`), and any use of
//! Stagepost's own code to judge it: bytes are read by other programs or compared as they are. (The `limits` crate is tried by
//! itself against the servers that it is made for.)
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "a harness reports what is wrong by a panic, at the place where the test stands"
)]

pub mod address;
pub mod between;
pub mod certs;
pub mod chance;
pub mod chart;
pub mod clock;
pub mod corpus;
pub mod deadline;
pub mod dns;
pub mod external_dns;
pub mod fault;
pub mod fleet;
pub mod helm;
pub mod http;
pub mod jaeger;
pub mod judge;
pub mod knot;
pub mod kubernetes;
pub mod lab;
pub mod ledger;
pub mod long;
pub mod message;
pub mod mx;
pub mod nats;
pub mod operated;
pub mod peers;
pub mod probe;
pub mod process;
pub mod redis;
pub mod report;
pub mod smtp;
pub mod stagepost;
pub mod submitters;
