//! Sending domains, credentials and accounts as Kubernetes objects.
//!
//! [`crd`] has the objects' types, from which `stagepost crds` prints what a cluster must be told of them.

pub mod crd;
