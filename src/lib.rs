//! Posthaste: LMTP in, Maildir out, nothing acknowledged is ever lost.
//!
//! The modules stand in the order in which mail travels: bytes come up from [`ring`] to a session in
//! [`serve`], which asks [`lmtp`] what they mean and [`users`] whose mail it is, and hands the result
//! down to [`maildir`]. [`control`] is the slow side: configuration, listeners, start and stop.
//! ARCHITECTURE.md has the map and the rules about which module may use which.
#![deny(unsafe_code)]

pub mod control;
pub mod exec;
pub mod journal;
pub mod limits;
pub mod lmtp;
pub mod mail;
pub mod maildir;
pub mod observe;
pub mod recover;
pub mod ring;
pub mod serve;
pub mod socketmap;
pub mod sys;
pub mod users;
