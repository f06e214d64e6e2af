//! `posthaste demo`: the whole way of one message, shown.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::config::Config;
use super::server::Server;
use crate::limits;
use crate::observe::log::Log;
use crate::sys::signal::{Signal, Signals};
use crate::users::build::{Builder, Options};
use crate::users::key::LocalPart;
use crate::users::source::{accounts::Accounts, passwd_file};

/// What `demo` takes.
#[derive(Debug, clap::Args)]
pub struct DemoArguments {
    /// Where to put table, socket and mailboxes [default: a new directory in the temporary one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// End after the delivery: exit code 0 if the file is there, byte for byte
    #[arg(long)]
    once: bool,
}

/// Runs the demonstration. Exit code 0 when the message arrived, byte for byte; 1 when it did not.
#[must_use]
pub fn run(arguments: &DemoArguments) -> ExitCode {
    match show(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "posthaste demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What went wrong, and with what.
struct Failure(String);

impl Failure {
    fn of<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn show(arguments: &DemoArguments) -> Result<(), Failure> {
    let signals = Signals::block().map_err(Failure::of("cannot wait for signals"))?;
    let directory = directory(arguments.dir.as_deref())?;
    build_table(&directory)?;
    let (log, log_thread) = Log::start().map_err(Failure::of("cannot start the log"))?;
    let config = Config::parse(&configuration(&directory), "the demo's configuration")
        .map_err(|error| Failure(error.render(false)))?;
    let server = Server::start(&config, &log).map_err(Failure::of("cannot start the server"))?;
    let shown = deliver(&directory).and_then(|()| {
        say(&how_to_go_on(&directory, &server.addresses()));
        if arguments.once { Ok(()) } else { wait_for_interrupt(&signals) }
    });
    server.stop(limits::DRAIN_PATIENCE, || matches!(signals.pending(), Ok(Some(_))));
    drop(log);
    let _ = log_thread.join();
    shown
}

/// The directory to work in, absolute, made if need be.
fn directory(wanted: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = match wanted {
        Some(path) => path.to_owned(),
        None => std::env::temp_dir().join(format!("posthaste-demo-{}", std::process::id())),
    };
    std::fs::create_dir_all(&path).map_err(Failure::of(format_args!("cannot make {}", path.display())))?;
    let path = path.canonicalize().map_err(Failure::of(format_args!("cannot find {}", path.display())))?;
    if path.to_str().is_none_or(|text| text.contains(['"', '\\', ':'])) {
        return Err(Failure(format!(
            "{}: choose a directory without quotes, colons and the like",
            path.display()
        )));
    }
    Ok(path)
}

fn build_table(directory: &Path) -> Result<(), Failure> {
    let table = directory.join("users.table");
    let failed = || format!("cannot build {}", table.display());
    let options = Options::random(LocalPart::Folded).map_err(Failure::of(failed()))?;
    let mut builder = Builder::create(&table, options).map_err(Failure::of(failed()))?;
    let accounts = Accounts::system().map_err(Failure::of("cannot read the accounts of this host"))?;
    for user in USERS {
        let home = directory.join("mail").join(user);
        let line = format!("{user}@{DOMAIN}:::::{}::", home.display());
        let entry = passwd_file::parse_line(&line, &accounts, LocalPart::Folded)
            .map_err(Failure::of(format_args!("cannot use {}", home.display())))?;
        builder.add(&entry).map_err(Failure::of(failed()))?;
    }
    builder.finish().map_err(Failure::of(failed()))?;
    Ok(())
}

fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"hostname = "demo.example.net"
postmaster = "alice@{DOMAIN}"
state_dir = "{directory}/state"
workers = 1

[[listen]]
lmtp = "unix:{directory}/lmtp.sock"

[[listen]]
lmtp = "tcp:127.0.0.1:0"

[users]
table = "{directory}/users.table"
recipient_delimiter = "+"

[maildir]
# Room for a few messages is enough, and is made at once.
journal_segment = "4MiB"
"#
    )
}

/// Delivers one message as a client would, and looks whether it is there.
fn deliver(directory: &Path) -> Result<(), Failure> {
    let socket = directory.join("lmtp.sock");
    let stream = UnixStream::connect(&socket)
        .map_err(Failure::of(format_args!("cannot connect to {}", socket.display())))?;
    let mut client = Client { stream: BufReader::new(stream) };
    let talked = client.talk();
    talked.map_err(Failure::of("the client lost the server"))??;
    let new = directory.join("mail/alice/Maildir/new");
    let file = newest(&new)?;
    let text = std::fs::read(&file).map_err(Failure::of(format_args!("cannot read {}", file.display())))?;
    let head = text.strip_suffix(MESSAGE.as_bytes()).ok_or_else(|| {
        Failure(format!("{} does not end in the message that was sent, byte for byte", file.display()))
    })?;
    if !head.starts_with(b"Return-Path: <bob@example.org>\r\nDelivered-To: alice@example.org\r\nReceived: ") {
        return Err(Failure(format!("{} does not begin with the trace headers", file.display())));
    }
    say(&format!(
        "\nIt is in the mailbox, byte for byte behind its trace headers, and durable:\n  {}\n",
        file.display()
    ));
    Ok(())
}

/// The file that came last.
fn newest(new: &Path) -> Result<PathBuf, Failure> {
    let unreadable = || format!("cannot read {}", new.display());
    let entries = std::fs::read_dir(new).map_err(Failure::of(unreadable()))?;
    let mut newest = None;
    for entry in entries {
        let entry = entry.map_err(Failure::of(unreadable()))?;
        let made = entry.metadata().and_then(|data| data.modified()).map_err(Failure::of(unreadable()))?;
        newest = newest.max(Some((made, entry.path())));
    }
    newest
        .map(|(_, path)| path)
        .ok_or_else(|| Failure(format!("{} is empty: the message is not there", new.display())))
}

struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    fn talk(&mut self) -> io::Result<Result<(), Failure>> {
        self.stream.get_ref().set_read_timeout(Some(PATIENCE))?;
        let mut last = self.hear()?;
        for line in
            ["LHLO client.example.org", "MAIL FROM:<bob@example.org>", "RCPT TO:<alice@example.org>", "DATA"]
        {
            last = self.say_and_hear(line)?;
        }
        if last.starts_with("354") {
            for line in MESSAGE.lines() {
                self.say(line)?;
            }
            last = self.say_and_hear(".")?;
        }
        let delivered = if last.starts_with("250") {
            Ok(())
        } else {
            Err(Failure(format!("the server did not take the message: {last}")))
        };
        self.say_and_hear("QUIT")?;
        Ok(delivered)
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        say(&format!("C: {line}\n"));
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes())
    }

    fn say_and_hear(&mut self, line: &str) -> io::Result<String> {
        self.say(line)?;
        self.hear()
    }

    /// A whole reply; its last line.
    fn hear(&mut self) -> io::Result<String> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            say(&format!("S: {}\n", line.trim_end()));
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }
}

