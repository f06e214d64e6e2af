//! The world around simulated rings: clock, network, disk, faults, and the record of what happened.
#![forbid(unsafe_code)]

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;

use super::STEP;
use super::disk::{Content, Device, Disk, NodeId, ROOT, Rules};
use super::fault::{Fault, OpKind};
use super::network::{Client, ConnectionId, Network};
use super::random::Random;
use crate::ring::{Owner, Peer, Time};

/// The world, shared by the rings in it and by the test. One seed determines all that happens, as long
/// as the test does the same things in the same order.
#[derive(Clone, Debug)]
pub struct World {
    state: Rc<RefCell<State>>,
}

/// What the world consists of.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) now: Time,
    /// What the wall clock showed when the monotonic one stood at zero.
    wall_start: Duration,
    /// How far the clock may jump while nothing happens; without bound if `None`.
    pub(super) horizon: Option<Time>,
    /// Turns in a row in which nothing happened and nothing could.
    pub(super) quiet_turns: u32,
    pub(super) random: Random,
    pub(super) network: Network,
    pub(super) disk: Disk,
    /// Failed syncs of whole devices.
    pub(super) sync_failures: BTreeMap<u64, u64>,
    faults: Vec<Fault>,
    lies: Vec<Lie>,
    /// Operations that have happened, and after how many of them nothing happens any more.
    operations: u64,
    halt_at: u64,
    pub(super) denied: BTreeSet<Owner>,
    /// Owners by personality, counted from 1.
    pub(super) owners: Vec<Owner>,
    handles: BTreeMap<RawFd, Handle>,
    next_handle: RawFd,
    digest: u64,
    recent: VecDeque<String>,
}

/// Syncs that a device takes for done and does not do.
#[derive(Clone, Debug)]
struct Lie {
    kind: OpKind,
    end: String,
}

/// What a descriptor stands for.
#[derive(Clone, Debug)]
pub(super) enum Handle {
    Listener,
    Socket(ConnectionId),
    /// An eventfd with its count.
    Event(u64),
    /// A file or directory, the path it was opened by, and what for.
    Node(NodeId, String, Access),
}

/// What a descriptor may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    ReadWrite,
    /// Both, but what is written goes behind the end.
    Append,
}

