//! Disks that answer EIO: whoever is not affected is served, whoever was told 250 has it, and when the fault has ended
//! so has the trouble.

use crate::client::{Client, assert_starts, message};
use crate::cut::{Cut, Replay};
use crate::device::Faults;
use crate::filesystem::FileSystem;
use crate::ground::owner;
use crate::load::{self, Reply};
use crate::mount::in_namespace;
use crate::oracle::{Inventory, Verdict};
use crate::random::Random;
use crate::rig::{Layout, Mode, Rig};
use crate::settings;

#[test]
fn a_disk_that_fails_at_any_write_or_flush_takes_nothing_that_was_acknowledged() {
    let test = "failing::a_disk_that_fails_at_any_write_or_flush_takes_nothing_that_was_acknowledged";
    in_namespace(test, &FileSystem::ALL.map(FileSystem::maker), || {
        let seed = settings::seed();
        println!("seed {seed} (repeat with {}={seed})", settings::SEED);
        let mut random = Random::new(seed);
        for file_system in FileSystem::ALL {
            let rig = Rig::new(file_system, Layout::OneDisk, USERS);
            for mode in settings::modes() {
                for _ in 0..FAULTS {
                    let after = u32::try_from(random.below(12)).expect("a few");
                    faults(after).iter().for_each(|faults| {
                        survive(&rig, mode, faults, &mut random);
                    });
                }
            }
        }
    });
}

/// The ways in which a disk fails.
fn faults(after: u32) -> [Faults; 3] {
    [
        Faults { dies_after: Some(3 * after), ..Faults::default() },
        Faults { after_writes: Some(3 * after), ..Faults::default() },
        Faults { after_flushes: Some(after), ..Faults::default() },
    ]
}

/// Fails if anything is wrong.
#[track_caller]
fn accept(rig: &Rig, mode: Mode, verdict: &Verdict, when: &str) {
    let (name, wrong) = (rig.file_system.name(), &verdict.findings);
    assert!(wrong.is_empty(), "{name}, {}, {when}: {wrong:?}", mode.name());
}

/// A run in which the disk fails; then the power fails, a sound disk has what the failed one had, and all goes on.
fn survive(rig: &Rig, mode: Mode, faults: &Faults, random: &mut Random) {
    let letters = load::letters(0, LETTERS, USERS, random);
    let recording = rig.record(mode, SESSIONS, &letters, faults);
    let refused: Vec<&String> = recording
        .answers
        .iter()
        .filter_map(|answer| match &answer.reply {
            Reply::Refused(text) => Some(text),
            Reply::Saved(_) => None,
            Reply::None => panic!("{faults:?}: a server that hangs up"),
        })
        .collect();
    assert!(!refused.is_empty(), "{faults:?}: nobody was put off, so nothing has failed");
    refused.iter().for_each(|reply| assert_starts(reply, "451 4.3."));
    let mut answers = recording.answers.clone();
    let mut replay = Replay::new(&rig.base, &recording.entries);
    let (_, end) = recording.span;
    for cut in Cut::extremes(end) {
        let verdict = rig.examine(&replay.after(&cut), mode, &answers, end).expect("a mount");
        accept(rig, mode, &verdict, &format!("{faults:?}, {cut}"));
    }

    let [nothing, _] = Cut::extremes(end);
    let _mounted = rig.restore(&replay.after(&nothing), mode).expect("a mount");
    let server = rig.serve(mode);
    let later = load::send(&server.socket, SESSIONS, &load::letters(1, 6, USERS, random), || end);
    assert!(
        later.iter().all(|answer| matches!(answer.reply, Reply::Saved(_))),
        "the fault is over: {later:?}"
    );
    answers.extend(later);
    let verdict = Inventory::take(&rig.maildirs).judge(&answers, end);
    accept(rig, mode, &verdict, &format!("{faults:?}, afterwards"));
}

#[test]
fn bytes_that_the_disk_refuses_put_off_their_own_recipient_only() {
    let test = "failing::bytes_that_the_disk_refuses_put_off_their_own_recipient_only";
    in_namespace(test, &FileSystem::ALL.map(FileSystem::maker), || {
        for file_system in FileSystem::ALL {
            for mode in [Mode::Group, Mode::Fsync] {
                refuse_bytes(file_system, mode);
            }
        }
    });
}

fn refuse_bytes(file_system: FileSystem, mode: Mode) {
    let rig = Rig::new(file_system, Layout::OneDisk, 2);
    rig.ground.add("near", &rig.ground.directory_of("near", owner(9)), owner(9));
    let devices = rig.devices(&rig.base, &std::sync::Arc::default());
    let _mounted = rig.mount(&[devices[0].file()]).expect("a new file system");
    let server = rig.serve(mode);
    let mut client = Client::greeted(&server.socket);
    // Long enough for a block of its own: btrfs keeps short files in its metadata.
    let (clean, poisoned) = (message("clean", 20_000), message("POISON", 20_000));
    let mut deliver = |to: &[&str], text: &[u8], expected: &[&str]| {
        let replies = client.deliver(to, text);
        for (reply, expected) in replies.iter().zip(expected) {
            assert!(reply.starts_with(expected), "{} {mode:?}: {replies:?}", file_system.name());
        }
    };
    deliver(&["user0", "near"], &clean, &["250", "250"]);
    devices[0].fail(Faults { poison: Some(b"POISON"), ..Faults::default() });
    deliver(&["user0", "near"], &poisoned, &["451 4.3.0", "250"]);
    deliver(&["near", "user1"], &poisoned, &["250", "451 4.3.0"]);
    // The same disk takes everything else, from the same user too.
    deliver(&["user0", "user1", "near"], &clean, &["250", "250", "250"]);
    devices[0].fail(Faults::default());
    deliver(&["user0", "user1", "near"], &poisoned, &["250", "250", "250"]);
    client.quit();
    drop(server);
    assert_eq!(counts(&rig), [3, 2], "{} {mode:?}: a file for each 250", file_system.name());
}

/// How many files each user has.
fn counts(rig: &Rig) -> Vec<usize> {
    let count =
        |maildir: &std::path::PathBuf| std::fs::read_dir(maildir.join("new")).map_or(0, Iterator::count);
    rig.maildirs.iter().map(count).collect()
}

const USERS: usize = 8;
const SESSIONS: usize = 6;
const LETTERS: u64 = 80;

/// Faults for each mode and kind. They come early, so that there is always mail left for them.
const FAULTS: usize = 2;
