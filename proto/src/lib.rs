//! The wire contracts between Stagepost's services, and nothing else.
//!
//! Generated types stop at the file that converts them: nobody computes with them.
#![allow(
    clippy::use_self,
    clippy::too_many_lines,
    unused_qualifications,
    unreachable_pub,
    reason = "the code below is generated"
)]

/// Accounts: who may send, from which domains, how much.
pub mod accounts {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("stagepost.accounts.v1");
    }
}

/// Administration of a running Stagepost.
pub mod admin {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("stagepost.admin.v1");
    }
}

/// What happened to mail.
pub mod events {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("stagepost.events.v1");
    }
}

/// Records of the spool.
pub mod spool {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("stagepost.spool.v1");
    }
}
