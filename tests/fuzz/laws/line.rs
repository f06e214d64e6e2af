//! Lines mean the same however they arrive: the reader against a twin that sees the whole stream at once.

use super::input::Input;
use posthaste::limits::COMMAND_LINE_BYTES_MAX;
use posthaste::lmtp::line::{Line, LineReader};

/// Input: the cuts; a place and how many bytes are put in there, few or about as many as a line may have, so that the
/// limit needs no long inputs; what fills them; the stream.
pub fn hold(input: &[u8]) {
    let mut input = Input::new(input);
    let cuts = input.cuts();
    let (place, count, filler) = (input.number(), usize::from(input.byte()), input.byte());
    let count = if count < 128 { count } else { COMMAND_LINE_BYTES_MAX + 64 - (count - 128) };
    let mut stream = input.rest().to_vec();
    let place = place % (stream.len() + 1);
    stream.splice(place..place, std::iter::repeat_n(filler, count));

    let mut lines = Vec::new();
    let mut reader = LineReader::default();
    let mut arrived = 0;
    for piece in cuts.pieces(stream.len()) {
        arrived = piece.end;
        let mut rest = &stream[piece];
        loop {
            let before = rest;
            match reader.next(&mut rest) {
                Line::Complete(line) => lines.push(Some(line.to_vec())),
                Line::TooLong => lines.push(None),
                Line::Incomplete => break,
            }
            assert!(
                before.ends_with(rest) && rest.len() < before.len(),
                "a line takes its part of the input"
            );
            assert!(!reader.in_line(), "a line that was given out is over");
        }
        assert!(rest.is_empty(), "without a line all input is taken");
        assert_eq!(reader.in_line(), in_line(&stream[..arrived]));
    }
    assert_eq!(arrived, stream.len());
    assert_eq!(lines, naive(&stream));
}

/// Every line of a stream; none in the place of one that is too long.
fn naive(stream: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
    lines.pop();
    let read = |line: &[u8]| {
        let line = if line.ends_with(b"\r") { &line[..line.len() - 1] } else { line };
        (line.len() <= COMMAND_LINE_BYTES_MAX).then(|| line.to_vec())
    };
    lines.into_iter().map(read).collect()
}

fn in_line(arrived: &[u8]) -> bool {
    arrived.last().is_some_and(|last| *last != b'\n')
}
