//! Finds a message in the bytes that follow DATA, without copying them.
//!
//! A client doubles the dot at the start of a line and ends the message with a line of one dot (RFC 5321
//! section 4.5.2). The [`Scanner`] returns the ranges of each buffer that belong to the message, leaving
//! the added dots out, and says where the message ended; the rest of that buffer is the next command.
//!
//! End of data is CRLF.CRLF and nothing else. A line starts after CRLF, or at the start of DATA, and
//! nowhere else: LF.LF, CR.CR and every mixture of them are ordinary bytes of the message. Servers that
//! disagreed about this have let one message smuggle in another.
#![forbid(unsafe_code)]

use memchr::memmem::Finder;
use std::ops::Range;
use std::sync::LazyLock;

/// The scanner between two buffers: what the bytes before the next one were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanner {
    state: State,
}

/// What one buffer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Octets that must be put before the first range: `\r` or nothing.
    ///
    /// CRLF, dot, CR may be the beginning of the end, so the CR is not part of any range yet. If the buffer ends
    /// there and the next one does not begin with LF, the CR was part of the message after all, but its
    /// buffer may be gone.
    pub carry: &'static [u8],
    /// Octets read. All of them, unless the message has ended.
    pub consumed: usize,
    /// The final CRLF.CRLF was read. Its first CRLF belongs to the message and is in the ranges.
    pub ended: bool,
}

/// Named by the bytes already seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Text,
    Cr,
    /// At the start of a line, and of the message.
    CrLf,
    /// The dot is withheld: either it was doubled, or it is the end.
    CrLfDot,
    /// Dot and CR are withheld.
    CrLfDotCr,
}

