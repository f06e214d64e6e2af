//! The laws of the simulated ring, seen through its operations.

use std::ffi::CString;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;

use super::{Client, Cut, Device, Fault, OpKind, Sim, World};
use crate::ring::{Bytes, Completion, Done, Fd, How, Identity, Op, Owner, Ring, Time, Token};

mod cuts;
mod files;

/// A world with one ring in it, and a way to do one thing after the other.
struct Rig {
    world: World,
    ring: Sim,
    next: u32,
}

const ALICE: Owner = Owner::User { uid: 1001, gid: 1001 };

impl Rig {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let ring = Sim::new(&world).expect("memory for buffers");
        world.make_directory("/mail/alice/tmp");
        world.make_directory("/mail/alice/new");
        world.make_directory("/mail/bob/new");
        Self { world, ring, next: 0 }
    }

    fn push(&mut self, op: Op) -> Token {
        let token = Token { index: self.next, generation: 0 };
        self.next += 1;
        self.ring.push(token, op);
        token
    }

    fn turn(&mut self, wait: Option<Duration>) -> Vec<Completion> {
        let mut done = Vec::new();
        self.ring.turn(wait, &mut done).expect("work to do");
        done
    }

    /// Does one operation and gives its last completion.
    fn run(&mut self, op: Op) -> Result<Done, Errno> {
        let token = self.push(op);
        loop {
            for completion in self.turn(None) {
                if completion.token == token {
                    return completion.result;
                }
            }
        }
    }

    fn open_as(&mut self, path: &str, how: How, identity: Identity) -> Result<Rc<Fd>, Errno> {
        self.open_in(None, path, how, identity)
    }

    fn open_in(
        &mut self,
        at: Option<&Rc<Fd>>,
        path: &str,
        how: How,
        identity: Identity,
    ) -> Result<Rc<Fd>, Errno> {
        let op = Op::Open { at: at.cloned(), path: name(path), how, identity };
        match self.run(op)? {
            Done::Opened(fd) => Ok(fd),
            other => panic!("an open gives a descriptor, not {other:?}"),
        }
    }

    fn directory(&mut self, path: &str) -> Rc<Fd> {
        self.open_as(path, How::Directory, Identity::Server).expect(path)
    }

    fn write(&mut self, file: &Rc<Fd>, bytes: &[u8]) {
        let mut skip = 0;
        while skip < bytes.len() {
            let op = Op::Write {
                file: Rc::clone(file),
                head: bytes[..bytes.len() / 2].to_vec(),
                body: Rc::new(vec![Bytes::Owned(bytes[bytes.len() / 2..].into())]),
                skip,
                offset: u64::try_from(skip).expect("short"),
            };
            match self.run(op).expect("a write") {
                Done::Count(count) => skip += count,
                other => panic!("a write gives a count, not {other:?}"),
            }
        }
    }

    fn link(&mut self, file: &Rc<Fd>, into: &Rc<Fd>, to: &str) -> Result<Done, Errno> {
        self.run(Op::Link {
            file: Rc::clone(file),
            into: Rc::clone(into),
            name: name(to),
            identity: Identity::Server,
        })
    }

    fn sync(&mut self, file: &Rc<Fd>) -> Result<Done, Errno> {
        self.run(Op::Sync { file: Rc::clone(file) })
    }

    /// An unnamed file in alice's `tmp` with these bytes.
    fn unnamed(&mut self, bytes: &[u8]) -> Rc<Fd> {
        let file = self.open_as("/mail/alice/tmp", How::Unnamed, Identity::Server).expect("O_TMPFILE");
        self.write(&file, bytes);
        file
    }

    /// The server's end of a new connection.
    fn accepted(&mut self) -> (Client, Rc<Fd>) {
        let client = self.world.connect();
        let listener = self.ring.listener();
        match self.run(Op::Accept { listener }) {
            Ok(Done::Opened(fd)) => (client, fd),
            other => panic!("an accept gives a descriptor, not {other:?}"),
        }
    }
}

fn name(text: &str) -> CString {
    CString::new(text).expect("no NUL")
}

