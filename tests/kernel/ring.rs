//! The laws of the ring that rest on the kernel: memory and descriptors stay with an operation until it is over.

use std::cell::Cell;
use std::fs;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use posthaste::exec::{Exec, Patience, join_all, join_two};
use posthaste::limits;
use posthaste::ring::uring::{LinkBy, Setup, Uring};
use posthaste::ring::{Bytes, Done, Fd, How, Identity, Op, SyncThreads};
use posthaste::serve::connection::{Connection, End};
use rustix::io::Errno;

use crate::client::PATIENCE;
use crate::ground::Ground;

/// A ring of its smallest size.
pub(crate) fn ring(link_by: LinkBy) -> Uring {
    let setup = Setup {
        buffers_bytes: usize::from(limits::BUFFERS_MIN) * limits::BUFFER_BYTES,
        file_workers: limits::FILE_WORKERS,
        file_cpu: None,
        link_by,
        sync_threads: SyncThreads::on(&posthaste::sys::cpu::allowed()),
    };
    Uring::new(&setup).unwrap_or_else(|error| panic!("{error}"))
}

/// Tells a story to its end, on an executor over `ring`, and fails when it takes too long.
pub(crate) fn on<F>(ring: Uring, story: impl FnOnce(Rc<Exec>) -> F) -> F::Output
where
    F: Future + 'static,
    F::Output: 'static,
{
    let exec = Exec::new(Box::new(ring));
    let told = Rc::new(Cell::new(None));
    let (telling, end) = (story(Rc::clone(&exec)), Rc::clone(&told));
    exec.spawn(async move { end.set(Some(telling.await)) });
    let (clock, until) = (Rc::clone(&exec), exec.now().after(PATIENCE));
    exec.spawn(async move {
        clock.sleep_until(until).await;
        panic!("the story does not end");
    });
    let mut outcome = None;
    let run = exec.run_until(|| {
        outcome = told.take();
        outcome.is_some()
    });
    run.expect("the ring works");
    exec.clear();
    outcome.expect("the story was told")
}

#[test]
fn a_cancelled_receive_comes_back_with_its_operation_and_takes_no_buffer() {
    let ring = ring(LinkBy::ProcPath);
    let (here, _there) = pair(&ring);
    on(ring, |exec| async move {
        let mut pending = exec.start(Op::Recv { socket: Rc::clone(&here) });
        turn(&exec).await;
        pending.cancel();
        let finished = pending.await;
        assert!(matches!(finished.result, Err(Errno::CANCELED)), "{:?}", finished.result);
        assert!(matches!(finished.op, Some(Op::Recv { socket }) if Rc::ptr_eq(&socket, &here)));
        assert_eq!(exec.pool().free(), exec.pool().count());
    });
}

#[test]
fn a_cancelled_accept_ends_after_the_connections_that_it_had_taken() {
    let ground = Ground::new();
    let path = ground.path("listener");
    let listener = UnixListener::bind(&path).expect("a socket");
    let ring = ring(LinkBy::ProcPath);
    let listener = ring.adopt(OwnedFd::from(listener));
    on(ring, |exec| async move {
        let mut pending = exec.start(Op::Accept { listener });
        let _clients: Vec<_> =
            (0..3).map(|_| UnixStream::connect(&path).expect("a backlog of three")).collect();
        let mut accepted = Vec::new();
        while accepted.len() < 3 {
            let finished = (&mut pending).await;
            let Ok(Done::Opened(socket)) = finished.result else { panic!("{:?}", finished.result) };
            assert!(finished.op.is_none(), "the accept goes on");
            accepted.push(socket);
        }
        pending.cancel();
        let last = pending.await;
        assert!(matches!(last.result, Err(Errno::CANCELED)), "{:?}", last.result);
        assert!(matches!(last.op, Some(Op::Accept { .. })), "the operation comes with the last completion");
    });
}

#[test]
fn an_open_that_nobody_waits_for_closes_its_descriptor_later() {
    let ground = Ground::new();
    let directory = ground.path("");
    on(ring(LinkBy::ProcPath), |exec| async move {
        let at = open(&exec, &directory).await;
        let before = open_files(&directory);
        let names: Vec<String> = (0..100).map(|number| format!("file{number}")).collect();
        for name in &names {
            drop(exec.start(new_file(&at, name)));
        }
        // They happen all the same: every file is there. And then none of them stays open.
        eventually(&exec, || {
            names.iter().all(|name| directory.join(name).exists()) && open_files(&directory) == before
        })
        .await;
    });
}

#[test]
fn a_descriptor_is_not_given_to_another_file_while_an_operation_uses_it() {
    let ground = Ground::new();
    let directory = ground.path("");
    let ring = ring(LinkBy::ProcPath);
    let (here, there) = pair(&ring);
    on(ring, |exec| async move {
        let at = open(&exec, &directory).await;
        let number = here.raw();
        let socket = fs::read_link(format!("/proc/self/fd/{number}")).expect("it is open");
        // Nobody but the operation holds the socket from here on, and nobody waits for it.
        drop(exec.start(Op::Recv { socket: here }));
        let mut others = Vec::new();
        for index in 0..20 {
            others.push(opened(&exec, new_file(&at, &format!("file{index}"))).await);
        }
        assert!(others.iter().all(|file| file.raw() != number), "the number is taken");
        assert_eq!(fs::read_link(format!("/proc/self/fd/{number}")).expect("still open"), socket);

        drop(there);
        // The peer closed, so the receive is over, and with it the last use of the socket.
        eventually(&exec, || fs::read_link(format!("/proc/self/fd/{number}")).ok().as_ref() != Some(&socket))
            .await;
    });
}

