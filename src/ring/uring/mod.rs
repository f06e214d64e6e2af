//! The real ring: one io_uring per worker thread, restricted to what it does.
//!
//! Owns the operations in flight, and with them every byte the kernel may touch. Submissions are
//! collected during a turn and go to the kernel in one call, which also waits.
#![allow(
    unsafe_code,
    reason = "submission entries carry addresses; the operation that owns the memory is kept in its slot until the last completion"
)]

use std::collections::{BTreeMap, VecDeque};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, unbounded};
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::fs::{RawDir, SeekFrom};
use rustix::io::Errno;

use self::buffers::BufferRing;
use self::entry::Slot;
pub use self::setup::{LinkBy, Setup, SetupError, link_by};
use super::op::{Closing, Done, Fd, Identity, Op, Owner, Passed, Peer};
use super::pool::Pool;
use super::syncfs::{Answer, Approach, Mailbox, SyncThread, SyncThreads};
use super::{Completion, Ring, Time, Token};
use crate::limits;
use crate::sys::{credentials, file_system};

mod buffers;
mod entry;
mod setup;

/// The ring of one worker.
pub struct Uring {
    // Dropped first: closes the ring, and so ends what the kernel does with everything below.
    ring: IoUring,
    slots: Vec<Option<Slot>>,
    in_flight: usize,
    pool: Rc<Pool>,
    buffers: BufferRing,
    closing: Closing,
    waiting: VecDeque<Submission>,
    identities: BTreeMap<Owner, Rc<u16>>,
    /// The server's own credentials, registered like the others: the kernel lets only the very same ones
    /// link what they opened (6.10), and those of the thread change whenever it registers an owner.
    own: u16,
    link_by: LinkBy,
    sync_threads: SyncThreads,
    sync_known: BTreeMap<u64, SyncThread>,
    mailbox: Mailbox,
    answers: Receiver<Answer>,
    doorbell_count: Box<[u8; 8]>,
    doorbell_armed: bool,
    /// Room for the completions of a turn, kept between turns.
    completions: Vec<cqueue::Entry>,
}

impl Drop for Uring {
    fn drop(&mut self) {
        // Closing a ring cancels asynchronously: the kernel could still write to memory that we are
        // about to free. So everything is cancelled and waited for while the memory is still there.
        let cancel_all = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build().user_data(IGNORED);
        self.waiting.push_back(Submission::One(cancel_all));
        // That one may come between the two halves of an exchange.
        for token in self.exchanges_in_flight() {
            self.cancel_exchange(token);
        }
        let mut done = Vec::new();
        while self.in_flight > self.syncs_in_flight() || self.doorbell_armed {
            if self.enter(Some(Duration::from_secs(1)), &mut done, false).is_err() {
                // The memory is needed for as long as the kernel has it: for ever, here.
                std::process::abort();
            }
            done.clear();
        }
        // What is left waits for syncfs threads, which have descriptors of their own.
        self.slots.clear();
        let closing = std::mem::take(&mut *self.closing.borrow_mut());
        for raw in closing {
            // SAFETY: an `Fd` put it there when its last holder dropped it: open, and ours.
            drop(unsafe { OwnedFd::from_raw_fd(raw) });
        }
    }
}