#[test]
fn an_unnamed_file_shows_only_once_it_is_linked_and_whole() {
    let mut rig = Rig::new(1);
    let file = rig.unnamed(b"Subject: x\r\n\r\nhello\r\n");
    assert_eq!(rig.world.list("/mail/alice/tmp"), Ok(vec![]));
    let new = rig.directory("/mail/alice/new");
    rig.link(&file, &new, "1.M1").expect("a free name");
    assert_eq!(rig.world.read("/mail/alice/new/1.M1").expect("linked"), b"Subject: x\r\n\r\nhello\r\n");
    assert!(matches!(rig.link(&file, &new, "1.M1"), Err(Errno::EXIST)));
    rig.link(&file, &new, "1.M2").expect("a second name");
    assert_eq!(rig.world.owner_and_links("/mail/alice/new/1.M2"), Ok((Owner::Server, 2)));
}

#[test]
fn a_device_without_unnamed_files_says_so_and_links_do_not_leave_a_device() {
    let mut rig = Rig::new(2);
    let nfs = Device { has_tmpfile: false, ..Device::default() };
    rig.world.mount("/nfs", nfs);
    rig.world.make_directory("/nfs/carol/new");
    let refused = rig.open_as("/nfs/carol/new", How::Unnamed, Identity::Server);
    assert_eq!(refused.err(), Some(Errno::OPNOTSUPP));
    let file = rig.unnamed(b"x");
    let elsewhere = rig.directory("/nfs/carol/new");
    assert!(matches!(rig.link(&file, &elsewhere, "1"), Err(Errno::XDEV)));
    assert_ne!(rig.ring.device(&file), rig.ring.device(&elsewhere));
}

#[test]
fn each_way_to_open_a_directory_keeps_its_own_rules() {
    let mut rig = Rig::new(3);
    rig.world.make_symlink("/mail/alice/evil", "/mail/bob");
    rig.world.make_symlink("/mail/loop", "/mail/loop");
    let alice = rig.directory("/mail/alice");
    let cases = [
        (None, "/mail/alice/evil/new", How::Directory, Some(Errno::LOOP)),
        (None, "/mail/alice/evil/new", How::DirectoryTrusted, None),
        (None, "/mail/loop", How::DirectoryTrusted, Some(Errno::LOOP)),
        (None, "/mail/nobody", How::Directory, Some(Errno::NOENT)),
        (None, "/mail/alice/../bob", How::Directory, None),
        (Some(&alice), "new", How::DirectoryBeneath, None),
        (Some(&alice), "./tmp/../new/", How::DirectoryBeneath, None),
        (Some(&alice), "../bob", How::DirectoryBeneath, Some(Errno::XDEV)),
        (Some(&alice), "new/../../bob", How::DirectoryBeneath, Some(Errno::XDEV)),
        (Some(&alice), "/mail/bob", How::DirectoryBeneath, Some(Errno::XDEV)),
        (Some(&alice), "evil", How::DirectoryBeneath, Some(Errno::LOOP)),
        (Some(&alice), "", How::DirectoryBeneath, Some(Errno::NOENT)),
        (Some(&alice), "evil/new", How::New, Some(Errno::LOOP)),
    ];
    for (at, path, how, refused) in cases {
        let opened = rig.open_in(at, path, how, Identity::Server);
        assert_eq!(opened.err(), refused, "{how:?} {path}");
    }
}

#[test]
fn a_file_is_no_directory_and_long_names_are_refused() {
    let mut rig = Rig::new(4);
    let alice = rig.directory("/mail/alice");
    rig.open_in(Some(&alice), "file", How::New, Identity::Server).expect("a new name");
    let again = rig.open_in(Some(&alice), "file", How::New, Identity::Server);
    assert_eq!(again.err(), Some(Errno::EXIST));
    for path in ["file", "file/", "file/new", "file/."] {
        let opened = rig.open_in(Some(&alice), path, How::Directory, Identity::Server);
        assert_eq!(opened.err(), Some(Errno::NOTDIR), "{path}");
    }
    let long = "x".repeat(256);
    let opened = rig.open_in(Some(&alice), &long, How::New, Identity::Server);
    assert_eq!(opened.err(), Some(Errno::NAMETOOLONG));
}

