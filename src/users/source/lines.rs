//! Lines of an input, one at a time and within bounds.
//!
//! Owns the cut at line ends: LF or CRLF, none needed at the end of the input; a byte order mark in front of the
//! first line is dropped. Promises that one line takes no more than its limit of memory: what is too long is still
//! counted as one line and skipped to its end. Never looks into a line.
#![forbid(unsafe_code)]

use super::Fault;
use std::io::{self, BufRead, Read};

/// The longest line, in octets, of formats that have a user on each.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// An input, line by line.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    bytes_max: usize,
    number: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Lines of up to `bytes_max` octets.
    pub fn new(input: R, bytes_max: usize) -> Self {
        Self { input, bytes_max, number: 0, buffer: Vec::new() }
    }

    /// Reads one line; `false` at the end of the input.
    ///
    /// # Errors
    /// If the input cannot be read.
    pub fn advance(&mut self) -> io::Result<bool> {
        self.buffer.clear();
        let most = self.bytes_max as u64 + 2;
        if (&mut self.input).take(most).read_until(b'\n', &mut self.buffer)? == 0 {
            return Ok(false);
        }
        self.number += 1;
        if self.buffer.ends_with(b"\n") {
            self.buffer.pop();
        } else if self.buffer.len() > self.bytes_max {
            self.input.skip_until(b'\n')?;
        }
        if self.buffer.ends_with(b"\r") {
            self.buffer.pop();
        }
        if self.number == 1 && self.buffer.starts_with(BYTE_ORDER_MARK) {
            self.buffer.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(true)
    }

    /// The number of the line that was read last, counted from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The line that was read last, without its end.
    ///
    /// # Errors
    /// If it is too long.
    pub fn line(&self) -> Result<&[u8], Fault> {
        if self.buffer.len() > self.bytes_max {
            let reason = format!("it is longer than {} KiB", self.bytes_max / 1024);
            return Err(Fault::new(super::LINE, reason, "split or remove it"));
        }
        Ok(&self.buffer)
    }

    /// The line's first octet, if it has one, however long it is.
    pub(super) fn first(&self) -> Option<u8> {
        self.buffer.first().copied()
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_and_a_byte_order_mark_are_no_part_of_a_line() {
        let mut lines = Lines::new(&b"\xef\xbb\xbfa\r\n\n\xef\xbb\xbf\r\r\nlast"[..], 8);
        for expected in [&b"a"[..], b"", b"\xef\xbb\xbf\r", b"last"] {
            assert!(lines.advance().unwrap());
            assert_eq!(lines.line().unwrap(), expected);
        }
        assert!(!lines.advance().unwrap());
        assert_eq!(lines.number(), 4);
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_a_longer_one_is_skipped() {
        for end in ["\n", "\r\n"] {
            let text = format!("12345678{end}123456789{end}1234567890123456789{end}x");
            let mut lines = Lines::new(text.as_bytes(), 8);
            assert!(lines.advance().unwrap() && lines.line().is_ok());
            assert!(lines.advance().unwrap() && lines.line().is_err());
            assert!(lines.advance().unwrap() && lines.line().is_err());
            assert!(lines.advance().unwrap());
            assert_eq!((lines.line().unwrap(), lines.number()), (&b"x"[..], 4));
        }
    }
}
