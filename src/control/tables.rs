//! The thread that loads user tables, hands them to the workers, and unmaps them.
//!
//! Owns every table from its file to its end. Promises that a worker never waits for one: a table is read, checked
//! and has its pages in memory before any worker hears of it, and comes back here to be unmapped
//! ([`Loan`]). A file that is not a good table changes nothing. Never decides when to load: that is
//! for [`super::watch`].
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{Receiver, Sender, bounded, select, unbounded};
use rustix::event::{EventfdFlags, eventfd};

use super::config::{Config, KeepIn};
use crate::serve::accept::{Message, Outbox};
use crate::serve::loan::Loan;
use crate::sys::mmap::{Keep, Place};
use crate::sys::pace;
use crate::users::table::{Table, TableError};

/// The other end of the thread; it ends when this is dropped.
pub(super) struct Tables {
    orders: Sender<Arc<[Outbox]>>,
    outcomes: Receiver<Outcome>,
    bell: Arc<OwnedFd>,
}

/// How a load ended.
pub(super) struct Outcome {
    /// The file that was looked at, if there was one.
    pub(super) file: Option<Identity>,
    /// What every worker has now, or why they keep what they had.
    pub(super) loaded: Result<Loaded, TableError>,
}

/// What was loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    pub(super) users: u64,
    pub(super) bytes: u64,
    /// Reading and checking, in short steps with rests between them.
    pub(super) took: Duration,
    pub(super) at: SystemTime,
}

/// By what a file is known: after a rename, or after somebody wrote to it, it is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

/// Who lends the first table, before there is a thread.
pub(super) struct Lender {
    loader: Loader,
    table: Arc<Table>,
    first: Outcome,
    home: Sender<Arc<Table>>,
    returned: Receiver<Arc<Table>>,
}

/// How tables are loaded.
struct Loader {
    path: PathBuf,
    keep: Keep,
}

impl Identity {
    /// The file at `path`; none if there is none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            written: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Loader {
    /// Which file there is. Asked before the load, so that one that replaces it meanwhile is another one.
    fn file(&self) -> Option<Identity> {
        Identity::of(&self.path)
    }

    fn load(&self) -> Result<(Arc<Table>, Loaded), TableError> {
        let begun = Instant::now();
        let table = Table::load(&self.path, &self.keep)?;
        let shape = table.shape();
        let (users, bytes) = (shape.users, shape.file_bytes);
        Ok((Arc::new(table), Loaded { users, bytes, took: begun.elapsed(), at: SystemTime::now() }))
    }
}

impl Lender {
    /// The table for one worker.
    pub(super) fn lend(&self) -> Loan {
        Loan::new(Arc::clone(&self.table), self.home.clone())
    }
}

impl Tables {
    /// Loads the table that the server starts with.
    pub(super) fn load_first(config: &Config) -> Result<Lender, TableError> {
        let place = match config.users.keep_in {
            KeepIn::Memory => Place::Memory,
            KeepIn::File => Place::File(config.state_dir.clone()),
        };
        let keep = Keep { place, lock: config.users.lock_memory };
        let loader = Loader { path: config.users.table.clone(), keep };
        let file = loader.file();
        let (table, loaded) = loader.load()?;
        let (home, returned) = unbounded();
        Ok(Lender { loader, table, first: Outcome { file, loaded: Ok(loaded) }, home, returned })
    }

    /// Starts the thread. The first outcome is that of the first table.
    pub(super) fn start(lender: Lender) -> std::io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (orders, ordered) = unbounded();
        let (outcomes, told) = unbounded();
        let thread = Thread {
            loader: lender.loader,
            orders: ordered,
            outcomes,
            bell: Arc::clone(&bell),
            home: lender.home,
            returned: lender.returned,
        };
        thread.tell(lender.first);
        // Not joined: it has nothing to finish, and a server that ends does not wait for a load.
        std::thread::Builder::new().name("tables".into()).spawn(move || thread.run())?;
        Ok(Self { orders, outcomes: told, bell })
    }

    /// Orders a load for the workers behind `outboxes`.
    pub(super) fn load(&self, outboxes: Arc<[Outbox]>) {
        self.orders.send(outboxes).expect("the thread lives as long as this");
    }

    /// The oldest outcome that was not told yet.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        // Emptied first: what comes between the two lines rings again.
        let _ = rustix::io::read(&*self.bell, &mut [0; 8]);
        self.outcomes.try_recv().ok()
    }

    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

struct Thread {
    loader: Loader,
    orders: Receiver<Arc<[Outbox]>>,
    outcomes: Sender<Outcome>,
    bell: Arc<OwnedFd>,
    home: Sender<Arc<Table>>,
    returned: Receiver<Arc<Table>>,
}

impl Thread {
    fn run(self) {
        // The first table was waited for. From here on workers have the better right to the CPUs.
        pace::gently();
        loop {
            select! {
                recv(self.orders) -> order => match order {
                    Ok(outboxes) => self.replace(&outboxes),
                    Err(_) => return,
                },
                // The last of them is unmapped here.
                recv(self.returned) -> table => drop(table),
            }
        }
    }

    fn replace(&self, outboxes: &[Outbox]) {
        let file = self.loader.file();
        let loaded = self.loader.load().map(|(table, loaded)| {
            self.hand_out(&table, outboxes);
            loaded
        });
        self.tell(Outcome { file, loaded });
    }

    /// Returns when every worker has the table: who begins a transaction afterwards meets it.
    fn hand_out(&self, table: &Arc<Table>, outboxes: &[Outbox]) {
        let (taken, all_taken) = bounded(0);
        for outbox in outboxes {
            let loan = Loan::new(Arc::clone(table), self.home.clone());
            outbox.send(Message::Table(loan, taken.clone()));
        }
        drop(taken);
        // Nobody sends anything: the wait ends when the last worker has dropped its sender.
        let _ = all_taken.recv();
    }

    fn tell(&self, outcome: Outcome) {
        // Nobody listens any more when the server ends.
        if self.outcomes.send(outcome).is_ok() {
            // Fails only when the counter is full, and then it has rung already.
            let _ = rustix::io::write(&*self.bell, &1_u64.to_ne_bytes());
        }
    }
}
