//! Line ends of a message: counting them, and storing LF where CRLF arrived.
//!
//! A Maildir file name carries the size on disk (`S=`) and the size with every line end as CRLF (`W=`). Both are
//! known without a second reading: [`LineEnds`] counts while the message arrives. [`ToLf`] leaves out the CR of
//! each CRLF, again as ranges, again without copying. A CR or LF that stands alone is never changed.
#![forbid(unsafe_code)]

use crate::sys::cpu::with_wide_vectors;
use memchr::memchr_iter;
use std::ops::Range;

/// How lines are stored, `maildir.line_endings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEndings {
    /// As received: nothing is copied.
    Crlf,
    /// Converted to LF.
    Lf,
}

impl LineEndings {
    /// What ends a line that we write ourselves.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Crlf => "\r\n",
            Self::Lf => "\n",
        }
    }
}

/// Counts the line ends of a message that are not CRLF, fed piece by piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineEnds {
    /// LFs with no CR before them. `W=` is the size plus this, as each would become CRLF.
    pub lone_lf: u64,
    /// The last byte counted; none at the start of the message.
    pub last: Option<u8>,
}

impl LineEnds {
    /// Counts the line ends of the next piece of the message.
    pub fn count(&mut self, piece: &[u8]) {
        let Some((&first, &last)) = piece.first().zip(piece.last()) else {
            return;
        };
        let (before, after) = (&piece[..piece.len() - 1], &piece[1..]);
        if first == b'\n' && self.last != Some(b'\r') {
            self.lone_lf += 1;
        }
        // Nearly every message that arrives has none, and to look is half of counting.
        if with_wide_vectors(|| has_lone(before, after)) {
            self.lone_lf += with_wide_vectors(|| count_lone(before, after));
        }
        self.last = Some(last);
    }
}

/// Whether there is a LF in `after` without a CR at the same place of `before`, which is as long.
///
/// What stands at the end is looked at twice rather than octet by octet.
#[inline(always)]
fn has_lone(before: &[u8], after: &[u8]) -> bool {
    let ends = before.last_chunk::<LANES>().zip(after.last_chunk::<LANES>());
    let Some((before_end, after_end)) = ends else {
        return before.iter().zip(after).any(|(before, after)| is_lone(*before, *after));
    };
    let mut found = [0; LANES];
    let mut look = |before: &[u8; LANES], after: &[u8; LANES]| {
        for lane in 0..LANES {
            found[lane] |= u8::from(is_lone(before[lane], after[lane]));
        }
    };
    before.as_chunks().0.iter().zip(after.as_chunks().0).for_each(|(before, after)| look(before, after));
    look(before_end, after_end);
    found != [0; LANES]
}

/// How many there are.
///
/// Lanes of one octet each are summed side by side, which the compiler turns into vector code: 255 rounds at most,
/// or a lane would overflow.
#[inline(always)]
fn count_lone(before: &[u8], after: &[u8]) -> u64 {
    let mut count = 0;
    for (before, after) in before.chunks(LANES * 255).zip(after.chunks(LANES * 255)) {
        let (before_lanes, before_rest) = before.as_chunks::<LANES>();
        let (after_lanes, after_rest) = after.as_chunks::<LANES>();
        let mut lanes = [0_u8; LANES];
        for (before, after) in before_lanes.iter().zip(after_lanes) {
            for lane in 0..LANES {
                lanes[lane] += u8::from(is_lone(before[lane], after[lane]));
            }
        }
        let rest = before_rest.iter().zip(after_rest);
        count += sum(&lanes) + rest.filter(|(before, after)| is_lone(**before, **after)).count() as u64;
    }
    count
}

fn is_lone(before: u8, after: u8) -> bool {
    (after == b'\n') & (before != b'\r')
}

/// Octets that are counted side by side.
const LANES: usize = 32;

/// The sum of all lanes, eight of them at once: first in pairs, which do not overflow sixteen bits, nor do four words
/// of them; then the product has the sum of its four pairs on top.
fn sum(lanes: &[u8; LANES]) -> u64 {
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    const ONES: u64 = 0x0001_0001_0001_0001;
    let (words, _) = lanes.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let pairs: u64 = words.map(|word| (word & EVEN) + (word >> 8 & EVEN)).sum();
    pairs.wrapping_mul(ONES) >> 48
}

/// Converts CRLF to LF by leaving out the CR, fed piece by piece.
///
/// A CR at the end of a piece is withheld until the next byte is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToLf {
    cr_withheld: bool,
}

