//! Files that exist, on the real ring: read, overwritten in place, written durably, listed.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use posthaste::limits;
use posthaste::ring::uring::LinkBy;
use posthaste::ring::{Bytes, Done, Fd, How, Identity, Op, Part};
use rustix::io::Errno;

use crate::ground::Ground;
use crate::ring::{c_path, on, open, opened, ring};

#[test]
fn durable_writes_overwrite_in_place_in_order_and_go_on_after_the_most_vectors_of_one() {
    let ground = Ground::new();
    let directory = ground.path("");
    fs::write(directory.join("segment"), vec![0; 8192]).expect("room");
    on(ring(LinkBy::ProcPath), |exec| async move {
        let at = open(&exec, &directory).await;
        let file = opened(&exec, existing(&at, "segment", How::ReadWrite)).await;
        // One vector for the head, and as many for the body as the kernel takes at once.
        let body = Rc::new(vec![Bytes::Static(b"ab"); limits::WRITE_VECTORS_MAX]);
        let last = Part { head: b" last".into(), ..Part::default() };
        let mut parts = vec![Part { head: b"first ".into(), body }, last];
        let whole = [b"first ".as_slice(), &b"ab".repeat(limits::WRITE_VECTORS_MAX), b" last"].concat();
        assert_eq!(parts.iter().map(Part::len).sum::<usize>(), whole.len());
        let (mut skip, mut writes) = (0, 0);
        while skip < whole.len() {
            let offset = 4096 + u64::try_from(skip).expect("few");
            let op = Op::WriteDurably { file: Rc::clone(&file), parts, skip, offset };
            let finished = exec.run(op).await;
            let (Ok(Done::Count(count)), Some(Op::WriteDurably { parts: back, .. })) =
                (finished.result, finished.op)
            else {
                panic!("not written");
            };
            (parts, skip, writes) = (back, skip + count, writes + 1);
        }
        assert_eq!(writes, 2, "a regular file takes all the vectors of a call");
        let now = fs::read(directory.join("segment")).expect("it is there");
        assert_eq!(now.len(), 8192);
        assert_eq!(&now[4096..4096 + whole.len()], whole);
        assert!(now[..4096].iter().chain(&now[4096 + whole.len()..]).all(|&byte| byte == 0));
    });
}

#[test]
fn what_is_appended_goes_behind_the_end_that_others_have_moved() {
    let ground = Ground::new();
    let directory = ground.path("");
    fs::write(directory.join("list"), b"one\n").expect("room");
    on(ring(LinkBy::ProcPath), |exec| async move {
        let at = open(&exec, &directory).await;
        let mine = opened(&exec, existing(&at, "list", How::Append)).await;
        let theirs = opened(&exec, existing(&at, "list", How::Append)).await;
        for (file, line) in [(&theirs, &b"two\n"[..]), (&mine, b"three\n")] {
            let (head, body) = (line.to_vec(), Rc::default());
            let op = Op::Write { file: Rc::clone(file), head, body, skip: 0, offset: 4 };
            let Ok(Done::Count(count)) = exec.run(op).await.result else { panic!("not written") };
            assert_eq!(count, line.len());
        }
        assert_eq!(fs::read(directory.join("list")).expect("it is there"), b"one\ntwo\nthree\n");
    });
}

#[test]
fn a_read_fills_the_buffer_from_its_start_and_says_where_the_file_ends() {
    let ground = Ground::new();
    let directory = ground.path("");
    fs::write(directory.join("message"), b"From: a\r\n\r\nhello\r\n").expect("room");
    on(ring(LinkBy::ProcPath), |exec| async move {
        let at = open(&exec, &directory).await;
        let file = opened(&exec, existing(&at, "message", How::ReadOnly)).await;
        let cases = [(11, 5, b"hello".as_slice()), (11, 64, b"hello\r\n"), (18, 64, b""), (1 << 40, 64, b"")];
        for (offset, wanted, expected) in cases {
            let op = Op::Read { file: Rc::clone(&file), buffer: vec![b'?'; wanted], offset };
            let finished = exec.run(op).await;
            let (Ok(Done::Count(count)), Some(Op::Read { buffer, .. })) = (finished.result, finished.op)
            else {
                panic!("not read");
            };
            assert_eq!(&buffer[..count], expected);
            assert_eq!(buffer.len(), wanted);
            assert!(buffer[count..].iter().all(|&byte| byte == b'?'), "what lies behind is as it was");
        }
    });
}

#[test]
fn an_existing_file_is_found_beneath_its_directory_only_and_keeps_nobody_waiting() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let ground = Ground::new();
    let directory = ground.path("");
    fs::create_dir(directory.join("sub")).expect("room");
    fs::write(directory.join("file"), b"x").expect("room");
    std::os::unix::fs::symlink("file", directory.join("link")).expect("room");
    mknodat(CWD, directory.join("pipe"), FileType::Fifo, Mode::RWXU, 0).expect("room");
    on(ring(LinkBy::ProcPath), |exec| async move {
        let at = open(&exec, &directory).await;
        for how in [How::ReadOnly, How::ReadWrite, How::Append] {
            let refusals = [
                ("missing", Errno::NOENT),
                ("link", Errno::LOOP),
                ("../file", Errno::XDEV),
                ("/etc/passwd", Errno::XDEV),
            ];
            for (path, refused) in refusals {
                let finished = exec.run(existing(&at, path, how)).await;
                assert_eq!(finished.result.err(), Some(refused), "{how:?} {path}");
            }
            opened(&exec, existing(&at, "file", how)).await;
            opened(&exec, existing(&at, "pipe", how)).await;
        }
        let refused = exec.run(existing(&at, "sub", How::ReadWrite)).await.result;
        assert_eq!(refused.err(), Some(Errno::ISDIR));
        let sub = opened(&exec, existing(&at, "sub", How::ReadOnly)).await;
        let refused = exec.run(Op::Read { file: sub, buffer: vec![0; 8], offset: 0 }).await.result;
        assert_eq!(refused.err(), Some(Errno::ISDIR));
    });
}

#[test]
fn names_are_all_those_of_the_directory_each_time_it_is_asked() {
    let ground = Ground::new();
    let directory = ground.path("");
    let mut names: Vec<_> = (0..3000).map(|number| format!("a-rather-long-name-{number:04}")).collect();
    names.iter().for_each(|name| fs::write(directory.join(name), b"").expect("room"));
    on(ring(LinkBy::ProcPath), |exec| async move {
        let at = open(&exec, &directory).await;
        for _ in 0..2 {
            let found = exec.with_ring(|ring| ring.names(&at)).expect("a directory");
            let found = found.iter().map(|name| name.to_str().expect("ASCII").to_owned());
            let mut found: Vec<String> = found.collect();
            found.sort();
            assert_eq!(found, names);
        }
        let last = names.pop().expect("many");
        fs::remove_file(directory.join(last)).expect("it is there");
        assert_eq!(exec.with_ring(|ring| ring.names(&at)).expect("a directory").len(), names.len());
        let file = opened(&exec, existing(&at, &names[0], How::ReadOnly)).await;
        assert_eq!(exec.with_ring(|ring| ring.names(&file)).err(), Some(Errno::NOTDIR));
    });
}

fn existing(at: &Rc<Fd>, path: &str, how: How) -> Op {
    Op::Open { at: Some(Rc::clone(at)), path: c_path(Path::new(path)), how, identity: Identity::Server }
}