#[test]
fn directories_are_made_once_and_belong_to_whoever_made_them() {
    let mut rig = Rig::new(5);
    let alice = rig.directory("/mail/alice");
    let identity = rig.ring.identity(ALICE).expect("not denied");
    let make = |identity| Op::MakeDir { at: Rc::clone(&alice), name: name("cur"), identity };
    rig.run(make(identity.clone())).expect("a free name");
    assert!(matches!(rig.run(make(identity)), Err(Errno::EXIST)));
    assert_eq!(rig.world.owner_and_links("/mail/alice/cur"), Ok((ALICE, 1)));
    rig.world.deny(ALICE);
    assert_eq!(rig.ring.identity(ALICE).err(), Some(Errno::PERM));
}

#[test]
fn renames_and_second_names_keep_the_file_and_unlink_takes_one_name() {
    let mut rig = Rig::new(6);
    let tmp = rig.directory("/mail/alice/tmp");
    let new = rig.directory("/mail/alice/new");
    let bob = rig.directory("/mail/bob/new");
    let file = rig.open_in(Some(&tmp), "1", How::New, Identity::Server).expect("a new name");
    rig.write(&file, b"mail");
    rig.run(Op::Rename {
        from: Rc::clone(&tmp),
        old: name("1"),
        into: Rc::clone(&new),
        name: name("2"),
        identity: Identity::Server,
    })
    .expect("a rename");
    rig.run(Op::LinkName {
        from: Rc::clone(&new),
        old: name("2"),
        into: Rc::clone(&bob),
        name: name("3"),
        identity: Identity::Server,
    })
    .expect("a second name");
    let unlink = || Op::Unlink { at: Rc::clone(&new), name: name("2"), identity: Identity::Server };
    rig.run(unlink()).expect("it is there");
    assert!(matches!(rig.run(unlink()), Err(Errno::NOENT)));
    assert_eq!(rig.world.list("/mail/alice/tmp"), Ok(vec![]));
    assert_eq!(rig.world.read("/mail/bob/new/3"), Ok(b"mail".to_vec()));
    // Unlinked everywhere, it is as good as gone and takes no name again.
    rig.run(Op::Unlink { at: Rc::clone(&bob), name: name("3"), identity: Identity::Server })
        .expect("it is there");
    assert!(matches!(rig.link(&file, &new, "4"), Err(Errno::NOENT)));
}

/// What is left of a synced or unsynced message after power cuts with many seeds: the contents that
/// were seen, `None` for a missing name.
fn after_power_cuts(deliver: impl Fn(&mut Rig)) -> Vec<Option<Vec<u8>>> {
    let mut seen = Vec::new();
    for seed in 0..64 {
        let mut rig = Rig::new(seed);
        deliver(&mut rig);
        let world = rig.world.clone();
        drop(rig);
        world.power_cut(seed);
        let left = world.read("/mail/alice/new/1").ok();
        if !seen.contains(&left) {
            seen.push(left);
        }
    }
    seen.sort();
    seen
}

#[test]
fn a_synced_file_with_a_synced_name_survives_every_power_cut() {
    let seen = after_power_cuts(|rig| {
        let file = rig.unnamed(b"mail");
        rig.sync(&file).expect("a sync");
        let new = rig.directory("/mail/alice/new");
        rig.link(&file, &new, "1").expect("a free name");
        rig.sync(&new).expect("a sync");
    });
    assert_eq!(seen, [Some(b"mail".to_vec())]);
}

#[test]
fn a_name_synced_before_its_bytes_may_lead_to_an_empty_file() {
    let seen = after_power_cuts(|rig| {
        let file = rig.unnamed(b"mail");
        let new = rig.directory("/mail/alice/new");
        rig.link(&file, &new, "1").expect("a free name");
        rig.sync(&new).expect("a sync");
    });
    assert!(seen.contains(&Some(Vec::new())), "{seen:?}");
    assert!(!seen.contains(&None), "{seen:?}");
}

