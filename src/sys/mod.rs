//! The few system calls that are neither the ring's nor a file's: accounts, CPUs, limits, signals, mappings; and
//! how a thread leaves the CPU to others.
//!
//! With `ring` the only place where unsafe code may live; each file says why it needs any.
#![allow(unsafe_code)] // The one fence: unsafe lives in `ring` and `sys`, nowhere else.

pub mod account;
pub mod boot;
pub mod cpu;
pub mod credentials;
pub mod file_system;
pub mod handed;
pub mod limit;
pub mod mmap;
pub mod pace;
pub mod signal;
