//! Delivery as a whole: a real store, scripted servers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on panics")]

mod harness;

mod conversations;
mod events;
mod formats;
mod queueing;
mod reports;
mod tls;
mod unready;
