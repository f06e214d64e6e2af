//! Numbers and lines out; never a decision.
#![forbid(unsafe_code)]

pub mod log;
