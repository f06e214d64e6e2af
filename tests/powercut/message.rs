//! Messages that can be told from each other, and from nothing, byte by byte.
//!
//! A message is its number: subject, length and every line follow from it, so nothing has to be remembered to know
//! whether a file is whole.

use crate::random::Random;

/// The message `number`: lines that end with CRLF and begin with no dot, 1 to 60 KiB, small ones more often.
pub(crate) fn message(number: u64) -> Vec<u8> {
    let mut random = Random::new(number.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let bytes = (1024 << random.below(6)) + random.below(28 << 10);
    let mut text = format!("Subject: {number}\r\n\r\n").into_bytes();
    while text.len() < bytes {
        let mut left = 0;
        for _ in 0..LINE {
            if left == 0 {
                left = random.number();
            }
            text.push(LETTERS[usize::try_from(left % 32).expect("a small number")]);
            left >>= 5;
        }
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// The number of the message that begins somewhere in `bytes`, and where it begins.
pub(crate) fn number_in(bytes: &[u8]) -> Option<(u64, usize)> {
    let start = memchr::memmem::find(bytes, b"Subject: ")?;
    let digits = &bytes[start + "Subject: ".len()..];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    let number = std::str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
    Some((number, start))
}

/// The number of the message `index` of run `run`.
pub(crate) fn number(run: u64, index: u64) -> u64 {
    (run << 20) | index
}

const LINE: usize = 70;
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_its_number_and_is_made_of_lines() {
        for index in 0..200 {
            let number = number(3, index);
            let text = message(number);
            assert!((1024..62 << 10).contains(&text.len()), "{}", text.len());
            assert_eq!(number_in(&text), Some((number, 0)));
            assert!(text.ends_with(b"\r\n") && memchr::memmem::find(&text, b"\r\n.").is_none());
        }
    }
}
