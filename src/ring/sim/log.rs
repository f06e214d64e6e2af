//! What a power cut may take back: the changes of the disk that no sync has made durable, in order.
//!
//! The rules are those that POSIX gives and no more, so they are stricter than any one file system:
//! syncing a file keeps its data and no name, syncing a directory keeps its names and no data, and of
//! what was never synced each change survives or not on its own. A sync covers what had been done when
//! it was *asked for*; what is done while it runs it may or may not cover. Data goes to the disk in sectors,
//! each of which is old or new.
//!
//! Two things are taken from the file systems that there are, all of which keep a log of their names: a
//! directory is never durable without the names that lead to it, and names are never given up by a failed sync
//! (a file system that cannot write its log goes read-only).
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use rustix::io::Errno;

use super::disk::{Content, DeviceId, Disk, NodeId, ROOT, put};
use super::random::Random;

/// The order of changes.
pub(super) type Sequence = u64;

/// Changes that are live and not yet durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    next: Sequence,
    records: Vec<Record>,
}

#[derive(Clone, Debug)]
struct Record {
    sequence: Sequence,
    /// The file or directory whose sync makes this durable.
    settled_by: NodeId,
    change: Change,
    /// A sync of it has failed: the kernel marked the pages clean, and no later sync writes them.
    is_forsaken: bool,
    /// Where the log ended when these bytes had been written out to the device: a name from there on brings
    /// them with it, if the device keeps the order.
    written_out: Option<Sequence>,
}

/// One change.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Survives a power cut in any part, sector by sector, and so does the size that it brings.
    Data { file: NodeId, offset: u64, bytes: Rc<[u8]> },
    /// One name or, for a rename, all that it changes; survives whole or not at all.
    Names(Vec<Name>),
}

/// A name that appeared or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) directory: NodeId,
    pub(super) name: Vec<u8>,
    pub(super) node: NodeId,
    pub(super) is_added: bool,
}

impl Name {
    pub(super) fn added(directory: NodeId, name: &[u8], node: NodeId) -> Self {
        Self { directory, name: name.to_vec(), node, is_added: true }
    }

    pub(super) fn removed(directory: NodeId, name: &[u8], node: NodeId) -> Self {
        Self { is_added: false, ..Self::added(directory, name, node) }
    }

    /// Makes the change in one version of the directory. Removing a name that leads elsewhere, or was
    /// never there, changes nothing.
    pub(super) fn apply(&self, directory: &mut Content) {
        let Content::Directory(entries) = directory else { unreachable!("names are in directories") };
        if self.is_added {
            entries.insert(self.name.clone(), self.node);
        } else if entries.get(&self.name) == Some(&self.node) {
            entries.remove(&self.name);
        }
    }
}

impl Log {
    /// Notes a change that is now live.
    pub(super) fn add(&mut self, settled_by: NodeId, change: Change) -> Sequence {
        let sequence = self.next;
        self.records.push(Record { sequence, settled_by, change, is_forsaken: false, written_out: None });
        self.next += 1;
        sequence
    }

    /// Where the log ends now: a sync that is asked for at this moment covers what lies before.
    pub(super) fn end(&self) -> Sequence {
        self.next
    }

    /// Up to where the log of a device that keeps the order is committed when the names among these records are.
    fn committed_with(&self, is_meant: impl Fn(&Record) -> bool) -> Sequence {
        let names = self.records.iter().filter(|record| matches!(record.change, Change::Names(_)));
        names.filter(|record| is_meant(record)).map(|record| record.sequence + 1).max().unwrap_or_default()
    }

    /// How many changes are not durable.
    pub(super) fn unsettled(&self) -> usize {
        self.records.len()
    }

