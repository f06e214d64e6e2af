//! The journal of a worker on the simulated ring.

use super::*;
use crate::journal::format::{SEGMENT_BYTES_MIN, checksum};
use crate::journal::{Recipient, read_segment};
use crate::ring::sim::{Fault, OpKind, Sim, World};
use crate::ring::{Done, Identity, Op, Owner};

const DIRECTORY: &str = "/state/journal";

/// A journal and the executor that it works on.
struct Bench {
    world: World,
    exec: Rc<Exec>,
    journal: Rc<Journal>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        world.make_directory(DIRECTORY);
        Self::open(world, &[])
    }

    fn open(world: World, free: &[SegmentName]) -> Self {
        let exec = Exec::new(Box::new(Sim::new(&world).expect("memory for buffers")));
        let settings = Settings {
            worker: 0,
            segment_bytes: SEGMENT_BYTES_MIN,
            checkpoint_interval: Duration::from_secs(5),
            patience: Duration::from_secs(30),
            boot: Boot([1; 16]),
            key: 42,
        };
        let (task, free) = (Rc::clone(&exec), free.to_vec());
        let opening = async move {
            let how = How::DirectoryTrusted;
            let path = std::ffi::CString::new(DIRECTORY).expect("no NUL");
            let op = Op::Open { at: None, path, how, identity: Identity::Server };
            let Done::Opened(directory) = task.run(op).await.result.expect("it is there") else { panic!() };
            Self::settled(Journal::open(Rc::clone(&task), directory, settings, &free).await)
        };
        let journal = exec.complete(opening).expect("a ring");
        exec.spawn(Rc::clone(&journal).write());
        Self { world, exec, journal }
    }

    fn settled(opened: Result<Rc<Journal>, FileFault>) -> Rc<Journal> {
        opened.unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// Appends messages at once, and says what came of them.
    fn append(&self, payloads: &[&'static [u8]]) -> Vec<Result<Entry, Refused>> {
        let journal = Rc::clone(&self.journal);
        let payloads = payloads.to_vec();
        let all = async move {
            crate::exec::join_all(payloads.into_iter().map(|payload| {
                let body = Rc::new(vec![Bytes::Static(payload)]);
                journal.append(head(payload), body, None)
            }))
            .await
        };
        self.exec.complete(all).expect("a ring")
    }

    /// The payloads that recovery would find in a segment.
    fn payloads(&self, segment: &str) -> Vec<Vec<u8>> {
        let bytes = self.world.read(&format!("{DIRECTORY}/{segment}")).expect("a segment");
        let segment = read_segment(&bytes).expect("a whole segment");
        segment.records().map(|record| record.payload.to_vec()).collect()
    }

    fn closed(&self) -> Closed {
        let journal = Rc::clone(&self.journal);
        self.exec.complete(async move { journal.closed().await }).expect("a ring")
    }

    fn retire(&self, closed: Closed) -> Result<(), FileFault> {
        let journal = Rc::clone(&self.journal);
        self.exec.complete(async move { journal.retire(closed).await }).expect("a ring")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.exec.clear();
    }
}

fn head(payload: &[u8]) -> RecordHead {
    let recipient = Recipient {
        owner: Owner::Server,
        home: None,
        path: "/mail/alice",
        name: "1.M1P1Q1W0.mx,S=1,W=1",
        trace: b"Delivered-To: alice\r\n",
    };
    RecordHead::new([recipient], payload.len() as u64, checksum([payload])).expect("a record")
}

#[test]
fn what_was_appended_is_durable_and_in_order() {
    let bench = Bench::new(1);
    assert!(bench.journal.is_empty());
    for text in [&b"one"[..], b"two", b"three"] {
        assert!(bench.append(&[text])[0].is_ok());
    }
    assert!(!bench.journal.is_empty());
    bench.world.power_cut(1);
    assert_eq!(bench.payloads("0-0.segment"), [&b"one"[..], b"two", b"three"]);
}

#[test]
fn who_waits_while_a_batch_is_written_makes_the_next_one() {
    let bench = Bench::new(2);
    let writes =
        |bench: &Bench| bench.world.recent().iter().filter(|line| line.contains("WriteDurably")).count();
    let before = writes(&bench);
    let all = bench.append(&[b"one", b"two", b"three", b"four", b"five"]);
    assert!(all.iter().all(Result::is_ok));
    assert!(writes(&bench) - before <= 4, "one batch, or two, each written in one or two steps");
    assert_eq!(bench.payloads("0-0.segment").len(), 5);
}

#[test]
fn an_old_segment_is_closed_when_its_messages_have_their_files_and_void_once_it_is_retired() {
    let bench = Bench::new(3);
    let entry = bench.append(&[b"one"]).remove(0);
    let begun = bench.world.now();
    let journal = Rc::clone(&bench.journal);
    let closed = Rc::new(RefCell::new(None));
    let slot = Rc::clone(&closed);
    bench.exec.spawn(async move {
        let found = journal.closed().await;
        *slot.borrow_mut() = Some(found);
    });
    bench.exec.run_until(bench.world.quiet_after(Duration::from_secs(60))).expect("a ring");
    assert!(closed.borrow().is_none(), "its file has no name yet");
    drop(entry);
    bench.exec.run_until(|| closed.borrow().is_some()).expect("a ring");
    assert!(bench.world.now().since(begun) >= Duration::from_secs(5));
    let closed = closed.take().expect("just seen");
    assert_eq!(closed.name, SegmentName { worker: 0, number: 0 });
    assert_eq!(bench.payloads("0-0.segment"), [b"one"]);
    bench.retire(closed).expect("a good disk");
    bench.world.power_cut(3);
    assert!(bench.payloads("0-0.segment").is_empty());
}

#[test]
fn when_no_segment_is_free_a_message_waits_and_is_refused_in_the_end() {
    let bench = Bench::new(4);
    static LARGE: [u8; 700_000] = [b'x'; 700_000];
    let kept: Vec<_> = (0..2).map(|_| bench.append(&[&LARGE]).remove(0).expect("room")).collect();
    bench.world.run_freely();
    let begun = bench.world.now();
    assert_eq!(bench.append(&[&LARGE]).remove(0).err(), Some(Refused::Full));
    assert!(bench.world.now().since(begun) >= Duration::from_secs(30));
    drop(kept);
    let closed = bench.closed();
    bench.retire(closed).expect("a good disk");
    assert!(bench.append(&[&LARGE])[0].is_ok(), "there is room again");
}

#[test]
fn after_a_failed_write_another_segment_is_filled_and_the_failed_one_goes() {
    let bench = Bench::new(5);
    let first = bench.append(&[b"one"]).remove(0);
    bench.world.fail(Fault::nth(OpKind::WriteDurably, 1, Errno::IO).on("0-0.segment"));
    assert_eq!(bench.append(&[b"two"]).remove(0).err(), Some(Refused::Write(Errno::IO)));
    assert!(bench.append(&[b"three"])[0].is_ok());
    assert_eq!(bench.payloads("0-1.segment"), [b"three"]);
    drop(first);
    let closed = bench.closed();
    assert_eq!(closed.name.number, 0);
    bench.world.heal();
    bench.retire(closed).expect("the disk is well again");
    assert_eq!(bench.world.list(DIRECTORY).expect("a directory"), ["0-1.segment", "0-2.segment"]);
}

#[test]
fn while_a_mail_file_system_cannot_be_synced_nothing_is_taken_in() {
    let bench = Bench::new(6);
    bench.journal.suspend(Errno::IO);
    assert_eq!(bench.append(&[b"one"]).remove(0).err(), Some(Refused::Unsettled(Errno::IO)));
    bench.journal.resume();
    assert!(bench.append(&[b"one"])[0].is_ok());
}

#[test]
fn a_new_segment_does_not_make_up_for_a_mail_file_system_that_cannot_be_synced() {
    let bench = Bench::new(9);
    bench.world.fail(Fault::nth(OpKind::WriteDurably, 1, Errno::IO).on("0-0.segment"));
    bench.world.fail(Fault::every(OpKind::OpenNew, Errno::NOSPC));
    assert_eq!(bench.append(&[b"one"]).remove(0).err(), Some(Refused::Write(Errno::IO)));
    // While the journal looks for room, again and again, a mail file system fails as well.
    bench.journal.suspend(Errno::IO);
    bench.exec.run_until(bench.world.quiet_after(Duration::from_secs(10))).expect("a ring");
    assert_eq!(bench.append(&[b"two"]).remove(0).err(), Some(Refused::Write(Errno::NOSPC)));
    bench.world.heal();
    bench.exec.run_until(bench.world.quiet_after(Duration::from_secs(10))).expect("a ring");
    assert_eq!(bench.append(&[b"two"]).remove(0).err(), Some(Refused::Unsettled(Errno::IO)));
    bench.journal.resume();
    assert!(bench.append(&[b"three"])[0].is_ok());
}

#[test]
fn free_segments_are_filled_again_under_another_key_and_other_files_are_left_alone() {
    let bench = Bench::new(7);
    assert!(bench.append(&[b"one"])[0].is_ok());
    let closed = {
        bench.journal.close();
        bench.closed()
    };
    bench.retire(closed).expect("a good disk");
    let world = bench.world.clone();
    drop(bench);
    world.write_file(&format!("{DIRECTORY}/0-7.segment.kept"), b"kept");
    let key = |name: &str| {
        let bytes = world.read(&format!("{DIRECTORY}/{name}")).expect("a segment");
        read_segment(&bytes).expect("a whole segment").header.key
    };
    let before = key("0-0.segment");
    let bench = Bench::open(world.clone(), &[SegmentName { worker: 0, number: 0 }]);
    assert_ne!(key("0-0.segment"), before);
    assert_eq!(
        world.list(DIRECTORY).expect("a directory"),
        ["0-0.segment", "0-1.segment", "0-7.segment.kept", "0-8.segment"],
        "0-1 was not said to be free"
    );
    assert!(bench.append(&[b"two"])[0].is_ok());
    assert_eq!(bench.payloads("0-0.segment"), [b"two"]);
}

#[test]
fn the_files_of_a_segment_are_synced_by_the_oldest_count_of_failures() {
    let bench = Bench::new(8);
    let entries = bench.append(&[b"one", b"two"]);
    let on = Rc::clone(bench.journal.directory());
    for (entry, failures) in entries.iter().zip([4, 3]) {
        let entry = entry.as_ref().expect("room");
        entry.placed_on(&Touched { device: 7, on: Rc::clone(&on), failures });
    }
    drop(entries);
    bench.journal.close();
    let closed = bench.closed();
    let touched: Vec<_> = closed.touched.iter().map(|one| (one.device, one.failures)).collect();
    assert_eq!(touched, [(7, 3)]);
}
