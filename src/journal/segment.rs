//! A whole segment: its header, and the records behind it.
//!
//! Promises that a [`SegmentHeader`] which was read fits its file, and that records of other epochs are not
//! read. Never decides what becomes of a segment that is refused.
#![forbid(unsafe_code)]

use std::fmt;

use siphasher::sip::SipHasher13;

use super::format::{
    BLOCK_BYTES, HEADER_BYTES, SEGMENT_MAGIC, VERSION, header_at as at, is_segment_length, put, u32_at,
    u64_at,
};
use super::record::{Record, claims};

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Length of the file.
    pub segment_bytes: u64,
    /// How often the segment has been opened for records. Tells people how old a record is; what
    /// counts is the key.
    pub epoch: u64,
    /// What records of this epoch carry. A secret.
    pub key: u64,
    /// The worker that writes it.
    pub worker: u32,
    /// When this epoch began.
    pub boot: Boot,
}

/// One run of the machine's kernel, by its random boot id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot(pub [u8; 16]);

impl Boot {
    /// Not known which.
    pub const UNKNOWN: Self = Self([0; 16]);

    /// Whether what one left in memory may still be what the other sees.
    #[must_use]
    pub fn may_be(self, other: Self) -> bool {
        self == other || self == Self::UNKNOWN || other == Self::UNKNOWN
    }
}

impl SegmentHeader {
    /// The header of a new segment. `key` is a random number; `segment_bytes` are such as
    /// [`is_segment_length`] likes.
    #[must_use]
    pub fn new(segment_bytes: u64, worker: u32, key: u64, boot: Boot) -> Self {
        assert!(is_segment_length(segment_bytes), "checked by the configuration");
        Self { segment_bytes, epoch: 1, key, worker, boot }
    }

    /// The header that retires all records of this one and opens the segment for new ones in this `boot`, once
    /// it is durable.
    ///
    /// The next key follows from this one, so that nobody has to find a random number for it, and is as
    /// secret: SipHash does not give away what it was keyed with.
    #[must_use]
    pub fn retired(self, boot: Boot) -> Self {
        let epoch = self.epoch.wrapping_add(1);
        let key = SipHasher13::new_with_keys(self.key, u64::from(self.worker)).hash(&epoch.to_le_bytes());
        Self { epoch, key, boot, ..self }
    }

    /// The header as it is written, at the start of the file.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, &SEGMENT_MAGIC);
        put(&mut bytes, at::VERSION, &VERSION.to_le_bytes());
        put(&mut bytes, at::SEGMENT_BYTES, &self.segment_bytes.to_le_bytes());
        put(&mut bytes, at::EPOCH, &self.epoch.to_le_bytes());
        put(&mut bytes, at::WORKER, &self.worker.to_le_bytes());
        put(&mut bytes, at::KEY, &self.key.to_le_bytes());
        put(&mut bytes, at::BOOT, &self.boot.0);
        let checksum = crc32c::crc32c(&bytes);
        put(&mut bytes, at::CHECKSUM, &checksum.to_le_bytes());
        bytes
    }

    /// Reads the header at the start of a segment; `file_bytes` is the length of the file. The first
    /// [`BLOCK_BYTES`] are enough, and all there are of a shorter file.
    ///
    /// # Errors
    /// When the file is not a segment that this version can read.
    pub fn decode(start: &[u8], file_bytes: u64) -> Result<Self, Refusal> {
        let start = &start[..start.len().min(BLOCK_BYTES)];
        if start.iter().all(|byte| *byte == 0) {
            return Err(Refusal::Blank);
        }
        if !start.starts_with(&SEGMENT_MAGIC) {
            return Err(Refusal::Foreign);
        }
        match u32_at(start, at::VERSION) {
            Some(VERSION) => {}
            // Another version may have its checksum elsewhere, so the number is believed as it is: then nothing
            // is touched.
            Some(version) if version > VERSION => return Err(Refusal::Newer { version }),
            _ => return Err(Refusal::Damaged),
        }
        Self::read_fields(start).ok_or(Refusal::Damaged).and_then(|header| {
            let said = header.segment_bytes;
            if said == file_bytes { Ok(header) } else { Err(Refusal::Length { said, is: file_bytes }) }
        })
    }

    /// The fields, if the checksum is right and they are possible.
    fn read_fields(start: &[u8]) -> Option<Self> {
        let mut bytes: [u8; HEADER_BYTES] = *start.first_chunk()?;
        let checksum = u32_at(&bytes, at::CHECKSUM)?;
        put(&mut bytes, at::CHECKSUM, &[0; 4]);
        if crc32c::crc32c(&bytes) != checksum {
            return None;
        }
        let header = Self {
            segment_bytes: u64_at(&bytes, at::SEGMENT_BYTES)?,
            epoch: u64_at(&bytes, at::EPOCH)?,
            key: u64_at(&bytes, at::KEY)?,
            worker: u32_at(&bytes, at::WORKER)?,
            boot: Boot(*bytes.get(at::BOOT..)?.first_chunk()?),
        };
        is_segment_length(header.segment_bytes).then_some(header)
    }
}

