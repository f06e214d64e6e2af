//! The simulated disk: directories, files with link counts, symbolic links, several devices.
//!
//! Every file and directory has a live version, which operations see, and a durable one, which a power
//! cut leaves. What separates them is the [`Log`]: the changes not yet synced, in the order in which
//! they were made. Permissions are not simulated; who created a file is only noted.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use rustix::io::Errno;

use super::log::{Change, Log, Name, Sequence};
use crate::ring::Owner;

/// Names a file, directory or symbolic link.
pub(super) type NodeId = u64;

/// Names a file system.
pub(super) type DeviceId = u64;

/// What a simulated file system can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Whether it knows unnamed files (`O_TMPFILE`); NFS, for one, does not.
    pub has_tmpfile: bool,
    /// Whether names survive a power cut in the order in which they were given, and none without the bytes that
    /// had been written out before; as ext4 and XFS do it with their log.
    pub keeps_order: bool,
}

impl Default for Device {
    fn default() -> Self {
        Self { has_tmpfile: true, keeps_order: false }
    }
}

/// What a node is, and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Shared between versions, and copies of the world, until one of them changes.
    File(Rc<Vec<u8>>),
    Directory(BTreeMap<Vec<u8>, NodeId>),
    Symlink(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) live: Content,
    pub(super) durable: Content,
    pub(super) device: DeviceId,
    pub(super) owner: Owner,
    pub(super) links: u32,
    /// Descriptors that hold it.
    pub(super) opens: u32,
    /// Of a directory: what `..` means in it.
    pub(super) parent: NodeId,
    /// Made without a name: alone among the nodes without links it may be given one.
    unnamed: bool,
}

/// Which rules openat2(2) resolves a path by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) follow: bool,
    pub(super) beneath: bool,
}

/// All file systems, as one tree.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) devices: Vec<Device>,
    /// Root of a file system, by the directory that it covers.
    pub(super) mounts: BTreeMap<NodeId, NodeId>,
    pub(super) log: Log,
    /// Files with unwritten data that was given up, of which nobody has heard yet.
    pub(super) errors: BTreeSet<NodeId>,
    next: NodeId,
}

type Outcome<T> = Result<T, Errno>;

impl Disk {
    pub(super) fn new() -> Self {
        let mut disk = Self {
            nodes: BTreeMap::new(),
            devices: vec![Device::default()],
            mounts: BTreeMap::new(),
            log: Log::default(),
            errors: BTreeSet::new(),
            next: ROOT,
        };
        disk.add(Content::Directory(BTreeMap::new()), 0, ROOT, Owner::Server);
        disk
    }

    /// Finds what `path` names, from `start` unless it is absolute.
    pub(super) fn resolve(&self, start: NodeId, path: &[u8], rules: Rules) -> Outcome<NodeId> {
        match path {
            [] => return Err(Errno::NOENT),
            [b'/', ..] if rules.beneath => return Err(Errno::XDEV),
            _ if path.len() >= PATH_BYTES_MAX => return Err(Errno::NAMETOOLONG),
            _ => {}
        }
        let mut at = if path[0] == b'/' { ROOT } else { start };
        let mut followed = 0;
        let mut ahead = components(path);
        while let Some(component) = ahead.pop() {
            match component.as_slice() {
                b"." => self.entries(at).map(|_| ())?,
                b".." if rules.beneath && at == start => return Err(Errno::XDEV),
                b".." => at = self.node(at).parent,
                name => {
                    let child = self.child(at, name)?;
                    let Content::Symlink(target) = &self.node(child).live else {
                        at = child;
                        continue;
                    };
                    followed += 1;
                    if !rules.follow || followed > SYMLINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    if target.first() == Some(&b'/') {
                        at = ROOT;
                    }
                    ahead.append(&mut components(target));
                }
            }
        }
        Ok(at)
    }

    /// As open(2) with `O_DIRECTORY`.
    pub(super) fn open_directory(&self, start: NodeId, path: &[u8], rules: Rules) -> Outcome<NodeId> {
        let node = self.resolve(start, path, rules)?;
        self.entries(node).map(|_| node)
    }

    /// As open(2) with `O_TMPFILE`.
    pub(super) fn open_unnamed(&mut self, start: NodeId, path: &[u8], owner: Owner) -> Outcome<NodeId> {
        let follow = Rules { follow: true, beneath: false };
        let directory = self.open_directory(start, path, follow)?;
        self.living(directory)?;
        let device = self.node(directory).device;
        if !self.device(device).has_tmpfile {
            return Err(Errno::OPNOTSUPP);
        }
        let node = self.add(Content::File(Rc::default()), device, directory, owner);
        self.node_mut(node).unnamed = true;
        Ok(node)
    }

