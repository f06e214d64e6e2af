//! The only place that talks to the kernel about sockets and files.
//!
//! A [`Ring`] takes operations that own every byte of memory they name, keeps them until the kernel is
//! done, and hands them back with the outcome. So nothing above this module can free, move or reuse
//! memory that the kernel still reads or writes, and nothing above it needs `unsafe`.
//!
//! [`uring::Uring`] is the real ring, [`sim::Sim`] the simulated one: same trait, seeded order, a disk
//! and a network in memory. The module knows no mail.

use std::ffi::CString;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;

pub mod op;
pub mod pool;
pub mod sim;

mod syncfs;
pub mod uring;

pub use op::{Bytes, Done, Fd, How, Identity, Op, Owner, Part, Passed, Peer};
pub use pool::{Lease, Pool};
pub use syncfs::{Approach, SyncThreads};

/// Names one operation in flight: the place of its waiter and the generation of that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Index into the waiters of the executor and the operations of the ring.
    pub index: u32,
    /// Distinguishes the users of one index; never reused within 2^32 uses.
    pub generation: u32,
}

/// A moment of the ring's monotonic clock, in nanoseconds from an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// The moment `by` after this one; the end of time where that cannot be said.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What came of an operation.
#[derive(Debug)]
pub struct Completion {
    /// The token it was pushed with.
    pub token: Token,
    /// What the kernel said.
    pub result: Result<Done, Errno>,
    /// The operation and its memory, given back with the last completion; `None` while a multishot
    /// operation goes on.
    pub op: Option<Op>,
}

/// Submits operations and reports what came of them.
///
/// One ring belongs to one thread. Dropping it waits for nothing: the owner cancels what is in flight
/// and turns the ring until every operation has come back (a session ends by cancel, await, drop).
pub trait Ring {
    /// Takes `op` and the memory it owns; its completions carry `token`.
    fn push(&mut self, token: Token, op: Op);

    /// Asks for an early end of the operation pushed with `token`. It still completes, with
    /// `ECANCELED` or with whatever had already happened.
    fn cancel(&mut self, token: Token);

    /// Submits what was pushed, waits up to `wait` for a completion (`None`: for as long as it
    /// takes; zero: not at all) and appends what completed to `done`.
    ///
    /// # Errors
    /// Only what makes further work impossible; the process should end.
    fn turn(&mut self, wait: Option<Duration>, done: &mut Vec<Completion>) -> Result<(), Errno>;

    /// The receive buffers of this ring.
    fn pool(&self) -> &Rc<Pool>;

    /// The monotonic clock.
    fn now(&self) -> Time;

    /// The wall clock: time since the Unix epoch. May step either way.
    fn wall(&self) -> Duration;

    /// The file system that an open descriptor lives on (`st_dev`). Does not block on local file
    /// systems: the inode is in memory because it is open.
    ///
    /// # Errors
    /// As fstat(2).
    fn device(&self, fd: &Fd) -> Result<u64, Errno>;

    /// Whether a directory was removed since it was opened. Does not block on local file systems, as above.
    ///
    /// # Errors
    /// As fstat(2).
    fn is_removed(&self, directory: &Fd) -> Result<bool, Errno>;

    /// The names in a directory but for `.` and `..`, in any order. Blocks for as long as the disk takes, so it
    /// is for recovery alone, never for a worker that serves.
    ///
    /// # Errors
    /// As getdents(2).
    fn names(&self, directory: &Fd) -> Result<Vec<CString>, Errno>;

    /// Whether on the file system of `fd` a name can only survive a power cut together with the bytes that were
    /// written out ([`Op::WriteOut`]) before the name was given.
    ///
    /// # Errors
    /// As fstatfs(2).
    fn keeps_order(&self, fd: &Fd) -> Result<bool, Errno>;

    /// How many rounds of [`Op::SyncFs`] have failed on the file system of `on`. A success means something for
    /// data that was written after this was asked, and only if the number is still the same.
    ///
    /// # Errors
    /// As fstat(2), or when no thread or descriptor is to be had.
    fn sync_failures(&mut self, on: &Fd) -> Result<u64, Errno>;

    /// Says that an [`Op::SyncFs`] will be pushed soon; to be dropped when it has been.
    fn approach(&self) -> Approach;

    /// Who is at the other end of a connected socket.
    fn peer(&self, fd: &Fd) -> Peer;

    /// Takes over a descriptor that another ring passed on.
    fn take_over(&mut self, passed: Passed) -> Rc<Fd>;

    /// The identity under which to open and create for `owner`.
    ///
    /// # Errors
    /// `EPERM` when this process may not act for that owner.
    fn identity(&mut self, owner: Owner) -> Result<Identity, Errno>;
}
