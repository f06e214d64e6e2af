//! The server: listeners opened, workers started, and both brought down again.
#![forbid(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::config::{Config, Durability};
use super::listen::{self, ListenError, Listener};
use crate::exec::Exec;
use crate::limits;
use crate::lmtp::session::SessionLimits;
use crate::maildir;
use crate::observe::log::Log;
use crate::ring::SyncThreads;
use crate::ring::uring::{self, Setup, SetupError, Uring};
use crate::serve::accept::{self, Inbox, Message, Outbox};
use crate::serve::worker::{Address, Loads, Seat, Settings, Worker};
use crate::sys::{cpu, limit};
use crate::users::key::Rules;
use crate::users::table::{Table, TableError};

/// A running server.
pub struct Server {
    threads: Vec<JoinHandle<()>>,
    outboxes: Arc<[Outbox]>,
    ended: Receiver<Result<(), rustix::io::Errno>>,
    /// Kept for their socket files, which go when the server does.
    listeners: Vec<Listener>,
}

/// Why the server does not start.
#[derive(Debug)]
pub enum StartError {
    /// The state directory cannot be made.
    StateDirectory(PathBuf, std::io::Error),
    /// The user table cannot be used.
    Table(TableError),
    /// A listener cannot be opened.
    Listen(ListenError),
    /// A ring cannot be made.
    Ring(SetupError),
    /// Threads, descriptors or random numbers are not to be had.
    System(&'static str, std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StateDirectory(path, error) => write!(
                f,
                "cannot make the state directory {}: {error}; make it for the user that runs the server, or set \
                 state_dir",
                path.display()
            ),
            Self::Table(error) => error.fmt(f),
            Self::Listen(error) => error.fmt(f),
            Self::Ring(error) => error.fmt(f),
            Self::System(what, error) => {
                write!(f, "cannot {what}: {error}; raise the limits of the service")
            }
        }
    }
}

impl std::error::Error for StartError {}

impl Server {
    /// Starts what `config` describes. When it returns, connections are accepted.
    ///
    /// # Errors
    /// The first thing that failed; nothing is left running.
    pub fn start(config: &Config, log: &Log) -> Result<Self, StartError> {
        std::fs::create_dir_all(&config.state_dir)
            .map_err(|error| StartError::StateDirectory(config.state_dir.clone(), error))?;
        let table = Arc::new(Table::open(&config.users.table).map_err(StartError::Table)?);
        let opened = listen::open(&config.listen).map_err(StartError::Listen)?;
        for warning in &opened.warnings {
            log.line(format_args!("warning: {warning}"));
        }
        let files = limit::raise_open_files(limit::files_wanted(config.limits.connections, config.workers));
        let allowance = limit::divide(files, config.limits.connections, config.workers);
        if let Some(warning) = &allowance.warning {
            log.line(format_args!("warning: {warning}"));
        }
        if config.maildir.durability == Durability::None {
            log.line(format_args!(
                "warning: maildir.durability = \"none\": a power cut LOSES ACKNOWLEDGED MAIL; for benchmarks and \
                 scratch only"
            ));
        }
        let plan = Plan {
            settings: Arc::new(settings(config, &allowance)),
            table,
            log: log.clone(),
            setup: setup(config),
            loads: (0..config.workers).map(|_| Default::default()).collect(),
        };
        let (threads, outboxes, ended) = start_workers(&plan, config.workers, &opened.listeners)?;
        for listener in &opened.listeners {
            log.line(format_args!("listening on {}", listener.name));
        }
        Ok(Self { threads, outboxes, ended, listeners: opened.listeners })
    }