impl ToLf {
    /// Appends to `keep` the parts of `bytes[piece]` to store, as ranges of `bytes`, none of them empty.
    ///
    /// Returns the octets that belong before them: `\r` or nothing, a CR that an earlier piece ended with and
    /// that turned out to stand alone.
    pub fn convert(
        &mut self,
        bytes: &[u8],
        piece: Range<usize>,
        keep: &mut Vec<Range<usize>>,
    ) -> &'static [u8] {
        let text = &bytes[piece.clone()];
        let Some(&first) = text.first() else {
            return b"";
        };
        let carry: &[u8] = if self.cr_withheld && first != b'\n' { b"\r" } else { b"" };
        self.cr_withheld = text.ends_with(b"\r");
        let end = piece.end - usize::from(self.cr_withheld);
        let mut start = piece.start;
        for line_feed in memchr_iter(b'\n', text) {
            let line_feed = piece.start + line_feed;
            if line_feed > start && bytes[line_feed - 1] == b'\r' {
                push(keep, start..line_feed - 1);
                start = line_feed;
            }
        }
        push(keep, start..end);
        carry
    }

    /// The end of the message: returns a CR that was still withheld, or nothing.
    #[must_use]
    pub fn finish(self) -> &'static [u8] {
        if self.cr_withheld { b"\r" } else { b"" }
    }
}

fn push(keep: &mut Vec<Range<usize>>, range: Range<usize>) {
    if !range.is_empty() {
        keep.push(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive_counts(message: &[u8]) -> LineEnds {
        let mut counts = LineEnds::default();
        for &byte in message {
            if byte == b'\n' && counts.last != Some(b'\r') {
                counts.lone_lf += 1;
            }
            counts.last = Some(byte);
        }
        counts
    }

    fn naive_lf(message: &[u8]) -> Vec<u8> {
        let mut stored = Vec::new();
        for (at, &byte) in message.iter().enumerate() {
            if !(byte == b'\r' && message.get(at + 1) == Some(&b'\n')) {
                stored.push(byte);
            }
        }
        stored
    }

    fn counted(pieces: &[&[u8]]) -> LineEnds {
        let mut counts = LineEnds::default();
        for piece in pieces {
            counts.count(piece);
        }
        counts
    }

    /// Converts the pieces, each of them inside a buffer with other bytes around it.
    fn converted(pieces: &[&[u8]]) -> Vec<u8> {
        let mut to_lf = ToLf::default();
        let mut stored = Vec::new();
        for piece in pieces {
            let buffer = [b"\r\n", *piece, b"\n"].concat();
            let mut keep = Vec::new();
            stored.extend_from_slice(to_lf.convert(&buffer, 2..2 + piece.len(), &mut keep));
            for range in keep {
                assert!(range.start < range.end, "an empty range");
                stored.extend_from_slice(&buffer[range]);
            }
        }
        stored.extend_from_slice(to_lf.finish());
        stored
    }

    #[test]
    fn every_string_up_to_seven_symbols_cut_anywhere_counts_and_converts_like_the_naive_twins() {
        for length in 0..=7 {
            for number in 0..3_usize.pow(length) {
                let mut rest = number;
                let mut message = Vec::new();
                for _ in 0..length {
                    message.push(b"\r\na"[rest % 3]);
                    rest /= 3;
                }
                for cut in 0..=message.len() {
                    let (head, tail) = message.split_at(cut);
                    assert_eq!(counted(&[head, tail]), naive_counts(&message));
                    assert_eq!(converted(&[head, tail]), naive_lf(&message), "{message:?} cut at {cut}");
                }
                let bytes: Vec<&[u8]> = message.chunks(1).collect();
                assert_eq!(counted(&bytes), naive_counts(&message));
                assert_eq!(converted(&bytes), naive_lf(&message), "{message:?}");
            }
        }
    }

    #[test]
    fn counts_do_not_overflow_where_every_byte_is_a_line_feed() {
        for length in [31, 32, 33, 8159, 8160, 8161, 8162, 100_000] {
            let message = vec![b'\n'; length];
            let counts = counted(&[&message]);
            assert_eq!(counts.lone_lf, length as u64);
        }
    }

    proptest! {
        #[test]
        fn long_messages_cut_at_random_places_count_and_convert_like_the_naive_twins(
            words in prop::collection::vec(
                prop::sample::select(vec![&b"\r\n"[..], b"\n", b"\r", b"abc", b"a line that is longer than a lane"]),
                0..3000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let message = words.concat();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(message.len() + 1)).collect();
            places.extend([0, message.len()]);
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|cut| &message[cut[0]..cut[1]]).collect();
            prop_assert_eq!(counted(&pieces), naive_counts(&message));
            prop_assert_eq!(converted(&pieces), naive_lf(&message));
        }
    }
}
