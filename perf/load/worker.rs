//! One thread of the generator: its ring, its connections, and when each sends.
//!
//! Owns the loop of a connection (connect, take a message, send, settle), the dispatcher of an open loop, and the clock
//! that cuts connections nobody answers on. What a message is and how it is sent is decided elsewhere; nothing is
//! printed here.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::acknowledged::Bits;
use crate::measure::{Effort, Figures, Interval, Times};
use crate::message::Workload;
use crate::plan::{Limit, Pace, Plan};
use crate::schedule::Schedule;
use crate::session::{Fault, Patience, Record, Session, Step};
use crate::target::{Endpoint, Stream};
use crate::timer::Timer;

/// One round against one target, shared by its threads.
pub(crate) struct Phase {
    /// What is sent, when and how.
    pub(crate) plan: Arc<Plan>,
    /// What the messages are.
    pub(crate) workload: Arc<Workload>,
    /// Where to.
    pub(crate) endpoint: Endpoint,
    /// The number of the first message.
    pub(crate) first_number: u64,
    /// Messages that were begun.
    pub(crate) begun: AtomicU64,
    /// Measured messages that were begun, in a closed loop.
    pub(crate) measured: AtomicU64,
    /// All threads wait here with their connections open.
    pub(crate) ready: Barrier,
    /// When the clock started; set by the first thread that is let go.
    pub(crate) start: OnceLock<Instant>,
}

/// What completed in an interval of a thread.
pub(crate) struct Tick {
    /// When it ended, from the start of the phase on.
    pub(crate) at: Duration,
    /// What completed.
    pub(crate) interval: Interval,
}

/// What a thread brings home.
pub(crate) struct Harvest {
    /// Everything measured.
    pub(crate) figures: Figures,
    /// Who was acknowledged: (number - first number) * recipients + recipient.
    pub(crate) acknowledged: Bits,
}

/// Runs a thread's share of a phase to its end.
pub(crate) fn run(phase: &Arc<Phase>, thread: usize, ticks: Sender<Tick>) -> Harvest {
    let mut ring = tokio_uring::uring_builder();
    // Completions wait for the next turn instead of interrupting this one.
    ring.setup_coop_taskrun().setup_single_issuer();
    let connections = phase.plan.connections_of(thread);
    let entries = u32::try_from(connections * 2).unwrap_or(u32::MAX).clamp(64, 4096).next_power_of_two();
    let phase = Arc::clone(phase);
    tokio_uring::builder().entries(entries).uring_builder(&ring).start(async move {
        let worker = Rc::new(Worker::new(phase, thread, connections));
        worker.work(ticks).await;
        let worker = Rc::into_inner(worker).expect("all tasks have ended");
        Harvest { figures: worker.figures.into_inner(), acknowledged: worker.acknowledged.into_inner() }
    })
}

struct Worker {
    phase: Arc<Phase>,
    thread: usize,
    figures: RefCell<Figures>,
    interval: RefCell<Interval>,
    acknowledged: RefCell<Bits>,
    /// Messages that are due and wait for a connection, by their scheduled time.
    due: RefCell<VecDeque<Instant>>,
    /// Connections that wait for a message.
    idle: Cell<usize>,
    wake: Notify,
    /// Nothing more will become due.
    over: Cell<bool>,
    patience: Rc<Patience>,
    streams: RefCell<Vec<Option<Rc<Stream>>>>,
}

/// A message to be sent.
struct Start {
    number: u64,
    /// Since when its latency counts, if not since it is sent.
    scheduled: Option<Instant>,
    measured: bool,
}

impl Worker {
    fn new(phase: Arc<Phase>, thread: usize, connections: usize) -> Self {
        Self {
            phase,
            thread,
            figures: RefCell::new(Figures::new()),
            interval: RefCell::new(Interval::new()),
            acknowledged: RefCell::default(),
            due: RefCell::default(),
            idle: Cell::new(0),
            wake: Notify::new(),
            over: Cell::new(false),
            patience: Rc::default(),
            streams: RefCell::new((0..connections).map(|_| None).collect()),
        }
    }

    /// Opens all connections, waits for the other threads, and works until nothing is left.
    async fn work(self: &Rc<Self>, ticks: Sender<Tick>) {
        let count = self.streams.borrow().len();
        let spawn = |index| tokio_uring::spawn(Rc::clone(self).connect(index));
        let opening: Vec<_> = (0..count).map(spawn).collect();
        let mut sessions = Vec::new();
        for task in opening {
            sessions.push(task.await.expect("a task does not panic"));
        }
        self.phase.ready.wait();
        let start = self.start();
        let clock = tokio_uring::spawn(Rc::clone(self).keep_time(start, ticks));
        let account = tokio_uring::spawn(Rc::clone(self).keep_account(start));
        let dispatcher = tokio_uring::spawn(Rc::clone(self).dispatch(start));
        let connections: Vec<_> = sessions
            .into_iter()
            .enumerate()
            .map(|(index, session)| tokio_uring::spawn(Rc::clone(self).connection(index, session)))
            .collect();
        for task in connections {
            task.await.expect("a task does not panic");
        }
        // Not even the warm-up may have been over when everything ended.
        account.abort();
        self.close_account(start, account.await.ok().flatten());
        for task in [clock, dispatcher] {
            task.abort();
            // Ended or aborted, it holds the worker no more.
            let _ = task.await;
        }
    }

