//! The real server inside the test: rings, workers and sockets, only the process is shared.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use posthaste::control::config::Config;
use posthaste::control::server::Server;
use posthaste::observe::log::Log;

use crate::client::PATIENCE;
use crate::ground::Ground;

/// A server that goes down with its test.
pub(crate) struct Running {
    server: Option<Server>,
    /// What it logs.
    pub(crate) said: Said,
    /// Where it listens.
    pub(crate) socket: PathBuf,
}

impl Running {
    /// Starts one on `ground`; `rest` is what its configuration says beyond where things are.
    pub(crate) fn start(ground: &Ground, rest: &str) -> Self {
        ground.build_table();
        let config = Config::parse(&ground.configuration(rest), "test");
        let config = config.unwrap_or_else(|error| panic!("{}", error.render(false)));
        let said = Said::default();
        let (log, _) = Log::to(said.clone()).expect("a thread");
        let server = Server::start(&config, &log).unwrap_or_else(|error| panic!("{error}"));
        Self { server: Some(server), said, socket: ground.path("lmtp.sock") }
    }

    /// Takes it down; fails if a transaction had to be broken off.
    pub(crate) fn stop(mut self) {
        let server = self.server.take().expect("stopped once");
        assert_eq!(server.stop(PATIENCE, || false), 0, "workers with unfinished transactions");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(Duration::from_secs(5), || false);
        }
        if std::thread::panicking() {
            eprintln!("--- the server said at last\n{}", self.said.last_lines());
        }
    }
}

/// Text that somebody writes, line by line, while we wait for a certain one.
#[derive(Clone, Default)]
pub(crate) struct Said(Arc<(Mutex<Vec<u8>>, Condvar)>);

impl Said {
    /// Everything so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.0.lock().expect("no writer panics")).into_owned()
    }

    /// The end of it, for the text of a failure.
    pub(crate) fn last_lines(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }

    /// Waits until `text` has been written `count` times.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str, count: usize) {
        let (said, more) = &*self.0;
        let end = Instant::now() + PATIENCE;
        let mut now = said.lock().expect("no writer panics");
        while memchr::memmem::find_iter(&now, text).count() < count {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Let go of it first: whoever shows the text of a failed test needs it.
                drop(now);
                panic!("{text:?} not said {count} times");
            }
            now = more.wait_timeout(now, left).expect("no writer panics").0;
        }
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.lock().expect("no reader panics with it").extend_from_slice(bytes);
        self.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Enough to see why, not so much that the failure scrolls away.
const LINES_SHOWN: usize = 40;
