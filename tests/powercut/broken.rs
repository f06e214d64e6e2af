//! A file system that fails at one step of a delivery: that recipient is put off, his neighbours are not, and when the
//! fault has ended so has the trouble.

use std::fs;
use std::path::PathBuf;

use crate::client::{Client, message};
use crate::ground::{Ground, own_directory, owner};
use crate::memory::{Fault, Memory, Step};
use crate::mount::in_namespace;
use crate::process::Process;
use crate::rig::Mode;
use crate::settings;

#[test]
fn a_step_that_fails_once_puts_off_one_recipient_and_no_neighbour() {
    in_namespace("broken::a_step_that_fails_once_puts_off_one_recipient_and_no_neighbour", &[], || {
        for (mode, moves) in ways() {
            let mut place = Place::new(mode, moves);
            place.deliver([2, 1]);
            for step in steps_of(mode) {
                for after in 0..2 {
                    place.memory.fail(Some(Fault { step, after, lasting: false }));
                    // One of the two, whoever came second or first.
                    place.deliver([1, 1]);
                    place.deliver([2, 1]);
                }
            }
            place.end();
        }
    });
}

#[test]
fn a_step_that_fails_for_a_while_puts_off_everybody_there_and_nobody_elsewhere() {
    in_namespace(
        "broken::a_step_that_fails_for_a_while_puts_off_everybody_there_and_nobody_elsewhere",
        &[],
        || {
            for (mode, moves) in ways() {
                let mut place = Place::new(mode, moves);
                // With nothing there, with a new Maildir, and with one in use.
                for step in [&[Step::MakeDirectory], &steps_of(mode)[..]].concat() {
                    place.memory.fail(Some(Fault { step, after: 0, lasting: true }));
                    place.deliver([0, 1]);
                    place.deliver([0, 1]);
                    place.memory.fail(None);
                    place.deliver([2, 1]);
                }
                place.end();
            }
        },
    );
}

#[test]
fn a_directory_that_cannot_be_made_is_made_for_the_next_message() {
    in_namespace("broken::a_directory_that_cannot_be_made_is_made_for_the_next_message", &[], || {
        // The Maildir, and those in it.
        for after in 0..3 {
            let mut place = Place::new(Mode::Fsync, true);
            place.memory.fail(Some(Fault { step: Step::MakeDirectory, after, lasting: true }));
            place.deliver([0, 1]);
            place.memory.fail(None);
            place.deliver([2, 1]);
            place.end();
        }
    });
}

/// With a rename that replaces nothing, and with links instead.
fn ways() -> Vec<(Mode, bool)> {
    settings::modes().into_iter().flat_map(|mode| [(mode, true), (mode, false)]).collect()
}

/// What a delivery into an existing Maildir does there. syncfs(2) does not arrive at a FUSE file system.
fn steps_of(mode: Mode) -> Vec<Step> {
    match mode {
        Mode::Fsync => vec![Step::Create, Step::Write, Step::SyncFile, Step::Name, Step::SyncDirectory],
        _ => vec![Step::Create, Step::Write, Step::Name],
    }
}

/// Two users on the file system that fails, and one elsewhere.
struct Place {
    what: String,
    client: Client,
    maildirs: [PathBuf; 3],
    /// How many messages each has been told that he has: the first two together.
    saved: [usize; 2],
    count: usize,
    // Ended in this order.
    server: Process,
    memory: Memory,
    _ground: Ground,
}

impl Place {
    fn new(mode: Mode, moves: bool) -> Self {
        let ground = Ground::new();
        let memory = Memory::mount(&ground.path("disk"), moves);
        let far = |name: &str, id: Option<u32>| {
            let home = ground.path("disk").join(name);
            own_directory(&home, id);
            ground.add(name, &home, id);
            home.join("Maildir")
        };
        let maildirs = [far("left", owner(0)), far("right", owner(1)), ground.user("near", owner(2))];
        let server = Process::start(&ground, &mode.configuration(), &[]);
        let client = Client::greeted(&server.socket);
        let what = format!("{} with {}", mode.name(), if moves { "renames" } else { "links" });
        Self { what, client, maildirs, saved: [0, 0], count: 0, server, memory, _ground: ground }
    }

    /// Sends a message to all three: so many of the two on the failing file system have it, and so many elsewhere.
    #[track_caller]
    fn deliver(&mut self, expected: [usize; 2]) {
        self.count += 1;
        // Short, so that it is written with one call.
        let text = message(&format!("message {}", self.count), 500);
        let replies = self.client.deliver(&["left", "near", "right"], &text);
        let saved = |index: usize| {
            let good = replies[index].starts_with("250 2.0.0");
            assert!(good || replies[index].starts_with("451 4.3.0"), "{}: {replies:?}", self.what);
            usize::from(good)
        };
        let told = [saved(0) + saved(2), saved(1)];
        assert_eq!(told, expected, "{}, message {}: {replies:?}", self.what, self.count);
        self.saved = [self.saved[0] + told[0], self.saved[1] + told[1]];
    }

    /// Every 250 is a file, whole, nothing else is there, and nothing is left in `tmp/`.
    fn end(self) {
        let Self { what, client, maildirs, saved, mut server, .. } = self;
        client.quit();
        server.terminate();
        assert!(server.ended().success(), "{what}: it ends well");
        let count = |maildir: &PathBuf, folder: &str| {
            let entries = fs::read_dir(maildir.join(folder)).into_iter().flatten();
            let whole = |path: PathBuf| {
                let text = fs::read_to_string(path).expect("a message");
                text.contains("Subject: message ") && text.ends_with("goes on to about sixty bytes\r\n")
            };
            entries.filter(|entry| whole(entry.as_ref().expect("an entry").path())).count()
        };
        let [left, right, near] = &maildirs;
        assert_eq!([count(left, "new") + count(right, "new"), count(near, "new")], saved, "{what}");
        let entries = |maildir: &PathBuf| fs::read_dir(maildir.join("tmp")).map_or(0, Iterator::count);
        let litter: usize = maildirs.iter().map(entries).sum();
        assert_eq!(litter, 0, "{what}: litter in tmp/");
    }
}
