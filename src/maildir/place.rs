//! Finding a mailbox: a path from the user table becomes an open `new/`, or a missing one is made. So does a folder
//! of a Maildir; where there is none, and none is to be made, its mail is for the inbox.
//!
//! Nothing that a user or a sender can name leads out of the mailbox's root: the home (or `maildir.root`,
//! when the site set one) is opened as the administrator wrote it, and everything beneath is resolved
//! without symbolic links and without a way up (openat2, kernel 5.6).
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::CString;
use std::path::Path;
use std::rc::Rc;

use rustix::io::Errno;

use super::{Durability, Fault, Mailbox, Step, Store, subscriptions};
use crate::ring::{Fd, How, Identity, Op, Owner};

/// An open mailbox: where a message will appear.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory `new/`.
    pub(super) new: Rc<Fd>,
    /// Who opens and creates in it.
    pub(super) identity: Identity,
    /// Whose mailbox it is.
    pub owner: Owner,
    path: String,
    /// The folder whose `new/` it is; the inbox where there is none.
    folder: Option<String>,
    home: Option<String>,
    /// Failed rounds of its file system before anything in it was made for this delivery.
    pub(super) failures: u64,
}

/// What a search came to.
enum Sought<'m> {
    Found(Place),
    /// It is missing, and may be made.
    Missing(Mailbox<'m>),
}

impl Place {
    /// Opens the mailbox, making it where it is missing and that is allowed. Mail for a folder that is neither there
    /// nor may be made is for the inbox: that is decided here, each time anew (but see [`super::KEEP`]).
    ///
    /// # Errors
    /// The step that failed; `OpenMailbox` with `ENOENT` when it is missing and may not be made.
    pub async fn find(store: &Store, mailbox: Mailbox<'_>) -> Result<Self, Fault> {
        match Self::seek(store, mailbox).await? {
            Sought::Found(place) => Ok(place),
            Sought::Missing(mailbox) => Self::make(store, mailbox).await,
        }
    }

    /// Opens the mailbox if it is there; `None` if [`find`](Self::find) would make it.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn existing(store: &Store, mailbox: Mailbox<'_>) -> Result<Option<Self>, Fault> {
        match Self::seek(store, mailbox).await? {
            Sought::Found(place) => Ok(Some(place)),
            Sought::Missing(_) => Ok(None),
        }
    }

    async fn seek<'m>(store: &Store, mailbox: Mailbox<'m>) -> Result<Sought<'m>, Fault> {
        let mut makes_folder = false;
        if mailbox.folder.is_some() {
            match Self::open(store, mailbox).await {
                Err(Fault { step: Step::OpenMailbox, errno }) if NO_FOLDER.contains(&errno) => {
                    makes_folder = store.settings.create_folder && errno == Errno::NOENT;
                }
                opened => return opened.map(Sought::Found),
            }
        }
        let inbox = Mailbox { folder: None, ..mailbox };
        let missing = if makes_folder { mailbox } else { inbox };
        match Self::open(store, inbox).await {
            Ok(_) if makes_folder => Ok(Sought::Missing(missing)),
            Err(Fault { step: Step::OpenMailbox, errno: Errno::NOENT }) if store.settings.create => {
                Ok(Sought::Missing(missing))
            }
            opened => opened.map(Sought::Found),
        }
    }

    async fn open(store: &Store, mailbox: Mailbox<'_>) -> Result<Self, Fault> {
        let identity = identity(store, mailbox)?;
        let search = Search::new(store, &identity, mailbox);
        let (directory, owner) = (mailbox.directory(), mailbox.owner);
        let new = match store.kept.get(&directory, owner) {
            Some(new) => new,
            None => {
                let new = search.directory("new").await?;
                store.kept.keep(&directory, owner, &new);
                new
            }
        };
        let failures = search.failures(&new)?;
        Ok(Self::new(new, identity, mailbox, failures))
    }

    async fn make(store: &Store, mailbox: Mailbox<'_>) -> Result<Self, Fault> {
        let identity = identity(store, mailbox)?;
        let search = Search::new(store, &identity, mailbox);
        let new = search.make().await?;
        let failures = search.failures(&new)?;
        Ok(Self::new(new, identity, mailbox, failures))
    }

    fn new(new: Rc<Fd>, identity: Identity, mailbox: Mailbox<'_>, failures: u64) -> Self {
        let (path, home) = (mailbox.path.to_owned(), mailbox.home.map(str::to_owned));
        let folder = mailbox.folder.map(str::to_owned);
        Self { new, identity, owner: mailbox.owner, path, folder, home, failures }
    }

    /// Opens `tmp/` of the same mailbox.
    pub(super) async fn tmp(&self, store: &Store) -> Result<Rc<Fd>, Fault> {
        let makes = if self.folder.is_some() { store.settings.create_folder } else { store.settings.create };
        match self.sibling(store, "tmp").await {
            // Of the directories that were made together a power cut may have left `new/` alone.
            Err(Fault { errno: Errno::NOENT, .. }) if makes => {
                Search::new(store, &self.identity, self.mailbox()).make().await?;
                self.sibling(store, "tmp").await
            }
            found => found,
        }
    }

    /// Opens another directory of the same mailbox.
    pub(super) async fn sibling(&self, store: &Store, name: &str) -> Result<Rc<Fd>, Fault> {
        Search::new(store, &self.identity, self.mailbox()).directory(name).await
    }

    fn mailbox(&self) -> Mailbox<'_> {
        let (home, folder) = (self.home.as_deref(), self.folder.as_deref());
        Mailbox { home, path: &self.path, folder, owner: self.owner }
    }

    /// Where `new/` is, for the log.
    #[must_use]
    pub fn directory(&self) -> Cow<'_, str> {
        self.mailbox().directory()
    }

    /// The file system of the mailbox, where it can be told.
    #[must_use]
    pub fn device(&self, store: &Store) -> Option<u64> {
        store.device(&self.new)
    }
}

