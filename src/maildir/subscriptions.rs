//! The list of folders that a reader shows its user: the file `subscriptions` of a Maildir, in Dovecot's format.
//!
//! Promises to leave every byte that is there as it is: a line is added by one write behind the end, or not at
//! all. Whatever goes wrong, the folder has its mail; that it is not listed is nothing to fail a delivery for.
//!
//! ```text
//! written by Dovecot 2.3 since 2.3.0      before, and by others
//!   V<TAB>2                               lists
//!                                         lists.rust
//!   lists                                 B&APw-cher
//!   lists<TAB>rust
//!   B&APw-cher
//! ```
//!
//! Names are in modified UTF-7 in both. A file that has no such first line, and be it empty, is of the older kind.
//! Dovecot itself replaces the file by a whole one, under a lock of its own. A line that is added in that
//! moment is lost.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::rc::Rc;

use rustix::io::Errno;

use super::{Durability, Fault, Step, Store};
use crate::ring::{Done, Fd, How, Identity, Op};

/// Adds `folder` (its directory) to the list of the open Maildir, if it is not there yet.
pub(super) async fn subscribe(store: &Store, maildir: &Rc<Fd>, identity: &Identity, folder: &str) {
    let list = List { store, maildir, identity };
    // Lost with it is a line in a list.
    let _ = list.add(folder).await;
}

struct List<'l> {
    store: &'l Store,
    maildir: &'l Rc<Fd>,
    identity: &'l Identity,
}

impl List<'_> {
    async fn add(&self, folder: &str) -> Result<(), Fault> {
        match self.open(How::Append).await {
            Err(Fault { errno: Errno::NOENT, .. }) => match self.begin(folder).await {
                // Somebody was quicker.
                Err(Fault { errno: Errno::EXIST, .. }) => {
                    let file = self.open(How::Append).await?;
                    self.add_to(&file, folder).await
                }
                begun => begun,
            },
            opened => self.add_to(&opened?, folder).await,
        }
    }

    async fn open(&self, how: How) -> Result<Rc<Fd>, Fault> {
        let path = if how == How::Unnamed { c"." } else { FILE };
        let (at, path) = (Some(Rc::clone(self.maildir)), path.to_owned());
        let op = Op::Open { at, path, how, identity: self.identity.clone() };
        self.store.open(Step::OpenStored, op).await
    }

    /// Makes a new list, which gets its name when it is whole: who found it empty would add to a list of the older kind,
    /// and be written over.
    async fn begin(&self, folder: &str) -> Result<(), Fault> {
        let text = [VERSION_2, &line(folder, true)].concat();
        match self.open(How::Unnamed).await {
            // Without such files, that may happen.
            Err(Fault { errno: Errno::OPNOTSUPP | Errno::ISDIR, .. }) => {
                self.write_new(&self.open(How::New).await?, text).await?;
            }
            opened => {
                let file = opened?;
                self.write_new(&file, text).await?;
                let (into, identity) = (Rc::clone(self.maildir), self.identity.clone());
                let op = Op::Link { file, into, name: FILE.to_owned(), identity };
                self.store.step(Step::Publish, op).await?;
            }
        }
        self.settle(self.maildir).await
    }

    async fn write_new(&self, file: &Rc<Fd>, text: Vec<u8>) -> Result<(), Fault> {
        self.store.write(file, 0, text, &Rc::default()).await?;
        self.settle(file).await
    }

    async fn add_to(&self, file: &Rc<Fd>, folder: &str) -> Result<(), Fault> {
        let Some(list) = self.read(file).await? else { return Ok(()) };
        let Some(text) = addition(&list, folder) else { return Ok(()) };
        self.store.write(file, list.len() as u64, text, &Rc::default()).await?;
        self.settle(file).await
    }

    /// The whole list; nothing if it is too long to be one.
    async fn read(&self, file: &Rc<Fd>) -> Result<Option<Vec<u8>>, Fault> {
        let mut list = Vec::new();
        let mut buffer = vec![0; READ_BYTES];
        while list.len() <= LIST_BYTES_MAX {
            let op = Op::Read { file: Rc::clone(file), buffer, offset: list.len() as u64 };
            let finished = self.store.exec.run(op).await;
            let Some(Op::Read { buffer: back, .. }) = finished.op else { unreachable!("it comes back") };
            match finished.result {
                Ok(Done::Count(0)) => return Ok(Some(list)),
                Ok(Done::Count(count)) => list.extend_from_slice(&back[..count]),
                Ok(_) => unreachable!("a read gives a count"),
                Err(errno) => return Err(Fault { step: Step::ReadStored, errno }),
            }
            buffer = back;
        }
        Ok(None)
    }

    /// In the modes in which a new directory is synced, the list that names it is too.
    async fn settle(&self, file: &Rc<Fd>) -> Result<(), Fault> {
        if matches!(self.store.settings.durability, Durability::Journal | Durability::Fsync) {
            self.store.step(Step::SyncBytes, Op::Sync { file: Rc::clone(file) }).await?;
        }
        Ok(())
    }
}

