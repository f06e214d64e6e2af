//! `posthaste reload`: tells a running server to load its user table again, and says how that went.
//!
//! Changes nothing by itself, and reads no table: the server does, and answers.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::config::Config;
use super::talk::{self, Answer, Request};

/// What `reload` takes.
#[derive(Debug, clap::Args)]
pub struct ReloadArguments {
    /// The configuration file of the running server
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Load nothing, only say which table is in use
    #[arg(long)]
    status: bool,
    /// Print the server's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Asks the server. Exit code 0 when the table is in use by every worker, 1 when the server refused it or cannot
/// be reached, 2 when the configuration is wrong.
#[must_use]
pub fn run(arguments: &ReloadArguments) -> ExitCode {
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            complain(format_args!("{}", error.render(false)));
            return ExitCode::from(2);
        }
    };
    let request = if arguments.status { Request::Status } else { Request::Reload };
    let answer = match talk::ask(&config.state_dir, request) {
        Ok(answer) => answer,
        Err(error) => {
            complain(format_args!("posthaste reload: {error}"));
            return ExitCode::FAILURE;
        }
    };
    if arguments.json {
        say(&serde_json::to_string_pretty(&answer).expect("numbers and strings"));
    } else if let Some(error) = &answer.error {
        complain(format_args!("posthaste reload: refused: {error}"));
        complain(format_args!("the table in use stays: {}", summary(&answer)));
    } else {
        let did = if arguments.status { "in use" } else { "reloaded" };
        say(&format!("{did}: {}", summary(&answer)));
    }
    if answer.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summary(answer: &Answer) -> String {
    let table = &answer.table;
    format!(
        "{}, {} users, {} octets, loaded in {} ms (reloads: {}, refused: {})",
        table.path, table.users, table.bytes, table.load_ms, table.reloads, table.refused
    )
}

fn say(text: &str) {
    // Whoever closed our output does not want to hear more.
    let _ = writeln!(io::stdout().lock(), "{text}");
}

fn complain(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