    /// What connections can be made to, as configured, with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<&str> {
        self.listeners.iter().map(|listener| listener.name.as_str()).collect()
    }

    /// Goes down: accepts nothing more, lets transactions end for up to `patience`, or until `hurry` says so.
    /// Returns how many workers still had some then; their clients got no reply, and will try again.
    pub fn stop(self, patience: Duration, mut hurry: impl FnMut() -> bool) -> usize {
        // No new connections from here on: the names go first.
        drop(self.listeners);
        for outbox in &*self.outboxes {
            outbox.send(Message::Drain);
        }
        let deadline = Instant::now() + patience;
        let mut running = self.threads.len();
        while running > 0 && Instant::now() < deadline && !hurry() {
            // Woken by each end; the tick only lets `hurry` be asked.
            if self.ended.recv_timeout(HURRY_TICK).is_ok() {
                running -= 1;
            }
        }
        if running == 0 {
            for thread in self.threads {
                // A worker that panics takes the process with it, so there is nothing to hear here.
                let _ = thread.join();
            }
        }
        running
    }
}

/// What every worker thread gets.
#[derive(Clone)]
struct Plan {
    settings: Arc<Settings>,
    table: Arc<Table>,
    log: Log,
    setup: Setup,
    loads: Loads,
}

type Started = (Vec<JoinHandle<()>>, Arc<[Outbox]>, Receiver<Result<(), rustix::io::Errno>>);

fn start_workers(plan: &Plan, count: usize, listeners: &[Listener]) -> Result<Started, StartError> {
    let no_descriptor = |errno: rustix::io::Errno| StartError::System("open a descriptor", errno.into());
    let mut inboxes = Vec::with_capacity(count);
    let mut outboxes = Vec::with_capacity(count);
    for _ in 0..count {
        let (outbox, inbox) = accept::mailbox().map_err(no_descriptor)?;
        outboxes.push(outbox);
        inboxes.push(inbox);
    }
    let outboxes: Arc<[Outbox]> = outboxes.into();
    let cpus = cpu::allowed();
    let (ready, starts) = bounded(count);
    let (over, ended) = bounded(count);
    let mut threads = Vec::with_capacity(count);
    for (index, inbox) in inboxes.into_iter().enumerate() {
        let mut own = Vec::with_capacity(listeners.len());
        for listener in listeners {
            let fd = rustix::io::fcntl_dupfd_cloexec(listener.fd.as_fd(), 0).map_err(no_descriptor)?;
            own.push((fd, Arc::from(listener.name.as_str())));
        }
        // More workers than CPUs take turns on them.
        let cpu = cpus.get(index % cpus.len().max(1)).copied();
        let task = Task {
            plan: Plan { setup: Setup { file_cpu: cpu, ..plan.setup.clone() }, ..plan.clone() },
            index,
            cpu,
            random: random()?,
            inbox,
            outboxes: Arc::clone(&outboxes),
            listeners: own,
        };
        let (ready, over) = (ready.clone(), over.clone());
        let thread = std::thread::Builder::new()
            .name(format!("worker{index}"))
            .spawn(move || {
                let ended = task.run(&ready);
                // Nobody listens any more when the server has not come up.
                let _ = over.send(ended);
            })
            .map_err(|error| StartError::System("start a thread", error))?;
        threads.push(thread);
    }
    drop(ready);
    wait_until_ready(&starts, count, &outboxes)?;
    Ok((threads, outboxes, ended))
}

fn wait_until_ready(
    starts: &Receiver<Result<(), SetupError>>,
    count: usize,
    outboxes: &[Outbox],
) -> Result<(), StartError> {
    for _ in 0..count {
        let started = starts.recv().expect("each worker says how it started");
        if let Err(error) = started {
            for outbox in outboxes {
                outbox.send(Message::Drain);
            }
            return Err(StartError::Ring(error));
        }
    }
    Ok(())
}

/// One worker thread.
struct Task {
    plan: Plan,
    index: usize,
    cpu: Option<usize>,
    random: u64,
    inbox: Inbox,
    outboxes: Arc<[Outbox]>,
    listeners: Vec<(OwnedFd, Arc<str>)>,
}