impl Uring {
    /// Makes the ring of the calling thread, which alone may use it from now on (single issuer).
    ///
    /// # Errors
    /// One clear sentence that says what is missing and what to do.
    pub fn new(setup: &Setup) -> Result<Self, SetupError> {
        let ring: IoUring = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(limits::RING_COMPLETIONS)
            .dontfork()
            .build(limits::RING_SUBMISSIONS)
            .map_err(SetupError::Create)?;
        setup::check_features(&ring)?;
        let count = u16::try_from(setup.buffers_bytes / limits::BUFFER_BYTES)
            .unwrap_or(limits::BUFFERS_MAX)
            .clamp(limits::BUFFERS_MIN, limits::BUFFERS_MAX);
        let pool = Pool::new(count, limits::BUFFER_BYTES).map_err(SetupError::Memory)?;
        let buffers = BufferRing::register(&ring, &pool)?;
        setup::restrict(&ring, setup)?;
        let own = ring
            .submitter()
            .register_personality()
            .map_err(|error| SetupError::Register("its credentials", error))?;
        let doorbell =
            rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).map_err(SetupError::Memory)?;
        let (sender, answers) = unbounded();
        let mut made = Self {
            ring,
            slots: Vec::new(),
            in_flight: 0,
            pool,
            buffers,
            closing: Closing::default(),
            waiting: VecDeque::new(),
            identities: BTreeMap::new(),
            own,
            link_by: setup.link_by,
            sync_threads: setup.sync_threads.clone(),
            sync_known: BTreeMap::new(),
            mailbox: Mailbox { answers: sender, doorbell: Arc::new(doorbell) },
            answers,
            doorbell_count: Box::new([0; 8]),
            doorbell_armed: false,
            completions: Vec::new(),
        };
        made.ring
            .submitter()
            .register_enable_rings()
            .map_err(|error| SetupError::Register("its enabling", error))?;
        // Saves the look-up of the descriptor on every call; a kernel that refuses is only slower.
        let _ = made.ring.submitter().register_ring_fd();
        made.arm_doorbell();
        Ok(made)
    }

    /// Takes over a descriptor that came from elsewhere: a listener, an eventfd, a passed connection.
    #[must_use]
    pub fn adopt(&self, fd: OwnedFd) -> Rc<Fd> {
        Fd::new(fd.into_raw_fd(), &self.closing)
    }

    fn syncs_in_flight(&self) -> usize {
        self.slots.iter().flatten().filter(|slot| matches!(slot.op, Op::SyncFs { .. })).count()
    }

    fn exchanges_in_flight(&self) -> Vec<Token> {
        let tokens = (0..).zip(&self.slots).filter_map(|(index, slot)| {
            let slot = slot.as_ref().filter(|slot| matches!(slot.op, Op::Exchange { .. }))?;
            Some(Token { index, generation: slot.generation })
        });
        tokens.collect()
    }

    /// Asks for an early end of both halves. Between them, when the send is over and the kernel has not begun
    /// the receive, there is neither; then the answer about the receive has this done again.
    fn cancel_exchange(&mut self, token: Token) {
        let send = opcode::AsyncCancel::new(data_of(token) | SENDING).build().user_data(IGNORED);
        let receive = opcode::AsyncCancel::new(data_of(token)).build().user_data(data_of(token) | CANCELLING);
        self.waiting.extend([Submission::One(send), Submission::One(receive)]);
    }

    fn arm_doorbell(&mut self) {
        let entry = opcode::Read::new(
            types::Fd(self.mailbox.doorbell.as_raw_fd()),
            self.doorbell_count.as_mut_ptr(),
            8,
        )
        .build()
        .user_data(DOORBELL);
        self.waiting.push_back(Submission::One(entry));
        self.doorbell_armed = true;
    }

    /// Moves what waits into the submission queue, entering the kernel when it is full.
    fn fill(&mut self) -> Result<(), Errno> {
        for raw in self.closing.borrow_mut().drain(..) {
            let close = opcode::Close::new(types::Fd(raw))
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(IGNORED);
            self.waiting.push_back(Submission::One(close));
        }
        while let Some(next) = self.waiting.front() {
            let mut submissions = self.ring.submission();
            // A chain ends where a submission ends, so both of its entries go in, or none.
            // SAFETY: every address in an entry points into its slot (or into a field of this ring,
            // for the doorbell), on the heap, and the slot keeps it until the last completion.
            let pushed = unsafe { submissions.push_multiple(next.entries()) };
            if pushed.is_ok() {
                self.waiting.pop_front();
                continue;
            }
            drop(submissions);
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if is_later(&error) => return Ok(()),
                Err(error) => return Err(errno_of(&error)),
            }
        }
        Ok(())
    }

    fn enter(
        &mut self,
        wait: Option<Duration>,
        done: &mut Vec<Completion>,
        rearm: bool,
    ) -> Result<(), Errno> {
        self.buffers.give_back(&self.pool);
        self.fill()?;
        // Entries that found no place must not wait for a completion that may never come.
        let wait = if self.waiting.is_empty() { wait } else { Some(Duration::ZERO) };
        let submitter = self.ring.submitter();
        let entered = match wait {
            Some(Duration::ZERO) => submitter.submit(),
            None => submitter.submit_and_wait(1),
            Some(wait) => {
                let timespec = Timespec::from(wait);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
        };
        if let Err(error) = entered
            && !is_later(&error)
        {
            return Err(errno_of(&error));
        }
        self.reap(done, rearm);
        Ok(())
    }

    fn reap(&mut self, done: &mut Vec<Completion>, rearm: bool) {
        let mut rung = false;
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.ring.completion());
        for entry in completions.drain(..) {
            match entry.user_data() {
                IGNORED => {}
                DOORBELL => {
                    rung = true;
                    self.doorbell_armed = false;
                }
                data if data & CANCELLING != 0 => self.cancel_again(token_of(data), entry.result()),
                data if data & SENDING != 0 => done.push(self.complete_unsent(token_of(data), &entry)),
                data => done.push(self.complete(token_of(data), &entry)),
            }
        }
        self.completions = completions;
        if rung {
            while let Ok((token, result)) = self.answers.try_recv() {
                let op = self.finish(token);
                done.push(Completion { token, result: result.map(|()| Done::Plain), op });
            }
            if rearm {
                self.arm_doorbell();
            }
        }
    }

    /// The slot of an operation that something completes of.
    fn slot(&mut self, token: Token) -> &mut Slot {
        let slot = self.slots[token.index as usize].as_mut().expect("a completion has its operation");
        assert_eq!(slot.generation, token.generation, "a slot is reused after its last completion");
        slot
    }

    fn cancel_again(&mut self, token: Token, result: i32) {
        let slot = self.slots[token.index as usize].as_ref();
        if result == -libc::ENOENT && slot.is_some_and(|slot| slot.generation == token.generation) {
            self.cancel_exchange(token);
        }
    }

    /// The send of an exchange failed, or ended before all was sent.
    fn complete_unsent(&mut self, token: Token, entry: &cqueue::Entry) -> Completion {
        let slot = self.slot(token);
        let errno = match usize::try_from(entry.result()) {
            Err(_) => Errno::from_raw_os_error(-entry.result()),
            Ok(count) => {
                if let Op::Exchange { from, .. } = &mut slot.op {
                    *from += count;
                }
                if slot.is_cancelled { Errno::CANCELED } else { Errno::PIPE }
            }
        };
        Completion { token, result: Err(errno), op: self.finish(token) }
    }

    fn complete(&mut self, token: Token, entry: &cqueue::Entry) -> Completion {
        let more = cqueue::more(entry.flags());
        let slot = self.slot(token);
        if let Op::Exchange { sent, .. } = &mut slot.op {
            *sent = true;
        }
        let slot = self.slots[token.index as usize].as_ref().expect("just seen");
        let result = match u32::try_from(entry.result()) {
            Err(_) => Err(Errno::from_raw_os_error(-entry.result())),
            Ok(value) => Ok(self.done(&slot.op, value, entry.flags())),
        };
        let op = if more { None } else { self.finish(token) };
        Completion { token, result, op }
    }

    fn done(&self, op: &Op, value: u32, flags: u32) -> Done {
        match op {
            Op::Accept { .. } | Op::Open { .. } => {
                Done::Opened(Fd::new(RawFd::try_from(value).expect("descriptors are ints"), &self.closing))
            }
            Op::Recv { .. } | Op::Exchange { .. } => match cqueue::buffer_select(flags) {
                Some(id) if value > 0 => Done::Received(self.pool.lease(id, value as usize)),
                // The end of the stream uses up no buffer since kernel 5.19; if one was chosen
                // nevertheless it comes back through an empty lease.
                Some(id) => {
                    drop(self.pool.lease(id, 0));
                    Done::Closed
                }
                None => Done::Closed,
            },
            Op::Send { .. } | Op::Read { .. } | Op::Write { .. } | Op::WriteDurably { .. } => {
                Done::Count(value as usize)
            }
            _ => Done::Plain,
        }
    }

    fn finish(&mut self, token: Token) -> Option<Op> {
        self.in_flight -= 1;
        self.slots[token.index as usize].take().map(|slot| slot.op)
    }

    fn submit_syncfs(&mut self, token: Token) {
        let slot = self.slots[token.index as usize].as_ref().expect("just pushed");
        let Op::SyncFs { on } = &slot.op else { unreachable!("the caller matched the operation") };
        let on = Rc::clone(on);
        match self.device(&on) {
            Ok(device) => {
                self.sync_threads.request(&mut self.sync_known, device, borrow(&on), token, &self.mailbox);
            }
            Err(errno) => {
                // Through the mailbox, so that it completes like every other one.
                let _ = self.mailbox.answers.send((token, Err(errno)));
                let _ = rustix::io::write(&*self.mailbox.doorbell, &1_u64.to_ne_bytes());
            }
        }
    }
}

