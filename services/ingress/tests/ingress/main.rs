//! Ingress as a whole: dialogues against a real listener, with a store in memory and accounts as a server of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something isn't as it should be"
)]

mod connections;
mod drain;
mod harness;
mod login;
mod send;
mod submission;
mod tls;
mod unready;
