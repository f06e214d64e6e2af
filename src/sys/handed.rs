//! Descriptors that systemd handed over to this process (sd_listen_fds(3)).
//!
//! Owns the step from "number 3 and up" to owned descriptors; what they are is checked by
//! `control::listen`.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The descriptors with their names, close-on-exec set; none when `LISTEN_PID` is another process.
///
/// They can be taken once: later calls return none. Call it before the process opens anything else.
///
/// # Errors
/// The variables contradict each other or name descriptors that are not open.
pub fn take() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let handed = sd_notify::listen_fds_with_names()?;
    let own = |(number, name)| {
        // SAFETY: LISTEN_PID says that our parent opened this number for us, `listen_fds_with_names`
        // found it open, and TAKEN makes us the only owner in this process.
        (unsafe { OwnedFd::from_raw_fd(number) }, name)
    };
    Ok(handed.map(own).collect())
}
