//! Faults that were found by attacking the running program. Each test states the law that was broken.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server of one worker, killed when dropped.
struct Server {
    directory: tempfile::TempDir,
    process: Child,
}

impl Server {
    /// Starts one with mail beneath `mail` (or its own directory); returns once it listens.
    fn start(mail: Option<&Path>, durability: &str, limits: &str) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let at = directory.path();
        let mail = mail.map_or_else(|| at.join("mail"), Path::to_owned);
        let users = (0..8).fold(String::new(), |mut users, number| {
            writeln!(users, "u{number}@example.net:::::{}/u{number}::", mail.display()).unwrap();
            users
        });
        std::fs::write(at.join("passwd"), users).unwrap();
        let built = posthaste()
            .args(["users", "build", "--from", "passwd-file", "--input"])
            .arg(at.join("passwd"))
            .arg("--output")
            .arg(at.join("users.table"))
            .stdout(Stdio::null())
            .status();
        assert!(built.unwrap().success());
        let config = format!(
            "hostname = \"mx.example.net\"\nstate_dir = \"{0}\"\nworkers = 1\n[[listen]]\nlmtp = \"unix:{0}/socket\"\n\
             [maildir]\ndurability = \"{durability}\"\n[limits]\n{limits}\n",
            at.display()
        );
        std::fs::write(at.join("posthaste.toml"), config).unwrap();
        let process = Self::spawn(at);
        Self { directory, process }
    }

    fn spawn(at: &Path) -> Child {
        let mut process = posthaste()
            .args(["serve", "--config"])
            .arg(at.join("posthaste.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains(" ready: ") {
            assert!(log.read_line(&mut said).unwrap() > 0, "the server does not start: {said}");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        process
    }

    fn client(&self) -> Client {
        let stream = UnixStream::connect(self.directory.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { replies: BufReader::new(stream.try_clone().unwrap()), stream }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Client {
    stream: UnixStream,
    replies: BufReader<UnixStream>,
}

impl Client {
    fn reply(&mut self) -> String {
        let mut line = String::new();
        self.replies.read_line(&mut line).expect("a reply in time");
        line
    }

    fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).unwrap();
    }

    /// Up to 354, for a message to `user`.
    fn begin(&mut self, user: &str) {
        self.send(&format!("MAIL FROM:<a@example.org>\r\nRCPT TO:<{user}@example.net>\r\nDATA\r\n"));
        let last = (0..3).map(|_| self.reply()).last().unwrap();
        assert!(last.starts_with("354"), "{last}");
    }

    fn deliver(&mut self, user: &str) -> String {
        self.begin(user);
        self.send("a message\r\n.\r\n");
        self.reply()
    }
}

#[test]
fn clients_that_send_and_never_read_leave_receive_buffers_to_the_others() {
    // 1 MiB is 64 buffers.
    let server = Server::start(None, "none", "buffers = \"1MiB\"");
    let commands = "NOOP\r\n".repeat(5000);
    let stuck = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..64)
            .map(|_| {
                let mut client = server.client();
                client.stream.set_write_timeout(Some(STUCK)).unwrap();
                let commands = &commands;
                scope.spawn(move || {
                    loop {
                        if let Err(error) = client.stream.write_all(commands.as_bytes()) {
                            assert_eq!(error.kind(), ErrorKind::WouldBlock);
                            break client;
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    let mut client = server.client();
    client.reply();
    assert!(client.deliver("u1").starts_with("250"));
    drop(stuck);
}

#[test]
fn clients_that_stall_in_the_middle_of_a_message_do_not_hold_up_the_others() {
    let server = Server::start(None, "none", "buffers = \"1MiB\"");
    let most_of_a_message = "x".repeat(255 * 1024);
    let stalled: Vec<Client> = (0..200)
        .map(|number| {
            let mut client = server.client();
            client.reply();
            client.begin(&format!("u{}", number % 8));
            client.stream.set_write_timeout(Some(STUCK)).unwrap();
            client.stream.write_all(most_of_a_message.as_bytes()).expect("the server goes on reading");
            client
        })
        .collect();
    let mut client = server.client();
    client.reply();
    assert!(client.deliver("u1").starts_with("250"));
    drop(stalled);
}

#[test]
fn a_killed_server_can_be_started_again_at_once() {
    let mut server = Server::start(None, "none", "");
    for _ in 0..10 {
        server.process.kill().unwrap();
        server.process.wait().unwrap();
        server.process = Server::spawn(server.directory.path());
    }
}

/// The disk loses what one message has written so far, and a sync for another message hears of it first.
#[test]
fn a_message_whose_bytes_the_disk_lost_while_it_arrived_is_not_acknowledged() {
    let Some(disk) = Disk::make() else {
        eprintln!("NOT RUN: it takes root, loop devices and mkfs.ext4");
        return;
    };
    let server = Server::start(Some(&disk.mail()), "group", "");
    let mut small = server.client();
    small.reply();
    for user in ["u1", "u2", "u5"] {
        assert!(small.deliver(user).starts_with("250"));
    }
    let body = "seventy characters and a bit more of a line that says nothing at all..\r\n".repeat(14_000);
    let mut large = server.client();
    large.reply();
    large.begin("u5");
    disk.fail();
    large.send(&body);
    disk.wait_for_bytes();
    assert!(small.deliver("u1").starts_with('4'), "its round hears of the error");
    disk.recover();
    assert!(small.deliver("u2").starts_with("250"), "the disk is well again");
    large.send(&body);
    large.send(".\r\n");
    let reply = large.reply();
    assert!(reply.starts_with('4'), "its first bytes are lost: {reply}");
}

/// A file system whose data blocks have no room behind them until [`recover`](Self::recover).
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn make() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        // All of the image is in memory, but for the free blocks: so metadata can be written, data cannot.
        let made = sh(&format!(
            "set -e; cd {at}; mkdir room disk; mount -t tmpfs -o size=300M tmpfs room\n\
             head -c 128M /dev/zero | tr '\\0' x > room/image\n\
             mkfs.ext4 -q -F -b 4096 -E lazy_journal_init=0,lazy_itable_init=0,nodiscard room/image\n\
             mount -o loop room/image disk\n\
             for user in 0 1 2 3 4 5 6 7; do mkdir -p disk/u$user/Maildir/tmp disk/u$user/Maildir/cur \
             disk/u$user/Maildir/new; done\n\
             umount disk; cat room/image > room/whole; mv room/whole room/image\n\
             dumpe2fs room/image 2>/dev/null | sed -n 's/^  Free blocks: //p' | tr ', ' '\\n\\n' | grep . |\n\
             while IFS=- read from to; do\n\
             fallocate -p -o $((from * 4096)) -l $(((${{to:-$from}} - from + 1) * 4096)) room/image; done\n\
             mount -o loop,errors=continue room/image disk"
        ));
        let disk = Self { directory };
        made.then_some(disk)
    }

    fn mail(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    fn fail(&self) {
        // "No space left" is what it is to end with.
        sh(&format!("cd {}; cat /dev/zero > room/filler 2>/dev/null", self.directory.path().display()));
    }

    fn recover(&self) {
        std::fs::remove_file(self.directory.path().join("room/filler")).unwrap();
    }

    /// Unnamed files cannot be seen, but their blocks are counted.
    fn wait_for_bytes(&self) {
        let used = || rustix::fs::statvfs(self.mail()).unwrap().f_bfree;
        let before = used();
        for _ in 0..1000 {
            if used() + 128 < before {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        sh(&format!("cd {}; umount -l disk; umount -l room", self.directory.path().display()));
    }
}

fn sh(script: &str) -> bool {
    let run = Command::new("sh").args(["-c", script]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}

fn posthaste() -> Command {
    Command::new(env!("CARGO_BIN_EXE_posthaste"))
}

const PATIENCE: Duration = Duration::from_secs(10);
/// A client that could send nothing for this long has a server that waits for it to read.
const STUCK: Duration = Duration::from_millis(500);
