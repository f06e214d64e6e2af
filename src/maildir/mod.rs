//! Maildirs: where a message becomes a file that a reader may see.
//!
//! The recipe has five verbs, in this order: [`find`](place::Place::find) the mailbox (and make it where
//! it is missing), [`create`](draft::Draft::create) an unnamed file, [`append`](draft::Draft::append) to
//! it, [`settle`](draft::Draft::settle) its bytes, [`publish`](draft::Draft::publish) it under its name in
//! `new/` and settle that. One law holds in every mode but `none`: **no name before its bytes**. Else a
//! sync that somebody else causes could commit the name alone, and a power cut would leave an empty file
//! in a reader's inbox.
//!
//! Recovery looks at what stands in a mailbox already: [`stored`]. Which folder of a Maildir mail is for says
//! [`folder`].
//!
//! The module knows no LMTP, no user table and no configuration file. A step that fails becomes a
//! [`Fault`]; what the client is told about it is decided elsewhere.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use rustix::io::Errno;

use crate::exec::{Exec, Gate, Permit};
use crate::ring::{Approach, Bytes, Done, Fd, Op, Owner};

pub mod draft;
pub mod file_system;
pub mod folder;
mod kept;
pub mod name;
pub mod place;
pub mod stored;
mod subscriptions;

pub use draft::Draft;
pub use file_system::FileSystem;
pub use kept::KEEP;
pub use name::{NameMaker, Sizes};
pub use place::Place;
pub use stored::{Folder, Stored};

/// What is made durable before a delivery counts as done, `maildir.durability`.
///
/// In this order from the most to the least that one sync does at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The message on record in the worker's journal, and its file named. What is too large for that: bytes written
    /// out, name published, directory synced, where the file system keeps the order of the two; else as `Fsync`.
    Journal,
    /// One syncfs for the names of a round of messages, and another one for their bytes before, unless the file
    /// system keeps the order of the two by itself.
    Group,
    /// File synced, name published, directory synced; for each message.
    Fsync,
    /// Nothing. A power cut loses acknowledged mail.
    None,
}

/// How Maildirs are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What a finished delivery survives.
    pub durability: Durability,
    /// Make a Maildir that is missing, with the parents it needs.
    pub create: bool,
    /// Make a folder that is missing, in a Maildir that is there or may be made.
    pub create_folder: bool,
    /// A directory that no mailbox may lie outside of.
    pub root: Option<PathBuf>,
    /// The host part of file names.
    pub host: String,
    /// Mailboxes that one worker has open at once, each with its directory and a file.
    pub open_files_max: usize,
    /// Directories of mailboxes that one worker keeps open for [`KEEP`]; 0: each message opens its own.
    pub kept_directories_max: usize,
}

/// One mailbox: a Maildir, as the user table knows it, or a folder of one.
#[derive(Clone, Copy, Debug)]
pub struct Mailbox<'a> {
    /// The user's home, absolute, where there is one.
    pub home: Option<&'a str>,
    /// The Maildir, absolute.
    pub path: &'a str,
    /// The directory of the folder that mail is for, where there is such a folder: else it is for the inbox.
    pub folder: Option<&'a str>,
    /// Who owns what is created.
    pub owner: Owner,
}

impl<'a> Mailbox<'a> {
    /// Whether the other is the same, as far as names tell.
    #[must_use]
    pub fn is_as(&self, other: &Mailbox<'_>) -> bool {
        (self.path, self.folder) == (other.path, other.folder)
    }

    /// Where `new/` is.
    #[must_use]
    pub fn directory(&self) -> Cow<'a, str> {
        match self.folder {
            Some(folder) => Cow::Owned(format!("{}/{folder}", self.path)),
            None => Cow::Borrowed(self.path),
        }
    }
}

/// The mail store of one worker: settings, and what was learnt on the way.
pub struct Store {
    exec: Rc<Exec>,
    settings: Settings,
    names: NameMaker,
    /// For deliveries that are over soon, and for those that last as long as their client wants: the slow
    /// must not keep the fast from files.
    short: Gate,
    long: Gate,
    /// `settings.root`, once opened.
    root: RefCell<Option<Rc<Fd>>>,
    kept: Rc<kept::Kept>,
    /// File systems without `O_TMPFILE`.
    named_only: RefCell<HashSet<u64>>,
    /// Whether a file system makes bytes that were written out durable before any name that came later.
    in_order: RefCell<HashMap<u64, bool>>,
}