fn identity(store: &Store, mailbox: Mailbox<'_>) -> Result<Identity, Fault> {
    store.exec.identity(mailbox.owner).map_err(|errno| Fault { step: Step::Identify, errno })
}

/// One search for one mailbox.
struct Search<'a> {
    store: &'a Store,
    identity: &'a Identity,
    home: Option<&'a str>,
    /// The Maildir, absolute.
    path: &'a str,
    /// Its folder, if it is that which is searched for.
    folder: Option<&'a str>,
    /// The file system in which a directory was made last, and its failed rounds before.
    made_in: Cell<Option<(u64, u64)>>,
}

impl<'a> Search<'a> {
    fn new(store: &'a Store, identity: &'a Identity, mailbox: Mailbox<'a>) -> Self {
        let Mailbox { home, path, folder, owner: _ } = mailbox;
        Self { store, identity, home, path, folder, made_in: Cell::new(None) }
    }

    /// Failed rounds of the file system of `directory` before this search made anything in it.
    fn failures(&self, directory: &Fd) -> Result<u64, Fault> {
        match self.made_in.get() {
            Some((device, failures)) if self.store.device(directory) == Some(device) => Ok(failures),
            _ => self.store.sync_failures(directory),
        }
    }

    /// Something will be made in `directory`: a failed round from now on may take it away again.
    fn will_make_in(&self, directory: &Fd) -> Result<(), Fault> {
        if let Some(device) = self.store.device(directory)
            && self.made_in.get().is_none_or(|(other, _)| other != device)
        {
            self.made_in.set(Some((device, self.store.sync_failures(directory)?)));
        }
        Ok(())
    }

    /// Opens `sub` of the mailbox.
    async fn directory(&self, sub: &str) -> Result<Rc<Fd>, Fault> {
        let sub = match self.folder {
            Some(folder) => Cow::Owned(format!("{folder}/{sub}")),
            None => Cow::Borrowed(sub),
        };
        if let Some(root) = &self.store.settings.root {
            let beneath = beneath(self.path, root)?;
            let root = self.root(root).await?;
            return self.open(Some(&root), &format!("{beneath}/{sub}"), How::DirectoryBeneath).await;
        }
        // No symbolic link anywhere is the common case, and takes one call.
        let whole = format!("{}/{sub}", self.path);
        match self.open(None, &whole, How::Directory).await {
            Err(Fault { errno: Errno::LOOP, .. }) => {}
            found => return found,
        }
        // Links on the way to the base are the administrator's; behind it there must be none.
        let (base, beneath) = self.base();
        let base = self.open(None, base, How::DirectoryTrusted).await?;
        self.open(Some(&base), &format!("{beneath}/{sub}"), How::DirectoryBeneath).await
    }

    /// Makes what is missing of the mailbox, `tmp/` and `cur/` before `new/`, and opens `new/`.
    async fn make(&self) -> Result<Rc<Fd>, Fault> {
        let maildir = self.make_maildir().await?;
        match self.folder {
            Some(folder) => self.make_folder(&maildir, folder).await,
            None => {
                self.make_both(&maildir).await?;
                self.enter_or_make(&maildir, "new").await
            }
        }
    }

    /// Opens the Maildir, making what is missing on the way.
    async fn make_maildir(&self) -> Result<Rc<Fd>, Fault> {
        let (mut at, rest) = match &self.store.settings.root {
            Some(root) => (self.root(root).await?, beneath(self.path, root)?),
            None => {
                let (base, rest) = self.base();
                (self.make_base(base).await?, rest)
            }
        };
        for name in rest.split('/').filter(|name| !name.is_empty()) {
            at = self.enter_or_make(&at, name).await?;
        }
        Ok(at)
    }

    /// Makes `tmp/` and `cur/` in `at`.
    async fn make_both(&self, at: &Rc<Fd>) -> Result<(), Fault> {
        for name in ["tmp", "cur"] {
            self.enter_or_make(at, name).await?;
        }
        Ok(())
    }

