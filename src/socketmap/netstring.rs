//! Finds netstrings in the stream of received bytes: `<length>:<bytes>,`, the length in decimal digits.
//!
//! A string that lies whole in the buffer is returned as a part of it; only one that is split over buffers is
//! gathered in memory of our own, and that is bounded. What is malformed stays so: there is no place in the stream
//! where reading could begin again, so the caller closes the connection.
//!
//! The reader knows no time. Whoever waits for input should start the idle clock when a string is complete, not at
//! every packet, or a client can hold a connection with one that never ends.
#![forbid(unsafe_code)]

use std::fmt;

use crate::limits::{SOCKETMAP_KEPT_BYTES_MAX, SOCKETMAP_REQUEST_BYTES_MAX};

/// The reader between two buffers: the part of a string that has arrived.
#[derive(Debug, Default)]
pub struct NetstringReader {
    partial: Vec<u8>,
    progress: Progress,
}

/// Why the stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A length does not begin with a digit, or is followed by something else than `:`.
    Length,
    /// A length begins with 0 and goes on, which the definition forbids.
    LeadingZero,
    /// A string is longer than [`SOCKETMAP_REQUEST_BYTES_MAX`].
    TooLong,
    /// The `,` behind a string is missing.
    Comma,
}

/// What the bytes were that have arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    /// Nothing of a string yet.
    #[default]
    Between,
    /// Digits, which say so much up to here.
    Length(usize),
    /// The `:` too; `partial` holds what there is of so many bytes.
    Bytes(usize),
    /// `partial` was given out as a complete string, and is dropped at the next call.
    GivenOut,
    /// The stream is at its end, for this reason.
    Broken(Malformed),
}

impl NetstringReader {
    /// Takes one string from the front of `input`, and leaves what is behind it. `None` if all input was taken and
    /// its last string is not complete.
    ///
    /// # Errors
    /// What makes the stream one that cannot be read on; at every later call again.
    pub fn next<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<&'a [u8]>, Malformed> {
        if self.progress == Progress::GivenOut {
            self.forget();
        }
        match self.advance(input) {
            Ok(Some(Found::Whole(string))) => Ok(Some(string)),
            Ok(Some(Found::Gathered)) => {
                self.progress = Progress::GivenOut;
                Ok(Some(&self.partial))
            }
            Ok(None) => Ok(None),
            Err(malformed) => {
                self.progress = Progress::Broken(malformed);
                Err(malformed)
            }
        }
    }

    /// Whether a part of a string has arrived: the client is in the middle of a request.
    #[must_use]
    pub fn in_string(&self) -> bool {
        matches!(self.progress, Progress::Length(_) | Progress::Bytes(_))
    }

    fn advance<'input>(&mut self, input: &mut &'input [u8]) -> Result<Option<Found<'input>>, Malformed> {
        if let Progress::Broken(malformed) = self.progress {
            return Err(malformed);
        }
        let length = match self.progress {
            Progress::Bytes(length) => length,
            _ => match self.length(input)? {
                Some(length) => length,
                None => return Ok(None),
            },
        };
        let all: &'input [u8] = input;
        if self.partial.is_empty() && all.len() > length {
            let (string, rest) = all.split_at(length);
            *input = comma(rest)?;
            self.progress = Progress::Between;
            return Ok(Some(Found::Whole(string)));
        }
        let wanted = length - self.partial.len();
        let (part, rest) = all.split_at(wanted.min(all.len()));
        self.partial.extend_from_slice(part);
        if rest.is_empty() {
            self.progress = Progress::Bytes(length);
            *input = rest;
            return Ok(None);
        }
        *input = comma(rest)?;
        Ok(Some(Found::Gathered))
    }

    /// Takes a length and its colon from the front of `input`; `None` if they are not all there.
    fn length(&mut self, input: &mut &[u8]) -> Result<Option<usize>, Malformed> {
        while let Some((&byte, rest)) = input.split_first() {
            self.progress = match (self.progress, byte) {
                (Progress::Length(length), b':') => {
                    *input = rest;
                    return Ok(Some(length));
                }
                (Progress::Length(0), b'0'..=b'9') => return Err(Malformed::LeadingZero),
                (Progress::Length(length), b'0'..=b'9') => longer(length, byte)?,
                (Progress::Between, b'0'..=b'9') => longer(0, byte)?,
                _ => return Err(Malformed::Length),
            };
            *input = rest;
        }
        Ok(None)
    }

    fn forget(&mut self) {
        if self.partial.capacity() > SOCKETMAP_KEPT_BYTES_MAX {
            self.partial = Vec::new();
        }
        self.partial.clear();
        self.progress = Progress::Between;
    }
}