impl Task {
    fn run(self, ready: &Sender<Result<(), SetupError>>) -> Result<(), rustix::io::Errno> {
        if let Some(cpu) = self.cpu
            && let Err(error) = cpu::pin(cpu)
        {
            // It works all the same, only less evenly.
            self.plan.log.line(format_args!("worker {} is not bound to CPU {cpu}: {error}", self.index));
        }
        let ring = match Uring::new(&self.plan.setup) {
            Ok(ring) => ring,
            Err(error) => {
                let _ = ready.send(Err(error));
                return Ok(());
            }
        };
        let event = match self.inbox.doorbell.try_clone() {
            Ok(fd) => ring.adopt(fd),
            Err(error) => {
                let _ = ready.send(Err(SetupError::Register("its doorbell", error)));
                return Ok(());
            }
        };
        let listeners: Vec<_> = self.listeners.into_iter().map(|(fd, name)| (ring.adopt(fd), name)).collect();
        let exec = Exec::new(Box::new(ring));
        let seat = Seat { index: self.index, loads: self.plan.loads, random: self.random };
        let log = self.plan.log;
        let worker = Worker::new(Rc::clone(&exec), self.plan.settings, self.plan.table, log.clone(), seat);
        for (listener, name) in listeners {
            let others = Arc::clone(&self.outboxes);
            exec.spawn(accept::accept(Rc::clone(&worker), listener, name, others));
        }
        exec.spawn(accept::read_messages(Rc::clone(&worker), self.inbox, event));
        let _ = ready.send(Ok(()));
        let ended = exec.run_until(|| worker.draining.get() && worker.connections() == 0);
        if let Err(errno) = ended {
            log.line(format_args!("worker {}: the ring failed: {errno}; the server must end", self.index));
            // Its sessions can neither go on nor be answered; without a reply their clients try again.
            std::process::abort();
        }
        exec.clear();
        ended
    }
}

/// What the workers are told, where the process may have as many files open as `allowance` says.
#[must_use]
pub fn settings(config: &Config, allowance: &limit::Allowance) -> Settings {
    let (local, domain) =
        config.postmaster.rsplit_once('@').unwrap_or((&config.postmaster, &config.hostname));
    Settings {
        hostname: config.hostname.clone(),
        session: Arc::new(SessionLimits {
            hostname: config.hostname.clone(),
            message_bytes_max: config.limits.message_size,
            recipients_max: u32::try_from(config.limits.recipients).unwrap_or(u32::MAX),
            bad_commands_max: config.limits.bad_commands,
        }),
        message_bytes_max: config.limits.message_size,
        postmaster: Address { local: local.to_owned(), domain: domain.to_owned() },
        rules: Rules::new(&config.users.recipient_delimiter, &config.users.local_domains),
        maildir: maildir::Settings {
            durability: config.maildir.durability,
            create: config.maildir.create,
            root: config.maildir.root.clone(),
            host: config.hostname.clone(),
            // Each delivery has its file and its directory open.
            open_files_max: allowance.delivery_files / 2,
        },
        line_endings: config.maildir.line_endings,
        single_instance: config.maildir.single_instance,
        stream_above: usize::try_from(config.maildir.stream_above).unwrap_or(usize::MAX),
        connections_max: allowance.connections,
        idle_timeout: config.limits.idle_timeout,
        transaction_timeout: config.limits.transaction_timeout,
        data_rate_min: config.limits.data_rate_min,
        log_deliveries: config.log.deliveries,
    }
}

fn setup(config: &Config) -> Setup {
    let shared_memory = std::path::Path::new("/dev/shm");
    let temporary = std::env::temp_dir();
    Setup {
        buffers_bytes: usize::try_from(config.limits.buffers).unwrap_or(usize::MAX),
        file_workers: limits::FILE_WORKERS,
        file_cpu: None,
        link_by: uring::link_by(&[&config.state_dir, &temporary, shared_memory]),
        sync_threads: SyncThreads::on(&cpu::allowed()),
    }
}

fn random() -> Result<u64, StartError> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes[filled..], flags) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(StartError::System("get a random number", errno.into())),
        }
    }
    Ok(u64::from_ne_bytes(bytes))
}

/// How often a server that goes down looks whether somebody is in a hurry.
const HURRY_TICK: Duration = Duration::from_millis(100);
