//! Records of separated values, one at a time.
//!
//! Owns the cut into fields (RFC 4180): one in quotation marks may hold separators, line ends, and quotation marks if
//! they are doubled. Promises that a record has the number of the physical line on which it begins, and that a quotation
//! mark which is never closed costs one record of bounded size, not the rest of the input. Never knows what a field
//! means.
//!
//! The `csv` crate is the naive twin in the tests. It is not used here because it has no bound for a record, does not
//! tell a quoted field from another, and takes `a"b` and `"a"b` for good ones.
#![forbid(unsafe_code)]

use crate::users::source::lines::{LINE_BYTES_MAX, Lines};
use crate::users::source::{Fault, LINE};
use memchr::{memchr, memchr_iter};
use std::io::{self, BufRead};
use std::ops::Range;

/// What stands between two fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// A comma.
    Comma,
    /// A tab.
    Tab,
}

/// One field of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'r> {
    pub(super) text: &'r [u8],
    pub(super) is_quoted: bool,
}

/// The records of an input, one at a time, in memory that is used again.
#[derive(Debug)]
pub(super) struct Records<R> {
    lines: Lines<R>,
    separator: Separator,
    /// The line on which the record begins.
    begin: u64,
    /// Whether there are quotation marks in it, so that its fields lie in `text` and not in the line itself.
    is_quoted: bool,
    text: Vec<u8>,
    fields: Vec<Extent>,
    fault: Option<Fault>,
}

/// Where a field lies.
#[derive(Debug, Clone)]
struct Extent {
    range: Range<usize>,
    is_quoted: bool,
}

impl<R: BufRead> Records<R> {
    pub(super) fn new(input: R, separator: Separator) -> Self {
        let lines = Lines::new(input, LINE_BYTES_MAX);
        let (text, fields) = (Vec::new(), Vec::new());
        Self { lines, separator, begin: 0, is_quoted: false, text, fields, fault: None }
    }

    /// Reads one record; blank lines between records are skipped. `false` at the end of the input.
    pub(super) fn advance(&mut self) -> io::Result<bool> {
        loop {
            if !self.lines.advance()? {
                return Ok(false);
            }
            if self.lines.first().is_some() {
                break;
            }
        }
        self.begin = self.lines.number();
        self.fault = None;
        self.fields.clear();
        self.is_quoted = false;
        match self.lines.line() {
            Err(fault) => self.fault = Some(fault),
            Ok(line) if memchr(b'"', line).is_none() => {
                let mut begin = 0;
                for end in memchr_iter(self.separator_octet(), line).chain([line.len()]) {
                    self.fields.push(Extent { range: begin..end, is_quoted: false });
                    begin = end + 1;
                }
            }
            Ok(_) => self.fault = self.read_quoted()?.err(),
        }
        Ok(true)
    }

    /// Takes the marks off, over as many lines as they hold together.
    fn read_quoted(&mut self) -> io::Result<Result<(), Fault>> {
        let unclosed = |where_to: &str| {
            Fault::new(LINE, format!("a quotation mark is not closed {where_to}"), "close or remove it")
        };
        self.is_quoted = true;
        self.text.clear();
        let separator = self.separator_octet();
        let mut state = State::Begin;
        let mut begin = 0;
        loop {
            let line = match self.lines.line() {
                Ok(line) if self.text.len() + line.len() <= LINE_BYTES_MAX => line,
                Ok(_) => return Ok(Err(unclosed("within 64 KiB"))),
                Err(fault) => return Ok(Err(fault)),
            };
            for octet in line {
                let Some(next) = state.next(*octet, separator) else {
                    let reason = "a quotation mark stands in the middle of a field";
                    let remedy = "quote the whole field, and double the marks in it";
                    return Ok(Err(Fault::new(LINE, reason, remedy)));
                };
                match next {
                    State::Begin => {
                        let is_quoted = state == State::Closed;
                        self.fields.push(Extent { range: begin..self.text.len(), is_quoted });
                        begin = self.text.len();
                    }
                    State::Plain => self.text.push(*octet),
                    State::Quoted if state != State::Begin => self.text.push(*octet),
                    State::Quoted | State::Closed => {}
                }
                state = next;
            }
            if state != State::Quoted {
                break;
            }
            self.text.push(b'\n');
            if !self.lines.advance()? {
                return Ok(Err(unclosed("before the input ends")));
            }
        }
        self.fields.push(Extent { range: begin..self.text.len(), is_quoted: state == State::Closed });
        Ok(Ok(()))
    }

    /// Whether the record can be used.
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = Raw<'_>> {
        let text = match self.is_quoted {
            true => self.text.as_slice(),
            false => self.lines.line().unwrap_or_default(),
        };
        self.fields.iter().map(|field| Raw { text: &text[field.range.clone()], is_quoted: field.is_quoted })
    }

    /// The line on which the record begins.
    pub(super) fn begin(&self) -> u64 {
        self.begin
    }

    /// The line that was read last.
    pub(super) fn line(&self) -> u64 {
        self.lines.number()
    }

    /// Number of fields.
    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    pub(super) fn separator(&self) -> Separator {
        self.separator
    }

    fn separator_octet(&self) -> u8 {
        match self.separator {
            Separator::Comma => b',',
            Separator::Tab => b'\t',
        }
    }
}

/// Where in a field the next octet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At its first octet.
    Begin,
    /// In one without marks.
    Plain,
    /// Behind the opening mark.
    Quoted,
    /// Behind a mark that closes the field, or is the first of a doubled one.
    Closed,
}

impl State {
    /// What comes of it at `octet`; `None` if that cannot stand here.
    fn next(self, octet: u8, separator: u8) -> Option<Self> {
        match (self, octet) {
            (Self::Begin, b'"') => Some(Self::Quoted),
            (Self::Quoted, b'"') => Some(Self::Closed),
            (Self::Closed, b'"') | (Self::Quoted, _) => Some(Self::Quoted),
            (_, octet) if octet == separator => Some(Self::Begin),
            (Self::Begin | Self::Plain, octet) if octet != b'"' => Some(Self::Plain),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The twin is the csv crate, on what it wrote itself.
        #[test]
        fn records_are_cut_as_the_csv_crate_cuts_them(
            rows in prop::collection::vec(prop::collection::vec("[ab\", \t\n\\\\]{0,5}", 1..5), 1..8),
            is_tab: bool,
            is_crlf: bool,
        ) {
            let (separator, octet) = if is_tab { (Separator::Tab, b'\t') } else { (Separator::Comma, b',') };
            let end = if is_crlf { ::csv::Terminator::CRLF } else { ::csv::Terminator::Any(b'\n') };
            let mut writer = ::csv::WriterBuilder::new()
                .delimiter(octet)
                .terminator(end)
                .flexible(true)
                .from_writer(Vec::new());
            for row in &rows {
                writer.write_record(row).unwrap();
            }
            let text = writer.into_inner().unwrap();
            let mut twin = ::csv::ReaderBuilder::new()
                .delimiter(octet)
                .has_headers(false)
                .flexible(true)
                .from_reader(&*text);
            let mut records = Records::new(&*text, separator);
            for expected in twin.byte_records() {
                prop_assert!(records.advance().unwrap());
                prop_assert_eq!(records.check(), Ok(()));
                let expected = expected.unwrap();
                let found: Vec<&[u8]> = records.fields().map(|field| field.text).collect();
                prop_assert_eq!(found, expected.iter().collect::<Vec<_>>());
            }
            prop_assert!(!records.advance().unwrap());
        }
    }
}
