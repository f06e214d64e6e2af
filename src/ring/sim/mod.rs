//! The simulated ring: the same operations on a network, a disk and a clock in memory.
//!
//! A [`Sim`] takes part in a [`World`], which the test holds too: it connects clients, injects faults,
//! steps the clock, cuts the power and looks at the disk. One seed decides how long each operation
//! takes, in which order completions arrive, how transfers are cut and what a power cut leaves, so a
//! failing seed fails again. It promises no more than the kernel does: where the manual leaves
//! something open, chance decides. The clock moves by a little for every operation and otherwise only
//! when there is nothing else to do, so waiting for a timeout takes no time.
//!
//! It touches no real descriptor, and no thread but its own.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;

use super::op::{Closing, Fd, Identity, Op, Owner, Passed, Peer};
use super::pool::Pool;
use super::{Approach, Completion, Ring, SyncThreads, Time, Token};
use crate::limits;

mod disk;
mod fault;
mod log;
mod network;
mod perform;
mod random;
mod world;

pub use disk::Device;
pub use fault::{Fault, OpKind};
pub use network::{Client, Cut};
pub use world::World;

use log::Sequence;
use perform::{give_up, outcome, path_of, send_before, write_durably};
use world::{Handle, State};

/// A simulated ring. Several may take part in one world.
#[derive(Debug)]
pub struct Sim {
    world: World,
    pool: Rc<Pool>,
    /// Buffers that nobody has leased.
    free: Vec<u16>,
    closing: Closing,
    flights: Vec<Flight>,
    /// What is done and not yet told.
    landed: Vec<Completion>,
    identities: BTreeMap<Owner, Rc<u16>>,
}

/// An operation that was pushed and has not happened.
#[derive(Debug)]
struct Flight {
    token: Token,
    op: Op,
    /// The earliest moment at which it happens.
    due: Time,
    /// The last change of the disk that it has to cover, if it is a sync.
    asked: Sequence,
    /// Of a durable write: what it wrote and has to make durable.
    written: Option<Written>,
    is_cancelled: bool,
}

/// The first half of a durable write.
#[derive(Clone, Copy, Debug)]
struct Written {
    /// Where in the log of the disk.
    change: Sequence,
    count: usize,
}

impl Sim {
    /// A ring in `world` with the fewest buffers that a worker can have.
    ///
    /// # Errors
    /// As mmap(2): the buffers are real.
    pub fn new(world: &World) -> Result<Self, Errno> {
        Self::with_buffers(world, limits::BUFFERS_MIN, limits::BUFFER_BYTES)
    }

    /// A ring with `count` receive buffers of `bytes` each.
    ///
    /// # Errors
    /// As mmap(2): the buffers are real.
    pub fn with_buffers(world: &World, count: u16, bytes: usize) -> Result<Self, Errno> {
        Ok(Self {
            world: world.clone(),
            pool: Pool::new(count, bytes)?,
            free: (0..count).collect(),
            closing: Closing::default(),
            flights: Vec::new(),
            landed: Vec::new(),
            identities: BTreeMap::new(),
        })
    }

    /// A listening socket: where the clients of this world connect.
    #[must_use]
    pub fn listener(&self) -> Rc<Fd> {
        self.adopt(Handle::Listener)
    }

    /// An eventfd, to be rung by [`World::ring_doorbell`].
    #[must_use]
    pub fn doorbell(&self) -> Rc<Fd> {
        self.adopt(Handle::Event(0))
    }

    fn adopt(&self, handle: Handle) -> Rc<Fd> {
        Fd::new(self.world.state().open(handle), &self.closing)
    }

    /// Closes what nobody holds any more and takes back the buffers that were returned.
    fn clean_up(&mut self) {
        let closing = std::mem::take(&mut *self.closing.borrow_mut());
        let mut state = self.world.state();
        for raw in closing {
            state.close(raw);
        }
        self.pool.take_returned(&mut self.free);
    }

    /// Does what is due, in any order.
    fn land(&mut self) {
        let world = self.world.clone();
        let mut state = world.state();
        let mut due: Vec<Flight> = Vec::new();
        for flight in std::mem::take(&mut self.flights) {
            if flight.due <= state.now && is_ready(&flight, &state) {
                due.push(flight);
            } else {
                self.flights.push(flight);
            }
        }
        state.random.shuffle(&mut due);
        for flight in due {
            // Another one may have taken what this one was ready for.
            if is_ready(&flight, &state) && !state.is_halted() {
                self.happen(flight, &mut state);
            } else {
                self.flights.push(flight);
            }
        }
    }

