//! Where one test lives: a directory, an address, and the processes that it started.
//!
//! Every test owns its [`Place`]: nothing is shared between tests, no daemon of the machine is touched, and what was
//! started is stopped when the test ends, also when it panics. A process outlives its test in no case: it is started
//! with the parent death signal set, so the kernel stops it even if the test itself is killed.

use std::{
    fmt::Display,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};

/// The directory and the loopback address of one test.
#[derive(Debug)]
pub(crate) struct Place {
    directory: tempfile::TempDir,
    address: Ipv4Addr,
    /// Among the places of this process: a runner may run several tests as threads of one.
    number: u16,
}

impl Place {
    /// A fresh directory that every user may traverse: Postfix and the owners of mailboxes must get in.
    pub(crate) fn new() -> Self {
        // Short, as the paths of Unix sockets end after 107 bytes (unix(7)).
        let directory = tempfile::Builder::new().prefix("ph-").tempdir().expect("a temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
            .expect("mode of the directory");
        // All of 127.0.0.0/8 is this host (RFC 1122 section 3.2.1.3): an address per process keeps tests that run at
        // the same time apart with fixed ports, where "bind port 0, close, bind again" can lose its port in between.
        // Linux process ids have 22 bits at most (proc(5), pid_max).
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 128 | high, middle, low);
        Self { directory, address, number: PLACES.fetch_add(1, Ordering::Relaxed) }
    }

    /// The path of `name` in this place.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file of this place, with its parents, and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a name below the directory")).expect("parents of a file");
        fs::write(&path, content).expect("a file of the test");
        path
    }

    /// This place's own address for the given service; the numbers of two services are far apart.
    pub(crate) fn port(&self, service: u16) -> SocketAddr {
        SocketAddr::V4(SocketAddrV4::new(self.address, 20_000 + service + self.number))
    }
}

/// A process that ends with the test.
#[derive(Debug)]
pub(crate) struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `program` in a process group of its own, its output going to `log` (made if missing).
    ///
    /// `setpriv` only sets the death signal and then becomes the program, so the process id is the program's.
    pub(crate) fn start(
        name: &'static str,
        log: PathBuf,
        program: impl AsRef<Path>,
        fill: impl FnOnce(&mut Command),
    ) -> Self {
        let output = fs::File::options().create(true).append(true).open(&log).expect("the log of a daemon");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(program.as_ref());
        fill(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Self { name, child, log }
    }

    /// The process id of the program.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the program wrote so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until the program is up, as far as `condition` can tell; fails the test at once if it ends instead.
    pub(crate) fn wait_until_up(&mut self, condition: impl Fn() -> bool) {
        let what = format!("{} is up", self.name);
        eventually(START, what, || {
            self.assert_alive();
            condition()
        });
    }

    /// Fails the test if the program has ended by itself.
    pub(crate) fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().expect("the state of a child") {
            panic!("{} ended by itself: {status}", self.name);
        }
    }

    /// Asks the program to end and waits for it; `None` if it did not and had to be killed.
    ///
    /// Only the program is asked: master processes end their children in their own order, loggers last. Killed is
    /// the whole group.
    pub(crate) fn stop(&mut self) -> Option<ExitStatus> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        if self.is_alive() {
            // It may end at this very moment; the wait that follows tells.
            let _ = kill_process(id, Signal::TERM);
        }
        let ended = poll(START, || !self.is_alive());
        if !ended {
            let _ = kill_process_group(id, Signal::KILL);
        }
        self.child.wait().ok().filter(|_| ended)
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- last lines of {} ({})\n{}", self.name, self.log.display(), tail.join("\n"));
        }
    }
}

/// Waits until `condition` holds; fails the test, naming `what`, if it does not in time.
///
/// Polling is the one way for what other programs do without telling anybody: a queue that becomes empty, a port that
/// opens, a process that ends. Whatever can be waited for (readiness, a reply, an exit) is waited for instead.
pub(crate) fn eventually(deadline: Duration, what: impl Display, condition: impl FnMut() -> bool) {
    assert!(poll(deadline, condition), "not within {} s: {what}", deadline.as_secs());
}

/// Runs a command to its end and returns its output; fails the test unless it succeeded.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> String {
    let output = output_of(command, input);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// Runs a command to its end with `input` on its standard input.
pub(crate) fn output_of(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut pipe = child.stdin.take().expect("a piped standard input");
    thread::scope(|scope| {
        scope.spawn(move || {
            // A program that ends without reading everything is judged by its status, not by this pipe.
            let _ = pipe.write_all(input);
        });
        child.wait_with_output().expect("the end of a child")
    })
}

/// True if every program can be found and, where `root` is asked for, the test runs as root.
///
/// Otherwise the test is reported as not run, by name and with the reason, and must return at once. Where the
/// variable `CI` is `true`, that is a failure: nothing may be left out there.
pub(crate) fn can_run(name: &str, root: bool, programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| !is_installed(program)).collect();
    if !missing.is_empty() {
        not_run(name, &format!("not installed: {}", missing.join(", ")));
        return false;
    }
    if root && !geteuid().is_root() {
        not_run(name, "Postfix and Dovecot change users, so their daemons start as root only");
        return false;
    }
    true
}

/// Reports a test that cannot run here: on standard error and in the file that `tests/run` shows at its end.
///
/// # Panics
/// In CI, where a test that does not run is a failure.
pub(crate) fn not_run(name: &str, why: &str) {
    let line = format!("NOT RUN {name}: {why}");
    eprintln!("{line}");
    if let Some(list) = std::env::var_os("POSTHASTE_TEST_NOT_RUN") {
        let mut file =
            fs::File::options().create(true).append(true).open(list).expect("the list of tests not run");
        writeln!(file, "{line}").expect("the list of tests not run");
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{line} (in CI every test must run)");
}

/// The absolute path of an installed program; folders of the administrator and of the daemons count as well.
pub(crate) fn program(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| panic!("{name} is not installed"))
}

fn is_installed(name: &str) -> bool {
    find(name).is_some()
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/lib/postfix/sbin", "/usr/lib/dovecot"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

fn poll(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(BETWEEN_LOOKS);
    }
    true
}

/// How many places this process has made.
static PLACES: AtomicU16 = AtomicU16::new(0);

/// Short beside everything that is waited for, long beside the cost of looking.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Generous: a busy machine starts slowly, and nobody waits for it when all is well.
pub(crate) const START: Duration = Duration::from_secs(30);

/// Enough of a log to see why, not so much that the failure scrolls away.
const LOG_LINES_SHOWN: usize = 60;