impl World {
    /// A world with an empty root directory, whose clocks stand at 2026-01-01 00:00:00 UTC.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            state: Rc::new(RefCell::new(State {
                now: Time(0),
                wall_start: EPOCH,
                horizon: None,
                sync_failures: BTreeMap::new(),
                quiet_turns: 0,
                random: Random::new(seed),
                network: Network::default(),
                disk: Disk::new(),
                faults: Vec::new(),
                lies: Vec::new(),
                operations: 0,
                halt_at: u64::MAX,
                denied: BTreeSet::new(),
                owners: Vec::new(),
                handles: BTreeMap::new(),
                next_handle: FIRST_HANDLE,
                digest: DIGEST_START,
                recent: VecDeque::new(),
            })),
        }
    }

    /// Connects to the listener over a Unix socket.
    #[must_use]
    pub fn connect(&self) -> Client {
        Client::connect(self, Peer::Local)
    }

    /// Connects to the listener over TCP.
    #[must_use]
    pub fn connect_from(&self, address: IpAddr) -> Client {
        Client::connect(self, Peer::Internet(address))
    }

    /// A condition to turn the executor by: true when for `time` from now there is nothing left to
    /// do but wait for a client. Timers that fall due in that time do their work, at once.
    ///
    /// With no time at all it waits for what is under way, and the clock stands still between.
    pub fn quiet_after(&self, time: Duration) -> impl FnMut() -> bool + use<> {
        {
            let mut state = self.state.borrow_mut();
            state.horizon = Some(state.now.after(time));
            state.quiet_turns = 0;
        }
        let world = self.clone();
        // Two turns: whoever was woken at the end of the first shows in the second.
        move || world.state.borrow().quiet_turns >= 2
    }

    /// Lets the clock jump wherever the executor wants to wait for, from now on.
    pub fn run_freely(&self) {
        let mut state = self.state.borrow_mut();
        state.horizon = None;
        state.quiet_turns = 0;
    }

    /// The monotonic clock.
    #[must_use]
    pub fn now(&self) -> Time {
        self.state.borrow().now
    }

    /// The wall clock, since the Unix epoch.
    #[must_use]
    pub fn wall(&self) -> Duration {
        self.state.borrow().wall()
    }

    /// Steps the wall clock, either way; not before the moment the simulation began.
    pub fn set_wall(&self, to: Duration) {
        let mut state = self.state.borrow_mut();
        state.wall_start = to.saturating_sub(Duration::from_nanos(state.now.0));
    }

    /// Adds a fault; of several that meet one operation, the oldest strikes.
    pub fn fail(&self, fault: Fault) {
        self.state.borrow_mut().faults.push(fault);
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        self.state.borrow_mut().faults.clear();
    }

    /// From now on a [`Sync`](OpKind::Sync), [`SyncFs`](OpKind::SyncFs), [`WriteOut`](OpKind::WriteOut) or
    /// [`WriteDurably`](OpKind::WriteDurably) says that it is done and makes nothing durable, if the path of its
    /// descriptor ends in `end`: a device that lies, for proofs that have to notice one.
    pub fn ignore(&self, kind: OpKind, end: &str) {
        self.state.borrow_mut().lies.push(Lie { kind, end: end.to_owned() });
    }

    /// How many operations have happened. A durable write counts twice: as written, and as durable.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state.borrow().operations
    }

    /// Lets nothing happen once `operations` have: the world stands still, whoever turns a ring, until it is told
    /// of a later halt.
    pub fn halt_at(&self, operations: u64) {
        self.state.borrow_mut().halt_at = operations;
    }

    /// Whether the world stands still.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.state.borrow().is_halted()
    }

    /// A copy of the world as it stands, in which something else may happen. No ring takes part in it.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Rc::new(RefCell::new(self.state.borrow().clone())) }
    }

    /// From now on the process may not act for `owner`.
    pub fn deny(&self, owner: Owner) {
        self.state.borrow_mut().denied.insert(owner);
    }

    /// Makes a directory, durably, with what is missing above it.
    ///
    /// # Panics
    /// If something else is there: a test that prepares its world wrongly has failed.
    pub fn make_directory(&self, path: &str) {
        let mut state = self.state.borrow_mut();
        let disk = &mut state.disk;
        let mut at = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = match disk.child(at, name.as_bytes()) {
                Ok(child) => child,
                Err(_) => disk
                    .make_directory(at, name.as_bytes(), Owner::Server)
                    .unwrap_or_else(|errno| panic!("{path}: {errno}")),
            };
        }
        disk.settle_everything();
    }

    /// Puts a file system of its own on the directory `path`, which is made if it is missing.
    ///
    /// # Panics
    /// As [`make_directory`](Self::make_directory).
    pub fn mount(&self, path: &str, device: Device) {
        self.make_directory(path);
        let mut state = self.state.borrow_mut();
        let covered = state.find(path).expect("just made");
        state.disk.mount(covered, device);
    }

    /// Makes a symbolic link, durably, in a directory that exists.
    ///
    /// # Panics
    /// As [`make_directory`](Self::make_directory).
    pub fn make_symlink(&self, path: &str, target: &str) {
        let mut state = self.state.borrow_mut();
        let (directory, name) = path.rsplit_once('/').expect("an absolute path");
        let at = state.find(&format!("{directory}/")).unwrap_or_else(|errno| panic!("{directory}: {errno}"));
        state
            .disk
            .make_symlink(at, name.as_bytes(), target.as_bytes())
            .unwrap_or_else(|errno| panic!("{path}: {errno}"));
        state.disk.settle_everything();
    }

    /// Puts a file in a directory that exists, durably, in place of the one that may be there.
    ///
    /// # Panics
    /// As [`make_directory`](Self::make_directory).
    pub fn write_file(&self, path: &str, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        let (directory, name) = path.rsplit_once('/').expect("an absolute path");
        let at = state.find(&format!("{directory}/")).unwrap_or_else(|errno| panic!("{directory}: {errno}"));
        let disk = &mut state.disk;
        if disk.child(at, name.as_bytes()).is_ok() {
            disk.unlink(at, name.as_bytes()).unwrap_or_else(|errno| panic!("{path}: {errno}"));
        }
        let file = disk.open_new(at, name.as_bytes(), Owner::Server).expect("the name is free");
        disk.write(file, 0, bytes.to_vec()).expect("it is a file");
        disk.settle_everything();
    }

    /// The bytes of a file, as they are live.
    ///
    /// # Errors
    /// As open(2), and `EISDIR` for what is no file.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let state = self.state.borrow();
        match &state.disk.node(state.find(path)?).live {
            Content::File(data) => Ok(data.to_vec()),
            _ => Err(Errno::ISDIR),
        }
    }

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// As open(2) with `O_DIRECTORY`.
    pub fn list(&self, path: &str) -> Result<Vec<String>, Errno> {
        let state = self.state.borrow();
        let entries = state.disk.entries(state.find(path)?)?;
        Ok(entries.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// Who created a file or directory, and how many names it has.
    ///
    /// # Errors
    /// As stat(2).
    pub fn owner_and_links(&self, path: &str) -> Result<(Owner, u32), Errno> {
        let state = self.state.borrow();
        let node = state.disk.node(state.find(path)?);
        Ok((node.owner, node.links))
    }

    /// How many changes of the disk a power cut could take back.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.state.borrow().disk.log.unsettled()
    }

    /// Cuts the power: connections and descriptors are gone, and of the disk there is what was
    /// durable, with a part of the rest that `seed` chooses. Drop the executor before; then start a
    /// new one on a new ring of this world.
    pub fn power_cut(&self, seed: u64) {
        let mut state = self.state.borrow_mut();
        state.disk.power_cut(&mut Random::new(seed));
        state.network.reset_all();
        state.handles.clear();
        state.note("power cut");
    }

    /// A number that stands for all that has happened: equal runs have equal digests.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.state.borrow().digest
    }

    /// What happened last, a line each, oldest first: for the message of a test that fails.
    #[must_use]
    pub fn recent(&self) -> Vec<String> {
        self.state.borrow().recent.iter().cloned().collect()
    }

    /// For the ring: the state as it is.
    pub(super) fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// For the ring: the state, to look at.
    pub(super) fn view(&self) -> Ref<'_, State> {
        self.state.borrow()
    }

    /// For the test's side: the state, which it may change, so that it is not quiet any more.
    pub(super) fn stir(&self) -> RefMut<'_, State> {
        let mut state = self.state.borrow_mut();
        state.quiet_turns = 0;
        state
    }
}

