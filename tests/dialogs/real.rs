//! A dialog over the real ring: a worker on a thread of its own behind a Unix socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use posthaste::control::config::Config;
use posthaste::exec::Exec;
use posthaste::ring::SyncThreads;
use posthaste::ring::uring::{self, Setup, Uring};
use posthaste::serve::accept::{self, Service};

use super::play::{Files, Simulation, Wire, check_files, check_log, play};
use super::script::Script;
use super::server;

/// Plays `script` once.
///
/// # Panics
/// If the server differs from the script.
pub(crate) fn run(script: &Script) {
    let directory = server::scratch();
    let mail = directory.path().join("mail");
    std::fs::create_dir_all(mail.join("mallory")).expect("a directory of our own");
    std::os::unix::fs::symlink(mail.join("bob/Maildir"), mail.join("mallory/Maildir"))
        .expect("a directory of our own");
    for maildir in &script.maildirs {
        for sub in ["tmp", "new", "cur"] {
            std::fs::create_dir_all(mail.join(maildir).join(sub)).expect("a directory of our own");
        }
    }
    let socket = directory.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("a directory of our own");
    let config = server::config(script, "\"group\"");
    let served = serve(config.clone(), listener, &mail);
    let stream = UnixStream::connect(&socket).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    let replies = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut wire = Connected { stream, replies };
    play(script, &mut wire);
    wire.close();
    let log = served.join().expect("the server does not panic");
    let mut files = Files::new();
    collect(&mail, &mail, &mut files);
    check_files(script, &files, config.maildir.line_endings);
    check_log(script, &log);
}

/// Starts a worker that ends with its first connection, and gives its log.
fn serve(config: Config, listener: UnixListener, mail: &Path) -> JoinHandle<Vec<String>> {
    let mail = mail.to_owned();
    std::thread::spawn(move || {
        let setup = Setup {
            buffers_bytes: 1 << 20,
            file_workers: 2,
            file_cpu: None,
            link_by: uring::link_by(&[&mail]),
            sync_threads: SyncThreads::on(&posthaste::sys::cpu::allowed()),
        };
        let ring = Uring::new(&setup).unwrap_or_else(|error| panic!("{error}"));
        let listener = ring.adopt(listener.into());
        let exec = Exec::new(Box::new(ring));
        let table = server::table(&mail);
        let (worker, log) = server::worker(Rc::clone(&exec), server::settings(&config), table, 0x5eed);
        let (name, others) = (Arc::from("the socket"), Arc::new([]));
        exec.spawn(accept::accept(Rc::clone(&worker), listener, Service::Lmtp, name, others));
        let mut is_served = false;
        exec.run_until(|| {
            is_served |= worker.connections() > 0;
            is_served && worker.connections() == 0
        })
        .expect("the ring works");
        exec.clear();
        drop((worker, exec));
        log.finish()
    })
}

fn collect(root: &Path, directory: &Path, files: &mut Files) {
    for entry in std::fs::read_dir(directory).expect("a directory of our own") {
        let entry = entry.expect("a directory of our own");
        let (path, kind) = (entry.path(), entry.file_type().expect("it is there"));
        if kind.is_dir() {
            collect(root, &path, files);
        } else if kind.is_file() {
            let name = path.strip_prefix(root).expect("beneath it").to_string_lossy();
            files.insert(name.into_owned(), std::fs::read(&path).expect("a file of our own"));
        }
    }
}

struct Connected {
    stream: UnixStream,
    replies: BufReader<UnixStream>,
}

impl Wire for Connected {
    fn send(&mut self, bytes: &[u8]) {
        // A server that has closed is noticed by what it does not say.
        let _ = self.stream.write_all(bytes);
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.replies.read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(_) => {}
            // Closed with bytes of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("the server says nothing for {PATIENCE:?}: {error}"),
        }
        let line = line.strip_suffix(b"\r\n").expect("replies end in CRLF");
        Some(String::from_utf8(line.to_vec()).expect("replies are UTF-8"))
    }

    fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("it is open");
    }

    fn close(&mut self) {
        // Fails when the server was quicker.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn world(&mut self) -> &mut dyn Simulation {
        panic!("this dialog needs \"# ring: simulated\"")
    }
}

/// How long a reply may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);
