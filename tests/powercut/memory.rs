//! A file system in memory, over FUSE, that fails at the step it is told to.
//!
//! It knows what a Maildir needs and no more, and no unnamed files (O_TMPFILE), like NFS: messages take the way over
//! `tmp/`. Nothing is kept in the kernel, so that every step of the server arrives here. syncfs(2) does not: the
//! kernel keeps that from FUSE (fs/fuse/inode.c, fuse_sync_fs), so only syncs of files and directories can fail.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};

/// A mounted one, for as long as this lives.
pub(crate) struct Memory {
    tree: Arc<Mutex<Tree>>,
    session: Option<BackgroundSession>,
    directory: PathBuf,
}

/// What a file system is asked for while a message is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    MakeDirectory,
    Create,
    Write,
    SyncFile,
    /// link(2) or rename(2).
    Name,
    SyncDirectory,
}

/// EIO at a step, after so many of these that went well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) step: Step,
    pub(crate) after: u32,
    /// At every one from there on, or at this one only.
    pub(crate) lasting: bool,
}

impl Memory {
    /// Mounts an empty one at `directory`, which is made. Without `moves` it knows no rename that replaces nothing.
    pub(crate) fn mount(directory: &Path, moves: bool) -> Self {
        std::fs::create_dir_all(directory).expect("a mount point");
        let tree = Arc::new(Mutex::new(Tree::new(moves)));
        let mut config = fuser::Config::default();
        config.mount_options = vec![MountOption::DefaultPermissions];
        config.acl = SessionACL::All;
        let session = Session::new(Shared(Arc::clone(&tree)), directory, &config).and_then(Session::spawn);
        Self { tree, session: Some(session.expect("a FUSE mount")), directory: directory.to_owned() }
    }

    /// From now on it fails like this, or no more.
    pub(crate) fn fail(&self, fault: Option<Fault>) {
        lock(&self.tree).fault = fault;
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.session.take().map(BackgroundSession::umount_and_join) {
            eprintln!("{} stays mounted: {error}", self.directory.display());
        }
    }
}

struct Tree {
    /// By inode number, which begins with 1; nothing is ever taken out.
    nodes: Vec<Node>,
    moves: bool,
    fault: Option<Fault>,
}

struct Node {
    kind: FileType,
    mode: u16,
    owner: (u32, u32),
    links: u32,
    bytes: Vec<u8>,
    entries: BTreeMap<OsString, INodeNo>,
}

impl Tree {
    fn new(moves: bool) -> Self {
        let mut tree = Self { nodes: Vec::new(), moves, fault: None };
        tree.add(FileType::Directory, 0o755, (0, 0));
        tree
    }

    fn add(&mut self, kind: FileType, mode: u32, owner: (u32, u32)) -> INodeNo {
        let mode = u16::try_from(mode & 0o7777).expect("twelve bits");
        let links = if kind == FileType::Directory { 2 } else { 0 };
        self.nodes.push(Node { kind, mode, owner, links, bytes: Vec::new(), entries: BTreeMap::new() });
        INodeNo(self.nodes.len() as u64)
    }

    fn node(&mut self, inode: INodeNo) -> &mut Node {
        let index = usize::try_from(inode.0 - 1).expect("an inode of ours");
        &mut self.nodes[index]
    }

