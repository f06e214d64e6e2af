//! The server under test: Posthaste, or its rival in the same place.
//!
//! With `POSTHASTE_TEST_SERVER=dovecot` the same tests run against Dovecot's LMTP server. That is how the harness
//! itself is tested, and how a difference between the two is found; CI always tests Posthaste.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::unix::net::{UnixDatagram, UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::geteuid;

use crate::{
    dovecot,
    mailbox::Users,
    place::{Place, Running, START, run},
};

/// Which program answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Posthaste,
    DovecotLmtp,
}

/// What a test may choose.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) line_endings: &'static str,
    pub(crate) message_size: &'static str,
    /// The domain whose users are found by their local part alone.
    pub(crate) local_domain: Option<&'static str>,
    /// Details name folders, which are made and subscribed.
    pub(crate) folders: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { line_endings: "crlf", message_size: "60MiB", local_domain: None, folders: false }
    }
}

/// A running LMTP server that listens on a Unix socket and on TCP.
#[derive(Debug)]
pub(crate) struct Server {
    running: Running,
    pub(crate) program: Program,
    pub(crate) socket: PathBuf,
    pub(crate) tcp: SocketAddr,
}

impl Server {
    /// Starts the server with its defaults; returns when it says that it is ready.
    pub(crate) fn start(place: &Place, users: &Users) -> Self {
        Self::start_with(place, users, &Settings::default())
    }

    /// Starts the server; returns when it says that it is ready.
    pub(crate) fn start_with(place: &Place, users: &Users, settings: &Settings) -> Self {
        let (socket, tcp) = (place.path("lmtp.sock"), place.port(LMTP));
        let program = Self::program();
        let running = match program {
            Program::Posthaste => start_posthaste(place, users, settings),
            Program::DovecotLmtp => {
                let mut running = dovecot::start_lmtp(place, users, settings, &socket, tcp);
                running.wait_until_up(|| UnixStream::connect(&socket).is_ok());
                running
            }
        };
        Self { running, program, socket, tcp }
    }

    /// The program that this run is about.
    pub(crate) fn program() -> Program {
        match std::env::var("POSTHASTE_TEST_SERVER").as_deref() {
            Err(_) | Ok("posthaste") => Program::Posthaste,
            Ok("dovecot") => Program::DovecotLmtp,
            Ok(other) => panic!("POSTHASTE_TEST_SERVER is posthaste or dovecot, not {other}"),
        }
    }

    /// A number of kB from the status that the kernel keeps of the process (proc(5)), in bytes.
    pub(crate) fn memory(&self, key: &str) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.running.id())).expect("a running server");
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a key of proc(5)");
        let kibibytes: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().expect("a number of kB");
        kibibytes * 1024
    }

    /// Stops the server; fails the test unless it ended in order.
    pub(crate) fn stop(mut self) {
        self.running.assert_alive();
        let status = self.running.stop().expect("the server ends when it is asked to");
        assert!(status.success(), "the server ended with {status}");
    }
}

/// Writes table and configuration; the path of the configuration is returned. `listen` is a list of
/// `[[listen]]` sections.
pub(crate) fn configure_posthaste(
    place: &Place,
    users: &Users,
    settings: &Settings,
    listen: &str,
) -> PathBuf {
    let state = place.path("state");
    fs::create_dir_all(&state).expect("the state directory");
    let table = state.join("users.table");
    let mut build = Command::new(POSTHASTE);
    build.args(["users", "build", "--from", "passwd-file", "--input"]).arg(&users.passwd_file);
    run(build.arg("--output").arg(&table), b"");
    let Settings { line_endings, message_size, local_domain, folders } = settings;
    let local_domains = local_domain.map(|domain| format!("\"{domain}\"")).unwrap_or_default();
    let configuration = format!(
        r#"
hostname = "mx.example.test"
postmaster = "postmaster@example.test"
state_dir = "{state}"
{listen}
[users]
table = "{table}"
recipient_delimiter = "+"
local_domains = [{local_domains}]

[maildir]
durability = "group"
line_endings = "{line_endings}"
create = true
detail_to_folder = {folders}
create_folder = {folders}

[limits]
message_size = "{message_size}"
"#,
        state = state.display(),
        table = table.display(),
    );
    place.write("posthaste.toml", configuration)
}

/// The way a service manager learns that a service is ready: sd_notify(3).
#[derive(Debug)]
pub(crate) struct Readiness {
    receiver: UnixDatagram,
    /// The value of `NOTIFY_SOCKET`.
    pub(crate) path: PathBuf,
}

impl Readiness {
    /// Opens the socket for the messages.
    pub(crate) fn listen(place: &Place) -> Self {
        let path = place.path("notify");
        let receiver = UnixDatagram::bind(&path).expect("a datagram socket");
        receiver.set_read_timeout(Some(Duration::from_millis(200))).expect("a read timeout");
        Self { receiver, path }
    }

    /// Waits for `READY=1`; fails the test if the program ends or is not ready in time.
    pub(crate) fn wait(&self, running: &mut Running) {
        let end = Instant::now() + START;
        let mut message = [0; 4096];
        while Instant::now() < end {
            running.assert_alive();
            match self.receiver.recv(&mut message) {
                Ok(length) if message[..length].split(|&b| b == b'\n').any(|line| line == b"READY=1") => {
                    return;
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => panic!("the readiness socket: {error}"),
            }
        }
        panic!("the server was not ready within {} s", START.as_secs());
    }
}

fn start_posthaste(place: &Place, users: &Users, settings: &Settings) -> Running {
    let listen = format!(
        "[[listen]]\nlmtp = \"unix:{}\"\nmode = \"0600\"\n{}[[listen]]\nlmtp = \"tcp:{}\"\n",
        place.path("lmtp.sock").display(),
        socket_owner(),
        place.port(LMTP),
    );
    let configuration = configure_posthaste(place, users, settings, &listen);
    let readiness = Readiness::listen(place);
    let mut running =
        Running::start("posthaste", place.path("posthaste.log"), Path::new(POSTHASTE), |command| {
            command.env("NOTIFY_SOCKET", &readiness.path).arg("serve").arg("--config").arg(&configuration);
        });
    readiness.wait(&mut running);
    running
}

/// Postfix's lmtp(8) connects as `postfix`; without root there is no Postfix in the test, and nobody to give it to.
pub(crate) fn socket_owner() -> &'static str {
    let postfix_exists = fs::read_to_string("/etc/passwd").is_ok_and(|users| users.contains("\npostfix:"));
    if geteuid().is_root() && postfix_exists { "user = \"postfix\"\ngroup = \"postfix\"\n" } else { "" }
}

/// The program as it was just built.
pub(crate) const POSTHASTE: &str = env!("CARGO_BIN_EXE_posthaste");

/// The service number of the LMTP listener.
const LMTP: u16 = 2400;