/// Why a segment is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The header's block is zero, or the file empty: it was being made, and no record is behind a header that
    /// is not durable.
    Blank,
    /// It does not begin like a segment.
    Foreign,
    /// A later version of this program wrote it.
    Newer {
        /// Its version.
        version: u32,
    },
    /// The header's checksum does not match, or it says what cannot be.
    Damaged,
    /// The file has not the length that its header says.
    Length {
        /// Bytes, as the header says.
        said: u64,
        /// Bytes of the file.
        is: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("was never used"),
            Self::Foreign => f.write_str("is not a journal segment"),
            Self::Newer { version } => {
                write!(f, "has version {version}, and this program reads up to version {VERSION}")
            }
            Self::Damaged => f.write_str("has a damaged header"),
            Self::Length { said, is } => write!(f, "has {is} bytes where its header says {said}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Reads a whole segment: the header now, the records as they are asked for.
///
/// # Errors
/// When it is not a segment that this version can read.
pub fn read_segment(bytes: &[u8]) -> Result<Segment<'_>, Refusal> {
    match SegmentHeader::decode(bytes, bytes.len() as u64) {
        Ok(header) => Ok(Segment { header, bytes }),
        // A header was here: there is something behind it.
        Err(Refusal::Blank) if bytes.iter().any(|byte| *byte != 0) => Err(Refusal::Damaged),
        Err(refusal) => Err(refusal),
    }
}

/// A segment in memory.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'s> {
    /// Its header.
    pub header: SegmentHeader,
    bytes: &'s [u8],
}

impl<'s> Segment<'s> {
    /// The records of the present epoch.
    #[must_use]
    pub fn records(&self) -> Records<'s> {
        Records {
            bytes: self.bytes,
            key: self.header.key,
            at: BLOCK_BYTES,
            sequence: 0,
            inside: false,
            end: None,
        }
    }
}

/// How the records of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Behind a whole batch, or with none at all.
    Clean,
    /// In a batch that was being written; nobody was told 250 for what is in it.
    Torn {
        /// Where in the file the first record lies that does not check.
        at: usize,
    },
}

/// The records of a segment's present epoch, in order.
#[derive(Clone, Debug)]
pub struct Records<'s> {
    bytes: &'s [u8],
    key: u64,
    at: usize,
    sequence: u64,
    /// Whether the batch of the record before goes on.
    inside: bool,
    end: Option<End>,
}

impl Records<'_> {
    /// How they ended; `None` before that.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Where in the file the next record would begin.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }
}

impl<'s> Iterator for Records<'s> {
    type Item = Record<'s>;

    fn next(&mut self) -> Option<Record<'s>> {
        if self.end.is_some() {
            return None;
        }
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(record) = Record::parse(rest, self.key, self.sequence) else {
            // At the start of a batch, what does not even claim to be of this epoch was there before.
            let torn = self.inside || claims(rest, self.key);
            self.end = Some(if torn { End::Torn { at: self.at } } else { End::Clean });
            return None;
        };
        self.at += record.length;
        self.inside = !record.last;
        if record.last {
            self.at = self.at.next_multiple_of(BLOCK_BYTES);
        }
        self.sequence += 1;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::format::{RECORD_ALIGN, SEGMENT_BYTES_MIN, checksum};
    use crate::journal::record::{Recipient, RecordHead};
    use crate::ring::Owner;
    use proptest::prelude::*;

