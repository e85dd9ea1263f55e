//! The DNS of a sending domain, judged as receivers of its mail judge it.
//!
//! ```text
//! Expectations --check--> Report: each record, what is there, what it means, what to publish
//!                 |
//!   dkim  spf  dmarc  return_path  reverse  mta_sts  tls_rpt     pure: parse, compare, put into words
//!                 |
//!              Lookup: a resolver's answers, aliases followed                     resolver::Resolver
//! dkim::check_everywhere also asks
//!           Authority: what each of the zone's own servers has                    servers::Servers
//! ```
//!
//! A failed look-up is [`report::State::Unknown`], never an absence. Nothing here changes DNS, and nothing is remembered.

pub mod authority;
pub mod dkim;
pub mod dmarc;
mod expectations;
pub mod lookup;
#[cfg(test)]
mod memory;
pub mod mta_sts;
pub mod name;
pub mod report;
pub mod resolver;
pub mod return_path;
pub mod reverse;
pub mod servers;
pub mod spf;
pub mod tags;
pub mod tls_rpt;

pub use expectations::{Expectations, check};
