//! `posthaste serve`: from the configuration to the last worker's end.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use sd_notify::NotifyState;

use super::config::Config;
use super::server::Server;
use super::watch;
use crate::limits;
use crate::observe::log::Log;
use crate::sys::signal::{Signal, Signals};

/// Runs the server until it is told to end. Exit code 0 after an orderly end, 1 if it could not start or
/// transactions had to be broken off, 2 if the configuration is wrong.
#[must_use]
pub fn run(path: &Path) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            let mut errors = std::io::stderr().lock();
            let colour = errors.is_terminal() && std::env::var_os("NO_COLOR").is_none();
            // Whoever closed our output does not want to hear more.
            let _ = writeln!(errors, "{}", error.render(colour));
            return ExitCode::from(2);
        }
    };
    let signals = match Signals::block() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot wait for signals: {error}")),
    };
    let (log, log_thread) = match Log::start() {
        Ok(started) => started,
        Err(error) => return fail(&format!("cannot start the log: {error}")),
    };
    let server = match Server::start(&config, &log) {
        Ok(server) => server,
        Err(error) => return fail(&error.to_string()),
    };
    log.line(format_args!(
        "posthaste {} ready: {} workers, durability {:?}",
        env!("CARGO_PKG_VERSION"),
        config.workers,
        config.maildir.durability
    ));
    tell_systemd(&log, &[NotifyState::Ready]);
    watch::until_the_end(&config, &server, &signals, &log);
    tell_systemd(&log, &[NotifyState::Stopping]);
    let broken_off = server.stop(limits::DRAIN_PATIENCE, || asked_to_end(&signals));
    log.line(format_args!("posthaste ended"));
    drop(log);
    if broken_off > 0 {
        // Their threads hold the log and will not let go of it.
        return fail(&format!(
            "{broken_off} workers had unfinished transactions; their clients will try again"
        ));
    }
    let _ = log_thread.join();
    ExitCode::SUCCESS
}

fn asked_to_end(signals: &Signals) -> bool {
    matches!(signals.pending(), Ok(Some(Signal::Terminate | Signal::Interrupt)))
}

pub(super) fn tell_systemd(log: &Log, state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log.line(format_args!("cannot tell systemd: {error}; is NOTIFY_SOCKET right?"));
    }
}

fn fail(why: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr().lock(), "posthaste: {why}");
    ExitCode::FAILURE
}
