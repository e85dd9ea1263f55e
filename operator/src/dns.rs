//! The DNS of a sending domain, judged as receivers of its mail judge it.

pub mod lookup;
#[cfg(test)]
mod memory;
pub mod name;
pub mod spf;
