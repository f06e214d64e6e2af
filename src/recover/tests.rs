//! Recovery on the simulated ring: what is there before, what is there afterwards.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use rustix::io::Errno;

use super::*;
use crate::exec::Exec;
use crate::journal::format::{BLOCK_BYTES, SEGMENT_BYTES_MIN, checksum};
use crate::journal::{Recipient, RecordHead, SegmentHeader};
use crate::maildir::{Durability, NameMaker, Settings};
use crate::ring::sim::{Device, Fault, OpKind, Sim, World};
use crate::ring::{Identity, Op, Owner};

const SEGMENT: &str = "0-0.segment";
/// The boot that wrote the journal, and the one after the power cut.
const BEFORE: Boot = Boot([1; 16]);
const AFTER: Boot = Boot([2; 16]);

/// One file that the journal promises.
#[derive(Clone, Debug)]
struct Promise {
    path: String,
    name: String,
    trace: Vec<u8>,
    payload: Vec<u8>,
}

impl Promise {
    fn bytes(&self) -> Vec<u8> {
        [&self.trace[..], &self.payload].concat()
    }

    fn in_new(&self) -> String {
        format!("{}/new/{}", self.path, self.name)
    }
}

/// `messages` for so many recipients each, of whom the first of all share one mailbox.
fn promises(messages: usize, recipients: usize) -> Vec<Vec<Promise>> {
    let promise = |message: usize, recipient: usize| Promise {
        path: if recipient == 0 { "/mail/shared".into() } else { format!("/mail/u{recipient}") },
        name: format!("17{message}.M{recipient}P1Q2W0.mx,S=1,W=1"),
        trace: format!("Delivered-To: u{recipient}\r\n").into_bytes(),
        payload: format!("message {message}\r\n").repeat(1 + message * 40).into_bytes(),
    };
    (0..messages).map(|message| (0..recipients).map(|one| promise(message, one)).collect()).collect()
}

fn owner(path: &str) -> Owner {
    if path.ends_with('1') { Owner::User { uid: 1001, gid: 100 } } else { Owner::Server }
}

fn segment(messages: &[Vec<Promise>]) -> Vec<u8> {
    let header = SegmentHeader::new(SEGMENT_BYTES_MIN, 0, 42, BEFORE);
    let mut bytes = header.encode().to_vec();
    bytes.resize(BLOCK_BYTES, 0);
    for (sequence, message) in messages.iter().enumerate() {
        let recipients = message.iter().map(|one| Recipient {
            owner: owner(&one.path),
            home: None,
            path: &one.path,
            name: &one.name,
            trace: &one.trace,
        });
        let payload = &message[0].payload;
        let mut head = RecordHead::new(recipients, payload.len() as u64, checksum([&payload[..]])).unwrap();
        head.seal(header.key, sequence as u64, true);
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    }
    bytes.resize(usize::try_from(SEGMENT_BYTES_MIN).unwrap(), 0);
    bytes
}

/// A world with a journal that promises `messages`, and their mailboxes, empty.
fn world(seed: u64, messages: &[Vec<Promise>]) -> World {
    let world = World::new(seed);
    world.make_directory("/journal");
    world.write_file(&format!("/journal/{SEGMENT}"), &segment(messages));
    for promise in messages.iter().flatten() {
        for sub in ["tmp", "new", "cur"] {
            world.make_directory(&format!("{}/{sub}", promise.path));
        }
    }
    world
}

fn settings() -> Settings {
    Settings {
        durability: Durability::None,
        create: true,
        create_folder: false,
        root: None,
        host: "mx".into(),
        open_files_max: 100,
        kept_directories_max: 0,
    }
}

/// Recovers for so many turns of the executor; the report if it came to an end.
fn recover_for(world: &World, boot: Boot, dry_run: bool, turns: usize) -> Option<Report> {
    recover_with(settings(), world, boot, dry_run, turns)
}

