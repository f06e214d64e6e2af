//! A dialog over the simulated ring, many times: seeds, cuts and durability modes.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use posthaste::control::config::Config;
use posthaste::exec::Exec;
use posthaste::limits;
use posthaste::ring::sim::{Client, Cut, Device, Fault, Sim, World};
use posthaste::serve::accept::{self, Service};
use posthaste::serve::worker::Worker;
use posthaste::users::Table;

use super::play::{Files, Simulation, Wire, check_files, check_log, play};
use super::script::{Act, Script};
use super::server::{self, LogFile};

/// Plays `script` with every seed and cut.
///
/// # Panics
/// If one run differs from the script; says which run and what happened last in it.
pub(crate) fn run(script: &Script) {
    let sent = script.steps.iter().map(|step| match &step.act {
        Act::Send(bytes) => bytes.len(),
        _ => 0,
    });
    let bytes: usize = sent.sum();
    // Byte by byte takes too long for what is large, and shows nothing new there.
    let little = if bytes > MANY_BYTES { 997 } else { 1 };
    for seed in 0..SEEDS {
        for cut in [Cut::Whole, Cut::Every(little), Cut::Every(little * 3 + 2), Cut::Random] {
            let durability = DURABILITIES[usize::try_from(seed).expect("few") % DURABILITIES.len()];
            run_once(script, seed, cut, durability);
        }
    }
}

fn run_once(script: &Script, seed: u64, cut: Cut, durability: &str) {
    let world = World::new(seed);
    let played = catch_unwind(AssertUnwindSafe(|| session(script, &world, cut, durability)));
    if let Err(panic) = played {
        eprintln!("simulated ring, seed {seed}, {cut:?}, durability {durability}; what happened last:");
        for line in world.recent() {
            eprintln!("  {line}");
        }
        resume_unwind(panic);
    }
}

fn session(script: &Script, world: &World, cut: Cut, durability: &str) {
    prepare(script, world);
    let server = Server::start(script, world, durability, limits::BUFFERS_MIN);
    let client = match script.client {
        Some(address) => world.connect_from(address),
        None => world.connect(),
    };
    client.cut(cut);
    let mut wire = Simulated { server: &server, client, heard: VecDeque::new() };
    play(script, &mut wire);
    wire.client.close();
    server.settle(Duration::ZERO);
    server.check_idle();
    check_files(script, &files(world), server.config.maildir.line_endings);
    drop(wire);
    check_log(script, &server.stop());
}

/// A server in a simulated world.
pub(crate) struct Server {
    world: World,
    config: Config,
    exec: Rc<Exec>,
    worker: Rc<Worker>,
    log: LogFile,
}

impl Server {
    /// A server with one worker, which has so many receive buffers.
    pub(crate) fn start(script: &Script, world: &World, durability: &str, buffers: u16) -> Self {
        Self::speaking(Service::Lmtp, server::table(Path::new(MAIL)), script, world, durability, buffers)
    }

    /// A server that speaks something else, about these users.
    pub(crate) fn speaking(
        service: Service,
        table: Arc<Table>,
        script: &Script,
        world: &World,
        durability: &str,
        buffers: u16,
    ) -> Self {
        let config = server::config(script, durability);
        let ring = Sim::with_buffers(world, buffers, limits::BUFFER_BYTES).expect("memory for buffers");
        let listener = ring.listener();
        let exec = Exec::new(Box::new(ring));
        let settings = server::settings(&config);
        let (worker, log) = server::worker(Rc::clone(&exec), settings, table, 0x5eed);
        let (name, others) = (Arc::from("the simulated listener"), Arc::new([]));
        exec.spawn(accept::accept(Rc::clone(&worker), listener, service, name, others));
        Self { world: world.clone(), config, exec, worker, log }
    }

    /// Tells it to go down.
    pub(crate) fn drain(&self) {
        self.worker.draining.set(true);
        self.exec.wake_all();
    }

