//! The DNS of a sending domain, judged as receivers of its mail judge it.
//!
//! ```text
//! Lookup    a resolver's answers, aliases followed: what a receiver sees     resolver::Resolver
//! Authority what each of a zone's own servers has: what all will see soon    servers::Servers
//! ```

pub mod authority;
pub mod lookup;
#[cfg(test)]
mod memory;
pub mod name;
pub mod resolver;
pub mod servers;
pub mod spf;
