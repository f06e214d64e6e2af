//! The executor of one worker: tasks, timers and operations in flight, on one thread.
//!
//! It stays small because little is asked of it. A completion names its operation, the operation names
//! the task that waits, so tasks are polled with a waker that does nothing; whatever else can wake a task
//! (a deadline, a [`Bell`]) also lives on this thread. Each ready task is polled once a turn and then the
//! ring gets its turn, so no session can keep the others from their completions.
//!
//! Dropping a [`Pending`] does not stop its operation: memory stays with the ring until the completion,
//! whose result (a descriptor, a lease) is then dropped, which closes or returns it.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::io::Errno;

use crate::limits;
use crate::ring::{Completion, Done, Identity, Op, Owner, Pool, Ring, Time, Token};

/// One worker's executor. Shared by its tasks as `Rc<Exec>`.
pub struct Exec {
    ring: RefCell<Box<dyn Ring>>,
    pool: Rc<Pool>,
    tasks: RefCell<Tasks>,
    waiters: RefCell<Waiters>,
    timers: RefCell<Timers>,
    now: Cell<Time>,
    current: Cell<TaskId>,
    buffers_free: Bell,
}

/// What came of one operation, and the operation with its memory.
pub struct Finished {
    /// What the kernel said.
    pub result: Result<Done, Errno>,
    /// The operation, given back; `None` for all but the last completion of a multishot one.
    pub op: Option<Op>,
}

impl Exec {
    /// An executor over `ring`.
    #[must_use]
    pub fn new(ring: Box<dyn Ring>) -> Rc<Self> {
        let (pool, now) = (Rc::clone(ring.pool()), ring.now());
        Rc::new(Self {
            ring: RefCell::new(ring),
            pool,
            tasks: RefCell::default(),
            waiters: RefCell::default(),
            timers: RefCell::default(),
            now: Cell::new(now),
            current: Cell::new(TaskId::NONE),
            buffers_free: Bell::default(),
        })
    }

