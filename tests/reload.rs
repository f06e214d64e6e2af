//! The user table of a running server: replaced while clients look up, and mistreated.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_new_file_is_noticed_whether_it_comes_by_rename_by_copy_or_by_another_link() {
    let mut server = Server::start(&["alice"], "");
    let mut client = server.client();
    assert_eq!(client.ask("alice"), KNOWN);
    assert_eq!(client.ask("bob"), UNKNOWN);

    server.publish(&["bob"]);
    server.wait_for("reload 1: ");
    assert_eq!(client.ask("bob"), KNOWN);
    assert_eq!(client.ask("alice"), UNKNOWN);

    let copied = server.build("copied", &["carol"]);
    fs::copy(copied, server.table()).unwrap();
    server.wait_for("reload 2: ");
    assert_eq!(client.ask("carol"), KNOWN);

    let linked = server.build("linked", &["dora"]);
    symlink(linked, server.at("link")).unwrap();
    fs::rename(server.at("link"), server.table()).unwrap();
    server.wait_for("reload 3: ");
    assert_eq!(client.ask("dora"), KNOWN);

    // Where the link leads.
    fs::rename(server.build("other", &["emil"]), server.at("linked")).unwrap();
    server.wait_for("reload 4: ");
    assert_eq!(client.ask("emil"), KNOWN);
    server.end();
}

#[test]
fn posthaste_reload_returns_when_every_worker_has_the_table() {
    let server = Server::start(&["alice"], "");
    let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect();
    for round in 0..20 {
        let user = format!("user{round}");
        server.publish(&["alice", &user]);
        let said = server.reload(&[]);
        assert!(said.status.success(), "{said:?}");
        let line = String::from_utf8(said.stdout).unwrap();
        assert!(line.starts_with("reloaded: ") && line.contains("users.table, 2 users, "), "{line}");
        for client in &mut clients {
            assert_eq!(client.ask(&user), KNOWN);
            assert_eq!(client.ask(&format!("user{}", round + 1)), UNKNOWN);
        }
    }
    server.end();
}

#[test]
fn sighup_loads_the_table_and_says_what_it_does_not_load() {
    let mut server = Server::start(&["alice"], "");
    server.signal(Signal::HUP);
    server.wait_for("a changed configuration takes a restart");
    server.wait_for("reload 1: ");
    server.publish(&["bob"]);
    server.wait_for("reload 2: ");
    assert_eq!(server.client().ask("bob"), KNOWN);
    server.end();
}

#[test]
fn a_bad_file_is_refused_with_a_line_and_a_counter_and_the_old_one_stays() {
    let mut server = Server::start(&["alice"], "");
    let mut client = server.client();
    let good = fs::read(server.table()).unwrap();
    let (mut flipped, half) = (good.clone(), &good[..good.len() / 2]);
    *flipped.last_mut().unwrap() ^= 1;
    // The first page behind the header, which every look-up needs, and the end of the heap, which few do.
    let mut first = good.clone();
    first[4096 + 20] ^= 1;
    let bad: [(&[u8], &str); 5] = [
        (b"", "the file has 0"),
        (b"alice@example.net:::::/srv/alice::\n", "not a user table"),
        (half, "users build"),
        (&first, "is damaged"),
        (&flipped, "section heap is damaged"),
    ];
    for (number, (bytes, why)) in bad.iter().enumerate() {
        fs::write(server.at("new"), bytes).unwrap();
        fs::rename(server.at("new"), server.table()).unwrap();
        let line = server.wait_for("reload refused: ");
        assert!(line.contains(why), "{line}");
        assert!(line.contains(&format!("refused so far: {}", number + 1)), "{line}");
        assert_eq!(client.ask("alice"), KNOWN);
        assert_eq!(client.ask("bob"), UNKNOWN);
    }

    let said = server.reload(&[]);
    assert_eq!(said.status.code(), Some(1));
    let complaint = String::from_utf8(said.stderr).unwrap();
    assert!(complaint.contains("refused: user table") && complaint.contains("section heap"), "{complaint}");
    let status = server.status();
    assert_eq!((&status["ok"], &status["table"]["refused"]), (&true.into(), &6.into()));
    assert_eq!((&status["table"]["users"], &status["table"]["reloads"]), (&1.into(), &0.into()));
    assert!(status["table"]["last_refusal"].as_str().unwrap().contains("section heap"), "{status}");

    fs::remove_file(server.table()).unwrap();
    let said = server.reload(&[]);
    assert!(String::from_utf8(said.stderr).unwrap().contains("No such file"));
    assert_eq!(client.ask("alice"), KNOWN);
    server.publish(&["bob"]);
    server.wait_for("reload 1: ");
    assert_eq!(client.ask("bob"), KNOWN);
    server.end();
}

