//! The operations: what to do, and the memory to do it with.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::RawFd;
use std::rc::Rc;

use super::pool::Lease;
use crate::limits;

/// One request to the kernel. It owns what it names until it has completed.
#[derive(Debug)]
pub enum Op {
    /// Accepts connections, one completion each, until cancelled or failed (multishot).
    Accept {
        /// A listening socket.
        listener: Rc<Fd>,
    },
    /// Receives into a buffer of the pool, taken only when there is something to receive.
    Recv {
        /// A connected socket.
        socket: Rc<Fd>,
    },
    /// Sends the part of `bytes` that starts at `from`; may send less than asked.
    Send {
        /// A connected socket.
        socket: Rc<Fd>,
        /// What to send; comes back with the completion, so the buffer can be used again.
        bytes: Vec<u8>,
        /// How much of `bytes` went out before.
        from: usize,
    },
    /// Sends the part of `bytes` that starts at `from`, all of it, and then receives as [`Recv`](Self::Recv)
    /// does: replies, and what the client says to them. Gives what the receive gives; an error is that of the
    /// receive if `sent` says so, and otherwise that of the send.
    Exchange {
        /// A connected socket.
        socket: Rc<Fd>,
        /// What to send, at least a byte; comes back with the completion, so the buffer can be used again.
        bytes: Vec<u8>,
        /// How much of `bytes` went out before; when it comes back unsent, how much did until now.
        from: usize,
        /// Comes back as whether all of `bytes` went out.
        sent: bool,
    },
    /// Waits until an eventfd is written to, and clears it.
    Doorbell {
        /// The eventfd.
        event: Rc<Fd>,
        /// Where the kernel puts the count.
        count: Box<[u8; 8]>,
    },
    /// openat2(2).
    Open {
        /// Where a relative path starts; the working directory when `None` (paths are absolute then).
        at: Option<Rc<Fd>>,
        /// The path.
        path: CString,
        /// Flags, mode and the rules of resolution.
        how: How,
        /// Who opens.
        identity: Identity,
    },
    /// mkdirat(2), for a single name, mode 0700.
    MakeDir {
        /// The parent.
        at: Rc<Fd>,
        /// One path component.
        name: CString,
        /// Who creates, and so owns.
        identity: Identity,
    },
    /// Writes `head` and then `body` at `offset`, leaving out the first `skip` bytes of the two; may
    /// write less than asked.
    Write {
        /// The file.
        file: Rc<Fd>,
        /// Bytes of this file alone: the trace headers.
        head: Vec<u8>,
        /// Bytes that other writes may share.
        body: Rc<Vec<Bytes>>,
        /// How much of `head` and `body` was written before.
        skip: usize,
        /// Where in the file the first byte goes.
        offset: u64,
    },
    /// Reads at `offset` into `buffer`, from its start; its length says how much is wanted. May read less;
    /// nothing at all at the end of the file. What lies behind the count in the buffer is as it was.
    Read {
        /// The file.
        file: Rc<Fd>,
        /// Where the bytes go; comes back with the completion.
        buffer: Vec<u8>,
        /// Where in the file the first byte is.
        offset: u64,
    },
    /// Writes the parts one after the other at `offset`, leaving out the first `skip` bytes of them all, and
    /// completes when those bytes are durable (`RWF_DSYNC`). May write less than asked. For bytes within a
    /// size that is durable: neither a name nor anything else of the file becomes durable by it.
    WriteDurably {
        /// The file.
        file: Rc<Fd>,
        /// What to write; comes back with the completion.
        parts: Vec<Part>,
        /// How much of the parts was written before.
        skip: usize,
        /// Where in the file the first byte goes.
        offset: u64,
    },
    /// fsync(2) of a file or directory.
    Sync {
        /// The file or directory.
        file: Rc<Fd>,
    },
    /// sync_file_range(2) of the whole file: its bytes have gone to the device afterwards, whose cache may still
    /// hold them. Makes nothing durable, but see [`Ring::keeps_order`](super::Ring::keeps_order).
    WriteOut {
        /// The file.
        file: Rc<Fd>,
    },
    /// Changes the times of a file that has bytes on a disk, and nothing else (fallocate(2) of its first byte, which is there
    /// already). Makes nothing durable: it asks whether the file system still takes changes. `EROFS` or `EIO` when
    /// its log has failed, `EOPNOTSUPP` where it cannot be asked so.
    Touch {
        /// The file, open for writing.
        file: Rc<Fd>,
    },
    /// syncfs(2): everything of the file system that `on` lives on. There is no such opcode; a helper
    /// thread does it, one call for all who wait.
    SyncFs {
        /// Any descriptor on that file system, not `O_PATH`.
        on: Rc<Fd>,
    },
    /// Gives an unnamed file (`O_TMPFILE`) its name; `EEXIST` when the name is taken.
    Link {
        /// The file, opened under the same identity.
        file: Rc<Fd>,
        /// The directory.
        into: Rc<Fd>,
        /// The name.
        name: CString,
        /// Who links.
        identity: Identity,
    },
    /// Gives a named file a second name; `EEXIST` when the name is taken.
    LinkName {
        /// The directory of the first name.
        from: Rc<Fd>,
        /// The first name.
        old: CString,
        /// The directory of the second.
        into: Rc<Fd>,
        /// The second name.
        name: CString,
        /// Who links.
        identity: Identity,
    },
    /// renameat2(2) that replaces nothing: `EEXIST` when the name is taken, `EINVAL` where the file system
    /// cannot promise that.
    Rename {
        /// The directory that holds the file.
        from: Rc<Fd>,
        /// Its present name.
        old: CString,
        /// The directory that will hold it.
        into: Rc<Fd>,
        /// Its name there.
        name: CString,
        /// Who renames.
        identity: Identity,
    },
    /// unlinkat(2) of a file.
    Unlink {
        /// The directory.
        at: Rc<Fd>,
        /// The name.
        name: CString,
        /// Who unlinks.
        identity: Identity,
    },
}