    /// Adds a task; it is first polled in the next turn.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().add(Box::pin(task));
    }

    /// Turns until `until` says so and then no longer, whatever tasks there are. It is asked before every
    /// wait: what the tasks just did may be what it looks for, and nothing else may ever happen.
    ///
    /// # Errors
    /// When the ring fails for good.
    pub fn run_until(&self, mut until: impl FnMut() -> bool) -> Result<(), Errno> {
        let mut done = Vec::new();
        loop {
            self.poll_ready();
            if until() {
                return Ok(());
            }
            self.turn(&mut done)?;
        }
    }

    /// Does `future`, and whatever else is to be done, until it is over.
    ///
    /// # Errors
    /// When the ring fails for good.
    pub fn complete<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Result<T, Errno> {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        self.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        self.run_until(|| result.borrow().is_some())?;
        Ok(result.take().expect("just seen"))
    }

    /// Gives the ring its turn, and wakes whoever waited for what it did.
    fn turn(&self, done: &mut Vec<Completion>) -> Result<(), Errno> {
        // The ring gives returned buffers to the kernel before it submits, so who waits may ask again.
        if self.pool.free() > 0 {
            self.buffers_free.ring(self);
        }
        let wait = self.patience();
        let mut ring = self.ring.borrow_mut();
        ring.turn(wait, done)?;
        self.now.set(ring.now());
        drop(ring);
        for completion in done.drain(..) {
            if let Some(task) = self.waiters.borrow_mut().complete(completion) {
                self.wake(task);
            }
        }
        self.expire();
        Ok(())
    }

    /// Polls what is ready now; what becomes ready meanwhile waits for the next turn.
    fn poll_ready(&self) {
        let count = self.tasks.borrow().ready.len();
        for _ in 0..count {
            let Some((id, mut task)) = self.tasks.borrow_mut().take_ready() else {
                continue;
            };
            self.current.set(id);
            let polled = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            self.current.set(TaskId::NONE);
            let armed = self.tasks.borrow_mut().put_back(id, task, polled.is_ready());
            if armed.is_some() {
                self.timers.borrow_mut().forget_one(|timer| self.tasks.borrow().is_live(timer.task));
            }
        }
    }

    /// How long the ring may wait.
    fn patience(&self) -> Option<Duration> {
        if !self.tasks.borrow().ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = self.timers.borrow().heap.peek().map(|Reverse(timer)| timer.at)?;
        Some(next.since(self.now.get()))
    }

    fn expire(&self) {
        let now = self.now.get();
        loop {
            let mut timers = self.timers.borrow_mut();
            match timers.heap.peek() {
                Some(Reverse(timer)) if timer.at <= now => {
                    let timer = *timer;
                    timers.heap.pop();
                    drop(timers);
                    if self.tasks.borrow_mut().disarm(timer) {
                        self.wake(timer.task);
                    }
                }
                _ => return,
            }
        }
    }

    fn wake(&self, task: TaskId) {
        self.tasks.borrow_mut().make_ready(task);
    }

    /// Makes sure that the current task is polled at `at`, or earlier.
    fn arm(&self, at: Time) {
        let task = self.current.get();
        if self.tasks.borrow_mut().arm(task, at) {
            self.timers.borrow_mut().heap.push(Reverse(Timer { at, task }));
        }
    }

    /// The time of this turn.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now.get()
    }

    /// The wall clock, since the Unix epoch.
    #[must_use]
    pub fn wall(&self) -> Duration {
        self.ring.borrow().wall()
    }

    /// The receive buffers.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Gives the ring for what it does at once: device numbers, peers, identities.
    pub fn with_ring<T>(&self, ask: impl FnOnce(&mut dyn Ring) -> T) -> T {
        ask(self.ring.borrow_mut().as_mut())
    }

    /// The identity for `owner`; see [`Ring::identity`].
    ///
    /// # Errors
    /// `EPERM` when this process may not act for that owner.
    pub fn identity(&self, owner: Owner) -> Result<Identity, Errno> {
        self.with_ring(|ring| ring.identity(owner))
    }

    /// Submits an operation in this turn.
    pub fn start(&self, op: Op) -> Pending<'_> {
        let token = self.waiters.borrow_mut().add(self.current.get());
        self.ring.borrow_mut().push(token, op);
        Pending { exec: self, token, over: false }
    }

    /// Does one operation.
    pub async fn run(&self, op: Op) -> Finished {
        self.start(op).await
    }

    /// Does one operation, or cancels it when `patience` ends and waits for its end. An operation that
    /// succeeds while it is being cancelled has succeeded; `ETIME` means that it has not happened.
    pub async fn run_within(&self, patience: Patience<'_>, op: Op) -> Finished {
        let mut pending = self.start(op);
        let first = std::future::poll_fn(|context| {
            if let Poll::Ready(finished) = Pin::new(&mut pending).poll(context) {
                return Poll::Ready(Some(finished));
            }
            if patience.is_over(self.now()) {
                return Poll::Ready(None);
            }
            self.arm(patience.until);
            Poll::Pending
        })
        .await;
        if let Some(finished) = first {
            return finished;
        }
        pending.cancel();
        let mut finished = pending.await;
        if matches!(finished.result, Err(Errno::CANCELED)) {
            finished.result = Err(Errno::TIME);
        }
        finished
    }

    /// Comes back at `at`.
    pub async fn sleep_until(&self, at: Time) {
        std::future::poll_fn(|_| {
            if self.now() >= at {
                return Poll::Ready(());
            }
            self.arm(at);
            Poll::Pending
        })
        .await;
    }

    /// Lets everybody else have a turn.
    pub async fn give_way(&self) {
        let mut given = false;
        std::future::poll_fn(|_| {
            if std::mem::replace(&mut given, true) {
                return Poll::Ready(());
            }
            self.wake(self.current.get());
            Poll::Pending
        })
        .await;
    }

    /// Comes back when a receive buffer may be free, or when `patience` ends.
    pub async fn buffer_within(&self, patience: Patience<'_>) {
        self.rung_within(&self.buffers_free, patience).await;
    }

    /// Comes back when `bell` rings, or when `patience` ends.
    pub async fn rung_within(&self, bell: &Bell, patience: Patience<'_>) {
        let heard = bell.rings.get();
        std::future::poll_fn(|_| {
            if bell.rings.get() != heard || patience.is_over(self.now()) {
                return Poll::Ready(());
            }
            bell.listen(self.current.get());
            self.arm(patience.until);
            Poll::Pending
        })
        .await;
    }

    /// Comes back with what `ready` gives, which is asked whenever something that this task waits for has
    /// happened, or with nothing when `patience` ends.
    pub async fn when_ready<T>(
        &self,
        patience: Patience<'_>,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        std::future::poll_fn(|_| {
            if let Some(value) = ready() {
                return Poll::Ready(Some(value));
            }
            if patience.is_over(self.now()) {
                return Poll::Ready(None);
            }
            self.arm(patience.until);
            Poll::Pending
        })
        .await
    }

    /// Rings `bell`.
    pub fn ring(&self, bell: &Bell) {
        bell.ring(self);
    }

    /// Has every task look at what it waits for once more: a flag that ends patience was raised.
    pub fn wake_all(&self) {
        self.tasks.borrow_mut().make_all_ready();
    }

    /// Drops all tasks, which hold this executor and would keep it and the ring for ever.
    pub fn clear(&self) {
        let places = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(places);
    }
}

