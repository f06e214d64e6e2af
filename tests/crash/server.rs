//! The server of a run: one worker on the simulated ring, and what is done after a crash before it starts again.

use std::cell::Cell;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use crossbeam::utils::CachePadded;
use posthaste::control::config::{Config, Host};
use posthaste::control::server;
use posthaste::exec::Exec;
use posthaste::journal::format::SEGMENT_BYTES_MIN;
use posthaste::journal::name::Kind;
use posthaste::journal::{self, Boot, Journal, SegmentName};
use posthaste::limits;
use posthaste::maildir::{Durability, NameMaker, Settings, Store};
use posthaste::observe::log::Log;
use posthaste::recover::{self, Fate, Options};
use posthaste::ring::sim::{Sim, World};
use posthaste::ring::{Done, Fd, How, Identity, Op};
use posthaste::serve::accept::{self, Service};
use posthaste::serve::checkpoint;
use posthaste::serve::worker::{Seat, Worker};
use posthaste::sys::limit::Allowance;
use posthaste::users::build::{self, Options as TableOptions};
use posthaste::users::entry::Entry;
use posthaste::users::key::LocalPart;
use posthaste::users::table::Table;

use super::traffic::USERS;

/// Where the mail is, in the simulated world.
pub(crate) const MAIL: &str = "/mail";

/// How a server is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Lines of the configuration.
    pub(crate) settings: String,
    pub(crate) journal: Option<JournalSetup>,
}

/// How its journal is.
#[derive(Clone, Debug)]
pub(crate) struct JournalSetup {
    /// The directory, which exists.
    pub(crate) directory: String,
    pub(crate) checkpoint_interval: Duration,
}

/// A server that runs, or is about to.
pub(crate) struct Server {
    pub(crate) exec: Rc<Exec>,
    ready: Rc<Cell<bool>>,
}

impl Server {
    /// Starts one in `world`, for its `life` after so many crashes; `free` is what recovery gave back.
    pub(crate) fn start(
        world: &World,
        setup: &Setup,
        table: &Arc<Table>,
        life: u8,
        free: Vec<SegmentName>,
    ) -> Self {
        let ring = Sim::new(world).expect("memory for buffers");
        let listener = ring.listener();
        let exec = Exec::new(Box::new(ring));
        let (ready, seen) = (Rc::new(Cell::new(false)), Rc::clone(&exec));
        let (table, setup, told) = (Arc::clone(table), setup.clone(), Rc::clone(&ready));
        exec.spawn(async move {
            let exec = seen;
            let journal = match &setup.journal {
                Some(journal) => Some(open_journal(&exec, journal, life, &free).await),
                None => None,
            };
            let settings = Arc::new(server::settings(&config(&setup.settings), &ALLOWANCE));
            // Its thread ends with the last worker that holds it.
            let (log, _thread) = Log::to(std::io::sink()).expect("a thread");
            let loads = Arc::new([CachePadded::new(AtomicUsize::new(0))]);
            let seat = Seat { index: 0, loads, random: 0x5eed, journal };
            let worker = Worker::new(exec, settings, table, log, seat);
            checkpoint::start(&worker);
            told.set(true);
            accept::accept(
                worker,
                listener,
                Service::Lmtp,
                Arc::from("the simulated listener"),
                Arc::new([]),
            )
            .await;
        });
        Self { exec, ready }
    }

    /// Whether it has started.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.get()
    }
}

async fn open_journal(exec: &Rc<Exec>, setup: &JournalSetup, life: u8, free: &[SegmentName]) -> Rc<Journal> {
    let directory = open(exec, &setup.directory).await;
    let settings = journal::Settings {
        worker: 0,
        segment_bytes: SEGMENT_BYTES,
        checkpoint_interval: setup.checkpoint_interval,
        patience: limits::JOURNAL_PATIENCE,
        boot: boot(life),
        key: 0x6b65_7900 + u64::from(life),
    };
    let opened = Journal::open(Rc::clone(exec), directory, settings, free).await;
    opened.unwrap_or_else(|fault| panic!("the journal: {fault}"))
}

