//! Short texts, eight octets at a time.
//!
//! Owns what a look-up does to every octet of an address. Addresses are too short for vectors of sixteen and more, and
//! octet by octet each of them costs several instructions. Promises the same answers as the plain loops, which the
//! tests hold it against.
#![forbid(unsafe_code)]

const ONES: u64 = 0x0101_0101_0101_0101;
/// The highest bit of each octet, in which tests of eight octets answer.
const HIGH: u64 = 0x80 * ONES;

/// Whether a text is ASCII, and one component of a path that breaks no rule of [`super::path`] for certain. "No" may
/// mean as well that it takes a closer look.
#[inline]
pub(super) fn is_plain_component(octets: &[u8]) -> bool {
    let is_hidden = octets.first().is_none_or(|first| *first == b'.');
    !is_hidden && !has(octets, is_special)
}

/// The same of a domain, which has no `@` in it.
#[inline]
pub(super) fn is_plain_domain(octets: &[u8]) -> bool {
    let is_hidden = octets.first().is_none_or(|first| *first == b'.');
    !is_hidden && !has(octets, |word| is_special(word) | is(word, b'@'))
}

/// Puts words into lower case if they are ASCII; else they are spoilt, and it is `false`.
#[inline]
pub(super) fn lower_ascii(words: &mut [[u8; 8]]) -> bool {
    let mut found = 0;
    for octets in words {
        let word = u64::from_le_bytes(*octets);
        found |= word;
        *octets = lower(word).to_le_bytes();
    }
    found & HIGH == 0
}

/// Where an ASCII character is first found behind the first octet.
#[inline]
pub(super) fn position_behind_first(octets: &[u8], character: u8) -> Option<usize> {
    let place = |octets: &[u8; 8]| match is(u64::from_le_bytes(*octets), character) {
        0 => None,
        found => Some(found.trailing_zeros() as usize / 8),
    };
    let behind = octets.get(1..)?;
    for (n, word) in behind.as_chunks::<8>().0.iter().enumerate() {
        if let Some(at) = place(word) {
            return Some(1 + n * 8 + at);
        }
    }
    match behind.last_chunk() {
        Some(last) => place(last).map(|at| octets.len() - 8 + at),
        None => behind.iter().position(|octet| *octet == character).map(|at| 1 + at),
    }
}

/// Whether a test finds anything in a text. It is asked about some octets twice.
fn has(octets: &[u8], test: impl Fn(u64) -> u64) -> bool {
    let (words, rest) = octets.as_chunks::<8>();
    if words.iter().any(|word| test(u64::from_le_bytes(*word)) != 0) {
        return true;
    }
    match (octets.last_chunk::<8>(), rest) {
        (_, []) => false,
        (Some(last), _) => test(u64::from_le_bytes(*last)) != 0,
        (None, rest) => test(repeated(rest)) != 0,
    }
}

/// A word of nothing but the octets of a text, which has one at least and seven at most.
fn repeated(octets: &[u8]) -> u64 {
    let (low, high) = match (octets.first_chunk::<4>(), octets.last_chunk::<4>()) {
        (Some(first), Some(last)) => (u32::from_le_bytes(*first), u32::from_le_bytes(*last)),
        _ => {
            let (first, last) = (octets[0], octets[octets.len() - 1]);
            let word = u32::from_le_bytes([first, octets[octets.len() / 2], last, first]);
            (word, word)
        }
    };
    u64::from(low) | u64::from(high) << 32
}

/// The octets that are a control character, a slash, or not ASCII.
fn is_special(word: u64) -> u64 {
    let low = word & !HIGH;
    let is_from_space_on = low + 0x60 * ONES;
    let is_delete = low + ONES;
    (word | !is_from_space_on | is_delete) & HIGH | is(word, b'/')
}

/// The octets that are an ASCII character.
fn is(word: u64, character: u8) -> u64 {
    let difference = word ^ (u64::from(character) * ONES);
    let is_other = difference | ((difference & !HIGH) + 0x7f * ONES);
    !is_other & HIGH
}

/// ASCII capitals become small letters.
fn lower(word: u64) -> u64 {
    let low = word & !HIGH;
    let is_from_a_on = low + (0x80 - u64::from(b'A')) * ONES;
    let is_behind_z = low + (0x7f - u64::from(b'Z')) * ONES;
    let is_capital = is_from_a_on & !is_behind_z & !word & HIGH;
    word | is_capital >> 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::path;
    use proptest::prelude::*;

    fn is_plain_as_loops_see_it(octets: &[u8], also: &[u8]) -> bool {
        let is_special = |octet: &u8| {
            octet.is_ascii_control() || !octet.is_ascii() || *octet == b'/' || also.contains(octet)
        };
        !octets.is_empty() && octets[0] != b'.' && !octets.iter().any(is_special)
    }

    fn assert_as_loops(octets: &[u8]) {
        assert_eq!(is_plain_component(octets), is_plain_as_loops_see_it(octets, b""), "{octets:x?}");
        assert_eq!(is_plain_domain(octets), is_plain_as_loops_see_it(octets, b"@"), "{octets:x?}");
        let mut words = octets.to_vec();
        words.resize(octets.len().next_multiple_of(8), b'Z');
        assert_eq!(lower_ascii(words.as_chunks_mut().0), octets.is_ascii(), "{octets:x?}");
        if octets.is_ascii() {
            assert_eq!(words[..octets.len()], octets.to_ascii_lowercase());
        }
        for character in [b'+', b'-', b'a', 0, 0x7f] {
            let expected = octets.iter().skip(1).position(|octet| *octet == character).map(|at| at + 1);
            assert_eq!(position_behind_first(octets, character), expected, "{octets:x?} {character:#x}");
        }
    }

    #[test]
    fn every_octet_at_every_place_of_every_short_text_is_as_plain_loops_see_it() {
        for length in 0..20 {
            for place in 0..length {
                for octet in 0..=u8::MAX {
                    let mut octets = vec![b'm'; length];
                    octets[place] = octet;
                    assert_as_loops(&octets);
                }
            }
        }
        assert_as_loops(b"");
    }

    proptest! {
        #[test]
        fn texts_are_as_plain_loops_see_them(
            octets in prop::collection::vec(any::<u8>(), 0..40),
            ascii in "[ -~]{0,40}",
        ) {
            assert_as_loops(&octets);
            assert_as_loops(ascii.as_bytes());
        }

        #[test]
        fn a_plain_component_breaks_no_rule_of_paths(text in "[ -~./\u{0}\u{7f}\u{e9}]{0,24}") {
            if is_plain_component(text.as_bytes()) {
                prop_assert_eq!(path::check_home(&format!("/a/{text}/b")), Ok(()));
                prop_assert_eq!(path::check_location(&text), Ok(()));
            }
        }
    }
}
