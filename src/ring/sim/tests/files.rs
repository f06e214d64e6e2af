//! Files that exist: read, overwritten in place, written durably.

use std::collections::BTreeSet;

use super::*;
use crate::ring::Part;

const SEGMENT: &str = "/mail/segment";

impl Rig {
    /// Opens a file of the mail root.
    fn existing(&mut self, path: &str, how: How) -> Result<Rc<Fd>, Errno> {
        let mail = self.directory("/mail");
        self.open_in(Some(&mail), path, how, Identity::Server)
    }

    /// A file of so many zeroes, open for reading and writing.
    pub(super) fn segment(&mut self, length: usize) -> Rc<Fd> {
        self.world.write_file(SEGMENT, &vec![0; length]);
        self.existing("segment", How::ReadWrite).expect("just made")
    }

    /// Reads the whole file in pieces of at most `piece` bytes.
    fn read_whole(&mut self, file: &Rc<Fd>, piece: usize) -> Vec<u8> {
        let mut whole = Vec::new();
        loop {
            let offset = u64::try_from(whole.len()).expect("short");
            let token = self.push(Op::Read { file: Rc::clone(file), buffer: vec![b'?'; piece], offset });
            let completion = self.completion(token);
            let (Ok(Done::Count(count)), Some(Op::Read { buffer, .. })) = (completion.result, completion.op)
            else {
                panic!("a read gives a count and its buffer");
            };
            if count == 0 {
                return whole;
            }
            assert!(buffer[count..].iter().all(|&byte| byte == b'?'), "what lies behind is as it was");
            whole.extend_from_slice(&buffer[..count]);
        }
    }

    fn completion(&mut self, token: Token) -> Completion {
        loop {
            let done = self.turn(None);
            if let Some(completion) = done.into_iter().find(|completion| completion.token == token) {
                return completion;
            }
        }
    }

    fn write_durably(&mut self, file: &Rc<Fd>, parts: &[Part], offset: u64) -> Result<(), Errno> {
        let total: usize = parts.iter().map(Part::len).sum();
        let mut skip = 0;
        while skip < total {
            let at = offset + u64::try_from(skip).expect("short");
            match self.run(durable(file, parts, skip, at))? {
                Done::Count(count) => skip += count,
                other => panic!("a write gives a count, not {other:?}"),
            }
        }
        Ok(())
    }
}

pub(super) fn durable(file: &Rc<Fd>, parts: &[Part], skip: usize, offset: u64) -> Op {
    Op::WriteDurably { file: Rc::clone(file), parts: parts.to_vec(), skip, offset }
}