    fn fresh() -> SegmentHeader {
        SegmentHeader::new(SEGMENT_BYTES_MIN, 2, 0xfeed, Boot([7; 16]))
    }

    fn blank(header: SegmentHeader) -> Vec<u8> {
        let mut bytes = header.encode().to_vec();
        bytes.resize(usize::try_from(header.segment_bytes).unwrap(), 0);
        bytes
    }

    /// Writes batches of payloads as a worker does; returns where they end.
    fn fill(bytes: &mut [u8], header: SegmentHeader, batches: &[Vec<Vec<u8>>]) -> usize {
        let (mut at, mut sequence) = (BLOCK_BYTES, 0);
        for batch in batches {
            for (index, payload) in batch.iter().enumerate() {
                let recipient = Recipient {
                    owner: Owner::Server,
                    home: None,
                    path: "/mail/a",
                    name: "1.M1",
                    trace: b"Delivered-To: a\n",
                };
                let sum = checksum([&payload[..]]);
                let mut head = RecordHead::new([recipient], payload.len() as u64, sum).unwrap();
                head.seal(header.key, sequence, index + 1 == batch.len());
                let record = [head.as_bytes(), payload, &[0; RECORD_ALIGN][..head.padding_bytes()]].concat();
                put(bytes, at, &record);
                at += record.len();
                sequence += 1;
            }
            let end = at.next_multiple_of(BLOCK_BYTES);
            bytes[at..end].fill(0);
            at = end;
        }
        at
    }

    fn walk(bytes: &[u8]) -> (Vec<Vec<u8>>, End) {
        let mut records = read_segment(bytes).unwrap().records();
        let payloads = records.by_ref().map(|record| record.payload.to_vec()).collect();
        (payloads, records.end().unwrap())
    }

    fn sample() -> Vec<Vec<Vec<u8>>> {
        vec![vec![b"one".to_vec(), b"two!".to_vec()], vec![vec![b'3'; 4000]], vec![b"four".to_vec(), vec![]]]
    }