#[test]
fn a_directory_that_is_synced_is_there_with_all_that_leads_to_it() {
    for seed in 0..64 {
        let mut rig = Rig::new(seed);
        for (above, below) in [("/mail", "carol"), ("/mail/carol", "new")] {
            let at = rig.directory(above);
            rig.run(Op::MakeDir { at, name: name(below), identity: Identity::Server }).expect("a free name");
        }
        let file = rig.open_as("/mail/carol/new", How::Unnamed, Identity::Server).expect("O_TMPFILE");
        let new = rig.directory("/mail/carol/new");
        rig.link(&file, &new, "1").expect("a free name");
        rig.sync(&new).expect("a sync");
        let world = rig.world.clone();
        drop((rig, file, new));
        world.power_cut(seed);
        assert_eq!(world.list("/mail/carol/new"), Ok(vec!["1".to_owned()]), "seed {seed}");
    }
}

#[test]
fn a_failed_sync_gives_up_data_and_no_names() {
    let seen = after_power_cuts(|rig| {
        rig.world.fail(Fault::nth(OpKind::SyncFs, 1, Errno::IO));
        let file = rig.unnamed(b"mail");
        let new = rig.directory("/mail/alice/new");
        rig.link(&file, &new, "1").expect("a free name");
        assert!(matches!(rig.run(Op::SyncFs { on: Rc::clone(&new) }), Err(Errno::IO)));
        rig.run(Op::SyncFs { on: new }).expect("the kernel says all is well");
    });
    assert!(!seen.contains(&None), "{seen:?}");
    assert!(seen.contains(&Some(Vec::new())) && seen.contains(&Some(b"mail".to_vec())), "{seen:?}");
}

#[test]
fn a_name_that_was_not_synced_survives_or_not() {
    let seen = after_power_cuts(|rig| {
        let file = rig.unnamed(b"mail");
        rig.sync(&file).expect("a sync");
        let new = rig.directory("/mail/alice/new");
        rig.link(&file, &new, "1").expect("a free name");
    });
    assert_eq!(seen, [None, Some(b"mail".to_vec())]);
}

/// What power cuts leave of a message that was written out and then named on `device`.
fn after_writing_out(device: Device) -> Vec<Option<Vec<u8>>> {
    after_power_cuts(|rig| {
        rig.world.mount("/mail/alice", device);
        rig.world.make_directory("/mail/alice/tmp");
        rig.world.make_directory("/mail/alice/new");
        let file = rig.unnamed(b"mail");
        rig.run(Op::WriteOut { file: Rc::clone(&file) }).expect("room on the device");
        let new = rig.directory("/mail/alice/new");
        rig.link(&file, &new, "1").expect("a free name");
    })
}

#[test]
fn a_device_that_keeps_the_order_has_no_name_without_the_bytes_that_went_before() {
    let seen = after_writing_out(Device { keeps_order: true, ..Device::default() });
    assert_eq!(seen, [None, Some(b"mail".to_vec())]);
}

#[test]
fn writing_out_promises_nothing_on_a_device_that_keeps_no_order() {
    let seen = after_writing_out(Device::default());
    assert!(seen.contains(&Some(Vec::new())), "{seen:?}");
}

#[test]
fn a_device_that_keeps_the_order_has_no_name_without_the_names_that_went_before() {
    for seed in 0..64 {
        let mut rig = Rig::new(seed);
        rig.world.mount("/mail/alice", Device { keeps_order: true, ..Device::default() });
        rig.world.make_directory("/mail/alice/tmp");
        rig.world.make_directory("/mail/alice/new");
        let new = rig.directory("/mail/alice/new");
        for text in ["1", "2", "3"] {
            let file = rig.unnamed(b"mail");
            rig.link(&file, &new, text).expect("a free name");
        }
        let world = rig.world.clone();
        drop((rig, new));
        world.power_cut(seed);
        let left = world.list("/mail/alice/new").expect("a directory");
        assert_eq!(left, ["1", "2", "3"][..left.len()], "seed {seed}");
    }
}

