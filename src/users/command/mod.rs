//! `posthaste users`: building a table, and looking into one.
//!
//! Owns the arguments, the output and the exit codes of these commands. Results go to standard output, in text
//! or, with `--json`, as JSON; everything else goes to standard error. Never touches a running server, which takes a
//! new table up when it is started again.
#![forbid(unsafe_code)]

mod build;
mod diff;
mod dump;
mod inputs;
mod lookup;
mod stats;
#[cfg(test)]
mod tests;
mod verify;

pub use build::{BuildArguments, Format};
pub use diff::DiffArguments;
pub use lookup::LookupArguments;

use super::build::BuildError;
use super::record::Damage;
use super::table::TableError;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// The commands below `posthaste users`.
#[derive(Debug, clap::Subcommand)]
pub enum UsersCommand {
    /// Compile a user table and publish it by rename
    ///
    /// Inputs may be compressed with gzip or zstd, and "-" is standard input. All bad lines are reported, and a table
    /// is only published if there are none. Exit code: 0 published, 1 bad lines or a failed step, 2 wrong arguments.
    #[command(after_help = build::EXAMPLES)]
    Build(BuildArguments),
    /// Print which addresses were added, removed or changed from one table to another
    ///
    /// Exit code: 0 the tables say the same, 1 they differ, 2 wrong arguments, 3 one is damaged or cannot be read, or
    /// the differences cannot be written.
    #[command(
        after_help = "Examples:\n  posthaste users diff /var/lib/posthaste/users.table new.table\n  posthaste users diff --json old.table new.table | jq -r .address"
    )]
    Diff(DiffArguments),
    /// Look an address up as the server does
    ///
    /// Exit code: 0 found, 1 unknown, 2 wrong arguments, 3 the table is damaged or cannot be read.
    #[command(
        after_help = "Example:\n  posthaste users lookup /var/lib/posthaste/users.table alice+list@example.org -d +"
    )]
    Lookup(LookupArguments),
    /// Read the whole table and check every checksum, record and look-up
    ///
    /// Exit code: 0 intact, 2 wrong arguments, 3 damaged.
    #[command(after_help = "Example:\n  posthaste users verify /var/lib/posthaste/users.table")]
    Verify {
        /// The table
        table: PathBuf,
    },
    /// Print all users as a passwd-file, which "users build" reads again, or as JSON lines
    ///
    /// Exit code: 0 all printed, 1 some cannot be written in this form, 2 wrong arguments, 3 damaged.
    #[command(after_help = "Example:\n  posthaste users dump --json users.table | jq .address")]
    Dump {
        /// The table
        table: PathBuf,
        /// One JSON object a line, for users and then for aliases
        #[arg(long)]
        json: bool,
        /// Print the aliases instead of the users: an address and its targets a line, as virtual(5) has them
        #[arg(long)]
        aliases: bool,
    },
    /// Print how many users there are, and how large and well spread the table is
    ///
    /// Exit code: 0 printed, 2 wrong arguments, 3 damaged.
    #[command(after_help = "Example:\n  posthaste users stats /var/lib/posthaste/users.table")]
    Stats {
        /// The table
        table: PathBuf,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs a command and says how the process should end.
pub fn run(command: UsersCommand) -> ExitCode {
    let is_terminal = io::stdout().is_terminal();
    let mut out = BufWriter::new(io::stdout().lock());
    let is_diff = matches!(command, UsersCommand::Diff(_));
    let ended = execute(command, is_terminal, &mut out);
    let ended = ended.and_then(|code| match out.flush() {
        // Whoever closed the pipe has seen enough, as "head" does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(code),
    });
    match ended {
        Ok(code) => code.into(),
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe && !is_diff => OK.into(),
        // It was full of differences.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => DIFFERENT.into(),
        Err(failure) => {
            report(&failure);
            let code = failure.exit_code();
            // 1 would be an answer.
            if is_diff && code == FAILED { DAMAGED.into() } else { code.into() }
        }
    }
}

const OK: u8 = 0;
const FAILED: u8 = 1;
const UNKNOWN: u8 = 1;
const DIFFERENT: u8 = 1;
const WRONG_ARGUMENTS: u8 = 2;
const DAMAGED: u8 = 3;

/// Why a command ended early.
#[derive(Debug)]
enum Failure {
    Table(TableError),
    Damage(PathBuf, Damage),
    Build(BuildError),
    Arguments(String),
    Input(String, io::Error),
    Output(io::Error),
    BadLines(u64),
    Nobody,
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Table(_) | Self::Damage(..) => DAMAGED,
            Self::Arguments(_) => WRONG_ARGUMENTS,
            Self::Build(_) | Self::Input(..) | Self::Output(_) | Self::BadLines(_) | Self::Nobody => FAILED,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(error) => error.fmt(f),
            Self::Damage(path, damage) => write!(f, "user table {}: {damage}", path.display()),
            Self::Build(error) => error.fmt(f),
            Self::Arguments(message) => f.write_str(message),
            Self::Input(name, error) => write!(f, "cannot read {name}: {error}"),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
            Self::BadLines(count) => write!(f, "{count} bad lines: nothing was published"),
            Self::Nobody => f.write_str(
                "there is nobody in the input: nothing was published; --allow-empty publishes a table of nobody",
            ),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// The exit code, or why there is none. A terminal is given colours, if that is where `out` leads.
fn execute(command: UsersCommand, is_terminal: bool, out: &mut impl Write) -> Result<u8, Failure> {
    match command {
        UsersCommand::Build(arguments) => build::build(&arguments, out),
        UsersCommand::Diff(arguments) => diff::diff(&arguments, is_terminal, out),
        UsersCommand::Lookup(arguments) => lookup::lookup(&arguments, out),
        UsersCommand::Verify { table } => verify::verify(&table, out),
        UsersCommand::Dump { table, json, aliases: true } => dump::dump_aliases(&table, json, out),
        UsersCommand::Dump { table, json: false, .. } => dump::dump(&table, false, out),
        UsersCommand::Dump { table, json: true, .. } => {
            Ok(dump::dump(&table, true, out)?.max(dump::dump_aliases(&table, true, out)?))
        }
        UsersCommand::Stats { table, json } => stats::stats(&table, json, out),
    }
}

fn report(message: &dyn fmt::Display) {
    // Nobody is left to be told if this fails.
    let _ = writeln!(io::stderr().lock(), "posthaste users: {message}");
}

/// Draws itself on standard error, and not at all if that is no terminal. `figures` are what is shown beside the bar,
/// `count` what is shown if nobody knows the length.
fn progress_bar(length: Option<u64>, figures: &str, count: &str) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), format!("{{wide_bar}} {figures}")),
        None => (ProgressBar::new_spinner(), format!("{{spinner}} {count} {{elapsed}}")),
    };
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