impl Store {
    /// A store for the worker that runs on `exec`.
    #[must_use]
    pub fn new(exec: Rc<Exec>, settings: Settings, names: NameMaker) -> Self {
        let kept = kept::Kept::new(&exec, settings.kept_directories_max);
        let (short, long) = (Gate::new(settings.open_files_max / 2), Gate::new(settings.open_files_max / 2));
        Self {
            exec,
            settings,
            names,
            short,
            long,
            root: RefCell::default(),
            kept,
            named_only: RefCell::default(),
            in_order: RefCell::default(),
        }
    }

    /// What its operations run on.
    #[must_use]
    pub fn exec(&self) -> &Rc<Exec> {
        &self.exec
    }

    /// A name for a file of these sizes that nobody else has.
    #[must_use]
    pub fn name(&self, sizes: Sizes) -> String {
        self.names.with_sizes(self.exec.wall(), sizes)
    }

    /// Waits until a message that is here may have `files` open, or as many as there can ever be. To be held
    /// until they are closed. It never takes long: who holds a permit waits for the disk alone.
    pub async fn admit(&self, files: usize) -> Permit<'_> {
        self.short.enter(&self.exec, files).await
    }

    /// Leave for a message that is still arriving to have `files` open, `None` if too many are open already:
    /// their clients may take as long as they like, so nobody waits for them.
    pub fn admit_arriving(&self, files: usize) -> Option<Permit<'_>> {
        self.long.enter_now(&self.exec, files)
    }

    /// Leave for a message that is still arriving to have `files` open before they are needed; `None` if there
    /// are better uses for them.
    pub fn admit_early(&self, files: usize) -> Option<Permit<'_>> {
        self.long.enter_if_half_free(&self.exec, files)
    }

    /// Says that a message will want its round soon, where durability depends on rounds.
    #[must_use]
    pub fn approach(&self) -> Option<Approach> {
        (self.settings.durability == Durability::Group).then(|| self.exec.with_ring(|ring| ring.approach()))
    }

    /// Runs `op` as `step`; by the time it is under way, `approach` has ended.
    async fn arrive(&self, step: Step, op: Op, approach: Option<Approach>) -> Result<(), Fault> {
        let running = self.exec.start(op);
        drop(approach);
        running.await.result.map(drop).map_err(|errno| Fault { step, errno })
    }

    /// Runs `op` as `step`.
    async fn step(&self, step: Step, op: Op) -> Result<Done, Fault> {
        self.exec.run(op).await.result.map_err(|errno| Fault { step, errno })
    }

    /// Runs `op`, which opens something, as `step`.
    async fn open(&self, step: Step, op: Op) -> Result<Rc<Fd>, Fault> {
        match self.step(step, op).await? {
            Done::Opened(fd) => Ok(fd),
            _ => unreachable!("an open gives a descriptor"),
        }
    }

    /// Failed rounds so far of the file system that `on` lives on, where durability depends on rounds.
    fn sync_failures(&self, on: &Fd) -> Result<u64, Fault> {
        if !matches!(self.settings.durability, Durability::Journal | Durability::Group) {
            return Ok(0);
        }
        let failures = self.exec.with_ring(|ring| ring.sync_failures(on));
        failures.map_err(|errno| Fault { step: Step::SyncRound, errno })
    }

    /// Writes all of `head` and `body` at `offset`.
    async fn write(
        &self,
        file: &Rc<Fd>,
        offset: u64,
        mut head: Vec<u8>,
        body: &Rc<Vec<Bytes>>,
    ) -> Result<u64, Fault> {
        let total = head.len() + body.iter().map(Bytes::len).sum::<usize>();
        let mut skip = 0;
        while skip < total {
            let op = Op::Write {
                file: Rc::clone(file),
                head,
                body: Rc::clone(body),
                skip,
                offset: offset + skip as u64,
            };
            let finished = self.exec.run(op).await;
            let count = match finished.result {
                // A regular file takes something or says why not; nothing at all would loop for ever.
                Ok(Done::Count(0)) => Err(Errno::IO),
                Ok(Done::Count(count)) => Ok(count),
                Ok(_) => unreachable!("a write gives a count"),
                Err(errno) => Err(errno),
            }
            .map_err(|errno| Fault { step: Step::Write, errno })?;
            assert!(count <= total - skip, "the kernel wrote what it was given");
            skip += count;
            let Some(Op::Write { head: back, .. }) = finished.op else { unreachable!("it comes back") };
            head = back;
        }
        Ok(total as u64)
    }

    fn has_unnamed_files(&self, directory: &Fd) -> bool {
        // Asking for the device costs a system call, so not before there is a reason to ask.
        if self.named_only.borrow().is_empty() {
            return true;
        }
        self.device(directory).is_none_or(|device| !self.named_only.borrow().contains(&device))
    }

    fn remember_named_only(&self, directory: &Fd) {
        if let Some(device) = self.device(directory) {
            self.named_only.borrow_mut().insert(device);
        }
    }

    /// Whether bytes written out before a name was given are durable before the name is.
    ///
    /// # Errors
    /// As fstat(2) and fstatfs(2), of `step`, which asks.
    fn keeps_order(&self, directory: &Fd, step: Step) -> Result<bool, Fault> {
        let asked = self.exec.with_ring(|ring| {
            let device = ring.device(directory)?;
            if let Some(known) = self.in_order.borrow().get(&device) {
                return Ok(*known);
            }
            let kept = ring.keeps_order(directory)?;
            self.in_order.borrow_mut().insert(device, kept);
            Ok(kept)
        });
        asked.map_err(|errno| Fault { step, errno })
    }

    /// The file system of an open directory.
    fn device(&self, directory: &Fd) -> Option<u64> {
        self.exec.with_ring(|ring| ring.device(directory)).ok()
    }
}

