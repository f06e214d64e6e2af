//! What mail is: addresses and lines. Pure values, no protocol, no files.
#![forbid(unsafe_code)]

pub mod address;
pub mod line_ends;
pub mod trace;
