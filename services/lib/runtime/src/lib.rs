//! What every service needs around its work: calls between services, TLS from files, logs, traces, metrics, health, signals,
//! time, chance, and which addresses may be connected to.
//!
//! ```text
//! signals --token--> services        rpc::serve <--service token--> rpc::connect
//! tls::ServerTls <--reload-- files   telemetry --> standard error, OTLP
//!                                    admin::serve <-- metrics::Registry, checks
//! networks: which addresses that others name may be connected to
//! ```
//!
//! It knows nothing of mail, and it holds no configuration: callers pass what they decided.

pub mod admin;
pub mod clock;
pub mod metrics;
pub mod networks;
mod random;
pub mod rpc;
pub mod signals;
pub mod telemetry;
pub mod tls;

pub use random::{random, random_u32};
