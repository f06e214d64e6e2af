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
    /// Build user tables and look into them
    #[command(subcommand)]
    Users(users::command::UsersCommand),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Demo(arguments) => control::demo::run(&arguments),
        Command::Serve { config } => control::serve::run(&config),
        Command::Check { config } => control::check::run(&config),
        Command::Users(command) => users::command::run(command),
    }
}

const EXAMPLES: &str = "Examples:
  posthaste demo --once
  posthaste users build --from passwd-file --input /etc/dovecot/users \\
    --output /var/lib/posthaste/users.table
  posthaste check --config /etc/posthaste/posthaste.toml
  posthaste serve --config /etc/posthaste/posthaste.toml";
