//! Sending domains, credentials and accounts as Kubernetes objects.
//!
//! [`crd`] has the objects' types, from which `stagepost crds` prints what a cluster must be told of them. [`dns`] judges the
//! DNS of a sending domain as receivers do, and knows nothing of Kubernetes.

pub mod crd;
pub mod dns;