/// What a successful operation gives.
#[derive(Debug)]
pub enum Done {
    /// Bytes sent, read or written.
    Count(usize),
    /// A descriptor: opened, or accepted.
    Opened(Rc<Fd>),
    /// Bytes received.
    Received(Lease),
    /// The peer closed its side.
    Closed,
    /// Nothing but success.
    Plain,
}

/// How to open: openat2(2)'s `open_how`, by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A directory; symbolic links are refused in the whole path (`ELOOP`).
    Directory,
    /// A directory at or beneath `at`; neither symbolic links nor `..` lead out (`EXDEV`, `ELOOP`).
    DirectoryBeneath,
    /// A directory by a path that the administrator wrote: symbolic links are followed.
    DirectoryTrusted,
    /// A new unnamed file in the directory, mode 0600 (`O_TMPFILE`).
    Unnamed,
    /// A new named file, mode 0600 (`O_CREAT | O_EXCL`).
    New,
    /// An existing file at or beneath `at`, for reading; neither symbolic links nor `..` lead out (`EXDEV`,
    /// `ELOOP`). Opens whatever is there without waiting for it; a directory says `EISDIR` when it is read.
    ReadOnly,
    /// An existing file at or beneath `at`, by the same rules, for reading and for writing in place.
    ReadWrite,
    /// An existing file at or beneath `at`, by the same rules, for reading and for writing behind its end: whatever
    /// offset a write names (`O_APPEND`).
    Append,
}

/// One of the pieces that a durable write gathers.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Bytes of this write alone.
    pub head: Cow<'static, [u8]>,
    /// Bytes behind them that other writes may share.
    pub body: Rc<Vec<Bytes>>,
}

impl Part {
    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        slices(&self.head, &self.body).map(<[u8]>::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        slices(&self.head, &self.body)
    }
}