fn recover_with(
    settings: Settings,
    world: &World,
    boot: Boot,
    dry_run: bool,
    turns: usize,
) -> Option<Report> {
    let exec = Exec::new(Box::new(Sim::new(world).unwrap()));
    let store = Store::new(Rc::clone(&exec), settings, NameMaker::new("mx", 1, 0, 0));
    let report = Rc::new(RefCell::new(None));
    let result = Rc::clone(&report);
    exec.spawn(async move {
        let exec = Rc::clone(store.exec());
        let how = How::DirectoryTrusted;
        let op = Op::Open { at: None, path: c"/journal".to_owned(), how, identity: Identity::Server };
        let crate::ring::Done::Opened(directory) = exec.run(op).await.result.unwrap() else { panic!() };
        let bytes = Cell::new(0);
        let progress = |more| bytes.set(bytes.get() + more);
        let options = Options { dry_run, boot, progress: &progress };
        let done = recover(&store, &directory, options).await.unwrap();
        let whole = done.segments.iter().filter(|one| one.mail.is_some()).count() as u64;
        assert_eq!(bytes.get(), whole * SEGMENT_BYTES_MIN, "all bytes are reported");
        *result.borrow_mut() = Some(done);
    });
    let mut turn = 0;
    exec.run_until(|| {
        turn += 1;
        turn > turns || report.borrow().is_some()
    })
    .unwrap();
    exec.clear();
    report.take()
}

fn recover_all(world: &World) -> Report {
    recover_for(world, AFTER, false, usize::MAX).expect("it ends")
}

fn counts(report: &Report) -> Counts {
    report.segments[0].mail.as_ref().unwrap().counts
}

fn exists(world: &World, path: &str, bytes: &[u8]) {
    assert_eq!(world.read(path).unwrap_or_default(), bytes, "{path}\n{}", world.recent().join("\n"));
}

