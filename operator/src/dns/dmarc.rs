//! What receivers do with mail that fails, and which names belong together (DMARC, RFC 9989).
//!
//! Where an organisation ends is found by the DNS tree walk of RFC 9989, not by the public suffix list of RFC 7489: the list
//! would be as old as the program, and what the walk finds is published by those whose names they are. Receivers that still use the
//! list find the same wherever the organisation's own domain has a record; where it has none, the walk is the stricter of
//! the two, and asks for one.

mod policy;
pub mod record;
mod walk;

pub use policy::{alignment, check};
pub use walk::{Walk, walk};