    /// As open(2) with `O_CREAT | O_EXCL`.
    pub(super) fn open_new(&mut self, start: NodeId, path: &[u8], owner: Owner) -> Outcome<NodeId> {
        let beneath = Rules { follow: false, beneath: true };
        let (above, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (self.open_directory(start, &path[..slash], beneath)?, &path[slash + 1..]),
            None => (start, path),
        };
        self.create(above, name, Content::File(Rc::default()), owner)
    }

    /// As open(2) of what exists; `EISDIR` for a directory that is to be written.
    pub(super) fn open_existing(&self, start: NodeId, path: &[u8], writes: bool) -> Outcome<NodeId> {
        let node = self.resolve(start, path, Rules { follow: false, beneath: true })?;
        match &self.node(node).live {
            Content::Directory(_) if writes => Err(Errno::ISDIR),
            _ => Ok(node),
        }
    }

    /// As pread(2), whole: the bytes from `offset` on, at most `wanted`.
    pub(super) fn read(&self, file: NodeId, offset: u64, wanted: usize) -> Outcome<&[u8]> {
        let Content::File(data) = &self.node(file).live else {
            return Err(Errno::ISDIR);
        };
        let start = usize::try_from(offset).map_or(data.len(), |offset| offset.min(data.len()));
        Ok(&data[start..data.len().min(start.saturating_add(wanted))])
    }

    /// Bytes of a file.
    pub(super) fn length(&self, file: NodeId) -> Outcome<u64> {
        match &self.node(file).live {
            Content::File(data) => Ok(data.len() as u64),
            _ => Err(Errno::BADF),
        }
    }

    /// As mkdir(2), for one name.
    pub(super) fn make_directory(&mut self, at: NodeId, name: &[u8], owner: Owner) -> Outcome<NodeId> {
        self.create(at, name, Content::Directory(BTreeMap::new()), owner)
    }

    /// Makes a symbolic link.
    pub(super) fn make_symlink(&mut self, at: NodeId, name: &[u8], target: &[u8]) -> Outcome<()> {
        self.create(at, name, Content::Symlink(target.to_vec()), Owner::Server).map(|_| ())
    }

    fn create(&mut self, at: NodeId, name: &[u8], content: Content, owner: Owner) -> Outcome<NodeId> {
        self.vacant(at, name)?;
        let device = self.node(at).device;
        let node = self.add(content, device, at, owner);
        self.change_names(at, vec![Name::added(at, name, node)]);
        Ok(node)
    }

    /// As pwrite(2), whole. Gives the place of the change in the log.
    pub(super) fn write(&mut self, file: NodeId, offset: u64, bytes: Vec<u8>) -> Outcome<Sequence> {
        let Content::File(data) = &mut self.node_mut(file).live else {
            return Err(Errno::BADF);
        };
        put(Rc::make_mut(data), offset, &bytes);
        Ok(self.log.add(file, Change::Data { file, offset, bytes: bytes.into() }))
    }

    /// As link(2) from an open file.
    pub(super) fn link(&mut self, file: NodeId, into: NodeId, name: &[u8]) -> Outcome<()> {
        let node = self.node(file);
        if matches!(node.live, Content::Directory(_)) {
            return Err(Errno::PERM);
        }
        if node.links == 0 && !node.unnamed {
            return Err(Errno::NOENT);
        }
        if node.device != self.node(into).device {
            return Err(Errno::XDEV);
        }
        self.vacant(into, name)?;
        self.change_names(into, vec![Name::added(into, name, file)]);
        Ok(())
    }

    /// As link(2) from a name.
    pub(super) fn link_name(&mut self, from: NodeId, old: &[u8], into: NodeId, name: &[u8]) -> Outcome<()> {
        let file = self.child(from, old)?;
        self.link(file, into, name)
    }

    /// As renameat2(2) with `RENAME_NOREPLACE`, of a file.
    pub(super) fn rename(&mut self, from: NodeId, old: &[u8], into: NodeId, name: &[u8]) -> Outcome<()> {
        let file = self.child(from, old)?;
        self.living(into)?;
        if self.node(file).device != self.node(into).device {
            return Err(Errno::XDEV);
        }
        assert!(
            !matches!(self.node(file).live, Content::Directory(_)),
            "the simulated disk renames no directories, as no delivery does"
        );
        self.vacant(into, name)?;
        let changes = vec![Name::removed(from, old, file), Name::added(into, name, file)];
        self.change_names(into, changes);
        Ok(())
    }

    /// As unlink(2) of a file.
    pub(super) fn unlink(&mut self, at: NodeId, name: &[u8]) -> Outcome<()> {
        let node = self.child(at, name)?;
        if matches!(self.node(node).live, Content::Directory(_)) {
            return Err(Errno::ISDIR);
        }
        self.change_names(at, vec![Name::removed(at, name, node)]);
        self.forget_if_unused(node);
        Ok(())
    }

