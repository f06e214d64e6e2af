//! Connections as stories: accept, converse, deliver, reply; and the shorter one of look-ups.
//!
//! What the client's words mean is decided in [`lmtp`](crate::lmtp), whose mail it is in
//! [`users`](crate::users), how it becomes a file in [`maildir`](crate::maildir); here is the order in
//! which these are asked.
#![forbid(unsafe_code)]

pub mod accept;
pub mod body;
pub mod checkpoint;
pub mod connection;
pub mod copy;
pub mod envelope;
pub mod loan;
pub mod lookups;
pub mod message;
mod recorded;
pub mod session;
pub mod verdict;
pub mod worker;
