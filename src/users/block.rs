//! Blocks of the heap: where records stand, and their checksums.
//!
//! Owns the way from a place in the file to a body, in both directions. Promises that a body which is handed out has
//! the checksum that was written with it. Never knows what a body means, but for the mark of one that is elsewhere.
#![forbid(unsafe_code)]

use super::layout::{
    BLOCK, BLOCK_HEAD, BODY_BYTES_MAX, ELSEWHERE, ELSEWHERE_BYTES, ELSEWHERE_HEAD, GOES_ON, LINE, OFFSET_MAX,
    RECORD_HEAD, filter_bits, u32_at,
};
use super::record::Damage;
use crate::sys::cpu::checksum;

/// A block of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<'t> {
    octets: &'t [u8; BLOCK],
    /// Where it begins in the file.
    offset: u64,
}

/// A record as it stands in its block; nothing of it was checked but that it is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'t> {
    /// Where it stands in the file.
    pub(super) offset: u64,
    pub(super) tag: u8,
    /// Head and body.
    octets: &'t [u8],
}

impl<'t> Block<'t> {
    pub(super) fn new(octets: &'t [u8; BLOCK], offset: u64) -> Self {
        Self { octets, offset }
    }

    /// Whether a search that has found nothing here must look at the next block too.
    pub(super) fn goes_on(&self) -> bool {
        u16::from_le_bytes([self.octets[4], self.octets[5]]) & GOES_ON != 0
    }

    /// The records one after another, up to the end or to the first that does not fit its place.
    pub(super) fn records(self) -> impl Iterator<Item = Raw<'t>> {
        let end = usize::from(u16::from_le_bytes([self.octets[4], self.octets[5]]) & !GOES_ON).min(BLOCK);
        let mut rest = self.octets.get(BLOCK_HEAD..end).unwrap_or_default();
        std::iter::from_fn(move || {
            let [_, _, _, _, length, tag, ..] = *rest else { return None };
            let offset = self.offset + (end - rest.len()) as u64;
            let (octets, after) = rest.split_at_checked(RECORD_HEAD + usize::from(length))?;
            rest = after;
            Some(Raw { offset, tag, octets })
        })
    }

    /// # Errors
    /// If the block is not as it was written.
    pub(super) fn check(&self) -> Result<(), Damage> {
        let expected = u32_at(self.octets, 0).unwrap_or_default();
        let found = crc32c::crc32c(&self.octets[4..]);
        match expected == found {
            true => Ok(()),
            false => Err(Damage::Checksum { what: "block", offset: self.offset, expected, found }),
        }
    }
}

impl<'t> Raw<'t> {
    /// The body, from the record or from the section that `elsewhere` returns, with its offset in the file.
    ///
    /// # Errors
    /// If a checksum does not fit, or there is nothing where the record points to.
    #[inline]
    pub(super) fn body(&self, elsewhere: impl FnOnce() -> (&'t [u8], u64)) -> Result<&'t [u8], Damage> {
        check_record(self.octets, self.offset)?;
        match &self.octets[RECORD_HEAD..] {
            body @ [ELSEWHERE, ..] => self.body_elsewhere(body, elsewhere()),
            body => Ok(body),
        }
    }

    /// The body that another one, which is a mark, points to.
    #[cold]
    fn body_elsewhere(
        &self,
        body: &[u8],
        (elsewhere, elsewhere_offset): (&'t [u8], u64),
    ) -> Result<&'t [u8], Damage> {
        let mut offset = [0; 8];
        let (Some(octets), ELSEWHERE_BYTES) = (body.get(1..), body.len()) else {
            return Err(Damage::Malformed { offset: self.offset, field: "length" });
        };
        offset[..6].copy_from_slice(octets);
        let offset = u64::from_le_bytes(offset);
        let start = offset.checked_sub(elsewhere_offset).and_then(|start| usize::try_from(start).ok());
        let octets = start.and_then(|start| elsewhere.get(start..)).ok_or(Damage::Outside { offset })?;
        let length = u32_at(octets, 4).and_then(|length| usize::try_from(length).ok());
        let octets = length.and_then(|length| octets.get(..ELSEWHERE_HEAD.checked_add(length)?));
        let octets = octets.ok_or(Damage::Cut { offset })?;
        check_record(octets, offset)?;
        Ok(&octets[ELSEWHERE_HEAD..])
    }
}

/// `octets` are a sum and what it is of.
#[inline]
fn check_record(octets: &[u8], offset: u64) -> Result<(), Damage> {
    let expected = u32_at(octets, 0).unwrap_or_default();
    let found = checksum(octets.get(4..).unwrap_or_default());
    match expected == found {
        true => Ok(()),
        false => Err(Damage::Checksum { what: "record", offset, expected, found }),
    }
}

/// Octets that a body takes in its block.
pub(super) fn bytes_in_block(body: usize) -> usize {
    RECORD_HEAD + if body > BODY_BYTES_MAX { ELSEWHERE_BYTES } else { body }
}

/// Octets that a body takes elsewhere.
pub(super) fn bytes_elsewhere(body: usize) -> usize {
    if body > BODY_BYTES_MAX { ELSEWHERE_HEAD + body } else { 0 }
}

/// A block that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    octets: [u8; BLOCK],
    end: usize,
}

impl Filling {
    pub(super) fn new() -> Self {
        Self { octets: [0; BLOCK], end: BLOCK_HEAD }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end == BLOCK_HEAD
    }

