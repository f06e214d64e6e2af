//! A message is the same however it arrives: the scanner, the counter of line ends and the converter to LF against
//! twins that are told byte by byte.

use super::input::{Cuts, Input};
use posthaste::lmtp::data::Scanner;
use posthaste::mail::line_ends::{LineEnds, ToLf};
use std::ops::Range;

/// Input: the cuts; whether the bytes follow DATA, or are chunks of BDAT and then how long those are; the bytes.
pub fn hold(input: &[u8]) {
    let mut input = Input::new(input);
    let cuts = input.cuts();
    if input.byte().is_multiple_of(2) {
        data(input.rest(), &cuts);
    } else {
        let chunks = input.cuts();
        chunked(input.rest(), &cuts, &chunks);
    }
}

/// What is kept of pieces that arrive one after another, in the three ways that somebody may want it.
#[derive(Default)]
struct Kept {
    message: Vec<u8>,
    counts: LineEnds,
    to_lf: ToLf,
    stored: Vec<u8>,
}

impl Kept {
    fn keep(&mut self, buffer: &[u8], range: Range<usize>) {
        self.message.extend_from_slice(&buffer[range.clone()]);
        self.counts.count(&buffer[range.clone()]);
        let mut keep = Vec::new();
        self.stored.extend_from_slice(self.to_lf.convert(buffer, range.clone(), &mut keep));
        let mut last_end = range.start;
        for part in keep {
            assert!(part.start < part.end, "an empty range");
            assert!(last_end <= part.start && part.end <= range.end, "ranges in order, within the piece");
            last_end = part.end;
            self.stored.extend_from_slice(&buffer[part]);
        }
    }

    fn check(mut self, message: &[u8]) {
        assert_eq!(self.message, message);
        assert_eq!(self.counts, naive_counts(message));
        self.stored.extend_from_slice(self.to_lf.finish());
        assert_eq!(self.stored, naive_lf(message));
    }
}

fn data(wire: &[u8], cuts: &Cuts) {
    let mut twin = Naive::default();
    let mut scanner = Scanner::new();
    let mut kept = Kept::default();
    let mut read = 0;
    for piece in cuts.pieces(wire.len()) {
        let buffer = &wire[piece];
        // What is there already must stay.
        let before = [7..9, 11..13];
        let mut keep = before.to_vec();
        let scan = scanner.scan(buffer, &mut keep);
        assert!(keep.drain(..2).eq(before));
        kept.keep(scan.carry, 0..scan.carry.len());
        let mut last_end = 0;
        for range in keep {
            assert!(range.start < range.end, "an empty range");
            assert!(
                last_end <= range.start && range.end <= scan.consumed,
                "ranges in order, of what was read"
            );
            last_end = range.end;
            kept.keep(buffer, range);
        }
        assert!(scan.consumed <= buffer.len());
        assert!(scan.ended || scan.consumed == buffer.len(), "only the end leaves something");
        for byte in &buffer[..scan.consumed] {
            assert!(!twin.ended, "read behind the end");
            twin.tell(*byte);
        }
        read += scan.consumed;
        assert_eq!(scan.ended, twin.ended, "after {read} octets");
        assert_eq!(kept.message, twin.message, "after {read} octets");
        if scan.ended {
            assert!(wire[..read].ends_with(b".\r\n"));
            break;
        }
    }
    kept.check(&twin.message);
}

/// Chunks lie in the buffers as they come: no dot means anything.
fn chunked(stream: &[u8], cuts: &Cuts, chunks: &Cuts) {
    let mut kept = Kept::default();
    let buffers = cuts.pieces(stream.len());
    for chunk in chunks.pieces(stream.len()) {
        for buffer in &buffers {
            let (start, end) = (chunk.start.max(buffer.start), chunk.end.min(buffer.end));
            if start <= end {
                kept.keep(&stream[buffer.clone()], start - buffer.start..end - buffer.start);
            }
        }
    }
    kept.check(stream);
}

/// A message in DATA, as RFC 5321 section 4.5.2 tells it to a program that looks at one octet.
#[derive(Default)]
struct Naive {
    /// All octets so far.
    seen: Vec<u8>,
    /// Octets of the message that are certain.
    message: Vec<u8>,
    /// Octets of a line that may be the last.
    withheld: Vec<u8>,
    ended: bool,
}

impl Naive {
    fn tell(&mut self, byte: u8) {
        let line_starts = self.seen.is_empty() || self.seen.ends_with(b"\r\n");
        self.seen.push(byte);
        if self.withheld.is_empty() && !(line_starts && byte == b'.') {
            self.message.push(byte);
            return;
        }
        self.withheld.push(byte);
        self.ended = self.withheld == b".\r\n";
        if !b".\r\n".starts_with(&self.withheld) {
            self.message.extend_from_slice(&self.withheld[1..]);
            self.withheld.clear();
        }
    }
}

fn naive_counts(message: &[u8]) -> LineEnds {
    let mut counts = LineEnds::default();
    for byte in message {
        if *byte == b'\n' && counts.last != Some(b'\r') {
            counts.lone_lf += 1;
        }
        counts.last = Some(*byte);
    }
    counts
}

fn naive_lf(message: &[u8]) -> Vec<u8> {
    let dropped = |at: usize| message[at..].starts_with(b"\r\n");
    (0..message.len()).filter(|at| !dropped(*at)).map(|at| message[at]).collect()
}
