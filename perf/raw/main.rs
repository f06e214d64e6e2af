//! `posthaste-raw`: the files that Posthaste would make, with the same promise, and no network: what the machine can do.
//!
//! Owns the arguments, the threads and the report. Promises that all messages are there, named, and as safe as the mode
//! says when it reports. Never speaks a protocol, looks a user up, or answers anybody: what a server needs beyond
//! this program is what the server costs.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::{Parser, ValueEnum};

mod files;
mod journal;
mod message;
mod rounds;
mod writer;

use files::Mailboxes;
use journal::Journal;
use message::Sizes;
use rounds::Rounds;
use writer::Writer;

/// Writes messages into Maildirs as fast as plain system calls can, with the promise of one of Posthaste's modes
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// The mailboxes: DIR/0/Maildir, DIR/1/Maildir, ...; they exist
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// How many mailboxes there are
    #[arg(long, default_value_t = 1000)]
    mailboxes: usize,
    /// What is promised when a message is done
    #[arg(long, value_enum, default_value_t = Mode::Journal)]
    mode: Mode,
    /// How many messages
    #[arg(long, default_value_t = 20_000)]
    messages: u64,
    /// Bytes of each message, without the trace headers
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// A file with the size of a message on each line, used in turn, in place of --size
    #[arg(long, value_name = "FILE")]
    sizes: Option<PathBuf>,
    /// Mailboxes that each message goes to
    #[arg(long, default_value_t = 1)]
    recipients: usize,
    /// All recipients of a message get the same file, linked (Posthaste's maildir.single_instance)
    #[arg(long)]
    shared: bool,
    /// How many messages may share a sync: as many as a server would have connections
    #[arg(long, value_name = "N", default_value_t = 64)]
    in_flight: usize,
    /// Threads, which share the messages in flight; `fsync` takes one for each message in flight instead, up to 128
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Where the journal's segments are made (default: beside the mailboxes, in DIR/journal)
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Larger messages do not go through the journal but take the way of `fsync`, as Posthaste's do
    #[arg(long, value_name = "BYTES", default_value_t = 128 << 10)]
    journal_message_max: usize,
    /// When everything is prepared, say "ready" and begin when a line comes on standard input
    #[arg(long)]
    wait: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// What has happened when a message is done; the same words as Posthaste's `maildir.durability`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Written to a journal with one durable write for all messages in flight; the files are written and named
    Journal,
    /// Written out and named; one syncfs for all messages in flight
    Group,
    /// Synced, named, the directory synced, for each file
    Fsync,
    /// Named
    None,
}

/// What the run came to.
#[derive(Debug, serde::Serialize)]
struct Report {
    messages: u64,
    files: u64,
    bytes: u64,
    seconds: f64,
    user_seconds: f64,
    system_seconds: f64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("posthaste-raw: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let journal = if arguments.mode == Mode::Journal {
        let directory = arguments.journal.clone().unwrap_or_else(|| arguments.dir.join("journal"));
        Some(Journal::make(&directory, &arguments.dir).map_err(|error| failed(&directory, error))?)
    } else {
        None
    };
    let on = File::open(&arguments.dir).map_err(|error| failed(&arguments.dir, error))?;
    // What was made so far is not part of what is measured.
    rustix::fs::syncfs(&on).map_err(|error| failed(&arguments.dir, error.into()))?;
    let rounds = match &journal {
        Some(journal) => Rounds::new(|| journal.write()),
        None => Rounds::new(|| rustix::fs::syncfs(&on)),
    };
    let plan = Plan::new(arguments, journal.as_ref(), rounds)?;
    let writers: Vec<Writer<'_>> = (0..plan.threads).map(|number| Writer::new(&plan, number)).collect();
    if arguments.wait {
        println!("ready");
        let heard = std::io::stdin().read_line(&mut String::new());
        heard.map_err(|error| format!("standard input: {error}"))?;
    }
    let (begin, (user, system)) = (Instant::now(), processor_seconds()?);
    let outcome: Result<Vec<_>, String> = std::thread::scope(|scope| {
        let threads: Vec<_> = writers
            .into_iter()
            .map(|mut writer| scope.spawn(move || writer.run().map(|()| (writer.files(), writer.bytes()))))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread that does not panic")).collect()
    });
    let outcome = outcome?;
    let seconds = begin.elapsed().as_secs_f64();
    let (user_after, system_after) = processor_seconds()?;
    let report = Report {
        messages: arguments.messages,
        files: outcome.iter().map(|(files, _)| files).sum(),
        bytes: outcome.iter().map(|(_, bytes)| bytes).sum(),
        seconds,
        user_seconds: user_after - user,
        system_seconds: system_after - system,
    };
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
    let (rate, each) = (report.messages as f64 / seconds, report.messages.max(1) as f64);
    if arguments.json {
        println!("{}", serde_json::to_string(&report).expect("numbers"));
    } else {
        let processor = (report.user_seconds + report.system_seconds) / each * 1e6;
        println!(
            "{} messages, {} files, {} bytes in {seconds:.3} s: {rate:.0} messages/s, {processor:.1} us CPU each",
            report.messages, report.files, report.bytes
        );
    }
    Ok(())
}