/// What a write of `head` and `body` consists of, in order.
pub(super) fn slices<'a>(head: &'a [u8], body: &'a [Bytes]) -> impl Iterator<Item = &'a [u8]> {
    std::iter::once(head).chain(body.iter().map(Bytes::as_slice))
}

/// What one write takes of `slices` without their first `skip` bytes: as many vectors as the kernel allows
/// (IOV_MAX), none of them empty. The rest goes with the next write.
pub(super) fn vectors<'a>(
    slices: impl Iterator<Item = &'a [u8]>,
    mut skip: usize,
) -> impl Iterator<Item = &'a [u8]> {
    let rest = slices.map(move |slice| {
        let skipped = skip.min(slice.len());
        skip -= skipped;
        &slice[skipped..]
    });
    rest.filter(|slice| !slice.is_empty()).take(limits::WRITE_VECTORS_MAX)
}

/// Bytes that a write can share with others without copying them.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// Part of a receive buffer.
    Leased(Rc<Lease>, Range<usize>),
    /// A constant.
    Static(&'static [u8]),
    /// A copy, where one was needed.
    Owned(Rc<[u8]>),
}

impl Bytes {
    /// The bytes themselves.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Leased(lease, range) => &lease.bytes()[range.clone()],
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Leased(_, range) => range.len(),
            Self::Static(bytes) => bytes.len(),
            Self::Owned(bytes) => bytes.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whose files: what the user table says of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// The user that the server runs as.
    Server,
    /// This user and group.
    User {
        /// User id, never 0.
        uid: u32,
        /// Group id, never 0.
        gid: u32,
    },
}

/// Under which credentials an operation runs. Kept alive by the operations that use it.
#[derive(Clone, Debug)]
pub enum Identity {
    /// The server's own.
    Server,
    /// Credentials registered with the ring (a personality, kernel 5.6).
    Registered(Rc<u16>),
}

impl Identity {
    /// The number for the submission entry, where the server's own is registered as `own`.
    #[must_use]
    pub(super) fn personality(&self, own: u16) -> u16 {
        match self {
            Self::Server => own,
            Self::Registered(id) => **id,
        }
    }
}

/// The other end of a connection, as far as the `Received` header and the log care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A Unix socket.
    Local,
    /// A TCP socket.
    Internet(IpAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Internet(address) => write!(f, "{address}"),
        }
    }
}

/// An open descriptor on its way from one worker to another, which must take it.
#[derive(Debug)]
pub struct Passed(RawFd);

impl Passed {
    /// The descriptor, for the ring that takes it over.
    pub(super) fn take(self, closing: &Closing) -> Rc<Fd> {
        Fd::new(self.0, closing)
    }
}

const NO_FD: RawFd = -1;

/// Descriptors whose last user is gone; the ring closes them in its next turn.
pub type Closing = Rc<RefCell<Vec<RawFd>>>;

/// A descriptor that belongs to a ring. Closed through the ring when its last holder drops it, so an
/// operation in flight (which holds it) never meets a number that has been given to another file.
pub struct Fd {
    raw: RawFd,
    closing: Closing,
    /// The file system, once somebody has asked. It does not change while the file is open.
    pub(super) device: Cell<Option<u64>>,
}

impl Fd {
    /// Takes over an open descriptor; it will be closed by whoever drains `closing`.
    #[must_use]
    pub fn new(raw: RawFd, closing: &Closing) -> Rc<Self> {
        Rc::new(Self { raw, closing: Rc::clone(closing), device: Cell::new(None) })
    }

    /// Gives the descriptor away, to the ring of another worker; `None` while others hold it too.
    #[must_use]
    pub fn pass(self: Rc<Self>) -> Option<Passed> {
        let mut fd = Rc::into_inner(self)?;
        Some(Passed(std::mem::replace(&mut fd.raw, NO_FD)))
    }

    /// The number, for use while this value lives.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.raw
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        if self.raw != NO_FD {
            self.closing.borrow_mut().push(self.raw);
        }
    }
}

impl fmt::Debug for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fd({})", self.raw)
    }
}
