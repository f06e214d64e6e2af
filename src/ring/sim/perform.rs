//! What each operation does to the simulated world.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::rc::Rc;

use rustix::io::Errno;

use super::disk::{NodeId, ROOT, Rules};
use super::log::{SECTOR_BYTES, Sequence};
use super::random::Random;
use super::world::{Access, Handle, State};
use super::{Flight, OpKind, Sim, Written};
use crate::ring::op::{slices, vectors};
use crate::ring::{Done, Fd, How, Identity, Op, Owner, Part};

impl Sim {
    /// Does one operation that is ready.
    pub(super) fn perform(&mut self, flight: &mut Flight, state: &mut State) -> Result<Done, Errno> {
        match &mut flight.op {
            Op::Accept { .. } => {
                let connection = state.network.accept().ok_or(Errno::AGAIN)?;
                let raw = state.open(Handle::Socket(connection));
                Ok(Done::Opened(Fd::new(raw, &self.closing)))
            }
            Op::Recv { socket } | Op::Exchange { socket, .. } => self.receive(socket, state),
            Op::Send { socket, bytes, from } => {
                let connection = state.socket(socket.raw())?;
                let State { network, random, .. } = state;
                network.send(connection, &bytes[*from..], random).map(Done::Count)
            }
            Op::Doorbell { event, count } => {
                let rung = std::mem::take(state.event(event.raw())?);
                **count = rung.to_ne_bytes();
                Ok(Done::Plain)
            }
            Op::Read { file, buffer, offset } => {
                let file = state.node_for(file.raw(), Access::Read)?;
                let there = state.disk.read(file, *offset, buffer.len())?;
                let count = shortened(there.len(), &mut state.random);
                buffer[..count].copy_from_slice(&there[..count]);
                Ok(Done::Count(count))
            }
            Op::Write { file, head, body, skip, offset } => {
                let appends = state.appends(file.raw());
                let file = state.node_for(file.raw(), Access::Write)?;
                let bytes = gather(slices(head, body), *skip, &mut state.random);
                let count = bytes.len();
                let offset = if appends { state.disk.length(file)? } else { *offset };
                state.disk.write(file, offset, bytes)?;
                Ok(Done::Count(count))
            }
            Op::WriteDurably { file, .. } => {
                let written = flight.written.expect("it is written before it is durable");
                if !state.is_ignored(OpKind::WriteDurably, state.path(file.raw())) {
                    state.disk.settle_write(written.change)?;
                }
                Ok(Done::Count(written.count))
            }
            Op::Open { at, path, how, identity } => {
                let owner = owner_of(identity, state);
                let start = start(at.as_ref(), state)?;
                let node = open(state, start, path.to_bytes(), *how, owner)?;
                let path = joined(at.as_ref(), path, state);
                let raw = state.open(Handle::Node(node, path, access(*how)));
                Ok(Done::Opened(Fd::new(raw, &self.closing)))
            }
            op => change(op, flight.asked, state).map(|()| Done::Plain),
        }
    }

    fn receive(&mut self, socket: &Fd, state: &mut State) -> Result<Done, Errno> {
        let connection = state.socket(socket.raw())?;
        let State { network, random, .. } = state;
        if self.free.is_empty() && !network.is_ended(connection) {
            return Err(Errno::NOBUFS);
        }
        let bytes = network.receive(connection, self.pool.buffer_bytes(), random)?;
        if bytes.is_empty() {
            return Ok(Done::Closed);
        }
        let id = self.free.swap_remove(random.below(self.free.len()));
        let mut lease = self.pool.lease(id, 0);
        lease.append(&bytes);
        Ok(Done::Received(lease))
    }
}

/// The first half of an exchange, or as much of it as the client has room for; says how much that was.
pub(super) fn send_before(op: &mut Op, state: &mut State) -> Result<usize, Errno> {
    let Op::Exchange { socket, bytes, from, sent } = op else {
        unreachable!("the caller matched the operation");
    };
    let connection = state.socket(socket.raw())?;
    let State { network, random, .. } = state;
    let count = network.send(connection, &bytes[*from..], random)?;
    *from += count;
    *sent = *from == bytes.len();
    Ok(count)
}

