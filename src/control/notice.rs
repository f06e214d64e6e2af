//! Noticing that a path leads to another file.
//!
//! Owns an inotify instance that watches every directory on the way to the file, each for the one name that matters
//! in it. So it notices a file that was renamed or linked over the old one, a symbolic link or a directory on
//! the way that was exchanged, and a file that was written in place and closed. Never opens the file, and never
//! decides whether it is another one.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// A watched path.
pub(super) struct Notice {
    path: PathBuf,
    inotify: OwnedFd,
    /// Which names matter in which directory.
    names: HashMap<i32, HashSet<OsString>>,
}

impl Notice {
    /// Watches `path` as it leads now. Who looks at the file afterwards misses no change.
    ///
    /// # Errors
    /// There is no descriptor, no memory or no watch left (fs.inotify in sysctl), or the last directory that
    /// there is cannot be read. Those above it are watched if they can be.
    pub(super) fn of(path: &Path) -> Result<Self, Errno> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut notice = Self { path: path.to_owned(), inotify, names: HashMap::new() };
        notice.follow()?;
        Ok(notice)
    }

    /// Whether something has happened since the last call that may lead to another file. Then the way is watched
    /// as it leads now.
    ///
    /// # Errors
    /// As [`Notice::of`].
    pub(super) fn has_changed(&mut self) -> Result<bool, Errno> {
        if !self.read()? {
            return Ok(false);
        }
        self.follow()?;
        Ok(true)
    }

    /// Watches the way as it leads now, and what it has left no longer. The instance stays: closing one makes the
    /// kernel wait for its readers, which takes long on a busy machine.
    fn follow(&mut self) -> Result<(), Errno> {
        let steps = steps(&self.path);
        let mut names: HashMap<i32, HashSet<OsString>> = HashMap::new();
        let mut watched = Err(Errno::NOENT);
        for (number, (directory, name)) in steps.iter().enumerate() {
            let is_last = number + 1 == steps.len();
            let events = if is_last { ARRIVALS | WatchFlags::CLOSE_WRITE } else { ARRIVALS };
            // The same directory may be come by twice: events and names add up.
            match inotify::add_watch(&self.inotify, directory, events | WatchFlags::MASK_ADD) {
                Ok(watch) => {
                    names.entry(watch).or_default().insert(name.clone());
                    watched = Ok(());
                }
                // What is not there yet is noticed in the directory above it.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => watched = Err(errno),
            }
        }
        for (left, _) in self.names.iter().filter(|(watch, _)| !names.contains_key(watch)) {
            // A directory that is gone has taken its watch with it.
            let _ = inotify::remove_watch(&self.inotify, *left);
        }
        self.names = names;
        watched
    }

    fn read(&self) -> Result<bool, Errno> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.inotify, &mut buffer);
        let mut changed = false;
        loop {
            match events.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    let matters = |names: &HashSet<OsString>| name.is_some_and(|name| names.contains(name));
                    // Of events that were lost anything may be true.
                    changed |= event.events().contains(ReadFlags::QUEUE_OVERFLOW)
                        || self.names.get(&event.wd()).is_some_and(matters);
                }
                Err(Errno::AGAIN) => return Ok(changed),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl AsFd for Notice {
    /// Readable when something has happened.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// The look-ups that the kernel does to resolve `path`, which is absolute: each name with the directory, free of
/// links, that it is looked up in.
fn steps(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut directory = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = parts(path).collect();
    let mut steps = Vec::new();
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            directory.pop();
            continue;
        }
        let here = directory.join(&name);
        steps.push((directory.clone(), name));
        match std::fs::read_link(&here) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                if target.is_absolute() {
                    directory = PathBuf::from("/");
                }
                parts(&target).rev().for_each(|part| rest.push_front(part));
            }
            Ok(_) => break,
            Err(_) => directory = here,
        }
    }
    steps
}

fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir)).map(|part| {
        let name: &OsStr = part.as_os_str();
        name.to_owned()
    })
}

/// How a name comes to mean another file. The last one may also be written in place.
const ARRIVALS: WatchFlags = WatchFlags::MOVED_TO.union(WatchFlags::CREATE).union(WatchFlags::ONLYDIR);

/// As many links the kernel follows (path_resolution(7)).
const LINKS_MAX: u32 = 40;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn notice(path: &Path) -> Notice {
        let mut notice = Notice::of(path).unwrap();
        assert_eq!(notice.has_changed(), Ok(false));
        notice
    }

    #[test]
    fn a_file_that_takes_the_name_is_noticed_and_its_neighbours_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let (table, other) = (directory.path().join("table"), directory.path().join("other"));
        fs::write(&table, "1").unwrap();
        let mut notice = notice(&table);
        fs::write(&other, "2").unwrap();
        assert_eq!(notice.has_changed(), Ok(false), "a neighbour");
        fs::rename(&other, &table).unwrap();
        assert_eq!(notice.has_changed(), Ok(true), "renamed");
        assert_eq!(notice.has_changed(), Ok(false), "told once");
        fs::write(&table, "3").unwrap();
        assert_eq!(notice.has_changed(), Ok(true), "written in place");
        fs::remove_file(&table).unwrap();
        assert_eq!(notice.has_changed(), Ok(false), "nothing to load");
        fs::write(&other, "4").unwrap();
        fs::hard_link(&other, &table).unwrap();
        assert_eq!(notice.has_changed(), Ok(true), "linked");
    }

    #[test]
    fn links_and_directories_on_the_way_may_be_exchanged() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        for version in ["v1", "v2"] {
            fs::create_dir(at.join(version)).unwrap();
            fs::write(at.join(version).join("table"), version).unwrap();
        }
        symlink("v1", at.join("current")).unwrap();
        let outer = tempfile::tempdir().unwrap();
        symlink(at, outer.path().join("at")).unwrap();
        symlink(outer.path().join("at/v1/../current/table"), at.join("table")).unwrap();
        let mut notice = notice(&at.join("table"));

        symlink("v2", at.join("next")).unwrap();
        fs::rename(at.join("next"), at.join("current")).unwrap();
        assert_eq!(notice.has_changed(), Ok(true), "another link");
        fs::write(at.join("v1/table"), "again").unwrap();
        assert_eq!(notice.has_changed(), Ok(false), "the way leads there no longer");
        fs::write(at.join("v2/table"), "again").unwrap();
        assert_eq!(notice.has_changed(), Ok(true), "it leads here");
        fs::rename(at.join("v2"), at.join("old")).unwrap();
        fs::rename(at.join("v1"), at.join("v2")).unwrap();
        assert_eq!(notice.has_changed(), Ok(true), "another directory");
    }

    #[test]
    fn what_is_not_there_yet_is_noticed_when_it_comes() {
        let directory = tempfile::tempdir().unwrap();
        let table = directory.path().join("a/b/table");
        let mut notice = notice(&table);
        fs::create_dir_all(table.parent().unwrap()).unwrap();
        assert_eq!(notice.has_changed(), Ok(true));
        fs::write(&table, "").unwrap();
        assert_eq!(notice.has_changed(), Ok(true));
    }

    #[test]
    fn links_in_a_circle_come_to_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let table = directory.path().join("table");
        symlink("table", &table).unwrap();
        let mut notice = notice(&table);
        fs::remove_file(&table).unwrap();
        fs::write(&table, "").unwrap();
        assert_eq!(notice.has_changed(), Ok(true));
    }
}