#[test]
fn a_transaction_keeps_the_table_it_began_with() {
    let server = Server::start(&["alice", "bob"], "");
    let mut client = server.client();
    assert_eq!(client.say("MAIL FROM:<a@example.org>"), "250 2.1.0");
    assert_eq!(client.say("RCPT TO:<alice@example.net>"), KNOWN);
    server.publish(&["carol"]);
    assert!(server.reload(&[]).status.success());
    assert_eq!(server.client().ask("bob"), UNKNOWN, "for others the new table is in use");
    assert_eq!(client.say("RCPT TO:<bob@example.net>"), KNOWN);
    assert_eq!(client.say("RCPT TO:<carol@example.net>"), UNKNOWN);
    assert!(client.say("DATA").starts_with("354"));
    assert_eq!(client.say("a message\r\n."), "250 2.0.0");
    assert_eq!(client.hear(), "250 2.0.0");
    for user in ["alice", "bob"] {
        let new = server.at(&format!("mail/{user}/Maildir/new"));
        assert_eq!(fs::read_dir(new).unwrap().count(), 1, "{user}");
    }
    assert_eq!(client.ask("alice"), UNKNOWN, "the next transaction");
    assert_eq!(client.ask("carol"), KNOWN);
    server.end();
}

#[test]
fn without_a_server_posthaste_reload_says_where_it_looked() {
    let server = Server::start(&["alice"], "");
    let directory = server.stop();
    let config = directory.path().join("posthaste.toml");
    let said = posthaste().args(["reload", "--config"]).arg(config).output().unwrap();
    assert_eq!(said.status.code(), Some(1));
    let complaint = String::from_utf8(said.stderr).unwrap();
    assert!(complaint.contains("control.sock") && complaint.contains("is it running"), "{complaint}");
}

/// A mapped table would end the server with SIGBUS, or answer from what somebody has just written.
#[test]
fn a_published_table_that_is_truncated_and_overwritten_under_load_hurts_nobody() {
    for keep_in in ["memory", "file"] {
        let users = a_million_users();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        let mut server = Server::start(&users, &format!("keep_in = \"{keep_in}\""));
        let table = server.table();
        let bytes = fs::metadata(&table).unwrap().len();
        let over = AtomicBool::new(false);
        let (answered, answers) = channel();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (mut client, answered, over) = (server.client(), answered.clone(), &over);
                scope.spawn(move || {
                    let mut turn = number;
                    while !over.load(Ordering::Relaxed) {
                        turn += 4999;
                        assert_eq!(client.ask(&format!("user{}", turn % MILLION)), KNOWN);
                        assert_eq!(client.ask(&format!("nobody{turn}")), UNKNOWN);
                        answered.send(()).unwrap();
                    }
                });
            }
            // From here on a failed assertion must end the threads, or the scope waits for ever.
            let over = EndsWith(&over);
            let some = || (0..400).for_each(|_| answers.recv_timeout(PATIENCE).expect("they are answered"));
            some();
            let write = || OpenOptions::new().write(true).open(&table).unwrap();
            rustix::fs::ftruncate(write(), bytes / 2).unwrap();
            some();
            rustix::fs::ftruncate(write(), bytes).unwrap();
            some();
            write().write_all(&vec![0x5a; usize::try_from(bytes).unwrap()]).unwrap();
            some();
            write().write_all(&vec![0; usize::try_from(bytes).unwrap()]).unwrap();
            some();
            File::create(&table).unwrap();
            some();
            assert!(server.running(), "keep_in = {keep_in}");
            server.wait_for("reload refused: ");

            let mut more = users.clone();
            more.push("latecomer");
            server.publish(&more);
            server.wait_for("1000001 users");
            some();
            assert_eq!(server.client().ask("latecomer"), KNOWN);
            drop(over);
        });
        server.end();
    }
}

#[test]
fn an_alias_among_a_million_users_brings_each_of_its_mailboxes_one_file_also_after_a_reload() {
    let users = a_million_users();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let mut server = Server::start(&users[..2], "");
    let mut client = server.client();
    assert_eq!(client.ask("everybody"), UNKNOWN);
    let aliases: String = (0..1000)
        .map(|number| {
            let other = MILLION - 1 - number;
            format!("list{number}@example.net user{number}@example.net, user{other}@example.net\n")
        })
        .chain(["everybody@example.net list7@example.net, list8@example.net, user7@example.net\n".to_owned()])
        .collect();
    build_with(server.directory.as_ref().unwrap().path(), "users.table", &users, &aliases);
    server.wait_for("1000000 users");
    (0..1000).step_by(37).for_each(|number| assert_eq!(client.ask(&format!("list{number}")), KNOWN));
    let said = ["MAIL FROM:<a@example.org>", "RCPT TO:<everybody@example.net>", "DATA"];
    assert_eq!(said.map(|line| client.say(line)), ["250 2.1.0", KNOWN, "354 End"]);
    assert_eq!(client.say("Subject: all\r\n\r\nall\r\n."), "250 2.0.0");
    let delivered: Vec<String> = [7, 8, MILLION - 8, MILLION - 9].map(|user| format!("user{user}")).into();
    for user in &delivered {
        let new = server.at("mail").join(user).join("Maildir/new");
        assert_eq!(fs::read_dir(new).unwrap().count(), 1, "{user}");
    }
    assert_eq!(fs::read_dir(server.at("mail")).unwrap().count(), delivered.len());
    server.end();
}

