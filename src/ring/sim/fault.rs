//! Faults: which operation is to fail, when, and with what.
#![forbid(unsafe_code)]

use rustix::io::Errno;

use super::random::Random;
use crate::ring::{How, Op};

/// The kinds of operation, as faults and the trace name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OpKind {
    /// [`Op::Accept`].
    Accept,
    /// [`Op::Recv`], and the second half of [`Op::Exchange`].
    Recv,
    /// [`Op::Send`], and the first half of [`Op::Exchange`].
    Send,
    /// [`Op::Doorbell`].
    Doorbell,
    /// [`Op::Open`] of a directory, by whatever rules.
    OpenDirectory,
    /// [`Op::Open`] with [`How::Unnamed`].
    OpenUnnamed,
    /// [`Op::Open`] with [`How::New`].
    OpenNew,
    /// [`Op::Open`] of a file that exists, by [`How::ReadOnly`], [`How::ReadWrite`] or [`How::Append`].
    OpenExisting,
    /// [`Op::MakeDir`].
    MakeDir,
    /// [`Op::Read`].
    Read,
    /// [`Op::Write`].
    Write,
    /// [`Op::WriteDurably`].
    WriteDurably,
    /// [`Op::Sync`].
    Sync,
    /// [`Op::WriteOut`].
    WriteOut,
    /// [`Op::Touch`].
    Touch,
    /// [`Op::SyncFs`].
    SyncFs,
    /// [`Op::Link`].
    Link,
    /// [`Op::LinkName`].
    LinkName,
    /// [`Op::Rename`].
    Rename,
    /// [`Op::Unlink`].
    Unlink,
}

impl OpKind {
    /// Every kind, for tests that walk them.
    pub const ALL: [Self; 20] = [
        Self::Accept,
        Self::Recv,
        Self::Send,
        Self::Doorbell,
        Self::OpenDirectory,
        Self::OpenUnnamed,
        Self::OpenNew,
        Self::OpenExisting,
        Self::MakeDir,
        Self::Read,
        Self::Write,
        Self::WriteDurably,
        Self::Sync,
        Self::WriteOut,
        Self::Touch,
        Self::SyncFs,
        Self::Link,
        Self::LinkName,
        Self::Rename,
        Self::Unlink,
    ];

    /// The kind of `op`, or of what there is left to do of it.
    #[must_use]
    pub fn of(op: &Op) -> Self {
        match op {
            Op::Accept { .. } => Self::Accept,
            Op::Recv { .. } | Op::Exchange { sent: true, .. } => Self::Recv,
            Op::Send { .. } | Op::Exchange { sent: false, .. } => Self::Send,
            Op::Doorbell { .. } => Self::Doorbell,
            Op::Open { how, .. } => match how {
                How::Directory | How::DirectoryBeneath | How::DirectoryTrusted => Self::OpenDirectory,
                How::Unnamed => Self::OpenUnnamed,
                How::New => Self::OpenNew,
                How::ReadOnly | How::ReadWrite | How::Append => Self::OpenExisting,
            },
            Op::MakeDir { .. } => Self::MakeDir,
            Op::Read { .. } => Self::Read,
            Op::Write { .. } => Self::Write,
            Op::WriteDurably { .. } => Self::WriteDurably,
            Op::Sync { .. } => Self::Sync,
            Op::WriteOut { .. } => Self::WriteOut,
            Op::Touch { .. } => Self::Touch,
            Op::SyncFs { .. } => Self::SyncFs,
            Op::Link { .. } => Self::Link,
            Op::LinkName { .. } => Self::LinkName,
            Op::Rename { .. } => Self::Rename,
            Op::Unlink { .. } => Self::Unlink,
        }
    }
}

/// An operation that is to fail instead of being done.
///
/// ```
/// use posthaste::ring::sim::{Fault, OpKind};
/// use rustix::io::Errno;
///
/// let disk_full = Fault::every(OpKind::Write, Errno::NOSPC).on("/mail/alice");
/// let one_bad_sync = Fault::nth(OpKind::Sync, 3, Errno::IO);
/// # let _ = (disk_full, one_bad_sync);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    kind: OpKind,
    when: When,
    errno: Errno,
    on: Option<String>,
    met: u64,
}

/// Which of the operations that a fault is for it strikes.
#[derive(Clone, Copy, Debug)]
enum When {
    Always,
    Nth(u64),
    OnceIn(usize),
}

impl Fault {
    /// Every operation of this kind fails.
    #[must_use]
    pub fn every(kind: OpKind, errno: Errno) -> Self {
        Self { kind, when: When::Always, errno, on: None, met: 0 }
    }

    /// The `nth` operation of this kind fails, counted from 1 and from now on.
    #[must_use]
    pub fn nth(kind: OpKind, nth: u64, errno: Errno) -> Self {
        Self { when: When::Nth(nth), ..Self::every(kind, errno) }
    }

    /// One operation in `of` of this kind fails, by chance.
    #[must_use]
    pub fn once_in(kind: OpKind, of: usize, errno: Errno) -> Self {
        Self { when: When::OnceIn(of), ..Self::every(kind, errno) }
    }

    /// Only operations whose path contains `part` count. The path is that of the directory followed
    /// by the name, or the path by which the descriptor was opened.
    #[must_use]
    pub fn on(self, part: &str) -> Self {
        Self { on: Some(part.to_owned()), ..self }
    }

    /// Whether the operation at hand is one to fail; counts it if it is one of ours.
    pub(super) fn strikes(&mut self, kind: OpKind, path: &str, random: &mut Random) -> Option<Errno> {
        let ours = kind == self.kind && self.on.as_ref().is_none_or(|part| path.contains(part));
        if !ours {
            return None;
        }
        self.met += 1;
        let strikes = match self.when {
            When::Always => true,
            When::Nth(nth) => nth == self.met,
            When::OnceIn(of) => random.once_in(of),
        };
        strikes.then_some(self.errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strikes(fault: &mut Fault, kind: OpKind, path: &str) -> Option<Errno> {
        fault.strikes(kind, path, &mut Random::new(0))
    }

    #[test]
    fn the_nth_fault_strikes_once_and_counts_only_its_own_path() {
        let mut fault = Fault::nth(OpKind::Sync, 2, Errno::IO).on("alice");
        assert_eq!(strikes(&mut fault, OpKind::Sync, "/mail/alice/new"), None);
        assert_eq!(strikes(&mut fault, OpKind::Sync, "/mail/bob/new"), None);
        assert_eq!(strikes(&mut fault, OpKind::Write, "/mail/alice/new"), None);
        assert_eq!(strikes(&mut fault, OpKind::Sync, "/mail/alice/new"), Some(Errno::IO));
        assert_eq!(strikes(&mut fault, OpKind::Sync, "/mail/alice/new"), None);
    }

    #[test]
    fn a_fault_by_chance_strikes_as_often_as_it_says() {
        let mut random = Random::new(1);
        let mut fault = Fault::once_in(OpKind::Sync, 10, Errno::IO);
        let struck = (0..1000).filter(|_| fault.strikes(OpKind::Sync, "", &mut random).is_some()).count();
        assert!((50..200).contains(&struck), "{struck} of 1000");
    }

    #[test]
    fn a_standing_fault_strikes_every_time() {
        let mut fault = Fault::every(OpKind::Write, Errno::NOSPC);
        for _ in 0..3 {
            assert_eq!(strikes(&mut fault, OpKind::Write, ""), Some(Errno::NOSPC));
        }
    }
}
