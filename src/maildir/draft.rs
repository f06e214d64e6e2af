//! One file on its way into `new/`.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::rc::Rc;

use rustix::io::Errno;

use super::{Durability, Fault, FileSystem, Place, Sizes, Step, Store, Stored};
use crate::ring::{Approach, Bytes, Fd, How, Identity, Op};

/// A file without a name that a reader could see. Dropping it forgets the message: an unnamed file
/// vanishes by itself, one in `tmp/` wants [`discard`](Draft::discard).
#[derive(Debug)]
pub struct Draft {
    file: Rc<Fd>,
    written: u64,
    /// Where the file stands in the meantime, on file systems without unnamed files.
    temporary: Option<Temporary>,
    /// What syncfs(2) is called on.
    directory: Rc<Fd>,
    /// Failed rounds of the file system before anything was made in it.
    failures: u64,
    /// On the way to the round that settles the name, since the bytes are being written out.
    approach: RefCell<Option<Approach>>,
}

#[derive(Debug)]
struct Temporary {
    tmp: Rc<Fd>,
    name: CString,
    identity: Identity,
    /// Renamed into `new/` rather than linked: it will have one name only.
    moves: Cell<bool>,
    moved: Cell<bool>,
}

impl Draft {
    /// Creates the file, in the mailbox where it will appear first. A `shared` draft may be published
    /// in several.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn create(store: &Store, place: &Place, shared: bool) -> Result<Self, Fault> {
        match Self::create_unnamed(store, place).await? {
            Some(draft) => Ok(draft),
            None => Self::create_named(store, place, shared).await,
        }
    }

    /// Creates a file that vanishes by itself when the draft is dropped; `None` where the file system has no
    /// such files.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn create_unnamed(store: &Store, place: &Place) -> Result<Option<Self>, Fault> {
        if !store.has_unnamed_files(&place.new) {
            return Ok(None);
        }
        let op = Op::Open {
            at: Some(Rc::clone(&place.new)),
            path: c".".to_owned(),
            how: How::Unnamed,
            identity: place.identity.clone(),
        };
        match store.open(Step::Create, op).await {
            // What file systems and kernels say that do not know O_TMPFILE (open(2)).
            Err(Fault { errno: Errno::OPNOTSUPP | Errno::ISDIR, .. }) => {
                store.remember_named_only(&place.new);
                Ok(None)
            }
            opened => Ok(Some(Self::new(opened?, None, place))),
        }
    }

    async fn create_named(store: &Store, place: &Place, shared: bool) -> Result<Self, Fault> {
        let tmp = place.tmp(store).await?;
        let name = c_name(store.names.unique(store.exec.wall()));
        let op = Op::Open {
            at: Some(Rc::clone(&tmp)),
            path: name.clone(),
            how: How::New,
            identity: place.identity.clone(),
        };
        let file = store.open(Step::Create, op).await?;
        let temporary = Temporary {
            tmp,
            name,
            identity: place.identity.clone(),
            moves: Cell::new(!shared),
            moved: Cell::new(false),
        };
        Ok(Self::new(file, Some(temporary), place))
    }

    fn new(file: Rc<Fd>, temporary: Option<Temporary>, place: &Place) -> Self {
        let directory = Rc::clone(&place.new);
        Self {
            file,
            written: 0,
            temporary,
            directory,
            failures: place.failures,
            approach: RefCell::default(),
        }
    }

    /// Writes `head` and `body` behind what was written before. The bytes are in the page cache
    /// afterwards, so the buffers may go.
    ///
    /// # Errors
    /// The step that failed. The file is then good for nothing but to be discarded.
    pub async fn append(&mut self, store: &Store, head: Vec<u8>, body: &Rc<Vec<Bytes>>) -> Result<(), Fault> {
        self.written += store.write(&self.file, self.written, head, body).await?;
        Ok(())
    }

    /// How many bytes the file has.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes the bytes durable, or sure to be so before any name the file gets, as the mode asks; `approach` was taken when this became foreseeable. A sync
    /// that failed is never tried again: the kernel has marked the pages clean, and the next call would lie.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn settle(&self, store: &Store, approach: Option<Approach>) -> Result<(), Fault> {
        let (step, op) = match store.settings.durability {
            Durability::None => return Ok(()),
            // What makes the name durable, a round or the sync of `new/`, does the same for the bytes, and never later.
            Durability::Group | Durability::Journal
                if store.keeps_order(&self.directory, Step::WriteOut)? =>
            {
                (Step::WriteOut, Op::WriteOut { file: Rc::clone(&self.file) })
            }
            Durability::Group => (Step::SyncRound, Op::SyncFs { on: Rc::clone(&self.directory) }),
            Durability::Journal | Durability::Fsync => {
                (Step::SyncBytes, Op::Sync { file: Rc::clone(&self.file) })
            }
        };
        if step == Step::WriteOut {
            // This is no round; if there is one it is for the name, and the message stays on the way to it.
            self.approach.replace(approach);
            return self.write_out(store, op).await;
        }
        store.arrive(step, op, approach).await?;
        self.check_rounds(store)
    }

    async fn write_out(&self, store: &Store, op: Op) -> Result<(), Fault> {
        let settled = store.step(Step::WriteOut, op).await;
        if settled.is_err() {
            // The file system keeps this error for its next round, which shall not be that of a message to come.
            let _ = store.step(Step::SyncRound, Op::SyncFs { on: Rc::clone(&self.directory) }).await;
        }
        settled?;
        self.check_rounds(store)
    }

    /// An error that another round met may have been ours: it is told only once.
    fn check_rounds(&self, store: &Store) -> Result<(), Fault> {
        if store.sync_failures(&self.directory)? == self.failures {
            return Ok(());
        }
        Err(Fault { step: Step::SyncRound, errno: Errno::IO })
    }

    /// Gives the settled file a name in `place` and makes that durable. Of a shared draft it may be
    /// called for several mailboxes, when owner and file system are the same. Returns the name.
    ///
    /// # Errors
    /// The step that failed. No name is left behind then, as far as that can be done.
    pub async fn publish(&self, store: &Store, place: &Place, sizes: Sizes) -> Result<String, Fault> {
        assert_eq!(sizes.stored, self.written, "a name tells the exact size");
        let approach = self.approach.take().or_else(|| store.approach());
        let name = self.link(store, place, sizes).await?;
        let (step, op) = match store.settings.durability {
            Durability::Journal | Durability::Fsync => {
                (Step::SyncName, Op::Sync { file: Rc::clone(&place.new) })
            }
            Durability::Group => (Step::SyncRound, Op::SyncFs { on: Rc::clone(&place.new) }),
            Durability::None => return Ok(name),
        };
        let synced = store.arrive(step, op, approach).await.and_then(|()| self.check_rounds(store));
        let settled = match synced {
            Ok(()) if step == Step::SyncName => self.confirm(store, place).await,
            synced => synced,
        };
        if let Err(fault) = settled {
            // The client will hear 451 and send it again; without this the reader might have both.
            let unlink = Op::Unlink {
                at: Rc::clone(&place.new),
                name: c_name(name),
                identity: place.identity.clone(),
            };
            let _ = store.exec.run(unlink).await;
            return Err(fault);
        }
        Ok(name)
    }

    /// Makes sure of a name whose directory was synced: that sync may have returned 0 without reason.
    async fn confirm(&self, store: &Store, place: &Place) -> Result<(), Fault> {
        if store.keeps_order(&place.new, Step::Confirm)? {
            return self.touch(store).await;
        }
        // btrfs takes a directory for synced that was logged for the sake of a link in it while somebody else's log
        // was on its way to the disk (btrfs_inode_in_log after btrfs_log_new_name, fs/btrfs; seen on Linux 6.18, one
        // message in 20000). It never does so with the file itself, whose log has its names and new directories above.
        store.step(Step::Confirm, Op::Sync { file: Rc::clone(&self.file) }).await.map(drop)
    }

    /// Asks a file system with a log whether that has failed meanwhile. fsync(2) of a directory need not tell: when the
    /// commit with the name has failed for another caller and is over, there is nothing left to wait for, and it
    /// returns 0 (fs/jbd2/journal.c, jbd2_complete_transaction; fs/xfs/xfs_log_cil.c, xlog_cil_force_seq; Linux
    /// 6.18). But the log is given up before such a commit is over, and from then on no change is taken.
    async fn touch(&self, store: &Store) -> Result<(), Fault> {
        match store.step(Step::Confirm, Op::Touch { file: Rc::clone(&self.file) }).await {
            // Files without extents, of ext3, cannot be asked.
            Err(Fault { errno: Errno::OPNOTSUPP, .. }) => Ok(()),
            touched => touched.map(drop),
        }
    }

    /// Gives the file this very name in `new/`, for who sees to its durability: recovery, and the journal. The
    /// name is taken: `EEXIST`.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn publish_as(&self, store: &Store, place: &Place, name: &str) -> Result<(), Fault> {
        self.publish_in(store, place, &place.new, &c_name(name.to_owned())).await
    }

    /// Gives the file the name under which its message is on record, or another one if that is taken. Returns the
    /// name.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn publish_recorded(
        &self,
        store: &Store,
        place: &Place,
        name: &str,
        sizes: Sizes,
    ) -> Result<String, Fault> {
        assert_eq!(sizes.stored, self.written, "a name tells the exact size");
        match self.publish_as(store, place, name).await {
            Err(Fault { errno: Errno::EXIST, .. }) => self.link(store, place, sizes).await,
            published => published.map(|()| name.to_owned()),
        }
    }

    /// The file system, with its failed rounds before anything of this was written.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn file_system(&self, store: &Store) -> Result<FileSystem, Fault> {
        let on = Rc::clone(&self.directory);
        let device = store.device(&on).ok_or(Fault { step: Step::Checkpoint, errno: Errno::IO })?;
        Ok(FileSystem { device, on, failures: self.failures })
    }

    /// Takes the place of a file of the same mailbox, flags and all.
    ///
    /// # Errors
    /// The step that failed. There may be no file of that name then.
    pub async fn publish_over(&self, store: &Store, place: &Place, stored: &Stored) -> Result<(), Fault> {
        stored.remove(store).await?;
        self.publish_in(store, place, &stored.directory, &stored.name).await
    }

    async fn publish_in(
        &self,
        store: &Store,
        place: &Place,
        directory: &Rc<Fd>,
        name: &CString,
    ) -> Result<(), Fault> {
        loop {
            let (into, name) = (Rc::clone(directory), name.clone());
            let identity = place.identity.clone();
            let op = match &self.temporary {
                None => Op::Link { file: Rc::clone(&self.file), into, name, identity },
                Some(temporary) if temporary.moves.get() => Op::Rename {
                    from: Rc::clone(&temporary.tmp),
                    old: temporary.name.clone(),
                    into,
                    name,
                    identity,
                },
                Some(temporary) => Op::LinkName {
                    from: Rc::clone(&temporary.tmp),
                    old: temporary.name.clone(),
                    into,
                    name,
                    identity,
                },
            };
            match store.step(Step::Publish, op).await {
                // No rename that is sure to replace nothing (NFS): link, and unlink the first name later.
                Err(Fault { errno: Errno::INVAL, .. }) if self.stops_moving() => {}
                Err(fault) => return Err(fault),
                Ok(_) => {
                    if let Some(temporary) = &self.temporary {
                        temporary.moved.set(temporary.moves.get());
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn link(&self, store: &Store, place: &Place, sizes: Sizes) -> Result<String, Fault> {
        let mut tries = 0;
        loop {
            let name = store.names.with_sizes(store.exec.wall(), sizes);
            match self.publish_as(store, place, &name).await {
                // The name is taken: a foreign writer, or a clock that was set back. Take another.
                Err(Fault { errno: Errno::EXIST, .. }) if tries < NAME_TRIES => tries += 1,
                published => return published.map(|()| name),
            }
        }
    }

    /// Has the file linked from now on if it was to be renamed.
    fn stops_moving(&self) -> bool {
        self.temporary.as_ref().is_some_and(|temporary| temporary.moves.replace(false))
    }

    /// Ends the draft: removes what stands in `tmp/`, whether the message was published or not.
    pub async fn discard(self, store: &Store) {
        if let Some(Temporary { tmp, name, identity, moved, .. }) = self.temporary
            && !moved.get()
        {
            // What stays behind is removed by the reader after 36 hours, as for every Maildir.
            let _ = store.exec.run(Op::Unlink { at: tmp, name, identity }).await;
        }
    }
}

/// How often a taken name is replaced by another.
const NAME_TRIES: u32 = 4;

fn c_name(name: String) -> CString {
    CString::new(name).expect("names are made without NUL")
}
