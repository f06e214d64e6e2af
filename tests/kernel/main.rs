//! The server on the real kernel: real rings, real file systems, real sockets.
//!
//! What the simulated ring cannot know is asked here: whether the kernel does what the design counts on, and
//! whether a whole server keeps its promises on file systems that are full, read-only or hostile. Every test
//! stands in a directory of its own; what needs root, or a mount, and cannot have it says so by name.
#![forbid(unsafe_code)]

mod client;
mod ground;
mod mount;
mod process;
mod server;
mod stored;

mod durability;
mod exchange;
mod faults;
mod files;
mod folders;
mod kept;
mod leaving;
mod limits;
mod lookups;
mod names;
mod naming;
mod paths;
mod recovery;
mod ring;
mod stopping;