    /// Changes names in the live version, and notes that `settled_by` has to be synced for it.
    fn change_names(&mut self, settled_by: NodeId, names: Vec<Name>) {
        for change in &names {
            let node = self.node_mut(change.node);
            if change.is_added {
                node.links += 1;
                node.unnamed = false;
            } else {
                node.links -= 1;
            }
            change.apply(&mut self.node_mut(change.directory).live);
        }
        self.log.add(settled_by, Change::Names(names));
    }

    /// A descriptor on `node` was made.
    pub(super) fn hold(&mut self, node: NodeId) {
        self.node_mut(node).opens += 1;
    }

    /// A descriptor on `node` was closed.
    pub(super) fn let_go(&mut self, node: NodeId) {
        self.node_mut(node).opens -= 1;
        self.forget_if_unused(node);
    }

    /// Frees a file that was never named, or that nobody can reach now or after a power cut.
    fn forget_if_unused(&mut self, id: NodeId) {
        let node = self.node(id);
        let is_unused = node.links == 0 && node.opens == 0 && id != ROOT;
        if is_unused && matches!(node.live, Content::File(_)) && self.log.forget(id) {
            self.nodes.remove(&id);
        }
    }

    fn add(&mut self, content: Content, device: DeviceId, parent: NodeId, owner: Owner) -> NodeId {
        let id = self.next;
        self.next += 1;
        let durable = match &content {
            Content::File(_) => Content::File(Rc::default()),
            Content::Directory(_) => Content::Directory(BTreeMap::new()),
            Content::Symlink(target) => Content::Symlink(target.clone()),
        };
        self.nodes.insert(
            id,
            Node { live: content, durable, device, owner, links: 0, opens: 0, parent, unnamed: false },
        );
        id
    }

    /// Puts a new file system on the directory `covered`.
    pub(super) fn mount(&mut self, covered: NodeId, device: Device) {
        let id = u64::try_from(self.devices.len()).expect("a few");
        self.devices.push(device);
        let parent = self.node(covered).parent;
        let root = self.add(Content::Directory(BTreeMap::new()), id, parent, Owner::Server);
        self.mounts.insert(covered, root);
    }

    /// What the entry `name` of a directory leads to: the root of what is mounted there.
    pub(super) fn child(&self, directory: NodeId, name: &[u8]) -> Outcome<NodeId> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let child = *self.entries(directory)?.get(name).ok_or(Errno::NOENT)?;
        Ok(self.mounts.get(&child).copied().unwrap_or(child))
    }

    /// Whether a name can be made: the directory exists, the name is free.
    fn vacant(&self, directory: NodeId, name: &[u8]) -> Outcome<()> {
        assert!(!name.contains(&b'/') && !name.contains(&0), "a name is one path component");
        self.living(directory)?;
        match self.child(directory, name) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) if !name.is_empty() => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Whether the directory can take names: one that was removed cannot.
    fn living(&self, directory: NodeId) -> Outcome<()> {
        let is_root = directory == ROOT || self.mounts.values().any(|&root| root == directory);
        self.entries(directory)?;
        if self.node(directory).links == 0 && !is_root {
            return Err(Errno::NOENT);
        }
        Ok(())
    }

    pub(super) fn entries(&self, id: NodeId) -> Outcome<&BTreeMap<Vec<u8>, NodeId>> {
        match &self.node(id).live {
            Content::Directory(entries) => Ok(entries),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(&id).expect("a node outlives its holders")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node outlives its holders")
    }

    pub(super) fn device(&self, id: DeviceId) -> Device {
        self.devices[usize::try_from(id).expect("a few")]
    }
}

/// Puts `bytes` at `offset`; a hole before them reads as zeros.
pub(super) fn put(data: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).expect("files here are small");
    let end = start + bytes.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    data[start..end].copy_from_slice(bytes);
}

/// The components of a path, last first. A slash at the end asks for a directory, as `.` does.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let mut components: Vec<Vec<u8>> = path
        .split(|&byte| byte == b'/')
        .filter(|component| !component.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    if path.last() == Some(&b'/') {
        components.push(b".".to_vec());
    }
    components.reverse();
    components
}

/// The directory that every absolute path starts from.
pub(super) const ROOT: NodeId = 1;

/// NAME_MAX, PATH_MAX (with the final NUL) and the kernel's MAXSYMLINKS.
const NAME_BYTES_MAX: usize = 255;
const PATH_BYTES_MAX: usize = 4096;
const SYMLINKS_MAX: u32 = 40;
