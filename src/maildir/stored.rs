//! Files that stand in a mailbox already: found by name, read, removed.
//!
//! For recovery, which must know what is there before it writes. A reader may be at work meanwhile: a file
//! that is gone when it is looked for is nothing to be astonished at.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::rc::Rc;

use rustix::io::Errno;

use super::{Fault, Place, Step, Store};
use crate::ring::{Done, Fd, How, Identity, Op};

/// An open file of a mailbox.
#[derive(Debug)]
pub struct Stored {
    file: Rc<Fd>,
    pub(super) directory: Rc<Fd>,
    pub(super) name: CString,
    identity: Identity,
}

impl Stored {
    async fn open(
        store: &Store,
        place: &Place,
        directory: &Rc<Fd>,
        name: CString,
    ) -> Result<Option<Self>, Fault> {
        let (directory, identity) = (Rc::clone(directory), place.identity.clone());
        let (at, path, how) = (Some(Rc::clone(&directory)), name.clone(), How::ReadOnly);
        let op = Op::Open { at, path, how, identity: identity.clone() };
        match store.open(Step::OpenStored, op).await {
            Ok(file) => Ok(Some(Self { file, directory, name, identity })),
            Err(Fault { errno: Errno::NOENT, .. }) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Reads at `offset` into `buffer`, up to its length; 0 at the end of the file, and else maybe less than
    /// there is.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn read(&self, store: &Store, buffer: &mut Vec<u8>, offset: u64) -> Result<usize, Fault> {
        let op = Op::Read { file: Rc::clone(&self.file), buffer: std::mem::take(buffer), offset };
        let finished = store.exec.run(op).await;
        let Some(Op::Read { buffer: back, .. }) = finished.op else { unreachable!("it comes back") };
        *buffer = back;
        match finished.result {
            Ok(Done::Count(count)) => Ok(count),
            Ok(_) => unreachable!("a read gives a count"),
            Err(errno) => Err(Fault { step: Step::ReadStored, errno }),
        }
    }

    /// Removes the name. That it is gone already is as good.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn remove(&self, store: &Store) -> Result<(), Fault> {
        let (at, name) = (Rc::clone(&self.directory), self.name.clone());
        let op = Op::Unlink { at, name, identity: self.identity.clone() };
        match store.step(Step::Remove, op).await {
            Ok(_) | Err(Fault { errno: Errno::NOENT, .. }) => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}

/// What `new/` or `cur/` held when it was listed.
#[derive(Debug)]
pub struct Folder {
    /// `None` where there is no such directory.
    directory: Option<Rc<Fd>>,
    names: Vec<CString>,
}

impl Folder {
    /// Lists `new/` of the mailbox. Blocks the worker while the disk is read.
    ///
    /// # Errors
    /// The step that failed.
    pub fn new_of(store: &Store, place: &Place) -> Result<Self, Fault> {
        Self::list(store, Some(Rc::clone(&place.new)))
    }

    /// Lists `cur/` of the mailbox. Blocks the worker while the disk is read.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn cur_of(store: &Store, place: &Place) -> Result<Self, Fault> {
        let directory = match place.sibling(store, "cur").await {
            Err(Fault { step: Step::OpenMailbox, errno: Errno::NOENT }) => None,
            found => Some(found?),
        };
        Self::list(store, directory)
    }

    fn list(store: &Store, directory: Option<Rc<Fd>>) -> Result<Self, Fault> {
        let listed = directory.as_ref().map(|directory| store.exec.with_ring(|ring| ring.names(directory)));
        let listed = listed.transpose().map_err(|errno| Fault { step: Step::List, errno })?;
        let mut names = listed.unwrap_or_default();
        names.sort_unstable();
        Ok(Self { directory, names })
    }

    /// Opens the file that was called `name` in `new/`, with or without flags behind it by now. `None` if there
    /// was none, or it has gone since.
    ///
    /// # Errors
    /// The step that failed; `ELOOP` when it is a link, and reading says `EISDIR` of a directory.
    pub async fn open(&self, store: &Store, place: &Place, name: &str) -> Result<Option<Stored>, Fault> {
        match (&self.directory, self.find(name)) {
            (Some(directory), Some(found)) => Stored::open(store, place, directory, found.clone()).await,
            _ => Ok(None),
        }
    }

    /// Whether there was such a file.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&CString> {
        let at_or_after = |prefix: &[u8]| {
            let index = self.names.partition_point(|other| other.as_bytes() < prefix);
            self.names.get(index).filter(|found| found.as_bytes().starts_with(prefix))
        };
        let plain = at_or_after(name.as_bytes()).filter(|found| found.as_bytes() == name.as_bytes());
        plain.or_else(|| at_or_after(format!("{name}:").as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_with_and_without_flags_and_by_its_whole_name() {
        let mut names: Vec<CString> = ["1.a:2,S", "1.ab", "1.b,S=5", "1.b,S=5:2,", "1.c,W=1"]
            .iter()
            .map(|name| CString::new(*name).unwrap())
            .collect();
        names.sort_unstable();
        let cur = Folder { directory: None, names };
        let found = |name: &str| cur.find(name).map(|found| found.to_str().unwrap());
        assert_eq!(found("1.a"), Some("1.a:2,S"));
        assert_eq!(found("1.ab"), Some("1.ab"));
        assert_eq!(found("1.b,S=5"), Some("1.b,S=5"));
        assert_eq!((found("1.b"), found("1.c"), found(""), found("2")), (None, None, None, None));
    }
}
