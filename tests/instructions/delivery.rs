//! Whole sessions over the simulated ring, through everything that the server does with them: executor, session,
//! look-up, journal, store, log. The ring itself is not counted: what [`Outside`] does is simulation.

use std::ffi::CString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crossbeam::utils::CachePadded;
use posthaste::control::config::{Config, Host};
use posthaste::control::server;
use posthaste::exec::Exec;
use posthaste::journal::{self, Boot, Journal};
use posthaste::limits;
use posthaste::observe::log::Log;
use posthaste::ring::sim::{Client, Cut, Device, Sim, World};
use posthaste::ring::{
    Approach, Completion, Done, Fd, How, Identity, Op, Owner, Passed, Peer, Pool, Ring, Time, Token,
};
use posthaste::serve::accept::{self, Service};
use posthaste::serve::checkpoint;
use posthaste::serve::worker::{Seat, Worker};
use posthaste::sys::limit::Allowance;
use posthaste::users::build::{self, Options};
use posthaste::users::entry::Entry;
use posthaste::users::key::LocalPart;
use posthaste::users::table::Table;
use rustix::io::Errno;

use super::callgrind::{begin, counted, uncounted};
use super::mail::mail;

// The server allocates from this one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Delivers `times` messages, counted, after a few that are not.
pub(crate) fn run(durability: &str, times: u64) {
    let world = World::new(SEED);
    // As ext4 and XFS are: `group` then needs one round of syncs, and not two.
    world.mount(MAIL, Device { has_tmpfile: true, keeps_order: true });
    world.make_directory(JOURNAL);
    for user in 0..USERS {
        for sub in ["tmp", "new", "cur"] {
            world.make_directory(&format!("{}/{sub}", maildir(user)));
        }
    }
    let server = Server::start(&world, durability);
    let message = mail(MESSAGE_BYTES, 200);
    (0..WARM_UP).for_each(|number| server.session(number, &message, turn));
    server.log_is_stuck();
    begin();
    (WARM_UP..WARM_UP + times)
        .for_each(|number| server.session(number, &message, |exec, until| counted(|| turn(exec, until))));
    let files =
        (0..USERS).map(|user| world.list(&format!("{}/new", maildir(user))).expect("a directory").len());
    assert_eq!(files.sum::<usize>() as u64, WARM_UP + times, "every message is there");
}

/// A server with one worker, on the simulated ring.
struct Server {
    world: World,
    exec: Rc<Exec>,
    log: StuckLog,
}

/// Turns the executor until it is told to stop.
type Turn = fn(&Exec, &mut dyn FnMut() -> bool);

fn turn(exec: &Exec, until: &mut dyn FnMut() -> bool) {
    exec.run_until(|| uncounted(&mut *until)).expect("the simulated ring does not fail");
}

impl Server {
    fn start(world: &World, durability: &str) -> Self {
        let ring = Sim::new(world).expect("memory for buffers");
        let listener = ring.listener();
        let exec = Exec::new(Box::new(Outside(ring)));
        world.run_freely();
        let (lines, log) = StuckLog::new();
        // Its thread ends with the last worker that holds it, or with this process.
        let (lines, _thread) = Log::to(lines).expect("a thread");
        let (seen, durability) = (Rc::clone(&exec), durability.to_owned());
        exec.spawn(async move {
            let exec = seen;
            let journal = if durability == "journal" { Some(open_journal(&exec).await) } else { None };
            let settings = Arc::new(server::settings(&config(&durability), &ALLOWANCE));
            let loads = Arc::new([CachePadded::new(AtomicUsize::new(0))]);
            let seat = Seat { index: 0, loads, random: 0x5eed, journal };
            let worker = Worker::new(exec, settings, table(), lines, seat);
            checkpoint::start(&worker);
            let (name, others) = (Arc::from("the simulated listener"), Arc::new([]));
            accept::accept(worker, listener, Service::Lmtp, name, others).await;
        });
        Self { world: world.clone(), exec, log }
    }

    /// One client with one message, from its connection to the end of it; pipelined as by Postfix.
    fn session(&self, number: u64, message: &[u8], turn: Turn) {
        let client = self.world.connect();
        client.cut(Cut::Whole);
        let user = number % USERS;
        let envelope = format!(
            "MAIL FROM:<sender@example.org> SIZE=4100\r\nRCPT TO:<user{user}@example.net>\r\nDATA\r\n"
        );
        self.listen(&client, &["220"], turn);
        for (words, replies) in [
            (&b"LHLO client.example.org\r\n"[..], &["250"][..]),
            (envelope.as_bytes(), &["250", "250", "354"]),
            (message, &["250"]),
            (b"QUIT\r\n", &["221"]),
        ] {
            client.send(words);
            self.listen(&client, replies, turn);
        }
        turn(&self.exec, &mut || client.is_closed());
        client.close();
    }

    /// Until the server has given these replies.
    fn listen(&self, client: &Client, codes: &[&str], turn: Turn) {
        let mut heard = Vec::new();
        turn(&self.exec, &mut || {
            heard.extend(client.received());
            last_lines(&heard).count() >= codes.len()
        });
        assert!(
            last_lines(&heard).map(|line| &line[..3]).eq(codes.iter().map(|code| code.as_bytes())),
            "{codes:?} was expected: {}",
            String::from_utf8_lossy(&heard)
        );
    }

    fn log_is_stuck(&self) {
        self.log.reached.recv().expect("there was something to log");
    }
}

