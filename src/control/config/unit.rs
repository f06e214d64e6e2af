//! Sizes ("50MiB") and durations ("1h30m") as text: read and written, nothing else.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Bytes in `text`: digits and an optional unit (B, kB, KB, MB, GB, TB, KiB, MiB, GiB, TiB).
///
/// # Errors
/// One phrase that says what is wrong.
pub(super) fn parse_size(text: &str) -> Result<u64, &'static str> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("a size starts with a whole number, for example \"50MiB\"");
    }
    let factor = SIZE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))
        .ok_or("the unit of a size is B, KB, MB, GB, TB, KiB, MiB, GiB or TiB")?
        .1;
    let number: u64 = number.parse().map_err(|_| "this number is too large")?;
    number.checked_mul(factor).ok_or("this size is too large")
}

/// `bytes` with the largest binary unit that leaves no remainder.
pub(super) fn size_text(bytes: u64) -> String {
    let (name, factor) = SIZE_UNITS
        .iter()
        .filter(|(name, factor)| (name.contains('i') || *name == "B") && bytes.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| if bytes == 0 { 0 } else { *factor })
        .expect("every number of bytes is a multiple of one byte");
    if bytes == 0 { "0B".to_owned() } else { format!("{}{name}", bytes / factor) }
}

/// The time in `text`: one or more of digits with a unit (d, h, m, s, ms), largest first.
///
/// # Errors
/// One phrase that says what is wrong.
pub(super) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const EXAMPLE: &str = "a duration is made of whole numbers and units, largest first: \
                           \"1h30m\", \"10s\", \"250ms\"";
    let mut rest = text;
    let mut total_ms: u64 = 0;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let factor = DURATION_UNITS.iter().find(|(name, _)| *name == unit).ok_or(EXAMPLE)?.1;
        if number.is_empty() || factor >= smallest {
            return Err(EXAMPLE);
        }
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        total_ms = part.and_then(|part| total_ms.checked_add(part)).ok_or("this duration is too long")?;
        smallest = factor;
        rest = after;
    }
    if text.is_empty() { Err(EXAMPLE) } else { Ok(Duration::from_millis(total_ms)) }
}

/// `duration`, to the millisecond, as [`parse_duration`] reads it.
pub(super) fn duration_text(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, factor) in DURATION_UNITS {
        if rest >= *factor {
            text.push_str(&format!("{}{name}", rest / factor));
            rest %= factor;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Unit names and their bytes; compared without regard to case, so "mb" is MB.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Unit names and their milliseconds, largest first.
const DURATION_UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_with_decimal_and_binary_units() {
        for (text, bytes) in [
            ("0", 0),
            ("500B", 500),
            ("1KB", 1_000),
            ("1KiB", 1_024),
            ("50MiB", 50 << 20),
            ("1GB", 1_000_000_000),
            ("1 GiB", 1 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "MiB", "-1B", "1.5MiB", "1XB", "99999999999999999999", "99999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_part_by_part() {
        for (text, ms) in [
            ("5m", 300_000),
            ("10s", 10_000),
            ("250ms", 250),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "5", "m", "5x", "30m1h", "1s1s", "1.5s", "-5s", "5 m", "99999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn sizes_survive_writing_and_reading(bytes: u64) {
            prop_assert_eq!(parse_size(&size_text(bytes)), Ok(bytes));
        }

        #[test]
        fn durations_survive_writing_and_reading(ms in 0..u64::from(u32::MAX)) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
        }
    }
}
