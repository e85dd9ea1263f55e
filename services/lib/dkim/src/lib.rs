//! DKIM signing (RFC 6376): the body is hashed as it arrives, the header is signed when the message leaves.
//!
//! ```text
//!   body, in pieces --> BodyHasher --> BodyHash --.
//!                                                  \
//!   header section --> choose and canonicalise -----> prepare --> Unsigned --> finish --> DKIM-Signature field
//!                                                  /   (cheap)                 (the key)
//!   domain, selector, SigningKey --> Signer ------'
//!                                                      SigningPool does both on threads of its own
//! ```
//!
//! Both header and body are canonicalised as `relaxed`, hashed with SHA-256 and signed with RSA or Ed25519
//! (RFC 8463). Every signed field is named in `h=` once more than it is present, so that nobody on the way can add a
//! second From, To, Subject or Content-Type; and there is no `l=`, so that nobody can add to the body.
//!
//! Not here: verifying, the `simple` canonicalisation, SHA-1, finding keys, DNS. The crate knows no clock, no socket
//! and no runtime; times are arguments. It changes nothing in a message: what has to be added, removed or converted
//! is done before its body is hashed.

mod body;
mod fold;
mod header;
mod key;
pub mod pool;
mod sign;

pub use body::{BodyHash, BodyHasher};
pub use header::HeaderFlaw;
pub use key::{Algorithm, KeyError, SigningKey, txt_chunks};
pub use pool::SigningPool;
pub use sign::{HEADER_OCTETS_MAX, SignError, Signer, SignerError, Unsigned, prepare, sign, sign_all};