/// The step of a delivery that failed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What was being done.
    pub step: Step,
    /// What the kernel said.
    pub errno: Errno,
}

/// The steps of a delivery, and of looking at what was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Act with the credentials of the mail owner.
    Identify,
    /// Open the mail root.
    OpenRoot,
    /// Open the mailbox.
    OpenMailbox,
    /// Make a missing directory.
    MakeDirectory,
    /// Make the name of a new directory durable.
    SyncParent,
    /// Create the file.
    Create,
    /// Write the message.
    Write,
    /// Make the bytes of this file durable.
    SyncBytes,
    /// Write the bytes of this file out, ahead of its name.
    WriteOut,
    /// Make everything on the file system durable: the bytes, or the names, of a round. What fails here
    /// may have been somebody else's message.
    SyncRound,
    /// Put the message on record in the journal.
    Record,
    /// Sync what the journal keeps, so that it has room and can be relied on.
    Checkpoint,
    /// Give the file its name in `new/`.
    Publish,
    /// Make the name durable.
    SyncName,
    /// Make sure that the file system, which says that the name is durable, is right.
    Confirm,
    /// Look which files a directory of the mailbox has.
    List,
    /// Open a file that stands in the mailbox.
    OpenStored,
    /// Read it.
    ReadStored,
    /// Remove it.
    Remove,
}

impl Step {
    /// All of them, in the order in which they happen.
    pub const ALL: [Self; 19] = [
        Self::Identify,
        Self::OpenRoot,
        Self::OpenMailbox,
        Self::MakeDirectory,
        Self::SyncParent,
        Self::Create,
        Self::Write,
        Self::SyncBytes,
        Self::WriteOut,
        Self::SyncRound,
        Self::Record,
        Self::Checkpoint,
        Self::Publish,
        Self::SyncName,
        Self::Confirm,
        Self::List,
        Self::OpenStored,
        Self::ReadStored,
        Self::Remove,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identify => "become the mail owner",
            Self::OpenRoot => "open the mail root",
            Self::OpenMailbox => "open the mailbox",
            Self::MakeDirectory => "make a directory of the mailbox",
            Self::SyncParent => "sync the parent of a new directory",
            Self::Create => "create the file",
            Self::Write => "write the message",
            Self::SyncBytes => "sync the message",
            Self::WriteOut => "write the message out to the device",
            Self::SyncRound => "sync the mail file system",
            Self::Record => "put the message on record in the journal",
            Self::Checkpoint => "sync the mail that is on record",
            Self::Publish => "link the message into new/",
            Self::SyncName => "sync new/",
            Self::Confirm => "make sure of the message's name once it was synced",
            Self::List => "list the mailbox",
            Self::OpenStored => "open a stored message",
            Self::ReadStored => "read a stored message",
            Self::Remove => "remove a torn message",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.step, self.errno)
    }
}

impl std::error::Error for Fault {}