    /// Drops the changes of a file that has no name any more, unless a name of it may still come back
    /// with a power cut; says whether it is gone for good.
    pub(super) fn forget(&mut self, file: NodeId) -> bool {
        let is_named = self.records.iter().any(|record| match &record.change {
            Change::Data { .. } => false,
            Change::Names(names) => names.iter().any(|name| name.node == file),
        });
        if is_named {
            return false;
        }
        self.records.retain(|record| !matches!(record.change, Change::Data { file: of, .. } if of == file));
        true
    }
}

impl Disk {
    /// Makes durable what a sync of `node`, asked for at `before`, promises.
    pub(super) fn settle(&mut self, node: NodeId, before: Sequence) {
        let lineage = self.lineage(node);
        let is_asked_for = |record: &Record| record.settled_by == node || record.leads_to(&lineage);
        let device = self.node(node).device;
        let committed = match self.device(device).keeps_order {
            true => self.log.committed_with(|record| record.sequence < before && is_asked_for(record)),
            false => 0,
        };
        self.settle_all(before, |record, disk| {
            let is_here = || disk.node(record.settled_by).device == device;
            is_asked_for(record) || record.is_committed(committed) && is_here()
        });
    }

    /// Makes durable what a sync of the whole file system, asked for at `before`, promises.
    pub(super) fn settle_device(&mut self, device: DeviceId, before: Sequence) {
        self.settle_all(before, |record, disk| disk.node(record.settled_by).device == device);
    }

    fn settle_all(&mut self, before: Sequence, is_covered: impl Fn(&Record, &Self) -> bool) {
        let records = std::mem::take(&mut self.log.records);
        let mut kept: Vec<Record> = Vec::new();
        for record in records {
            let covered = record.sequence < before && !record.is_forsaken && is_covered(&record, self);
            if !covered {
                kept.push(record);
                continue;
            }
            self.make_durable(&record.change);
            supersede(&mut kept, &record.change);
        }
        self.log.records = kept;
    }

    /// Makes durable what one write changed, as far as it lies within the durable size of the file.
    ///
    /// # Errors
    /// `EIO` when somebody else's sync has failed for it.
    pub(super) fn settle_write(&mut self, sequence: Sequence) -> Result<(), Errno> {
        if self.log.records.iter().any(|record| record.sequence == sequence && record.is_forsaken) {
            return Err(Errno::IO);
        }
        let mut kept: Vec<Record> = Vec::new();
        for record in std::mem::take(&mut self.log.records) {
            let Change::Data { file, .. } = &record.change else {
                kept.push(record);
                continue;
            };
            if record.sequence != sequence {
                kept.push(record);
                continue;
            }
            let size = match self.durable(*file) {
                Some(Content::File(data)) => offset_of(data.len()),
                _ => 0,
            };
            let beyond = record.outside(&(0..size));
            for part in record.outside(&(size..u64::MAX)) {
                self.make_durable(&part.change);
                supersede(&mut kept, &part.change);
            }
            kept.extend(beyond);
        }
        self.log.records = kept;
        Ok(())
    }

    /// A sync of `node` begins; fails when changes of it were given up and nobody has been told.
    ///
    /// # Errors
    /// `EIO`, once.
    pub(super) fn report(&mut self, node: NodeId) -> Result<(), Errno> {
        if self.errors.remove(&node) {
            self.forsake(node);
            return Err(Errno::IO);
        }
        Ok(())
    }

    /// A directory and those above it, in its file system.
    fn lineage(&self, node: NodeId) -> BTreeSet<NodeId> {
        let mut lineage = BTreeSet::new();
        let mut at = node;
        while matches!(self.node(at).live, Content::Directory(_)) && lineage.insert(at) {
            let parent = self.node(at).parent;
            if self.node(parent).device != self.node(at).device {
                break;
            }
            at = parent;
        }
        lineage
    }

    /// The bytes that `node` had at `before` are with the device now.
    pub(super) fn write_out(&mut self, node: NodeId, before: Sequence) {
        let end = self.log.end();
        for record in &mut self.log.records {
            if record.settled_by == node && record.sequence < before && !record.is_forsaken {
                record.written_out.get_or_insert(end);
            }
        }
    }

