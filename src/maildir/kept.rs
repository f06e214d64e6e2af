//! Directories `new/` that were opened a moment ago, for the next message to the same mailbox.
//!
//! Opening one walks its whole path and checks every step of it, which is a fifth of the server's time where the same
//! mailboxes get mail again and again. So the descriptor is kept for [`KEEP`], counted from its opening and not from
//! its last use: a mailbox that was moved away, replaced or closed to its owner is noticed after so long at the
//! latest, one that was removed at once. Who needs an unbroken order of the two (move a mailbox, deliver to what has
//! taken its place) stops deliveries anyway, as a message may always be on its way.
//!
//! Bounded in number and in time: what has expired is closed without waiting for more mail, so that an idle server
//! holds no mailbox open.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use crate::exec::Exec;
use crate::ring::{Fd, Owner, Time};

/// How long a directory is kept at most.
pub const KEEP: Duration = Duration::from_secs(1);

/// The directories that one worker keeps.
pub(super) struct Kept {
    exec: Rc<Exec>,
    most: usize,
    entries: RefCell<Entries>,
}

#[derive(Default)]
struct Entries {
    by_path: HashMap<Rc<str>, Entry>,
    /// In the order in which they expire. One that was replaced meanwhile is in it twice.
    order: VecDeque<(Time, Rc<str>)>,
    /// A task waits for the first one to expire.
    is_swept: bool,
}

struct Entry {
    new: Rc<Fd>,
    owner: Owner,
    expires_at: Time,
}

impl Kept {
    /// Keeps so many, none if that is 0.
    pub(super) fn new(exec: &Rc<Exec>, most: usize) -> Rc<Self> {
        Rc::new(Self { exec: Rc::clone(exec), most, entries: RefCell::default() })
    }

    /// The directory `new/` that was opened at `path` for `owner`, if it is still good.
    pub(super) fn get(&self, path: &str, owner: Owner) -> Option<Rc<Fd>> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.by_path.get(path)?;
        let is_good = entry.owner == owner
            && entry.expires_at > self.exec.now()
            && self.exec.with_ring(|ring| ring.is_removed(&entry.new)) == Ok(false);
        if !is_good {
            entries.by_path.remove(path);
            return None;
        }
        Some(Rc::clone(&entry.new))
    }

    /// Keeps `new`, which was just opened.
    pub(super) fn keep(self: &Rc<Self>, path: &str, owner: Owner, new: &Rc<Fd>) {
        if self.most == 0 {
            return;
        }
        let mut entries = self.entries.borrow_mut();
        if entries.order.len() >= self.most {
            entries.forget_first();
        }
        let (path, expires_at): (Rc<str>, _) = (path.into(), self.exec.now().after(KEEP));
        entries.by_path.insert(Rc::clone(&path), Entry { new: Rc::clone(new), owner, expires_at });
        entries.order.push_back((expires_at, path));
        if !std::mem::replace(&mut entries.is_swept, true) {
            self.exec.spawn(Rc::clone(self).sweep());
        }
    }

    /// Closes what has expired, until there is nothing left.
    async fn sweep(self: Rc<Self>) {
        loop {
            let next = {
                let mut entries = self.entries.borrow_mut();
                while entries.order.front().is_some_and(|(at, _)| *at <= self.exec.now()) {
                    entries.forget_first();
                }
                let next = entries.order.front().map(|(at, _)| *at);
                entries.is_swept = next.is_some();
                next
            };
            let Some(at) = next else { return };
            self.exec.sleep_until(at).await;
        }
    }
}

impl Entries {
    fn forget_first(&mut self) {
        let Some((at, path)) = self.order.pop_front() else { return };
        if self.by_path.get(&path).is_some_and(|entry| entry.expires_at == at) {
            self.by_path.remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::sim::{Sim, World};
    use crate::ring::{Done, How, Identity, Op};

    const OWNER: Owner = Owner::Server;

    /// An executor, and directories that were opened on it.
    fn opened(paths: [&'static str; 3]) -> (Rc<Exec>, Vec<Rc<Fd>>) {
        let world = World::new(1);
        let exec = Exec::new(Box::new(Sim::new(&world).unwrap()));
        let open = |path: &str| {
            world.make_directory(path);
            let path = std::ffi::CString::new(path).unwrap();
            let op = Op::Open { at: None, path, how: How::Directory, identity: Identity::Server };
            let running = Rc::clone(&exec);
            let Done::Opened(fd) =
                exec.complete(async move { running.run(op).await.result }).unwrap().unwrap()
            else {
                panic!("an open gives a descriptor")
            };
            fd
        };
        let directories = paths.map(open).to_vec();
        (exec, directories)
    }

    fn sleep(exec: &Rc<Exec>, time: Duration) {
        let (sleeper, at) = (Rc::clone(exec), exec.now().after(time));
        exec.complete(async move { sleeper.sleep_until(at).await }).unwrap();
    }

    #[test]
    fn a_directory_is_kept_for_its_owner_and_until_it_expires() {
        let (exec, directories) = opened(["/a", "/b", "/c"]);
        let kept = Kept::new(&exec, 8);
        kept.keep("/a", OWNER, &directories[0]);
        sleep(&exec, KEEP / 2);
        assert!(Rc::ptr_eq(&kept.get("/a", OWNER).unwrap(), &directories[0]));
        kept.keep("/b", OWNER, &directories[1]);
        assert!(kept.get("/b", Owner::User { uid: 7, gid: 7 }).is_none());
        sleep(&exec, KEEP / 2);
        assert!(kept.get("/a", OWNER).is_none(), "using it does not prolong it");
    }

    #[test]
    fn an_idle_server_keeps_nothing_open() {
        let (exec, directories) = opened(["/a", "/b", "/c"]);
        let kept = Kept::new(&exec, 8);
        for (path, directory) in ["/a", "/b", "/c"].into_iter().zip(&directories) {
            kept.keep(path, OWNER, directory);
            sleep(&exec, KEEP / 4);
        }
        sleep(&exec, KEEP);
        assert!(directories.iter().all(|directory| Rc::strong_count(directory) == 1));
        assert!(!kept.entries.borrow().is_swept);
        kept.keep("/a", OWNER, &directories[0]);
        sleep(&exec, KEEP);
        assert_eq!(Rc::strong_count(&directories[0]), 1, "it is swept again");
    }

    #[test]
    fn no_more_are_kept_than_asked_for() {
        let (exec, directories) = opened(["/a", "/b", "/c"]);
        let kept = Kept::new(&exec, 2);
        for (path, directory) in ["/a", "/b", "/c"].into_iter().zip(&directories) {
            kept.keep(path, OWNER, directory);
        }
        let found = ["/a", "/b", "/c"].map(|path| kept.get(path, OWNER).is_some());
        assert_eq!(found, [false, true, true]);
        let none = Kept::new(&exec, 0);
        none.keep("/a", OWNER, &directories[0]);
        assert!(none.get("/a", OWNER).is_none());
    }
}
