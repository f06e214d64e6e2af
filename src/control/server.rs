//! The server: listeners opened, workers started, and both brought down again.
#![forbid(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::config::{Config, Durability};
use super::listen::{self, ListenError, Listener};
use super::recover;
use super::recovery::{Lock, RecoveryError};
use super::tables::{Lender, Outcome, Tables};
use crate::exec::Exec;
use crate::journal::name::Kind;
use crate::journal::{self, Boot, FileFault, Journal, SegmentName};
use crate::limits;
use crate::lmtp::session::SessionLimits;
use crate::maildir;
use crate::observe::log::Log;
use crate::recover::Fate;
use crate::ring::uring::{self, Setup, SetupError, Uring};
use crate::ring::{Fd, SyncThreads};
use crate::serve::accept::{self, Inbox, Message, Outbox, Service};
use crate::serve::checkpoint;
use crate::serve::envelope::Terms;
use crate::serve::loan::Loan;
use crate::serve::worker::{Address, Loads, Seat, Settings, Worker};
use crate::sys::{boot, cpu, limit};
use crate::users::key::Rules;
use crate::users::table::TableError;

/// A running server.
pub struct Server {
    threads: Vec<JoinHandle<()>>,
    outboxes: Arc<[Outbox]>,
    ended: Receiver<Result<(), rustix::io::Errno>>,
    tables: Tables,
    /// Kept for their socket files, which go when the server does.
    listeners: Vec<Listener>,
    /// Held until the last worker has ended, or the process has.
    journal: Option<Lock>,
}

/// Why the server does not start.
#[derive(Debug)]
pub enum StartError {
    /// The state directory cannot be made.
    StateDirectory(PathBuf, std::io::Error),
    /// The journal cannot be recovered.
    Recovery(RecoveryError),
    /// Mail in the journal is not durable anywhere else, and cannot be made so.
    Unfinished(String),
    /// The user table cannot be used.
    Table(TableError),
    /// A listener cannot be opened.
    Listen(ListenError),
    /// A ring cannot be made.
    Ring(SetupError),
    /// A segment of the journal cannot be made.
    Journal(PathBuf, FileFault),
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
            Self::Recovery(error) => error.fmt(f),
            Self::Unfinished(segment) => write!(f, "the journal must be recovered first: {segment}"),
            Self::Journal(path, fault) => {
                write!(f, "{}: {fault}; give it room, or set maildir.journal_dir", path.display())
            }
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
        let lender = Tables::load_first(config).map_err(StartError::Table)?;
        let (journal, free) = recover_journal(config, log)?;
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
            log: log.clone(),
            setup: setup(config),
            loads: (0..config.workers).map(|_| Default::default()).collect(),
            journal: (config.maildir.durability == Durability::Journal)
                .then(|| JournalPlan::of(config, free)),
        };
        let (threads, outboxes, ended) = start_workers(&plan, &lender, config.workers, &opened.listeners)?;
        let tables =
            Tables::start(lender).map_err(|error| StartError::System("start the table thread", error))?;
        for listener in &opened.listeners {
            let what = match listener.service {
                Service::Lmtp => "",
                Service::Map => " for look-ups",
            };
            log.line(format_args!("listening on {}{what}", listener.name));
        }
        Ok(Self { threads, outboxes, ended, tables, listeners: opened.listeners, journal })
    }

    /// What connections can be made to, as configured, with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<&str> {
        self.listeners.iter().map(|listener| listener.name.as_str()).collect()
    }

    /// Begins to load the user table again, for all workers; [`Server::outcome`] tells how it went.
    pub(super) fn reload(&self) {
        self.tables.load(Arc::clone(&self.outboxes));
    }

    /// How the oldest load went that has ended and was not told yet, the first table's among them.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.tables.outcome()
    }

    /// Readable when there may be an outcome.
    pub(super) fn outcome_bell(&self) -> BorrowedFd<'_> {
        self.tables.bell()
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
        } else {
            // They may still write: the kernel gives the lock back when they cannot any more.
            std::mem::forget(self.journal);
        }
        running
    }
}