const MILLION: u64 = 1_000_000;

fn a_million_users() -> Vec<String> {
    (0..MILLION).map(|number| format!("user{number}")).collect()
}

/// Twenty connections of constant look-ups, in turn without and with a new table every second. Every answer must be
/// one that the table of its transaction gives. The latencies are for who reads the output: on a busy machine
/// they prove nothing. `POSTHASTE_RELOAD_ROUNDS`, `_SECONDS` (of half a round) and `_USERS` ask for more.
#[test]
fn look_ups_are_right_while_the_table_is_replaced_every_second() {
    let (rounds, seconds) = (number("POSTHASTE_RELOAD_ROUNDS", 1), number("POSTHASTE_RELOAD_SECONDS", 3));
    let users = number("POSTHASTE_RELOAD_USERS", MILLION);
    let named: Vec<String> = (0..users).map(|number| format!("user{number}")).collect();
    let with = |one: &'static str| named.iter().map(String::as_str).chain([one]).collect::<Vec<&str>>();
    let server = Server::start(&with("odd"), "");
    let versions = [server.build("even.table", &with("even")), server.build("odd.table", &with("odd"))];
    let mut latencies = [Vec::new(), Vec::new()];
    let mut published = 0;
    for _ in 0..rounds {
        for (half, latencies) in latencies.iter_mut().enumerate() {
            std::thread::scope(|scope| {
                let end = Instant::now() + Duration::from_secs(seconds);
                let clients: Vec<_> = (0..20)
                    .map(|number| {
                        let mut client = server.client();
                        scope.spawn(move || look_up_until(end, &mut client, number, users))
                    })
                    .collect();
                for _ in (0..seconds).filter(|_| half == 1) {
                    fs::hard_link(&versions[published % 2], server.at("new")).unwrap();
                    published += 1;
                    fs::rename(server.at("new"), server.table()).unwrap();
                    // The pace that was asked for, not a wait for something.
                    std::thread::sleep(Duration::from_secs(1));
                }
                latencies.extend(clients.into_iter().flat_map(|client| client.join().unwrap()));
            });
        }
    }
    let percentiles = latencies.each_mut().map(|latencies| percentiles(latencies));
    println!("RCPT without reloads: {}", percentiles[0].1);
    println!("RCPT with a reload each second: {}", percentiles[1].1);
    println!("p99.9 with / without: {:.2}", f64::from(percentiles[1].0) / f64::from(percentiles[0].0));
    let status = server.status();
    println!("{status}");
    assert!(status["table"]["reloads"].as_u64() >= Some(1) && status["table"]["refused"] == 0, "{status}");
    server.end();
}

/// The 99.9th percentile, and all of them in words.
fn percentiles(latencies: &mut [u32]) -> (u32, String) {
    latencies.sort_unstable();
    let [half, most, nearly_all] =
        [500, 990, 999].map(|share| latencies[(latencies.len() - 1) * share / 1000]);
    let (count, longest) = (latencies.len(), latencies.last().expect("some"));
    let words =
        format!("{count} answers, p50 {half} us, p99 {most} us, p99.9 {nearly_all} us, longest {longest} us");
    (nearly_all, words)
}

