//! Acting as another user, on one thread, for the length of one call.
//!
//! A ring remembers the credentials of the thread that registers a personality, so a worker puts on a
//! mailbox owner's identity, registers, and takes it off again. In the kernel credentials belong to
//! threads; only the C library spreads them over a process, and rustix does not. Promises that the
//! caller's identity is back when the call returns, or that the process ends. Changing the effective
//! user also marks the process as not dumpable (prctl(2), PR_SET_DUMPABLE): no core files after that.

use std::fmt;
use std::io;

use rustix::process::{Gid, Uid, getegid, geteuid, getgroups};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// The effective user and group of the calling thread: the server's own, outside of [`with_identity`].
#[must_use]
pub fn server_uid_gid() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}

/// Which step of putting on an identity was refused.
#[derive(Debug)]
pub struct IdentityError {
    step: &'static str,
    error: io::Error,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, error } = self;
        write!(
            out,
            "cannot set the {step} to a mailbox owner's: {error}; start the server as root (or with \
             CAP_SETUID and CAP_SETGID), or run it as the one user that owns all mailboxes"
        )
    }
}

impl std::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Runs `act` while the calling thread, and only it, has the effective user `uid`, the effective group
/// `gid` and no other group. Real and saved identity stay, so that the way back is open. When the thread
/// has this user and group already, it changes nothing, its other groups included, and needs no right to.
///
/// Aborts the process when the way back fails: a worker that stays somebody else is worse than none.
///
/// # Errors
/// The identity could not be put on (no privilege, or an id of all ones, which means "no change" to the
/// kernel): `act` was not run.
pub fn with_identity<T>(uid: u32, gid: u32, act: impl FnOnce() -> T) -> Result<T, IdentityError> {
    let failed = |step| move |error: rustix::io::Errno| IdentityError { step, error: error.into() };
    if uid == u32::MAX || gid == u32::MAX {
        return Err(failed("user and group")(rustix::io::Errno::INVAL));
    }
    if server_uid_gid() == (uid, gid) {
        return Ok(act());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let groups = getgroups().map_err(failed("supplementary groups"))?;
    // Dropped on every way out of here, a refused step and a panic of `act` among them.
    let _back = Before { uid: geteuid(), gid: getegid(), groups };

    // Groups first: with another effective user the right to change them is gone.
    set_thread_groups(&[gid]).map_err(failed("supplementary groups"))?;
    set_thread_res_gid(None, gid, None).map_err(failed("effective group"))?;
    set_thread_res_uid(None, uid, None).map_err(failed("effective user"))?;
    Ok(act())
}

/// The identity to go back to.
struct Before {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Drop for Before {
    fn drop(&mut self) {
        // The user first: the right to set the rest comes back with it.
        let back = set_thread_res_uid(None, self.uid, None)
            .and_then(|()| set_thread_res_gid(None, self.gid, None))
            .and_then(|()| self.restore_groups());
        if let Err(error) = back {
            eprintln!("posthaste: cannot return to the server's own identity: {error}; stopping");
            std::process::abort();
        }
    }
}

impl Before {
    fn restore_groups(&self) -> rustix::io::Result<()> {
        // Without privilege groups cannot be set, but then they were not changed either.
        if getgroups()? == self.groups { Ok(()) } else { set_thread_groups(&self.groups) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: u32 = 54_321;
    const GID: u32 = 54_322;

    fn seen() -> (u32, u32, Vec<u32>) {
        let (uid, gid) = server_uid_gid();
        (uid, gid, getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect())
    }

    fn is_root(test: &str) -> bool {
        let root = geteuid().is_root();
        if !root {
            eprintln!("NOT RUN: {test}: only root may become another user");
        }
        root
    }

    #[test]
    fn an_identity_lasts_for_one_call_on_one_thread() {
        if !is_root("an_identity_lasts_for_one_call_on_one_thread") {
            return;
        }
        let before = seen();
        let neighbour = with_identity(UID, GID, || {
            assert_eq!(seen(), (UID, GID, vec![GID]));
            assert!(std::fs::read("/etc/shadow").is_err(), "root's rights are gone");
        });
        neighbour.unwrap();
        assert_eq!(seen(), before);
    }

    #[test]
    fn other_threads_keep_their_identity() {
        if !is_root("other_threads_keep_their_identity") {
            return;
        }
        let before = seen();
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let (answer, answered) = std::sync::mpsc::channel();
        let neighbour = std::thread::spawn(move || {
            asked.recv().unwrap();
            answer.send(seen()).unwrap();
        });
        let theirs = with_identity(UID, GID, || {
            ask.send(()).unwrap();
            answered.recv().unwrap()
        });
        neighbour.join().unwrap();
        assert_eq!(theirs.unwrap(), before);
    }

    #[test]
    fn a_panic_inside_gives_the_identity_back() {
        if !is_root("a_panic_inside_gives_the_identity_back") {
            return;
        }
        let before = seen();
        let result = std::panic::catch_unwind(|| with_identity(UID, GID, || panic!("inside")));
        assert!(result.is_err());
        assert_eq!(seen(), before);
    }

    #[test]
    fn without_privilege_the_call_is_refused_and_nothing_changes() {
        if !is_root("without_privilege_the_call_is_refused_and_nothing_changes") {
            return;
        }
        // A thread that gives up every user but one has no way to a third.
        let thread = std::thread::spawn(|| {
            let uid = Uid::from_raw(UID);
            set_thread_res_uid(uid, uid, uid).unwrap();
            let before = seen();
            let refused = with_identity(UID + 1, GID, || unreachable!("not permitted"));
            assert!(refused.unwrap_err().to_string().contains("CAP_SETUID"));
            assert_eq!(seen(), before);
        });
        thread.join().unwrap();
    }

    #[test]
    fn the_own_identity_needs_no_right() {
        let before = seen();
        assert_eq!(with_identity(before.0, before.1, seen).unwrap(), before);
    }

    #[test]
    fn all_ones_is_no_identity() {
        assert!(with_identity(u32::MAX, 0, || ()).is_err());
        assert!(with_identity(0, u32::MAX, || ()).is_err());
    }
}