/// What all threads share.
#[derive(Debug)]
struct Plan<'a> {
    arguments: &'a Arguments,
    mailboxes: Mailboxes,
    sizes: Sizes,
    threads: usize,
    /// How many messages a thread takes before it syncs.
    share: usize,
    taken: AtomicU64,
    journal: Option<&'a Journal>,
    /// What the mode has many messages share: a write of the journal, or a sync of the file system.
    rounds: Rounds<'a>,
}

impl<'a> Plan<'a> {
    fn new(
        arguments: &'a Arguments,
        journal: Option<&'a Journal>,
        rounds: Rounds<'a>,
    ) -> Result<Self, String> {
        if arguments.recipients == 0 || arguments.recipients > arguments.mailboxes {
            return Err("--recipients is from 1 to the number of mailboxes".into());
        }
        let in_flight = arguments.in_flight.max(1);
        let threads = match arguments.mode {
            // A sync blocks its thread, and syncs of several threads share a commit of the file system.
            Mode::Fsync => in_flight.min(FSYNC_THREADS_MAX),
            _ => arguments.threads.clamp(1, in_flight),
        };
        Ok(Self {
            arguments,
            mailboxes: Mailboxes::open(&arguments.dir, arguments.mailboxes)?,
            sizes: match &arguments.sizes {
                Some(path) => Sizes::load(path)?,
                None => Sizes::fixed(arguments.size),
            },
            threads,
            share: (in_flight / threads).max(1),
            taken: AtomicU64::new(0),
            journal,
            rounds,
        })
    }

    /// The numbers of the next messages, none when all are taken.
    fn take(&self) -> std::ops::Range<u64> {
        let share = u64::try_from(self.share).expect("few");
        let first = self.taken.fetch_add(share, Ordering::Relaxed).min(self.arguments.messages);
        first..(first + share).min(self.arguments.messages)
    }
}

/// Processor time of this process so far, ended threads and those of io-wq included: user, system.
fn processor_seconds() -> Result<(f64, f64), String> {
    let text =
        std::fs::read_to_string("/proc/self/stat").map_err(|error| format!("/proc/self/stat: {error}"))?;
    parse_processor_seconds(&text).ok_or_else(|| "/proc/self/stat cannot be understood".to_owned())
}

/// Fields 14 and 15 of proc_pid_stat(5), counted behind the name, which may contain anything.
fn parse_processor_seconds(text: &str) -> Option<(f64, f64)> {
    let (_, behind) = text.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    #[expect(clippy::cast_precision_loss, reason = "a hundred or so")]
    let second = rustix::param::clock_ticks_per_second() as f64;
    Some((next()? / second, next()? / second))
}

/// More threads than this are slower, not faster.
const FSYNC_THREADS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let text = "77 (a) b (c) S 1 77 77 0 -1 4194560 100 0 0 0 250 125 0 0 20 0 3 0 1000 0";
        let (user, system) = parse_processor_seconds(text).expect("well formed");
        assert!((user - 2.0 * system).abs() < 1e-9 && user > 0.0, "{user} {system}");
        assert!(parse_processor_seconds("77 a S 1").is_none());
    }

    #[test]
    fn every_mode_makes_every_file_whole() {
        for mode in ["journal", "group", "fsync", "none"] {
            let directory = tempfile::tempdir().expect("a directory");
            for mailbox in 0..3 {
                let new = directory.path().join(format!("{mailbox}/Maildir/new"));
                std::fs::create_dir_all(new).expect("a mailbox");
            }
            let path = directory.path().to_str().expect("text");
            let words = ["raw", "--dir", path, "--mailboxes", "3", "--mode", mode, "--messages", "10"];
            let words = words.into_iter().chain(["--recipients", "2", "--in-flight", "4", "--size", "5000"]);
            run(&Arguments::parse_from(words)).unwrap_or_else(|why| panic!("{mode}: {why}"));
            let mut found = 0;
            for mailbox in 0..3 {
                let new = directory.path().join(format!("{mailbox}/Maildir/new"));
                for entry in std::fs::read_dir(new).expect("a mailbox") {
                    let entry = entry.expect("an entry");
                    let name = entry.file_name().into_string().expect("text");
                    let bytes = entry.metadata().expect("a file").len();
                    assert!(bytes > 5000 && name.contains(&format!(",S={bytes},")), "{mode}: {name} {bytes}");
                    found += 1;
                }
            }
            assert_eq!(found, 20, "{mode}");
        }
    }

    #[test]
    fn shared_files_have_as_many_names_as_recipients() {
        use std::os::unix::fs::MetadataExt as _;
        let directory = tempfile::tempdir().expect("a directory");
        for mailbox in 0..4 {
            std::fs::create_dir_all(directory.path().join(format!("{mailbox}/Maildir/new")))
                .expect("a mailbox");
        }
        let path = directory.path().to_str().expect("text");
        let words =
            ["raw", "--dir", path, "--mailboxes", "4", "--messages", "1", "--recipients", "4", "--shared"];
        run(&Arguments::parse_from(words)).expect("a run");
        let mut entries = std::fs::read_dir(directory.path().join("2/Maildir/new")).expect("a mailbox");
        let file = entries.next().expect("the message").expect("an entry");
        assert_eq!(file.metadata().expect("a file").nlink(), 4);
    }
}
