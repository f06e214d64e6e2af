//! Who gets mail, and where it goes: the user table.
//!
//! A table is one immutable file, built offline by `posthaste users build` ([`build`], from a [`source`]),
//! read through a mapping ([`table`]) and replaced only by rename. [`layout`] draws the file octet by octet;
//! [`key`] is the way from a recipient's address to the key in the table.
#![forbid(unsafe_code)]

mod block;
pub mod build;
mod class;
pub mod command;
mod domain;
mod draft;
pub mod entry;
mod expand;
pub mod header;
pub mod key;
pub mod layout;
mod name;
mod octets;
pub mod path;
pub mod record;
mod show;
mod siphash;
pub mod source;
pub mod table;
mod template;
pub mod user;
pub mod verify;

pub use build::{BuildError, Builder, Conflict, Options};
pub use entry::{Alias, Entry};
pub use key::{Answer, Base, Found, LocalPart, Rules, Target, find, has_domain, warm};
pub use record::Damage;
pub use table::{Table, TableError};
pub use user::User;