async fn open(exec: &Exec, path: &str) -> Rc<Fd> {
    let path = CString::new(path).expect("no NUL");
    let op = Op::Open { at: None, path, how: How::DirectoryTrusted, identity: Identity::Server };
    match exec.run(op).await.result {
        Ok(Done::Opened(directory)) => directory,
        other => panic!("the journal directory: {other:?}"),
    }
}

/// Each life is a boot of the machine.
fn boot(life: u8) -> Boot {
    Boot([life; 16])
}

/// What happens before a server starts in a world that has seen a crash: its journal is recovered. Gives the
/// segments that are free; nothing when the world was halted before it came to an end.
///
/// # Errors
/// Something could not be recovered.
pub(crate) fn recover(world: &World, setup: &Setup, life: u8) -> Result<Option<Vec<SegmentName>>, String> {
    let Some(journal) = &setup.journal else { return Ok(Some(Vec::new())) };
    let exec = Exec::new(Box::new(Sim::with_buffers(world, 1, 64).expect("memory for a buffer")));
    let settings = server::settings(&config(&setup.settings), &ALLOWANCE).maildir;
    // One sync for all is recovery's own.
    let settings = Settings { durability: Durability::None, ..settings };
    let names = NameMaker::new("mx.example.net", u32::from(life), 0, 0);
    let store = Store::new(Rc::clone(&exec), settings, names);
    let (directory, report) = (journal.directory.clone(), Rc::new(Cell::new(None)));
    let slot = Rc::clone(&report);
    exec.spawn(async move {
        let directory = open(store.exec(), &directory).await;
        let options = Options { dry_run: false, boot: boot(life), progress: &|_| () };
        slot.set(Some(recover::recover(&store, &directory, options).await));
    });
    let mut done = None;
    let over = || {
        done = report.take();
        done.is_some() || world.is_halted()
    };
    exec.run_until(over).map_err(|errno| format!("the ring failed in recovery: {errno}"))?;
    exec.clear();
    let Some(done) = done else { return Ok(None) };
    let report = done.map_err(|fault| format!("recovery: {fault}"))?;
    if let Some(segment) = report.segments.iter().find(|segment| !segment.is_well()) {
        let failures = segment.mail.as_ref().map(|mail| mail.failures.as_slice()).unwrap_or_default();
        return Err(format!("recovery: {segment} {failures:?}"));
    }
    let free = report.segments.iter().filter_map(|segment| match Kind::of(&segment.name) {
        Kind::Segment(name) if matches!(segment.fate, Fate::Retired | Fate::Blank) => Some(name),
        _ => None,
    });
    Ok(Some(free.collect()))
}

fn config(settings: &str) -> Config {
    let text = format!(
        "hostname = \"mx.example.net\"\nstate_dir = \"/var/lib/posthaste\"\nworkers = 1\n{settings}\
         [[listen]]\nlmtp = \"unix:/run/posthaste.sock\"\n"
    );
    Config::parse_for(&Host::this(), &text, "the configuration of the run")
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The users of every run.
pub(crate) fn table() -> Arc<Table> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("users.table");
    let entries: Vec<Entry> = USERS
        .iter()
        .filter(|(address, _)| !address.contains('+'))
        .map(|(address, maildir)| Entry {
            address: (*address).to_owned(),
            mail: Path::new(MAIL).join(maildir).to_string_lossy().into_owned(),
            ..Entry::default()
        })
        .collect();
    let options = TableOptions::reproducible(LocalPart::Folded, [7; 16]);
    build::write(&file, options, &entries).unwrap_or_else(|error| panic!("{error}"));
    let bytes = std::fs::read(&file).expect("just written");
    let table = Table::from_bytes(&PathBuf::from("users.table"), &bytes);
    Arc::new(table.unwrap_or_else(|error| panic!("{error}")))
}

/// Enough for every client to have a message for three written while it arrives.
const ALLOWANCE: Allowance =
    Allowance { connections: 100, delivery_files: 200, kept_directories: 16, warning: None };

/// The least that a segment can be, so that some are full in a run.
const SEGMENT_BYTES: u64 = SEGMENT_BYTES_MIN;