pub(super) fn part(head: &[u8], body: &[&'static [u8]]) -> Part {
    let body = body.iter().map(|bytes| Bytes::Static(bytes)).collect();
    Part { head: head.to_vec().into(), body: Rc::new(body) }
}

/// What stands in the segment after power cuts with many seeds.
fn segments_after_power_cuts(length: usize, act: impl Fn(&mut Rig, &Rc<Fd>)) -> BTreeSet<Vec<u8>> {
    (0..256)
        .map(|seed| {
            let mut rig = Rig::new(seed);
            let file = rig.segment(length);
            act(&mut rig, &file);
            let world = rig.world.clone();
            drop((rig, file));
            world.power_cut(seed);
            world.read(SEGMENT).expect("its name was durable")
        })
        .collect()
}

/// Which sectors of `bytes` are not zero any more, by their first byte: a write that was short may have its rest
/// behind it.
fn sectors_of(bytes: &[u8]) -> Vec<bool> {
    bytes.chunks(512).map(|sector| sector[0] != 0).collect()
}

#[test]
fn a_file_is_read_in_pieces_that_may_be_short_and_ends_with_nothing() {
    for seed in 0..32 {
        let mut rig = Rig::new(seed);
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        rig.world.write_file(SEGMENT, &bytes);
        let file = rig.existing("segment", How::ReadOnly).expect("it is there");
        assert_eq!(rig.read_whole(&file, 777), bytes, "seed {seed}");
    }
}

#[test]
fn an_existing_file_is_opened_beneath_a_directory_and_used_only_as_it_was_opened() {
    let mut rig = Rig::new(1);
    rig.world.write_file(SEGMENT, b"old");
    rig.world.make_symlink("/mail/link", SEGMENT);
    for how in [How::ReadOnly, How::ReadWrite, How::Append] {
        assert_eq!(rig.existing("missing", how).err(), Some(Errno::NOENT));
        assert_eq!(rig.existing("link", how).err(), Some(Errno::LOOP));
        assert_eq!(rig.existing("../mail/segment", how).err(), Some(Errno::XDEV));
        assert_eq!(rig.existing(SEGMENT, how).err(), Some(Errno::XDEV));
    }
    assert_eq!(rig.existing("alice", How::ReadWrite).err(), Some(Errno::ISDIR));
    let directory = rig.existing("alice", How::ReadOnly).expect("as the kernel does");
    let read = |file: &Rc<Fd>| Op::Read { file: Rc::clone(file), buffer: vec![0; 8], offset: 0 };
    assert!(matches!(rig.run(read(&directory)), Err(Errno::ISDIR)));

    let readable = rig.existing("segment", How::ReadOnly).expect("it is there");
    let refused = rig.run(durable(&readable, &[part(b"new", &[])], 0, 0));
    assert!(matches!(refused, Err(Errno::BADF)), "{refused:?}");
    let writable = rig.unnamed(b"mail");
    assert!(matches!(rig.run(read(&writable)), Err(Errno::BADF)));
}

#[test]
fn what_is_appended_goes_behind_the_end_whatever_offset_is_named() {
    let mut rig = Rig::new(3);
    rig.world.write_file(SEGMENT, b"one ");
    let file = rig.existing("segment", How::Append).expect("it is there");
    for word in [&b"2"[..], b"3"] {
        let (head, body) = (word.to_vec(), Rc::default());
        let op = Op::Write { file: Rc::clone(&file), head, body, skip: 0, offset: 0 };
        assert!(matches!(rig.run(op), Ok(Done::Count(1))));
    }
    assert_eq!(rig.read_whole(&file, 64), b"one 23");
}

#[test]
fn names_are_those_of_the_directory_in_any_order() {
    let mut rig = Rig::new(2);
    let names: Vec<String> = (0..20).map(|number| format!("{number:02}")).collect();
    names.iter().for_each(|name| rig.world.write_file(&format!("/mail/bob/new/{name}"), b""));
    let directory = rig.directory("/mail/bob/new");
    let mut found = rig.ring.names(&directory).expect("a directory");
    assert_ne!(found, rig.ring.names(&directory).expect("a directory"), "the order means nothing");
    found.sort();
    assert_eq!(found, names.iter().map(|text| name(text)).collect::<Vec<_>>());
    let file = rig.existing("bob/new/00", How::ReadOnly).expect("it is there");
    assert_eq!(rig.ring.names(&file).err(), Some(Errno::NOTDIR));
}

#[test]
fn a_durable_write_puts_its_parts_in_order_and_survives_every_power_cut() {
    let parts = [part(b"one ", &[b"two ", b"", b"three "]), part(b"", &[]), part(b"four", &[])];
    let seen = segments_after_power_cuts(32, |rig, file| {
        rig.write_durably(file, &parts, 4).expect("no fault");
    });
    let whole = b"\0\0\0\0one two three four\0\0\0\0\0\0\0\0\0\0".to_vec();
    assert_eq!(seen, BTreeSet::from([whole]));
}

#[test]
fn an_overwrite_that_nobody_synced_is_old_or_new_in_each_sector() {
    let seen = segments_after_power_cuts(4 * 512, |rig, file| rig.write(file, &[b'x'; 4 * 512]));
    let seen: BTreeSet<_> = seen.iter().map(|bytes| sectors_of(bytes)).collect();
    assert_eq!(seen.len(), 16, "every subset: {seen:?}");
}

#[test]
fn a_durable_write_under_way_is_torn_at_sectors_and_seen_by_readers() {
    let mut torn = BTreeSet::new();
    for seed in 0..256 {
        let mut rig = Rig::new(seed);
        let file = rig.segment(2 * 512);
        rig.push(durable(&file, &[part(&[b'x'; 2 * 512], &[])], 0, 0));
        while rig.world.read(SEGMENT).expect("a file")[0] == 0 {
            rig.turn(Some(Duration::from_micros(1)));
        }
        let world = rig.world.clone();
        drop((rig, file));
        world.power_cut(seed);
        torn.insert(sectors_of(&world.read(SEGMENT).expect("a file")));
    }
    assert_eq!(torn.len(), 4, "every subset: {torn:?}");
}

#[test]
fn what_is_written_at_once_into_one_sector_is_old_or_new() {
    let seen = segments_after_power_cuts(3 * 512, |rig, file| {
        rig.push(durable(file, &[part(&[b'x'; 512], &[])], 0, 512));
        while rig.world.read(SEGMENT).expect("a file")[512] == 0 {
            rig.turn(Some(Duration::from_micros(1)));
        }
    });
    // A short one writes less, and that whole or not at all as well.
    let changed = |bytes: &Vec<u8>| bytes.iter().filter(|&&byte| byte == b'x').count();
    let whole = seen.iter().filter(|bytes| changed(bytes) == 512).count();
    let none = seen.iter().filter(|bytes| changed(bytes) == 0).count();
    assert_eq!((whole, none), (1, 1), "{seen:?}");
}

#[test]
fn a_durable_write_settles_neither_other_bytes_nor_names_nor_a_size() {
    let seen = segments_after_power_cuts(512, |rig, file| {
        rig.run(Op::Write {
            file: Rc::clone(file),
            head: b"x".to_vec(),
            body: Rc::default(),
            skip: 0,
            offset: 0,
        })
        .expect("no fault");
        rig.write_durably(file, &[part(&[b'y'; 8], &[])], 508).expect("no fault");
    });
    let first: BTreeSet<u8> = seen.iter().map(|bytes| bytes[0]).collect();
    assert_eq!(first, BTreeSet::from([0, b'x']));
    assert!(seen.iter().all(|bytes| bytes[508..512] == *b"yyyy"));
    let lengths: BTreeSet<usize> = seen.iter().map(Vec::len).collect();
    assert_eq!(lengths.first(), Some(&512), "the size was not synced");
    assert_eq!(lengths.last(), Some(&516), "and may have survived");
}

#[test]
fn what_was_given_up_does_not_come_back_over_what_was_written_later() {
    let seen = segments_after_power_cuts(3 * 512, |rig, file| {
        rig.world.fail(Fault::nth(OpKind::Sync, 1, Errno::IO));
        rig.write(file, &[b'x'; 3 * 512]);
        assert!(matches!(rig.sync(file), Err(Errno::IO)));
        rig.write_durably(file, &[part(&[b'y'; 512], &[])], 512).expect("no fault");
    });
    assert!(seen.iter().all(|bytes| bytes[512..1024] == [b'y'; 512]));
    let first: BTreeSet<u8> = seen.iter().map(|bytes| bytes[0]).collect();
    assert_eq!(first, BTreeSet::from([0, b'x']));
}

#[test]
fn a_durable_write_that_failed_left_nothing_or_something() {
    let mut live = BTreeSet::new();
    let seen = {
        let live = std::cell::RefCell::new(&mut live);
        segments_after_power_cuts(512, |rig, file| {
            rig.world.fail(Fault::nth(OpKind::WriteDurably, 1, Errno::IO).on("segment"));
            assert_eq!(rig.write_durably(file, &[part(&[b'x'; 512], &[])], 0), Err(Errno::IO));
            live.borrow_mut().insert(rig.world.read(SEGMENT).expect("a file")[0]);
            // Nobody has the disk write what the kernel takes for written.
            rig.sync(file).expect("the kernel says all is well");
        })
    };
    assert_eq!(live, BTreeSet::from([0, b'x']));
    let first: BTreeSet<u8> = seen.iter().map(|bytes| bytes[0]).collect();
    assert_eq!(first, BTreeSet::from([0, b'x']));
}

#[test]
fn a_failed_sync_of_the_file_system_is_told_to_whoever_syncs_a_file_of_it_once() {
    let mut rig = Rig::new(3);
    rig.world.fail(Fault::nth(OpKind::SyncFs, 1, Errno::IO));
    let file = rig.segment(512);
    rig.write(&file, b"x");
    assert!(matches!(rig.run(Op::SyncFs { on: Rc::clone(&file) }), Err(Errno::IO)));
    assert!(matches!(rig.sync(&file), Err(Errno::IO)));
    rig.sync(&file).expect("told once");
}