/// The first half of a durable write: the bytes are in the file for all to see, and not yet on the disk.
pub(super) fn write_durably(op: &Op, state: &mut State) -> Result<Written, Errno> {
    let Op::WriteDurably { file, parts, skip, offset } = op else {
        unreachable!("the caller matched the operation");
    };
    let file = state.node_for(file.raw(), Access::Write)?;
    let mut bytes: Vec<u8> = vectors(parts.iter().flat_map(Part::slices), *skip).flatten().copied().collect();
    // Nothing on the way divides what lies in one sector.
    if *offset / SECTOR_BYTES != (*offset + bytes.len() as u64).saturating_sub(1) / SECTOR_BYTES {
        bytes.truncate(shortened(bytes.len(), &mut state.random));
    }
    let count = bytes.len();
    Ok(Written { change: state.disk.write(file, *offset, bytes)?, count })
}

fn open(state: &mut State, start: NodeId, path: &[u8], how: How, owner: Owner) -> Result<NodeId, Errno> {
    let (follow, beneath) = match how {
        How::Directory => (false, false),
        How::DirectoryBeneath => (false, true),
        How::DirectoryTrusted => (true, false),
        How::Unnamed => return state.disk.open_unnamed(start, path, owner),
        How::New => return state.disk.open_new(start, path, owner),
        How::ReadOnly => return state.disk.open_existing(start, path, false),
        How::ReadWrite | How::Append => return state.disk.open_existing(start, path, true),
    };
    state.disk.open_directory(start, path, Rules { follow, beneath })
}

/// The operations that only change the disk.
fn change(op: &Op, asked: Sequence, state: &mut State) -> Result<(), Errno> {
    match op {
        Op::MakeDir { at, name, identity } => {
            let owner = owner_of(identity, state);
            let at = state.node(at.raw())?;
            state.disk.make_directory(at, name.to_bytes(), owner)?;
            Ok(())
        }
        Op::Sync { file } => {
            let node = state.node(file.raw())?;
            state.disk.report(node)?;
            if !state.is_ignored(OpKind::Sync, state.path(file.raw())) {
                state.disk.settle(node, asked);
            }
            Ok(())
        }
        Op::WriteOut { file } => {
            let node = state.node(file.raw())?;
            if !state.is_ignored(OpKind::WriteOut, state.path(file.raw())) {
                state.disk.write_out(node, asked);
            }
            Ok(())
        }
        // The simulated disk keeps no times.
        Op::Touch { file } => state.node(file.raw()).map(drop),
        Op::SyncFs { on } => {
            let node = state.node(on.raw())?;
            let device = state.disk.node(node).device;
            if !state.is_ignored(OpKind::SyncFs, state.path(on.raw())) {
                state.disk.settle_device(device, asked);
            }
            Ok(())
        }
        Op::Link { file, into, name, .. } => {
            let (file, into) = (state.node(file.raw())?, state.node(into.raw())?);
            state.disk.link(file, into, name.to_bytes())
        }
        Op::LinkName { from, old, into, name, .. } => {
            let (from, into) = (state.node(from.raw())?, state.node(into.raw())?);
            state.disk.link_name(from, old.to_bytes(), into, name.to_bytes())
        }
        Op::Rename { from, old, into, name, .. } => {
            let (from, into) = (state.node(from.raw())?, state.node(into.raw())?);
            state.disk.rename(from, old.to_bytes(), into, name.to_bytes())
        }
        Op::Unlink { at, name, .. } => {
            let at = state.node(at.raw())?;
            state.disk.unlink(at, name.to_bytes())
        }
        _ => unreachable!("the caller does the others"),
    }
}

