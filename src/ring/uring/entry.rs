//! From an operation to its submission entry.
//!
//! An entry carries addresses. Every one of them points to heap memory that the slot owns, and the ring
//! keeps the slot until the operation's last completion. Building an entry is safe; submitting it is what
//! rests on that.
#![forbid(unsafe_code)]

use std::ffi::CString;

use io_uring::types::OpenHow;
use io_uring::{opcode, squeue, types};

use super::setup::LinkBy;
use crate::limits;
use crate::ring::Token;
use crate::ring::op::{self, Fd, How, Op, Part};

/// An operation in flight and what its submission entry points to.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) op: Op,
    /// Somebody asked for an early end.
    pub(super) is_cancelled: bool,
    /// Holds addresses into `op`; rebuilt for every write.
    vectors: Vec<libc::iovec>,
    /// Kernel memory of an open: it reads this when it gets to the entry.
    how: Box<OpenHow>,
    /// `/proc/self/fd/N`, where a link goes that way.
    proc_path: CString,
}

impl Slot {
    /// A slot for `op`.
    pub(super) fn new(token: Token, op: Op) -> Self {
        Self {
            generation: token.generation,
            op,
            is_cancelled: false,
            vectors: Vec::new(),
            how: Box::new(OpenHow::new()),
            proc_path: CString::default(),
        }
    }

    /// What goes before the [`entry`](Self::entry), linked to it: the send of an exchange. A send that succeeds
    /// says nothing. One that fails, or sends less than all, completes, and then the receive neither happens nor
    /// says so (kernel 5.17). So one of the two completes, whatever happens.
    pub(super) fn entry_before(&self) -> Option<squeue::Entry> {
        let Op::Exchange { socket, bytes, from, .. } = &self.op else { return None };
        let rest = &bytes[*from..];
        let send = opcode::Send::new(types::Fd(socket.raw()), rest.as_ptr(), length32(rest.len()))
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        Some(send.flags(squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS))
    }

    /// The submission entry. Every address in it points into `self.op`, `self.vectors`, `self.how` or
    /// `self.proc_path`, all of them on the heap, so moving the slot moves none of them.
    pub(super) fn entry(&mut self, link_by: LinkBy, own: u16) -> squeue::Entry {
        match &mut self.op {
            Op::Accept { listener } => {
                opcode::AcceptMulti::new(types::Fd(listener.raw())).flags(libc::SOCK_CLOEXEC).build()
            }
            Op::Recv { socket } | Op::Exchange { socket, .. } => {
                opcode::Recv::new(types::Fd(socket.raw()), std::ptr::null_mut(), BUFFER_LENGTH)
                    .buf_group(BUFFER_GROUP)
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT)
            }
            Op::Send { socket, bytes, from } => {
                let rest = &bytes[*from..];
                opcode::Send::new(types::Fd(socket.raw()), rest.as_ptr(), length32(rest.len()))
                    .flags(libc::MSG_NOSIGNAL)
                    .build()
            }
            Op::Doorbell { event, count } => {
                opcode::Read::new(types::Fd(event.raw()), count.as_mut_ptr(), 8).build()
            }
            Op::Open { at, path, how, identity } => {
                *self.how = open_how(*how);
                let at = at.as_ref().map_or(libc::AT_FDCWD, |fd| fd.raw());
                opcode::OpenAt2::new(types::Fd(at), path.as_ptr(), &raw const *self.how)
                    .build()
                    .personality(identity.personality(own))
            }
            Op::MakeDir { at, name, identity } => opcode::MkDirAt::new(types::Fd(at.raw()), name.as_ptr())
                .mode(0o700)
                .build()
                .personality(identity.personality(own)),
            Op::Write { file, head, body, skip, offset } => {
                fill(&mut self.vectors, op::slices(head, body), *skip);
                writev(file, &self.vectors, *offset).build()
            }
            Op::WriteDurably { file, parts, skip, offset } => {
                fill(&mut self.vectors, parts.iter().flat_map(Part::slices), *skip);
                // A file system that takes buffered writes where they are submitted (XFS) would also wait for
                // the disk there, in the worker's own thread.
                writev(file, &self.vectors, *offset)
                    .rw_flags(libc::RWF_DSYNC)
                    .build()
                    .flags(squeue::Flags::ASYNC)
            }
            Op::Read { file, buffer, offset } => {
                let wanted = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
                opcode::Read::new(types::Fd(file.raw()), buffer.as_mut_ptr(), wanted).offset(*offset).build()
            }
            Op::Sync { file } => opcode::Fsync::new(types::Fd(file.raw())).build(),
            Op::WriteOut { file } => {
                let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
                    | libc::SYNC_FILE_RANGE_WRITE
                    | libc::SYNC_FILE_RANGE_WAIT_AFTER;
                opcode::SyncFileRange::new(types::Fd(file.raw()), TO_THE_END).flags(flags).build()
            }
            Op::Touch { file } => {
                opcode::Fallocate::new(types::Fd(file.raw()), 1).mode(libc::FALLOC_FL_KEEP_SIZE).build()
            }
            Op::SyncFs { .. } => unreachable!("goes to a helper thread"),
            Op::Link { file, into, name, identity } => {
                let (from, path, flags) = match link_by {
                    LinkBy::Descriptor => (file.raw(), c"".as_ptr(), libc::AT_EMPTY_PATH),
                    LinkBy::ProcPath => {
                        self.proc_path = CString::new(format!("/proc/self/fd/{}", file.raw()))
                            .expect("no NUL in a number");
                        (libc::AT_FDCWD, self.proc_path.as_ptr(), libc::AT_SYMLINK_FOLLOW)
                    }
                };
                opcode::LinkAt::new(types::Fd(from), path, types::Fd(into.raw()), name.as_ptr())
                    .flags(flags)
                    .build()
                    .personality(identity.personality(own))
            }
            Op::LinkName { from, old, into, name, identity } => {
                opcode::LinkAt::new(types::Fd(from.raw()), old.as_ptr(), types::Fd(into.raw()), name.as_ptr())
                    .build()
                    .personality(identity.personality(own))
            }
            Op::Rename { from, old, into, name, identity } => opcode::RenameAt::new(
                types::Fd(from.raw()),
                old.as_ptr(),
                types::Fd(into.raw()),
                name.as_ptr(),
            )
            .flags(libc::RENAME_NOREPLACE)
            .build()
            .personality(identity.personality(own)),
            Op::Unlink { at, name, identity } => opcode::UnlinkAt::new(types::Fd(at.raw()), name.as_ptr())
                .build()
                .personality(identity.personality(own)),
        }
    }
}