/// What is to be written behind `list` so that it names `folder`; nothing if it does, or if it is of a kind that nobody
/// knows yet.
fn addition(list: &[u8], folder: &str) -> Option<Vec<u8>> {
    let has_version = list.starts_with(b"V\t");
    if has_version && !list.starts_with(VERSION_2) {
        return None;
    }
    let line = line(folder, has_version);
    let whole = line.strip_suffix(b"\n").expect("a line has an end");
    if list.split(|&byte| byte == b'\n').any(|other| other == whole) {
        return None;
    }
    // Whoever wrote the last line without its end shall not have it joined with ours.
    let is_ended = list.is_empty() || list.ends_with(b"\n");
    Some(if is_ended { line } else { [b"\n", line.as_slice()].concat() })
}

/// The line for a folder. Its directory has a dot before each level.
fn line(folder: &str, has_version: bool) -> Vec<u8> {
    let name = folder.strip_prefix('.').unwrap_or(folder);
    let name = if has_version { name.replace('.', "\t") } else { name.to_owned() };
    format!("{name}\n").into_bytes()
}

const FILE: &CStr = c"subscriptions";
/// How a list with a version begins.
const VERSION_2: &[u8] = b"V\t2\n\n";
/// Longest list that is read.
const LIST_BYTES_MAX: usize = 1 << 20;
/// How much of it at once.
const READ_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn added(list: &str, folder: &str) -> Option<String> {
        let text = addition(list.as_bytes(), folder)?;
        Some(String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_folder_is_added_in_the_format_that_is_there() {
        for (list, folder, expected) in [
            ("V\t2\n\n", ".lists.rust", Some("lists\trust\n")),
            ("V\t2\n\nlists\n", ".lists.rust", Some("lists\trust\n")),
            ("V\t2\n\nlists\n", ".B&APw-cher", Some("B&APw-cher\n")),
            ("V\t2\n\nlists\ncut off", ".a", Some("\na\n")),
            ("INBOX\nlists\n", ".lists.rust", Some("lists.rust\n")),
            ("INBOX\ncut off", ".a", Some("\na\n")),
            ("", ".a.b", Some("a.b\n")),
        ] {
            assert_eq!(added(list, folder).as_deref(), expected, "{list:?} {folder}");
        }
    }

    #[test]
    fn a_folder_that_is_listed_is_not_added_again() {
        for (list, folder) in [
            ("V\t2\n\nlists\nlists\trust\n", ".lists.rust"),
            ("V\t2\n\nlists", ".lists"),
            ("lists\nlists.rust\n", ".lists.rust"),
            ("a", ".a"),
        ] {
            assert_eq!(added(list, folder), None, "{list:?} {folder}");
        }
        // Another folder's name is not this one's.
        assert!(added("V\t2\n\nlists\trust\tx\n", ".lists.rust").is_some());
        assert!(added("xlists\n", ".lists").is_some());
    }

    #[test]
    fn a_list_of_a_later_kind_is_left_alone() {
        assert_eq!(added("V\t3\n\nlists\n", ".a"), None);
        assert_eq!(added("V\t2", ".a"), None);
    }
}