    /// Turns the executor until it has nothing to do for `time` but wait for clients.
    pub(crate) fn settle(&self, time: Duration) {
        let quiet = self.world.quiet_after(time);
        self.exec.run_until(quiet).expect("the simulated ring does not fail");
    }

    /// Nobody is connected any more, and nothing is left of those who were.
    pub(crate) fn check_idle(&self) {
        assert_eq!(self.worker.connections(), 0, "the session does not end when its client has");
        let pool = self.exec.pool();
        assert_eq!(pool.free(), pool.count(), "a receive buffer is held by nobody");
    }

    /// Stops it as a crash would, and gives its log.
    pub(crate) fn stop(self) -> Vec<String> {
        self.exec.clear();
        drop((self.worker, self.exec));
        self.log.finish()
    }
}

/// Puts the mail file system in its place.
pub(crate) fn prepare(script: &Script, world: &World) {
    let device = Device { has_tmpfile: !script.no_tmpfile, keeps_order: script.keeps_order };
    world.mount(MAIL, device);
    world.make_directory("/mail/mallory");
    world.make_symlink("/mail/mallory/Maildir", "/mail/bob/Maildir");
    for maildir in &script.maildirs {
        for sub in ["tmp", "new", "cur"] {
            world.make_directory(&format!("{MAIL}/{maildir}/{sub}"));
        }
    }
}

/// Every file beneath the mail root.
pub(crate) fn files(world: &World) -> Files {
    let mut files = Files::new();
    let mut ahead = vec![String::new()];
    while let Some(path) = ahead.pop() {
        let whole = format!("{MAIL}{path}");
        if path == "/mallory/Maildir" {
            continue;
        }
        match world.list(&whole) {
            Ok(names) => ahead.extend(names.iter().map(|name| format!("{path}/{name}"))),
            Err(_) => {
                let bytes = world.read(&whole).expect("what is no directory is a file");
                files.insert(path[1..].to_owned(), bytes);
            }
        }
    }
    files
}

struct Simulated<'s> {
    server: &'s Server,
    client: Client,
    heard: VecDeque<u8>,
}

impl Simulated<'_> {
    fn listen(&mut self, time: Duration) {
        self.server.settle(time);
        self.heard.extend(self.client.received());
    }
}

impl Wire for Simulated<'_> {
    fn send(&mut self, bytes: &[u8]) {
        self.client.send(bytes);
    }

    fn line(&mut self) -> Option<String> {
        if !self.heard.contains(&b'\n') {
            self.listen(Duration::ZERO);
        }
        let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') else {
            assert!(self.client.is_closed(), "the server says nothing, and waits");
            assert!(self.heard.is_empty(), "the server closed within a line: {:?}", self.heard);
            return None;
        };
        let line: Vec<u8> = self.heard.drain(..=end).collect();
        let line = line.strip_suffix(b"\r\n").expect("replies end in CRLF");
        Some(String::from_utf8(line.to_vec()).expect("replies are UTF-8"))
    }

    fn half_close(&mut self) {
        self.client.half_close();
    }

    fn close(&mut self) {
        self.client.close();
    }

    fn world(&mut self) -> &mut dyn Simulation {
        self
    }
}

impl Simulation for Simulated<'_> {
    fn reset(&mut self) {
        self.client.reset();
    }

    fn advance(&mut self, time: Duration) {
        self.listen(time);
    }

    fn is_silent(&mut self) -> bool {
        self.listen(Duration::ZERO);
        self.heard.is_empty()
    }

    fn fail(&mut self, fault: Fault) {
        self.server.world.fail(fault);
    }

    fn heal(&mut self) {
        self.server.world.heal();
    }
}

pub(crate) const MAIL: &str = "/mail";
const SEEDS: u64 = 6;
const MANY_BYTES: usize = 16 * 1024;
const DURABILITIES: [&str; 3] = ["\"group\"", "\"fsync\"", "\"none\""];
