//! Look-ups mean the same however they arrive, and an address that was written is read back.

use super::input::Input;
use posthaste::limits::SOCKETMAP_REQUEST_BYTES_MAX;
use posthaste::socketmap::expansion;
use posthaste::socketmap::netstring::{Malformed, NetstringReader};
use posthaste::socketmap::request::{MAPS, Request, address};

/// Input: the cuts; the stream.
pub fn hold(input: &[u8]) {
    let mut input = Input::new(input);
    let cuts = input.cuts();
    let stream = input.rest();
    let (expected, broken) = naive(stream);

    let mut found = Vec::new();
    let mut reader = NetstringReader::default();
    let mut ended = None;
    'stream: for piece in cuts.pieces(stream.len()) {
        let mut rest = &stream[piece];
        loop {
            let before = rest;
            match reader.next(&mut rest) {
                Ok(Some(string)) => found.push(string.to_vec()),
                Ok(None) => break,
                Err(malformed) => {
                    ended = Some(malformed);
                    break 'stream;
                }
            }
            assert!(
                before.ends_with(rest) && rest.len() < before.len(),
                "a string takes its part of the input"
            );
            assert!(!reader.in_string(), "a string that was given out is over");
        }
        assert!(rest.is_empty(), "without a string all input is taken");
    }
    assert_eq!(found, expected);
    assert_eq!(ended, broken);
    found.iter().for_each(|request| hold_request(request));
}

fn hold_request(string: &[u8]) {
    let name = string.split(|octet| *octet == b' ').next().unwrap_or_default();
    let is_known = string.contains(&b' ') && MAPS.iter().any(|(known, _)| known.as_bytes() == name);
    let request = Request::parse(string);
    assert_eq!(request.is_ok(), is_known);
    let Ok(Request { key, .. }) = request else { return };
    assert_eq!(key, &string[name.len() + 1..]);

    let Some((local, domain)) = address(key) else {
        assert!(std::str::from_utf8(key).is_err(), "any text is an address, if only of nobody");
        return;
    };
    assert!(domain.is_none_or(|domain| !domain.contains('@')), "the last @ begins the domain");
    if local.chars().any(char::is_control) {
        return;
    }
    let mut written = String::new();
    expansion::push(&mut written, &[&local], domain);
    assert_eq!(address(written.as_bytes()), Some((local, domain)), "{written:?}");
}

/// Every string of a stream, and why reading it ends early.
fn naive(mut stream: &[u8]) -> (Vec<Vec<u8>>, Option<Malformed>) {
    let mut found = Vec::new();
    loop {
        let digits = stream.iter().take_while(|octet| octet.is_ascii_digit()).count();
        let mut length = 0;
        for (at, digit) in stream[..digits].iter().enumerate() {
            if at > 0 && length == 0 {
                return (found, Some(Malformed::LeadingZero));
            }
            length = length * 10 + usize::from(digit - b'0');
            if length > SOCKETMAP_REQUEST_BYTES_MAX {
                return (found, Some(Malformed::TooLong));
            }
        }
        let Some(colon) = stream.get(digits) else { return (found, None) };
        if digits == 0 || *colon != b':' {
            return (found, Some(Malformed::Length));
        }
        let rest = &stream[digits + 1..];
        match rest.get(length) {
            None => return (found, None),
            Some(b',') => {}
            Some(_) => return (found, Some(Malformed::Comma)),
        }
        found.push(rest[..length].to_vec());
        stream = &rest[length + 1..];
    }
}
