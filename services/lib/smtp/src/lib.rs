//! SMTP as RFC 5321 has it, without I/O: octets in, octets and questions out.
//!
//! ```text
//!  socket --octets--> server::Session --Question--> policy (who may send what)
//!         <-replies--        ^----------Verdict-------'
//!                            '--body octets--> buffer
//!
//!  client::Session, client::Transaction --commands--> socket
//!            ^-------- reply::ReplyReader <--octets--'
//! ```
//!
//! Everything here is driven by its caller: any split of the input gives the same replies, memory is bounded whatever
//! arrives, and nothing waits. It deliberately has no sockets, TLS, clock, runtime, DNS or policy: timeouts, deadlines and
//! rates are the shell's, who may send what is decided by whoever answers a [`server::Question`], and message content is
//! passed on unread but for the rules of lines (RFC 5321 section 2.3.8).

pub mod address;
mod base64;
pub mod client;
pub mod command;
pub mod data;
pub mod line;
pub mod reply;
mod scan;
pub mod server;
