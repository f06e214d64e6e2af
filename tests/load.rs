//! `posthaste-load` as a program: against its own sink, and against the server, with the Maildirs looked at afterwards.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

#[test]
fn the_sink_acknowledges_everything_and_the_report_says_so() {
    let place = Place::new();
    let _sink = place.sink("sink", &[]);
    let report = json(&place.load(&[
        "--to",
        "unix:sink",
        "--messages",
        "2000",
        "--recipients",
        "3",
        "--calibrate",
        "--json",
    ]));
    let target = &report["targets"][0];
    assert_eq!(target["messages"], 2000);
    assert_eq!(target["recipients"], 6000);
    assert_eq!(target["bytes"], 2000 * 4096);
    assert_eq!(target["errors"], Value::Array(Vec::new()));
    assert!(target["messages_per_second"].as_f64().unwrap() > 100.0, "{target}");
    for (what, count) in [("rcpt", 6000), ("end_of_data", 6000), ("transaction", 2000)] {
        let latency = &target["latency_us"][what];
        assert_eq!(latency["count"], count, "{what}");
        assert!(latency["p50"].as_f64().unwrap() <= latency["p99.9"].as_f64().unwrap(), "{what}");
    }
    let text = place.load(&[
        "--to",
        "unix:sink",
        "--messages",
        "500",
        "--pipeline",
        "none",
        "--threads",
        "2",
        "--calibrate",
    ]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("500 acknowledged") && text.contains("errors       none"), "{text}");
    assert!(text.contains("end of data") && text.contains("p99.9"), "{text}");
}

#[test]
fn tcp_works_as_unix_sockets_do() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let _sink = place.sink_at(&address, &[]);
    let report = json(&place.load(&[
        "--to",
        &address,
        "--messages",
        "300",
        "--size",
        "200KiB",
        "--calibrate",
        "--json",
    ]));
    assert_eq!(report["targets"][0]["bytes"], 300 * 200 * 1024);
}

#[test]
fn every_message_that_the_server_acknowledged_is_found_whole() {
    let place = Place::new();
    let server = place.server(20);
    let mail = place.path("mail");
    let arguments = ["--to", "unix:lmtp", "--users", "table:users.table", "--calibrate", "--json"];
    let more = ["--messages", "400", "--recipients", "4", "--size", "mix:isp", "--popularity", "zipf:0.8"];
    let last = ["--warm-up", "100ms", "--verify", mail.to_str().unwrap()];
    let report = json(&place.load(&[&arguments[..], &more, &last].concat()));
    let (target, found) = (&report["targets"][0], &report["verification"]);
    assert_eq!(target["recipients"], 1600);
    // The messages of the warm-up are looked for like all others.
    let expected = 1600 + 4 * target["warm_up_messages"].as_u64().unwrap();
    assert_eq!((&found["acknowledged"], &found["whole"]), (&expected.into(), &expected.into()));
    assert_eq!(found["good"], true);
    server.assert_alive();
}

#[test]
fn messages_of_a_corpus_that_are_stored_with_lf_are_whole_too() {
    let place = Place::new();
    let _server = place.server_with(5, "line_endings = \"lf\"");
    fs::create_dir(place.path("corpus")).unwrap();
    fs::write(place.path("corpus/1"), "Subject: dots\n\n.\n..\n.x\n").unwrap();
    fs::write(place.path("corpus/2"), "Subject: no line end\r\n\r\nat the end").unwrap();
    let to = ["--to", "unix:lmtp", "--users", "file:addresses", "--messages", "50", "--calibrate"];
    let run = place.load(&[&to[..], &["--size", "corpus:corpus", "--verify", "mail"]].concat());
    let text = String::from_utf8(run.stdout).unwrap();
    assert!(text.contains("all 50 acknowledged copies are there, once and whole"), "{text}");
}

