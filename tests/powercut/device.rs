//! A disk that keeps a diary: a FUSE file system with one file, `disk`, over which a loop device stands.
//!
//! The file is opened with FOPEN_DIRECT_IO and the connection has no writeback cache, so a write of the loop driver is
//! a FUSE_WRITE at once and a flush of the loop device (REQ_PREFLUSH, and REQ_FUA, which the block layer turns into a
//! flush behind the write) is a FUSE_FSYNC: nothing is kept back and nothing is hidden. One thread answers, so the
//! log has the order of the answers. A flush takes about as long as that of a real disk: whoever says 250 before it
//! has ended is found out by that.
//!
//! The disk can be told to fail.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};
use memchr::memmem;

use crate::blocklog::{BlockLog, Event};
use crate::image::Image;

/// A disk, for as long as this lives.
pub(crate) struct Device {
    state: Arc<State>,
    session: Option<BackgroundSession>,
    directory: PathBuf,
}

struct State {
    number: usize,
    image: Mutex<Image>,
    log: Arc<BlockLog>,
    faults: Mutex<Faults>,
}

/// When a disk answers EIO, which it does for ever then; what it answers so is not done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// To writes, after so many more.
    pub(crate) after_writes: Option<u32>,
    /// To flushes, after so many more.
    pub(crate) after_flushes: Option<u32>,
    /// To everything, after so many more writes.
    pub(crate) dies_after: Option<u32>,
    /// To writes that have these bytes in them.
    pub(crate) poison: Option<&'static [u8]>,
}

impl Device {
    /// Shows `image` as disk `number` in `directory`, which is made.
    pub(crate) fn show(
        number: usize,
        image: Image,
        log: &Arc<BlockLog>,
        directory: &Path,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let state = Arc::new(State {
            number,
            image: Mutex::new(image),
            log: Arc::clone(log),
            faults: Mutex::default(),
        });
        let mut config = fuser::Config::default();
        config.mount_options = vec![MountOption::FSName("posthaste-powercut".into())];
        let session = Session::new(Disk(Arc::clone(&state)), directory, &config)?.spawn()?;
        Ok(Self { state, session: Some(session), directory: directory.to_owned() })
    }

    /// The file that a loop device can stand over.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// From now on it fails like this, or no more.
    pub(crate) fn fail(&self, faults: Faults) {
        *lock(&self.state.faults) = faults;
    }

    /// What is on it.
    pub(crate) fn image(&self) -> Image {
        lock(&self.state.image).clone()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.session.take().map(BackgroundSession::umount_and_join) {
            eprintln!("{} stays mounted: {error}", self.directory.display());
        }
    }
}

struct Disk(Arc<State>);

impl Disk {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let directory = inode == INodeNo::ROOT;
        let size = if directory { 0 } else { lock(&self.0.image).bytes() };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: if directory { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Disk {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Larger requests, hence fewer; the kernel splits what is larger still.
        let _ = config.add_capabilities(InitFlags::FUSE_MAX_PAGES);
        Ok(())
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == FILE {
            reply.entry(&FOR_EVER, &self.attributes(INodeNo(2)), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attributes(inode));
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let image = lock(&self.0.image);
        let left = image.bytes().saturating_sub(offset).min(u64::from(size));
        let mut bytes = vec![0; usize::try_from(left).expect("a request")];
        image.read(offset, &mut bytes);
        reply.data(&bytes);
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _how: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if lock(&self.0.faults).refuses_write(bytes) {
            return reply.error(Errno::EIO);
        }
        lock(&self.0.image).write(offset, bytes);
        self.0.log.push(self.0.number, Event::Write { offset, bytes: bytes.into() });
        reply.written(u32::try_from(bytes.len()).expect("a request"));
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        lock(&self.0.image).zero(offset, length);
        self.0.log.push(self.0.number, Event::Zero { offset, length });
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        if lock(&self.0.faults).refuses_flush() {
            return reply.error(Errno::EIO);
        }
        // The latency of the disk, not a wait for something to happen.
        std::thread::sleep(FLUSH);
        self.0.log.push(self.0.number, Event::Flush);
        reply.ok();
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // close(2), which promises nothing about the disk.
        reply.ok();
    }
}

impl Faults {
    fn refuses_write(&mut self, bytes: &[u8]) -> bool {
        let poisoned = self.poison.is_some_and(|poison| memmem::find(bytes, poison).is_some());
        poisoned || runs_out(&mut self.after_writes) || runs_out(&mut self.dies_after)
    }

    fn refuses_flush(&mut self) -> bool {
        runs_out(&mut self.after_flushes) || self.dies_after == Some(0)
    }
}

/// Counts down; whether it was at zero before.
fn runs_out(left: &mut Option<u32>) -> bool {
    match left {
        None => false,
        Some(0) => true,
        Some(left) => {
            *left -= 1;
            false
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one file.
const FILE: &str = "disk";

/// Attributes never change.
const FOR_EVER: Duration = Duration::from_secs(86_400);

/// What a flush takes: an NVMe disk without power-loss protection needs about as long.
const FLUSH: Duration = Duration::from_millis(1);
