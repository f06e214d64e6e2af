//! A segment with nothing in it but the recipients that failed.
//!
//! To keep the whole segment would do harm: recovery tries kept segments again, days later maybe, and
//! everything that its readers have removed by then would come back.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use super::Failure;
use crate::journal::format::{BLOCK_BYTES, SEGMENT_BYTES_MIN, checksum, is_segment_length};
use crate::journal::{Boot, RecordHead, Segment, SegmentHeader};

/// The bytes of such a segment; `None` if they would not be one.
pub(super) fn rest(segment: &Segment<'_>, failures: &[Failure], boot: Boot) -> Option<Vec<u8>> {
    let failed: HashSet<(u64, usize)> =
        failures.iter().map(|failure| (failure.sequence, failure.recipient)).collect();
    let mut records: Vec<(RecordHead, &[u8])> = Vec::new();
    for record in segment.records() {
        let recipients = record.recipients().enumerate();
        let theirs = recipients.filter(|(index, _)| failed.contains(&(record.sequence, *index)));
        let theirs: Vec<_> = theirs.map(|(_, recipient)| recipient).collect();
        if !theirs.is_empty() {
            let payload = record.payload;
            let head = RecordHead::new(theirs, payload.len() as u64, checksum([payload])).ok()?;
            records.push((head, payload));
        }
    }
    let length: u64 = records.iter().map(|(head, _)| head.record_bytes()).sum();
    let segment_bytes =
        (BLOCK_BYTES as u64 + length).next_multiple_of(BLOCK_BYTES as u64).max(SEGMENT_BYTES_MIN);
    if !is_segment_length(segment_bytes) {
        return None;
    }
    // A key that nobody can guess, from one that nobody knows.
    let key = segment.header.retired(boot).retired(boot).key;
    let header = SegmentHeader::new(segment_bytes, segment.header.worker, key, boot);
    let mut bytes = header.encode().to_vec();
    bytes.resize(BLOCK_BYTES, 0);
    let last = records.len().checked_sub(1)?;
    for (index, (head, payload)) in records.iter_mut().enumerate() {
        head.seal(key, index as u64, index == last);
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len() + head.padding_bytes(), 0);
    }
    bytes.resize(usize::try_from(segment_bytes).ok()?, 0);
    Some(bytes)
}