/// How long somebody is willing to wait.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// Until when.
    pub until: Time,
    /// Ends it at once when raised (and [`Exec::wake_all`] called).
    pub unless: Option<&'a Cell<bool>>,
}

impl Patience<'_> {
    /// Whether the wait is over at `now`.
    #[must_use]
    pub fn is_over(&self, now: Time) -> bool {
        now >= self.until || self.unless.is_some_and(Cell::get)
    }
}

/// An operation in flight. Awaiting it gives the next completion; a multishot operation may be awaited
/// again until one comes with its operation.
pub struct Pending<'e> {
    exec: &'e Exec,
    token: Token,
    over: bool,
}

impl Pending<'_> {
    /// Asks for an early end; await the completion all the same.
    pub fn cancel(&mut self) {
        if !self.over {
            self.exec.ring.borrow_mut().cancel(self.token);
        }
    }

    /// The next completion of a multishot operation: `None` after the last.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Finished>> {
        if self.over {
            return Poll::Ready(None);
        }
        Pin::new(self).poll(context).map(Some)
    }
}

impl Future for Pending<'_> {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Finished> {
        assert!(!self.over, "a completed operation is not awaited again");
        let finished = self.exec.waiters.borrow_mut().take(self.token, self.exec.current.get());
        match finished {
            Some(finished) => {
                self.over = finished.op.is_some();
                Poll::Ready(finished)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.exec.waiters.borrow_mut().abandon(self.token);
        }
    }
}

/// Something that tasks of one worker wait for and others of the same worker announce.
#[derive(Debug, Default)]
pub struct Bell {
    listeners: RefCell<Vec<TaskId>>,
    rings: Cell<u64>,
}

impl Bell {
    fn listen(&self, task: TaskId) {
        let mut listeners = self.listeners.borrow_mut();
        if !listeners.contains(&task) {
            listeners.push(task);
        }
    }

    fn ring(&self, exec: &Exec) {
        self.rings.set(self.rings.get() + 1);
        // Every turn rings for buffers, and nearly always nobody waits for one.
        if self.listeners.borrow().is_empty() {
            return;
        }
        for task in self.listeners.borrow_mut().drain(..) {
            exec.wake(task);
        }
    }
}

/// A bound on how much is done at once; first come, first served.
#[derive(Debug)]
pub struct Gate {
    places: usize,
    free: Cell<usize>,
    line: RefCell<VecDeque<Waiting>>,
}

/// Leave to pass a [`Gate`]; given back when dropped.
pub struct Permit<'g> {
    gate: &'g Gate,
    exec: &'g Exec,
    places: usize,
}

/// Somebody in line, and the places they need.
#[derive(Debug)]
struct Waiting {
    task: TaskId,
    places: usize,
    turn: Rc<Cell<Turn>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Waiting,
    Come,
    GivenUp,
}

impl Gate {
    /// A gate with so many places, at least one.
    #[must_use]
    pub fn new(places: usize) -> Self {
        let places = places.max(1);
        Self { places, free: Cell::new(places), line: RefCell::default() }
    }

