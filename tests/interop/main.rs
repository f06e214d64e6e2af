//! Posthaste between the programs that it has to live with: Postfix and others in front, Dovecot IMAP behind.
//!
//! Real programs, each in a directory and on an address of its own; no daemon of the machine is touched. The first
//! modules start and talk to them, the others are the tests. See `server` for how to run them against the rival.
#![forbid(unsafe_code)]

mod dialog;
mod dovecot;
mod mailbox;
mod messages;
mod place;
mod postfix;
mod server;

mod activation;
mod asking;
mod clients;
mod flood;
mod folders;
mod reading;
mod relaying;