    /// One operation happens, or fails.
    fn happen(&mut self, mut flight: Flight, state: &mut State) {
        state.count();
        let kind = OpKind::of(&flight.op);
        let path = path_of(&flight.op, state);
        let result = if flight.is_cancelled {
            Err(Errno::CANCELED)
        } else if flight.written.is_some() {
            self.perform(&mut flight, state)
        } else if let Some(errno) = state.strike(kind, &path) {
            give_up(&flight.op, state);
            Err(errno)
        } else if kind == OpKind::WriteDurably {
            // Two steps, as in the kernel, and the power may be cut between them.
            match write_durably(&flight.op, state) {
                Ok(written) => {
                    state.note(&format!("{kind:?} {path} wrote {} bytes", written.count));
                    flight.written = Some(written);
                    flight.due = state.now.after(delay(&flight.op, state));
                    self.flights.push(flight);
                    return;
                }
                Err(errno) => Err(errno),
            }
        } else if matches!(flight.op, Op::Exchange { sent: false, .. }) {
            match send_before(&mut flight.op, state) {
                Ok(count) => {
                    state.note(&format!("{kind:?} {path} {count} bytes and goes on"));
                    flight.due = state.now.after(delay(&flight.op, state));
                    self.flights.push(flight);
                    return;
                }
                Err(errno) => Err(errno),
            }
        } else {
            self.perform(&mut flight, state)
        };
        state.note(&format!("{kind:?} {path} {}", outcome(&result)));
        let goes_on = matches!(flight.op, Op::Accept { .. }) && result.is_ok();
        let token = flight.token;
        let op = if goes_on {
            flight.due = state.now.after(delay(&flight.op, state));
            self.flights.push(flight);
            None
        } else {
            Some(flight.op)
        };
        self.landed.push(Completion { token, result, op });
    }

    /// Tells some of what has happened, at least one thing if there is any, in any order.
    fn tell(&mut self, done: &mut Vec<Completion>) {
        let mut state = self.world.state();
        // The completions of one operation keep their order, hence the first of each.
        while !self.landed.is_empty() {
            let any = state.random.below(self.landed.len());
            let token = self.landed[any].token;
            let first =
                self.landed.iter().position(|completion| completion.token == token).expect("at least itself");
            done.push(self.landed.remove(first));
            if state.random.once_in(4) {
                break;
            }
        }
    }

    /// The moment at which the next operation happens that nothing but time holds up.
    fn next_landing(&self, state: &State) -> Option<Time> {
        self.flights.iter().filter(|flight| is_ready(flight, state)).map(|flight| flight.due).min()
    }
}

impl Ring for Sim {
    fn push(&mut self, token: Token, op: Op) {
        let mut state = self.world.state();
        let due = state.now.after(delay(&op, &mut state));
        let asked = state.disk.log.end();
        self.flights.push(Flight { token, op, due, asked, written: None, is_cancelled: false });
    }

    fn cancel(&mut self, token: Token) {
        let mut state = self.world.state();
        let Some(flight) = self.flights.iter_mut().find(|flight| flight.token == token) else {
            return;
        };
        let is_waiting = !is_ready(flight, &state);
        // A call that a thread is in the middle of is not called back: syncfs never, others by chance.
        let is_under_way = matches!(flight.op, Op::SyncFs { .. }) || flight.written.is_some();
        let is_stoppable = !is_under_way && state.random.once_in(2);
        if is_waiting || is_stoppable {
            flight.is_cancelled = true;
        }
    }

    fn turn(&mut self, wait: Option<Duration>, done: &mut Vec<Completion>) -> Result<(), Errno> {
        self.clean_up();
        let wait_ends = wait.map(|wait| self.world.now().after(wait));
        loop {
            self.land();
            self.tell(done);
            let mut state = self.world.state();
            if !done.is_empty() || state.is_halted() || wait == Some(Duration::ZERO) {
                state.quiet_turns = 0;
                state.now = state.now.after(STEP);
                return Ok(());
            }
            if wait_ends.is_some_and(|ends| ends <= state.now) {
                state.quiet_turns = 0;
                return Ok(());
            }
            let wait_ends = wait_ends.unwrap_or(Time(u64::MAX));
            if let Some(landing) = self.next_landing(&state) {
                state.now = state.now.max(landing.min(wait_ends));
                continue;
            }
            match state.horizon {
                Some(horizon) if state.now >= horizon.min(wait_ends) => {
                    state.quiet_turns += 1;
                    return Ok(());
                }
                Some(horizon) => state.now = horizon.min(wait_ends),
                // Nobody will ever come back from this: a task waits for what nothing will bring.
                None if wait.is_none() => return Err(Errno::DEADLK),
                None => state.now = wait_ends,
            }
        }
    }

    fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    fn now(&self) -> Time {
        self.world.now()
    }

    fn wall(&self) -> Duration {
        self.world.wall()
    }

    fn device(&self, fd: &Fd) -> Result<u64, Errno> {
        let state = self.world.view();
        let node = state.node(fd.raw())?;
        Ok(state.disk.node(node).device)
    }

    fn is_removed(&self, directory: &Fd) -> Result<bool, Errno> {
        let state = self.world.view();
        // No directory is ever removed here; but there must be one.
        state.node(directory.raw()).map(|_| false)
    }

    fn names(&self, directory: &Fd) -> Result<Vec<CString>, Errno> {
        let mut state = self.world.state();
        let node = state.node(directory.raw())?;
        let names = state.disk.entries(node)?.keys();
        let mut names: Vec<CString> =
            names.map(|name| CString::new(name.as_slice()).expect("names are without NUL")).collect();
        state.random.shuffle(&mut names);
        Ok(names)
    }

    fn keeps_order(&self, fd: &Fd) -> Result<bool, Errno> {
        let state = self.world.view();
        let node = state.node(fd.raw())?;
        Ok(state.disk.device(state.disk.node(node).device).keeps_order)
    }

    fn sync_failures(&mut self, on: &Fd) -> Result<u64, Errno> {
        let device = self.device(on)?;
        Ok(self.world.view().sync_failures.get(&device).copied().unwrap_or(0))
    }

    fn approach(&self) -> Approach {
        // Here a round is whatever the seed makes of it.
        SyncThreads::on(&[]).approach()
    }

    fn peer(&self, fd: &Fd) -> Peer {
        let state = self.world.view();
        state.socket(fd.raw()).map_or(Peer::Local, |connection| state.network.peer(connection))
    }

    fn identity(&mut self, owner: Owner) -> Result<Identity, Errno> {
        let mut state = self.world.state();
        if state.denied.contains(&owner) {
            return Err(Errno::PERM);
        }
        if owner == Owner::Server {
            return Ok(Identity::Server);
        }
        let id = self.identities.entry(owner).or_insert_with(|| {
            state.owners.push(owner);
            Rc::new(u16::try_from(state.owners.len()).expect("fewer owners than personalities"))
        });
        Ok(Identity::Registered(Rc::clone(id)))
    }

    fn take_over(&mut self, passed: Passed) -> Rc<Fd> {
        passed.take(&self.closing)
    }
}

impl World {
    /// Adds one to the count of an eventfd, as a write from another thread would.
    ///
    /// # Panics
    /// If `event` is none.
    pub fn ring_doorbell(&self, event: &Fd) {
        *self.stir().event(event.raw()).expect("an eventfd") += 1;
    }
}

/// Whether nothing but time keeps the operation from happening.
fn is_ready(flight: &Flight, state: &State) -> bool {
    if flight.is_cancelled {
        return true;
    }
    match &flight.op {
        Op::Accept { .. } => state.network.can_accept(),
        Op::Recv { socket } | Op::Exchange { socket, sent: true, .. } => {
            state.socket(socket.raw()).is_ok_and(|connection| state.network.can_receive(connection))
        }
        Op::Send { socket, .. } | Op::Exchange { socket, sent: false, .. } => {
            state.socket(socket.raw()).is_ok_and(|connection| state.network.can_send(connection))
        }
        Op::Doorbell { event, .. } => {
            matches!(state.handle(event.raw()), Some(Handle::Event(count)) if *count > 0)
        }
        _ => true,
    }
}

/// How long the operation takes, by chance: sockets are quick, syncs are slow.
fn delay(op: &Op, state: &mut State) -> Duration {
    let microseconds = match op {
        Op::Accept { .. } | Op::Recv { .. } | Op::Send { .. } | Op::Exchange { .. } | Op::Doorbell { .. } => {
            20
        }
        Op::WriteDurably { .. } | Op::Sync { .. } | Op::WriteOut { .. } | Op::SyncFs { .. } => 5000,
        _ => 300,
    };
    let microseconds = state.random.below(microseconds);
    Duration::from_micros(u64::try_from(microseconds).expect("few"))
}

/// What every operation and every turn takes.
const STEP: Duration = Duration::from_micros(1);

#[cfg(test)]
mod tests;