/// What a failed operation leaves behind: after a failed sync the kernel takes the pages for clean, so
/// what they held is durable only by luck.
pub(super) fn give_up(op: &Op, state: &mut State) {
    match op {
        Op::Sync { file } | Op::WriteOut { file } => {
            if let Ok(node) = state.node(file.raw()) {
                state.disk.forsake(node);
            }
        }
        Op::SyncFs { on } => {
            if let Ok(node) = state.node(on.raw()) {
                let device = state.disk.node(node).device;
                state.disk.forsake_device(device);
                *state.sync_failures.entry(device).or_default() += 1;
            }
        }
        // It failed before it wrote anything, or on the way to the disk.
        Op::WriteDurably { .. } if state.random.once_in(2) => {
            if let Ok(written) = write_durably(op, state) {
                state.disk.forsake_write(written.change);
            }
        }
        _ => {}
    }
}

/// The bytes of one write: what the kernel takes at once, or by chance less.
fn gather<'a>(slices: impl Iterator<Item = &'a [u8]>, skip: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = vectors(slices, skip).flatten().copied().collect();
    bytes.truncate(shortened(bytes.len(), random));
    bytes
}

/// How much of `count` bytes is transferred: less, now and then, but something.
fn shortened(count: usize, random: &mut Random) -> usize {
    if count > 1 && random.once_in(8) { 1 + random.below(count - 1) } else { count }
}

/// What a descriptor that was opened like this may be used for.
fn access(how: How) -> Access {
    match how {
        How::Directory | How::DirectoryBeneath | How::DirectoryTrusted | How::ReadOnly => Access::Read,
        How::Unnamed | How::New => Access::Write,
        How::ReadWrite => Access::ReadWrite,
        How::Append => Access::Append,
    }
}

fn start(at: Option<&Rc<Fd>>, state: &State) -> Result<NodeId, Errno> {
    at.map_or(Ok(ROOT), |at| state.node(at.raw()))
}

fn owner_of(identity: &Identity, state: &State) -> Owner {
    match identity {
        Identity::Server => Owner::Server,
        Identity::Registered(id) => state.owners[usize::from(**id) - 1],
    }
}

/// The path that faults and the trace know the operation by.
pub(super) fn path_of(op: &Op, state: &State) -> String {
    match op {
        Op::Accept { .. } | Op::Recv { .. } | Op::Send { .. } | Op::Exchange { .. } | Op::Doorbell { .. } => {
            String::new()
        }
        Op::Open { at, path, .. } => joined(at.as_ref(), path, state),
        Op::Read { file, .. }
        | Op::Write { file, .. }
        | Op::WriteDurably { file, .. }
        | Op::Sync { file }
        | Op::WriteOut { file }
        | Op::Touch { file }
        | Op::SyncFs { on: file } => state.path(file.raw()).to_owned(),
        Op::MakeDir { at, name, .. } | Op::Unlink { at, name, .. } => joined(Some(at), name, state),
        Op::Link { into, name, .. } | Op::LinkName { into, name, .. } | Op::Rename { into, name, .. } => {
            joined(Some(into), name, state)
        }
    }
}

fn joined(at: Option<&Rc<Fd>>, name: &CString, state: &State) -> String {
    let name = name.to_string_lossy();
    match at {
        Some(at) if !name.starts_with('/') => format!("{}/{name}", state.path(at.raw())),
        _ => name.into_owned(),
    }
}

/// How the trace tells what came of it.
pub(super) fn outcome(result: &Result<Done, Errno>) -> String {
    match result {
        Ok(Done::Count(count)) => format!("{count} bytes"),
        Ok(Done::Opened(fd)) => format!("opened {}", fd.raw()),
        Ok(Done::Received(lease)) => format!("received {}", lease.bytes().len()),
        Ok(Done::Closed) => "closed".to_owned(),
        Ok(Done::Plain) => "done".to_owned(),
        Err(errno) => format!("failed: {errno}"),
    }
}