    /// When the phase began: the same for all threads.
    fn start(&self) -> Instant {
        *self.phase.start.get_or_init(Instant::now)
    }

    /// One connection from its first message to its last, with all its successors.
    async fn connection(self: Rc<Self>, index: usize, mut session: Option<Session>) {
        loop {
            let Some(mut open) = session else {
                return self.give_up();
            };
            let Some(start) = self.next().await else {
                open.quit().await;
                return;
            };
            let message = self.phase.workload.message(start.number);
            let begun = Instant::now();
            let sent = open.send(&self.phase.workload, message, self.phase.plan.pipeline).await;
            let ended = Instant::now();
            let times =
                Times { transaction: ended - start.scheduled.unwrap_or(begun), service: ended - begun };
            self.settle(&start, open.record(), message.size, times);
            session = match sent {
                Ok(()) => Some(open),
                Err(fault) => {
                    self.fail(open.step(), &fault);
                    Rc::clone(&self).connect(index).await
                }
            };
        }
    }

    /// A session, after a bounded number of attempts; `None` when it is given up, or no more needed.
    async fn connect(self: Rc<Self>, index: usize) -> Option<Session> {
        let mut pause = RETRY_PAUSE;
        for attempt in 0..=self.phase.plan.retries {
            if attempt > 0 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
            if self.over.get() && self.due.borrow().is_empty() {
                return None;
            }
            let keep = |stream| self.streams.borrow_mut()[index] = Some(stream);
            match Session::open(&self.phase.endpoint, &self.patience, keep).await {
                Ok(session) => return Some(session),
                Err(fault) => self.fail(Step::Connect, &fault),
            }
        }
        None
    }

    fn give_up(&self) {
        if !(self.over.get() && self.due.borrow().is_empty()) {
            self.figures.borrow_mut().given_up += 1;
        }
    }

    fn fail(&self, step: Step, fault: &Fault) {
        self.figures.borrow_mut().errors.fault(step, fault);
        self.interval.borrow_mut().errors += 1;
    }

    /// Counts what happened to a message.
    fn settle(&self, start: &Start, record: &Record, bytes: u64, times: Times) {
        let mut figures = self.figures.borrow_mut();
        let mut interval = self.interval.borrow_mut();
        for (step, reply) in &record.refused {
            figures.errors.reply(*step, reply);
        }
        interval.errors += record.refused.len() as u64;
        if self.phase.plan.remembers {
            let first = (start.number - self.phase.first_number) * self.phase.workload.recipients() as u64;
            let mut acknowledged = self.acknowledged.borrow_mut();
            for recipient in &record.acknowledged {
                acknowledged.insert(first + *recipient as u64);
            }
        }
        if !start.measured {
            figures.warm_up += 1;
            return;
        }
        figures.count(record, bytes, times);
        if !record.acknowledged.is_empty() {
            interval.transaction.record(times.transaction);
            figures.seconds = (self.start().elapsed() - self.phase.plan.warm_up).as_secs_f64();
        }
    }

    /// The next message, as soon as there is one; `None` if there will be no more.
    async fn next(&self) -> Option<Start> {
        match self.phase.plan.pace {
            Pace::FlatOut => self.next_at_once(),
            Pace::Open { .. } => self.next_due().await,
        }
    }

    fn next_at_once(&self) -> Option<Start> {
        let plan = &self.phase.plan;
        let elapsed = self.start().elapsed();
        let measured = elapsed >= plan.warm_up;
        let goes_on = !self.over.get()
            && match plan.limit {
                Limit::Duration(duration) => elapsed < plan.warm_up + duration,
                Limit::Messages(_) if !measured => true,
                Limit::Messages(count) => self.phase.measured.fetch_add(1, Ordering::Relaxed) < count,
            };
        self.over.set(!goes_on);
        goes_on.then(|| Start { number: self.number(), scheduled: None, measured })
    }

    async fn next_due(&self) -> Option<Start> {
        loop {
            let due = self.due.borrow_mut().pop_front();
            if let Some(scheduled) = due {
                let measured = scheduled >= self.start() + self.phase.plan.warm_up;
                return Some(Start { number: self.number(), scheduled: Some(scheduled), measured });
            }
            if self.over.get() {
                return None;
            }
            self.idle.set(self.idle.get() + 1);
            self.wake.notified().await;
            self.idle.set(self.idle.get() - 1);
        }
    }