/// What a faulty server would have done is done to the mailboxes after the last reply and before the end of the run:
/// the generator still waits for one that never comes.
#[test]
fn a_message_that_is_lost_altered_or_there_twice_makes_the_run_void() {
    for (damage, complaint) in [
        (remove as fn(&Path), "1 missing, 0 altered, 0 duplicated"),
        (alter, "0 missing, 1 altered, 0 duplicated"),
        (cut, "0 missing, 1 altered, 0 duplicated"),
        (duplicate, "0 missing, 0 altered, 1 duplicated"),
    ] {
        let place = Place::new();
        let _server = place.server(3);
        // The second target is there to take time.
        let _sink = place.sink("sink", &["--delay", "300ms"]);
        let to = ["--to", "unix:lmtp", "--to", "unix:sink", "--connections", "1", "--messages", "6"];
        let run = place.start_load(&[&to[..], &["--users", "file:addresses", "--verify", "mail"]].concat());
        let files = place.wait_for_messages(6);
        damage(&files[2]);
        let ended = run.wait_with_output().unwrap();
        let text =
            String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{text}");
        // The sink keeps nothing, so its six are missing in any case.
        let missing = complaint.replace("0 missing", "6 missing").replace("1 missing", "7 missing");
        assert!(text.contains(&missing) && text.contains("VOID"), "{missing} is not in\n{text}");
    }
}

#[test]
fn a_stall_of_the_server_shows_in_an_open_loop() {
    let place = Place::new();
    let _sink = place.sink("sink", &["--stall", "500ms:600ms"]);
    let open = [
        "--to",
        "unix:sink",
        "--connections",
        "4",
        "--rate",
        "400",
        "--arrivals",
        "constant",
        "--duration",
        "2s",
    ];
    // Other programs on the machine may keep the generator from its CPU, which is not what is tested.
    let report = json(&place.load(&[&open[..], &["--lateness-max", "1m", "--json"]].concat()));
    let target = &report["targets"][0];
    assert_eq!(target["messages"], 800);
    let scheduled = &target["latency_us"]["transaction"];
    // For 0.6 of 2 s nothing was answered, so about a quarter waited for longer than 0.1 s.
    assert!(scheduled["p90"].as_f64().unwrap() > 200_000.0, "{scheduled}");
    assert!(scheduled["max"].as_f64().unwrap() > 500_000.0, "{scheduled}");
    // Four connections had one message each on the way: seen from MAIL, hardly any was slow.
    assert_eq!(target["latency_us"]["transaction_from_mail"]["count"], 800);
    assert!(target["latency_us"]["transaction_from_mail"]["p90"].as_f64().unwrap() < 200_000.0, "{target}");
    assert!(target["open_loop"]["backlog_max"].as_u64().unwrap() > 150, "{target}");
}

#[test]
fn what_is_due_and_never_begun_counts_with_the_time_it_waited() {
    let place = Place::new();
    let _sink = place.sink("sink", &["--stall", "300ms:1m"]);
    let open =
        ["--to", "unix:sink", "--connections", "2", "--rate", "200", "--duration", "1s", "--drain", "1s"];
    let run = place.load_anyhow(&[&open[..], &["--lateness-max", "1m", "--json"]].concat());
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    let target = &report["targets"][0];
    assert!(target["open_loop"]["never_begun"].as_u64().unwrap() > 80, "{target}");
    assert!(target["latency_us"]["transaction"]["p90"].as_f64().unwrap() > 1_000_000.0, "{target}");
    assert!(target["errors"][0]["first"].as_str().unwrap().contains("no reply in time"), "{target}");
}