    /// Makes the folder, and around it the inbox, where that is missing. It is there when it has its `new/`, which
    /// therefore comes last.
    async fn make_folder(&self, maildir: &Rc<Fd>, folder: &str) -> Result<Rc<Fd>, Fault> {
        if self.store.settings.create {
            self.make_both(maildir).await?;
            self.enter_or_make(maildir, "new").await?;
        }
        let at = self.enter_or_make(maildir, folder).await?;
        self.make_both(&at).await?;
        if self.mark(&at).await? {
            subscriptions::subscribe(self.store, maildir, self.identity, folder).await;
        }
        self.enter_or_make(&at, "new").await
    }

    /// Marks a directory as the folder of a Maildir (Maildir++); false if it is marked. The sync of the directory
    /// after its next entry is for this one too.
    async fn mark(&self, at: &Rc<Fd>) -> Result<bool, Fault> {
        self.will_make_in(at)?;
        let op = Op::Open {
            at: Some(Rc::clone(at)),
            path: c"maildirfolder".to_owned(),
            how: How::New,
            identity: self.identity.clone(),
        };
        match self.store.open(Step::MakeDirectory, op).await {
            Ok(_) => Ok(true),
            Err(Fault { errno: Errno::EXIST, .. }) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Where trust ends and what lies behind: the home and the path beneath it, or the parent of
    /// a Maildir that lies elsewhere.
    fn base(&self) -> (&str, &str) {
        if let Some(home) = self.home
            && let Some(rest) = self.path.strip_prefix(home)
            && let Some(rest) = rest.strip_prefix('/')
        {
            return (home, rest);
        }
        match self.path.rsplit_once('/') {
            Some(("", name)) => ("/", name),
            Some(split) => split,
            None => ("/", self.path),
        }
    }

    /// Opens `base`, making it and its parents as needed.
    async fn make_base(&self, base: &str) -> Result<Rc<Fd>, Fault> {
        let mut missing = Vec::new();
        let mut existing = base;
        let mut at = loop {
            match self.open(None, existing, How::DirectoryTrusted).await {
                Err(Fault { errno: Errno::NOENT, .. }) if existing != "/" => {
                    let (parent, name) = existing.rsplit_once('/').unwrap_or(("", existing));
                    missing.push(name);
                    existing = if parent.is_empty() { "/" } else { parent };
                }
                found => break found?,
            }
        };
        while let Some(name) = missing.pop() {
            at = self.enter_or_make(&at, name).await?;
        }
        Ok(at)
    }

    /// Opens directory `name` in `at`; makes it first when it is missing.
    async fn enter_or_make(&self, at: &Rc<Fd>, name: &str) -> Result<Rc<Fd>, Fault> {
        match self.open(Some(at), name, How::DirectoryBeneath).await {
            Err(Fault { errno: Errno::NOENT, .. }) => {}
            found => return found,
        }
        self.will_make_in(at)?;
        let make = Op::MakeDir { at: Rc::clone(at), name: c_path(name)?, identity: self.identity.clone() };
        match self.store.step(Step::MakeDirectory, make).await {
            // Somebody else made it first. They sync its name, and a file system that keeps one log
            // writes it out before anything of ours that comes later.
            Ok(_) | Err(Fault { errno: Errno::EXIST, .. }) => {}
            Err(fault) => return Err(fault),
        }
        if matches!(self.store.settings.durability, Durability::Journal | Durability::Fsync) {
            self.store.step(Step::SyncParent, Op::Sync { file: Rc::clone(at) }).await?;
        }
        self.open(Some(at), name, How::DirectoryBeneath).await
    }

    async fn root(&self, root: &Path) -> Result<Rc<Fd>, Fault> {
        if let Some(open) = self.store.root.borrow().as_ref() {
            return Ok(Rc::clone(open));
        }
        let path = c_path(&root.to_string_lossy())?;
        let op = Op::Open { at: None, path, how: How::DirectoryTrusted, identity: Identity::Server };
        let open = self.store.open(Step::OpenRoot, op).await?;
        *self.store.root.borrow_mut() = Some(Rc::clone(&open));
        Ok(open)
    }

    async fn open(&self, at: Option<&Rc<Fd>>, path: &str, how: How) -> Result<Rc<Fd>, Fault> {
        let op =
            Op::Open { at: at.map(Rc::clone), path: c_path(path)?, how, identity: self.identity.clone() };
        self.store.open(Step::OpenMailbox, op).await
    }
}

/// What is said where there is no such folder and can be none: a missing one, a file of that name, a name that is too
/// long for the file system.
const NO_FOLDER: [Errno; 3] = [Errno::NOENT, Errno::NOTDIR, Errno::NAMETOOLONG];

/// The part of `path` behind `root`, which must lead to it.
fn beneath<'p>(path: &'p str, root: &Path) -> Result<&'p str, Fault> {
    let outside = Fault { step: Step::OpenMailbox, errno: Errno::XDEV };
    let root = root.to_str().ok_or(outside)?.trim_end_matches('/');
    path.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')).ok_or(outside)
}

fn c_path(path: &str) -> Result<CString, Fault> {
    CString::new(path).map_err(|_| Fault { step: Step::OpenMailbox, errno: Errno::INVAL })
}
