//! Finds command lines in the stream of received bytes.
//!
//! A line that lies whole in the buffer is returned as a part of it; only a line that is split over buffers is
//! gathered in memory of our own, and that is bounded. A line ends with LF, the CR before it is optional: this
//! forgives a person at a terminal and cannot be used to smuggle, as only the end of *data* must be exact
//! ([`super::data`]).
//!
//! The reader knows no time. Whoever waits for input should start the idle clock when a line begins, not at
//! every packet, or a client can hold a connection with a line that never ends.
#![forbid(unsafe_code)]

use crate::limits::{COMMAND_LINE_BYTES_MAX, COMMAND_LINE_KEPT_BYTES_MAX};

/// The reader between two buffers: the part of a line that has arrived.
#[derive(Debug, Default)]
pub struct LineReader {
    partial: Vec<u8>,
    progress: Progress,
}

/// What the input began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line without its LF or CRLF. It may hold any other byte.
    Complete(&'a [u8]),
    /// A line over [`COMMAND_LINE_BYTES_MAX`], read and dropped up to its LF. Said once, when its LF is there.
    TooLong,
    /// All input was taken, and its last line is not complete.
    Incomplete,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    /// `partial` holds the line so far.
    #[default]
    Gathering,
    /// `partial` was given out as a complete line, and is dropped at the next call.
    GivenOut,
    /// The line is too long already; its bytes are dropped.
    Swallowing,
}

impl LineReader {
    /// Takes one line from the front of `input`, and leaves what is behind it.
    pub fn next<'a, 'input: 'a>(&'a mut self, input: &mut &'input [u8]) -> Line<'a> {
        if self.progress == Progress::GivenOut {
            self.forget();
        }
        let all: &'input [u8] = input;
        let Some(line_feed) = memchr::memchr(b'\n', all) else {
            *input = &[];
            self.gather(all);
            return Line::Incomplete;
        };
        let (head, rest) = (&all[..line_feed], &all[line_feed + 1..]);
        *input = rest;
        if self.partial.is_empty() && self.progress == Progress::Gathering {
            return complete(head);
        }
        self.gather(head);
        if self.progress == Progress::Swallowing {
            self.forget();
            return Line::TooLong;
        }
        self.progress = Progress::GivenOut;
        complete(&self.partial)
    }

    /// Whether a part of a line has arrived: the client is in the middle of a command.
    #[must_use]
    pub fn in_line(&self) -> bool {
        match self.progress {
            Progress::Gathering => !self.partial.is_empty(),
            Progress::GivenOut => false,
            Progress::Swallowing => true,
        }
    }

    fn gather(&mut self, part: &[u8]) {
        // One octet more than the line itself: its CR.
        let room = COMMAND_LINE_BYTES_MAX + 1 - self.partial.len();
        if self.progress == Progress::Gathering && part.len() <= room {
            self.partial.extend_from_slice(part);
        } else {
            self.partial = Vec::new();
            self.progress = Progress::Swallowing;
        }
    }

    fn forget(&mut self) {
        if self.partial.capacity() > COMMAND_LINE_KEPT_BYTES_MAX {
            self.partial = Vec::new();
        }
        self.partial.clear();
        self.progress = Progress::Gathering;
    }
}

fn complete(line: &[u8]) -> Line<'_> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > COMMAND_LINE_BYTES_MAX { Line::TooLong } else { Line::Complete(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line of the input, fed in the given pieces; `None` for one that is too long.
    fn lines(pieces: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        let mut reader = LineReader::default();
        let mut found = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            loop {
                match reader.next(&mut input) {
                    Line::Complete(line) => found.push(Some(line.to_vec())),
                    Line::TooLong => found.push(None),
                    Line::Incomplete => break,
                }
            }
            assert!(input.is_empty());
        }
        found
    }

    #[test]
    fn lines_are_the_same_wherever_the_stream_is_cut() {
        let wire = b"LHLO a\r\nNOOP\n\r\n\nRSET\r\r\nQUIT\r\nhalf";
        let expected: Vec<Option<Vec<u8>>> =
            [&b"LHLO a"[..], b"NOOP", b"", b"", b"RSET\r", b"QUIT"].map(|line| Some(line.to_vec())).into();
        for first in 0..=wire.len() {
            for second in first..=wire.len() {
                let pieces = [&wire[..first], &wire[first..second], &wire[second..]];
                assert_eq!(lines(&pieces), expected, "cut at {first} and {second}");
            }
        }
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(lines(&bytes), expected);
    }

    #[test]
    fn what_follows_a_line_is_left_in_the_input() {
        let mut reader = LineReader::default();
        let mut input: &[u8] = b"DATA\r\nSubject: x\r\n";
        assert_eq!(reader.next(&mut input), Line::Complete(b"DATA"));
        assert_eq!(input, b"Subject: x\r\n");
    }

    #[test]
    fn a_whole_line_is_returned_where_it_lies() {
        let mut reader = LineReader::default();
        let wire = b"NOOP\r\n";
        let mut input = &wire[..];
        let Line::Complete(line) = reader.next(&mut input) else {
            panic!("the line is complete");
        };
        assert_eq!(line.as_ptr(), wire.as_ptr());
        assert_eq!(reader.partial.capacity(), 0);
    }

    #[test]
    fn the_longest_line_passes_and_one_octet_more_is_swallowed_up_to_its_end() {
        for (length, fits) in [
            (COMMAND_LINE_BYTES_MAX, true),
            (COMMAND_LINE_BYTES_MAX + 1, false),
            (COMMAND_LINE_BYTES_MAX + 2, false),
            (100_000, false),
        ] {
            for line_end in [&b"\r\n"[..], b"\n"] {
                let long = vec![b'x'; length];
                let wire = [&long, line_end, b"NOOP\r\n"].concat();
                let expected = vec![fits.then(|| long.clone()), Some(b"NOOP".to_vec())];
                assert_eq!(lines(&[&wire]), expected, "{length} in one piece");
                let pieces: Vec<&[u8]> = wire.chunks(1000).collect();
                assert_eq!(lines(&pieces), expected, "{length} in pieces");
                let (head, tail) = wire.split_at(length + 1);
                assert_eq!(lines(&[head, tail]), expected, "{length} cut at its end");
            }
        }
    }

    #[test]
    fn a_line_without_end_costs_no_memory() {
        let mut reader = LineReader::default();
        for _ in 0..100 {
            let chunk = [b'x'; 1000];
            let mut input = &chunk[..];
            assert_eq!(reader.next(&mut input), Line::Incomplete);
            assert!(reader.partial.len() <= COMMAND_LINE_BYTES_MAX + 1);
        }
        assert_eq!(reader.partial.capacity(), 0);
        assert!(reader.in_line());
    }

    #[test]
    fn a_long_split_line_does_not_keep_its_buffer() {
        let mut reader = LineReader::default();
        let mut input: &[u8] = &[b'x'; 4000];
        assert_eq!(reader.next(&mut input), Line::Incomplete);
        let mut input: &[u8] = b"\nNOOP\r\n";
        assert!(matches!(reader.next(&mut input), Line::Complete(_)));
        assert!(!reader.in_line());
        assert_eq!(reader.next(&mut input), Line::Complete(b"NOOP"));
        assert!(reader.partial.capacity() <= COMMAND_LINE_KEPT_BYTES_MAX);
    }
}