    fn attributes(&mut self, inode: INodeNo) -> FileAttr {
        let node = self.node(inode);
        FileAttr {
            ino: inode,
            size: node.bytes.len() as u64,
            blocks: node.bytes.len().div_ceil(512) as u64,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: node.kind,
            perm: node.mode,
            nlink: node.links,
            uid: node.owner.0,
            gid: node.owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn find(&mut self, parent: INodeNo, name: &OsStr) -> Result<INodeNo, Errno> {
        self.node(parent).entries.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// A new node with a name.
    fn make(
        &mut self,
        step: Step,
        parent: INodeNo,
        name: &OsStr,
        kind: FileType,
        mode: u32,
        request: &Request,
    ) -> Result<FileAttr, Errno> {
        self.passes(step)?;
        let inode = self.add(kind, mode, (request.uid(), request.gid()));
        self.name(parent, name, inode)?;
        Ok(self.attributes(inode))
    }

    fn name(&mut self, parent: INodeNo, name: &OsStr, inode: INodeNo) -> Result<(), Errno> {
        let entries = &mut self.node(parent).entries;
        if entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        entries.insert(name.to_owned(), inode);
        self.node(inode).links += 1;
        Ok(())
    }

    fn forget_name(&mut self, parent: INodeNo, name: &OsStr) -> Result<INodeNo, Errno> {
        let inode = self.node(parent).entries.remove(name).ok_or(Errno::ENOENT)?;
        self.node(inode).links -= 1;
        Ok(inode)
    }

    fn rename(
        &mut self,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        if flags == RenameFlags::RENAME_NOREPLACE && !self.moves {
            return Err(Errno::EINVAL);
        }
        self.passes(Step::Name)?;
        let inode = self.find(from.0, from.1)?;
        if !flags.contains(RenameFlags::RENAME_NOREPLACE) {
            let _ = self.forget_name(to.0, to.1);
        }
        self.name(to.0, to.1, inode)?;
        self.forget_name(from.0, from.1).map(drop)
    }

    fn write(&mut self, inode: INodeNo, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
        self.passes(Step::Write)?;
        let start = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        let content = &mut self.node(inode).bytes;
        content.resize(content.len().max(start + bytes.len()), 0);
        content[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(u32::try_from(bytes.len()).expect("a request"))
    }

    /// Whether this step goes well.
    fn passes(&mut self, step: Step) -> Result<(), Errno> {
        let Some(fault) = self.fault.as_mut().filter(|fault| fault.step == step) else {
            return Ok(());
        };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        if !fault.lasting {
            self.fault = None;
        }
        Err(Errno::EIO)
    }
}

struct Shared(Arc<Mutex<Tree>>);

impl Filesystem for Shared {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut tree = lock(&self.0);
        match tree.find(parent, name) {
            Ok(inode) => reply.entry(&NOT_KEPT, &tree.attributes(inode), Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NOT_KEPT, &lock(&self.0).attributes(inode));
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _accessed: Option<TimeOrNow>,
        _modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _changed_at: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = lock(&self.0);
        let node = tree.node(inode);
        if let Some(mode) = mode {
            node.mode = u16::try_from(mode & 0o7777).expect("twelve bits");
        }
        node.owner = (uid.unwrap_or(node.owner.0), gid.unwrap_or(node.owner.1));
        if let Some(size) = size {
            node.bytes.resize(usize::try_from(size).expect("a small file"), 0);
        }
        reply.attr(&NOT_KEPT, &tree.attributes(inode));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let mode = mode & !umask;
        let made = lock(&self.0).make(Step::MakeDirectory, parent, name, FileType::Directory, mode, request);
        match made {
            Ok(attributes) => reply.entry(&NOT_KEPT, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mode = mode & !umask;
        match lock(&self.0).make(Step::Create, parent, name, FileType::RegularFile, mode, request) {
            Ok(attributes) => {
                reply.created(
                    &NOT_KEPT,
                    &attributes,
                    Generation(0),
                    FileHandle(0),
                    FopenFlags::FOPEN_DIRECT_IO,
                );
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut tree = lock(&self.0);
        let bytes = &tree.node(inode).bytes;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = bytes.len().min(start + usize::try_from(size).expect("a request"));
        reply.data(&bytes[start..end]);
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _how: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match lock(&self.0).write(inode, offset, bytes) {
            Ok(count) => reply.written(count),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        answer(lock(&self.0).passes(Step::SyncFile), reply);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        answer(lock(&self.0).passes(Step::SyncDirectory), reply);
    }

    fn link(&self, _request: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut tree = lock(&self.0);
        match tree.passes(Step::Name).and_then(|()| tree.name(parent, name, inode)) {
            Ok(()) => reply.entry(&NOT_KEPT, &tree.attributes(inode), Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        answer(lock(&self.0).rename((parent, name), (new_parent, new_name), flags), reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(lock(&self.0).forget_name(parent, name).map(drop), reply);
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut tree = lock(&self.0);
        let entries = tree.node(inode).entries.clone();
        let skip = usize::try_from(offset).expect("a small directory");
        for (index, (name, inode)) in entries.into_iter().enumerate().skip(skip) {
            let kind = tree.node(inode).kind;
            if reply.add(inode, index as u64 + 1, kind, name) {
                break;
            }
        }
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
        // close(2), which promises nothing.
        reply.ok();
    }
}

fn answer(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn lock(tree: &Mutex<Tree>) -> MutexGuard<'_, Tree> {
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kernel asks again for everything.
const NOT_KEPT: Duration = Duration::ZERO;