    /// Comes back with leave to take `wanted` places at once, or all of them if there are not so many.
    pub async fn enter<'g>(&'g self, exec: &'g Exec, wanted: usize) -> Permit<'g> {
        if let Some(permit) = self.enter_now(exec, wanted) {
            return permit;
        }
        let places = wanted.min(self.places);
        let turn = Rc::new(Cell::new(Turn::Waiting));
        let waiting = InLine { gate: self, exec, places, turn: Rc::clone(&turn) };
        self.line.borrow_mut().push_back(Waiting { task: exec.current.get(), places, turn });
        std::future::poll_fn(|_| match waiting.turn.get() {
            Turn::Come => Poll::Ready(()),
            Turn::Waiting | Turn::GivenUp => Poll::Pending,
        })
        .await;
        // The places are the permit's now.
        waiting.turn.set(Turn::GivenUp);
        Permit { gate: self, exec, places }
    }

    /// Leave to take `wanted` places, or all of them if there are not so many; `None` if that would mean to
    /// wait.
    pub fn enter_now<'g>(&'g self, exec: &'g Exec, wanted: usize) -> Option<Permit<'g>> {
        let places = wanted.min(self.places);
        let left = self.free.get().checked_sub(places).filter(|_| self.line.borrow().is_empty())?;
        self.free.set(left);
        Some(Permit { gate: self, exec, places })
    }

    /// As [`enter_now`](Self::enter_now), but leaves half of the places to others.
    pub fn enter_if_half_free<'g>(&'g self, exec: &'g Exec, wanted: usize) -> Option<Permit<'g>> {
        let left = self.free.get().checked_sub(wanted)?;
        if left < self.places / 2 { None } else { self.enter_now(exec, wanted) }
    }

    fn leave(&self, exec: &Exec, places: usize) {
        self.free.set(self.free.get() + places);
        self.call(exec);
    }

    /// Lets in whoever is first in line, as long as there is room. Nobody overtakes: who needs many places
    /// would else wait for ever.
    fn call(&self, exec: &Exec) {
        let mut line = self.line.borrow_mut();
        while let Some(first) = line.front() {
            if first.turn.get() == Turn::Waiting {
                let Some(left) = self.free.get().checked_sub(first.places) else { return };
                self.free.set(left);
                first.turn.set(Turn::Come);
                exec.wake(first.task);
            }
            line.pop_front();
        }
    }
}

/// A place in the line. Who leaves it after being called gives the places back.
struct InLine<'g> {
    gate: &'g Gate,
    exec: &'g Exec,
    places: usize,
    turn: Rc<Cell<Turn>>,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        if self.turn.replace(Turn::GivenUp) == Turn::Come {
            self.gate.leave(self.exec, self.places);
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.gate.leave(self.exec, self.places);
    }
}

/// Something that goes on while its task awaits other things.
pub struct Meanwhile<'m, T> {
    future: Pin<Box<dyn Future<Output = T> + 'm>>,
    result: Option<T>,
}

impl<'m, T> Meanwhile<'m, T> {
    /// Makes `future` go on in what the current task awaits [`during`](Self::during) it.
    pub fn new(future: impl Future<Output = T> + 'm) -> Self {
        Self { future: Box::pin(future), result: None }
    }

    /// Awaits `main`.
    pub async fn during<M>(&mut self, main: impl Future<Output = M>) -> M {
        let mut main = std::pin::pin!(main);
        std::future::poll_fn(|context| {
            if self.result.is_none()
                && let Poll::Ready(result) = self.future.as_mut().poll(context)
            {
                self.result = Some(result);
            }
            main.as_mut().poll(context)
        })
        .await
    }

    /// Awaits the thing itself, and keeps it.
    pub async fn ready(&mut self) {
        if self.result.is_none() {
            self.result = Some(self.future.as_mut().await);
        }
    }

    /// What came of it, if it is over.
    #[must_use]
    pub fn result(&self) -> Option<&T> {
        self.result.as_ref()
    }

    /// Awaits the thing itself.
    pub async fn finish(self) -> T {
        match self.result {
            Some(result) => result,
            None => self.future.await,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TaskId {
    index: u32,
    generation: u32,
}

impl TaskId {
    const NONE: Self = Self { index: u32::MAX, generation: u32::MAX };
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Default)]
struct Tasks {
    places: Vec<Place>,
    vacant: Vec<u32>,
    ready: VecDeque<TaskId>,
}

#[derive(Default)]
struct Place {
    generation: u32,
    task: Option<Task>,
    occupied: bool,
    queued: bool,
    /// The earliest timer in the heap for this task.
    armed: Option<Time>,
}

impl Tasks {
    fn add(&mut self, task: Task) {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("fewer than 2^32 tasks")
        });
        let place = &mut self.places[index as usize];
        place.task = Some(task);
        place.occupied = true;
        let id = TaskId { index, generation: place.generation };
        self.make_ready(id);
    }