/// Look-ups whose answers are known; how long each RCPT took, in microseconds.
fn look_up_until(end: Instant, client: &mut Client, number: u64, users: u64) -> Vec<u32> {
    let mut latencies = Vec::with_capacity(100_000);
    let mut turn = number;
    while Instant::now() < end {
        turn += 7919;
        assert_eq!(client.say("MAIL FROM:<a@example.org>"), "250 2.1.0");
        let known = format!("user{}", turn % users);
        let replies = [&*known, "nobody", "odd", "even"].map(|user| {
            let begun = Instant::now();
            let reply = client.say(&format!("RCPT TO:<{user}@example.net>"));
            latencies.push(u32::try_from(begun.elapsed().as_micros()).unwrap());
            reply
        });
        assert_eq!((&*replies[0], &*replies[1]), (KNOWN, UNKNOWN));
        // One table for the whole transaction: it has one of the two.
        let both = [&*replies[2], &*replies[3]];
        assert!(both == [KNOWN, UNKNOWN] || both == [UNKNOWN, KNOWN], "{both:?}");
        assert_eq!(client.say("RSET"), "250 2.0.0");
    }
    latencies
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// A server of two workers, killed when dropped.
struct Server {
    directory: Option<tempfile::TempDir>,
    process: Child,
    log: Receiver<String>,
}

impl Server {
    /// Starts one that knows `users`; returns once it listens.
    fn start(users: &[&str], keys: &str) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let at = directory.path();
        build(at, "users.table", users);
        let config = format!(
            "hostname = \"mx.example.net\"\nstate_dir = \"{0}\"\nworkers = 2\n[[listen]]\nlmtp = \"unix:{0}/socket\"\n\
             [users]\n{keys}\n[maildir]\ndurability = \"none\"\n",
            at.display()
        );
        fs::write(at.join("posthaste.toml"), config).unwrap();
        let mut process = posthaste()
            .args(["serve", "--config"])
            .arg(at.join("posthaste.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (said, log) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // Nobody listens to a server that is going down.
                let _ = said.send(line);
            }
        });
        let mut server = Self { directory: Some(directory), process, log };
        server.wait_for(" ready: ");
        server
    }

    /// The next line of the log that has `words` in it.
    fn wait_for(&mut self, words: &str) -> String {
        let mut passed = Vec::new();
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => passed.push(line),
                Err(error) => panic!("{words:?} does not come: {error}; {passed:#?}"),
            }
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.as_ref().unwrap().path().join(name)
    }

    fn table(&self) -> PathBuf {
        self.at("users.table")
    }

    /// Builds a table beside the one in use.
    fn build(&self, name: &str, users: &[&str]) -> PathBuf {
        build(self.directory.as_ref().unwrap().path(), name, users)
    }

    /// Puts a new table in the place of the one in use, as users build does.
    fn publish(&self, users: &[&str]) {
        self.build("users.table", users);
    }

    fn reload(&self, more: &[&str]) -> Output {
        let config = self.at("posthaste.toml");
        posthaste().args(["reload", "--config"]).arg(config).args(more).output().unwrap()
    }

    fn status(&self) -> serde_json::Value {
        let said = self.reload(&["--status", "--json"]);
        assert!(said.status.success(), "{said:?}");
        serde_json::from_slice(&said.stdout).unwrap()
    }

    fn client(&self) -> Client {
        let stream = UnixStream::connect(self.at("socket")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Client { replies: BufReader::new(stream.try_clone().unwrap()), stream };
        assert_eq!(client.hear(), "220 mx.example.net");
        client
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    fn running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Ends it in order; its directory stays as long as it is held.
    fn stop(mut self) -> tempfile::TempDir {
        self.signal(Signal::TERM);
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}");
        self.directory.take().unwrap()
    }

    fn end(self) {
        drop(self.stop());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn build(at: &Path, name: &str, users: &[&str]) -> PathBuf {
    build_with(at, name, users, "")
}

fn build_with(at: &Path, name: &str, users: &[&str], aliases: &str) -> PathBuf {
    let mail = at.join("mail");
    let text = users.iter().fold(String::new(), |mut text, user| {
        writeln!(text, "{user}@example.net:::::{}/{user}::", mail.display()).unwrap();
        text
    });
    let (source, table, virtual_aliases) = (at.join("passwd"), at.join(name), at.join("virtual"));
    fs::write(&source, text).unwrap();
    fs::write(&virtual_aliases, aliases).unwrap();
    let built = posthaste()
        .args(["users", "build", "--from", "passwd-file", "--input"])
        .arg(source)
        .arg("--aliases")
        .arg(virtual_aliases)
        .arg("--output")
        .arg(&table)
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    table
}

struct Client {
    stream: UnixStream,
    replies: BufReader<UnixStream>,
}

impl Client {
    /// Code and enhanced code (or the word behind the code) of the next reply.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.replies.read_line(&mut line).expect("a reply in time");
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    fn say(&mut self, line: &str) -> String {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        self.hear()
    }

    /// What a transaction of its own says to this recipient.
    fn ask(&mut self, user: &str) -> String {
        self.stream
            .write_all(
                format!("MAIL FROM:<a@example.org>\r\nRCPT TO:<{user}@example.net>\r\nRSET\r\n").as_bytes(),
            )
            .unwrap();
        let replies = [self.hear(), self.hear(), self.hear()];
        assert_eq!((&*replies[0], &*replies[2]), ("250 2.1.0", "250 2.0.0"));
        let [_, reply, _] = replies;
        reply
    }
}

/// Raises a flag when it goes, also by a panic.
struct EndsWith<'f>(&'f AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn posthaste() -> Command {
    Command::new(env!("CARGO_BIN_EXE_posthaste"))
}

const KNOWN: &str = "250 2.1.5";
const UNKNOWN: &str = "550 5.1.1";

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
