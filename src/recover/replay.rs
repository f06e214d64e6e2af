//! The mail of one segment, many recipients side by side.
//!
//! Files are done mailbox by mailbox, so that each directory is opened once for many of them.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use super::file::{Desk, Listed, Wanted};
use crate::exec::join_all;
use crate::journal::{End, Segment};
use crate::limits;
use crate::maildir::{Fault, FileSystem, Mailbox, Place, Store, folder};

pub use super::file::Done;

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Change nothing, and say what would be done.
    Look,
    /// A file with the right bytes is right.
    Repair,
    /// Every file is written again, and takes the place of the one that is there: after a failed sync the kernel
    /// shows bytes and names that it has given up writing. A new file goes to other blocks of the disk, and
    /// its name makes the directory a changed one again.
    Rewrite,
}

/// A segment's mail, in place but not yet durable.
#[derive(Debug)]
pub struct Replayed {
    /// What became of it.
    pub mail: Mail,
    file_systems: Vec<FileSystem>,
}

/// What became of a segment's mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// How many of each.
    pub counts: Counts,
    /// The recipients for whom it could not be done.
    pub failures: Vec<Failure>,
    /// What would be done, in [`Mode::Look`].
    pub actions: Vec<Action>,
    /// How the segment ended.
    pub end: End,
}

/// Numbers of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages in the segment.
    pub records: u64,
    /// Recipients of them all.
    pub recipients: u64,
    /// Files that were there.
    pub present: u64,
    /// Files that were missing and were written.
    pub written: u64,
    /// Files that were torn and were replaced.
    pub replaced: u64,
    /// Files that were written under another name.
    pub beside: u64,
}

/// A recipient whose file could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The record, by its sequence number.
    pub sequence: u64,
    /// Which of its recipients.
    pub recipient: usize,
    /// The Maildir, or the folder.
    pub path: String,
    /// The file's name.
    pub name: String,
    /// The step that failed.
    pub fault: Fault,
}

/// What would be done for a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// The Maildir, or the folder.
    pub path: String,
    /// The file's name.
    pub name: String,
    /// What.
    pub what: Done,
}

impl Replayed {
    /// Makes durable all that is now in place: one sync of each mail file system. In [`Mode::Look`] there is
    /// nothing to sync.
    ///
    /// # Errors
    /// A sync failed, so some of it may never reach its disk: replay again with [`Mode::Rewrite`].
    pub async fn settle(&self, store: &Store) -> Result<(), Fault> {
        join_all(self.file_systems.iter().map(|one| one.settle(store))).await.into_iter().collect()
    }
}

/// Sees to it that every recipient of every record in the segment has its file. The files are not durable before
/// [`Replayed::settle`]. `progress` hears of bytes that are done; they add up to the length of the segment.
pub async fn replay(store: &Store, segment: &Segment<'_>, mode: Mode, progress: &dyn Fn(u64)) -> Replayed {
    let (shelves, counts, end) = sort(segment);
    let queue: Vec<Chunk<'_>> = shelves.into_iter().flat_map(Shelf::into_chunks).collect();
    let lanes = queue.len().min(limits::RECOVERIES_AT_ONCE);
    let mail = Mail { counts, failures: Vec::new(), actions: Vec::new(), end };
    let run = Run {
        store,
        mode,
        progress,
        queue: RefCell::new(queue.into_iter()),
        replayed: RefCell::new(Replayed { mail, file_systems: Vec::new() }),
        done_bytes: RefCell::new(0),
    };
    join_all((0..lanes).map(|_| run.lane())).await;
    let done_bytes = run.done_bytes.into_inner();
    progress(segment.header.segment_bytes.saturating_sub(done_bytes));
    run.replayed.into_inner()
}

/// One mailbox, and the files that it must have.
struct Shelf<'s> {
    mailbox: Mailbox<'s>,
    files: Vec<Wanted<'s>>,
}

/// Some files of one mailbox: what is done in one go.
struct Chunk<'s> {
    mailbox: Mailbox<'s>,
    files: Vec<Wanted<'s>>,
    /// Shared by the chunks of the mailbox: it is listed once.
    listed: Rc<RefCell<Listed>>,
}

impl<'s> Shelf<'s> {
    /// A mailbox that gets a lot is not to be one lane's alone.
    fn into_chunks(self) -> impl Iterator<Item = Chunk<'s>> {
        let listed = Rc::default();
        let chunks: Vec<Vec<Wanted<'s>>> = self.files.chunks(CHUNK_FILES).map(<[_]>::to_vec).collect();
        chunks.into_iter().map(move |files| Chunk {
            mailbox: self.mailbox,
            files,
            listed: Rc::clone(&listed),
        })
    }
}