impl Ring for Uring {
    fn push(&mut self, token: Token, op: Op) {
        assert!(token.index < INDEX_END, "fewer operations than 2^30");
        let index = token.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        assert!(self.slots[index].is_none(), "a token names one operation");
        let syncfs = matches!(op, Op::SyncFs { .. });
        let mut slot = Slot::new(token, op);
        if !syncfs {
            let entry = slot.entry(self.link_by, self.own).user_data(data_of(token));
            self.waiting.push_back(match slot.entry_before() {
                None => Submission::One(entry),
                Some(before) => Submission::Chain([before.user_data(data_of(token) | SENDING), entry]),
            });
        }
        self.slots[index] = Some(slot);
        self.in_flight += 1;
        if syncfs {
            self.submit_syncfs(token);
        }
    }

    fn cancel(&mut self, token: Token) {
        let slot = self.slots.get_mut(token.index as usize).and_then(Option::as_mut);
        if let Some(slot) = slot.filter(|slot| slot.generation == token.generation) {
            slot.is_cancelled = true;
            if matches!(slot.op, Op::Exchange { .. }) {
                return self.cancel_exchange(token);
            }
        }
        let cancel = opcode::AsyncCancel::new(data_of(token)).build().user_data(IGNORED);
        self.waiting.push_back(Submission::One(cancel));
    }