/// What power cuts leave of a message that was written out, named on `device`, and whose directory was synced.
fn after_syncing_the_name(device: Device) -> Vec<Option<Vec<u8>>> {
    after_power_cuts(|rig| {
        rig.world.mount("/mail/alice", device);
        rig.world.make_directory("/mail/alice/tmp");
        rig.world.make_directory("/mail/alice/new");
        let file = rig.unnamed(b"mail");
        rig.run(Op::WriteOut { file: Rc::clone(&file) }).expect("room on the device");
        let new = rig.directory("/mail/alice/new");
        rig.link(&file, &new, "1").expect("a free name");
        rig.sync(&new).expect("a sync");
    })
}

#[test]
fn syncing_a_name_commits_what_went_before_it_on_a_device_that_keeps_the_order() {
    let seen = after_syncing_the_name(Device { keeps_order: true, ..Device::default() });
    assert_eq!(seen, [Some(b"mail".to_vec())]);
    let seen = after_syncing_the_name(Device::default());
    assert!(seen.contains(&Some(Vec::new())), "{seen:?}");
}

#[test]
fn syncfs_covers_data_and_names_of_its_own_device_only() {
    let mut rig = Rig::new(7);
    rig.world.mount("/other", Device::default());
    let file = rig.unnamed(b"mail");
    let new = rig.directory("/mail/alice/new");
    rig.link(&file, &new, "1").expect("a free name");
    let other = rig.directory("/other");
    let unsettled = rig.world.unsettled();
    rig.run(Op::SyncFs { on: other }).expect("a sync");
    assert_eq!(rig.world.unsettled(), unsettled);
    rig.run(Op::SyncFs { on: new }).expect("a sync");
    assert_eq!(rig.world.unsettled(), 0);
}

#[test]
fn a_sync_covers_what_was_done_when_it_was_asked_for_and_not_what_came_after() {
    let mut rig = Rig::new(8);
    let file = rig.unnamed(b"mail");
    let new = rig.directory("/mail/alice/new");
    let early = rig.push(Op::SyncFs { on: Rc::clone(&new) });
    let mut linked = false;
    let mut synced = false;
    let link = rig.push(Op::Link { file, into: new, name: name("1"), identity: Identity::Server });
    while !(linked && synced) {
        for completion in rig.turn(None) {
            linked |= completion.token == link;
            synced |= completion.token == early;
        }
    }
    assert_eq!(rig.world.unsettled(), 1, "the name, whichever came first");
}

#[test]
fn what_a_failed_sync_gave_up_is_not_saved_by_the_next_one() {
    let seen = after_power_cuts(|rig| {
        rig.world.fail(Fault::nth(OpKind::Sync, 1, Errno::IO));
        let file = rig.unnamed(b"mail");
        assert!(matches!(rig.sync(&file), Err(Errno::IO)));
        rig.sync(&file).expect("the kernel says all is well");
        let new = rig.directory("/mail/alice/new");
        rig.link(&file, &new, "1").expect("a free name");
        rig.sync(&new).expect("a sync");
    });
    assert!(seen.contains(&Some(Vec::new())), "{seen:?}");
}

#[test]
fn a_renamed_file_is_under_one_of_its_names_after_a_power_cut() {
    for seed in 0..64 {
        let mut rig = Rig::new(seed);
        let tmp = rig.directory("/mail/alice/tmp");
        let new = rig.directory("/mail/alice/new");
        let file = rig.open_in(Some(&tmp), "1", How::New, Identity::Server).expect("a new name");
        rig.write(&file, b"mail");
        rig.sync(&file).expect("a sync");
        rig.sync(&tmp).expect("a sync");
        rig.run(Op::Rename {
            from: tmp,
            old: name("1"),
            into: Rc::clone(&new),
            name: name("1"),
            identity: Identity::Server,
        })
        .expect("a rename");
        if seed % 2 == 0 {
            rig.sync(&new).expect("a sync");
        }
        let world = rig.world.clone();
        drop((rig, file, new));
        world.power_cut(seed);
        let names = [world.read("/mail/alice/tmp/1"), world.read("/mail/alice/new/1")];
        let there = names.iter().filter(|read| read.is_ok()).count();
        assert_eq!(there, 1, "seed {seed}");
        assert!(seed % 2 == 1 || names[1].is_ok(), "seed {seed}");
    }
}