    fn place(&mut self, id: TaskId) -> Option<&mut Place> {
        self.places
            .get_mut(id.index as usize)
            .filter(|place| place.occupied && place.generation == id.generation)
    }

    fn is_live(&self, id: TaskId) -> bool {
        self.places
            .get(id.index as usize)
            .is_some_and(|place| place.occupied && place.generation == id.generation)
    }

    fn make_ready(&mut self, id: TaskId) {
        let Some(place) = self.place(id) else { return };
        if !std::mem::replace(&mut place.queued, true) {
            self.ready.push_back(id);
        }
    }

    fn make_all_ready(&mut self) {
        for index in 0..self.places.len() {
            let place = &self.places[index];
            let id = TaskId {
                index: u32::try_from(index).expect("fewer than 2^32 tasks"),
                generation: place.generation,
            };
            self.make_ready(id);
        }
    }

    fn take_ready(&mut self) -> Option<(TaskId, Task)> {
        let id = self.ready.pop_front()?;
        let place = self.place(id)?;
        place.queued = false;
        place.task.take().map(|task| (id, task))
    }

    /// Puts a polled task back, or lets it go when it is over; then tells when its timer was due.
    fn put_back(&mut self, id: TaskId, task: Task, over: bool) -> Option<Time> {
        let place = self.place(id).expect("a task ends only here");
        if !over {
            place.task = Some(task);
            return None;
        }
        place.occupied = false;
        place.queued = false;
        place.generation = place.generation.wrapping_add(1);
        let armed = place.armed.take();
        self.vacant.push(id.index);
        armed
    }

    /// Whether a timer must be set for the task to be polled at `at`.
    fn arm(&mut self, id: TaskId, at: Time) -> bool {
        let Some(place) = self.place(id) else {
            return false;
        };
        if place.armed.is_some_and(|armed| armed <= at) || at == Time(u64::MAX) {
            return false;
        }
        place.armed = Some(at);
        true
    }

    /// Whether `timer` is one that its task still counts on.
    fn disarm(&mut self, timer: Timer) -> bool {
        let Some(place) = self.place(timer.task) else {
            return false;
        };
        if place.armed == Some(timer.at) {
            place.armed = None;
        }
        true
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    at: Time,
    task: TaskId,
}

/// Deadlines move with every byte that arrives, so they are not taken out of the heap: a task that is
/// woken too early sets its timer again. Timers of ended tasks are swept when they become the majority.
#[derive(Default)]
struct Timers {
    heap: BinaryHeap<Reverse<Timer>>,
    dead: usize,
}

impl Timers {
    fn forget_one(&mut self, is_live: impl Fn(&Timer) -> bool) {
        self.dead += 1;
        if self.dead > limits::DEAD_TIMERS_MIN && self.dead * 2 > self.heap.len() {
            self.heap.retain(|Reverse(timer)| is_live(timer));
            self.dead = 0;
        }
    }
}

#[derive(Default)]
struct Waiters {
    places: Vec<Waiter>,
    vacant: Vec<u32>,
}

#[derive(Default)]
struct Waiter {
    generation: u32,
    task: Option<TaskId>,
    abandoned: bool,
    finished: VecDeque<Finished>,
}

impl Waiters {
    fn add(&mut self, task: TaskId) -> Token {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(Waiter::default());
            u32::try_from(self.places.len() - 1).expect("fewer than 2^32 operations")
        });
        let place = &mut self.places[index as usize];
        place.task = Some(task);
        place.abandoned = false;
        Token { index, generation: place.generation }
    }

    /// Keeps a completion for whoever waits, and names them.
    fn complete(&mut self, completion: Completion) -> Option<TaskId> {
        let Completion { token, result, op } = completion;
        let place = &mut self.places[token.index as usize];
        assert_eq!(place.generation, token.generation, "an operation completes once");
        let over = op.is_some();
        if place.abandoned {
            if over {
                self.release(token.index);
            }
            return None;
        }
        place.finished.push_back(Finished { result, op });
        place.task
    }

    /// The next completion, if there is one; else `task` is woken by it.
    fn take(&mut self, token: Token, task: TaskId) -> Option<Finished> {
        let place = &mut self.places[token.index as usize];
        assert_eq!(place.generation, token.generation, "a waiter lives as long as its operation");
        place.task = Some(task);
        let finished = place.finished.pop_front()?;
        if finished.op.is_some() {
            self.release(token.index);
        }
        Some(finished)
    }

    fn abandon(&mut self, token: Token) {
        let place = &mut self.places[token.index as usize];
        place.abandoned = true;
        let over = place.finished.drain(..).any(|finished| finished.op.is_some());
        if over {
            self.release(token.index);
        }
    }

    fn release(&mut self, index: u32) {
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        place.task = None;
        place.finished.clear();
        self.vacant.push(index);
    }
}