/// Makes files of what a crash left in the journal, whatever the durability is now. Where there is no journal
/// there is nothing to lock.
fn recover_journal(config: &Config, log: &Log) -> Result<(Option<Lock>, Vec<SegmentName>), StartError> {
    let directory = &config.maildir.journal_dir;
    let taken = match config.maildir.durability {
        Durability::Journal => Lock::take_or_make(directory).map(Some),
        _ => Lock::take(directory),
    };
    let Some(lock) = taken.map_err(StartError::Recovery)? else {
        return Ok((None, Vec::new()));
    };
    let segments = lock.segments().map_err(StartError::Recovery)?;
    let names = segments.into_iter().map(|(name, _)| name).collect();
    let report = lock.recover(config, names, false, Arc::new(|_| ())).map_err(StartError::Recovery)?;
    for segment in &report.segments {
        if segment.is_well() && segment.mail.as_ref().is_none_or(|mail| mail.counts.records == 0) {
            continue;
        }
        for line in recover::segment_lines(segment) {
            log.line(format_args!("journal: {line}"));
        }
    }
    match report.segments.iter().find(|segment| segment.is_unfinished()) {
        Some(segment) => Err(StartError::Unfinished(segment.to_string())),
        None => {
            let free = report.segments.iter().filter_map(|segment| match Kind::of(&segment.name) {
                Kind::Segment(name) if matches!(segment.fate, Fate::Retired | Fate::Blank) => Some(name),
                _ => None,
            });
            let free = free.collect();
            Ok((Some(lock), free))
        }
    }
}

/// What the journals of all workers have in common.
#[derive(Clone, Debug)]
struct JournalPlan {
    directory: PathBuf,
    settings: journal::Settings,
    /// Segments of an earlier run that are free.
    free: Arc<[SegmentName]>,
}

impl JournalPlan {
    fn of(config: &Config, free: Vec<SegmentName>) -> Self {
        let directory = config.maildir.journal_dir.clone();
        for name in free.iter().filter(|name| name.worker as usize >= config.workers) {
            // There were more workers once. What is left standing there costs room and nothing else.
            let _ = std::fs::remove_file(directory.join(name.to_string()));
        }
        let settings = journal::Settings {
            worker: 0,
            segment_bytes: config.maildir.journal_segment,
            checkpoint_interval: config.maildir.checkpoint_interval,
            patience: limits::JOURNAL_PATIENCE,
            boot: boot::id().map_or(Boot::UNKNOWN, Boot),
            key: 0,
        };
        Self { directory, settings, free: free.into() }
    }

    /// Opens the journal of one worker, whose ring `exec` runs on; `directory` is open in it.
    fn open(
        &self,
        exec: &Rc<Exec>,
        directory: Rc<Fd>,
        worker: usize,
        key: u64,
    ) -> Result<Rc<Journal>, StartError> {
        let worker = u32::try_from(worker).unwrap_or(u32::MAX);
        let settings = journal::Settings { worker, key, ..self.settings.clone() };
        let (task, free) = (Rc::clone(exec), Arc::clone(&self.free));
        let opened = exec.complete(async move { Journal::open(task, directory, settings, &free).await });
        opened
            .map_err(|errno| StartError::System("use the ring", errno.into()))?
            .map_err(|fault| StartError::Journal(self.directory.clone(), fault))
    }
}

/// What every worker thread gets.
#[derive(Clone)]
struct Plan {
    settings: Arc<Settings>,
    log: Log,
    setup: Setup,
    loads: Loads,
    journal: Option<JournalPlan>,
}

type Started = (Vec<JoinHandle<()>>, Arc<[Outbox]>, Receiver<Result<(), rustix::io::Errno>>);