impl State {
    pub(super) fn wall(&self) -> Duration {
        self.wall_start + Duration::from_nanos(self.now.0)
    }

    /// The node that an absolute path names for the test, which may go everywhere.
    fn find(&self, path: &str) -> Result<NodeId, Errno> {
        let rules = Rules { follow: true, beneath: false };
        self.disk.resolve(ROOT, path.as_bytes(), rules)
    }

    pub(super) fn open(&mut self, handle: Handle) -> RawFd {
        if let Handle::Node(node, ..) = &handle {
            self.disk.hold(*node);
        }
        let raw = self.next_handle;
        self.next_handle += 1;
        self.handles.insert(raw, handle);
        raw
    }

    pub(super) fn close(&mut self, raw: RawFd) {
        // After a power cut nothing is open, whatever the old executor still drops.
        match self.handles.remove(&raw) {
            Some(Handle::Socket(connection)) => self.network.close(connection),
            Some(Handle::Node(node, ..)) => self.disk.let_go(node),
            Some(Handle::Listener | Handle::Event(_)) | None => {}
        }
    }

    pub(super) fn handle(&self, raw: RawFd) -> Option<&Handle> {
        self.handles.get(&raw)
    }

    pub(super) fn socket(&self, raw: RawFd) -> Result<ConnectionId, Errno> {
        match self.handle(raw) {
            Some(Handle::Socket(connection)) => Ok(*connection),
            Some(_) => Err(Errno::NOTSOCK),
            None => Err(Errno::BADF),
        }
    }

    pub(super) fn node(&self, raw: RawFd) -> Result<NodeId, Errno> {
        match self.handle(raw) {
            Some(Handle::Node(node, ..)) => Ok(*node),
            Some(_) => Err(Errno::INVAL),
            None => Err(Errno::BADF),
        }
    }

    /// As [`node`](Self::node), for a use that `access` stands for.
    pub(super) fn node_for(&self, raw: RawFd, access: Access) -> Result<NodeId, Errno> {
        match self.handle(raw) {
            Some(Handle::Node(_, _, granted))
                if *granted != access && !matches!(granted, Access::ReadWrite | Access::Append) =>
            {
                Err(Errno::BADF)
            }
            _ => self.node(raw),
        }
    }

    /// Whether what is written through a descriptor goes behind the end.
    pub(super) fn appends(&self, raw: RawFd) -> bool {
        matches!(self.handle(raw), Some(Handle::Node(_, _, Access::Append)))
    }

    pub(super) fn event(&mut self, raw: RawFd) -> Result<&mut u64, Errno> {
        match self.handles.get_mut(&raw) {
            Some(Handle::Event(count)) => Ok(count),
            Some(_) => Err(Errno::INVAL),
            None => Err(Errno::BADF),
        }
    }

    /// The path by which a descriptor was opened; sockets and the like have none.
    pub(super) fn path(&self, raw: RawFd) -> &str {
        match self.handle(raw) {
            Some(Handle::Node(_, path, _)) => path,
            _ => "",
        }
    }

    pub(super) fn strike(&mut self, kind: OpKind, path: &str) -> Option<Errno> {
        let Self { faults, random, .. } = self;
        faults.iter_mut().filter_map(|fault| fault.strikes(kind, path, random)).next()
    }

    pub(super) fn is_ignored(&self, kind: OpKind, path: &str) -> bool {
        self.lies.iter().any(|lie| lie.kind == kind && path.ends_with(&lie.end))
    }

    pub(super) fn is_halted(&self) -> bool {
        self.operations >= self.halt_at
    }

    /// An operation happens, which takes a moment.
    pub(super) fn count(&mut self) {
        self.operations += 1;
        self.now = self.now.after(STEP);
    }

    /// Notes something that happened (FNV-1a, 64 bits, over the line).
    pub(super) fn note(&mut self, what: &str) {
        let line = format!("{:>12} {what}", self.now.0);
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(line);
    }
}

/// 2026-01-01 00:00:00 UTC.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);
/// The offset basis of FNV-1a.
const DIGEST_START: u64 = 0xcbf2_9ce4_8422_2325;
/// Far above the numbers of real descriptors, so that a mix-up shows.
const FIRST_HANDLE: RawFd = 1_000_000;
const RECENT_MAX: usize = 200;