/// Runs futures of one task side by side; their results in the same order.
pub fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> JoinAll<F> {
    let mut futures = futures.into_iter().map(Box::pin);
    JoinAll(match (futures.next(), futures.next()) {
        (None, _) => Futures::Several(Vec::new()),
        (Some(only), None) => Futures::One(only),
        (Some(first), Some(second)) => {
            Futures::Several([first, second].into_iter().chain(futures).map(Joined::Running).collect())
        }
    })
}

/// What [`join_all`] makes. An asynchronous function in its place would keep room for all that it has moved away, to be
/// copied wherever it goes.
#[must_use = "nothing is done until it is awaited"]
pub struct JoinAll<F: Future>(Futures<F>);

enum Futures<F: Future> {
    /// Most messages are for one recipient, and need no list.
    One(Pin<Box<F>>),
    Several(Vec<Joined<F>>),
}

enum Joined<F: Future> {
    Running(Pin<Box<F>>),
    Over(F::Output),
}

// The futures are pinned where they are, on the heap, and results are never pinned.
impl<F: Future> Unpin for JoinAll<F> {}

impl<F: Future> Future for JoinAll<F> {
    type Output = Vec<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let joined = match &mut self.get_mut().0 {
            Futures::One(only) => return only.as_mut().poll(context).map(|value| vec![value]),
            Futures::Several(joined) => joined,
        };
        let mut waiting = false;
        for one in &mut *joined {
            if let Joined::Running(future) = one {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *one = Joined::Over(value),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting {
            return Poll::Pending;
        }
        let over = std::mem::take(joined).into_iter().map(|one| match one {
            Joined::Over(value) => value,
            Joined::Running(_) => unreachable!("all are over"),
        });
        Poll::Ready(over.collect())
    }
}

/// Runs two futures of one task side by side, `first` polled before `second`.
pub async fn join_two<A: Future, B: Future>(first: A, second: B) -> (A::Output, B::Output) {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    let (mut a, mut b) = (None, None);
    std::future::poll_fn(|context| {
        if a.is_none()
            && let Poll::Ready(value) = first.as_mut().poll(context)
        {
            a = Some(value);
        }
        if b.is_none()
            && let Poll::Ready(value) = second.as_mut().poll(context)
        {
            b = Some(value);
        }
        if a.is_some() && b.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (a.expect("ready"), b.expect("ready"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pending so many times, and then the number itself.
    async fn after(polls: usize) -> usize {
        let mut left = polls;
        std::future::poll_fn(|_| match left {
            0 => Poll::Ready(()),
            _ => {
                left -= 1;
                Poll::Pending
            }
        })
        .await;
        polls
    }

    #[test]
    fn joined_futures_are_over_with_the_slowest_and_their_results_keep_the_order() {
        for polls in [&[][..], &[0], &[2], &[3, 0], &[1, 4, 0, 2]] {
            let mut joined = join_all(polls.iter().map(|&polls| after(polls)));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..polls.iter().copied().max().unwrap_or(0) {
                assert!(Pin::new(&mut joined).poll(&mut context).is_pending(), "{polls:?}");
            }
            assert_eq!(Pin::new(&mut joined).poll(&mut context), Poll::Ready(polls.to_vec()));
        }
    }
}