/// The last line of each reply.
fn last_lines(heard: &[u8]) -> impl Iterator<Item = &[u8]> {
    heard.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n") && line[3] == b' ')
}

/// The simulated ring, seen from outside: callgrind stops counting at each entry into one of its methods, and goes on at the end
/// of it, so they must stay functions.
struct Outside(Sim);

impl Ring for Outside {
    #[inline(never)]
    fn push(&mut self, token: Token, op: Op) {
        self.0.push(token, op);
    }

    #[inline(never)]
    fn cancel(&mut self, token: Token) {
        self.0.cancel(token);
    }

    #[inline(never)]
    fn turn(&mut self, wait: Option<Duration>, done: &mut Vec<Completion>) -> Result<(), Errno> {
        self.0.turn(wait, done)
    }

    #[inline(never)]
    fn pool(&self) -> &Rc<Pool> {
        self.0.pool()
    }

    #[inline(never)]
    fn now(&self) -> Time {
        self.0.now()
    }

    #[inline(never)]
    fn wall(&self) -> Duration {
        self.0.wall()
    }

    #[inline(never)]
    fn device(&self, fd: &Fd) -> Result<u64, Errno> {
        self.0.device(fd)
    }

    #[inline(never)]
    fn is_removed(&self, directory: &Fd) -> Result<bool, Errno> {
        self.0.is_removed(directory)
    }

    #[inline(never)]
    fn names(&self, directory: &Fd) -> Result<Vec<CString>, Errno> {
        self.0.names(directory)
    }

    #[inline(never)]
    fn keeps_order(&self, fd: &Fd) -> Result<bool, Errno> {
        self.0.keeps_order(fd)
    }

    #[inline(never)]
    fn sync_failures(&mut self, on: &Fd) -> Result<u64, Errno> {
        self.0.sync_failures(on)
    }

    #[inline(never)]
    fn approach(&self) -> Approach {
        self.0.approach()
    }

    #[inline(never)]
    fn peer(&self, fd: &Fd) -> Peer {
        self.0.peer(fd)
    }

    #[inline(never)]
    fn take_over(&mut self, passed: Passed) -> Rc<Fd> {
        self.0.take_over(passed)
    }

    #[inline(never)]
    fn identity(&mut self, owner: Owner) -> Result<Identity, Errno> {
        self.0.identity(owner)
    }
}

/// A log whose thread comes back from its first write never: so whoever logs meets a queue that nobody waits at, as
/// under load, and when the thread runs is no matter for the count.
struct StuckLog {
    reached: Receiver<()>,
    _release: Sender<()>,
}

struct StuckWriter {
    reached: Sender<()>,
    release: Receiver<()>,
}

impl StuckLog {
    fn new() -> (StuckWriter, Self) {
        let ((told, reached), (kept, release)) = (channel(), channel());
        (StuckWriter { reached: told, release }, Self { reached, _release: kept })
    }
}

impl Write for StuckWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.reached.send(());
        let _ = self.release.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn open_journal(exec: &Rc<Exec>) -> Rc<Journal> {
    let path = CString::new(JOURNAL).expect("no NUL");
    let op = Op::Open { at: None, path, how: How::DirectoryTrusted, identity: Identity::Server };
    let Ok(Done::Opened(directory)) = exec.run(op).await.result else { panic!("the journal directory") };
    let settings = journal::Settings {
        worker: 0,
        segment_bytes: SEGMENT_BYTES,
        checkpoint_interval: Duration::from_secs(3600),
        patience: limits::JOURNAL_PATIENCE,
        boot: Boot([7; 16]),
        key: 0x6b65_7900,
    };
    let opened = Journal::open(Rc::clone(exec), directory, settings, &[]).await;
    opened.unwrap_or_else(|fault| panic!("the journal: {fault}"))
}

fn config(durability: &str) -> Config {
    let text = format!(
        "hostname = \"mx.example.net\"\nstate_dir = \"/var/lib/posthaste\"\nworkers = 1\n\
         maildir.durability = \"{durability}\"\n[[listen]]\nlmtp = \"unix:/run/posthaste.sock\"\n"
    );
    Config::parse_for(&Host::this(), &text, "the configuration of the count")
        .unwrap_or_else(|error| panic!("{error}"))
}

fn table() -> Arc<Table> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("users.table");
    let entries: Vec<Entry> = (0..USERS)
        .map(|user| Entry {
            address: format!("user{user}@example.net"),
            mail: maildir(user),
            ..Entry::default()
        })
        .collect();
    let options = Options::reproducible(LocalPart::Folded, [7; 16]);
    build::write(&file, options, &entries).unwrap_or_else(|error| panic!("{error}"));
    let bytes = std::fs::read(&file).expect("just written");
    let table = Table::from_bytes(&PathBuf::from("users.table"), &bytes);
    Arc::new(table.unwrap_or_else(|error| panic!("{error}")))
}

fn maildir(user: u64) -> String {
    Path::new(MAIL).join(format!("user{user}/Maildir")).to_string_lossy().into_owned()
}

const MAIL: &str = "/mail";
const JOURNAL: &str = "/journal";
const SEED: u64 = 1;
const USERS: u64 = 8;
const WARM_UP: u64 = 10;
const MESSAGE_BYTES: usize = 4096;
/// All messages find room in the first one: a checkpoint comes once in thousands of messages, and would be counted by chance.
const SEGMENT_BYTES: u64 = 4 << 20;
const ALLOWANCE: Allowance =
    Allowance { connections: 100, delivery_files: 200, kept_directories: 60, warning: None };