#[test]
fn a_receive_that_finds_no_buffer_waits_for_one_and_goes_on() {
    let ring = ring(LinkBy::ProcPath);
    let (here, mut there) = pair(&ring);
    on(ring, |exec| async move {
        let mut connection = Connection::new(Rc::clone(&exec), here, PATIENCE);
        let patience = Patience { until: exec.now().after(PATIENCE), unless: None };
        let mut leases = Vec::new();
        for number in 0..exec.pool().count() {
            say(&mut there, &number.to_be_bytes());
            leases.push(connection.receive(patience).await.expect("a buffer is free"));
        }
        assert_eq!(exec.pool().free(), 0);

        say(&mut there, b"patience");
        let soon = Patience { until: exec.now().after(Duration::from_millis(50)), unless: None };
        assert!(matches!(connection.receive(soon).await, Err(End::TimedOut)), "there is no buffer");

        let kept = leases.split_off(1);
        let give_back = async {
            exec.sleep_until(exec.now().after(Duration::from_millis(50))).await;
            drop(leases);
        };
        let ((), received) = join_two(give_back, connection.receive(patience)).await;
        assert_eq!(received.expect("a buffer came back").bytes(), b"patience");
        for (number, lease) in (1_u16..).zip(&kept) {
            assert_eq!(lease.bytes(), number.to_be_bytes(), "a lease that is held is not written to");
        }
    });
}

#[test]
fn two_hundred_writes_and_syncs_at_once_make_no_more_kernel_threads_than_the_cap() {
    let ground = Ground::new();
    let directory = ground.path("");
    let most = on(ring(LinkBy::ProcPath), |exec| async move {
        let at = open(&exec, &directory).await;
        let names: Vec<String> = (0..200).map(|number| format!("file{number}")).collect();
        let files = join_all(names.iter().map(|name| opened(&exec, new_file(&at, name)))).await;
        let body = Rc::new(vec![Bytes::Owned(vec![b'x'; 256 << 10].into())]);
        let mut most = kernel_threads();
        let working = Cell::new(true);
        let work = async {
            // A sync has to wait for the disk, and then the kernel would like another thread for the next one.
            let writes = files.iter().map(async |file| {
                assert_eq!(write(&exec, file, &body).await, 256 << 10);
                exec.run(Op::Sync { file: Rc::clone(file) }).await.result.expect("a sync");
            });
            join_all(writes).await;
            working.set(false);
        };
        let watch = async {
            while working.get() {
                most = most.max(kernel_threads());
                exec.give_way().await;
            }
        };
        join_two(work, watch).await;
        most
    });
    // The cap holds for each of the two kinds of work that the kernel tells apart.
    let cap = 2 * usize::try_from(limits::FILE_WORKERS).expect("a few");
    assert!((1..=cap).contains(&most), "{most} threads, at least 1 and at most {cap}");
}

/// A connected pair: one end in `ring`, the other one here.
pub(crate) fn pair(ring: &Uring) -> (Rc<Fd>, UnixStream) {
    let (here, there) = UnixStream::pair().expect("two sockets");
    (ring.adopt(OwnedFd::from(here)), there)
}

pub(crate) fn say(stream: &mut UnixStream, bytes: &[u8]) {
    std::io::Write::write_all(stream, bytes).expect("room in the socket");
}

/// Lets everything that was submitted reach the kernel.
pub(crate) async fn turn(exec: &Exec) {
    exec.give_way().await;
    exec.give_way().await;
}

/// Turns the ring until `condition` holds.
async fn eventually(exec: &Exec, mut condition: impl FnMut() -> bool) {
    while !condition() {
        exec.sleep_until(exec.now().after(Duration::from_millis(2))).await;
    }
}

pub(crate) async fn open(exec: &Exec, directory: &Path) -> Rc<Fd> {
    let path = c_path(directory);
    opened(exec, Op::Open { at: None, path, how: How::DirectoryTrusted, identity: Identity::Server }).await
}

fn new_file(at: &Rc<Fd>, name: &str) -> Op {
    Op::Open {
        at: Some(Rc::clone(at)),
        path: c_path(Path::new(name)),
        how: How::New,
        identity: Identity::Server,
    }
}

pub(crate) async fn opened(exec: &Exec, op: Op) -> Rc<Fd> {
    match exec.run(op).await.result {
        Ok(Done::Opened(fd)) => fd,
        other => panic!("not opened: {other:?}"),
    }
}

/// Writes `body`, which a regular file takes whole.
async fn write(exec: &Exec, file: &Rc<Fd>, body: &Rc<Vec<Bytes>>) -> usize {
    let (file, body) = (Rc::clone(file), Rc::clone(body));
    match exec.run(Op::Write { file, head: Vec::new(), body, skip: 0, offset: 0 }).await.result {
        Ok(Done::Count(count)) => count,
        other => panic!("not written: {other:?}"),
    }
}

pub(crate) fn c_path(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL")
}

/// Open descriptors of files in `directory`: a runner may run other tests in this process.
fn open_files(directory: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd").expect("/proc");
    all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.starts_with(directory))
        .count()
}

/// Kernel threads that work for rings of this thread: they bear its number.
fn kernel_threads() -> usize {
    let name = format!("iou-wrk-{}", rustix::thread::gettid().as_raw_nonzero());
    let tasks = fs::read_dir("/proc/self/task").expect("/proc");
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|comm| comm.trim_end() == name)
        .count()
}