    /// Appends a record; `false` if it has no room. `body` is short enough for a block.
    pub(super) fn push(&mut self, tag: u8, body: &[u8]) -> bool {
        let Some(place) = self.octets.get_mut(self.end..self.end + RECORD_HEAD + body.len()) else {
            return false;
        };
        place[4] = u8::try_from(body.len()).expect("a body in a block is short");
        place[5] = tag;
        place[RECORD_HEAD..].copy_from_slice(body);
        let sum = crc32c::crc32c(&place[4..]);
        place[..4].copy_from_slice(&sum.to_le_bytes());
        self.end += RECORD_HEAD + body.len();
        true
    }

    /// The whole block, and begins another.
    pub(super) fn close(&mut self, goes_on: bool) -> [u8; BLOCK] {
        let mut octets = std::mem::replace(self, Self::new()).into_octets();
        if goes_on {
            octets[5] |= (GOES_ON >> 8) as u8;
        }
        let sum = crc32c::crc32c(&octets[4..]);
        octets[..4].copy_from_slice(&sum.to_le_bytes());
        octets
    }

    fn into_octets(mut self) -> [u8; BLOCK] {
        let end = u16::try_from(self.end).expect("a block is short");
        self.octets[4..6].copy_from_slice(&end.to_le_bytes());
        self.octets
    }
}

/// What stands in a block for a body at this offset.
pub(super) fn elsewhere_at(offset: u64) -> [u8; ELSEWHERE_BYTES] {
    debug_assert!(offset <= OFFSET_MAX);
    let mut octets = [ELSEWHERE; ELSEWHERE_BYTES];
    octets[1..].copy_from_slice(&offset.to_le_bytes()[..6]);
    octets
}

/// What stands elsewhere before a body.
pub(super) fn elsewhere_head(body: &[u8]) -> [u8; ELSEWHERE_HEAD] {
    let mut head = [0; ELSEWHERE_HEAD];
    let length = u32::try_from(body.len()).expect("a checked entry is short");
    head[4..].copy_from_slice(&length.to_le_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&head[4..]), body);
    head[..4].copy_from_slice(&sum.to_le_bytes());
    head
}

/// Whether a line of the filter has all bits of a hash.
#[inline]
pub(super) fn may_hold(line: &[u8; LINE], hash: u64) -> bool {
    let (words, _) = line.as_chunks::<8>();
    filter_bits(hash).all(|(word, mask)| u64::from_le_bytes(words[word]) & mask != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_records_until_one_has_no_room() {
        let mut filling = Filling::new();
        let body = [7; 40];
        let mut count = 0;
        while filling.push(count, &body) {
            count += 1;
        }
        assert_eq!(count, 11);
        let octets = filling.close(true);
        let block = Block::new(&octets, 4096);
        assert!(block.check().is_ok() && block.goes_on());
        let records: Vec<Raw<'_>> = block.records().collect();
        assert_eq!(records.len(), 11);
        assert_eq!((records[1].offset, records[1].tag), (4096 + 6 + 46, 1));
        assert!(records.iter().all(|raw| raw.body(|| (&[], 0)) == Ok(&body[..])));
        let empty = filling.close(false);
        assert_eq!(Block::new(&empty, 0).records().count(), 0);
    }

    #[test]
    fn a_body_elsewhere_is_found_by_its_offset_and_checked() {
        let body = [b'x'; 300];
        let elsewhere = [&[0; 16][..], &elsewhere_head(&body), &body].concat();
        let read = |offset: u64, elsewhere: &[u8]| {
            let mut filling = Filling::new();
            filling.push(0, &elsewhere_at(offset));
            let octets = filling.close(false);
            let raw = Block::new(&octets, 0).records().next().unwrap();
            raw.body(|| (elsewhere, 4096)).map(<[u8]>::to_vec)
        };
        assert_eq!(read(4096 + 16, &elsewhere), Ok(body.to_vec()));
        assert!(matches!(read(4096 + 17, &elsewhere), Err(Damage::Cut { .. } | Damage::Checksum { .. })));
        assert_eq!(read(4000, &elsewhere), Err(Damage::Outside { offset: 4000 }));
        assert_eq!(read(1 << 40, &elsewhere), Err(Damage::Outside { offset: 1 << 40 }));
        let last = elsewhere.len() - 1;
        assert!(matches!(read(4096 + 16, &elsewhere[..last]), Err(Damage::Cut { .. })));
    }
}