#[test]
fn faults_strike_the_named_operation_on_the_named_path() {
    let mut rig = Rig::new(9);
    rig.world.fail(Fault::every(OpKind::OpenUnnamed, Errno::NOSPC).on("/alice/"));
    let full = rig.open_as("/mail/alice/new", How::Unnamed, Identity::Server);
    assert_eq!(full.err(), Some(Errno::NOSPC));
    rig.open_as("/mail/bob/new", How::Unnamed, Identity::Server).expect("another path");
    rig.world.heal();
    rig.open_as("/mail/alice/new", How::Unnamed, Identity::Server).expect("no fault any more");
}

#[test]
fn waiting_takes_no_time_of_ours_and_all_of_theirs() {
    let mut rig = Rig::new(10);
    let before = rig.world.now();
    assert!(rig.turn(Some(Duration::from_secs(300))).is_empty());
    assert!(rig.world.now().since(before) >= Duration::from_secs(300));
    let (mut done, before) = (Vec::new(), rig.world.now());
    assert_eq!(rig.ring.turn(None, &mut done), Err(Errno::DEADLK));
    assert_eq!(rig.world.now(), before);
}

#[test]
fn the_clock_stands_still_up_to_the_horizon() {
    let mut rig = Rig::new(11);
    let mut quiet = rig.world.quiet_after(Duration::from_secs(60));
    let before = rig.world.now();
    while !quiet() {
        rig.turn(Some(Duration::from_secs(300)));
    }
    assert_eq!(rig.world.now(), before.after(Duration::from_secs(60)));
    let wall = rig.world.wall();
    rig.world.set_wall(Duration::from_secs(1_000_000_000));
    assert!(rig.world.wall() < wall);
    assert!(rig.world.now() > Time(0));
}

#[test]
fn received_bytes_are_leased_and_without_a_free_buffer_a_receive_fails() {
    let mut rig = Rig::new(12);
    rig.ring = Sim::with_buffers(&rig.world, 1, 64).expect("memory for a buffer");
    let (client, socket) = rig.accepted();
    client.cut(Cut::Whole);
    client.send(b"LHLO x\r\n");
    let receive = || Op::Recv { socket: Rc::clone(&socket) };
    let Ok(Done::Received(lease)) = rig.run(receive()) else {
        panic!("bytes were sent");
    };
    assert_eq!(lease.bytes(), b"LHLO x\r\n");
    client.send(b"QUIT\r\n");
    assert!(matches!(rig.run(receive()), Err(Errno::NOBUFS)));
    drop(lease);
    assert!(matches!(rig.run(receive()), Ok(Done::Received(_))));
    client.close();
    assert!(matches!(rig.run(receive()), Ok(Done::Closed)));
    drop(socket);
    rig.turn(Some(Duration::ZERO));
    assert!(client.is_closed());
}

#[test]
fn a_waiting_receive_can_be_cancelled_and_comes_back_once() {
    let mut rig = Rig::new(13);
    let (_client, socket) = rig.accepted();
    let token = rig.push(Op::Recv { socket });
    rig.turn(Some(Duration::from_secs(1)));
    rig.ring.cancel(token);
    let done: Vec<_> = rig.turn(None).into_iter().filter(|completion| completion.token == token).collect();
    assert!(matches!(
        done.as_slice(),
        [Completion { result: Err(Errno::CANCELED), op: Some(Op::Recv { .. }), .. }]
    ));
}

fn exchange(socket: &Rc<Fd>, bytes: &[u8]) -> Op {
    Op::Exchange { socket: Rc::clone(socket), bytes: bytes.to_vec(), from: 0, sent: false }
}

/// The one completion of an operation: what came of it, and of an exchange whether it was sent.
fn last(rig: &mut Rig, token: Token) -> (Result<Done, Errno>, usize, bool) {
    loop {
        let mut done = rig.turn(None).into_iter().filter(|completion| completion.token == token);
        if let Some(Completion { result, op: Some(Op::Exchange { from, sent, .. }), .. }) = done.next() {
            return (result, from, sent);
        }
    }
}

