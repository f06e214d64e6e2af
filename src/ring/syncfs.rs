//! syncfs(2) for everybody: one helper thread a file system, one call for all who wait.
//!
//! io_uring has no syncfs opcode, and the call takes as long as the disk does, so it never runs on a
//! worker. Whoever asks while a call is under way waits for the next one, which covers all that was
//! written before they asked; rounds form by themselves, without a timer, over all workers.
//!
//! An error is told to the round that meets it. Whoever has written something before, and asks only later, must
//! not take the success of a later round for theirs: see [`SyncThreads::failures`].
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::channel::{Receiver, Sender, unbounded};
use rustix::io::Errno;

use super::Token;
use crate::limits;
use crate::sys::cpu;

/// What a worker is told: this request is done.
pub(super) type Answer = (Token, Result<(), Errno>);

/// Where the answers of one worker go: a channel, and the eventfd that its ring reads.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    pub(super) answers: Sender<Answer>,
    pub(super) doorbell: Arc<OwnedFd>,
}

/// One worker's wish. Answered exactly once: with an I/O error when it is dropped unanswered.
#[derive(Debug)]
struct Request {
    token: Token,
    mailbox: Mailbox,
    answered: bool,
}

/// The helper threads of the process, by file system. A thread stays until the process ends, and its
/// descriptor with it: the error of a file system is reported once to each open description (errseq_t, kernel
/// 5.8 for syncfs), so only one that is always open misses none.
#[derive(Clone, Debug)]
pub struct SyncThreads {
    threads: Arc<Mutex<BTreeMap<u64, SyncThread>>>,
    /// Where they may run. They are started by workers, which are bound to one CPU each.
    cpus: Arc<[usize]>,
    /// How many are about to ask.
    approaching: Arc<AtomicUsize>,
}

/// Somebody who will ask for a round in a moment, for as long as this lives. A round that is about to start
/// waits a little for them: one call that covers ten messages costs hardly more than one that covers two.
#[derive(Debug)]
pub struct Approach(Arc<AtomicUsize>);

impl Drop for Approach {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A way to one of them.
#[derive(Clone, Debug)]
pub(super) struct SyncThread {
    requests: Sender<Request>,
    /// Rounds that failed. Counted before anybody is told.
    failures: Arc<AtomicU64>,
}

impl SyncThreads {
    /// None yet; they will run on `cpus`.
    #[must_use]
    pub fn on(cpus: &[usize]) -> Self {
        Self { threads: Arc::default(), cpus: cpus.into(), approaching: Arc::default() }
    }

    /// Says that somebody will ask soon; to be dropped when they have.
    #[must_use]
    pub fn approach(&self) -> Approach {
        self.approaching.fetch_add(1, Ordering::Relaxed);
        Approach(Arc::clone(&self.approaching))
    }

    /// Asks for a syncfs of the file system `device`, on which `fd` is open. `known` is the caller's own copy,
    /// so that workers meet at the lock only once per file system.
    pub(super) fn request(
        &self,
        known: &mut BTreeMap<u64, SyncThread>,
        device: u64,
        fd: impl AsFd,
        token: Token,
        mailbox: &Mailbox,
    ) {
        let mut request = Request { token, mailbox: mailbox.clone(), answered: false };
        match self.thread(known, device, fd) {
            // If it fails the request answers itself when it is dropped.
            Ok(thread) => drop(thread.requests.send(request)),
            Err(errno) => request.answer(Err(errno)),
        }
    }

    /// How many rounds of the file system `device` have failed. From this call on every error there is
    /// counted, as the thread that would be told has its descriptor open.
    ///
    /// # Errors
    /// No descriptor or thread is to be had.
    pub(super) fn failures(
        &self,
        known: &mut BTreeMap<u64, SyncThread>,
        device: u64,
        fd: impl AsFd,
    ) -> Result<u64, Errno> {
        Ok(self.thread(known, device, fd)?.failures.load(Ordering::Acquire))
    }

    fn thread<'k>(
        &self,
        known: &'k mut BTreeMap<u64, SyncThread>,
        device: u64,
        fd: impl AsFd,
    ) -> Result<&'k SyncThread, Errno> {
        match known.entry(device) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(self.start_once(device, fd)?)),
        }
    }

    fn start_once(&self, device: u64, fd: impl AsFd) -> Result<SyncThread, Errno> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = threads.get(&device) {
            return Ok(thread.clone());
        }
        let own = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
        let (sender, requests) = unbounded();
        let failures = Arc::new(AtomicU64::new(0));
        let (counted, cpus) = (Arc::clone(&failures), Arc::clone(&self.cpus));
        let approaching = Arc::clone(&self.approaching);
        std::thread::Builder::new()
            .name("syncfs".into())
            .spawn(move || {
                // Where that is not allowed they compete with a worker: slower, not wrong.
                let _ = cpu::spread(&cpus);
                // Steps of 50 us would last twice as long with the usual timer slack of another 50 us.
                let _ = std::fs::write("/proc/thread-self/timerslack_ns", "1000");
                serve(&own, &requests, &counted, &approaching);
            })
            .map_err(|_| Errno::AGAIN)?;
        let thread = SyncThread { requests: sender, failures };
        threads.insert(device, thread.clone());
        Ok(thread)
    }
}

/// Rounds, until nobody is left who could ask.
fn serve(fd: &OwnedFd, requests: &Receiver<Request>, failures: &AtomicU64, approaching: &AtomicUsize) {
    while let Ok(first) = requests.recv() {
        // A lone message finds nobody on the way, and never waits.
        for _ in 0..limits::GATHER_STEPS {
            if approaching.load(Ordering::Relaxed) == 0 {
                break;
            }
            std::thread::sleep(limits::GATHER_STEP);
        }
        let mut round = vec![first];
        round.extend(requests.try_iter());
        let result = rustix::fs::syncfs(fd);
        if result.is_err() {
            failures.fetch_add(1, Ordering::Release);
        }
        for request in &mut round {
            request.tell(result);
        }
        // One wake-up for each worker of the round, after all its answers are there.
        let mut rung: Vec<*const OwnedFd> = Vec::new();
        for request in &round {
            let doorbell = Arc::as_ptr(&request.mailbox.doorbell);
            if !rung.contains(&doorbell) {
                rung.push(doorbell);
                request.ring();
            }
        }
    }
}

impl Request {
    fn tell(&mut self, result: Result<(), Errno>) {
        self.answered = true;
        // A worker that is gone needs no answer.
        let _ = self.mailbox.answers.send((self.token, result));
    }

    fn ring(&self) {
        // Fails only when the counter is full, and then the worker has been woken already.
        let _ = rustix::io::write(&*self.mailbox.doorbell, &1_u64.to_ne_bytes());
    }

    fn answer(&mut self, result: Result<(), Errno>) {
        self.tell(result);
        self.ring();
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.answered {
            self.answer(Err(Errno::IO));
        }
    }
}