fn fill<'a>(vectors: &mut Vec<libc::iovec>, slices: impl Iterator<Item = &'a [u8]>, skip: usize) {
    vectors.clear();
    vectors.extend(
        op::vectors(slices, skip)
            .map(|bytes| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }),
    );
}

fn writev(file: &Fd, vectors: &[libc::iovec], offset: u64) -> opcode::Writev {
    opcode::Writev::new(types::Fd(file.raw()), vectors.as_ptr(), length32(vectors.len())).offset(offset)
}

fn open_how(how: How) -> OpenHow {
    let (flags, mode, resolve) = match how {
        How::Directory => (
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
            0,
            libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS,
        ),
        How::DirectoryBeneath => (
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
            0,
            libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS,
        ),
        How::DirectoryTrusted => {
            (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC, 0, libc::RESOLVE_NO_MAGICLINKS)
        }
        How::Unnamed => (libc::O_WRONLY | libc::O_TMPFILE | libc::O_CLOEXEC, 0o600, 0),
        How::New => (
            libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC,
            0o600,
            libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS,
        ),
        How::ReadOnly => (EXISTING | libc::O_RDONLY, 0, libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS),
        How::ReadWrite => (EXISTING | libc::O_RDWR, 0, libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS),
        How::Append => {
            (EXISTING | libc::O_RDWR | libc::O_APPEND, 0, libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS)
        }
    };
    OpenHow::new().flags(u64::from(flags.cast_unsigned())).mode(mode).resolve(resolve)
}

pub(super) fn length32(length: usize) -> u32 {
    u32::try_from(length).expect("replies, buffers and vectors are far below 4 GiB")
}

/// Whatever stands under the name: a pipe or a device must not keep us waiting.
const EXISTING: libc::c_int = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;

/// A length of nothing means all (sync_file_range(2)).
const TO_THE_END: u32 = 0;

pub(super) const BUFFER_GROUP: u16 = 0;
const BUFFER_LENGTH: u32 = {
    assert!(limits::BUFFER_BYTES < 1 << 20);
    #[allow(clippy::cast_possible_truncation, reason = "asserted on the line above")]
    {
        limits::BUFFER_BYTES as u32
    }
};