/// Everything that was promised is in its mailbox once, and nothing else is there.
fn all_is_kept(world: &World, messages: &[Vec<Promise>]) {
    let mut wanted: BTreeMap<&str, Vec<&Promise>> = BTreeMap::new();
    for promise in messages.iter().flatten() {
        wanted.entry(&promise.path).or_default().push(promise);
    }
    for (path, promises) in wanted {
        let mut names: Vec<&str> = promises.iter().map(|one| one.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(world.list(&format!("{path}/new")).unwrap(), names, "{}", world.recent().join("\n"));
        for promise in promises {
            exists(world, &promise.in_new(), &promise.bytes());
        }
    }
}

#[test]
fn what_is_missing_is_written_as_its_owner_and_the_segment_is_free() {
    let messages = promises(5, 3);
    let world = world(1, &messages);
    let report = recover_all(&world);
    assert!(report.is_well(), "{:?}", report.segments);
    let found = counts(&report);
    assert_eq!((found.records, found.recipients, found.written, found.present), (5, 15, 15, 0));
    all_is_kept(&world, &messages);
    assert_eq!(world.owner_and_links(&messages[0][1].in_new()), Ok((owner("1"), 1)));
    assert_eq!(counts(&recover_all(&world)).records, 0, "it is retired");
    // All of that was durable when it was retired.
    world.power_cut(7);
    all_is_kept(&world, &messages);
}

/// A world without a folder, whose journal promises mail for it.
fn world_without_folder(seed: u64) -> (World, Vec<Vec<Promise>>) {
    let mut messages = promises(2, 1);
    messages.iter_mut().flatten().for_each(|promise| promise.path = "/mail/u2".into());
    let world = world(seed, &messages);
    messages.iter_mut().flatten().for_each(|promise| promise.path = "/mail/u2//.lists".into());
    world.write_file(&format!("/journal/{SEGMENT}"), &segment(&messages));
    (world, messages)
}

#[test]
fn mail_for_a_folder_is_written_into_it_and_into_the_inbox_where_there_is_none() {
    let (world, messages) = world_without_folder(11);
    let in_inbox = format!("/mail/u2/new/{}", messages[0][0].name);
    world.write_file(&in_inbox, &messages[0][0].bytes());
    let found = counts(&recover_all(&world));
    assert_eq!((found.present, found.written), (1, 1), "the inbox was looked through");
    assert_eq!(world.list("/mail/u2/new").unwrap().len(), 2);
    assert!(world.list("/mail/u2/.lists").is_err());

    let (world, messages) = world_without_folder(12);
    for sub in ["tmp", "new", "cur"] {
        world.make_directory(&format!("/mail/u2/.lists/{sub}"));
    }
    world.write_file(&messages[1][0].in_new(), &messages[1][0].bytes());
    let found = counts(&recover_all(&world));
    assert_eq!((found.present, found.written), (1, 1));
    all_is_kept(&world, &messages);
    assert_eq!(world.list("/mail/u2/new"), Ok(Vec::new()));
}

#[test]
fn a_folder_that_is_missing_is_made_again_where_folders_are_made() {
    let settings = Settings { create_folder: true, ..settings() };
    let (world, messages) = world_without_folder(13);
    let looked = recover_with(settings.clone(), &world, AFTER, true, usize::MAX).expect("it ends");
    assert_eq!(counts(&looked).written, 2);
    let action = &looked.segments[0].mail.as_ref().unwrap().actions[0];
    assert_eq!((action.path.as_str(), action.what), ("/mail/u2/.lists", Done::Written));
    assert!(world.list("/mail/u2/.lists").is_err(), "a dry run makes nothing");

    let report = recover_with(settings, &world, AFTER, false, usize::MAX).expect("it ends");
    assert_eq!(counts(&report).written, 2);
    world.power_cut(7);
    all_is_kept(&world, &messages);
    exists(&world, "/mail/u2/subscriptions", b"V\t2\n\nlists\n");
    assert_eq!(world.list("/mail/u2/.lists").unwrap(), ["cur", "maildirfolder", "new", "tmp"]);
}

#[test]
fn what_is_there_is_left_alone_in_new_and_in_cur_whatever_its_flags() {
    let messages = promises(3, 1);
    let world = world(2, &messages);
    world.write_file(&messages[0][0].in_new(), &messages[0][0].bytes());
    for (message, flags) in [(1, ":2,FS"), (2, "")] {
        let promise = &messages[message][0];
        world.write_file(&format!("/mail/shared/cur/{}{flags}", promise.name), &promise.bytes());
    }
    let report = recover_all(&world);
    let found = counts(&report);
    assert_eq!((found.present, found.written), (3, 0));
    assert_eq!(
        (world.list("/mail/shared/new").unwrap().len(), world.list("/mail/shared/cur").unwrap().len()),
        (1, 2)
    );
}

#[test]
fn a_torn_file_is_replaced_wherever_it_is() {
    let messages = promises(4, 1);
    let world = world(3, &messages);
    let whole = |message: usize| messages[message][0].bytes();
    world.write_file(&messages[0][0].in_new(), b"");
    world.write_file(&messages[1][0].in_new(), &whole(1)[..9]);
    let mut zeroes = whole(2);
    zeroes[20..40].fill(0);
    world.write_file(&messages[2][0].in_new(), &zeroes);
    let in_cur = format!("/mail/shared/cur/{}:2,S", messages[3][0].name);
    world.write_file(&in_cur, &vec![0; whole(3).len()]);
    let report = recover_all(&world);
    assert_eq!(counts(&report).replaced, 4);
    all_is_kept(&world, &messages);
    assert_eq!(world.list("/mail/shared/cur").unwrap(), Vec::<String>::new());
}

#[test]
fn something_else_of_that_name_stays_and_ours_stands_beside_it_once() {
    let messages = promises(3, 1);
    let world = world(4, &messages);
    let longer = [messages[1][0].bytes(), b"x".to_vec()].concat();
    world.write_file(&messages[0][0].in_new(), b"somebody else's");
    world.write_file(&messages[1][0].in_new(), &longer);
    world.make_symlink(&messages[2][0].in_new(), "/journal");
    let before = segment(&messages);
    assert_eq!(counts(&recover_all(&world)).beside, 3);
    exists(&world, &messages[0][0].in_new(), b"somebody else's");
    exists(&world, &messages[1][0].in_new(), &longer);
    exists(&world, "/mail/shared/new/170.M0P1Q2W0R1.mx,S=1,W=1", &messages[0][0].bytes());
    // As if it had been killed before the segment was retired.
    world.write_file(&format!("/journal/{SEGMENT}"), &before);
    let again = counts(&recover_all(&world));
    assert_eq!((again.present, again.beside), (3, 0));
    assert_eq!(world.list("/mail/shared/new").unwrap().len(), 6);
}

#[test]
fn a_maildir_that_went_with_the_power_is_made_again() {
    let messages = promises(2, 2);
    let world = World::new(5);
    world.make_directory("/journal");
    world.make_directory("/mail");
    world.write_file(&format!("/journal/{SEGMENT}"), &segment(&messages));
    assert!(recover_all(&world).is_well());
    world.power_cut(5);
    all_is_kept(&world, &messages);
}

#[test]
fn where_there_are_no_unnamed_files_it_goes_through_tmp_and_leaves_nothing_there() {
    let messages = promises(2, 1);
    let world = World::new(6);
    world.mount("/mail", Device { has_tmpfile: false, ..Device::default() });
    world.make_directory("/journal");
    world.write_file(&format!("/journal/{SEGMENT}"), &segment(&messages));
    assert!(recover_all(&world).is_well());
    all_is_kept(&world, &messages);
    assert_eq!(world.list("/mail/shared/tmp").unwrap(), Vec::<String>::new());
}

#[test]
fn killed_at_any_point_and_started_again_it_comes_to_the_same_end() {
    let messages = promises(3, 2);
    let mut cuts = 0;
    for seed in 0..6 {
        for turns in 1.. {
            let world = world(seed, &messages);
            world.write_file(&messages[0][0].in_new(), b"Delivered");
            let ended = recover_for(&world, AFTER, false, turns).is_some();
            // Killed, and in every second run the power goes as well.
            let boot = if turns % 2 == 0 { AFTER } else { Boot([3; 16]) };
            if boot != AFTER {
                world.power_cut(seed * 1000 + turns as u64);
            }
            let report = recover_for(&world, boot, false, usize::MAX).unwrap();
            assert!(report.is_well(), "seed {seed}, {turns} turns: {:?}", report.segments);
            world.power_cut(turns as u64);
            all_is_kept(&world, &messages);
            cuts += 1;
            if ended {
                break;
            }
        }
    }
    assert!(cuts > 100, "{cuts}");
}

#[test]
fn one_recipient_without_room_is_kept_for_later_and_the_others_have_their_mail() {
    let messages = promises(4, 3);
    let world = world(8, &messages);
    world.fail(Fault::every(OpKind::Write, Errno::NOSPC).on("/mail/u2"));
    let report = recover_all(&world);
    assert!(!report.is_well());
    let [only] = &report.segments[..] else { panic!("{:?}", report.segments) };
    assert_eq!(only.fate, Fate::Kept { file: "0-0.segment.kept".into() });
    let failures = &only.mail.as_ref().unwrap().failures;
    assert_eq!(failures.len(), 4);
    assert!(failures.iter().all(|one| one.path == "/mail/u2" && one.fault.errno == Errno::NOSPC));
    world.power_cut(8);
    assert_eq!(world.list("/journal").unwrap(), [SEGMENT, "0-0.segment.kept"]);
    // What the others have removed since does not come back with the kept segment.
    let fine: Vec<Vec<Promise>> = messages.iter().map(|message| message[..2].to_vec()).collect();
    all_is_kept(&world, &fine);
    world.heal();
    let report = recover_all(&world);
    assert!(report.is_well(), "{:?}", report.segments);
    let kept = report.segments[1].mail.as_ref().unwrap();
    assert_eq!((kept.counts.recipients, kept.counts.written), (4, 4));
    all_is_kept(&world, &messages);
    assert_eq!(world.list("/journal").unwrap(), [SEGMENT], "what was kept has its place");
}

#[test]
fn what_fails_again_stays_where_it_is_kept() {
    let messages = promises(2, 2);
    let world = world(9, &messages);
    world.deny(owner("1"));
    assert!(!recover_all(&world).is_well());
    let kept = world.read("/journal/0-0.segment.kept").unwrap();
    let report = recover_all(&world);
    assert_eq!(report.segments[1].fate, Fate::Kept { file: "0-0.segment.kept".into() });
    assert_eq!(world.read("/journal/0-0.segment.kept"), Ok(kept));
    assert_eq!(world.list("/journal").unwrap().len(), 2);
}

#[test]
fn without_room_for_what_failed_the_whole_segment_is_kept() {
    let messages = promises(2, 2);
    let world = world(10, &messages);
    let before = world.read(&format!("/journal/{SEGMENT}")).unwrap();
    world.deny(owner("1"));
    world.fail(Fault::every(OpKind::OpenNew, Errno::NOSPC).on("/journal"));
    let report = recover_all(&world);
    assert_eq!(report.segments[0].fate, Fate::Kept { file: "0-0.segment.kept".into() });
    world.power_cut(1);
    assert_eq!(world.list("/journal").unwrap(), ["0-0.segment.kept"]);
    assert_eq!(world.read("/journal/0-0.segment.kept"), Ok(before));
}

#[test]
fn a_segment_of_a_later_version_is_not_touched() {
    let world = world(11, &promises(1, 1));
    let path = format!("/journal/{SEGMENT}");
    let mut newer = world.read(&path).unwrap();
    newer[8] = 2;
    world.write_file(&path, &newer);
    let report = recover_all(&world);
    assert_eq!(report.segments[0].fate, Fate::Newer { version: 2 });
    assert!(!report.is_well());
    assert_eq!((world.read(&path), world.list("/mail/shared/new").unwrap().len()), (Ok(newer), 0));
}

#[test]
fn a_segment_that_cannot_be_read_is_set_aside_and_never_lost() {
    let world = world(12, &promises(1, 1));
    let path = format!("/journal/{SEGMENT}");
    let mut damaged = world.read(&path).unwrap();
    damaged[30] ^= 1;
    for name in ["0-0.segment.unreadable", "0-0.segment.unreadable.1"] {
        world.write_file(&path, &damaged);
        let report = recover_all(&world);
        let file = Some(name.to_owned());
        assert_eq!(report.segments[0].fate, Fate::SetAside { refusal: Refusal::Damaged, file });
        world.power_cut(12);
        assert_eq!(world.read(&format!("/journal/{name}")), Ok(damaged.clone()));
    }
    assert_eq!(recover_all(&world).segments.len(), 0);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let messages = promises(3, 1);
    let world = world(13, &messages);
    world.write_file(&messages[0][0].in_new(), &messages[0][0].bytes());
    world.write_file(&messages[1][0].in_new(), b"Deliv");
    let report = recover_for(&world, AFTER, true, usize::MAX).unwrap();
    assert_eq!((report.segments[0].fate.clone(), world.unsettled()), (Fate::Looked, 0));
    let mut actions = report.segments[0].mail.as_ref().unwrap().actions.clone();
    actions.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    let [torn, missing] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((torn.what, missing.what), (Done::Replaced, Done::Written));
    assert_eq!((&torn.name, &missing.name), (&messages[1][0].name, &messages[2][0].name));
}

#[test]
fn a_sync_that_fails_leaves_the_segment_and_the_same_boot_trusts_nothing_afterwards() {
    let messages = promises(3, 2);
    let mut lost = 0;
    for seed in 0..20 {
        let world = world(seed, &messages);
        world.fail(Fault::nth(OpKind::SyncFs, 1, Errno::IO));
        let report = recover_for(&world, AFTER, false, usize::MAX).unwrap();
        assert!(matches!(report.segments[0].fate, Fate::Unsettled(_)), "{:?}", report.segments);
        // The kernel shows whole files and will not write them. This boot must write them again...
        let careless = seed % 2 == 0;
        let header = SegmentHeader::new(SEGMENT_BYTES_MIN, 0, 42, if careless { BEFORE } else { AFTER });
        let path = format!("/journal/{SEGMENT}");
        let mut bytes = world.read(&path).unwrap();
        bytes[..64].copy_from_slice(&header.encode());
        rewrite_durably(&world, &path, &bytes);
        let report = recover_for(&world, AFTER, false, usize::MAX).unwrap();
        assert!(report.is_well());
        world.power_cut(seed);
        if careless {
            // ... and this is what becomes of those who believe what they see.
            let whole = messages.iter().flatten().filter(|one| world.read(&one.in_new()) == Ok(one.bytes()));
            lost += messages.len() * 2 - whole.count();
        } else {
            all_is_kept(&world, &messages);
        }
    }
    assert!(lost > 0, "the simulated disk forgave a failed sync");
}

/// As [`World::write_file`], which makes everything else durable too, does not.
fn rewrite_durably(world: &World, path: &str, bytes: &[u8]) {
    let exec = Exec::new(Box::new(Sim::new(world).unwrap()));
    let header = bytes[..64].to_vec();
    let path = path.to_owned();
    let done = Rc::new(Cell::new(false));
    let over = Rc::clone(&done);
    let task = Rc::clone(&exec);
    exec.spawn(async move {
        let (how, identity) = (How::DirectoryTrusted, Identity::Server);
        let (directory, name) = path.rsplit_once('/').unwrap();
        let directory = std::ffi::CString::new(directory).unwrap();
        let op = Op::Open { at: None, path: directory, how, identity };
        let crate::ring::Done::Opened(directory) = task.run(op).await.result.unwrap() else { panic!() };
        let file = segment_file::open(&task, &directory, name, How::ReadWrite).await.unwrap();
        let header = SegmentHeader::decode(&[&header[..], &[0; 4032]].concat(), SEGMENT_BYTES_MIN).unwrap();
        segment_file::write_header(&task, &file, &header).await.unwrap();
        over.set(true);
    });
    exec.run_until(|| done.get()).unwrap();
    exec.clear();
}
