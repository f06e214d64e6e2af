//! The server of a dialog: configuration, user table and worker, the same on either ring.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::utils::CachePadded;
use posthaste::control::config::{Config, Host};
use posthaste::control::server;
use posthaste::exec::Exec;
use posthaste::observe::log::Log;
use posthaste::serve::worker::{Seat, Settings, Worker};
use posthaste::sys::limit::Allowance;
use posthaste::users::build::{Builder, Options};
use posthaste::users::entry::{Alias, Entry};
use posthaste::users::key::{LocalPart, Rules};
use posthaste::users::table::Table;

use super::script::Script;

/// The configuration of `script`, whose own settings come before ours. `durability` is for scripts
/// that do not care.
pub(crate) fn config(script: &Script, durability: &str) -> Config {
    let mut settings: BTreeMap<String, String> = [
        ("hostname", "\"mx.example.net\""),
        ("postmaster", "\"postmaster@example.net\""),
        ("state_dir", "\"/var/lib/posthaste\""),
        ("workers", "1"),
        ("users.table", "\"/var/lib/posthaste/users.table\""),
        ("users.local_domains", "[\"mx.example.net\"]"),
        ("maildir.durability", durability),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    settings.extend(script.config.iter().cloned());
    let lines: Vec<String> = settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    let text = lines.concat() + "[[listen]]\nlmtp = \"unix:/run/posthaste.sock\"\n";
    Config::parse_for(&Host::this(), &text, "the dialog's configuration")
        .unwrap_or_else(|error| panic!("{error}"))
}

/// What the worker is told.
pub(crate) fn settings(config: &Config) -> Arc<Settings> {
    let connections = config.limits.connections;
    let (delivery_files, kept_directories) = (2 * OPEN_FILES_MAX + 16, 16);
    let allowance = Allowance { connections, delivery_files, kept_directories, warning: None };
    Arc::new(server::settings(config, &allowance))
}

/// The users of every dialog, with homes beneath `mail`. README.md lists them.
pub(crate) fn table(mail: &Path) -> Arc<Table> {
    let table = Table::from_bytes(&PathBuf::from("users.table"), &table_file(mail));
    Arc::new(table.unwrap_or_else(|error| panic!("{error}")))
}

/// The file that their table is.
pub(crate) fn table_file(mail: &Path) -> Vec<u8> {
    let directory = scratch();
    let file = directory.path().join("users.table");
    let entries: Vec<Entry> = USERS
        .iter()
        .map(|(address, home)| Entry {
            address: (*address).to_owned(),
            home: Some(mail.join(home).to_string_lossy().into_owned()),
            mail: "Maildir".to_owned(),
            ..Entry::default()
        })
        .collect();
    let options = Options::reproducible(LocalPart::Folded, [7; 16]);
    let aliases = ALIASES.iter().map(|(address, targets)| Alias {
        line: 0,
        address: (*address).to_owned(),
        targets: targets.iter().map(|&target| target.to_owned()).collect(),
    });
    let rules = Rules::new("+", &["mx.example.net".to_owned()]);
    let built = Builder::create(&file, options).and_then(|builder| {
        let mut builder = builder.with_rules(rules);
        entries.iter().try_for_each(|entry| builder.add(entry))?;
        aliases.into_iter().try_for_each(|alias| builder.add_alias(&alias))?;
        builder.finish()
    });
    built.unwrap_or_else(|error| panic!("{error}"));
    std::fs::read(&file).expect("just written")
}

/// A directory in memory where there is one: a sync of it does not wait for the disk of the machine.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory")
}

/// A worker on `exec`, and the log that it writes.
pub(crate) fn worker(
    exec: Rc<Exec>,
    settings: Arc<Settings>,
    table: Arc<Table>,
    random: u64,
) -> (Rc<Worker>, LogFile) {
    let lines = Lines::default();
    let (log, thread) = Log::to(lines.clone()).expect("a thread");
    let seat =
        Seat { index: 0, loads: Arc::new([CachePadded::new(AtomicUsize::new(0))]), random, journal: None };
    let worker = Worker::new(exec, settings, table, log, seat);
    (worker, LogFile { lines, thread })
}

/// The log of a worker that may still write to it.
pub(crate) struct LogFile {
    lines: Lines,
    thread: std::thread::JoinHandle<()>,
}

impl LogFile {
    /// The lines, once the last worker with this log is gone.
    pub(crate) fn finish(self) -> Vec<String> {
        self.thread.join().expect("the log's thread does not panic");
        let bytes = self.lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::to_owned).collect()
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Enough for every client of a crowd to have a message for two written while it arrives.
const OPEN_FILES_MAX: usize = 256;

/// Aliases of every dialog.
const ALIASES: [(&str, &[&str]); 4] = [
    ("info@example.net", &["alice@example.net", "bob@example.net"]),
    ("everybody@example.net", &["info@example.net", "carol@example.net", "alice@example.net"]),
    ("deep@example.net", &["bob+filed@example.net"]),
    ("@catchall.example", &["carol@example.net"]),
];

/// Addresses, and homes beneath the mail root. The Maildir of `mallory` is a symbolic link to that of
/// `bob`.
const USERS: [(&str, &str); 10] = [
    ("alice@example.net", "alice"),
    ("bob@example.net", "bob"),
    ("carol@example.net", "carol"),
    ("mallory@example.net", "mallory"),
    ("postmaster@example.net", "postmaster"),
    ("john smith@example.net", "john"),
    ("odd@name@example.net", "odd"),
    ("j\u{f6}rg@example.net", "joerg"),
    ("alice@[192.0.2.1]", "literal"),
    ("dave", "dave"),
];
