//! Postfix's socketmap protocol without sockets: look-ups in, answers out (socketmap_table(5)).
//!
//! Request and reply are netstrings. [`netstring`] finds the requests in the stream of received bytes, [`request`]
//! reads one, [`reply`] puts an answer on the wire, and [`expansion`] writes addresses as `virtual_alias_maps`
//! wants them.
//!
//! Nothing here reads a clock, opens a file, owns a socket or writes a log line, and none of it knows the user table:
//! what an address leads to is asked in [`serve::lookups`](crate::serve::lookups).
#![forbid(unsafe_code)]

pub mod expansion;
pub mod netstring;
pub mod reply;
pub mod request;
