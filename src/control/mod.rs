//! The slow side: what the server is told (configuration, user table, commands), where it listens, how it starts
//! and stops.
//!
//! Nothing here runs while a message is on its way; workers get parsed values and open descriptors.
#![forbid(unsafe_code)]

pub mod check;
pub mod config;
pub mod demo;
pub mod listen;
mod listen_error;
mod notice;
pub mod recover;
pub mod recovery;
pub mod reload;
pub mod serve;
pub mod server;
mod socket_file;
mod tables;
mod talk;
mod watch;