impl Scanner {
    /// The start of DATA, which counts as the start of a line: `.CRLF` at once is an empty message.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::CrLf }
    }

    /// Appends to `keep` the ranges of `bytes` that belong to the message, in order, none of them empty.
    ///
    /// After `ended` the scanner must not be used again.
    pub fn scan(&mut self, bytes: &[u8], keep: &mut Vec<Range<usize>>) -> Scan {
        let mut carry: &'static [u8] = b"";
        let mut at = 0; // the next byte to look at
        let mut start = 0; // the first byte that is neither kept nor dropped yet
        loop {
            let next = bytes.get(at).copied();
            match (self.state, next) {
                (State::Text, _) => match LINE_WITH_DOT.find(&bytes[at..]) {
                    Some(found) => {
                        let dot = at + found + 2;
                        push(keep, start..dot);
                        start = dot;
                        at = dot + 1;
                        self.state = State::CrLfDot;
                    }
                    None => {
                        self.state = state_after(&bytes[at..]);
                        push(keep, start..bytes.len());
                        break;
                    }
                },
                (State::Cr | State::CrLf, None) => {
                    push(keep, start..bytes.len());
                    break;
                }
                (State::Cr, Some(b'\n')) => {
                    at += 1;
                    self.state = State::CrLf;
                }
                (State::CrLf, Some(b'.')) => {
                    push(keep, start..at);
                    start = at;
                    at += 1;
                    self.state = State::CrLfDot;
                }
                // The line goes on; the search begins at this byte, which may be a CR.
                (State::Cr | State::CrLf, Some(_)) => self.state = State::Text,
                (State::CrLfDot | State::CrLfDotCr, None) => break,
                (State::CrLfDot, Some(b'\r')) => {
                    at += 1;
                    self.state = State::CrLfDotCr;
                }
                (State::CrLfDot, Some(_)) => {
                    start = at;
                    self.state = State::Text;
                }
                (State::CrLfDotCr, Some(b'\n')) => {
                    return Scan { carry, consumed: at + 1, ended: true };
                }
                (State::CrLfDotCr, Some(_)) => {
                    match at.checked_sub(1) {
                        Some(cr) => start = cr,
                        None => carry = b"\r",
                    }
                    self.state = State::Text;
                }
            }
        }
        Scan { carry, consumed: bytes.len(), ended: false }
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

/// The state after bytes that hold no CRLF with a dot behind it.
fn state_after(bytes: &[u8]) -> State {
    match bytes {
        [.., b'\r', b'\n'] => State::CrLf,
        [.., b'\r'] => State::Cr,
        _ => State::Text,
    }
}

fn push(keep: &mut Vec<Range<usize>>, range: Range<usize>) {
    if !range.is_empty() {
        keep.push(range);
    }
}

/// The only thing that can end a message or hide a doubled dot, inside a buffer. (Telling memchr that dots and CRs are
/// the rare bytes here makes no difference that could be measured.)
static LINE_WITH_DOT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n."));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a message is, as plainly as it can be said: `Some((message, octets read))` once it has ended,
    /// else the octets that are certain so far.
    fn naive(wire: &[u8]) -> (Vec<u8>, Option<usize>) {
        let mut seen = b"\r\n".to_vec(); // the start of DATA counts as after CRLF
        seen.extend_from_slice(wire);
        let mut message = Vec::new();
        let mut at = 2;
        while at < seen.len() {
            let line_start = &seen[at - 2..at] == b"\r\n";
            if line_start && seen[at] == b'.' {
                match (seen.get(at + 1), seen.get(at + 2)) {
                    (Some(b'\r'), Some(b'\n')) => return (message, Some(at + 1)),
                    (Some(b'\r'), None) | (None, None) => return (message, None),
                    _ => {}
                }
            } else {
                message.push(seen[at]);
            }
            at += 1;
        }
        (message, None)
    }

    /// Feeds `wire` in the given pieces, and overwrites each piece when it was scanned, as a receive buffer would be.
    fn scanned(pieces: &[&[u8]]) -> (Vec<u8>, Option<usize>) {
        let mut scanner = Scanner::new();
        let mut message = Vec::new();
        let mut read = 0;
        for piece in pieces {
            let mut keep = Vec::new();
            let scan = scanner.scan(piece, &mut keep);
            message.extend_from_slice(scan.carry);
            let mut last_end = 0;
            for range in keep {
                assert!(range.start < range.end, "an empty range");
                assert!(last_end <= range.start, "ranges out of order");
                last_end = range.end;
                message.extend_from_slice(&piece[range]);
            }
            assert!(last_end <= scan.consumed);
            read += scan.consumed;
            if scan.ended {
                return (message, Some(read));
            }
            assert_eq!(scan.consumed, piece.len());
        }
        (message, None)
    }

    fn every_string_up_to(length_max: usize, mut law: impl FnMut(&[u8])) -> usize {
        const SYMBOLS: [u8; 4] = [b'\r', b'\n', b'.', b'a'];
        let mut tried = 0;
        for length in 1..=length_max {
            for number in 0..4_usize.pow(u32::try_from(length).unwrap()) {
                let text: Vec<u8> = (0..length).map(|place| SYMBOLS[(number >> (2 * place)) & 3]).collect();
                law(&text);
                tried += 1;
            }
        }
        tried
    }

    #[test]
    fn every_string_up_to_eight_symbols_cut_anywhere_means_what_the_naive_twin_says() {
        let tried = every_string_up_to(8, |wire| {
            let expected = naive(wire);
            for cut in 0..=wire.len() {
                let (head, tail) = wire.split_at(cut);
                assert_eq!(scanned(&[head, tail]), expected, "{wire:?} cut at {cut}");
            }
            let bytes: Vec<&[u8]> = wire.chunks(1).collect();
            assert_eq!(scanned(&bytes), expected, "{wire:?} byte by byte");
        });
        assert_eq!(tried, 87_380);
    }

    #[test]
    fn every_string_means_the_same_inside_a_line() {
        every_string_up_to(6, |tail| {
            let wire = [b"text", tail].concat();
            let expected = naive(&wire);
            for cut in 0..=wire.len() {
                let (head, tail) = wire.split_at(cut);
                assert_eq!(scanned(&[head, tail]), expected, "{wire:?} cut at {cut}");
            }
        });
    }

    #[test]
    fn a_lone_dot_at_once_is_an_empty_message() {
        assert_eq!(scanned(&[b".\r\nQUIT\r\n"]), (Vec::new(), Some(3)));
    }

    #[test]
    fn the_line_end_before_the_final_dot_belongs_to_the_message() {
        assert_eq!(scanned(&[b"a\r\n..b\r\n.\r\nRSET\r\n"]), (b"a\r\n.b\r\n".to_vec(), Some(11)));
    }

    #[test]
    fn a_carriage_return_withheld_in_an_earlier_buffer_comes_back() {
        assert_eq!(scanned(&[b"a\r\n.\r", b"b"]), (b"a\r\n\rb".to_vec(), None));
        assert_eq!(scanned(&[b".", b"\r", b"\r", b"\n.\r\n"]), (b"\r\r\n".to_vec(), Some(7)));
    }

    #[test]
    fn nothing_that_only_looks_like_the_end_ends_a_message() {
        let false_ends: [&[u8]; 12] = [
            b"a\n.\n",
            b"a\r.\r",
            b"a\n.\r\n",
            b"a\r\n.\n",
            b"a\r\n.\rb",
            b"a\r.\r\n",
            b"a\r\n.\0\r\n",
            b"a\r\n\0.\r\n",
            b"a\r\0\n.\r\n",
            b"a\r\n.\r\0\n",
            b"a\0\n.\r\n",
            b"a\r\n. \r\n",
        ];
        for wire in false_ends {
            let (message, ended) = scanned(&[wire]);
            assert_eq!(ended, None, "{wire:?}");
            assert_eq!(message, naive(wire).0, "{wire:?}");
        }
    }

    #[test]
    fn a_dot_after_a_bare_line_feed_is_not_a_doubled_dot() {
        assert_eq!(scanned(&[b"a\n..b\r..c"]).0, b"a\n..b\r..c");
    }

    proptest! {
        #[test]
        fn long_mail_cut_at_random_places_means_what_the_naive_twin_says(
            words in prop::collection::vec(
                prop::sample::select(vec![&b"\r\n"[..], b".", b"\r", b"\n", b"\0", b"a", b"\r\n.",
                    b"\r\n..", b"a line of text that is longer than any vector register there is"]),
                0..200),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let wire = words.concat();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
            places.extend([0, wire.len()]);
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|cut| &wire[cut[0]..cut[1]]).collect();
            prop_assert_eq!(scanned(&pieces), naive(&wire));
        }
    }
}
