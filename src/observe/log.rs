//! The log: lines to standard error, where systemd and containers expect them, written by one thread.
//!
//! A worker never waits for the log: its lines go into a bounded queue, and what finds no place there is
//! counted and the count is logged.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};

/// Which deliveries get a line, `log.deliveries`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDeliveries {
    /// Every one.
    All,
    /// Only those that are not 250.
    Failures,
    /// None.
    None,
}

/// Where lines go. Cheap to clone; the thread ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Log {
    lines: Sender<String>,
    lost: Arc<AtomicU64>,
}

impl Log {
    /// Starts the thread that writes to standard error.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start() -> io::Result<(Self, JoinHandle<()>)> {
        Self::to(io::stderr())
    }

    /// Starts a thread that writes to `out`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn to(out: impl Write + Send + 'static) -> io::Result<(Self, JoinHandle<()>)> {
        let (lines, queue) = bounded(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let thread = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_lines(&queue, &counted, out))?;
        Ok((Self { lines, lost }, thread))
    }

    /// Logs one line. Control characters in it are replaced, so nobody can write a line of their own.
    pub fn line(&self, line: fmt::Arguments<'_>) {
        use fmt::Write as _;
        let mut text = String::with_capacity(LINE_BYTES);
        let written = text.write_fmt(line);
        debug_assert!(written.is_ok(), "a String takes everything");
        self.send(text);
    }

    /// Logs one line that consists of these parts, likewise.
    pub fn line_of(&self, parts: &[&str]) {
        let mut text = String::with_capacity(LINE_BYTES);
        parts.iter().for_each(|part| text.push_str(part));
        self.send(text);
    }

    fn send(&self, mut text: String) {
        if may_hold_control(text.as_bytes()) && text.contains(char::is_control) {
            text = text.replace(char::is_control, "?");
        }
        text.push('\n');
        if self.lines.try_send(text).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether there may be a control character in this text: U+0080 to U+009F are C2 and one more octet, as are some others.
///
/// Every octet is looked at and none ends the search, so that the compiler makes vector code of it: decoding a line
/// character by character took most of what logging takes.
fn may_hold_control(text: &[u8]) -> bool {
    text.iter().fold(false, |found, &byte| found | (byte < b' ') | (byte == 0x7f) | (byte == 0xc2))
}

fn write_lines(queue: &Receiver<String>, lost: &AtomicU64, out: impl Write) {
    let mut out = io::BufWriter::with_capacity(64 * 1024, out);
    while let Ok(line) = queue.recv() {
        // Whoever logs while nobody waits at the queue pays for no wake-up: under load that is everybody.
        std::thread::sleep(GATHER);
        // A log that cannot be written must not stop the mail; there is nowhere to say so either.
        let _ = out.write_all(line.as_bytes());
        for line in queue.try_iter() {
            let _ = out.write_all(line.as_bytes());
        }
        let missed = lost.swap(0, Ordering::Relaxed);
        if missed > 0 {
            let _ =
                writeln!(out, "log: {missed} lines were lost, because they could not be written fast enough");
        }
        let _ = out.flush();
    }
}

/// How long lines are gathered before they are written.
const GATHER: std::time::Duration = std::time::Duration::from_millis(10);

/// Enough for the line of a delivery, which then does not grow as it is written.
const LINE_BYTES: usize = 384;

/// Lines that may wait.
const LINES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no test panics with it").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_stays_one_line_whatever_a_client_put_into_it() {
        let written = Shared::default();
        let (log, thread) = Log::to(written.clone()).expect("a thread");
        log.line(format_args!("from=<{}>", "a\r\nforged: yes"));
        log.line_of(&["from=<", "b\nforged: yes", ">"]);
        drop(log);
        thread.join().expect("it ends with the last sender");
        let text = written.0.lock().expect("the thread is gone").clone();
        assert_eq!(text, b"from=<a??forged: yes>\nfrom=<b?forged: yes>\n");
    }

    #[test]
    fn no_control_character_is_overlooked() {
        for character in (0..=0x2ff).filter_map(char::from_u32).filter(|character| character.is_control()) {
            let line = format!("from=<j\u{f6}rg{character}>");
            assert!(may_hold_control(line.as_bytes()), "{character:?}");
        }
        assert!(!may_hold_control("from=<j\u{f6}rg@example.org>".as_bytes()));
    }
}