    fn turn(&mut self, wait: Option<Duration>, done: &mut Vec<Completion>) -> Result<(), Errno> {
        self.enter(wait, done, true)
    }

    fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    fn now(&self) -> Time {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Time(nanoseconds(&now))
    }

    fn wall(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Duration::from_nanos(nanoseconds(&now))
    }

    fn device(&self, fd: &Fd) -> Result<u64, Errno> {
        if let Some(device) = fd.device.get() {
            return Ok(device);
        }
        let device = rustix::fs::fstat(borrow(fd))?.st_dev;
        fd.device.set(Some(device));
        Ok(device)
    }

    fn is_removed(&self, directory: &Fd) -> Result<bool, Errno> {
        Ok(rustix::fs::fstat(borrow(directory))?.st_nlink == 0)
    }

    fn names(&self, directory: &Fd) -> Result<Vec<CString>, Errno> {
        let directory = borrow(directory);
        rustix::fs::seek(directory, SeekFrom::Start(0))?;
        let mut buffer = Vec::with_capacity(NAMES_BYTES);
        // By the descriptor itself: whoever opened it was allowed to, we might not be.
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let name = entry?.file_name().to_owned();
            if !matches!(name.as_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn keeps_order(&self, fd: &Fd) -> Result<bool, Errno> {
        file_system::keeps_order(borrow(fd))
    }

    fn sync_failures(&mut self, on: &Fd) -> Result<u64, Errno> {
        let device = self.device(on)?;
        self.sync_threads.failures(&mut self.sync_known, device, borrow(on))
    }

    fn approach(&self) -> Approach {
        self.sync_threads.approach()
    }

    fn peer(&self, fd: &Fd) -> Peer {
        let address = rustix::net::getpeername(borrow(fd)).ok().flatten();
        match address.and_then(|address| std::net::SocketAddr::try_from(address).ok()) {
            Some(address) => Peer::Internet(address.ip().to_canonical()),
            None => Peer::Local,
        }
    }

    fn take_over(&mut self, passed: Passed) -> Rc<Fd> {
        passed.take(&self.closing)
    }

    fn identity(&mut self, owner: Owner) -> Result<Identity, Errno> {
        let Owner::User { uid, gid } = owner else {
            return Ok(Identity::Server);
        };
        if let Some(known) = self.identities.get(&owner) {
            return Ok(Identity::Registered(Rc::clone(known)));
        }
        if credentials::server_uid_gid() == (uid, gid) {
            return Ok(Identity::Server);
        }
        if self.identities.len() >= limits::IDENTITIES_MAX {
            self.forget_idle_identities();
        }
        let submitter = self.ring.submitter();
        let id = credentials::with_identity(uid, gid, || submitter.register_personality())
            .map_err(|_| Errno::PERM)?
            .map_err(|error| errno_of(&error))?;
        let id = Rc::new(id);
        self.identities.insert(owner, Rc::clone(&id));
        Ok(Identity::Registered(id))
    }
}

impl Uring {
    /// Gives the kernel back every personality that no operation uses. An operation holds a count of
    /// its personality, so none is taken away under one in flight.
    fn forget_idle_identities(&mut self) {
        let submitter = self.ring.submitter();
        self.identities.retain(|_, id| {
            if Rc::strong_count(id) > 1 {
                return true;
            }
            submitter.unregister_personality(**id).is_err()
        });
    }
}

/// What must be submitted together.
enum Submission {
    One(squeue::Entry),
    /// The first is linked to the second.
    Chain([squeue::Entry; 2]),
}

impl Submission {
    fn entries(&self) -> &[squeue::Entry] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Chain(entries) => entries,
        }
    }
}