    /// A sync of `node` has failed: its unwritten data is given up.
    pub(super) fn forsake(&mut self, node: NodeId) {
        for record in &mut self.log.records {
            record.is_forsaken |= record.is_dirty() && record.settled_by == node;
        }
    }

    /// A sync of the whole file system has failed. Whoever then syncs one of its files is told as well.
    pub(super) fn forsake_device(&mut self, device: DeviceId) {
        let nodes = &self.nodes;
        for record in &mut self.log.records {
            if record.is_dirty() && nodes[&record.settled_by].device == device && !record.is_forsaken {
                record.is_forsaken = true;
                self.errors.insert(record.settled_by);
            }
        }
    }

    /// A write that was to be durable has failed.
    pub(super) fn forsake_write(&mut self, sequence: Sequence) {
        for record in &mut self.log.records {
            record.is_forsaken |= record.sequence == sequence;
        }
    }

    fn make_durable(&mut self, change: &Change) {
        match change {
            Change::Data { file, offset, bytes } => {
                if let Some(Content::File(data)) = self.durable(*file) {
                    put(Rc::make_mut(data), *offset, bytes);
                }
            }
            Change::Names(names) => {
                for name in names {
                    if let Some(directory) = self.durable(name.directory) {
                        name.apply(directory);
                    }
                }
            }
        }
    }

    fn durable(&mut self, node: NodeId) -> Option<&mut Content> {
        self.nodes.get_mut(&node).map(|node| &mut node.durable)
    }

    /// Everything that is live becomes durable: the state that a test starts from.
    pub(super) fn settle_everything(&mut self) {
        for record in &mut self.log.records {
            record.is_forsaken = false;
        }
        self.settle_all(Sequence::MAX, |_, _| true);
    }

    /// Leaves of a change whatever chance wants.
    fn tear(&mut self, change: &Change, random: &mut Random) {
        let Change::Data { file, offset, bytes } = change else {
            if random.once_in(2) {
                self.make_durable(change);
            }
            return;
        };
        // All and nothing are common ends of a write, and hardly ever met sector by sector.
        match random.below(4) {
            0 => return,
            1 => return self.make_durable(change),
            _ => {}
        }
        let Some(Content::File(data)) = self.durable(*file) else { return };
        let data = Rc::make_mut(data);
        if random.once_in(2) {
            put(data, offset + offset_of(bytes.len()), &[]);
        }
        for sector in sectors(*offset, bytes.len()) {
            if random.once_in(2) {
                put(data, offset + offset_of(sector.start), &bytes[sector]);
            }
        }
    }

    /// The power is cut: what was durable stays, each other change stays or goes by chance, and
    /// nobody holds anything open.
    pub(super) fn power_cut(&mut self, random: &mut Random) {
        // Up to where the log of a device that keeps the order was committed.
        let first = self.log.records.first().map_or_else(|| self.log.end(), |record| record.sequence);
        let steps = usize::try_from(self.log.end() - first).expect("fewer changes than fit in memory");
        let committed = first + offset_of(random.below(steps + 1));
        for record in std::mem::take(&mut self.log.records) {
            let device = self.node(record.settled_by).device;
            let in_order = self.device(device).keeps_order;
            match &record.change {
                change if in_order && record.is_committed(committed) => self.make_durable(change),
                Change::Names(_) if in_order => {}
                change => self.tear(change, random),
            }
        }
        self.errors.clear();
        let mut links: BTreeMap<NodeId, u32> = BTreeMap::new();
        let mut reached = BTreeSet::from([ROOT]);
        let mut ahead = vec![ROOT];
        while let Some(id) = ahead.pop() {
            let Content::Directory(entries) = &self.node(id).durable else {
                continue;
            };
            for &child in entries.values() {
                *links.entry(child).or_default() += 1;
                let mounted = self.mounts.get(&child).copied();
                for node in [Some(child), mounted].into_iter().flatten() {
                    if reached.insert(node) {
                        ahead.push(node);
                    }
                }
            }
        }
        self.nodes.retain(|id, _| reached.contains(id));
        self.mounts.retain(|covered, _| reached.contains(covered));
        for (id, node) in &mut self.nodes {
            node.live = node.durable.clone();
            node.links = links.get(id).copied().unwrap_or(0);
            node.opens = 0;
        }
    }
}

