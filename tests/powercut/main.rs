//! What survives when the power fails, the process is killed, or a disk does: on real file systems.
//!
//! The rig is a disk that keeps a diary (`device`: a FUSE file with a loop device over it). The real server runs on a
//! real file system on that disk, under load (`load`), and every write and every flush goes into a log (`blocklog`).
//! From the log follows what the disk may have on it when the power fails at any moment (`cut`, `image`): all that was
//! flushed, and any part of the rest. Each such image is mounted, recovered, and held against what the clients had
//! been told (`oracle`).
//!
//! ```text
//! cargo nextest run --cargo-profile quick --test powercut --no-capture
//! ```
//!
//! does some hundred images per file system and prints what it did. For thousands, set:
//!
//! | variable | |
//! |---|---|
//! | `POSTHASTE_POWERCUT_IMAGES` | images for each file system, over all modes (300) |
//! | `POSTHASTE_POWERCUT_SEED` | repeats the choices of a run that printed it; threads make their own order |
//! | `POSTHASTE_POWERCUT_MODES` | of `journal,group,fsync` |
//! | `POSTHASTE_KILLS` | how often the process is killed, for each mode (100) |
#![forbid(unsafe_code)]

#[path = "../kernel/client.rs"]
#[allow(dead_code)] // Shared with tests/kernel, which uses all of it.
mod client;
#[path = "../kernel/ground.rs"]
#[allow(dead_code)] // The same.
mod ground;
#[path = "../kernel/process.rs"]
#[allow(dead_code)] // The same.
mod process;
#[path = "../kernel/server.rs"]
#[allow(dead_code)] // The same.
mod server;

mod blocklog;
mod cut;
mod device;
mod filesystem;
mod image;
mod load;
mod memory;
mod message;
mod mount;
mod oracle;
mod random;
mod rig;
mod settings;

mod broken;
mod failing;
mod full;
mod honest;
mod killed;
mod real;