/// Where a complete string is.
enum Found<'input> {
    Whole(&'input [u8]),
    Gathered,
}

fn longer(length: usize, digit: u8) -> Result<Progress, Malformed> {
    // Below the bound by far, so neither step overflows.
    let length = length * 10 + usize::from(digit - b'0');
    if length > SOCKETMAP_REQUEST_BYTES_MAX { Err(Malformed::TooLong) } else { Ok(Progress::Length(length)) }
}

fn comma(rest: &[u8]) -> Result<&[u8], Malformed> {
    rest.strip_prefix(b",").ok_or(Malformed::Comma)
}

/// The reason, as the log gives it.
impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => out.write_str("a netstring begins with its length and a colon"),
            Self::LeadingZero => out.write_str("the length of a netstring begins with 0"),
            Self::TooLong => {
                write!(out, "a request has more than {SOCKETMAP_REQUEST_BYTES_MAX} bytes")
            }
            Self::Comma => out.write_str("a netstring ends with a comma"),
        }
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every string of the stream, fed in the given pieces, and why reading ended early if it did.
    fn strings(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Option<Malformed>) {
        let mut reader = NetstringReader::default();
        let mut found = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            loop {
                match reader.next(&mut input) {
                    Ok(Some(string)) => found.push(string.to_vec()),
                    Ok(None) => break,
                    Err(malformed) => {
                        assert_eq!(reader.next(&mut input), Err(malformed), "it stays so");
                        return (found, Some(malformed));
                    }
                }
            }
            assert!(input.is_empty(), "without a string all input is taken");
        }
        (found, None)
    }

    /// What a reader that sees the whole stream at once makes of it.
    fn naive(mut stream: &[u8]) -> (Vec<Vec<u8>>, Option<Malformed>) {
        let mut found = Vec::new();
        loop {
            let digits = stream.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let text = std::str::from_utf8(&stream[..digits]).unwrap();
            let mut length = 0_u128;
            for (at, digit) in text.chars().enumerate() {
                if at == 1 && length == 0 {
                    return (found, Some(Malformed::LeadingZero));
                }
                length = length * 10 + u128::from(digit.to_digit(10).unwrap());
                if length > SOCKETMAP_REQUEST_BYTES_MAX as u128 {
                    return (found, Some(Malformed::TooLong));
                }
            }
            match stream.get(digits) {
                None => return (found, None),
                Some(b':') if digits > 0 => {}
                Some(_) => return (found, Some(Malformed::Length)),
            }
            let rest = &stream[digits + 1..];
            let length = usize::try_from(length).unwrap();
            match rest.get(length) {
                None => return (found, None),
                Some(b',') => {}
                Some(_) => return (found, Some(Malformed::Comma)),
            }
            found.push(rest[..length].to_vec());
            stream = &rest[length + 1..];
        }
    }

    #[test]
    fn strings_are_found_one_behind_the_other() {
        let (found, broken) = strings(&[b"5:alias,0:,12:hello world!,3:1"]);
        assert_eq!(found, [&b"alias"[..], b"", b"hello world!"]);
        assert_eq!(broken, None);
    }

    #[test]
    fn a_string_may_hold_any_octet_also_those_that_frame_it() {
        assert_eq!(strings(&[b"7:3:a,,\0\xff,"]).0, [b"3:a,,\0\xff"]);
    }

    #[test]
    fn what_is_no_netstring_is_told_at_the_first_octet_that_shows_it() {
        for (stream, reason) in [
            (&b"GET / HTTP/1.1\r\n"[..], Malformed::Length),
            (b":a,", Malformed::Length),
            (b" 1:a,", Malformed::Length),
            (b"-1:a,", Malformed::Length),
            (b"1 :a,", Malformed::Length),
            (b"01:a,", Malformed::LeadingZero),
            (b"00:,", Malformed::LeadingZero),
            (b"99999", Malformed::TooLong),
            (b"18446744073709551617:", Malformed::TooLong),
            (b"1:ab", Malformed::Comma),
            (b"0:\n", Malformed::Comma),
        ] {
            assert_eq!(strings(&[stream]), (Vec::new(), Some(reason)), "{stream:?}");
        }
    }

    #[test]
    fn the_longest_request_is_taken_and_one_octet_more_is_not() {
        let longest = vec![b'x'; SOCKETMAP_REQUEST_BYTES_MAX];
        let stream = [format!("{}:", longest.len()).as_bytes(), &longest, b","].concat();
        assert_eq!(strings(&[&stream]), (vec![longest], None));
        let over = format!("{}:", SOCKETMAP_REQUEST_BYTES_MAX + 1);
        assert_eq!(strings(&[over.as_bytes()]), (Vec::new(), Some(Malformed::TooLong)));
    }

    #[test]
    fn a_client_is_in_a_request_from_its_first_octet_to_its_comma() {
        let mut reader = NetstringReader::default();
        assert!(!reader.in_string());
        for byte in b"3:a,," {
            assert_eq!(reader.next(&mut &[*byte][..]).unwrap(), None);
            assert!(reader.in_string());
        }
        assert_eq!(reader.next(&mut &b","[..]).unwrap(), Some(&b"a,,"[..]));
        assert!(!reader.in_string());
    }

    #[test]
    fn memory_of_a_long_request_is_given_back() {
        let mut reader = NetstringReader::default();
        let long = vec![b'x'; SOCKETMAP_REQUEST_BYTES_MAX];
        let stream = [format!("{}:", long.len()).as_bytes(), &long, b","].concat();
        for byte in &stream {
            let _ = reader.next(&mut std::slice::from_ref(byte)).unwrap();
        }
        assert_eq!(reader.next(&mut &b""[..]).unwrap(), None);
        assert!(reader.partial.capacity() <= SOCKETMAP_KEPT_BYTES_MAX);
    }

    #[test]
    fn every_short_stream_means_the_same_cut_at_any_two_places() {
        const SYMBOLS: &[u8] = b"012:,a";
        for number in 0..SYMBOLS.len().pow(5) {
            let mut rest = number;
            let stream: Vec<u8> = (0..5)
                .map(|_| {
                    let symbol = SYMBOLS[rest % SYMBOLS.len()];
                    rest /= SYMBOLS.len();
                    symbol
                })
                .collect();
            let expected = naive(&stream);
            for first in 0..=stream.len() {
                for second in first..=stream.len() {
                    let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                    assert_eq!(strings(&pieces), expected, "{stream:?} cut at {first} and {second}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_stream_means_the_same_however_it_is_cut(
            strings_of_it in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            tail in proptest::collection::vec(any::<u8>(), 0..6),
            cuts in proptest::collection::vec(0..400_usize, 0..12),
        ) {
            let mut stream = Vec::new();
            for string in &strings_of_it {
                stream.extend_from_slice(format!("{}:", string.len()).as_bytes());
                stream.extend_from_slice(string);
                stream.push(b',');
            }
            stream.extend_from_slice(&tail);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            let found = strings(&pieces);
            prop_assert_eq!(&found, &naive(&stream));
            prop_assert!(found.0.starts_with(&strings_of_it));
        }
    }
}
