//! The user table's file format, octet by octet: version 1.
//!
//! Owns every offset and constant of the file but the header's, which [`super::header`] codes. Promises that bytes are only read
//! through getters that check bounds, so that a hostile file is an error and never a panic. Never touches a
//! file itself: [`super::table`] reads, [`super::build`] writes.
//!
//! A table is a header page and three sections, each a whole number of 4096-octet pages (the end filled with
//! zeroes) and each beginning where the one before ends. All integers are little-endian; all texts are UTF-8;
//! CRC means CRC-32C (RFC 3720, appendix B.4).
//!
//! ```text
//! header                               index: buckets of one cache line
//!    0  8  magic "PHUSERS\0"              0  8  slot, eight of them
//!    8  4  version                        ..
//!   12  4  byte order mark 0a0b0c0dh     56  8
//!   16  4  CRC of the header, these
//!          four octets taken as zero   slot: 0 is empty; filled from the left
//!   20  4  flags (bit 0: local parts      bits  0..48  record's offset in the file
//!          are in lower case)             bits 48..64  tag, the hash's low 16 bits
//!   24  8  length of the file
//!   32  8  built at (Unix seconds,     record: not aligned, one after another
//!          0: not recorded)               0  2  length L of the body
//!   40 16  hash seed                      2  4  CRC of the two octets above and the body
//!   56  8  number of records              6  L  body:
//!   64  8  number of home buckets             0  1  kind (1: mailbox)
//!   72  4  longest probe, in buckets          1  1  flags: which fields follow (below)
//!   76  4  number of templates                2  2  home: template, or ffffh: in the record
//!   80 24  heap section                       4  2  mail location: likewise
//!  104 24  template section                   6  2  length K of the address
//!  128 24  index section                      8  K  address, the look-up key
//!  152 ..  zeroes to 4096                     .. 4  uid              if flag bit 0
//!                                             .. 4  gid              if flag bit 1
//! section, in the header                      .. 8  quota, octets    if flag bit 2
//!    0  8  offset in the file                 .. 8  quota, messages  if flag bit 3
//!    8  8  length                             .. 2+ home's text      if bit 4 and ffffh
//!   16  4  CRC of the whole section           .. 2+ location's text  if ffffh
//!   20  4  zero
//!                                      text, and template section: 2 length, then the octets
//! ```
//!
//! **Hash.** SipHash-1-3 of the address with the header's seed: addresses come from strangers, and whoever does
//! not know the seed cannot crowd a bucket. The home bucket is the hash's upper part, `hash * buckets >> 64`,
//! so records sorted by hash are sorted by bucket. There are as many home buckets as make them 0.8 full; the
//! index is longer where the last ones overflow.
//!
//! **Placing.** In the order of (hash, offset), a record takes the first slot that is free at or after its
//! home bucket's first one. So every bucket between a record's home and its place is full, and a search ends
//! with the first empty slot, or after "longest probe" buckets, which is `PROBE_MAX` at most.
//!
//! **Templates.** A home or location in which whole path components are the address (`%u`), its local part
//! (`%n`) or domain (`%d`) is stored once for all who share it; `%%` is a percent sign.
//!
//! **Checking.** Opening a table checks header, templates and index, which costs one pass over the index. A
//! record is checked when it is used. The heap's own CRC is for `posthaste users verify`.
//!
//! **Growing.** Record kinds 2 and above and flag bits that are zero today belong to later versions; a reader
//! that meets one says so and answers "try again later" for that record, it does not guess.
#![forbid(unsafe_code)]

use siphasher::sip::SipHasher13;

/// Sections begin and end on pages, so each can be populated, locked or advised by itself.
pub(super) const PAGE: usize = 4096;
/// A bucket is one cache line.
pub(super) const BUCKET: usize = 64;
/// Slots in a bucket.
pub(super) const SLOTS: u64 = 8;
/// No look-up reads more buckets than this. At load 0.8 a probe of `d` buckets has a chance near `e^(-3.4 d)`,
/// so a hundred million addresses need about six.
pub(super) const PROBE_MAX: u32 = 64;
/// Octets before a record's body.
pub(super) const RECORD_HEAD: usize = 6;
/// The greatest offset that a slot can hold.
pub(super) const OFFSET_MAX: u64 = (1 << 48) - 1;

/// A slot of the index that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) tag: u16,
    pub(super) offset: u64,
}

impl Slot {
    /// The slot for a record with this hash. `offset` is at most [`OFFSET_MAX`] and not zero.
    pub(super) fn new(hash: u64, offset: u64) -> Self {
        debug_assert!(offset != 0 && offset <= OFFSET_MAX);
        Self { tag: tag(hash), offset }
    }

    pub(super) fn encode(self) -> [u8; 8] {
        (u64::from(self.tag) << 48 | self.offset).to_le_bytes()
    }

    /// `None` if the slot is empty.
    pub(super) fn decode(octets: [u8; 8]) -> Option<Self> {
        let [rest @ .., low, high] = octets;
        let [a, b, c, d, e, f] = rest;
        match u64::from_le_bytes(octets) {
            0 => None,
            _ => Some(Self {
                tag: u16::from_le_bytes([low, high]),
                offset: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
            }),
        }
    }
}

/// The keyed hash that places an address.
pub(super) fn hash(seed: &[u8; 16], key: &[u8]) -> u64 {
    SipHasher13::new_with_key(seed).hash(key)
}

/// The sixteen bits that a slot keeps of a hash; not the ones that choose the bucket.
pub(super) fn tag(hash: u64) -> u16 {
    (hash & 0xffff) as u16
}

/// The bucket where the search for a hash begins; less than `home_buckets`.
pub(super) fn home_bucket(hash: u64, home_buckets: u64) -> u64 {
    ((u128::from(hash) * u128::from(home_buckets)) >> 64) as u64
}

/// As many home buckets as are four fifths full of `records`; one for an empty table.
pub(super) fn home_buckets(records: u64) -> u64 {
    (records * 5).div_ceil(4 * SLOTS).max(1)
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

const _: () = assert!(PAGE.is_multiple_of(BUCKET) && BUCKET as u64 == SLOTS * 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_its_tag_and_its_offset() {
        for (hash, offset) in [(0, 4096), (u64::MAX, OFFSET_MAX), (0x1234_5678, 1 << 40)] {
            let slot = Slot::new(hash, offset);
            assert_eq!(Slot::decode(slot.encode()), Some(slot));
        }
        assert_eq!(Slot::decode([0; 8]), None);
    }

    #[test]
    fn home_buckets_follow_the_order_of_the_hashes_and_stay_inside() {
        let buckets = home_buckets(1000);
        assert_eq!(buckets, 157);
        let hashes = (0..=1000).map(|n: u64| n * (u64::MAX / 1000));
        let homes: Vec<u64> = hashes.map(|hash| home_bucket(hash, buckets)).collect();
        assert!(homes.is_sorted());
        assert_eq!((homes[0], home_bucket(u64::MAX, buckets)), (0, buckets - 1));
    }

    #[test]
    fn the_hash_is_siphash_1_3_with_the_seed_as_its_key() {
        // A changed hash would make every published table unreadable, so it is nailed down here.
        let seed: [u8; 16] = std::array::from_fn(|n| u8::try_from(n).unwrap());
        assert_eq!(hash(&seed, b""), 0xabac_0158_050f_c4dc);
    }
}
