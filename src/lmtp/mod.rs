//! The protocol without sockets: LMTP (RFC 2033) with the extensions this server announces.
//!
//! Bytes come in, meanings go out. [`mod@line`] finds the commands in the stream, [`command`] reads one,
//! [`session`] says whether it is legal now and what is to be done, [`data`] finds the message between
//! DATA and its final dot, and [`reply`] puts an answer on the wire; [`replies`] is the table of all answers.
//!
//! Nothing here reads a clock, opens a file, owns a socket or writes a log line: every machine can be fed
//! byte by byte in a test, and a sequence that is split over two buffers is a value in a field.
#![forbid(unsafe_code)]

pub mod command;
pub mod data;
pub mod line;
pub mod replies;
pub mod reply;
pub mod session;
