//! The `posthaste` command: arguments to subcommand to exit code.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use posthaste::{control, users};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// LMTP in, Maildir out: final delivery for large mail sites
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show it at work: a demo table, a running server, one message delivered
    Demo(control::demo::DemoArguments),
    /// Run the server
    Serve {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration file and print what is in effect
    Check {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Load the user table of a running server again
    ///
    /// A server notices a new table by itself; this waits until it is in use, and says so. Exit code: 0 it is, 1 the
    /// server refused it or cannot be reached, 2 wrong arguments or configuration.
    #[command(
        after_help = "Examples:\n  posthaste reload --config /etc/posthaste/posthaste.toml\n  posthaste reload --config /etc/posthaste/posthaste.toml --status --json"
    )]
    Reload(control::reload::ReloadArguments),
    /// Make files of what a crash left in the journal, without serving
    ///
    /// The server does this itself when it starts. Exit code: 0 everything has its place, 1 something could not be
    /// recovered or was set aside, 2 wrong arguments or configuration.
    #[command(
        after_help = "Examples:\n  posthaste recover --config /etc/posthaste/posthaste.toml --dry-run\n  posthaste recover --config /etc/posthaste/posthaste.toml --json"
    )]
    Recover(control::recover::RecoverArguments),
    /// Build user tables and look into them
    #[command(subcommand)]
    Users(users::command::UsersCommand),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Demo(arguments) => control::demo::run(&arguments),
        Command::Serve { config } => control::serve::run(&config),
        Command::Check { config } => control::check::run(&config),
        Command::Reload(arguments) => control::reload::run(&arguments),
        Command::Recover(arguments) => control::recover::run(&arguments),
        Command::Users(command) => users::command::run(command),
    }
}

const EXAMPLES: &str = "Examples:
  posthaste demo --once
  posthaste users build --from passwd-file --input /etc/dovecot/users \\
    --output /var/lib/posthaste/users.table
  posthaste check --config /etc/posthaste/posthaste.toml
  posthaste serve --config /etc/posthaste/posthaste.toml
  posthaste reload --config /etc/posthaste/posthaste.toml
  posthaste recover --config /etc/posthaste/posthaste.toml --dry-run";