    #[test]
    fn a_header_has_exactly_these_bytes() {
        let (key, boot) = (0x0102_0304_0506_0708, Boot(*b"0123456789abcdef"));
        let bytes = SegmentHeader { segment_bytes: 1 << 26, epoch: 7, key, worker: 3, boot }.encode();
        assert_eq!(bytes[..12], *b"PHSTJRNL\x01\0\0\0");
        assert_eq!(bytes[16..40], *b"\0\0\0\x04\0\0\0\0\x07\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
        assert_eq!(bytes[40..64], *b"\x08\x07\x06\x05\x04\x03\x02\x010123456789abcdef");
        let zeroed = [&bytes[..12], &[0; 4], &bytes[16..]].concat();
        assert_eq!(bytes[12..16], crc32c::crc32c(&zeroed).to_le_bytes());
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let whole = blank(fresh());
        assert_eq!(SegmentHeader::decode(&whole, whole.len() as u64), Ok(fresh()));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read_segment(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_segment_is_refused_for_what_it_is() {
        let whole = blank(fresh());
        let refusal = |bytes: &[u8]| read_segment(bytes).map(drop).unwrap_err();
        assert_eq!(refusal(b""), Refusal::Blank);
        assert_eq!(refusal(&[0; 9000]), Refusal::Blank);
        assert_eq!(refusal(&[&[0; 9000][..], b"x"].concat()), Refusal::Damaged);
        assert_eq!(refusal(b"#!/bin/sh"), Refusal::Foreign);
        assert_eq!(refusal(&whole[..40]), Refusal::Damaged);
        let (said, is) = (SEGMENT_BYTES_MIN, 8192);
        assert_eq!(refusal(&whole[..8192]), Refusal::Length { said, is });
        let mut newer = whole;
        newer[8] = 2;
        assert_eq!(refusal(&newer), Refusal::Newer { version: 2 });
    }

    #[test]
    fn records_of_earlier_epochs_are_not_read() {
        let mut bytes = blank(fresh());
        fill(&mut bytes, fresh(), &sample());
        assert_eq!(walk(&bytes).0.len(), 5);
        let next = fresh().retired(Boot([8; 16]));
        put(&mut bytes, 0, &next.encode());
        assert_eq!(walk(&bytes), (vec![], End::Clean));
        fill(&mut bytes, next, &sample()[..1]);
        assert_eq!(walk(&bytes), (vec![b"one".to_vec(), b"two!".to_vec()], End::Clean));
    }

    #[test]
    fn keys_do_not_come_back() {
        let mut keys = std::collections::HashSet::new();
        let mut header = fresh();
        for epoch in 1..1000 {
            assert_eq!(header.epoch, epoch);
            assert!(keys.insert(header.key));
            header = header.retired(Boot([8; 16]));
        }
    }

    #[test]
    fn every_truncation_leaves_the_records_before_it() {
        let mut whole = blank(fresh());
        let end = fill(&mut whole, fresh(), &sample());
        let (payloads, _) = walk(&whole);
        let mut longest = 0;
        for kept in (BLOCK_BYTES..=end).step_by(RECORD_ALIGN) {
            // What a file system does not know of a file is zero.
            let mut bytes = whole.clone();
            bytes[kept..].fill(0);
            let (read, _) = walk(&bytes);
            assert!(payloads.starts_with(&read), "{kept}");
            assert!(read.len() >= longest, "more bytes are more records");
            longest = read.len();
        }
        assert_eq!(longest, 5);
    }

    #[test]
    fn every_flipped_bit_is_noticed_or_of_no_account() {
        let mut bytes = blank(fresh());
        let end = fill(&mut bytes, fresh(), &sample());
        let (payloads, how) = walk(&bytes);
        assert_eq!(how, End::Clean);
        for bit in BLOCK_BYTES * 8..end * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (read, _) = walk(&bytes);
            assert!(payloads.starts_with(&read), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_batch_that_was_not_finished_is_torn() {
        let mut bytes = blank(fresh());
        let end = fill(&mut bytes, fresh(), &sample());
        // The last batch begins in the block before the end; its second record is lost.
        let second = end - BLOCK_BYTES + 48 + 8 + 8 + 16 + 7 + 4 + 16 + 4;
        let at = second.next_multiple_of(RECORD_ALIGN);
        bytes[at..end].fill(0);
        let (read, how) = walk(&bytes);
        assert_eq!((read.len(), how), (4, End::Torn { at }));
    }

    #[test]
    fn a_full_segment_ends_cleanly() {
        let mut bytes = blank(fresh());
        let room = usize::try_from(SEGMENT_BYTES_MIN).unwrap() - BLOCK_BYTES;
        let end = fill(&mut bytes, fresh(), &[vec![vec![b'x'; room - 200]]]);
        assert_eq!(end, bytes.len());
        let (read, how) = walk(&bytes);
        assert_eq!((read.len(), how), (1, End::Clean));
    }

    #[test]
    fn text_that_looks_like_a_record_is_not_one_without_the_key() {
        let mut bytes = blank(fresh());
        // A stranger's guess at the next epoch, in the middle of a message where the next batch would begin.
        let guess = SegmentHeader { key: fresh().epoch + 1, ..fresh() };
        fill(&mut bytes, guess, &sample());
        assert_eq!(walk(&bytes), (vec![], End::Clean));
    }

    proptest! {
        #[test]
        fn all_batches_are_read_back(
            batches in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6000), 1..5), 0..6),
            epochs in 0..3,
        ) {
            let mut bytes = blank(fresh());
            let mut header = fresh();
            for _ in 0..epochs {
                fill(&mut bytes, header, &sample());
                header = header.retired(Boot([8; 16]));
                put(&mut bytes, 0, &header.encode());
            }
            fill(&mut bytes, header, &batches);
            prop_assert_eq!(walk(&bytes), (batches.concat(), End::Clean));
        }

        #[test]
        fn no_bytes_make_it_panic(start in proptest::collection::vec(any::<u8>(), 0..9000), place in 0_usize..9000) {
            let _ = read_segment(&start);
            let mut bytes = blank(fresh());
            fill(&mut bytes, fresh(), &sample());
            bytes[BLOCK_BYTES + place..][..start.len()].copy_from_slice(&start);
            prop_assert!(walk(&bytes).0.len() <= 5);
        }
    }
}