    fn number(&self) -> u64 {
        self.phase.first_number + self.phase.begun.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets messages become due in an open loop.
    async fn dispatch(self: Rc<Self>, start: Instant) {
        let plan = &self.phase.plan;
        let Pace::Open { rate, arrivals } = plan.pace else {
            return;
        };
        let seed = self.phase.workload.run().0 ^ self.phase.first_number;
        let schedule = Schedule::new(rate, arrivals, self.thread, plan.threads, seed);
        let timer = Timer::new().expect("a timer: timerfd_create(2)");
        let mut measured = 0;
        for at in schedule {
            let goes_on = match plan.limit {
                Limit::Duration(duration) => at < plan.warm_up + duration,
                Limit::Messages(_) => measured < plan.messages_of(self.thread),
            };
            if !goes_on {
                break;
            }
            measured += u64::from(at >= plan.warm_up);
            timer.wait_until(start + at).await;
            self.become_due(start + at, at >= plan.warm_up);
        }
        self.over.set(true);
        self.wake.notify_waiters();
    }

    fn become_due(&self, scheduled: Instant, measured: bool) {
        let mut due = self.due.borrow_mut();
        if self.idle.get() > due.len() {
            // Somebody was free to send it in time, so whatever is missing is the generator's own fault.
            if measured {
                self.figures.borrow_mut().lateness.record(scheduled.elapsed());
            }
        } else {
            let mut figures = self.figures.borrow_mut();
            figures.backlog_max = figures.backlog_max.max((due.len() + 1 - self.idle.get()) as u64);
        }
        due.push_back(scheduled);
        self.wake.notify_one();
    }

    /// Hands out what completed every interval, and ends what takes too long.
    async fn keep_time(self: Rc<Self>, start: Instant, ticks: Sender<Tick>) {
        let _at_the_end = LastTick { worker: &self, start, ticks: &ticks };
        let plan = &self.phase.plan;
        let mut over_since = None;
        let mut turns = tokio::time::interval_at((start + TICK).into(), TICK);
        loop {
            turns.tick().await;
            self.hand_out(start, &ticks);
            let now = self.patience.now.get() + 1;
            self.patience.now.set(now);
            if self.over.get() {
                over_since.get_or_insert(now);
            }
            let is_late =
                |since: u64, limit: Duration| TICK * u32::try_from(now - since).unwrap_or(u32::MAX) > limit;
            let ends = over_since.is_some_and(|since| is_late(since, plan.drain));
            if ends {
                self.abandon();
            }
            for stream in self.streams.borrow().iter().flatten() {
                if ends || stream.waits_since.get().is_some_and(|since| is_late(since, plan.timeout)) {
                    stream.cut();
                }
            }
        }
    }

    fn hand_out(&self, start: Instant, ticks: &Sender<Tick>) {
        let interval = self.interval.replace(Interval::new());
        // If nobody listens any more, nobody wants to know.
        let _ = ticks.send(Tick { at: start.elapsed(), interval });
    }

    /// Gives up what is due and was not begun. It counts with the time that it has waited: leaving it out would make
    /// a server that is too slow look fast.
    fn abandon(&self) {
        let mut figures = self.figures.borrow_mut();
        for scheduled in self.due.borrow_mut().drain(..) {
            if scheduled >= self.start() + self.phase.plan.warm_up {
                figures.transaction.record(scheduled.elapsed());
                figures.never_begun += 1;
            }
        }
    }

    /// The account of this thread when measuring begins.
    async fn keep_account(self: Rc<Self>, start: Instant) -> Option<(Duration, Duration)> {
        tokio::time::sleep_until((start + self.phase.plan.warm_up).into()).await;
        Effort::of_this_thread()
    }

    fn close_account(&self, start: Instant, before: Option<(Duration, Duration)>) {
        // All connections may have been given up with messages left.
        self.abandon();
        let mut figures = self.figures.borrow_mut();
        let wall = start.elapsed().saturating_sub(self.phase.plan.warm_up);
        if let (Some(before), Some(after)) = (before, Effort::of_this_thread()) {
            figures.effort = Effort::between(before, after, wall);
        }
        if let Limit::Duration(duration) = self.phase.plan.limit {
            figures.seconds = figures.seconds.max(duration.as_secs_f64());
        }
    }
}

/// Hands out the last, shorter interval when the clock is stopped.
struct LastTick<'w> {
    worker: &'w Worker,
    start: Instant,
    ticks: &'w Sender<Tick>,
}

impl Drop for LastTick<'_> {
    fn drop(&mut self) {
        self.worker.hand_out(self.start, self.ticks);
    }
}

/// How often what completed is handed out.
pub(crate) const TICK: Duration = Duration::from_millis(200);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);
