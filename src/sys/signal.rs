//! Signals as values that the main thread waits for: no code runs inside a handler.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What somebody asks of the whole server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: finish what is under way and end.
    Terminate,
    /// SIGINT: the same, from a terminal.
    Interrupt,
    /// SIGHUP: read the configuration again.
    Hangup,
}

/// The reader of the blocked signals.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks the signals of [`Signal`] for this thread and all it starts from now on, and ignores
    /// SIGPIPE: a client that went away is an errno, not an end.
    ///
    /// Call it before the first thread is started, else that thread still dies of them.
    ///
    /// # Errors
    /// The kernel has no descriptor left.
    pub fn block() -> io::Result<Self> {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: initializes the set it is given; cannot fail on a valid pointer.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for (number, _) in SIGNALS {
            // SAFETY: the set is initialized and the number is a signal.
            unsafe { libc::sigaddset(set.as_mut_ptr(), *number) };
        }
        // SAFETY: the set is initialized; the old mask is not asked for.
        let errno = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
        if errno != 0 {
            return Err(io::Error::from_raw_os_error(errno));
        }
        // SAFETY: SIG_IGN is a disposition, no function of ours is called.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        // SAFETY: the set is initialized; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd just gave us this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// The next signal; `None` if none came within `timeout`. No timeout waits for ever.
    ///
    /// # Errors
    /// Waiting or reading failed, which the kernel does only when memory is short.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Option<Signal>> {
        let deadline = timeout.map(|timeout| std::time::Instant::now() + timeout);
        loop {
            if let Some(signal) = self.pending()? {
                return Ok(Some(signal));
            }
            let left = deadline.map(|at| at.saturating_duration_since(std::time::Instant::now()));
            let left = left.map(|left| {
                // A day is as good as longer: the loop comes round again.
                let left = left.min(Duration::from_hours(24));
                Timespec::try_from(left).expect("a day fits")
            });
            let mut ready = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut ready, left.as_ref()) {
                Ok(0) if deadline.is_some_and(|at| at <= std::time::Instant::now()) => {
                    return Ok(None);
                }
                // Another signal than ours interrupted the wait: go on waiting.
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A signal that has already arrived.
    ///
    /// # Errors
    /// As [`Signals::wait`].
    pub fn pending(&self) -> io::Result<Option<Signal>> {
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut record) {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // The number is the first field, signalfd(2).
        let number = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
        let known = SIGNALS.iter().find(|(known, _)| u32::try_from(*known) == Ok(number));
        Ok(known.map(|(_, signal)| *signal))
    }
}

impl AsFd for Signals {
    /// Readable when a signal is waiting: for a poll together with other descriptors.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const SIGNALS: &[(libc::c_int, Signal)] =
    &[(libc::SIGTERM, Signal::Terminate), (libc::SIGINT, Signal::Interrupt), (libc::SIGHUP, Signal::Hangup)];

#[cfg(test)]
mod tests {
    use rustix::process::{Signal as Number, getpid, kill_process};

    use super::*;

    /// In a child of its own, as the mask and SIGPIPE would outlive the test.
    #[test]
    fn a_blocked_signal_is_read_and_kills_nobody() {
        if std::env::var_os(CHILD).is_none() {
            let name = "sys::signal::tests::a_blocked_signal_is_read_and_kills_nobody";
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--test-threads=1"])
                .env(CHILD, "1")
                .status();
            assert!(status.unwrap().success());
            return;
        }
        // The harness's own main thread has blocked nothing: the signals are sent to this thread.
        let signals = Signals::block().unwrap();
        assert_eq!(signals.wait(Some(Duration::ZERO)).unwrap(), None);
        for (number, signal) in SIGNALS {
            // SAFETY: sends a signal, which this thread has blocked, to itself.
            assert_eq!(unsafe { libc::raise(*number) }, 0);
            assert_eq!(signals.wait(None).unwrap(), Some(*signal));
        }
        assert_eq!(signals.wait(Some(Duration::from_millis(1))).unwrap(), None);
        kill_process(getpid(), Number::PIPE).unwrap();
    }

    const CHILD: &str = "POSTHASTE_TEST_SIGNAL_CHILD";
}