fn start_workers(
    plan: &Plan,
    tables: &Lender,
    count: usize,
    listeners: &[Listener],
) -> Result<Started, StartError> {
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
            own.push((fd, listener.service, Arc::from(listener.name.as_str())));
        }
        // More workers than CPUs take turns on them.
        let cpu = cpus.get(index % cpus.len().max(1)).copied();
        let task = Task {
            plan: Plan { setup: Setup { file_cpu: cpu, ..plan.setup.clone() }, ..plan.clone() },
            table: tables.lend(),
            index,
            cpu,
            random: random()?,
            key: random()?,
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
    starts: &Receiver<Result<(), StartError>>,
    count: usize,
    outboxes: &[Outbox],
) -> Result<(), StartError> {
    for _ in 0..count {
        let started = starts.recv().expect("each worker says how it started");
        if let Err(error) = started {
            for outbox in outboxes {
                outbox.send(Message::Drain);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// One worker thread.
struct Task {
    plan: Plan,
    table: Loan,
    index: usize,
    cpu: Option<usize>,
    random: u64,
    /// Another random number, which nobody ever sees.
    key: u64,
    inbox: Inbox,
    outboxes: Arc<[Outbox]>,
    listeners: Vec<(OwnedFd, Service, Arc<str>)>,
}

impl Task {
    fn run(self, ready: &Sender<Result<(), StartError>>) -> Result<(), rustix::io::Errno> {
        if let Some(cpu) = self.cpu
            && let Err(error) = cpu::pin(cpu)
        {
            // It works all the same, only less evenly.
            self.plan.log.line(format_args!("worker {} is not bound to CPU {cpu}: {error}", self.index));
        }
        let ring = match Uring::new(&self.plan.setup) {
            Ok(ring) => ring,
            Err(error) => {
                let _ = ready.send(Err(StartError::Ring(error)));
                return Ok(());
            }
        };
        let event = match self.inbox.doorbell.try_clone() {
            Ok(fd) => ring.adopt(fd),
            Err(error) => {
                let _ = ready.send(Err(StartError::System("open a descriptor", error)));
                return Ok(());
            }
        };
        let adopted = self.listeners.into_iter().map(|(fd, service, name)| (ring.adopt(fd), service, name));
        let listeners: Vec<_> = adopted.collect();
        let directory = self.plan.journal.as_ref().map(|journal| {
            let opened = std::fs::File::open(&journal.directory);
            opened.map(|directory| ring.adopt(directory.into()))
        });
        let exec = Exec::new(Box::new(ring));
        let opened = match (&self.plan.journal, directory) {
            (Some(plan), Some(Ok(directory))) => plan.open(&exec, directory, self.index, self.key).map(Some),
            (_, Some(Err(error))) => Err(StartError::System("open the journal", error)),
            _ => Ok(None),
        };
        let journal = match opened {
            Ok(journal) => journal,
            Err(error) => {
                let _ = ready.send(Err(error));
                return Ok(());
            }
        };
        let seat = Seat { index: self.index, loads: self.plan.loads, random: self.random, journal };
        let log = self.plan.log;
        let worker = Worker::new(Rc::clone(&exec), self.plan.settings, self.table, log.clone(), seat);
        checkpoint::start(&worker);
        for (listener, service, name) in listeners {
            let others = Arc::clone(&self.outboxes);
            exec.spawn(accept::accept(Rc::clone(&worker), listener, service, name, others));
        }
        exec.spawn(accept::read_messages(Rc::clone(&worker), self.inbox, event));
        let _ = ready.send(Ok(()));
        let ended = exec.run_until(|| worker.is_done());
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
        terms: Terms {
            detail_to_folder: config.maildir.detail_to_folder,
            deliveries_max: config.limits.recipients,
        },
        unknown_domain: config.users.unknown_domain,
        maildir: maildir::Settings {
            durability: config.maildir.durability,
            create: config.maildir.create,
            create_folder: config.maildir.create_folder,
            root: config.maildir.root.clone(),
            host: config.hostname.clone(),
            // Each delivery has its file and its directory open.
            open_files_max: (allowance.delivery_files - allowance.kept_directories) / 2,
            kept_directories_max: allowance.kept_directories,
        },
        line_endings: config.maildir.line_endings,
        single_instance: config.maildir.single_instance,
        stream_above: usize::try_from(config.maildir.stream_above).unwrap_or(usize::MAX),
        journal_message_max: config.maildir.journal_message_max,
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