fn how_to_go_on(directory: &Path, addresses: &[&str]) -> String {
    let directory = directory.display();
    let port = addresses.iter().find_map(|name| name.rsplit_once("127.0.0.1:")).map_or("", |(_, port)| port);
    format!(
        "
The next one, by hand (swaks is a Debian package):
  swaks --protocol LMTP --socket {directory}/lmtp.sock --to bob@{DOMAIN} --from alice@{DOMAIN}
  swaks --protocol LMTP --server 127.0.0.1 --port {port} --to alice+list@{DOMAIN} --from bob@{DOMAIN}

From Postfix, in main.cf:
  virtual_mailbox_domains = {DOMAIN}
  virtual_transport = lmtp:unix:{directory}/lmtp.sock

Who has a mailbox:
  posthaste users dump {directory}/users.table
"
    )
}

fn wait_for_interrupt(signals: &Signals) -> Result<(), Failure> {
    say("\nThe server stays up until Ctrl-C.\n");
    loop {
        match signals.wait(None).map_err(Failure::of("cannot wait for signals"))? {
            Some(Signal::Interrupt | Signal::Terminate) => return Ok(()),
            Some(Signal::Hangup) | None => {}
        }
    }
}

fn say(text: &str) {
    let mut out = io::stdout().lock();
    // Whoever closed our output does not want to hear more.
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

const DOMAIN: &str = "example.org";
const USERS: [&str; 2] = ["alice", "bob"];
const PATIENCE: Duration = Duration::from_secs(30);

const MESSAGE: &str = "From: Bob <bob@example.org>\r
To: Alice <alice@example.org>\r
Subject: posthaste demo\r
Date: Mon, 23 Nov 2026 12:00:00 +0000\r
Message-ID: <demo@example.org>\r
\r
Hello Alice,\r
when you read this, it had survived a power cut before the server said 250.\r
";