/// Takes from `older` what cannot come back once `durable` is on the disk: a file system commits its names in
/// order, and a sector is not written twice.
fn supersede(older: &mut Vec<Record>, durable: &Change) {
    match durable {
        Change::Names(names) => older.retain(|record| !record.is_undone_by(names)),
        Change::Data { file, offset, bytes } => {
            let range = *offset..offset + offset_of(bytes.len());
            if older.iter().any(|record| record.meets(*file, &range)) {
                let records = std::mem::take(older).into_iter();
                older.extend(records.flat_map(|record| {
                    if record.meets(*file, &range) { record.outside(&range) } else { vec![record] }
                }));
            }
        }
    }
}

/// The parts of a write of `length` bytes at `offset` that lie in one sector each, as ranges of its bytes.
fn sectors(offset: u64, length: usize) -> impl Iterator<Item = Range<usize>> {
    let first = usize::try_from(offset % SECTOR_BYTES).expect("less than a sector");
    let sector = usize::try_from(SECTOR_BYTES).expect("few");
    (0..(first + length).div_ceil(sector))
        .map(move |index| (index * sector).max(first) - first..((index + 1) * sector - first).min(length))
}

fn offset_of(length: usize) -> u64 {
    u64::try_from(length).expect("sizes fit 64 bits")
}

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;

impl Record {
    /// Whether this is data that the kernel has not written to the device, and gives up when it cannot.
    fn is_dirty(&self) -> bool {
        matches!(self.change, Change::Data { .. }) && self.written_out.is_none()
    }

    /// Whether this is durable on a device that keeps the order, once its log is committed up to here.
    fn is_committed(&self, committed: Sequence) -> bool {
        match &self.change {
            Change::Names(_) => self.sequence < committed,
            Change::Data { .. } => self.written_out.is_some_and(|end| end < committed),
        }
    }

    /// Whether this made one of these directories.
    fn leads_to(&self, directories: &BTreeSet<NodeId>) -> bool {
        let Change::Names(names) = &self.change else { return false };
        names.iter().any(|name| name.is_added && directories.contains(&name.node))
    }

    /// Whether this writes something of `range` in `file`.
    fn meets(&self, file: NodeId, range: &Range<u64>) -> bool {
        matches!(&self.change, Change::Data { file: of, offset, bytes }
            if *of == file && *offset < range.end && range.start < offset + offset_of(bytes.len()))
    }

    /// What this writes outside of `range`, which cuts it in two at most.
    fn outside(&self, range: &Range<u64>) -> Vec<Self> {
        let Change::Data { file, offset, bytes } = &self.change else {
            unreachable!("only data has a range");
        };
        let end = offset + offset_of(bytes.len());
        let parts = [*offset..end.min(range.start), range.end.max(*offset)..end];
        let parts = parts.into_iter().filter(|part| part.start < part.end);
        parts
            .map(|part| {
                let place = |at: u64| usize::try_from(at - offset).expect("within the bytes");
                let bytes = bytes[place(part.start)..place(part.end)].into();
                let change = Change::Data { file: *file, offset: part.start, bytes };
                Self { change, ..*self }
            })
            .collect()
    }

    /// Whether this only added a name that `later` takes away again.
    fn is_undone_by(&self, later: &[Name]) -> bool {
        let Change::Names(names) = &self.change else {
            return false;
        };
        names.iter().all(|name| {
            name.is_added
                && later.iter().any(|gone| {
                    !gone.is_added
                        && (gone.directory, &gone.name, gone.node) == (name.directory, &name.name, name.node)
                })
        })
    }
}