#[test]
fn errors_are_counted_by_code_with_the_first_text() {
    let place = Place::new();
    let _sink = place.sink("sink", &["--fail", "rcpt:550:4", "--fail", "end:452:10", "--fail", "drop:50"]);
    let report = json(&place.load(&[
        "--to",
        "unix:sink",
        "--messages",
        "400",
        "--connections",
        "3",
        "--calibrate",
        "--json",
    ]));
    let target = &report["targets"][0];
    let errors = target["errors"].as_array().unwrap();
    let count = |step: &str, code: Value| {
        let found = errors.iter().find(|error| error["step"] == step && error["code"] == code);
        found.unwrap_or_else(|| panic!("{step} {code}: {errors:?}"))["count"].as_u64().unwrap()
    };
    assert_eq!(count("RCPT", 550.into()), 100);
    assert_eq!(count("end of data", Value::Null), 6);
    assert_eq!(count("end of data", 452.into()), 29);
    assert_eq!(target["messages"], 400 - 100 - 6 - 29);
    assert_eq!(target["failed"], 135);
    let refusal = errors.iter().find(|error| error["code"] == 550).unwrap();
    assert_eq!(refusal["first"], "550 5.0.0 Refused as it was asked to");
}

#[test]
fn json_log_and_picture_can_be_read() {
    let place = Place::new();
    let _sinks = [place.sink("a", &[]), place.sink("b", &["--delay", "5ms"])];
    let to =
        ["--to", "unix:a", "--to", "unix:b", "--rounds", "2", "--duration", "500ms", "--connections", "4"];
    let out = ["--json", "--hgrm", "out.hgrm", "--plot", "out.svg", "--calibrate"];
    let report = json(&place.load(&[&to[..], &out].concat()));
    let targets = report["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 2);
    assert!(targets.iter().all(|target| target["rounds_per_second"].as_array().unwrap().len() == 2));
    let over_time = targets[1]["over_time"].as_array().unwrap();
    assert_eq!(
        over_time.iter().map(|point| point["messages"].as_u64().unwrap()).sum::<u64>(),
        targets[1]["messages"]
    );

    let log = fs::read(place.path("out.hgrm")).unwrap();
    let mut tags: Vec<String> = Vec::new();
    for entry in IntervalLogIterator::new(&log) {
        if let LogEntry::Interval(interval) = entry.expect("a line of the log") {
            tags.push(interval.tag().unwrap().as_str().to_owned());
        }
    }
    // Rounds alternate: a, b, a, b.
    tags.dedup();
    assert_eq!(tags, ["unix:a", "unix:b", "unix:a", "unix:b"]);

    let picture = fs::read_to_string(place.path("out.svg")).unwrap();
    assert_well_formed(&picture);
    for part in ["99.9%", "milliseconds", "messages/s", "seconds", "unix:a:", "unix:b:", "<polyline"] {
        assert!(picture.contains(part), "{part}");
    }
}

#[test]
fn a_terminal_shows_rate_errors_and_p99_while_it_runs_and_a_pipe_shows_nothing() {
    let place = Place::new();
    let _sink = place.sink("sink", &["--fail", "rcpt:550:10"]);
    let line = format!("{LOAD} --to unix:sink --duration 2s --connections 2 --rate 50 --lateness-max 1m");
    // script(1) runs it on a terminal of its own.
    let run =
        place.command("script").args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").output().unwrap();
    let shown = String::from_utf8_lossy(&run.stdout);
    assert!(
        shown.contains("/s  errors ") && shown.contains("  p99 ") && shown.contains("unix:sink"),
        "{shown}"
    );
    let run = place.load(&["--to", "unix:sink", "--messages", "50", "--calibrate"]);
    assert!(run.stderr.is_empty(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn a_generator_that_is_late_makes_the_run_void() {
    let place = Place::new();
    let _sink = place.sink("sink", &[]);
    // The limit of lateness is one that nothing can keep.
    let open = ["--to", "unix:sink", "--rate", "500", "--messages", "300", "--lateness-max", "0.001ms"];
    let run = place.load_anyhow(&open);
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(3), "{said}");
    assert!(said.contains("VOID") && said.contains("late although a connection was free"), "{said}");
}

#[test]
fn a_server_that_is_not_there_is_reported_after_bounded_attempts() {
    let place = Place::new();
    let run = place.load_anyhow(&["--to", "unix:none", "--connections", "2", "--retries", "1"]);
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(1), "{said}");
    assert!(said.contains("unix:none acknowledged nothing") && said.contains("No such file"), "{said}");
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(text.contains("4 x connection failed at connect"), "{text}");
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    let place = Place::new();
    let sink = place.sink("sink", &[]);
    let run = place.start_load(&[
        "--to",
        "unix:sink",
        "--duration",
        "3s",
        "--connections",
        "2",
        "--retries",
        "10",
        "--json",
        "--calibrate",
    ]);
    std::thread::sleep(Duration::from_millis(800));
    drop(sink);
    let _sink = place.sink("sink", &[]);
    let report = json(&run.wait_with_output().unwrap());
    let target = &report["targets"][0];
    assert_eq!(target["connections_given_up"], 0);
    let last = target["over_time"].as_array().unwrap().iter().rev().nth(1).unwrap();
    assert!(last["messages"].as_u64().unwrap() > 0, "{target}");
    assert!(!target["errors"].as_array().unwrap().is_empty());
}

#[test]
fn wrong_arguments_say_what_to_do() {
    let place = Place::new();
    for (arguments, remedy) in [
        (&["--to", "/run/lmtp"][..], "unix:/run/lmtp"),
        (&["--to", "unix:x", "--size", "10"], "at least"),
        (&["--to", "unix:x", "--size", "mix:none"], "mix:isp"),
        (&["--to", "unix:x", "--users", "table:none"], "posthaste users build"),
        (&["--to", "unix:x", "--recipients", "5", "--users", "u{1..4}@x"], "--recipients"),
        (&["--to", "unix:x", "--verify", "none"], "not a directory"),
        (&["--to", "unix:x", "--cpus", "4095"], "this process may use"),
        (&["--messages", "5"], "--sink"),
    ] {
        let run = place.load_anyhow(arguments);
        let said = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(remedy), "{arguments:?}: {said}");
    }
}

#[test]
fn every_example_of_the_help_is_one_that_the_program_takes() {
    let place = Place::new();
    let help = String::from_utf8(place.load(&["--help"]).stdout).unwrap();
    let readme = include_str!("../perf/load/README.md");
    for (page, prompt) in [(help.split_once("Examples:").expect("examples").1, ""), (readme, "$ ")] {
        let joined = page.replace("\\\n", " ");
        let start = format!("{prompt}posthaste-load ");
        let lines: Vec<&str> =
            joined.lines().filter_map(|line| line.trim_start().strip_prefix(&start)).collect();
        assert!(lines.len() >= 3, "{page}");
        for line in lines {
            // With an unknown argument at its end, only that one may be complained about.
            let line = line.split(" &").next().unwrap();
            let mut words: Vec<&str> = line.split_whitespace().collect();
            words.push("--none-such");
            let run = place.load_anyhow(&words);
            let said = String::from_utf8_lossy(&run.stderr);
            assert!(said.contains("unexpected argument '--none-such'"), "{line}: {said}");
        }
    }
}

fn remove(file: &Path) {
    fs::remove_file(file).unwrap();
}

fn alter(file: &Path) {
    let mut content = fs::read(file).unwrap();
    let end = content.len() - 100;
    content[end] ^= 1;
    fs::write(file, content).unwrap();
}

fn cut(file: &Path) {
    let content = fs::read(file).unwrap();
    fs::write(file, &content[..content.len() - 2]).unwrap();
}

fn duplicate(file: &Path) {
    fs::copy(file, file.with_file_name("1.copy.mx")).unwrap();
}

/// Enough of XML: every element that is opened is closed, in order.
fn assert_well_formed(xml: &str) {
    let mut open = Vec::new();
    for tag in xml.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag ends");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

fn json(run: &Output) -> Value {
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{}: {said}\n{}", run.status, String::from_utf8_lossy(&run.stdout));
    serde_json::from_slice(&run.stdout).expect("JSON on standard output")
}

/// A directory in which the programs run, so that paths are short.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("phl-").tempdir().unwrap();
        // Every owner of a mailbox has to get in.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, arguments: &[&str]) -> Output {
        let run = self.load_anyhow(arguments);
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        run
    }

    fn load_anyhow(&self, arguments: &[&str]) -> Output {
        self.start_load(arguments).wait_with_output().unwrap()
    }

    fn start_load(&self, arguments: &[&str]) -> Child {
        self.command(LOAD).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A program that ends with its test, even if the test is killed.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn sink(&self, name: &str, arguments: &[&str]) -> Running {
        self.sink_at(&format!("unix:{name}"), arguments)
    }

    fn sink_at(&self, address: &str, arguments: &[&str]) -> Running {
        let mut command = self.command(LOAD);
        Running::start(command.args(["--sink", address]).args(arguments), "until it is ended")
    }

    fn server(&self, users: u32) -> Running {
        self.server_with(users, "")
    }

    /// The server with so many users, at the socket `lmtp`; their addresses are in `addresses`, the mail is in `mail`.
    fn server_with(&self, users: u32, maildir: &str) -> Running {
        let (mut passwd, mut addresses) = (String::new(), String::new());
        for number in 1..=users {
            let home = self.path(&format!("mail/u{number}"));
            fs::create_dir_all(&home).unwrap();
            let owner = if rustix::process::geteuid().is_root() {
                chown(&home, Some(OWNER), Some(OWNER)).unwrap();
                format!("{OWNER}:{OWNER}")
            } else {
                ":".to_owned()
            };
            passwd.push_str(&format!("u{number}@example.test::{owner}::{}::\n", home.display()));
            addresses.push_str(&format!("u{number}@example.test\n"));
        }
        fs::write(self.path("passwd"), passwd).unwrap();
        fs::write(self.path("addresses"), addresses).unwrap();
        let build =
            ["users", "build", "--from", "passwd-file", "--input", "passwd", "--output", "users.table"];
        assert!(self.command(POSTHASTE).args(build).stdout(Stdio::null()).status().unwrap().success());
        let directory = self.0.path().display();
        let configuration = format!(
            "hostname = \"mx.example.test\"\nstate_dir = \"{directory}\"\n[[listen]]\nlmtp = \"unix:{directory}/lmtp\"\n\
             [maildir]\ndurability = \"none\"\n{maildir}\n"
        );
        fs::write(self.path("posthaste.toml"), configuration).unwrap();
        Running::start(self.command(POSTHASTE).args(["serve", "--config", "posthaste.toml"]), "ready:")
    }

    /// Waits until so many messages are in the mailboxes.
    fn wait_for_messages(&self, count: usize) -> Vec<PathBuf> {
        for _ in 0..600 {
            let boxes = fs::read_dir(self.path("mail")).unwrap();
            let folders = boxes.map(|home| home.unwrap().path().join("Maildir/new"));
            let files: Vec<PathBuf> = folders
                .filter_map(|folder| fs::read_dir(folder).ok())
                .flat_map(|entries| entries.map(|entry| entry.unwrap().path()))
                .collect();
            if files.len() >= count {
                return files;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("there are not {count} messages");
    }
}

/// A server that is stopped with its test.
struct Running(Child);

impl Running {
    /// Starts it, and waits until a line of its standard error has `ready` in it.
    fn start(command: &mut Command, ready: &str) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("setpriv of util-linux");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        loop {
            match lines.next() {
                Some(Ok(line)) if line.contains(ready) => break,
                Some(Ok(line)) => said.push(line),
                _ => panic!("it did not start:\n{}", said.join("\n")),
            }
        }
        // Ends with the process, whose pipe it reads.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    fn assert_alive(mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "the server has ended");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const LOAD: &str = env!("CARGO_BIN_EXE_posthaste-load");
const POSTHASTE: &str = env!("CARGO_BIN_EXE_posthaste");
/// Who owns the mail, when the tests may choose.
const OWNER: u32 = 20_001;
