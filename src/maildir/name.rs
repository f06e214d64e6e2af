//! File names: `<sec>.M<usec>P<pid>Q<counter>W<worker>.<host>,S=<bytes>,W=<bytes with CRLF>`.
//!
//! Unique over workers (the worker's number), over the messages of a worker (the counter, and a time that
//! never goes back), and over restarts with the same process id and a clock that was set back (the
//! counter starts anywhere). The reader trusts S and W, so they are exact: Dovecot logs and renames
//! a file whose S is wrong.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::Duration;

/// Makes the names of one worker.
#[derive(Debug)]
pub struct NameMaker {
    host: String,
    process: u32,
    worker: usize,
    counter: Cell<u32>,
    last: Cell<Duration>,
}

/// The two sizes that a reader needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes in the file.
    pub stored: u64,
    /// Bytes that the message has when every line ends in CRLF.
    pub wire: u64,
}

impl NameMaker {
    /// Names for `worker` of process `process`. `first` is where the counter starts: a random number.
    #[must_use]
    pub fn new(host: &str, process: u32, worker: usize, first: u32) -> Self {
        Self {
            host: safe_host(host),
            process,
            worker,
            counter: Cell::new(first),
            last: Cell::new(Duration::ZERO),
        }
    }

    /// A name that nobody else has, at wall-clock time `wall`, without sizes.
    pub fn unique(&self, wall: Duration) -> String {
        let at = wall.max(self.last.get());
        self.last.set(at);
        let counter = self.counter.get();
        self.counter.set(counter.wrapping_add(1));
        let mut name = String::with_capacity(NUMBERS_BYTES + self.host.len());
        push(&mut name, "", at.as_secs());
        push(&mut name, ".M", at.subsec_micros());
        push(&mut name, "P", self.process);
        push(&mut name, "Q", counter);
        push(&mut name, "W", self.worker);
        name.push('.');
        name.push_str(&self.host);
        name
    }

    /// A name for `new/`.
    pub fn with_sizes(&self, wall: Duration, sizes: Sizes) -> String {
        let mut name = self.unique(wall);
        push(&mut name, ",S=", sizes.stored);
        push(&mut name, ",W=", sizes.wire);
        name
    }
}

/// A number behind what it is called. Formatting would take most of the time of a name.
fn push(name: &mut String, label: &str, number: impl itoa::Integer) {
    name.push_str(label);
    name.push_str(itoa::Buffer::new().format(number));
}

/// Enough for all but the host, with sizes of twelve digits: the name is written without growing.
const NUMBERS_BYTES: usize = 96;

/// The host as it may stand in a name: `/` and `:` as octal escapes (the Maildir specification), and what
/// else would confuse a reader replaced.
fn safe_host(host: &str) -> String {
    let mut safe = String::with_capacity(host.len());
    for character in host.chars() {
        match character {
            '/' => safe.push_str("\\057"),
            ':' => safe.push_str("\\072"),
            ',' | ' ' => safe.push('_'),
            character if character.is_control() => safe.push('_'),
            character => safe.push(character),
        }
    }
    if safe.is_empty() { "localhost".into() } else { safe }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { stored: 1234, wire: 1250 };

    #[test]
    fn a_name_has_the_documented_form() {
        let names = NameMaker::new("mx.example.net", 77, 3, 9);
        let name = names.with_sizes(Duration::new(1_700_000_000, 123_456_789), SIZES);
        assert_eq!(name, "1700000000.M123456P77Q9W3.mx.example.net,S=1234,W=1250");
    }

    #[test]
    fn names_stay_unique_and_ordered_when_the_clock_goes_back() {
        let names = NameMaker::new("host", 1, 0, u32::MAX);
        let first = names.unique(Duration::from_secs(100));
        let second = names.unique(Duration::from_secs(50));
        assert_eq!(first, "100.M0P1Q4294967295W0.host");
        assert_eq!(second, "100.M0P1Q0W0.host");
    }

    #[test]
    fn a_host_cannot_leave_the_directory_or_add_flags() {
        assert_eq!(safe_host("../a:2,S"), "..\\057a\\0722_S");
        assert_eq!(safe_host(""), "localhost");
    }
}