/// Sorts what the segment wants by mailbox.
fn sort<'s>(segment: &Segment<'s>) -> (Vec<Shelf<'s>>, Counts, End) {
    let mut shelves: Vec<Shelf<'s>> = Vec::new();
    let mut places: HashMap<_, usize> = HashMap::new();
    let mut counts = Counts::default();
    let mut records = segment.records();
    for record in records.by_ref() {
        counts.records += 1;
        for (index, recipient) in record.recipients().enumerate() {
            counts.recipients += 1;
            let wanted = Wanted {
                sequence: record.sequence,
                recipient: index,
                name: recipient.name,
                trace: recipient.trace,
                payload: record.payload,
                weight: (record.length / record.count()) as u64,
            };
            match places.entry((recipient.path, recipient.home, recipient.owner)) {
                Entry::Occupied(place) => shelves[*place.get()].files.push(wanted),
                Entry::Vacant(place) => {
                    place.insert(shelves.len());
                    let (path, folder) = folder::apart(recipient.path);
                    let (home, owner) = (recipient.home, recipient.owner);
                    let mailbox = Mailbox { home, path, folder, owner };
                    shelves.push(Shelf { mailbox, files: vec![wanted] });
                }
            }
        }
    }
    let end = records.end().expect("all were taken");
    (shelves, counts, end)
}

/// One replay under way.
struct Run<'r, 's> {
    store: &'r Store,
    mode: Mode,
    progress: &'r dyn Fn(u64),
    queue: RefCell<std::vec::IntoIter<Chunk<'s>>>,
    replayed: RefCell<Replayed>,
    done_bytes: RefCell<u64>,
}

impl Run<'_, '_> {
    /// Does one chunk after another.
    async fn lane(&self) {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let Some(chunk) = self.queue.borrow_mut().next() else { return };
            self.chunk(&chunk, &mut buffer).await;
        }
    }

    async fn chunk(&self, chunk: &Chunk<'_>, buffer: &mut Vec<u8>) {
        let _permit = self.store.admit(1).await;
        let place = self.open(chunk.mailbox).await;
        for wanted in &chunk.files {
            let done = match &place {
                Ok(Some(place)) => {
                    let desk = Desk { store: self.store, mode: self.mode, place, listed: &chunk.listed };
                    desk.ensure(wanted, buffer).await
                }
                Ok(None) => Ok(Done::Written),
                Err(fault) => Err(*fault),
            };
            self.note(&chunk.mailbox.directory(), wanted, done);
        }
        // Time for others, where all of this was done without waiting.
        self.store.exec().give_way().await;
    }

    /// Opens the mailbox; nothing where it would have to be made and must not be.
    async fn open(&self, mailbox: Mailbox<'_>) -> Result<Option<Place>, Fault> {
        if self.mode == Mode::Look {
            return Place::existing(self.store, mailbox).await;
        }
        let place = Place::find(self.store, mailbox).await?;
        let device = place.device(self.store);
        let is_known = |one: &FileSystem| Some(one.device) == device;
        if !self.replayed.borrow().file_systems.iter().any(is_known) {
            let file_system = FileSystem::of(self.store, &place)?;
            self.replayed.borrow_mut().file_systems.push(file_system);
        }
        Ok(Some(place))
    }

    fn note(&self, path: &str, wanted: &Wanted<'_>, done: Result<Done, Fault>) {
        *self.done_bytes.borrow_mut() += wanted.weight;
        (self.progress)(wanted.weight);
        let mail = &mut self.replayed.borrow_mut().mail;
        let (path, name) = (|| path.to_owned(), || wanted.name.to_owned());
        match done {
            Ok(what) => {
                let counts = &mut mail.counts;
                *match what {
                    Done::Present => &mut counts.present,
                    Done::Written => &mut counts.written,
                    Done::Replaced => &mut counts.replaced,
                    Done::Beside => &mut counts.beside,
                } += 1;
                if self.mode == Mode::Look && what != Done::Present {
                    mail.actions.push(Action { path: path(), name: name(), what });
                }
            }
            Err(fault) => mail.failures.push(Failure {
                sequence: wanted.sequence,
                recipient: wanted.recipient,
                path: path(),
                name: name(),
                fault,
            }),
        }
    }
}

/// Files that are done with one opening of their mailbox.
const CHUNK_FILES: usize = 32;
/// How much of a file is read at once: most messages whole.
const BUFFER_BYTES: usize = 32 * 1024;