#[test]
fn an_exchange_sends_all_in_however_many_pieces_and_then_receives() {
    for seed in 0..50 {
        let mut rig = Rig::new(seed);
        let (client, socket) = rig.accepted();
        client.window(10);
        client.cut(Cut::Whole);
        let replies = b"250-mx.example.net\r\n250 PIPELINING\r\n";
        let token = rig.push(exchange(&socket, replies));
        let mut got = Vec::new();
        while got.len() < replies.len() {
            assert!(
                rig.turn(Some(Duration::from_secs(1))).is_empty(),
                "it waits for room, or for the client"
            );
            got.extend(client.received());
        }
        assert_eq!(got, replies);
        client.send(b"MAIL\r\n");
        let (result, _, sent) = last(&mut rig, token);
        assert!(matches!(&result, Ok(Done::Received(lease)) if lease.bytes() == b"MAIL\r\n"), "{result:?}");
        assert!(sent);
    }
}

#[test]
fn an_exchange_says_which_of_its_halves_failed_or_was_cancelled() {
    let halves = [(OpKind::Send, false), (OpKind::Recv, true)];
    for (kind, expected) in halves {
        let mut rig = Rig::new(14);
        let (client, socket) = rig.accepted();
        client.send(b"MAIL\r\n");
        rig.world.fail(Fault::every(kind, Errno::CONNRESET));
        let token = rig.push(exchange(&socket, b"250 OK\r\n"));
        let (result, _, sent) = last(&mut rig, token);
        assert!(matches!(result, Err(Errno::CONNRESET)), "{result:?}");
        assert_eq!(sent, expected);
    }
    for (window, expected) in [(4, false), (100, true)] {
        let mut rig = Rig::new(15);
        let (client, socket) = rig.accepted();
        client.window(window);
        let token = rig.push(exchange(&socket, b"250 OK\r\n"));
        rig.turn(Some(Duration::from_secs(1)));
        rig.ring.cancel(token);
        let (result, from, sent) = last(&mut rig, token);
        assert!(matches!(result, Err(Errno::CANCELED)), "{result:?}");
        assert_eq!((from, sent), (client.received().len(), expected));
    }
}

#[test]
fn an_accept_goes_on_until_it_is_cancelled() {
    let mut rig = Rig::new(14);
    let listener = rig.ring.listener();
    let token = rig.push(Op::Accept { listener });
    for _ in 0..3 {
        let _client = rig.world.connect();
        let done = rig.turn(None);
        assert!(done.iter().all(|completion| completion.op.is_none()));
        assert_eq!(done.len(), 1);
    }
    rig.ring.cancel(token);
    assert!(rig.turn(None)[0].op.is_some());
}

#[test]
fn a_doorbell_wakes_and_is_cleared() {
    let mut rig = Rig::new(15);
    let event = rig.ring.doorbell();
    rig.world.ring_doorbell(&event);
    rig.world.ring_doorbell(&event);
    let listen = || Op::Doorbell { event: Rc::clone(&event), count: Box::new([0; 8]) };
    rig.push(listen());
    let done = rig.turn(None);
    assert!(matches!(
        &done[0].op,
        Some(Op::Doorbell { count, .. }) if u64::from_ne_bytes(**count) == 2
    ));
    rig.push(listen());
    assert!(rig.turn(Some(Duration::from_secs(1))).is_empty());
}

/// Twenty deliveries side by side; gives the digest and the order of the completions.
fn a_busy_run(seed: u64) -> (u64, Vec<u32>) {
    let mut rig = Rig::new(seed);
    let new = rig.directory("/mail/alice/new");
    for _ in 0..20 {
        rig.push(Op::Open {
            at: Some(Rc::clone(&new)),
            path: name("."),
            how: How::Unnamed,
            identity: Identity::Server,
        });
    }
    let mut order = Vec::new();
    while order.len() < 20 {
        order.extend(rig.turn(None).iter().map(|done| done.token.index));
    }
    (rig.world.digest(), order)
}

#[test]
fn one_seed_gives_one_run_and_another_seed_another_order() {
    assert_eq!(a_busy_run(21), a_busy_run(21));
    let (one, other) = (a_busy_run(21), a_busy_run(22));
    assert_ne!(one.0, other.0);
    assert_ne!(one.1, other.1);
}