fn borrow(fd: &Fd) -> BorrowedFd<'_> {
    // SAFETY: an `Fd` is open for as long as it lives, and the borrow ends before it does.
    unsafe { BorrowedFd::borrow_raw(fd.raw()) }
}

fn nanoseconds(time: &rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanoseconds
}

/// Whether the call may be made again as it is: interrupted, timed out, or short of memory or room
/// for the moment. What was not submitted stays in the queue.
fn is_later(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY))
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

fn data_of(token: Token) -> u64 {
    u64::from(token.generation) << 32 | u64::from(token.index)
}

fn token_of(data: u64) -> Token {
    Token {
        index: u32::try_from(data & u64::from(INDEX_END - 1)).expect("masked"),
        generation: u32::try_from(data >> 32).expect("shifted"),
    }
}

/// What one getdents(2) may fill.
const NAMES_BYTES: usize = 64 * 1024;
/// The index of an operation ends below the two bits that tell its completions apart.
const INDEX_END: u32 = 1 << 30;
/// In the data of a completion: it is the send of the exchange that ended.
const SENDING: u64 = 1 << 30;
/// In the data of a completion: it is an answer to the cancellation of the exchange.
const CANCELLING: u64 = 1 << 31;
/// Completions that nobody waits for: closes, cancellations.
const IGNORED: u64 = u64::MAX;
/// The ring's own eventfd: answers of the syncfs threads are there.
const DOORBELL: u64 = u64::MAX - 1;
