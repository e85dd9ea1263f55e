//! What a sending domain needs outside of Stagepost.
//!
//! [`dns`] judges the DNS of a sending domain as receivers do, and knows nothing of Kubernetes.

pub mod dns;
